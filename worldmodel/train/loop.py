"""What the two training loops share: seeded steps, budget, learning rate, log, validation and checkpoints."""

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
from worldmodel.common.processes import sum_over_processes
from worldmodel.train.checkpoints import load_checkpoint, save_checkpoint
from worldmodel.train.training_config import LoopConfig
from worldmodel.train.training_log import Log
from worldmodel.train.training_run import TrainingRun

LocateClips = Callable[[int], tuple[np.ndarray, np.ndarray]]  # step -> episodes and first frames of its clips, (B,)
Validate = Callable[[], tuple[dict[str, float], np.ndarray | None]]  # -> metrics and an image (H, W, 3) uint8

# A budget in minutes is converted to steps after TIMED_STEPS steps and TIMED_SHARE of the budget: on a GPU a dozen
# steps are too short to measure. The first UNTIMED_STEPS steps are left out.
TIMED_STEPS = 12
TIMED_SHARE = 0.03
UNTIMED_STEPS = 2
FINAL_RATE = 0.05  # the cosine ends at this share of the learning rate
MAX_CLIPS_NAMED = 64  # in the message about a loss that is not finite


def step_seed(seed: int, stage: str, step: int) -> int:
    """Seed of torch's generators at one step: a mix of run seed, stage and step (SplitMix64's finaliser)."""
    x = (seed * 0x9E3779B97F4A7C15 + sum(stage.encode()) * 0xD1B54A32D192ED03 + step) % 2**64
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
    return (x ^ (x >> 31)) >> 1


