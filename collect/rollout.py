"""Play one episode of an environment with a policy: T steps, T+1 frames."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from worldmodel.collect.policies import Policy
from worldmodel.common.spaces import check_actions
from worldmodel.data.episode import Episode


def episode_seeds(seed: int, index: int) -> tuple[int, np.random.Generator]:
    """The environment's seed and the policy's generator of an episode, pure functions of (seed, index).

    Returns:
        An int in [0, 2**31) for `env.reset(seed=)`, and a new generator.
    """
    environment = np.random.SeedSequence(seed, spawn_key=(0, index)).generate_state(1)[0]
    return int(environment) & 0x7FFFFFFF, np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1, index)))


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
        policy: its randomness is derived from (seed, index).
        index: the episode's number in the recording.
        seed: the recording's seed.
        policy_name: stored with the episode.
        before_step: called before every step; may raise to stop.
        env_seed: seed for `env.reset`; by default derived from (seed, index).

    Returns:
        The episode; its `seed` is the seed of `env.reset`.

    Raises:
        UserError: the policy returned an action outside the action space.
    """
    derived_seed, rng = episode_seeds(seed, index)
    env_seed = derived_seed if env_seed is None else env_seed
    space = env.meta.action_space
    frame, info = env.reset(seed=env_seed)
    policy.begin(rng)
    frames, valid, variables = [frame], [info["frame_valid"]], [info["variables"]]
    actions: list[np.ndarray] = []
    rewards: list[float] = []
    terminations: list[bool] = []
    truncations: list[bool] = []
    ended = False
    while not ended:
        if before_step is not None:
            before_step()
        action = check_actions(space, policy.act(frame), f"action of policy {policy_name!r}")
        frame, reward, terminated, truncated, info = env.step(action if space.shape else int(action))
        ended = bool(terminated or truncated)
        frames.append(frame)
        valid.append(info["frame_valid"])
        variables.append(info["variables"])
        actions.append(action)
        rewards.append(float(reward))
        terminations.append(bool(terminated))
        truncations.append(bool(truncated))
    return Episode(
        frames=np.stack(frames),  # (T+1, H, W, 3)
        frame_valid=np.asarray(valid, bool),
        actions=np.stack(actions).astype(space.dtype),  # (T,) or (T, A)
        rewards=np.asarray(rewards, np.float32),
        terminations=np.asarray(terminations, bool),
        truncations=np.asarray(truncations, bool),
        variables={name: np.asarray([v[name] for v in variables], np.float32) for name in env.meta.variables},
        index=index,
        seed=env_seed,
        policy=policy_name,
    )
