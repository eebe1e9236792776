"""One dream as a gymnasium environment. Observations are frames, uint8 (H, W, 3)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch

from worldmodel.common import spaces
from worldmodel.common.display import Display
from worldmodel.common.errors import UserError, unknown_name
from worldmodel.dream.simulator import Simulator
from worldmodel.dream.simulator_state import SimulatorState, SimulatorStep
from worldmodel.prior.context import Context
from worldmodel.prior.sampling import Sampling
from worldmodel.world.world_model import WorldModel

DEFAULT_HORIZON = "recorded"
FRAME_INFO = ("codes",)  # what `info` tells of a frame when it is asked for


def load(world: str | Path | WorldModel, device: str | torch.device) -> WorldModel:
    """A world, loaded unless it is already."""
    return world if isinstance(world, WorldModel) else WorldModel.from_pretrained(world, device)


def horizon_of(world: WorldModel, horizon: int | str | None) -> int | None:
    """Steps until truncation: the number given, or the recorded environment's; None has none."""
    if horizon == DEFAULT_HORIZON:
        return world.spec.max_steps
    if horizon is None or (isinstance(horizon, int) and horizon >= 1):
        return horizon
    raise UserError(f"horizon={horizon!r}: wanted a number of steps, None for no end, or 'recorded'.")


def observation_space_of(world: WorldModel) -> gymnasium.spaces.Box:
    """Frames."""
    return gymnasium.spaces.Box(0, 255, world.spec.pixels.frame_shape, np.uint8)


def row_seed(seed: int | None, generator: np.random.Generator) -> int:
    """The row's seed as int64: the one given, or one drawn."""
    chosen = int(generator.integers(2**63)) if seed is None else int(seed)
    return chosen % 2**63


