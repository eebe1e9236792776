"""Comparing all actions of recorded states in dreams that share their random numbers.

One dream a state and action is enough: what the dreams of a state have in common cancels in the difference of their
returns, and the noise that is left averages out over states.

Shapes: B states, A actions, K decisions of a dream, C h w of an observation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from worldmodel.common.files import atomic_path


@dataclass(frozen=True)
class Comparisons:
    """Returns of all actions of some states.

    Attributes:
        observations: (B, C, h, w) uint8, what the policy observed.
        returns: (B, A) float32, discounted, of a dream that begins with each action.
        probabilities: (B, A) float32, of the policy that is improved.
    """

    observations: np.ndarray
    returns: np.ndarray
    probabilities: np.ndarray

    def __len__(self) -> int:
        """B."""
        return len(self.returns)

    @staticmethod
    def concatenate(parts: list[Comparisons]) -> Comparisons:
        """All states of some parts, at least one."""
        return Comparisons(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in vars(parts[0])})

    def save(self, path: Path, minutes: float) -> None:
        """Write atomically to a .npz, with the minutes that it took."""
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez(file, minutes=minutes, **vars(self))

    @staticmethod
    def load(path: Path) -> tuple[Comparisons, float]:
        """Read what `save` wrote."""
        with np.load(path) as arrays:
            values = dict(arrays)
        minutes = float(values.pop("minutes"))
        return Comparisons(**values), minutes


@torch.no_grad()
def action_probabilities(model: Any, observations: np.ndarray) -> np.ndarray:
    """Probabilities (B, A) of the actions of an SB3 actor-critic, for observations (B, C, h, w) uint8."""
    inputs = torch.as_tensor(observations, device=model.device)
    return model.policy.get_distribution(inputs).distribution.probs.cpu().numpy()


def compare_actions(dreams: Any, model: Any, decisions: int, gamma: float, seed: int | Sequence[int]) -> Comparisons:
    """Compare the actions of B states: each dream takes one of them, then follows the policy.

    Args:
        dreams: a `DreamLearnerEnv` of A*B rows that begins at recorded time steps.
        model: the policy, an SB3 actor-critic with a Discrete action space.
        decisions: K; a dream that ends before gets no more rewards.
        gamma: discount of a decision.
        seed: of the states, the dreams and the sampled actions, as `numpy.random.default_rng` takes it.

    Returns:
        The comparisons, a function of the arguments.
    """
    num_actions = int(dreams.action_space.n)
    num, rng = dreams.num_envs // num_actions, np.random.default_rng(seed)
    observations = dreams.reset_with_seeds(np.tile(rng.integers(2**31, size=num), num_actions))  # (A*B, C, h, w)
    first = observations[:num].copy()
    returns = returns_by_action(dreams, model, observations, rng.random((decisions, num)), gamma)
    return Comparisons(first, returns.astype(np.float32), action_probabilities(model, first))


def returns_by_action(
    dreams: Any, model: Any, observations: np.ndarray, uniforms: np.ndarray, gamma: float
) -> np.ndarray:
    """Discounted returns (B, A) of dreams that begin with each action and then follow the policy.

    Args:
        dreams: a `DreamLearnerEnv` of A*B rows that have just begun; row a*B + b is state b with action a.
        model: the policy.
        observations: (A*B, C, h, w) uint8, the current ones.
        uniforms: (K, B) float64 in [0, 1): from which the later actions of all dreams of a state are sampled.
        gamma: discount of a decision.
    """
    num_actions, num = int(dreams.action_space.n), uniforms.shape[1]
    shared = np.tile(uniforms, num_actions)  # (K, A*B)
    actions = np.repeat(np.arange(num_actions), num)
    returns, running, discount = np.zeros(len(actions)), np.ones(len(actions), bool), 1.0
    for k in range(len(uniforms)):
        if k:
            actions = sample_actions(action_probabilities(model, observations), shared[k])
        observations, rewards, dones, _ = dreams.step(actions)
        returns += discount * rewards * running
        running &= ~dones
        discount *= gamma
    return returns.reshape(num_actions, num).T


def better_actions(returns: np.ndarray, own: np.ndarray, margin: float) -> np.ndarray:
    """The action of the highest return where it exceeds that of the own action by `margin`, else the own one, (B,).

    Args:
        returns: (B, A).
        own: (B,) int64.
        margin: at least 0.
    """
    rows, best = np.arange(len(own)), returns.argmax(1)
    return np.where(returns[rows, best] - returns[rows, own] >= margin, best, own)


def sample_actions(probabilities: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
    """Actions (B,) int64 of probabilities (B, A), by the inverse of their sums: a function of uniforms (B,)."""
    return (uniforms[:, None] > probabilities.cumsum(1)).sum(1).clip(max=probabilities.shape[1] - 1)