class Loop:
    """Everything around the loss of a training loop; the loop itself is written out where it is used.

    ```python
    for step in loop.steps():
        clips = batch(step)
        for rows, share in loop.parts(weights):
            loop.backward(model.loss(clips[rows]), share)
        loop.update()
    ```

    A step is a pure function of (model, optimiser, seed, step): torch's generators are seeded again in each, so that
    a run that was stopped and continued from its last checkpoint equals one that was never stopped. All processes
    draw the same random numbers.

    Args:
        stage: name of the loop and of its files.
        model: the model to train. `steps` puts it in training mode and leaves it in evaluation mode, with averaged
            weights if the config asks for an average.
        config: settings.
        seed: seed of the run.
        run: folder, runtime and progress.
        locate_clips: the clips of a step, to name them where a loss is not finite.
        validate: measures the model on validation clips; called in evaluation mode, in every process.
    """

    def __init__(
        self,
        stage: str,
        model: nn.Module,
        config: LoopConfig,
        seed: int,
        run: TrainingRun,
        locate_clips: LocateClips,
        validate: Validate,
    ) -> None:
        self.stage, self.model, self.config, self.seed = stage, model, config, seed
        self.run, self.runtime = run, run.runtime
        self.locate_clips, self.validate = locate_clips, validate
        self.parameters = list(model.parameters())
        groups = [
            {"params": [p for p in self.parameters if p.ndim > 1], "weight_decay": config.weight_decay},
            {"params": [p for p in self.parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        fused = all(p.device.type in ("cpu", "cuda") for p in self.parameters)
        self.optimiser = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.95), fused=fused)
        self.average = [p.detach().clone() for p in self.parameters] if config.ema_decay else []
        self.clock = time.process_time if config.clock == "processor" else time.perf_counter
        self.num_steps = config.num_steps
        self.seconds = 0.0  # of training before this process
        self.step = 0
        self._metrics: dict[str, Tensor] = {}
        self._parts: list[dict[str, Tensor]] = []  # losses of the parts of this step, each times its share
        self._diverged = torch.full((), -1, device=self.runtime.device)  # first step whose loss was not finite

    @property
    def checkpoint(self) -> Path:
        """The file that the loop continues from."""
        return self.run.folder / f"{self.stage}.safetensors"

    def steps(self) -> Iterator[int]:
        """Yield the numbers of the remaining steps; each must call `backward` for each part, then `update` once."""
        started, is_main = self.clock(), self.runtime.is_main
        self._resume()
        log = Log(self.run.log_folder, self.stage, self.step) if is_main else None
        self.model.train()
        saved, times = started, [started]
        while not self.num_steps or self.step < self.num_steps:
            torch.manual_seed(step_seed(self.seed, self.stage, self.step))
            for group in self.optimiser.param_groups:
                group["lr"] = self.config.learning_rate * self._rate(self.step)
            yield self.step
            self.step += 1
            now = self.clock()
            if not self.num_steps:
                times.append(now)
                if self._is_timed(now - started):
                    self._fix_num_steps(times, now - started)
            if self.step % self.config.log_every == 0 or self.step == self.num_steps:
                self._report(log)
            if self._validation_is_due():
                self._run_validation(log)
            last = self.step == self.num_steps
            if is_main and self.num_steps and (last or now - saved > self.config.checkpoint_seconds):
                self._save(self.seconds + now - started)
                saved = self.clock()
        self.seconds += self.clock() - started
        self.model.eval()
        self._swap_average()

    def parts(self, weights: np.ndarray) -> Iterator[tuple[slice, float]]:
        """Split this process's clips of a step into `config.accumulation_steps` parts, as even as possible.

        Args:
            weights: (B,), how much each clip counts in the loss, such as its number of valid frames.

        Yields:
            The rows of a part, and its share of the weights in all processes. Collective with several parts: every
            process must call it.

        Raises:
            UserError: fewer clips than parts.
        """
        count, num = len(weights), self.config.accumulation_steps
        if count < num:
            raise UserError(
                f"accumulation_steps={num}: a process has {count} clips of a step; wanted at most as many parts."
            )
        parts = [slice(i * count // num, (i + 1) * count // num) for i in range(num)]
        if num == 1:
            yield parts[0], 1.0
            return
        totals = torch.tensor([float(weights[rows].sum()) for rows in parts], device=self.runtime.device)
        totals = sum_over_processes(totals)
        yield from zip(parts, (totals / totals.sum().clamp_min(1e-9)).tolist(), strict=True)

    def backward(self, losses: dict[str, Tensor], share: float = 1.0) -> None:
        """Add the gradient of `share` times `losses["loss"]`; the other losses are logged."""
        losses = {name: value * share for name, value in losses.items()} if share != 1 else losses
        losses["loss"].backward()
        self._parts.append({name: value.detach() for name, value in losses.items()})

    def update(self) -> None:
        """One optimiser step.

        Raises:
            UserError: the loss or the gradient is not finite. On a GPU, where reading it at every step would be slow,
                `steps` raises the error later, for the same step.
        """
        figures = {name: sum((part[name] for part in self._parts[1:]), value) for name, value in self._parts[0].items()}
        self._parts.clear()
        metrics = self.runtime.average(self.model, figures)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.config.clip_norm)
        self._metrics = {**metrics, "gradient_norm": norm}
        finite = torch.isfinite(metrics["loss"]) & torch.isfinite(norm)
        self._diverged = torch.where((self._diverged < 0) & ~finite, self.step, self._diverged)
        if self.runtime.device.type == "cpu":
            self._check_divergence()
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        if self.average:  # the decay grows with the steps, so that the first weights are soon forgotten
            decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))
            torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1 - decay)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The model in evaluation mode, with averaged weights if the config asks for an average."""
        self._swap_average()
        self.model.eval()
        yield
        self.model.train()
        self._swap_average()

    @torch.no_grad()
    def _swap_average(self) -> None:
        """Exchange weights and averaged weights."""
        for weight, average in zip(self.parameters, self.average, strict=bool(self.average)):
            copy = weight.clone()
            weight.copy_(average)
            average.copy_(copy)

    def _resume(self) -> None:
        """Continue from the checkpoint, if there is one; remove what a killed process left incomplete."""
        if self.runtime.is_main:
            for incomplete in self.run.folder.glob(f".{self.stage}.*.tmp{self.checkpoint.suffix}"):
                incomplete.unlink()
        if self.checkpoint.exists():
            facts = load_checkpoint(self.checkpoint, self.model, self.average, self.optimiser)
            self.step, self.num_steps, self.seconds = facts["step"], facts["num_steps"], facts["seconds"]

    def _report(self, log: Log | None) -> None:
        """Log the metrics of the last step and call `progress`."""
        self._check_divergence()
        metrics = {name: float(value) for name, value in self._metrics.items()}
        if log is not None:
            log.write(self.step, metrics)
        if self.runtime.is_main and self.run.progress is not None:
            self.run.progress(self.stage, self.step, self.num_steps, metrics)

    def _validation_is_due(self) -> bool:
        """Whether one of the evenly spaced validations falls on the step just done."""
        times = self.config.validations
        return bool(self.num_steps) and self.step * times // self.num_steps > (self.step - 1) * times // self.num_steps

    def _run_validation(self, log: Log | None) -> None:
        self._check_divergence()
        with self.averaged():
            metrics, image = self.validate()
        if log is not None:
            log.write(self.step, {f"val/{name}": value for name, value in metrics.items()})
            if image is not None:
                log.draw(self.step, "val/strip", image)

    def _save(self, seconds: float) -> None:
        self._check_divergence()
        facts = {"step": self.step, "num_steps": self.num_steps, "seconds": seconds}
        save_checkpoint(self.checkpoint, self.model, self.average, self.optimiser, facts)

    def _is_timed(self, elapsed: float) -> bool:
        """Whether steps were timed for long enough; the same in every process."""
        enough = self.step >= TIMED_STEPS and elapsed >= TIMED_SHARE * self.config.minutes * 60
        return bool(self.runtime.agree(int(enough)))

    def _fix_num_steps(self, times: list[float], elapsed: float) -> None:
        """Convert the budget to a number of steps; the same in every process."""
        seconds_per_step = statistics.median(b - a for a, b in pairwise(times[UNTIMED_STEPS:]))
        remaining = round((self.config.minutes * 60 - elapsed) / seconds_per_step)
        self.num_steps = self.runtime.agree(max(self.step, self.step + remaining, self.config.min_steps))

    def _check_divergence(self) -> None:
        step = int(self._diverged)
        if step < 0:
            return
        episodes, starts = self.locate_clips(step)
        shown = slice(MAX_CLIPS_NAMED)
        clips = ", ".join(f"{e}:{s}" for e, s in zip(episodes[shown], starts[shown], strict=True))
        more = f" and {len(episodes) - MAX_CLIPS_NAMED} more" if len(episodes) > MAX_CLIPS_NAMED else ""
        now = ", ".join(f"{name} {float(value):.4g}" for name, value in self._metrics.items())
        saved = f"the last checkpoint stays in {self.checkpoint}" if self.checkpoint.exists() else "nothing was saved"
        raise UserError(
            f"the {self.stage} diverged at step {step} of seed {self.seed} ({now} at step {self.step}); {saved}. Look "
            f"at that step's clips (episode:first frame {clips}{more}), or begin anew with a lower learning rate than "
            f"{self.config.learning_rate:g}."
        )

    def _rate(self, step: int) -> float:
        """Share of the learning rate: linear warm-up, then a cosine to `FINAL_RATE`."""
        # the number of steps of a budget is unknown before TIMED_STEPS: until then there is only the warm-up
        warmup = max(self.config.warmup_steps, 0 if self.config.num_steps else TIMED_STEPS)
        if step < warmup or not self.num_steps:
            return min(1.0, (step + 1) / warmup)
        done = (step - warmup) / max(1, self.num_steps - warmup)
        return FINAL_RATE + (1 - FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
