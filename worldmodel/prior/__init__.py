"""Priors over codes: what comes next, given the past and the actions."""

from worldmodel.prior.build import PriorConfig, build_prior
from worldmodel.prior.factored import FactoredPrior
from worldmodel.prior.factored_config import FactoredConfig
from worldmodel.prior.flat import FlatPrior
from worldmodel.prior.flat_config import FlatConfig
from worldmodel.prior.interface import CodeClip, Context, Outcomes, Prior, PriorStep, StatusConfig
from worldmodel.prior.sampling import Sampling
from worldmodel.prior.starts import Starts

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
    "Starts",
    "StatusConfig",
    "build_prior",
]
