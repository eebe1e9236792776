"""The verbs `bench ...`: a config dataclass and a function each.

Each prints a table and can save JSON with the machine and the versions of all packages.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldmodel.common.errors import UserError

WORLD_PRESETS = ("doom-take-cover-demo", "doom-take-cover-flat")


@dataclass(frozen=True)
class BenchLoader:
    """Measure shuffled clips read per second, compared with h5py in the same run.

    Example:
        worldmodel bench loader --seconds 2
    """

    episodes: int = 200
    steps: int = 200
    length: int = 16
    batch_size: int = 64
    seconds: float = 2.0
    """Duration of each measurement; there are three interleaved rounds."""
    out: Path | None = None
    """Write JSON here."""
    json: bool = False
    """Print as JSON."""


def bench_loader(config: BenchLoader) -> None:
    """Measure and print the table."""
    from worldmodel.bench.bench_loader import bench_loader as run

    result = run(
        num_episodes=config.episodes,
        steps=config.steps,
        length=config.length,
        batch_size=config.batch_size,
        seconds=config.seconds,
        rounds=3,
    )
    rows = [{"reader": name, **figures} for name, figures in result.pop("readers").items()]
    result = {"rows": rows, **result}
    _report(result, "bench loader", config, config.out, config.json)


@dataclass(frozen=True)
class BenchCollect:
    """Measure steps recorded per second, compared with the environment without a recorder in the same run.

    Example:
        worldmodel bench collect --episodes 20 --rounds 3
    """

    env: str = "doom/take-cover"
    episodes: int = 24
    """Episodes of each measurement."""
    rounds: int = 5
    """Interleaved rounds; rates and ratios are medians over them."""
    out: Path | None = None
    """Write JSON here."""
    json: bool = False
    """Print as JSON."""


def bench_collect(config: BenchCollect) -> None:
    """Measure and print the table."""
    from worldmodel.bench.bench_collect import bench_collect as run

    result = run(config.env, config.episodes, config.rounds)
    _report(result, "bench collect", config, config.out, config.json)


@dataclass(frozen=True)
class BenchTokenizer:
    """Measure frames encoded, decoded and trained per second, compared with strided convolutions in the same run.

    Example:
        worldmodel bench tokenizer --frames 32 --rounds 3
    """

    size: int = 64
    """Height and width of a frame, a multiple of 16."""
    frames: int = 64
    """Frames of each call, a multiple of 8."""
    seconds: float = 1.0
    """Duration of each measurement."""
    rounds: int = 5
    """Interleaved rounds; rates and ratios are medians over them."""
    out: Path | None = None
    """Write JSON here."""
    json: bool = False
    """Print as JSON."""


def bench_tokenizer(config: BenchTokenizer) -> None:
    """Measure and print the table."""
    from worldmodel.bench.bench_tokenizer import bench_tokenizer as run

    if config.size % 16 or config.size < 16 or config.frames % 8 or config.frames < 8:
        raise UserError(
            f"size={config.size} and frames={config.frames}: wanted multiples of 16 pixels and of 8 frames."
        )
    result = run(config.size, config.frames, config.seconds, config.rounds)
    _report(result, "bench tokenizer", config, config.out, config.json)


@dataclass(frozen=True)
class BenchPrior:
    """Measure codes trained and frames scored per second, and methods to sample from the flat prior, in one run.

    Frames are sampled from the flat prior with its ring cache, with a cache that is appended to, by recomputing
    everything for every code, and with a cache that is flushed when it is full, all on the same weights.

    Example:
        worldmodel bench prior --preset doom-take-cover-flat --rounds 5
    """

    preset: tuple[str, ...] = WORLD_PRESETS
    """Presets whose sizes the worlds have; their weights are random. A factored prior is measured in every order."""
    world: Path | None = None
    """A world directory to measure in place of the presets."""
    size: int = 64
    """Height and width of a random world's frames."""
    batches: tuple[int, ...] = (1, 16)
    """Numbers of rows that are sampled together."""
    threads: int = 0
    """Number of torch's threads; 0 leaves it to torch."""
    seconds: float = 1.0
    """Duration of each measurement; one repetition at least."""
    rounds: int = 3
    """Interleaved rounds; rates and ratios are medians over them."""
    out: Path | None = None
    """Write JSON here."""
    json: bool = False
    """Print as JSON."""


