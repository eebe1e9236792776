"""How fast a world dreams, and its tokenizer encodes, decodes and trains, on a device.

Shapes: B clips of a batch, L frames of a clip, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from worldmodel.bench.timing import mean_seconds


def synchronizer(device: torch.device) -> Callable[[], None]:
    """A function that waits until the device has finished its work."""
    return torch.cuda.synchronize if device.type == "cuda" else lambda: None


def peak_memory_gb(device: torch.device) -> float | None:
    """The device's most memory in use since the last call; None on a CPU."""
    if device.type != "cuda":
        return None
    most = torch.cuda.max_memory_allocated() / 2**30
    torch.cuda.reset_peak_memory_stats()
    return round(most, 2)


def dream_speed(
    world: Any, batches: tuple[int, ...], dtype: torch.dtype, seconds: float, print_line: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Whole steps per second of some numbers of rows, in a number format and in float32.

    Args:
        world: on its device.
        batches: numbers of rows.
        dtype: a number format.
        seconds: duration of each measurement.
        print_line: called with every row of the result.
    """
    from worldmodel.bench.bench_worlds import random_actions
    from worldmodel.dream import Simulator

    rows = []
    for one in dict.fromkeys((dtype, torch.float32)):
        for batch in batches:
            row: dict[str, Any] = {"rows": batch, "dtype": str(one).removeprefix("torch.")}
            try:
                simulator = Simulator(world, batch, starts="any", dtype=one)
                simulator.reset()
                actions = random_actions(world.spec.action_space, (batch,)).to(world.device)
                step = lambda: simulator.step(actions)  # noqa: B023, E731 (called at once)
                duration = mean_seconds(step, seconds, synchronizer(world.device))
                row |= {"step_ms": 1000 * duration, "steps_per_second": batch / duration}
                row["gpu_memory_gb"] = peak_memory_gb(world.device)
            except torch.OutOfMemoryError as error:
                row["error"] = str(error).splitlines()[0]
            rows.append(row)
            print_line(f"  dream: {row}")
    return rows


def tokenizer_speed(tokenizer: Any, frames: torch.Tensor, loop: Any, runtime: Any, seconds: float) -> dict[str, Any]:
    """Frames per second encoded, decoded and trained.

    Args:
        tokenizer: on the runtime's device.
        frames: (N, H, W, 3) uint8; repeated to a batch of the loop.
        loop: batch size and clip length.
        runtime: device and number format of training.
        seconds: duration of each measurement.
    """
    frames = frames[: len(frames) // loop.clip_length * loop.clip_length].to(runtime.device)
    frames = frames.unflatten(0, (-1, loop.clip_length))
    frames = frames[torch.arange(loop.batch_size, device=frames.device) % len(frames)]  # (B, L, H, W, 3)
    valid = torch.ones(frames.shape[:2], dtype=torch.bool, device=frames.device)
    codes, count = tokenizer.encode(frames), frames.shape[0] * frames.shape[1]
    optimizer = torch.optim.AdamW(tokenizer.parameters(), lr=0.0)

    def train() -> None:
        optimizer.zero_grad(set_to_none=True)
        with runtime.autocast():
            loss = tokenizer.loss(frames, valid)["loss"]
        loss.backward()
        optimizer.step()

    rates = {}
    for name, work in (
        ("encode", lambda: tokenizer.encode(frames)),
        ("decode", lambda: tokenizer.decode(codes)),
        ("train", train),
    ):
        tokenizer.train(name == "train")
        rates[f"{name}_frames_per_second"] = count / mean_seconds(work, seconds, synchronizer(runtime.device))
    return {**rates, "frames": count, "train_dtype": str(runtime.dtype)}
