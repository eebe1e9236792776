"""Config of `train clone`. Cheap to import."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import tyro

from worldmodel.collect.learner_config import LearnerConfig, learner_config
from worldmodel.common.errors import UserError


@dataclass(frozen=True)
class TrainClone:
    """Imitate recorded policies: behaviour cloning, to a policy of Stable-Baselines3.

    Of the settings of the learner it uses algo (ppo or a2c), frame_stack, view, hold, width, learning_rate,
    batch_size, gamma, value_coef, max_grad_norm, reward, reward_scale and checkpoint_seconds. The value network learns
    the discounted returns of the recordings, so that `train policy --init-from` can continue.

    Writes policy.zip (contains pickles, as all SB3 files), policy.json and run.json. The same command continues a
    stopped training.

    Example:
        worldmodel train clone --data cover.h5 --policies periodic --out runs/clone
    """

    out: Path
    """The directory to write."""
    data: tuple[Path, ...]
    """Dataset files."""
    policies: str = ""
    """Names of the recorded policies to imitate, separated by commas; all if not given."""
    best: float = 1.0
    """Share of these episodes that is used, those with the highest return: 0.1 is the best tenth."""
    steps: int = 4000
    """Training steps."""
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    seed: int = 0
    force: bool = False
    """Remove an existing run at --out first."""
    json: bool = False
    """Print the result as JSON."""

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise UserError(f"seed={self.seed}: wanted an integer from 0 to 2**32 - 1.")
        if not (math.isfinite(self.best) and 0 < self.best <= 1):
            raise UserError(f"best={self.best}: wanted a share above 0, at most 1.")
        if self.steps < 1:
            raise UserError(f"steps={self.steps}: wanted at least 1.")
        if self.learner.last_action:
            raise UserError("learner.last_action=True: cloning trains policies that observe frames alone.")
        if self.learner.algo not in ("ppo", "a2c"):
            raise UserError(f"learner.algo={self.learner.algo!r}: cloning trains the networks of ppo or a2c.")

    @classmethod
    def defaults(cls, arguments: list[str]) -> TrainClone:
        """Defaults for the environment of the first dataset in the arguments."""
        learner = LearnerConfig()
        for i, word in enumerate(arguments):
            path = arguments[i + 1] if word == "--data" and i + 1 < len(arguments) else word.removeprefix("--data=")
            if path != word:
                learner = learner_config(_env_of(path))
        return cls(out=tyro.MISSING, data=tyro.MISSING, learner=learner)


def _env_of(path: str) -> str:
    """Short name of the environment of a dataset; "" for none: the command reports a bad file."""
    from worldmodel.data import Dataset
    from worldmodel.envs.env_registry import row_of

    try:
        with Dataset(path) as data:
            row = row_of(data.header.env)
    except (UserError, OSError):
        return ""
    return "" if row is None else row.name
