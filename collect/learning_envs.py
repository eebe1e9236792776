"""Where a learner learns: real environments, a process each, or one batch of dreams."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from worldmodel.collect.collect_config import LearnerConfig, TrainPolicy
from worldmodel.common.errors import UserError
from worldmodel.common.run_info import save_run_info
from worldmodel.common.spaces import Box, Discrete, Space, from_gymnasium
from worldmodel.world.hub import find_world


class MakeEnv:
    """Builds one environment inside its process (picklable by SB3's workers)."""

    def __init__(self, env: str, kwargs: dict[str, Any], learner: LearnerConfig, token: str, marks: str) -> None:
        self.env, self.kwargs, self.learner, self.token, self.marks = env, kwargs, learner, token, marks

    def __call__(self) -> Any:
        """Make it, watched by SB3's Monitor (true returns and lengths)."""
        from stable_baselines3.common.monitor import Monitor

        from worldmodel import envs
        from worldmodel.collect.learner_view import LearnerView
        from worldmodel.envs import doom_processes as engines

        engines.set_run(self.token, Path(self.marks))
        return LearnerView(Monitor(envs.make(self.env, **self.kwargs)), self.learner)


def check_algorithm(algo: str, space: Space) -> None:
    """Refuse an algorithm that cannot act in a space.

    Raises:
        UserError: sac outside Box, dqn outside Discrete.
    """
    wanted = {"sac": Box, "dqn": Discrete}.get(algo)
    if wanted is not None and not isinstance(space, wanted):
        raise UserError(f"{algo} needs a {wanted.__name__} action space, not {space}; ppo and a2c take it.")


def check_world(world: Path, out: Path) -> None:
    """Refuse a world that is not there, or that lies where the policy is to be written.

    Raises:
        UserError: so it is.
    """
    world = find_world(world)
    if not (world / "config.json").is_file():
        raise UserError(f"{world} is not a world directory: it has no config.json.")
    if out.resolve() in (world.resolve(), *world.resolve().parents):
        raise UserError(f"--out {out} holds the world {world} that the policy is to learn in; give another one.")


@contextlib.contextmanager
def real(config: TrainPolicy) -> Iterator[Any]:
    """Real environments as an SB3 VecEnv; their engines are gone at the end.

    Raises:
        UserError: no such environment, or a learner that cannot see or act in it.
    """
    from worldmodel import envs
    from worldmodel.collect.learner_view import LearnerView
    from worldmodel.envs import doom_processes as engines

    out, learner = config.out, config.learner
    kwargs = config.screen.kwargs()
    # what is wrong with names and options is told here, not from eight processes
    probe = envs.make(config.env, **kwargs)
    check_algorithm(learner.algo, probe.meta.action_space)
    LearnerView(probe, learner).close()

    from stable_baselines3.common.vec_env import SubprocVecEnv

    run, marks = out / "run.json", out / "engines"
    token = json.loads(run.read_text())["token"] if run.exists() else uuid.uuid4().hex
    marks.mkdir(parents=True, exist_ok=True)
    save_run_info(run, "train policy", config, token=token)  # before an engine runs that a next run must find
    engines.sweep(token, marks)
    # one process imports torch and SB3, the environments' processes are forks of it
    multiprocessing.get_context("forkserver").set_forkserver_preload(["worldmodel.collect.learner_view", __name__])
    make = MakeEnv(config.env, kwargs, learner, token, str(marks))
    venv = SubprocVecEnv([make] * learner.num_envs, start_method="forkserver")
    try:
        yield venv
    finally:
        venv.close()
        engines.sweep(token, marks)
        shutil.rmtree(marks, ignore_errors=True)


@contextlib.contextmanager
def dreams(config: TrainPolicy) -> Iterator[Any]:
    """Dreams of the world at `config.world` as an SB3 VecEnv.

    Raises:
        UserError: no such world, a learner that cannot see or act in it, or a test in an environment of other actions.
    """
    from worldmodel import envs
    from worldmodel.collect.learner_view import LearnerView
    from worldmodel.dream import DreamLearnerEnv

    assert config.world is not None
    learner = config.learner
    venv = DreamLearnerEnv(
        config.world,
        learner.num_envs,
        frame_stack=learner.frame_stack,
        view=learner.view,
        hold=learner.hold,
        reward="status" if learner.reward == "health" else "env",
        reward_scale=learner.reward_scale,
        seed=config.seed,
        device=config.device,
    )
    space = from_gymnasium(venv.action_space)
    check_algorithm(learner.algo, space)
    if config.test_episodes:
        env = envs.make(config.env, **config.screen.kwargs())
        meta = env.meta
        try:
            if meta.action_space != space:
                raise UserError(f"{config.env} has actions {meta.action_space}, the world {config.world} has {space}.")
            seen, dreamed = LearnerView(env, learner).observation_space.shape, venv.venv.observation_space.shape
            if seen != dreamed:
                raise UserError(
                    f"the policy would see {seen} in {config.env} and {dreamed} in the dream; give --size, --crop or "
                    "--learner.view such that both are the same."
                )
        finally:
            env.close()
    config.out.mkdir(parents=True, exist_ok=True)
    save_run_info(config.out / "run.json", "train policy", config)
    yield venv
