"""One dream as a gymnasium environment. Observations are frames, uint8 (H, W, 3)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

import gymnasium
import numpy as np
import torch

from worldmodel.common import spaces
from worldmodel.common.arguments import checked_integer
from worldmodel.common.display import Display
from worldmodel.common.errors import UserError, unknown_name
from worldmodel.common.threads import limit_threads
from worldmodel.dream.dream_options import FPS, RENDER_MODES, DreamKeywords, DreamOptions
from worldmodel.dream.simulator_state import SimulatorState, SimulatorStep
from worldmodel.prior.context import Context
from worldmodel.world.world_model import WorldModel

RESET_OPTIONS = ("start", "frames", "actions")


class DreamEnv(gymnasium.Env[np.ndarray, Any]):
    """A learned world as an environment with the spaces of the recorded one.

    `terminated` is predicted by the world, `truncated` comes from the horizon; they are never both True. `info` has
    `log_prob` (log-likelihood of the frame in nats), `surprise` (its negative mean per code), `hazard` (the probability
    with which the termination was sampled), `status` where the world has a hidden variable (the middle of its bin) and,
    after a reset, `start` (index into the world's starts).

    Args:
        world: a world directory, the name of a shipped world, or a loaded `WorldModel`.
        **options: the fields of `DreamOptions`.

    Raises:
        UserError: not a world directory, or an option that is unknown or out of range.
    """

    metadata: dict[str, Any] = {"render_modes": list(RENDER_MODES), "render_fps": FPS}  # noqa: RUF012 (gymnasium's own)

    def __init__(self, world: str | Path | WorldModel, **options: Unpack[DreamKeywords]) -> None:
        self.options = DreamOptions.from_keywords(options, self.metadata["render_modes"])
        self.simulator = self.options.simulator(world, 1)
        self.world = self.simulator.world
        self.horizon = self.options.max_steps(self.world)
        self.observation_space = frame_space(self.world)
        self.action_space = spaces.to_gymnasium(self.world.spec.action_space)
        self.render_mode = self.options.render_mode
        self._seeded = False
        self._window: Display | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin a dream.

        Args:
            seed: the same seed and the same actions give the same dream, here and as a row of a batch.
            options: {"start": i} begins at the world's i-th start; {"frames": (T, H, W, 3) uint8, "actions":
                (T-1,) or (T-1, A)} begins after given frames.

        Returns:
            The reconstruction of the start, (H, W, 3) uint8, and info.

        Raises:
            UserError: an unknown option, a start that does not exist, or frames and actions that do not fit.
        """
        seed = checked_seed(seed)
        super().reset(seed=seed)
        starts, context = self._begin_at(options or {})
        if seed is not None or not self._seeded:
            self.simulator.seed(torch.tensor([row_seed(seed, self.np_random)]))
            self._seeded = True
        frames = self.simulator.reset(starts=starts, context=context)
        self._show()
        return frames[0].cpu().numpy(), {"start": int(self.simulator.state.starts[0]), **self._frame_info()}

    def _begin_at(self, options: dict[str, Any]) -> tuple[torch.Tensor | None, Context | None]:
        """The start, (1,) int64, or the context that the options of a reset ask for."""
        check_reset_options(options, RESET_OPTIONS)
        if "frames" in options:
            if options.get("start") is not None:
                raise UserError("options: got a start and frames; give one of them.")
            return None, context_of_frames(self.world, options["frames"], options.get("actions", ()))
        if "actions" in options:
            raise UserError("options: 'actions' are those between 'frames'; give both.")
        start = options.get("start")
        return None if start is None else torch.tensor([checked_integer("start", start, least=None)]), None

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Take a step; as gymnasium's."""
        checked = spaces.check_actions(self.world.spec.action_space, action, "action")
        out = self.simulator.step(torch.as_tensor(checked)[None])
        terminated = bool(out.terminations[0])
        at_horizon = self.horizon is not None and int(self.simulator.state.steps[0]) >= self.horizon
        truncated = not terminated and (at_horizon or bool(self.simulator.at_max_frames[0]))
        self._show()
        info = {name: float(values[0]) for name, values in step_info(self.world, out).items()}
        frame, reward = out.frames[0].cpu().numpy(), float(out.rewards[0])
        return frame, reward, terminated, truncated, {**info, **self._frame_info()}

    def _frame_info(self) -> dict[str, np.ndarray]:
        """The keys of `info` that the options ask for."""
        fields = frame_info(self.simulator.state, self.options.info)
        return {name: rows[0].copy() for name, rows in fields.items()}

    def render(self) -> np.ndarray | None:
        """The current frame, (H, W, 3) uint8, in mode "rgb_array"; None otherwise."""
        if self.render_mode != "rgb_array":
            return None
        return self.simulator.state.frames[0].cpu().numpy().copy()

    def _show(self) -> None:
        """Show the frame in the window of mode "human"."""
        if self.render_mode == "human":
            if self._window is None:
                self._window = Display(f"a dream of {self.world.spec.env}", FPS)
            self._window.show(self.simulator.state.frames[0].cpu().numpy())

    def close(self) -> None:
        """Close the window, if there is one."""
        if self._window is not None:
            self._window.close()
            self._window = None


def frame_space(world: WorldModel) -> gymnasium.spaces.Box:
    """The observation space of one dream: frames."""
    return gymnasium.spaces.Box(0, 255, world.spec.pixels.frame_shape, np.uint8)


def checked_seed(seed: Any) -> int | None:
    """A seed as gymnasium takes it.

    Raises:
        UserError: neither None nor an integer of at least 0.
    """
    return None if seed is None else checked_integer("seed", seed, least=0)


def row_seed(seed: int | None, generator: np.random.Generator) -> int:
    """A row's seed as int64: the given one, or one sampled from the generator."""
    chosen = int(generator.integers(2**63)) if seed is None else seed
    return chosen % 2**63


def check_reset_options(options: Mapping[str, Any], names: Iterable[str]) -> None:
    """Refuse options of a reset that are unknown.

    Raises:
        UserError: an unknown option.
    """
    names = tuple(names)
    for name in options:
        if name not in names:
            raise unknown_name("reset option", str(name), names)


def context_of_frames(world: WorldModel, frames: Any, actions: Any) -> Context:
    """One row of context from frames (T, H, W, 3) uint8 and the T-1 actions between them."""
    space, frames, actions = world.spec.action_space, np.ascontiguousarray(frames), np.asarray(actions)
    empty = np.zeros((0, *space.shape), space.dtype)
    actions = spaces.check_actions(space, actions) if actions.size else empty
    with limit_threads(1):
        return world.context(torch.as_tensor(frames)[None], torch.as_tensor(actions)[None])


def step_info(world: WorldModel, out: SimulatorStep) -> dict[str, torch.Tensor]:
    """The keys of `info` after every step, (N,) float32 each."""
    h, w = world.tokenizer.grid
    status = {"status": out.status_values} if world.prior.status_config.num_bins else {}
    return status | {"log_prob": out.log_probs, "surprise": -out.log_probs / (h * w), "hazard": out.hazards}


def frame_info(state: SimulatorState, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Fields of the state that describe the current frames, N rows each."""
    return {name: getattr(state, name).cpu().numpy() for name in names}
