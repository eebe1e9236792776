"""The vectorized environment of a learner: one environment per process, or one batch of dreams."""

from __future__ import annotations

import contextlib
import json
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldmodel.collect.collect_config import TrainPolicy
from worldmodel.collect.learner_config import LearnerConfig
from worldmodel.collect.policy_files import file_hash, find_policy_file
from worldmodel.common.errors import UserError
from worldmodel.common.run_info import save_run_info
from worldmodel.common.spaces import Box, Discrete, NoAction, Space, from_gymnasium
from worldmodel.common.subprocesses import start_forkserver
from worldmodel.envs.process_manager import load_process_manager
from worldmodel.envs.registrations import pickle_registrations, restore_registrations
from worldmodel.world.hub import find_world

DREAM_REWARDS = {"env": "env", "health": "status", "health_change": "status_change"}  # by `learner.reward`


@dataclass(frozen=True)
class LearnerEnvFactory:
    """Makes one environment inside its process; can be pickled.

    Attributes:
        env: short name or gymnasium id.
        env_kwargs: its keyword arguments.
        process_manager: `PixelEnv.process_manager` of the environment.
        learner: the settings of the training.
        token: run token for the process manager.
        records_dir: folder for the records of the process manager.
        registrations: environments that the caller registered, from `pickle_registrations`.
    """

    env: str
    env_kwargs: dict[str, Any]
    process_manager: str
    learner: LearnerConfig
    token: str
    records_dir: Path
    registrations: bytes

    def __call__(self) -> Any:
        """Make the environment, inside SB3's Monitor, which records unscaled returns and lengths."""
        from stable_baselines3.common.monitor import Monitor

        from worldmodel import envs
        from worldmodel.collect.learner_view import LearnerView

        restore_registrations(self.registrations)
        load_process_manager(self.process_manager).set_run(self.token, self.records_dir)
        return LearnerView(Monitor(envs.make(self.env, **self.env_kwargs)), self.learner)


def check_algorithm(algo: str, space: Space) -> None:
    """Refuse an algorithm that does not support an action space.

    Raises:
        UserError: sac without Box, dqn without Discrete, or a space without actions.
    """
    if isinstance(space, NoAction):
        raise UserError("this world was learned from videos without actions: there is nothing to learn.")
    wanted = {"sac": Box, "dqn": Discrete}.get(algo)
    if wanted is not None and not isinstance(space, wanted):
        raise UserError(f"{algo} needs a {wanted.__name__} action space, not {space}; ppo and a2c take it.")


def check_encoder_input(shape: tuple[int, int, int]) -> None:
    """Refuse observations that the policy's encoder cannot take.

    Args:
        shape: (h, w, channels) of an observation.

    Raises:
        UserError: an odd number of rows or columns.
    """
    if shape[0] % 2 or shape[1] % 2:
        raise UserError(
            f"the policy would observe {shape[0]} x {shape[1]} pixels, but its encoder needs even numbers of rows and "
            "columns: choose another --learner.view, --size or --crop."
        )


def check_world(world: Path, out: Path | None = None) -> None:
    """Refuse a world that does not exist, or that is inside the directory of the policy.

    Args:
        world: a directory, or the name of a shipped world.
        out: the directory of the policy that will be written; None for none.

    Raises:
        UserError: no world at `world`, or `out` contains it.
    """
    world = find_world(world)
    if not (world / "config.json").is_file():
        raise UserError(f"{world} is not a world directory: it has no config.json.")
    if out is not None and out.resolve() in (world.resolve(), *world.resolve().parents):
        raise UserError(f"--out {out} contains the world {world} of this training; choose another --out.")


def initial_weights(config: TrainPolicy) -> dict[str, str]:
    """The entry of run.json about `config.init_from`: the sha256 of the file whose weights the training begins with.

    A stopped training keeps its entry, since it continues from its own checkpoint.

    Raises:
        UserError: no such file.
    """
    if config.init_from is None:
        return {}
    run = config.out / "run.json"
    if (config.out / "checkpoint.zip").exists() and run.exists():
        return {"init_from_sha256": json.loads(run.read_text())["init_from_sha256"]}
    return {"init_from_sha256": file_hash(find_policy_file(config.init_from))}


def close_processes(venv: Any) -> None:
    """Close an SB3 SubprocVecEnv, also after an interrupt in the middle of a step.

    `SubprocVecEnv.close` waits for the results of a step that was sent. If some have been read already, it would wait
    for ever.
    """
    if not venv.waiting:
        with contextlib.suppress(OSError, EOFError):  # Ctrl-C ends the processes too
            venv.close()
            return
    for process in venv.processes:
        process.terminate()  # what they leave behind is swept
    for process in venv.processes:
        process.join()


