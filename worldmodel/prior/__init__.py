"""Priors over codes: the distribution of the next frame's codes, given the past and the actions."""

from worldmodel.prior.code_clip import CodeClip
from worldmodel.prior.context import Context
from worldmodel.prior.factored.factored_config import FactoredConfig
from worldmodel.prior.factored.factored_prior import FactoredPrior
from worldmodel.prior.flat.flat_config import FlatConfig
from worldmodel.prior.flat.flat_prior import FlatPrior
from worldmodel.prior.interface import OutcomePredictions, Prior, PriorStep
from worldmodel.prior.prior_registry import PriorConfig, build_prior
from worldmodel.prior.sampling import Sampling
from worldmodel.prior.state_rows import StateRows
from worldmodel.prior.status_config import StatusConfig

__all__ = [
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
