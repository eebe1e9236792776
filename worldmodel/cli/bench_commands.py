"""The verbs `bench ...`: their configs and functions. Each prints a table and saves JSON with machine and versions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worldmodel.common.errors import UserError

if TYPE_CHECKING:
    from worldmodel.bench.timing import Tell

DREAMS = ("doom-take-cover-demo", "doom-take-cover-flat")  # presets


@dataclass(frozen=True)
class BenchLoader:
    """Measure shuffled clips read per second, beside naive ways of reading, in one run.

    Example:
        worldmodel bench loader --seconds 2
    """

    episodes: int = 200
    steps: int = 200
    length: int = 16
    batch_size: int = 64
    seconds: float = 2.0
    """Time for each way in each of three rounds."""
    out: Path | None = None
    """Write JSON here."""
    json: bool = False
    """Print as JSON."""


def bench_loader(config: BenchLoader) -> None:
    """Run and print the table."""
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
    _bench_out(result, "bench loader", config, config.out, config.json)


def _bench_out(result: dict[str, Any], verb: str, config: Any, out: Path | None, as_json: bool) -> None:
    """Save with machine and versions, print a table of every list of rows."""
    from worldmodel.common.run_info import machine, run_info

    result = {**result, "machine": machine(), **run_info(verb, config)}
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=1) + "\n")
    if as_json:
        print(json.dumps(result))
        return
    print(f"{result['machine']['processor']}, {result['machine']['cores']} cores")
    for name in ("rows", "stepping", "learning"):
        if name in result:
            print(_table(result[name]))


def _table(rows: list[dict[str, Any]]) -> str:
    """Rows below each other, a column for every key that one of them has."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[_cell(row.get(key, "")) for key in keys] for row in rows]
    widths = [max(len(key), *(len(line[i]) for line in cells)) for i, key in enumerate(keys)]
    return "\n".join("  ".join(word.ljust(w) for word, w in zip(line, widths, strict=True)) for line in [keys, *cells])


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value)


@dataclass(frozen=True)
class BenchCollect:
    """Measure steps recorded per second, beside the same environment stepped without a recorder, in one run.

    Example:
        worldmodel bench collect --episodes 20 --rounds 3
    """

    env: str = "doom/take-cover"
    episodes: int = 24
    """Episodes of each measurement."""
    rounds: int = 5
    """Interleaved repetitions; the median of each way is told, and of the ratios within a round."""
    out: Path | None = None
    """Write JSON here."""
    json: bool = False
    """Print as JSON."""


def bench_collect(config: BenchCollect) -> None:
    """Run and print the table."""
    from worldmodel.bench.bench_collect import bench_collect as run

    result = run(config.env, config.episodes, config.rounds)
    _bench_out(result, "bench collect", config, config.out, config.json)


@dataclass(frozen=True)
class BenchTokenizer:
    """Measure frames encoded, decoded and learned per second, beside plain strided convolutions, in one run.

    Example:
        worldmodel bench tokenizer --frames 32 --rounds 3
    """

    size: int = 64
    """Rows and columns of a frame, a multiple of 16."""
    frames: int = 64
    """Frames of each call, a multiple of 8."""
    seconds: float = 1.0
    """Time for each way in each round."""
    rounds: int = 5
    """Interleaved repetitions; the median of each way is told, and of the ratios within a round."""
    out: Path | None = None
    """Write JSON here."""
    json: bool = False
    """Print as JSON."""


def bench_tokenizer(config: BenchTokenizer) -> None:
    """Run and print the table."""
    from worldmodel.bench.bench_tokenizer import bench_tokenizer as run

    if config.size % 16 or config.size < 16 or config.frames % 8 or config.frames < 8:
        raise UserError(
            f"size={config.size} and frames={config.frames}: wanted multiples of 16 pixels and of 8 frames."
        )
    result = run(config.size, config.frames, config.seconds, config.rounds)
    _bench_out(result, "bench tokenizer", config, config.out, config.json)