@contextlib.contextmanager
def real_envs(config: TrainPolicy) -> Iterator[Any]:
    """The environments of a training as an SB3 VecEnv; their processes are stopped at the end.

    Raises:
        UserError: an unknown environment, or a learner that does not fit it.
    """
    from worldmodel import envs
    from worldmodel.collect.learner_view import LearnerView

    out, learner = config.out, config.learner
    env, kwargs = config.choose_env()
    # wrong names and options are refused here, not in every process
    probe = envs.make(env, **kwargs)
    check_algorithm(learner.algo, probe.meta.action_space)
    view = LearnerView(probe, learner).view
    check_encoder_input(view.shape)
    probe.close()
    process_manager = load_process_manager(probe.process_manager)

    from stable_baselines3.common.vec_env import SubprocVecEnv

    from worldmodel.common.channels_first import VecChannelsFirst

    run, records = out / "run.json", out / "processes"
    token = json.loads(run.read_text())["token"] if run.exists() else uuid.uuid4().hex
    records.mkdir(parents=True, exist_ok=True)
    # saved before the first engine is launched: the next run needs the token to sweep engines of a killed one
    save_run_info(run, "train policy", config, token=token, **initial_weights(config))
    process_manager.sweep(token, records)
    # the fork server imports torch and SB3 once; the environment processes are forks of it
    start_forkserver(["worldmodel.collect.learner_view", __name__])
    factory = LearnerEnvFactory(
        env=env,
        env_kwargs=kwargs,
        process_manager=probe.process_manager,
        learner=learner,
        token=token,
        records_dir=records,
        registrations=pickle_registrations(env),
    )
    try:
        venv = SubprocVecEnv([factory] * learner.num_envs, start_method="forkserver")
    except (EOFError, ConnectionError) as error:
        raise UserError(
            f"an environment process of {env!r} died at start; its error is above. A script must call "
            "train_policy under `if __name__ == '__main__':`."
        ) from error
    try:
        yield VecChannelsFirst(venv)
    finally:
        close_processes(venv)
        process_manager.sweep(token, records)
        shutil.rmtree(records, ignore_errors=True)


def dream_keywords(learner: LearnerConfig) -> dict[str, Any]:
    """The keyword arguments of `DreamLearnerEnv` that the settings of a training give."""
    from worldmodel.dream.dream_options import RECORDED

    return {
        "frame_stack": learner.frame_stack,
        "last_action": learner.last_action,
        "view": learner.view,
        "hold": learner.hold,
        "reward": DREAM_REWARDS[learner.reward],
        "reward_scale": learner.reward_scale,
        "mirror": learner.mirror,
        "horizon": RECORDED if learner.horizon is None else learner.horizon,
        "temperature": learner.temperature,
        "start_before_end": learner.start_before_end,
        "disagreement_penalty": learner.disagreement_penalty,
        "backend": learner.backend,
        "threads": learner.threads,
    }


@contextlib.contextmanager
def dream_envs(config: TrainPolicy) -> Iterator[Any]:
    """Dreams of the worlds at `config.world` and `config.more_worlds` as an SB3 VecEnv.

    Raises:
        UserError: no such world, a learner that does not fit it, or a test environment with other actions or frames.
    """
    from worldmodel import envs
    from worldmodel.collect.learner_view import LearnerView
    from worldmodel.common.channels_first import VecChannelsFirst
    from worldmodel.dream import DreamLearnerEnv

    assert config.world is not None
    learner = config.learner
    venv: Any = DreamLearnerEnv(
        [config.world, *config.more_worlds] if config.more_worlds else config.world,
        learner.num_envs,
        **dream_keywords(learner),
        starts_from=config.starts_from or None,
        seed=config.seed,
        device=config.device,
    )
    space = from_gymnasium(venv.action_space)
    check_algorithm(learner.algo, space)
    if not isinstance(venv, VecChannelsFirst):
        venv = VecChannelsFirst(venv)
    channels, height, width = venv.observation_space.shape
    check_encoder_input((height, width, channels))
    if config.test_episodes:
        name, kwargs = config.choose_env()
        env = envs.make(name, **kwargs)
        meta = env.meta
        try:
            if meta.action_space != space:
                raise UserError(f"{name} has actions {meta.action_space}, the world {config.world} has {space}.")
            shape, dream_shape = LearnerView(env, learner).view.shape, (height, width, channels)
            if shape != dream_shape:
                raise UserError(
                    f"the policy would observe {shape} in {name} and {dream_shape} in the dream; give --size, "
                    "--crop or --learner.view such that both are the same."
                )
        finally:
            env.close()
    config.out.mkdir(parents=True, exist_ok=True)
    save_run_info(config.out / "run.json", "train policy", config, **initial_weights(config))
    yield venv
