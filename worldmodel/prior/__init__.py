"""Priors over codes: the distribution of the next frame's codes, given the past and the actions.

Names are imported when they are first used, since the configs and the step template need no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from worldmodel.prior.code_clip import CodeClip
    from worldmodel.prior.context import Context
    from worldmodel.prior.factored.factored_config import FactoredConfig
    from worldmodel.prior.factored.factored_prior import FactoredPrior
    from worldmodel.prior.flat.flat_config import FlatConfig
    from worldmodel.prior.flat.flat_prior import FlatPrior
    from worldmodel.prior.interface import OutcomePredictions, Prior
    from worldmodel.prior.prior_registry import PRIORS, PriorConfig, build_prior
    from worldmodel.prior.sampling import Sampling
    from worldmodel.prior.state_rows import StateRows
    from worldmodel.prior.status_config import StatusConfig
    from worldmodel.prior.step_template import PriorStep

__all__ = [
    "PRIORS",
    "CodeClip",
    "Context",
    "FactoredConfig",
    "FactoredPrior",
    "FlatConfig",
    "FlatPrior",
    "OutcomePredictions",
    "Prior",
    "PriorConfig",
    "PriorStep",
    "Sampling",
    "StateRows",
    "StatusConfig",
    "build_prior",
]

_MODULES = {
    "PRIORS": "prior_registry",
    "CodeClip": "code_clip",
    "Context": "context",
    "FactoredConfig": "factored.factored_config",
    "FactoredPrior": "factored.factored_prior",
    "FlatConfig": "flat.flat_config",
    "FlatPrior": "flat.flat_prior",
    "OutcomePredictions": "interface",
    "Prior": "interface",
    "PriorConfig": "prior_registry",
    "PriorStep": "step_template",
    "Sampling": "sampling",
    "StateRows": "state_rows",
    "StatusConfig": "status_config",
    "build_prior": "prior_registry",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        from importlib import import_module

        return getattr(import_module(f"worldmodel.prior.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