@dataclass(frozen=True)
class BenchPrior:
    """Measure codes learned and frames scored per second, and ways to step the flat prior, in one run.

    The flat prior's frames are drawn with its cache, by recomputing everything for every code, and with a cache that
    is flushed when it is full: the same weights in turn.

    Example:
        worldmodel bench prior --preset doom-take-cover-flat --rounds 5
    """

    preset: tuple[str, ...] = DREAMS
    """Sizes of the worlds, whose weights are random; a factored one is measured in every order of writing."""
    world: Path | None = None
    """A world directory to measure instead."""
    size: int = 64
    """Rows and columns of a random world's frames."""
    batches: tuple[int, ...] = (1, 16)
    """Rows that are stepped together."""
    threads: int = 0
    """torch's threads; 0 leaves torch's own choice."""
    seconds: float = 1.0
    """Time for each way in each round; each is done once at least."""
    rounds: int = 3
    """Interleaved repetitions; the median of each way is told, and of the ratios within a round."""
    out: Path | None = None
    """Write JSON here."""
    json: bool = False
    """Print as JSON."""


def bench_prior(config: BenchPrior) -> None:
    """Run with a bar on stderr and print the tables."""
    from worldmodel.bench.bench_prior import bench_prior as run
    from worldmodel.bench.bench_worlds import bench_worlds
    from worldmodel.common.runtime import choose_runtime

    _check("batches", config.batches)
    _check("rounds", (config.rounds,))
    choose_runtime("cpu", config.threads or None)
    worlds = bench_worlds(config.preset, config.world, config.size)
    with _bar() as tell:
        result = run(worlds, config.batches, config.seconds, config.rounds, tell)
    _bench_out(result, "bench prior", config, config.out, config.json)


@dataclass(frozen=True)
class BenchDream:
    """Measure whole steps of dreams per second: end, status, codes, reward, pixels.

    With the latency of a single dream, what share of the machine's float32 matmul rate and of the least time that
    arithmetic and memory allow is reached, the memory, what gymnasium's faces cost, and how fast Stable-Baselines3's
    PPO learns in the first world.

    Example:
        worldmodel bench dream --batches 1 32 --threads 2
    """

    preset: tuple[str, ...] = DREAMS
    """Sizes of the worlds, whose weights are random; a factored one is measured in every order of writing."""
    world: Path | None = None
    """A world directory to measure instead."""
    size: int = 64
    """Rows and columns of a random world's frames."""
    batches: tuple[int, ...] = (1, 16, 64)
    """Dreams that are stepped together."""
    threads: tuple[int, ...] = (1, 2)
    """Numbers of torch's threads; a step takes one for every 16 rows, and no more than these."""
    learner_rows: int = 32
    """Dreams that PPO learns in, with one thread; 0 leaves it out."""
    seconds: float = 0.3
    """Time for each way in each round, three times as long for a single dream; a step at least."""
    rounds: int = 5
    """Interleaved repetitions; the median of each way is told, and of the ratios within a round."""
    out: Path | None = None
    """Write JSON here."""
    json: bool = False
    """Print as JSON."""


def bench_dream(config: BenchDream) -> None:
    """Run with a bar on stderr and print the table."""
    from worldmodel.bench.bench_dream import bench_dream as run
    from worldmodel.bench.bench_worlds import bench_worlds
    from worldmodel.common.runtime import choose_runtime

    for name, numbers in (("batches", config.batches), ("threads", config.threads), ("rounds", (config.rounds,))):
        _check(name, numbers)
    choose_runtime("cpu")
    worlds = bench_worlds(config.preset, config.world, config.size)
    with _bar() as tell:
        result = run(worlds, config.batches, config.threads, config.seconds, config.rounds, tell)
    if config.learner_rows:
        from worldmodel.bench.bench_learner import bench_learner

        learnt = bench_learner(worlds[0].world, config.learner_rows, 10 * config.seconds, min(3, config.rounds))
        result["learning"] = [{"of": worlds[0].source, "prior": worlds[0].prior, **learnt}]
    _bench_out(result, "bench dream", config, config.out, config.json)


def _check(name: str, numbers: tuple[int, ...]) -> None:
    if not numbers or min(numbers) < 1:
        raise UserError(f"{name}={' '.join(map(str, numbers)) or '(none)'}: wanted numbers of 1 or more.")


@contextmanager
def _bar() -> Iterator[Tell]:
    """A bar on stderr for turns."""
    from tqdm import tqdm

    with tqdm(unit="turn") as bar:

        def tell(done: int, total: int) -> None:
            bar.total, bar.n = total, done
            bar.refresh()

        yield tell
