"""Steps per second of an environment alone, recorded in this process, and recorded by 1 and 2 worker processes."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from worldmodel.bench.timing import interleave

if TYPE_CHECKING:
    from worldmodel.collect.policy_specs import PolicySpec
    from worldmodel.data import Header


@dataclass(frozen=True)
class _Recording:
    """The episodes that every method plays: the same seeds and actions.

    Attributes:
        env: short name or id of the environment.
        world: one instance of it, whose engine runs already.
        policy, spec: the random policy, and how worker processes build it.
        header: of the files.
        episodes: number of episodes.
    """

    env: str
    world: Any
    policy: Any
    spec: PolicySpec
    header: Header
    episodes: int

    def environment_alone(self) -> float:
        """Steps per second without a recorder."""
        from worldmodel.collect.rollout import episode_seeds, play_steps

        begin, steps = time.perf_counter(), 0
        for index in range(self.episodes):
            seed, rng = episode_seeds(0, index)
            self.policy.begin(rng)
            steps += sum(1 for _ in play_steps(self.world, self.policy.act, seed)) - 1  # the first is the reset
        return steps / (time.perf_counter() - begin)

    def this_process(self) -> float:
        """Steps per second recorded in this process, until the last episode is on the disk."""
        from worldmodel.collect.rollout import play
        from worldmodel.data.parts import PartWriter

        with tempfile.TemporaryDirectory() as folder:
            begin, steps = time.perf_counter(), 0
            with PartWriter(Path(folder) / "part-000.bin", self.header) as part:
                for index in range(self.episodes):
                    episode = play(self.world, self.policy, index=index, seed=0, policy_name="random")
                    part.append(episode)
                    steps += episode.length
            return steps / (time.perf_counter() - begin)

    def worker_processes(self, workers: int) -> float:
        """Steps per second recorded by worker processes, from their first finished episode to the last.

        The start of the processes is not counted.
        """
        from worldmodel.collect.recorder import RecordingPlan, record_plan

        with tempfile.TemporaryDirectory() as folder:
            out, manager = Path(folder) / f"{workers}.h5", self.world.process_manager
            plan = RecordingPlan(out, self.header, (self.spec,), self.env, {}, manager)
            stamps: list[tuple[float, int]] = []
            record_plan(plan, workers, progress=False, on_episode=lambda _, n: stamps.append((time.perf_counter(), n)))
        return sum(n for _, n in stamps[workers:]) / (stamps[-1][0] - stamps[workers - 1][0])


def bench_collect(env: str, episodes: int, rounds: int) -> dict[str, Any]:
    """Measure all methods on the same episodes, in interleaved rounds.

    Args:
        env: short name or id.
        episodes: episodes of one measurement.
        rounds: repetitions.

    Returns:
        "rows": for each method the median steps/s, its interval, and the median over rounds of its ratio to the
        environment alone. "recorded" ends when the last episode is on the disk.
    """
    from worldmodel import envs
    from worldmodel.collect.policy_specs import parse_policy
    from worldmodel.collect.recorder import make_header

    world = envs.make(env)
    try:
        meta = world.meta
        spec = parse_policy("random", meta.action_space, {})
        header = make_header(meta, [spec], 0, episodes, (0, 1))
        recording = _Recording(env, world, spec.build(meta.action_space), spec, header, episodes)
        world.reset(seed=0)  # starts the engine before anything is timed
        rates = interleave(
            {
                "environment alone": recording.environment_alone,
                "recorded, this process": recording.this_process,
                "recorded, 1 process": lambda: recording.worker_processes(1),
                "recorded, 2 processes": lambda: recording.worker_processes(2),
            },
            rounds,
        )
    finally:
        world.close()
    alone = rates["environment alone"]
    rows = [
        {
            "method": method,
            "steps/s": median(values),
            "steps/s interval": [min(values), max(values)],
            "share of alone": median(r / a for r, a in zip(values, alone, strict=True)),
        }
        for method, values in rates.items()
    ]
    return {
        "rows": rows,
        "env": env,
        "episodes": episodes,
        "rounds": rounds,
        "frame": list(meta.pixels.frame_shape),
    }