class DreamEnv(gymnasium.Env[np.ndarray, Any]):
    """A learned world as an environment with the real one's spaces.

    `terminated` is the model's word, `truncated` the horizon's; both together never occur. `info` holds
    `log_prob` (nats of the frame shown), `surprise` (nats a code, its negative mean), `hazard`
    (probability of the end that was drawn from), `status` where the world has a hidden variable (its value in the
    middle of the bin) and, after a reset, `start` (index into the world's starts).

    Args:
        world: a world directory, or a loaded `WorldModel`.
        horizon: steps until truncation; "recorded" takes the recorded environment's, None has none. A world that
            knows only so many frames (`prior.max_frames`) truncates at its last one in any case.
        temperature, top_k, top_p: how the frames' codes are drawn, see `Sampling`.
        starts, batch_invariant, backend: see `Simulator`.
        info: what `info` holds besides, after resets too: "codes", (h, w) int64 of the frame shown.
        render_mode: None, "rgb_array", or "human": a window that follows every step.
        device: where a world given as a directory is loaded.

    Raises:
        UserError: not a world directory, or an argument out of range.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array", "human"], "render_fps": 9}  # noqa: RUF012 (gymnasium's own)

    def __init__(
        self,
        world: str | Path | WorldModel,
        horizon: int | str | None = DEFAULT_HORIZON,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        starts: str = "episode",
        batch_invariant: bool = False,
        info: Sequence[str] = (),
        backend: str = "auto",
        render_mode: str | None = None,
        device: str = "cpu",
    ) -> None:
        if render_mode not in (None, "rgb_array", "human"):
            raise UserError(f"render_mode={render_mode!r}: wanted None, 'rgb_array' or 'human'.")
        self.world = load(world, device)
        self.horizon = horizon_of(self.world, horizon)
        self.observation_space = observation_space_of(self.world)
        self.action_space = spaces.to_gymnasium(self.world.spec.action_space)
        self.render_mode, self.info = render_mode, checked_info(info)
        self.simulator = Simulator(
            self.world,
            1,
            sampling=Sampling(temperature, top_k, top_p),
            starts=starts,
            batch_invariant=batch_invariant,
            backend=backend,
        )
        self._seeded = False
        self._window: Display | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin a dream.

        Args:
            seed: the same seed and the same actions bring the same dream, here and as a row of a batch.
            options: {"start": i} begins at the world's i-th start; {"frames": (T, H, W, 3) uint8, "actions":
                (T-1,) or (T-1, A)} after frames of your own.

        Returns:
            The reconstruction of the start, (H, W, 3) uint8, and info.
        """
        super().reset(seed=seed)
        if seed is not None or not self._seeded:
            self.simulator.seed(torch.tensor([row_seed(seed, self.np_random)]))
            self._seeded = True
        options = options or {}
        start, context = options.get("start"), None
        if "frames" in options:
            context = context_of(self.world, options["frames"], options.get("actions", ()))
        frames = self.simulator.reset(starts=None if start is None else torch.tensor([int(start)]), context=context)
        self._show()
        return frames[0].cpu().numpy(), {"start": int(self.simulator.state.starts[0]), **self._asked()}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Take a step; as gymnasium's."""
        checked = spaces.check_actions(self.world.spec.action_space, action, "action")
        out = self.simulator.step(torch.as_tensor(checked)[None])
        terminated = bool(out.terminations[0])
        steps = int(self.simulator.state.steps[0])
        over = (self.horizon is not None and steps >= self.horizon) or bool(self.simulator.at_max_frames[0])
        truncated = not terminated and over
        self._show()
        info = {name: float(values[0]) for name, values in step_info(self.world, out).items()}
        return (
            out.frames[0].cpu().numpy(), float(out.rewards[0]), terminated, truncated, {**info, **self._asked()}
        )  # fmt: skip

    def _asked(self) -> dict[str, np.ndarray]:
        """What `info` was asked to hold besides."""
        return {name: rows[0].copy() for name, rows in frame_info(self.simulator.state, self.info).items()}

    def render(self) -> np.ndarray | None:
        """The frame last shown, (H, W, 3) uint8, in mode "rgb_array"; "human" shows it by itself."""
        if self.render_mode != "rgb_array":
            return None
        return self.simulator.state.frames[0].cpu().numpy().copy()

    def _show(self) -> None:
        """Show the frame in the window of mode "human"."""
        if self.render_mode == "human":
            if self._window is None:
                self._window = Display(f"a dream of {self.world.spec.env}", self.metadata["render_fps"])
            self._window.show(self.simulator.state.frames[0].cpu().numpy())

    def close(self) -> None:
        """Close the window, if there is one."""
        if self._window is not None:
            self._window.close()
            self._window = None


def context_of(world: WorldModel, frames: Any, actions: Any) -> Context:
    """One row of context from frames (T, H, W, 3) uint8 and the T-1 actions between them."""
    space, frames, taken = world.spec.action_space, np.ascontiguousarray(frames), np.asarray(actions)
    taken = spaces.check_actions(space, taken) if taken.size else np.zeros((0, *space.shape), space.dtype)
    return world.context(torch.as_tensor(frames)[None], torch.as_tensor(taken)[None])


def step_info(world: WorldModel, out: SimulatorStep) -> dict[str, torch.Tensor]:
    """What every step tells beside its result, (N,) float32 each."""
    h, w = world.tokenizer.grid
    told = {"status": out.status_values} if world.prior.status_config.num_bins else {}
    return told | {"log_prob": out.log_probs, "surprise": -out.log_probs / (h * w), "hazard": out.hazards}


def frame_info(state: SimulatorState, names: Sequence[str]) -> dict[str, np.ndarray]:
    """What is told of the frames shown where it was asked for, a row each."""
    return {name: getattr(state, name).cpu().numpy() for name in names}


def checked_info(names: Sequence[str]) -> tuple[str, ...]:
    """Names of `FRAME_INFO`, or a sentence that says which there are."""
    names = (names,) if isinstance(names, str) else tuple(names)
    for name in names:
        if name not in FRAME_INFO:
            raise unknown_name("info", str(name), FRAME_INFO)
    return names
