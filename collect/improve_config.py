"""Config of `improve policy`. Cheap to import."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from worldmodel.common.errors import UserError


@dataclass(frozen=True)
class ImprovePolicy:
    """Improve a policy by comparing its actions in dreams: one step of rollout policy iteration.

    From recorded states a world dreams on once for each action: that action first, then the policy's own. The dreams
    of one state share their random numbers, so that their returns differ by the action alone. The policy then learns
    to take the better actions, without moving far from what it was. Repeat with the result as the next policy.

    Needs a Discrete action space and a policy of ppo or a2c. Writes policy.zip (contains pickles, as all SB3 files),
    policy.json and run.json; labels/ holds the comparisons. The same command continues a stopped run.

    Example:
        worldmodel improve policy runs/clone --world runs/cover --starts-from cover.h5 --out runs/better
    """

    policy: tyro.conf.Positional[Path]
    """The directory of `train policy`, `train clone` or `improve policy`."""
    world: Path
    """The world that dreams: a directory, or the name of a shipped world."""
    starts_from: tuple[Path, ...]
    """Dataset files; dreams begin at time steps of their training split. Best are recordings of the policy itself."""
    out: Path
    """The directory to write."""
    minutes: float = 20.0
    """Time to compare actions in dreams. The learning after it takes a minute or two more."""
    states: int | None = None
    """Stop comparing after so many states, if that is before --minutes: the result then depends on the seed alone."""
    decisions: int = 3
    """Length of a dream in decisions of the policy: the compared one, and those after it."""
    start_before_end: float = 0.5
    """Share of dreams that begin shortly before a termination or a loss of the world's hidden variable."""
    num_starts: int = 8192
    """Different time steps that dreams begin at, and as many before ends; they are encoded first."""
    num_envs: int = 64
    """Dreams in a batch, over all actions."""
    backend: Literal["auto", "torch", "onnx"] = "auto"
    """What steps the dreams, as for `train policy`."""
    temperature: float = 1.0
    """Of the sampled frames."""
    epochs: int = 8
    """Passes over the comparisons."""
    learning_rate: float = 7e-4
    """The highest; it rises and falls in one cycle."""
    batch_size: int = 256
    kl_weight: float = 0.1
    """Weight of the divergence from the old policy, in units of the deviation of the compared returns."""
    entropy: float = 0.01
    """Weight of the entropy bonus, in the same units."""
    mirror: bool = True
    """Also learn from flipped frames with mirrored actions, if the environment declares it and the view is
    symmetric."""
    seed: int = 0
    force: bool = False
    """Remove an existing run at --out first."""
    json: bool = False
    """Print the result as JSON."""

    def __post_init__(self) -> None:
        for name in ("decisions", "num_envs", "num_starts", "epochs", "batch_size", "states"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name}={value}: wanted at least 1.")
        for name in ("minutes", "learning_rate"):
            if not 0 < getattr(self, name) < math.inf:
                raise UserError(f"{name}={getattr(self, name)}: wanted a positive number.")
        for name in ("kl_weight", "entropy", "temperature"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UserError(f"{name}={getattr(self, name)}: wanted a number of at least 0.")
        if not 0 <= self.start_before_end <= 1:
            raise UserError(f"start_before_end={self.start_before_end}: wanted a share from 0 to 1.")
        if not 0 <= self.seed < 2**32:
            raise UserError(f"seed={self.seed}: wanted an integer from 0 to 2**32 - 1.")
        if not self.starts_from:
            raise UserError("starts_from is empty: give dataset files of the world's environment.")
