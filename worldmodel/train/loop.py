"""What the two training loops share: steps with their own randomness, budget, schedule, log, checkpoints."""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from worldmodel.errors import UserError
from worldmodel.train.checkpoint import load_checkpoint, save_checkpoint
from worldmodel.train.config import LoopConfig
from worldmodel.train.runtime import Runtime

Progress = Callable[[str, int, int, dict[str, float]], None]  # stage, steps done, steps in all, figures

LOGS = "training"  # kept with the finished world
TIMED_STEPS = 12  # a budget in minutes is turned into steps after so many; the first two are not counted
UNTIMED_STEPS = 2
FLOOR = 0.05  # the cosine ends at this share of the learning rate


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

    Args:
        stage: name of the loop, and of its files.
        folder: where the checkpoint lives; the log goes to its subfolder `training`.
        model: what is trained; `steps` puts it in training mode and leaves it in evaluation mode.
        config: settings.
        seed: of the run.
        runtime: device and number format.
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
        progress: Progress | None = None,
    ) -> None:
        self.stage, self.folder, self.model, self.config = stage, folder, model, config
        self.seed, self.runtime, self.progress = seed, runtime, progress
        matrices = [p for p in model.parameters() if p.ndim > 1]
        vectors = [p for p in model.parameters() if p.ndim <= 1]
        groups = [
            {"params": matrices, "weight_decay": config.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        self.optimiser = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.95))
        self.num_steps = config.num_steps
        self.seconds = 0.0  # of training before this process
        self._losses: dict[str, Tensor] = {}

    @property
    def checkpoint(self) -> Path:
        """The file that the loop continues from."""
        return self.folder / f"{self.stage}.safetensors"

    def steps(self) -> Iterator[int]:
        """Yield the numbers of the steps that are still to be done; each must call `descend` once."""
        config, begun = self.config, time.perf_counter()
        first = 0
        if self.checkpoint.exists():
            facts = load_checkpoint(self.checkpoint, self.model, self.optimiser)
            first, self.num_steps, self.seconds = facts["step"], facts["num_steps"], facts["seconds"]
        log = _Log(self.folder / LOGS, self.stage, first)
        self.model.train()
        saved, laps, step = begun, [begun], first
        while not self.num_steps or step < self.num_steps:
            torch.manual_seed(step_seed(self.seed, self.stage, step))
            for group in self.optimiser.param_groups:
                group["lr"] = config.learning_rate * self._rate(step)
            yield step
            step += 1
            now = time.perf_counter()
            if len(laps) <= TIMED_STEPS:
                laps.append(now)
            if not self.num_steps and step >= TIMED_STEPS:
                lap = statistics.median(b - a for a, b in pairwise(laps[UNTIMED_STEPS:]))
                left = config.minutes * 60 - (now - begun)
                self.num_steps = max(step, step + round(left / lap), config.min_steps)
            if step % config.log_every == 0 or step == self.num_steps:
                figures = {name: float(value.detach()) for name, value in self._losses.items()}
                if not all(math.isfinite(x) for x in figures.values()):
                    raise UserError(f"the {self.stage} diverged at step {step} ({figures}); lower its learning rate.")
                log.write(step, figures)
                if self.progress is not None:
                    self.progress(self.stage, step, self.num_steps, figures)
            if self.num_steps and (step == self.num_steps or now - saved > config.checkpoint_seconds):
                facts = {"step": step, "num_steps": self.num_steps, "seconds": self.seconds + now - begun}
                save_checkpoint(self.checkpoint, self.model, self.optimiser, facts)
                saved = time.perf_counter()
        log.close()
        self.seconds += time.perf_counter() - begun
        self.model.eval()

    def descend(self, losses: dict[str, Tensor]) -> None:
        """One step down the gradient of `losses["loss"]`; the others are logged."""
        self.optimiser.zero_grad(set_to_none=True)
        losses["loss"].backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        self.optimiser.step()
        self._losses = {**losses, "gradient_norm": norm}

    def _rate(self, step: int) -> float:
        """Share of the learning rate: linear warm-up, then a cosine to `FLOOR`."""
        # a budget's number of steps is not known before TIMED_STEPS: until then only the warm-up counts
        warmup = max(self.config.warmup_steps, 0 if self.config.num_steps else TIMED_STEPS)
        if step < warmup:
            return (step + 1) / warmup
        done = (step - warmup) / max(1, self.num_steps - warmup)
        return FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


class _Log:
    """Figures by step: a line of JSON each, and TensorBoard's curves."""

    def __init__(self, folder: Path, stage: str, first: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.path = folder / f"{stage}.jsonl"
        kept = []
        if self.path.exists():  # lines after the checkpoint will be written again
            lines = [line for line in self.path.read_text().splitlines() if line.endswith("}")]
            kept = [line for line in lines if json.loads(line)["step"] <= first]
        self.path.write_text("".join(line + "\n" for line in kept))
        self.writer = SummaryWriter(str(folder / "tensorboard" / stage), purge_step=first)

    def write(self, step: int, figures: dict[str, float]) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **figures}) + "\n")
        for name, value in figures.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        self.writer.close()