def bench_prior(config: BenchPrior) -> None:
    """Measure with a bar on stderr and print the tables."""
    from worldmodel.bench.bench_prior import bench_prior as run
    from worldmodel.bench.bench_worlds import bench_worlds
    from worldmodel.cli.progress import measurement_bar
    from worldmodel.common.runtime import choose_runtime

    _check_positive("batches", config.batches)
    _check_positive("rounds", (config.rounds,))
    choose_runtime("cpu", config.threads or None)
    worlds = bench_worlds(config.preset, config.world, config.size)
    with measurement_bar() as progress:
        result = run(worlds, config.batches, config.seconds, config.rounds, progress)
    _report(result, "bench prior", config, config.out, config.json)


@dataclass(frozen=True)
class BenchDream:
    """Measure whole steps of dreams per second: termination, status, codes, reward, pixels.

    Also the latency of a single dream, the shares of the machine's float32 matmul rate and of the least time that
    arithmetic and memory allow (roofline), the memory, the cost of gymnasium's interfaces, and the speed of
    Stable-Baselines3's PPO in the first world.

    Example:
        worldmodel bench dream --batches 1 32 --threads 2
    """

    preset: tuple[str, ...] = WORLD_PRESETS
    """Presets whose sizes the worlds have; their weights are random. A factored prior is measured in every order."""
    world: Path | None = None
    """A world directory to measure in place of the presets."""
    size: int = 64
    """Height and width of a random world's frames."""
    batches: tuple[int, ...] = (1, 16, 64)
    """Numbers of dreams that are stepped together."""
    threads: tuple[int, ...] = (1, 2)
    """Numbers of torch's threads; a step uses one for every 16 rows, and no more than these."""
    learner_rows: int = 32
    """Dreams of the batch in which PPO learns, with one thread; 0 leaves PPO out."""
    seconds: float = 0.3
    """Duration of each measurement, three times as long for a single dream; one step at least."""
    rounds: int = 5
    """Interleaved rounds; rates and ratios are medians over them."""
    out: Path | None = None
    """Write JSON here."""
    json: bool = False
    """Print as JSON."""


def bench_dream(config: BenchDream) -> None:
    """Measure with a bar on stderr and print the tables."""
    from worldmodel.bench.bench_dream import bench_dream as run
    from worldmodel.bench.bench_worlds import bench_worlds
    from worldmodel.cli.progress import measurement_bar
    from worldmodel.common.runtime import choose_runtime

    for name, numbers in (("batches", config.batches), ("threads", config.threads), ("rounds", (config.rounds,))):
        _check_positive(name, numbers)
    choose_runtime("cpu")
    worlds = bench_worlds(config.preset, config.world, config.size)
    with measurement_bar() as progress:
        result = run(worlds, config.batches, config.threads, config.seconds, config.rounds, progress)
    if config.learner_rows:
        from worldmodel.bench.bench_learner import bench_learner

        figures = bench_learner(worlds[0].world, config.learner_rows, 10 * config.seconds, min(3, config.rounds))
        result["learning"] = [{"source": worlds[0].source, "prior": worlds[0].prior, **figures}]
    _report(result, "bench dream", config, config.out, config.json)


def _check_positive(name: str, numbers: tuple[int, ...]) -> None:
    if not numbers or min(numbers) < 1:
        raise UserError(f"{name}={' '.join(map(str, numbers)) or '(none)'}: wanted numbers of 1 or more.")


def _report(result: dict[str, Any], verb: str, config: Any, out: Path | None, as_json: bool) -> None:
    """Save the result with machine and versions, and print a table of every list of rows."""
    from worldmodel.common.files import atomic_path
    from worldmodel.common.run_info import machine, run_info

    result = {**result, "machine": machine(), **run_info(verb, config)}
    if out is not None:
        with atomic_path(out) as temporary:
            temporary.write_text(json.dumps(result, indent=1) + "\n")
    if as_json:
        print(json.dumps(result))
        return
    print(f"{result['machine']['processor']}, {result['machine']['cores']} cores")
    for name in ("rows", "stepping", "learning"):
        if name in result:
            print(format_rows(result[name]))


def format_rows(rows: list[dict[str, Any]]) -> str:
    """A table with one line for each row and a column for every key of any row; intervals are left to the JSON."""
    keys = list(dict.fromkeys(key for row in rows for key, value in row.items() if not isinstance(value, list)))
    cells = [[_format_cell(row.get(key, "")) for key in keys] for row in rows]
    widths = [max(len(key), *(len(line[i]) for line in cells)) for i, key in enumerate(keys)]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) for line in [keys, *cells])


def _format_cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value)
