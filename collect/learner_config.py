"""Settings of a training with Stable-Baselines3, and those measured for each environment. Cheap to import."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from worldmodel.common.errors import UserError


@dataclass(frozen=True)
class LearnerConfig:
    """Settings of a training with Stable-Baselines3. One decision is `hold` environment steps."""

    algo: Literal["ppo", "a2c", "dqn", "sac"] = "ppo"
    """The algorithm; sac needs a continuous (Box) action space, dqn a Discrete one."""
    decisions: int = 200_000
    """Length of the training in decisions, over all environments."""
    minutes: float | None = None
    """Stop after this time even if `decisions` is not reached."""
    num_envs: int = 8
    """Environments stepped in parallel: one process each, or one batch of dreams."""
    frame_stack: int = 4
    """Number of frames in the policy's observation."""
    last_action: bool = False
    """The policy also observes its last action, as constant planes behind the frames."""
    view: tuple[int, int, int, int] | None = None
    """Top, bottom, left, right of the part of the frame that the policy observes, in pixels of the frame before
    --crop; the whole frame if not given."""
    hold: int = 1
    """Environment steps per action."""
    reward: Literal["env", "health", "health_change"] = "env"
    """The environment's reward, or the loss of its variable `health` in hundredths (never positive), or the change of
    `health` in hundredths (gains are positive)."""
    reward_scale: float = 1.0
    """Factor on the reward."""
    mirror: bool = False
    """Mirror each episode of the training with probability one half: the policy observes flipped frames and its
    actions are mirrored. Only in environments whose row declares it."""
    horizon: int | None = None
    """With --world: environment steps after which a dream is truncated; the recorded limit if not given."""
    temperature: float = 1.0
    """With --world: temperature of the sampled frames; above 1 dreams are more varied and less certain."""
    start_before_end: float = 0.0
    """With --starts-from: share of dreams that begin shortly before a termination or a loss of the world's hidden
    variable, such as a hit."""
    disagreement_penalty: float = 0.0
    """With --more-worlds: the next world follows each dream; this weight times the difference of their predicted
    hazards, and of their expected hidden variable in hundredths, is subtracted from the reward of each step."""
    backend: Literal["auto", "torch", "onnx"] = "auto"
    """With --world: what steps the dreams; onnx makes an export of the world, once, and keeps it in a cache."""
    threads: int = 1
    """Threads of torch, and with --world of the dreams; environments run in processes of their own."""
    learning_rate: float = 3e-4
    gamma: float = 0.99
    rollout_steps: int = 128
    """PPO and A2C: decisions of each environment between updates."""
    batch_size: int = 256
    epochs: int = 4
    """PPO: passes over a rollout."""
    entropy: float = 0.01
    """PPO and A2C: weight of the entropy bonus."""
    buffer_size: int = 20_000
    """DQN and SAC: decisions in the replay buffer."""
    width: int = 32
    """Channels of the first convolution."""
    schedule: Literal["constant", "linear"] = "constant"
    """Learning rate over the training; linear falls to 0 at the end of `decisions` or `minutes`, whichever is first."""
    normalize_reward: bool = False
    """Divide rewards by the running standard deviation of the discounted return (SB3's VecNormalize)."""
    gae_lambda: float | None = None
    """PPO and A2C: lambda of generalized advantage estimation; 0.95 for PPO and 1 for A2C if not given."""
    clip_range: float = 0.2
    """PPO: range of the clipped probability ratio."""
    value_coef: float = 0.5
    """PPO and A2C: weight of the value loss."""
    max_grad_norm: float = 0.5
    """PPO and A2C: largest norm of the gradient."""
    checkpoint_seconds: float = 30.0
    """Seconds between checkpoints."""

    def __post_init__(self) -> None:
        for name in _COUNTS:
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise UserError(f"learner.{name}={getattr(self, name)}: wanted at least 1.")
        for name, (accepted, wanted) in _RANGES.items():
            value = getattr(self, name)
            if value is not None and not accepted(value):
                raise UserError(f"learner.{name}={value}: wanted {wanted}.")
        if self.algo == "ppo" and min(self.batch_size, self.rollout_steps * self.num_envs) < 2:
            raise UserError(
                f"learner.batch_size={self.batch_size}, rollout_steps={self.rollout_steps}, num_envs={self.num_envs}: "
                "ppo needs batches of at least 2 decisions."
            )
        if self.view is not None and not (0 <= self.view[0] < self.view[1] and 0 <= self.view[2] < self.view[3]):
            raise UserError(f"learner.view={self.view}: wanted 0 <= top < bottom and 0 <= left < right.")

    @staticmethod
    def from_json(data: dict[str, Any]) -> LearnerConfig:
        """The settings that policy.json holds, where tuples are lists."""
        view = data.get("view")
        return LearnerConfig(**{**data, "view": None if view is None else tuple(view)})


