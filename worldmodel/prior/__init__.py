"""Priors over codes: what comes next, given the past and the actions."""

from worldmodel.prior.factored import FactoredConfig, FactoredPrior
from worldmodel.prior.interface import CodeClip, Context, Outcomes, Prior, PriorStep, StatusConfig
from worldmodel.prior.sampling import Sampling
from worldmodel.prior.starts import Starts

__all__ = [
    "CodeClip",
    "Context",
    "FactoredConfig",
    "FactoredPrior",
    "Outcomes",
    "Prior",
    "PriorStep",
    "Sampling",
    "Starts",
    "StatusConfig",
]
