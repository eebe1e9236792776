"""How fast dreams step on one GPU: recorded as one launch and not, both priors, every order; `gpu_dream_engine.sh`.

Worlds of the presets' sizes with random weights, since speed does not ask what was learned. Every figure is in
OUT/result.json; the same command goes on where a killed one stopped.

Shapes: N rows (dreams side by side).
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

from gpu_first_dream import head, lacking

NEEDED = ("torch", "numpy", "PIL", "h5py", "safetensors", "einops", "tqdm", "cattrs", "tyro", "gymnasium")
LEARNING = ("stable_baselines3", "cloudpickle")
CLIP = 8  # frames of codes in the paper's clip
TESTS = Path(__file__).parent.parent / "tests"


@dataclass(frozen=True)
class Sizes:
    """What differs between the run and its rehearsal.

    Attributes:
        small: the preset of a factored world, stepped in each of its orders; also on take-cover's crop.
        flat: the preset of a flat prior, and what is changed in it: 8 layers x 384, 16 frames of memory.
        clip: what is changed in it for the paper's 8 x 32 x 32 codes (table 9: 16 layers x 512), frame after frame: a
            frame sees the 7 before it. The first number is the codes of a row.
        size: rows and columns of a frame.
        crop: of the frame that the small world shows.
        batches: N.
        seconds: that each is timed for.
        rounds: how often PPO is timed, and how many dreams it learns in.
        learner_rows: dreams that PPO learns in.
    """

    small: str = "doom-take-cover-small"
    flat: tuple[str, dict[str, int]] = ("doom-take-cover-gpu-flat", {"num_layers": 8, "window": 16})
    clip: tuple[int, dict[str, int]] = (32, {"num_layers": 16, "width": 512, "num_heads": 4, "window": CLIP - 1})
    size: int = 64
    crop: tuple[int, int] = (32, 64)
    batches: tuple[int, ...] = (1, 16, 64, 256, 1024, 4096, 16384)
    seconds: float = 1.5
    rounds: int = 3
    learner_rows: int = 256


TINY = Sizes("tiny", ("tiny-flat", {}), (4, {"num_layers": 1}), 16, (16, 16), (1, 4), 0.05, 1, 4)


@dataclass
class Run:
    """One run: where it computes and how large."""

    sizes: Sizes
    device: Any
    say: Callable[[str], None]
    left: Callable[[], float]

    def world(self, preset: str, shape: tuple[int, int], stride: int = 0, **prior: Any) -> Any:
        """A world of a preset's sizes on the device; a stride, pixels a code, of its own if one is given."""
        from worldmodel.bench.bench_worlds import random_world
        from worldmodel.train.presets import PRESETS

        config = PRESETS[preset]
        tokenizer = replace(config.tokenizer, space_stride=stride) if stride else config.tokenizer
        world = random_world(replace(config, tokenizer=tokenizer, prior=replace(config.prior, **prior)), shape)
        assert world.starts is not None
        world.starts = world.starts.to(self.device)
        return world.to(self.device)

    def wait(self) -> None:
        """Until the device has done what it was given."""
        import torch

        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def machine(self) -> dict[str, float]:
        """What binds: bytes copied and multiply-adds a second."""
        import torch

        numbers = 2**28 if self.device.type == "cuda" else 2**22
        a = torch.empty(numbers, dtype=torch.uint8, device=self.device)
        b = torch.empty_like(a)
        found = {"copy_bytes_per_second": 2 * numbers / self.seconds_of(lambda: b.copy_(a))}
        n = 8192 if self.device.type == "cuda" else 256
        for dtype in (torch.float32, torch.bfloat16):
            if dtype == torch.bfloat16 and self.device.type == "cpu":
                continue
            square = torch.randn(n, n, device=self.device).to(dtype)
            name = str(dtype).removeprefix("torch.")
            found[f"{name}_multiply_adds_per_second"] = n**3 / self.seconds_of(lambda: square @ square)  # noqa: B023
        return found

    def seconds_of(self, work: Callable[[], Any]) -> float:
        """Seconds a call takes when many follow each other."""
        for _ in range(3):
            work()
        self.wait()
        begun, calls = time.perf_counter(), 0
        while time.perf_counter() - begun < self.sizes.seconds or calls < 3:
            work()
            calls += 1
            if calls % 8 == 0:
                self.wait()
        self.wait()
        return (time.perf_counter() - begun) / calls

    def laps_of(self, work: Callable[[], Any]) -> list[float]:
        """Seconds of single calls, each waited for."""
        laps: list[float] = []
        while sum(laps) < self.sizes.seconds or len(laps) < 10:
            begun = time.perf_counter()
            work()
            self.wait()
            laps.append(time.perf_counter() - begun)
        return laps

    def steps(self, world: Any, batches: tuple[int, ...], eager: bool = True) -> list[dict[str, Any]]:
        """Whole steps a second by rows, number format, recorded or not; few rows only are also stepped unrecorded."""
        import torch

        cuda, rows = self.device.type == "cuda", []
        for batch in batches:
            for dtype in (torch.bfloat16, torch.float32) if cuda else (torch.float32,):
                for captured in (True, False) if cuda else (False,):
                    if self.left() < 10 * self.sizes.seconds or (cuda and not captured and (batch > 256 or not eager)):
                        continue
                    row: dict[str, Any] = {
                        "rows": batch,
                        "dtype": str(dtype).removeprefix("torch."),
                        "captured": captured,
                    }
                    try:
                        row |= self.row(world, batch, dtype, captured)
                    except RuntimeError as error:  # memory, too
                        row["error"] = str(error).splitlines()[0]
                    rows.append(row)
                    self.say(f"  {row}")
        return rows

    def row(self, world: Any, batch: int, dtype: Any, captured: bool) -> dict[str, Any]:
        """One way to step: its speed, the state's and the weights' bytes, the memory's peak."""
        import numpy as np
        import torch

        from worldmodel.dream import Simulator
        from worldmodel.dream.tensor_tree import tree_leaves

        cuda = self.device.type == "cuda"
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        simulator = Simulator(world, batch, starts="any", dtype=dtype, cuda_graph=captured and cuda)
        simulator.reset()
        actions = torch.randint(world.prior.action_space.n, (batch,), device=self.device)
        seconds = self.seconds_of(lambda: simulator.step(actions))
        found: dict[str, Any] = {"step_ms": 1000 * seconds, "steps_per_second": batch / seconds}
        found["state_bytes"] = sum(x.numel() * x.element_size() for x in tree_leaves(simulator.state.prior))
        found["weight_bytes"] = sum(p.numel() * p.element_size() for p in world.parameters())
        if batch == 1:
            laps = 1000 * np.asarray(self.laps_of(lambda: simulator.step(actions)))
            found |= {f"ms_{p}_percent": float(np.percentile(laps, p)) for p in (50, 95, 99)}
        if cuda:
            found["peak_gb"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
        return found

    def orders(self) -> dict[str, Any]:
        """The factored world on take-cover's crop in each order."""
        found = {}
        for order in ("columns", "raster", "groups", "frame"):
            batches = self.sizes.batches if order == "columns" else self.sizes.batches[::2]
            found[order] = self.steps(self.world(self.sizes.small, self.sizes.crop, order=order), batches)
        return found

    def flat(self) -> dict[str, Any]:
        """The flat prior, and with one head of keys and values."""
        whole = (self.sizes.size, self.sizes.size)
        batches = tuple(n for n in self.sizes.batches if n <= 1024)
        preset, changes = self.sizes.flat
        shared = self.world(preset, whole, **changes, num_kv_heads=1)
        return {
            "all heads": self.steps(self.world(preset, whole, **changes), batches),
            "one key-value head": self.steps(shared, batches, eager=False),
        }

    def clip(self) -> dict[str, Any]:
        """The paper's clip, every code of it drawn: seconds, and codes a second, of 1 and of 32 at once."""
        side, changes = self.sizes.clip
        world = self.world(self.sizes.flat[0], (4 * side, 4 * side), stride=4, **changes)
        rows = self.steps(world, (1, 32) if self.device.type == "cuda" else (1, 2), eager=False)
        for row in rows:
            if "step_ms" in row:
                row["clip_seconds"] = CLIP * row["step_ms"] / 1000
                row["codes_per_second"] = row["steps_per_second"] * world.tokenizer.grid[0] * world.tokenizer.grid[1]
        return {"frames": CLIP, "grid": list(world.tokenizer.grid), "rows": rows}

    def learner(self) -> dict[str, Any]:
        """PPO of Stable-Baselines3 in the dream, end to end."""
        missing = lacking(LEARNING)
        if missing:
            return {"left out": f"these packages are missing: {', '.join(missing)}"}
        from worldmodel.bench.bench_learner import bench_learner

        world = self.world(self.sizes.small, (self.sizes.size, self.sizes.size))
        return bench_learner(world, self.sizes.learner_rows, self.sizes.seconds, self.sizes.rounds)

    def contracts(self) -> dict[str, Any]:
        """The tests that need a GPU; none where there is none."""
        if self.device.type != "cuda":
            return {"left out": "no GPU"}
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "gpu", str(TESTS)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=max(10.0, self.left()))
        return {"code": done.returncode, "said": done.stdout[-4000:]}


