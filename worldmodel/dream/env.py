"""The simulator's gymnasium faces: one dream (`DreamEnv`) and many at once (`DreamVectorEnv`).

Shapes: N sub-environments, H W pixels, A action size. Observations are frames, uint8 (H, W, 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from worldmodel import spaces
from worldmodel.dream.simulator import Simulator, SimulatorStep
from worldmodel.errors import UserError
from worldmodel.model import WorldModel

DEFAULT_HORIZON = "recorded"


def _load(world: str | Path | WorldModel, device: str) -> WorldModel:
    return world if isinstance(world, WorldModel) else WorldModel.from_pretrained(world, device)


def _horizon(world: WorldModel, horizon: int | str | None) -> int | None:
    if horizon == DEFAULT_HORIZON:
        return world.spec.max_steps
    if horizon is None or (isinstance(horizon, int) and horizon >= 1):
        return horizon
    raise UserError(f"horizon={horizon!r}: wanted a number of steps, None for no end, or 'recorded'.")


def _observation_space(world: WorldModel) -> gymnasium.spaces.Box:
    return gymnasium.spaces.Box(0, 255, world.spec.pixels.frame_shape, np.uint8)


def _row_seed(seed: int | None, generator: np.random.Generator) -> int:
    """The row's seed as int64: the one given, or one drawn."""
    chosen = int(generator.integers(2**63)) if seed is None else int(seed)
    return chosen % 2**63


class DreamEnv(gymnasium.Env[np.ndarray, Any]):
    """A learned world as an environment with the real one's spaces.

    `terminated` is the model's word, `truncated` the horizon's; both together never occur. `info` holds
    `log_prob` (nats of the frame shown), `surprise` (nats a code, its negative mean), `hazard`
    (probability of the end that was drawn from) and, after a reset, `start` (index into the world's starts).

    Args:
        world: a world directory, or a loaded `WorldModel`.
        horizon: steps until truncation; "recorded" takes the recorded environment's, None has none.
        temperature: of the frames' codes, 0 or more.
        starts: "episode" or "any", see `Simulator`.
        render_mode: None or "rgb_array".
        device: where a world given as a directory is loaded.

    Raises:
        UserError: not a world directory, or an argument out of range.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 9}  # noqa: RUF012 (gymnasium's own)

    def __init__(
        self,
        world: str | Path | WorldModel,
        horizon: int | str | None = DEFAULT_HORIZON,
        temperature: float = 1.0,
        starts: str = "episode",
        render_mode: str | None = None,
        device: str = "cpu",
    ) -> None:
        if render_mode not in (None, "rgb_array"):
            raise UserError(f"render_mode={render_mode!r}: wanted None or 'rgb_array'.")
        self.world = _load(world, device)
        self.horizon = _horizon(self.world, horizon)
        self.observation_space = _observation_space(self.world)
        self.action_space = spaces.to_gymnasium(self.world.spec.action_space)
        self.render_mode = render_mode
        self.simulator = Simulator(self.world, 1, temperature=temperature, starts=starts)
        self._seeded = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin a dream.

        Args:
            seed: the same seed and the same actions bring the same dream, here and as a row of a batch.
            options: {"start": i} begins at the world's i-th start.

        Returns:
            The reconstruction of the start, (H, W, 3) uint8, and info.
        """
        super().reset(seed=seed)
        if seed is not None or not self._seeded:
            self.simulator.seed(torch.tensor([_row_seed(seed, self.np_random)]))
            self._seeded = True
        start = (options or {}).get("start")
        frames = self.simulator.reset(starts=None if start is None else torch.tensor([int(start)]))
        return frames[0].cpu().numpy().copy(), {"start": int(self.simulator.state.starts[0])}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Take a step; as gymnasium's."""
        checked = spaces.check_actions(self.world.spec.action_space, action, "action")
        out = self.simulator.step(torch.as_tensor(checked)[None])
        terminated = bool(out.terminations[0])
        steps = int(self.simulator.state.steps[0])
        truncated = not terminated and self.horizon is not None and steps >= self.horizon
        info = {name: float(values[0]) for name, values in _info(self.world, out).items()}
        return out.frames[0].cpu().numpy().copy(), float(out.rewards[0]), terminated, truncated, info

    def render(self) -> np.ndarray | None:
        """The frame last shown, (H, W, 3) uint8, in mode "rgb_array"."""
        if self.render_mode is None:
            return None
        return self.simulator.state.frames[0].cpu().numpy().copy()


