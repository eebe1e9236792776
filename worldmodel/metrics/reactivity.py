"""Reactivity: whether a policy's return depends on what it observes.

The policy plays episode i once by itself, and once it acts in episode i while it observes another episode: episode i
then gets the actions of the policy's own play of the other one. A policy that ignores its observations is as good; one
that reacts to them is not.

If episode i outlasts the other one, the policy continues: it observes the next episode of the other's row, without
a signal that one began. So the actions of a policy that ignores its observations have the same distribution in both
plays, however long they are.

Shapes: R rows (dreams), H W pixels, A action size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from worldmodel.metrics.dream_play import begin_episodes, play_dreams
from worldmodel.metrics.evaluation_run import PolicyFactory
from worldmodel.metrics.statistics import Estimate, ratio
from worldmodel.prior.sampling import Sampling
from worldmodel.world.world_model import WorldModel


@dataclass(frozen=True)
class Reactivity:
    """Mean returns over N episodes.

    Attributes:
        own: of the policy that observes the episode it plays.
        replayed: of the actions that it takes when it observes another episode.
        difference: own minus replayed, paired by episode. Its interval takes the pairs as independent, although each
            episode is observed in two of them.
    """

    own: Estimate
    replayed: Estimate
    difference: Estimate

    @property
    def reacts(self) -> bool:
        """Whether the 95 % interval of the difference excludes 0."""
        return self.difference.sign != 0

    def to_json(self) -> dict[str, Any]:
        """{"own", "replayed", "own_minus_replayed", "reacts"}."""
        return {
            "own": self.own.to_json(),
            "replayed": self.replayed.to_json(),
            "own_minus_replayed": self.difference.to_json(),
            "reacts": self.reacts,
        }


def estimate_reactivity(own: np.ndarray, replayed: np.ndarray) -> Reactivity:
    """Reactivity from returns (N,) of the same episodes."""
    return Reactivity(*(ratio(x, np.ones(len(own))) for x in (own, replayed, own - replayed)))


def other_episodes(count: int) -> np.ndarray:
    """For each of N episodes the one that is observed instead, (N,) int64: the next, and for the last the first."""
    return (np.arange(count) + 1) % count


def dream_reactivity(world: WorldModel, policy: PolicyFactory, num_dreams: int, seed: int = 0) -> Reactivity:
    """Reactivity of a policy in dreams.

    Raises:
        UserError: see `dream_play.episode_steps`.
    """
    own = play_dreams(world, policy, num_dreams, seed)
    replayed = play_dreams(world, observe_other_dreams(world, policy), num_dreams, seed)
    return estimate_reactivity(own.returns, replayed.returns)


def observe_other_dreams(
    world: WorldModel,
    policy: PolicyFactory,
    others: Callable[[int], np.ndarray] = other_episodes,
    sampling: Sampling = Sampling(exact=False),  # noqa: B008 (frozen)
) -> PolicyFactory:
    """A policy that acts on dreams of its own instead of the frames it is given.

    Args:
        world: the world of both.
        policy: the policy that observes.
        others: number of rows -> for each row the row whose actions it gets.
        sampling: how codes of the observed dreams are sampled.

    Returns:
        A policy whose row i, begun with seed s, takes the actions of row others[i] of `play_dreams(world, policy,
        seed=s)`, and continues in further dreams of that row.
    """

    def begin(seed: int, num_rows: int) -> Callable[[np.ndarray], np.ndarray]:
        simulator = begin_episodes(world, torch.arange(num_rows) + seed, sampling)
        act_inside, order = policy(seed, num_rows), others(num_rows)

        def act(frames: np.ndarray) -> np.ndarray:  # of the dreams that are played, (R, H, W, 3) uint8
            actions = np.asarray(act_inside(simulator.state.frames.cpu().numpy()))  # (R,) or (R, A)
            ended = simulator.step(torch.as_tensor(actions)).terminations
            simulator.reset(ended)
            return actions[order]

        return act

    return begin
