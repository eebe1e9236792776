"""Policies for many dreams at once.

Shapes: R rows (dreams of a batch), H W pixels, A action size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from worldmodel.collect.policy_specs import PolicySpec, uses_privileged_state
from worldmodel.common.errors import UserError
from worldmodel.common.spaces import Space
from worldmodel.envs.env_registry import scripted_policy

if TYPE_CHECKING:
    from worldmodel.metrics import PolicyFactory


def batch_policy(spec: PolicySpec, space: Space, env: Any = None) -> PolicyFactory:
    """A policy as `worldmodel.metrics` plays it in dreams.

    A row of a scripted policy depends on the seed and the number of the row. A learned policy predicts all rows at once
    with one generator, so its rows also depend on how many there are.

    Args:
        spec: the policy.
        space: the action space of the dreams.
        env: for kind "file": a `PixelEnv` with the dreams' frames; it may be closed.

    Raises:
        UserError: a policy that needs more than frames, or does not fit the environment.
    """
    if "lookahead" in spec.params:
        raise UserError(f"policy {spec.name!r} dreams before each decision; it plays in environments, not in dreams.")
    if spec.kind == "file":
        return _learned_policy(spec, space, env)
    if spec.kind == "scripted" and uses_privileged_state(scripted_policy(str(spec.params["entry_point"]))):
        raise UserError(f"policy {spec.name!r} uses the privileged state of the environment; a dream has none.")

    def begin(seed: int, num_rows: int) -> Callable[[np.ndarray], np.ndarray]:
        policies = [spec.build(space) for _ in range(num_rows)]
        for row, policy in enumerate(policies):
            policy.begin(np.random.default_rng([seed, row]))

        def act(frames: np.ndarray) -> np.ndarray:  # (R, H, W, 3) uint8
            actions = [policy.act(frame) for policy, frame in zip(policies, frames, strict=True)]
            return np.asarray(actions, space.dtype)  # (R,) or (R, A)

        return act

    return begin


def _learned_policy(spec: PolicySpec, space: Space, env: Any) -> PolicyFactory:
    policy: Any = replace(spec, epsilon=0.0).build(space, env)
    if policy.uses_inner_observation:
        raise UserError(f"policy {spec.name!r} observes more than frames, so it cannot act in a dream.")
    # of DQN, which replaces some of its actions by uniform ones; a held action is replaced in each step
    epsilon = spec.epsilon if policy.exploration is None or policy.deterministic else policy.exploration
    policy.exploration = None if policy.exploration is None else 0.0

    def begin(seed: int, num_rows: int) -> Callable[[np.ndarray], np.ndarray]:
        rng = np.random.default_rng([seed, num_rows])
        policy.begin(rng)

        def act(frames: np.ndarray) -> np.ndarray:  # (R, H, W, 3) uint8
            actions = np.array(policy.act(frames), space.dtype)  # (R,) or (R, A), a copy
            for row in np.flatnonzero(rng.random(num_rows) < epsilon):
                actions[row] = space.sample(rng)
            return actions

        return act

    return begin
