"""The verb `data audit`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import tyro

from worldmodel.common.errors import UserError


@dataclass(frozen=True)
class DataAudit:
    """Look for mistakes in a dataset that a checksum cannot find: shifted rewards and ends, dead frames, repeats.

    A small classifier predicts the reward and the end of step t from the frames of step t. If the frames of a
    neighbouring step predict them better, they are probably stored at the wrong step.

    Example:
        worldmodel data audit cover.h5
    """

    files: tyro.conf.Positional[tuple[Path, ...]]
    """One dataset, or several read as one."""
    seed: int = 0
    """Of the classifier and of the steps that it is trained and tested on."""
    steps: int = 400
    """Training steps of the classifier."""
    json: bool = False
    """Print as JSON."""


def data_audit(config: DataAudit) -> None:
    """Print the audit. Warnings do not change the exit code."""
    from worldmodel.data.dataset import Dataset
    from worldmodel.metrics.data_audit import audit, format_audit

    if not config.files:
        raise UserError("name at least one dataset FILE.")
    for name, minimum in (("seed", 0), ("steps", 1)):
        if getattr(config, name) < minimum:
            raise UserError(f"--{name} {getattr(config, name)}: wanted {minimum} or more.")
    with Dataset(list(config.files)) as data:
        result = audit(data, config.seed, config.steps)
    print(json.dumps(result) if config.json else format_audit(result))
