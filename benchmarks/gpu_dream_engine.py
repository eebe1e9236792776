"""How fast dreams step on one GPU: as a CUDA graph and kernel by kernel, both priors, every order.

`gpu_dream_engine.sh` calls it. The worlds have the presets' sizes and random weights: speed does not depend on them.
Every figure is in OUT/result.json. After a kill the same command continues.

Shapes: N rows (dreams of a batch).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gpu_packages import missing_packages, print_missing

NEEDED = ("torch", "numpy", "PIL", "h5py", "safetensors", "einops", "tqdm", "cattrs", "tyro", "gymnasium")
LEARNER_NEEDS = ("stable_baselines3", "cloudpickle")
CLIP_LENGTH = 8  # frames of codes in the paper's clip
TESTS = Path(__file__).parent.parent / "tests"


@dataclass(frozen=True)
class Sizes:
    """What differs between the run and its rehearsal.

    Attributes:
        small: the preset of a factored world, stepped in each of its orders.
        flat: the preset of a flat prior, and changes to it: 8 layers x 384, 16 frames of memory.
        clip: changes to it for the paper's clip of 8 x 32 x 32 codes (table 9: 16 layers x 512), frame by frame: a
            frame is conditioned on the 7 before it. The first number is the codes of a row.
        size: height and width of a frame.
        crop: height and width of the small world's frames.
        batches: numbers of rows N.
        seconds: duration of each measurement.
        rounds: repetitions of PPO's measurement.
        learner_rows: dreams of the batch in which PPO learns.
    """

    small: str = "doom-take-cover-small"
    flat: tuple[str, dict[str, int]] = ("doom-take-cover-gpu-flat", {"num_layers": 8, "window": 16})
    clip: tuple[int, dict[str, int]] = (32, {"num_layers": 16, "width": 512, "num_heads": 4, "window": CLIP_LENGTH - 1})
    size: int = 64
    crop: tuple[int, int] = (32, 64)
    batches: tuple[int, ...] = (1, 16, 64, 256, 1024, 4096, 16384)
    seconds: float = 1.5
    rounds: int = 3
    learner_rows: int = 256


TINY = Sizes("tiny", ("tiny-flat", {}), (4, {"num_layers": 1}), 16, (16, 16), (1, 4), 0.05, 1, 4)


@dataclass
class Stages:
    """The stages of one run.

    Attributes:
        sizes: of the run or its rehearsal.
        device: where it computes.
        print_line: prints a line with the time.
        seconds_left: seconds of the budget that are left.
    """

    sizes: Sizes
    device: Any
    print_line: Callable[[str], None]
    seconds_left: Callable[[], float]

    def world(self, preset: str, shape: tuple[int, int], stride: int = 0, **prior: Any) -> Any:
        """A world of a preset's sizes on the device, with changes to its prior and another stride (pixels per code)."""
        from worldmodel.bench.bench_worlds import random_world
        from worldmodel.train.presets import PRESETS

        config = PRESETS[preset]
        tokenizer = replace(config.tokenizer, space_stride=stride) if stride else config.tokenizer
        world = random_world(replace(config, tokenizer=tokenizer, prior=replace(config.prior, **prior)), shape)
        assert world.starts is not None
        world.starts = world.starts.to(self.device)
        return world.to(self.device)

    @property
    def wait(self) -> Callable[[], None]:
        """Waits until the device has finished its work."""
        from gpu_speed import synchronizer

        return synchronizer(self.device)

    def machine(self) -> dict[str, float]:
        """The limits of speed: bytes copied and multiply-adds per second."""
        import torch

        numbers = 2**28 if self.device.type == "cuda" else 2**22
        a = torch.empty(numbers, dtype=torch.uint8, device=self.device)
        b = torch.empty_like(a)
        rates = {"copy_bytes_per_second": 2 * numbers / self.seconds_of(lambda: b.copy_(a))}
        n = 8192 if self.device.type == "cuda" else 256
        for dtype in (torch.float32, torch.bfloat16):
            if dtype == torch.bfloat16 and self.device.type == "cpu":
                continue
            square = torch.randn(n, n, device=self.device).to(dtype)
            name = str(dtype).removeprefix("torch.")
            rates[f"{name}_multiply_adds_per_second"] = n**3 / self.seconds_of(lambda: square @ square)  # noqa: B023
        return rates

    def seconds_of(self, work: Callable[[], Any]) -> float:
        """Mean duration of calls that follow each other."""
        from worldmodel.bench.timing import mean_seconds

        return mean_seconds(work, self.sizes.seconds, self.wait)

    def latencies(self, work: Callable[[], Any]) -> list[float]:
        """Durations of single calls, each waited for."""
        durations: list[float] = []
        while sum(durations) < self.sizes.seconds or len(durations) < 10:
            begin = time.perf_counter()
            work()
            self.wait()
            durations.append(time.perf_counter() - begin)
        return durations

    def steps(self, world: Any, batches: tuple[int, ...], eager: bool = True) -> list[dict[str, Any]]:
        """Whole steps per second by rows and number format, as a CUDA graph and (up to 256 rows) kernel by kernel."""
        import torch

        cuda, rows = self.device.type == "cuda", []
        for batch in batches:
            for dtype in (torch.bfloat16, torch.float32) if cuda else (torch.float32,):
                for cuda_graph in (True, False) if cuda else (False,):
                    too_slow = cuda and not cuda_graph and (batch > 256 or not eager)
                    if too_slow or self.seconds_left() < 10 * self.sizes.seconds:
                        continue
                    row: dict[str, Any] = {
                        "rows": batch,
                        "dtype": str(dtype).removeprefix("torch."),
                        "cuda_graph": cuda_graph,
                    }
                    try:
                        row |= self.row(world, batch, dtype, cuda_graph)
                    except RuntimeError as error:  # memory, too
                        row["error"] = str(error).splitlines()[0]
                    rows.append(row)
                    self.print_line(f"  {row}")
        return rows

    def row(self, world: Any, batch: int, dtype: Any, cuda_graph: bool) -> dict[str, Any]:
        """The speed of one setting, bytes of the state and of the weights, and the peak of memory."""
        import numpy as np
        import torch

        from worldmodel.dream import Simulator
        from worldmodel.dream.cuda_graphs import leaves

        cuda = self.device.type == "cuda"
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        simulator = Simulator(world, batch, starts="any", dtype=dtype, captured=cuda_graph and cuda)
        simulator.reset()
        actions = torch.randint(world.prior.action_space.n, (batch,), device=self.device)
        seconds = self.seconds_of(lambda: simulator.step(actions))
        row: dict[str, Any] = {"step_ms": 1000 * seconds, "steps_per_second": batch / seconds}
        row["state_bytes"] = sum(x.numel() * x.element_size() for x in leaves(simulator.state.prior))
        row["weight_bytes"] = sum(p.numel() * p.element_size() for p in world.parameters())
        if batch == 1:
            latencies = 1000 * np.asarray(self.latencies(lambda: simulator.step(actions)))
            row |= {f"ms_{p}_percent": float(np.percentile(latencies, p)) for p in (50, 95, 99)}
        if cuda:
            row["peak_gb"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
        return row

    def orders(self) -> dict[str, Any]:
        """The factored world on take-cover's crop in each order."""
        rows = {}
        for order in ("columns", "raster", "groups", "frame"):
            batches = self.sizes.batches if order == "columns" else self.sizes.batches[::2]
            rows[order] = self.steps(self.world(self.sizes.small, self.sizes.crop, order=order), batches)
        return rows

    def flat(self) -> dict[str, Any]:
        """The flat prior, with as many key-value heads as heads and with one."""
        whole = (self.sizes.size, self.sizes.size)
        batches = tuple(n for n in self.sizes.batches if n <= 1024)
        preset, changes = self.sizes.flat
        shared = self.world(preset, whole, **changes, num_kv_heads=1)
        return {
            "all heads": self.steps(self.world(preset, whole, **changes), batches),
            "one key-value head": self.steps(shared, batches, eager=False),
        }

    def clip(self) -> dict[str, Any]:
        """The paper's clip, every code of it sampled: seconds and codes per second, of 1 clip and of 32 together."""
        side, changes = self.sizes.clip
        world = self.world(self.sizes.flat[0], (4 * side, 4 * side), stride=4, **changes)
        rows = self.steps(world, (1, 32) if self.device.type == "cuda" else (1, 2), eager=False)
        for row in rows:
            if "step_ms" in row:
                row["clip_seconds"] = CLIP_LENGTH * row["step_ms"] / 1000
                row["codes_per_second"] = row["steps_per_second"] * world.tokenizer.grid[0] * world.tokenizer.grid[1]
        return {"frames": CLIP_LENGTH, "grid": list(world.tokenizer.grid), "rows": rows}

    def learner(self) -> dict[str, Any]:
        """PPO of Stable-Baselines3 in the dream, end to end."""
        missing = missing_packages(LEARNER_NEEDS)
        if missing:
            return {"left out": f"these packages are missing: {', '.join(missing)}"}
        from worldmodel.bench.bench_learner import bench_learner

        world = self.world(self.sizes.small, (self.sizes.size, self.sizes.size))
        return bench_learner(world, self.sizes.learner_rows, self.sizes.seconds, self.sizes.rounds)

    def gpu_tests(self) -> dict[str, Any]:
        """The tests that need a GPU."""
        if self.device.type != "cuda":
            return {"left out": "no GPU"}
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "gpu", str(TESTS)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=max(10.0, self.seconds_left()))
        return {"code": done.returncode, "output": done.stdout[-4000:]}


