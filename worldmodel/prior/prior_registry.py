"""The table of priors: a new one is a folder and a row here.

This module loads no torch, so that the onnxruntime runtime can use it.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any

from worldmodel.common import spaces
from worldmodel.common.entries import load_entry
from worldmodel.common.errors import unknown_name
from worldmodel.prior.base_config import BasePriorConfig
from worldmodel.prior.factored.factored_config import FactoredConfig
from worldmodel.prior.flat.flat_config import FlatConfig

if TYPE_CHECKING:
    from worldmodel.prior.interface import Prior


@dataclass(frozen=True)
class OnnxEntries:
    """What makes and runs a prior's ONNX export, each as "module:name".

    Attributes:
        export: a subclass of `onnx.prior_export.PriorExport`; needs torch.
        runtime: a subclass of `onnx.onnx_prior.OnnxPrior`; needs onnxruntime and numpy alone.
    """

    export: str
    runtime: str


@dataclass(frozen=True)
class PriorRow:
    """A kind of prior.

    Attributes:
        config: its config class, whose field `kind` is the row's key.
        prior: its `prior.interface.Prior`, as "module:name". It is made from (config, grid, num_codes, action_space,
            end_has_frame).
        onnx: how its step is exported; None if it is stepped with torch alone.
    """

    config: type[BasePriorConfig]
    prior: str
    onnx: OnnxEntries | None = None


PRIORS: dict[str, PriorRow] = {
    "factored": PriorRow(
        FactoredConfig,
        "worldmodel.prior.factored.factored_prior:FactoredPrior",
        OnnxEntries(
            "worldmodel.onnx.factored_export:FactoredExport", "worldmodel.onnx.factored_runtime:OnnxFactoredPrior"
        ),
    ),
    "flat": PriorRow(
        FlatConfig,
        "worldmodel.prior.flat.flat_prior:FlatPrior",
        OnnxEntries("worldmodel.onnx.flat_export:FlatExport", "worldmodel.onnx.flat_runtime:OnnxFlatPrior"),
    ),
}


def prior_configs() -> Any:
    """The union of the config classes of all rows."""
    return reduce(operator.or_, (row.config for row in PRIORS.values()))


if TYPE_CHECKING:
    PriorConfig = BasePriorConfig
else:
    PriorConfig = prior_configs()  # the type of config fields: it gives each prior its flags


def prior_row(kind: str) -> PriorRow:
    """The row of a kind.

    Raises:
        UserError: there is none.
    """
    if kind not in PRIORS:
        raise unknown_name("prior", kind, PRIORS)
    return PRIORS[kind]


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
    prior_class = load_entry(prior_row(config.kind).prior)
    prior: Prior[Any] = prior_class(config, grid, num_codes, action_space, end_has_frame)
    return prior