def main() -> int:
    """Do what the command line asks; 0 where every stage was done or left out for want of time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9.0, help="budget of the whole command")
    parser.add_argument("--out", type=Path, default=os.environ.get("OUT") or "runs/gpu-dream-engine/out")
    parser.add_argument("--work", type=Path, default="runs/gpu-dream-engine/work", help="where it goes on")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--tiny", action="store_true", help="rehearse every stage within a minute")
    given = parser.parse_args()
    missing = lacking(NEEDED)
    if missing:
        print("These packages are missing; put their unpacked wheels into the folder WHEELS:", *missing, sep="\n  ")
        return 3
    from gpu_books import Books

    from worldmodel.common.errors import UserError
    from worldmodel.common.runtime import choose_runtime

    device = choose_runtime(given.device).device
    try:
        books = Books(given.work, given.out, {"tiny": given.tiny}, head(device), 60 * given.minutes)
    except UserError as error:
        print(error)
        return 2
    run = Run(TINY if given.tiny else Sizes(), device, books.say, lambda: books.left)
    books.stage("machine", run.machine)
    books.stage("orders", run.orders)
    books.stage("learner", run.learner, least=20.0 if not given.tiny else 0.0)
    books.stage("flat", run.flat)
    books.stage("clip", run.clip)
    books.stage("contracts", run.contracts)
    books.say(f"{given.out}: failed: {', '.join(books.failed) or 'nothing'}")
    return 1 if books.failed else 0


if __name__ == "__main__":
    sys.exit(main())
