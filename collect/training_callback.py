"""What happens during a training with Stable-Baselines3: progress bar, learning curve, checkpoints, time limit."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from tqdm import tqdm

from worldmodel.collect.learner_config import LearnerConfig
from worldmodel.collect.learner_model import LinearSchedule, save_checkpoint

if TYPE_CHECKING:
    from worldmodel.collect.policy_validation import Validator

LOG_SECONDS = 5.0  # between two rows of the learning curve


class TrainingCallback(BaseCallback):
    """Shows progress, appends to curve.jsonl, writes checkpoints, and stops at the time limit.

    Args:
        learner: the settings of the training.
        out: the directory of the policy.
        minutes: training time before this process, from a checkpoint.
        validator: evaluates the policy during the training; None does not.
    """

    def __init__(self, learner: LearnerConfig, out: Path, minutes: float, validator: Validator | None = None) -> None:
        super().__init__()
        self.learner, self.out, self.minutes_before, self.validator = learner, out, minutes, validator
        self.validated_at = minutes
        self.started_at = self.saved_at = self.logged_at = time.monotonic()
        self.bar: Any = None

    def close(self) -> None:
        """Close the progress bar, also after an error."""
        if self.bar is not None:
            self.bar.close()

    def minutes(self) -> float:
        """Training time so far, of all processes."""
        return self.minutes_before + (time.monotonic() - self.started_at) / 60

    def _on_training_start(self) -> None:
        # the time limit may end it first: show no estimate then
        total = self.learner.decisions if self.learner.minutes is None else None
        description = f"training {self.learner.algo}"
        self.bar = tqdm(total=total, initial=self.num_timesteps, unit="decision", desc=description)
        self.started_at = self.saved_at = self.logged_at = time.monotonic()

    def _on_step(self) -> bool:
        self.bar.update(self.num_timesteps - self.bar.n)
        now, minutes = time.monotonic(), self.minutes()
        if isinstance(self.model.learning_rate, LinearSchedule):
            self.model.learning_rate.minutes_so_far = minutes
        if self.validator is not None and minutes - self.validated_at > self.validator.every:
            self._validate()
        if now - self.logged_at > LOG_SECONDS:
            self.logged_at = now
            self._log_row()
        if now - self.saved_at > self.learner.checkpoint_seconds:
            self.saved_at = now
            save_checkpoint(self.model, self.out, self.minutes())
        return self.learner.minutes is None or self.minutes() < self.learner.minutes

    def _validate(self) -> None:
        """Evaluate the policy, and append the result to curve.jsonl."""
        assert self.validator is not None
        row = self.validator.evaluate(self.model, self.minutes())
        self.validated_at = self.minutes()
        self._log_row(**row)

    def _log_row(self, **validation: Any) -> None:
        """Append a row to curve.jsonl, if an episode has ended or the policy was evaluated."""
        finished = list(self.model.ep_info_buffer or [])
        if not finished and not validation:
            return
        mean = float(np.mean([episode["r"] for episode in finished])) if finished else float("nan")
        length = float(np.mean([episode["l"] for episode in finished])) if finished else float("nan")
        limit = "" if self.learner.minutes is None else f"/{self.learner.minutes:g}"
        minutes = self.minutes()
        self.bar.set_postfix(return_mean=round(mean, 2), steps=round(length, 1), minutes=f"{minutes:.1f}{limit}")
        row = {"minutes": minutes, "decisions": self.num_timesteps, "return_mean": mean, "length_mean": length}
        row.update(validation)
        with (self.out / "curve.jsonl").open("a") as stream:
            stream.write(json.dumps(row) + "\n")

    def _on_training_end(self) -> None:
        if self.validator is None:
            self._log_row()
        else:
            self._validate()
