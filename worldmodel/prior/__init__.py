"""Priors over codes: what comes next, given the past and the actions."""

from worldmodel.prior.factored.factored_config import FactoredConfig
from worldmodel.prior.factored.factored_prior import FactoredPrior
from worldmodel.prior.flat.flat_config import FlatConfig
from worldmodel.prior.flat.flat_prior import FlatPrior
from worldmodel.prior.interface import CodeClip, Context, Outcomes, Prior, PriorStep, StatusConfig
from worldmodel.prior.prior_registry import PriorConfig, build_prior
from worldmodel.prior.sampling import Sampling

__all__ = [
    "CodeClip",
    "Context",
    "FactoredConfig",
    "FactoredPrior",
    "FlatConfig",
    "FlatPrior",
    "Outcomes",
    "Prior",
    "PriorConfig",
    "PriorStep",
    "Sampling",
    "StatusConfig",
    "build_prior",
]
