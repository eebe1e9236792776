"""From a prior's config to the prior: the config's class says which."""

from __future__ import annotations

from typing import Any

from worldmodel.common import spaces
from worldmodel.prior.factored.factored_config import FactoredConfig
from worldmodel.prior.factored.factored_prior import FactoredPrior
from worldmodel.prior.flat.flat_config import FlatConfig
from worldmodel.prior.flat.flat_prior import FlatPrior
from worldmodel.prior.interface import Prior

PriorConfig = FactoredConfig | FlatConfig


def build_prior(
    config: PriorConfig,
    grid: tuple[int, int],
    num_codes: int,
    action_space: spaces.Space,
    end_has_frame: bool = True,
) -> Prior[Any]:
    """A prior of a config's kind and sizes, untrained; the arguments are those of the priors themselves."""
    if isinstance(config, FlatConfig):
        return FlatPrior(config, grid, num_codes, action_space, end_has_frame)
    return FactoredPrior(config, grid, num_codes, action_space, end_has_frame)