class DreamVectorEnv(VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """N dreams stepped as one batch, autoreset mode NEXT_STEP: the step after an end resets that row.

    Row i of `reset(seed=s)` dreams what a `DreamEnv` with `reset(seed=s + i)` does.

    Args:
        num_envs: N.
        world, horizon, temperature, starts, render_mode, device: as for `DreamEnv`.
        max_episode_steps: another name for the horizon, which gymnasium's `make_vec` may pass.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 (gymnasium's own)
        "render_modes": ["rgb_array"],
        "render_fps": 9,
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }

    def __init__(
        self,
        num_envs: int = 1,
        *,
        world: str | Path | WorldModel,
        horizon: int | str | None = DEFAULT_HORIZON,
        temperature: float = 1.0,
        starts: str = "episode",
        render_mode: str | None = None,
        device: str = "cpu",
        max_episode_steps: int | None = None,
    ) -> None:
        if render_mode not in (None, "rgb_array"):
            raise UserError(f"render_mode={render_mode!r}: wanted None or 'rgb_array'.")
        self.world = _load(world, device)
        self.horizon = _horizon(self.world, horizon if max_episode_steps is None else max_episode_steps)
        self.num_envs, self.render_mode = num_envs, render_mode
        self.single_observation_space = _observation_space(self.world)
        self.single_action_space = spaces.to_gymnasium(self.world.spec.action_space)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.simulator = Simulator(self.world, num_envs, temperature=temperature, starts=starts)
        self._seeded = False
        self._finished = np.zeros(num_envs, bool)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin a dream in every row.

        Args:
            seed: row i takes seed + i; or one seed a row.
            options: {"start": i} or {"start": (N,) indices}.

        Returns:
            (N, H, W, 3) uint8 and info.
        """
        if seed is None or isinstance(seed, int | np.integer):
            seeds: list[int | None] = [None if seed is None else int(seed) + i for i in range(self.num_envs)]
        else:
            seeds = list(seed)
        for i, row_seed in enumerate(seeds):
            if row_seed is not None or not self._seeded:
                generator = seeding.np_random(row_seed)[0]
                value = torch.tensor([_row_seed(row_seed, generator)])
                self.simulator.seed(value, torch.tensor([i]))
        self._seeded = True
        start = (options or {}).get("start")
        chosen = None if start is None else torch.as_tensor(np.broadcast_to(start, self.num_envs).copy())
        frames = self.simulator.reset(starts=chosen)
        self._finished[:] = False
        return frames.cpu().numpy().copy(), {"start": self.simulator.state.starts.cpu().numpy().copy()}

    def step(self, actions: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Take a step in every row; rows that ended on the step before begin anew and ignore their action."""
        checked = spaces.check_actions(self.world.spec.action_space, actions)
        again = self._finished.copy()
        out = self.simulator.step(torch.as_tensor(checked))
        rewards = out.rewards.cpu().numpy().astype(np.float64)
        terminations = out.terminations.cpu().numpy().copy()
        info = {name: values.cpu().numpy() for name, values in _info(self.world, out).items()}
        frames = out.frames
        if again.any():
            frames = self.simulator.reset(torch.as_tensor(np.flatnonzero(again)))
            rewards[again], terminations[again] = 0.0, False
            info = {name: np.where(again, 0, values) for name, values in info.items()}
        truncations = np.zeros(self.num_envs, bool)
        if self.horizon is not None:
            truncations = (self.simulator.state.steps.cpu().numpy() >= self.horizon) & ~terminations
        self._finished = terminations | truncations
        return frames.cpu().numpy().copy(), rewards, terminations, truncations, info

    def render(self) -> tuple[np.ndarray, ...] | None:
        """The frames last shown, one (H, W, 3) uint8 a row, in mode "rgb_array"."""
        if self.render_mode is None:
            return None
        return tuple(self.simulator.state.frames.cpu().numpy().copy())


def _info(world: WorldModel, out: SimulatorStep) -> dict[str, torch.Tensor]:
    h, w = world.tokenizer.grid
    return {"log_prob": out.log_probs, "surprise": -out.log_probs / (h * w), "hazard": out.hazards}
