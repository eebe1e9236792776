"""What the two training loops share: steps with their own randomness, budget, schedule, log, checkpoints."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from worldmodel.common.errors import UserError
from worldmodel.common.runtime import Runtime
from worldmodel.train.checkpoints import load_checkpoint, save_checkpoint
from worldmodel.train.training_config import LoopConfig
from worldmodel.train.training_log import Log

Progress = Callable[[str, int, int, dict[str, float]], None]  # stage, steps done, steps in all, figures
Locate = Callable[[int], tuple[np.ndarray, np.ndarray]]  # step -> episodes and first frames of its clips, (B,)
Check = Callable[[], tuple[dict[str, float], np.ndarray | None]]  # figures and a picture (H, W, 3) uint8

LOGS = "training"  # kept with what was made
TIMED_STEPS = 12  # a budget in minutes is turned into steps after so many; the first two are not counted,
TIMED_SHARE = 0.03  # and after this share of it: a dozen steps are too short a moment on a GPU
UNTIMED_STEPS = 2
FLOOR = 0.05  # the cosine ends at this share of the learning rate
NAMED_CLIPS = 64  # of a batch that a loss diverged on


def step_seed(seed: int, stage: str, step: int) -> int:
    """Seed of torch's generators at one step: a mix of run seed, stage and step (SplitMix64's finaliser)."""
    x = (seed * 0x9E3779B97F4A7C15 + sum(stage.encode()) * 0xD1B54A32D192ED03 + step) % 2**64
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
    return (x ^ (x >> 31)) >> 1


class Loop:
    """A training loop's bookkeeping; the loop itself is written out where it is used.

    ```python
    for step in loop.steps():
        loop.descend(model.loss(batch(step)))
    ```

    A step is a pure function of (model, optimiser, seed, step): torch's generators are seeded anew in each,
    so that a run stopped at any point and continued from its last checkpoint equals one never stopped.
    Several processes draw the same random numbers.

    Args:
        stage: name of the loop, and of its files.
        folder: where the checkpoint lives; the log goes to its subfolder `training`.
        model: what is trained; `steps` puts it in training mode and leaves it in evaluation mode, with
            averaged weights if those are kept.
        config: settings.
        seed: of the run.
        runtime: device, number format and processes.
        locate: which clips a step shows, to name them where a loss is not finite.
        check: measures the model on validation clips; called in evaluation mode, in every process.
        progress: told of every logged step.
    """

    def __init__(
        self,
        stage: str,
        folder: Path,
        model: nn.Module,
        config: LoopConfig,
        seed: int,
        runtime: Runtime,
        locate: Locate,
        check: Check,
        progress: Progress | None = None,
    ) -> None:
        self.stage, self.folder, self.model, self.config, self.seed = stage, folder, model, config, seed
        self.runtime, self.locate, self.check, self.progress = runtime, locate, check, progress
        self.parameters = list(model.parameters())
        groups = [
            {"params": [p for p in self.parameters if p.ndim > 1], "weight_decay": config.weight_decay},
            {"params": [p for p in self.parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.optimiser = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.95))
        self.average = [p.detach().clone() for p in self.parameters] if config.ema_decay else []
        self.clock = time.process_time if config.clock == "processor" else time.perf_counter
        self.num_steps = config.num_steps
        self.seconds = 0.0  # of training before this process
        self.step = 0
        self._losses: dict[str, Tensor] = {}
        self._diverged = torch.full((), -1, device=runtime.device)  # the first step whose loss was not finite

    @property
    def checkpoint(self) -> Path:
        """The file that the loop continues from."""
        return self.folder / f"{self.stage}.safetensors"

    def steps(self) -> Iterator[int]:
        """Yield the numbers of the steps that are still to be done; each must call `descend` once."""
        config, begun, main = self.config, self.clock(), self.runtime.is_main
        if main:  # what a killed run was writing
            for torn in self.folder.glob(f".{self.stage}.*.tmp{self.checkpoint.suffix}"):
                torn.unlink()
        if self.checkpoint.exists():
            facts = load_checkpoint(self.checkpoint, self.model, self.average, self.optimiser)
            self.step, self.num_steps, self.seconds = facts["step"], facts["num_steps"], facts["seconds"]
        log = Log(self.folder / LOGS, self.stage, self.step) if main else None
        self.model.train()
        saved, laps = begun, [begun]
        try:
            while not self.num_steps or self.step < self.num_steps:
                torch.manual_seed(step_seed(self.seed, self.stage, self.step))
                for group in self.optimiser.param_groups:
                    group["lr"] = config.learning_rate * self._rate(self.step)
                yield self.step
                self.step += 1
                now = self.clock()
                if not self.num_steps:
                    laps.append(now)
                    if self._timed(now - begun):
                        self._fix_num_steps(laps, now - begun)
                if self.step % config.log_every == 0 or self.step == self.num_steps:
                    self._refuse_divergence()
                    figures = {name: float(value) for name, value in self._losses.items()}
                    if log is not None:
                        log.write(self.step, figures)
                    if main and self.progress is not None:
                        self.progress(self.stage, self.step, self.num_steps, figures)
                if self._check_due():
                    self._measure(log)
                if main and self.num_steps and (self.step == self.num_steps or now - saved > config.checkpoint_seconds):
                    self._save(self.seconds + now - begun)
                    saved = self.clock()
        finally:
            if log is not None:
                log.close()
        self.seconds += self.clock() - begun
        self.model.eval()
        self._swap()

    def descend(self, losses: dict[str, Tensor]) -> None:
        """One step down the gradient of `losses["loss"]`; the others are logged.

        Raises:
            UserError: the loss or the gradient is not finite. On a GPU, which is not asked at every step, that
                is told later, by `steps`, of the same step.
        """
        self.optimiser.zero_grad(set_to_none=True)
        losses["loss"].backward()
        figures = self.runtime.average(self.model, losses)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.config.clip_norm)
        self._losses = {**figures, "gradient_norm": norm}
        finite = torch.isfinite(figures["loss"]) & torch.isfinite(norm)
        self._diverged = torch.where((self._diverged < 0) & ~finite, self.step, self._diverged)
        if self.runtime.device.type == "cpu":
            self._refuse_divergence()
        self.optimiser.step()
        if self.average:  # as many steps as were done count in full before the decay does
            decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))
            torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1 - decay)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The model in evaluation mode, with averaged weights if those are kept."""
        self._swap()
        self.model.eval()
        yield
        self.model.train()
        self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        """Exchange weights and averaged weights."""
        for weight, average in zip(self.parameters, self.average, strict=bool(self.average)):
            kept = weight.clone()
            weight.copy_(average)
            average.copy_(kept)

    def _check_due(self) -> bool:
        """Whether one of the evenly spread validations falls on the step just done."""
        times = self.config.validations
        return bool(self.num_steps) and self.step * times // self.num_steps > (self.step - 1) * times // self.num_steps

    def _measure(self, log: Log | None) -> None:
        self._refuse_divergence()
        with self.averaged():
            figures, picture = self.check()
        if log is not None:
            log.write(self.step, {f"val/{name}": value for name, value in figures.items()})
            if picture is not None:
                log.draw(self.step, "val/strip", picture)

    def _save(self, seconds: float) -> None:
        self._refuse_divergence()
        facts = {"step": self.step, "num_steps": self.num_steps, "seconds": seconds}
        save_checkpoint(self.checkpoint, self.model, self.average, self.optimiser, facts)

    def _timed(self, spent: float) -> bool:
        """Whether steps were timed for long enough, in every process alike."""
        enough = self.step >= TIMED_STEPS and spent >= TIMED_SHARE * self.config.minutes * 60
        return bool(self.runtime.agree(int(enough)))

    def _fix_num_steps(self, laps: list[float], spent: float) -> None:
        """Turn the budget into a number of steps, the same in every process."""
        lap = statistics.median(b - a for a, b in pairwise(laps[UNTIMED_STEPS:]))
        left = round((self.config.minutes * 60 - spent) / lap)
        self.num_steps = self.runtime.agree(max(self.step, self.step + left, self.config.min_steps))

    def _refuse_divergence(self) -> None:
        step = int(self._diverged)
        if step < 0:
            return
        episodes, starts = self.locate(step)
        clips = ", ".join(f"{e}:{s}" for e, s in zip(episodes[:NAMED_CLIPS], starts[:NAMED_CLIPS], strict=True))
        more = f" and {len(episodes) - NAMED_CLIPS} more" if len(episodes) > NAMED_CLIPS else ""
        now = ", ".join(f"{name} {float(value):.4g}" for name, value in self._losses.items())
        kept = f"the last checkpoint stays in {self.checkpoint}" if self.checkpoint.exists() else "nothing was saved"
        raise UserError(
            f"the {self.stage} diverged at step {step} of seed {self.seed} ({now} at step {self.step}); {kept}. Look "
            f"at that step's clips (episode:first frame {clips}{more}), or begin anew with a lower learning rate than "
            f"{self.config.learning_rate:g}."
        )

    def _rate(self, step: int) -> float:
        """Share of the learning rate: linear warm-up, then a cosine to `FLOOR`."""
        # a budget's number of steps is not known before TIMED_STEPS: until then only the warm-up counts
        warmup = max(self.config.warmup_steps, 0 if self.config.num_steps else TIMED_STEPS)
        if step < warmup or not self.num_steps:
            return min(1.0, (step + 1) / warmup)
        done = (step - warmup) / max(1, self.num_steps - warmup)
        return FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