def main() -> int:
    """Run all stages; 0 if every stage was done or left out for lack of time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9.0, help="budget of the whole command")
    parser.add_argument("--out", type=Path, default=os.environ.get("OUT") or "runs/gpu-dream-engine/out")
    parser.add_argument("--work", type=Path, default="runs/gpu-dream-engine/work", help="the working folder")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--tiny", action="store_true", help="rehearse every stage within a minute")
    args = parser.parse_args()
    missing = missing_packages(NEEDED)
    if missing:
        print_missing(missing)
        return 3
    from gpu_run import StagedRun, run_facts

    from worldmodel.common.errors import UserError
    from worldmodel.common.runtime import choose_runtime

    device = choose_runtime(args.device).device
    try:
        run = StagedRun(args.work, args.out, {"tiny": args.tiny}, run_facts(device), 60 * args.minutes)
    except UserError as error:
        print(error)
        return 2
    stages = Stages(TINY if args.tiny else Sizes(), device, run.print, lambda: run.seconds_left)
    run.stage("machine", stages.machine)
    run.stage("orders", stages.orders)
    run.stage("learner", stages.learner, min_seconds=20.0 if not args.tiny else 0.0)
    run.stage("flat", stages.flat)
    run.stage("clip", stages.clip)
    run.stage("gpu_tests", stages.gpu_tests)
    run.print(f"{args.out}: failed: {', '.join(run.failed) or 'nothing'}")
    return 1 if run.failed else 0


if __name__ == "__main__":
    sys.exit(main())
