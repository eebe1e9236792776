"""Play one episode of an environment with a policy: T steps, T+1 frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from worldmodel.collect.policies import Policy
from worldmodel.common.spaces import check_actions
from worldmodel.data.episode import Episode


class Transition(NamedTuple):
    """One step of an environment; of a reset only `frame` and `info` are meaningful."""

    frame: np.ndarray  # (H, W, 3) uint8
    info: dict[str, Any]
    action: Any = None
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False


def episode_seeds(seed: int, index: int) -> tuple[int, np.random.Generator]:
    """The environment's seed and the policy's generator of an episode, pure functions of (seed, index).

    Returns:
        An int in [0, 2**31) for `env.reset(seed=)`, and a new generator.
    """
    environment = np.random.SeedSequence(seed, spawn_key=(0, index)).generate_state(1)[0]
    return int(environment) & 0x7FFFFFFF, np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1, index)))


def play_steps(env: Any, act: Callable[[np.ndarray], Any], env_seed: int) -> Iterator[Transition]:
    """Play one episode step by step.

    Args:
        env: a `PixelEnv`.
        act: frame -> action.
        env_seed: seed for `env.reset`.

    Yields:
        The reset, then one transition per step until the episode ends.
    """
    frame, info = env.reset(seed=env_seed)
    yield Transition(frame, info)
    ended = False
    while not ended:
        action = act(frame)
        frame, reward, terminated, truncated, info = env.step(action)
        ended = bool(terminated or truncated)
        yield Transition(frame, info, action, reward, terminated, truncated)


def play(
    env: Any,
    policy: Policy,
    *,
    index: int,
    seed: int,
    policy_name: str,
    before_step: Callable[[], None] | None = None,
    env_seed: int | None = None,
) -> Episode:
    """Play one whole episode.

    Args:
        env: a `PixelEnv`.
        policy: gets a generator that is derived from (seed, index).
        index: the episode's number in the recording.
        seed: the recording's seed.
        policy_name: stored with the episode.
        before_step: called before every step; may raise to stop.
        env_seed: seed for `env.reset`, stored with the episode; by default derived from (seed, index).

    Raises:
        UserError: the policy returned an action outside the action space.
    """
    derived_seed, rng = episode_seeds(seed, index)
    env_seed = derived_seed if env_seed is None else env_seed
    space = env.meta.action_space
    uses_inner_observation = getattr(policy, "uses_inner_observation", False)
    actions: list[np.ndarray] = []

    def act(frame: np.ndarray) -> Any:
        if before_step is not None:
            before_step()
        observation = env.inner_observation if uses_inner_observation else frame
        action = check_actions(space, policy.act(observation), f"action of policy {policy_name!r}")
        actions.append(action)
        return action if space.shape else int(action)

    episode = play_steps(env, act, env_seed)
    reset = next(episode)
    policy.begin(rng)
    transitions = [reset, *episode]
    steps = transitions[1:]
    return Episode(
        frames=np.stack([transition.frame for transition in transitions]),  # (T+1, H, W, 3)
        frame_valid=np.asarray([transition.info["frame_valid"] for transition in transitions], bool),
        actions=np.stack(actions).astype(space.dtype),  # (T,) or (T, A)
        rewards=np.asarray([step.reward for step in steps], np.float32),
        terminations=np.asarray([step.terminated for step in steps], bool),
        truncations=np.asarray([step.truncated for step in steps], bool),
        variables={
            name: np.asarray([transition.info["variables"][name] for transition in transitions], np.float32)
            for name in env.meta.variables
        },
        index=index,
        seed=env_seed,
        policy=policy_name,
    )