_COUNTS = (
    "decisions", "num_envs", "frame_stack", "hold", "rollout_steps", "batch_size", "epochs", "buffer_size", "width",
    "horizon", "threads",
)  # fmt: skip
_RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    "minutes": (lambda x: 0 < x < math.inf, "a positive number"),
    "learning_rate": (lambda x: 0 < x < math.inf, "a positive number"),
    "gamma": (lambda x: 0 <= x <= 1, "a number from 0 to 1"),
    "gae_lambda": (lambda x: 0 <= x <= 1, "a number from 0 to 1"),
    "clip_range": (lambda x: 0 < x < math.inf, "a positive number"),
    "value_coef": (lambda x: 0 <= x < math.inf, "a number of at least 0"),
    "max_grad_norm": (lambda x: 0 < x < math.inf, "a positive number"),
    "entropy": (lambda x: 0 <= x < math.inf, "a number of at least 0"),
    "reward_scale": (lambda x: math.isfinite(x) and x != 0, "a number other than 0"),
    "checkpoint_seconds": (lambda x: x >= 0, "a number of at least 0"),
    "temperature": (lambda x: 0 <= x < math.inf, "a number of at least 0"),
    "disagreement_penalty": (lambda x: 0 <= x < math.inf, "a number of at least 0"),
    "start_before_end": (lambda x: 0 <= x <= 1, "a share from 0 to 1"),
}


# Measured settings per environment (docs/benchmarks.md, docs/worlds).
LEARNER_PRESETS: dict[str, LearnerConfig] = {
    "doom/take-cover": LearnerConfig(view=(20, 52, 0, 64), hold=4, reward="health", gamma=0.95),
    "doom/health-gathering-supreme": LearnerConfig(
        decisions=250_000,
        frame_stack=2,
        hold=2,
        reward="health_change",
        learning_rate=7e-4,
        schedule="linear",
        gamma=0.97,
        epochs=3,
        width=16,
    ),
    # continues a clone of the scripted fighter (docs/worlds/battle.md); without it nothing was learned in 17 minutes
    "doom/battle2": LearnerConfig(
        decisions=300_000,
        frame_stack=2,
        learning_rate=3e-4,
        schedule="linear",
        gamma=0.97,
        epochs=3,
        entropy=0.001,
        width=16,
    ),
    "toy": LearnerConfig(learning_rate=1e-3, rollout_steps=64, batch_size=128, gamma=0.97),
    "toy/continuous": LearnerConfig(learning_rate=1e-3, rollout_steps=64, batch_size=128, gamma=0.97),
}


def learner_config(env: str, algo: str | None = None) -> LearnerConfig:
    """The measured settings of an environment, else the defaults."""
    learner = LEARNER_PRESETS.get(env, LearnerConfig())
    return learner if algo is None else replace(learner, algo=algo)  # type: ignore[arg-type]


# What differs for learning in dreams; the settings of results/take-cover-dreams.
_DREAM_CHANGES: dict[str, dict[str, Any]] = {
    "doom/take-cover": {"num_envs": 64, "rollout_steps": 32, "batch_size": 512, "learning_rate": 7e-4},
}


def dream_learner_config(env: str) -> LearnerConfig:
    """The settings for learning in a dream of an environment: many dreams in one batch, short rollouts."""
    changes = _DREAM_CHANGES.get(env, {"num_envs": 32, "rollout_steps": 16, "learning_rate": 1e-3})
    return replace(learner_config(env), **changes)
