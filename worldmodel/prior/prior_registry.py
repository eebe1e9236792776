"""Build a prior from its config: the config's class decides which."""

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
    """An untrained prior.

    Args:
        config: its kind and sizes.
        grid: (h, w) of the codes.
        num_codes: V, codes in the codebook.
        action_space: the action space.
        end_has_frame: whether the environment returns a frame for the step that terminates an episode.

    Raises:
        UserError: sizes that are out of range or contradict each other.
    """
    if isinstance(config, FlatConfig):
        return FlatPrior(config, grid, num_codes, action_space, end_has_frame)
    return FactoredPrior(config, grid, num_codes, action_space, end_has_frame)
