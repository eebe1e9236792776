"""Steps per second of an environment bare, recorded in this process, and recorded by 1 and 2 processes."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any


def bench_collect(env: str, episodes: int, rounds: int) -> dict[str, Any]:
    """Measure, interleaved, on the same episodes (same seeds, same actions).

    Args:
        env: short name or id.
        episodes: episodes of one measurement.
        rounds: repetitions; the ways take turns, so that a slow moment of the machine hits all of them.

    Returns:
        {"rows": [...]}: per way the median steps/s and the median over rounds of its ratio to the bare environment.
        "recorded" ends when the last episode is on disk; "recorded and sealed" includes the sealed file.
    """
    from worldmodel import envs
    from worldmodel.collect.policy_specs import parse_policy
    from worldmodel.collect.recorder import RecordingPlan, make_header, record_plan
    from worldmodel.collect.rollout import episode_seeds, play, play_steps
    from worldmodel.data.parts import PartWriter

    world = envs.make(env)
    meta = world.meta
    spec = parse_policy("random", meta.action_space, {})
    header = make_header(meta, [spec], 0, episodes, (0, 1))
    policy = spec.build(meta.action_space)
    world.reset(seed=0)  # the engine is up before any clock starts

    def bare() -> tuple[int, float]:
        begun, steps = time.perf_counter(), 0
        for index in range(episodes):
            seed, rng = episode_seeds(0, index)
            policy.begin(rng)
            steps += sum(1 for _ in play_steps(world, policy.act, seed)) - 1  # the first is the reset
        return steps, time.perf_counter() - begun

    def recorded(folder: Path) -> tuple[int, float]:
        begun, steps = time.perf_counter(), 0
        with PartWriter(folder / "part-000.bin", header) as part:
            for index in range(episodes):
                episode = play(world, policy, index=index, seed=0, policy_name="random")
                part.append(episode)
                steps += episode.length
        return steps, time.perf_counter() - begun

    def processes(folder: Path, workers: int) -> tuple[int, float]:
        # More episodes for two processes, and the start of the processes taken out: the clock runs from the first
        # finished episode of a recording to its last.
        plan = RecordingPlan(folder / f"{workers}.h5", header, (spec,), env, {}, world.process_manager)
        stamps: list[tuple[float, int]] = []
        record_plan(plan, workers, progress=False, on_episode=lambda _, n: stamps.append((time.perf_counter(), n)))
        return sum(n for _, n in stamps[workers:]), stamps[-1][0] - stamps[workers - 1][0]

    ways: dict[str, list[float]] = {}
    try:
        for _ in range(rounds):
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                taken = {
                    "environment alone": bare(),
                    "recorded, this process": recorded(folder),
                    "recorded, 1 process": processes(folder, 1),
                    "recorded, 2 processes": processes(folder, 2),
                }
            for label, (steps, seconds) in taken.items():
                ways.setdefault(label, []).append(steps / seconds)
    finally:
        world.close()
    alone = ways["environment alone"]
    rows = [
        {
            "way": label,
            "steps/s": median(rates),
            "share of alone": median(r / a for r, a in zip(rates, alone, strict=True)),
        }
        for label, rates in ways.items()
    ]
    return {
        "rows": rows,
        "env": env,
        "episodes": episodes,
        "rounds": rounds,
        "frame": list(meta.pixels.frame_shape),
    }
