"""Play an environment with the actions that a policy takes in another episode; see `metrics.reactivity`."""

from __future__ import annotations

from typing import Any

import numpy as np

from worldmodel.collect.policies import Policy
from worldmodel.collect.policy_specs import PolicySpec
from worldmodel.collect.rollout import episode_seeds, play


class OtherEpisodePolicy:
    """A policy that acts on an environment of its own instead of the frames it is given.

    Args:
        inner: the policy.
        env: the `PixelEnv` that it observes, of the same kind as the one that is played.
        seeds_between: an episode that ends is followed by the one whose seed is higher by this number; `inner` does
            not begin anew.
    """

    def __init__(self, inner: Policy, env: Any, seeds_between: int) -> None:
        self.inner, self.env, self.seeds_between = inner, env, seeds_between
        self.seed = 0  # of the observed episode; set it before `begin`

    def begin(self, rng: np.random.Generator) -> None:
        """Start the observed episode, as `rollout.play` with this seed and index does."""
        _, own_rng = episode_seeds(0, self.seed)
        self.frame, _ = self.env.reset(seed=self.seed)
        self.inner.begin(own_rng)

    def act(self, frame: np.ndarray) -> Any:
        """The action of the inner policy in the observed episode, which takes it too."""
        inner_observation = getattr(self.inner, "uses_inner_observation", False)
        action = self.inner.act(self.env.inner_observation if inner_observation else self.frame)
        self.frame, _, terminated, truncated, _ = self.env.step(action)
        if terminated or truncated:
            self.seed += self.seeds_between
            self.frame, _ = self.env.reset(seed=self.seed)
        return action


def replay_returns(
    env: str, env_kwargs: dict[str, Any], spec: PolicySpec, pairs: list[tuple[int, int]], seeds_between: int
) -> list[tuple[float, int]]:
    """Play environment seeds with the actions of a policy that observes other seeds, in this process.

    Args:
        env, env_kwargs, spec: as for `policy_evaluation.play_returns`.
        pairs: seed that is played, seed that is observed.
        seeds_between: see `OtherEpisodePolicy`.

    Returns:
        (return, steps) of each episode that is played.
    """
    from worldmodel import envs

    played, observed = (envs.make(env, **env_kwargs) for _ in range(2))
    try:
        policy = OtherEpisodePolicy(spec.build(observed.meta.action_space, observed), observed, seeds_between)
        out = []
        for seed, observed_seed in pairs:
            policy.seed = observed_seed
            episode = play(played, policy, index=seed, seed=0, policy_name=spec.name, env_seed=seed)
            out.append((float(episode.rewards.sum()), episode.length))
        return out
    finally:
        played.close()
        observed.close()
