"""Priors over codes: what comes next, given the past and the actions."""

from worldmodel.prior.factored import FactoredConfig, FactoredPrior, StatusConfig
from worldmodel.prior.interface import CodeClip, PriorState, PriorStep
from worldmodel.prior.starts import Starts

__all__ = ["CodeClip", "FactoredConfig", "FactoredPrior", "PriorState", "PriorStep", "Starts", "StatusConfig"]
