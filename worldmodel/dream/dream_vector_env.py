"""Many dreams as one gymnasium VectorEnv, stepped as one batch.

Shapes: N sub-environments, H W pixels, A action size. Observations are frames, uint8 (N, H, W, 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from worldmodel.common import spaces
from worldmodel.common.errors import UserError, unknown_name
from worldmodel.dream.dream_env import (
    DEFAULT_HORIZON,
    checked_info,
    frame_info,
    horizon_of,
    load,
    observation_space_of,
    row_seed,
    step_info,
)
from worldmodel.dream.simulator import Simulator
from worldmodel.prior.sampling import Sampling
from worldmodel.world.world_model import WorldModel

Info = dict[str, Any]


class DreamVectorEnv(VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """N dreams in one of gymnasium's three autoreset modes.

    Row i of `reset(seed=s)` dreams what a `DreamEnv` with `reset(seed=s + i)` does, and infos are those of
    gymnasium's `SyncVectorEnv` over such environments: an array a key, and under "_key" the rows that have it.

    Args:
        num_envs: N.
        world, horizon, temperature, top_k, top_p, starts, batch_invariant, backend, info, render_mode, device: as for
            `DreamEnv`.
        autoreset_mode: NEXT_STEP: the step after an end resets that row and ignores its action. SAME_STEP: the
            step of an end returns the next episode's first frame, the last one is in info["final_obs"]. DISABLED:
            call `reset(options={"reset_mask": rows})`.
        max_episode_steps: another name for the horizon, which gymnasium's `make_vec` may pass.

    Raises:
        UserError: not a world directory, or an argument out of range.
    """

    metadata: Info = {"render_modes": ["rgb_array"], "render_fps": 9}  # noqa: RUF012 (gymnasium's own)

    def __init__(
        self,
        num_envs: int = 1,
        *,
        world: str | Path | WorldModel,
        horizon: int | str | None = DEFAULT_HORIZON,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        starts: str = "episode",
        batch_invariant: bool = False,
        info: Sequence[str] = (),
        backend: str = "auto",
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
        device: str = "cpu",
        max_episode_steps: int | None = None,
    ) -> None:
        if render_mode not in (None, "rgb_array"):
            raise UserError(f"render_mode={render_mode!r}: wanted None or 'rgb_array'.")
        modes = {mode.value: mode for mode in AutoresetMode} | {mode.name: mode for mode in AutoresetMode}
        if not isinstance(autoreset_mode, AutoresetMode):
            if autoreset_mode not in modes:
                raise unknown_name("autoreset mode", str(autoreset_mode), [mode.value for mode in AutoresetMode])
            autoreset_mode = modes[autoreset_mode]
        self.mode = autoreset_mode
        self.metadata = {**type(self).metadata, "autoreset_mode": self.mode}
        self.world = load(world, device)
        self.horizon = horizon_of(self.world, horizon if max_episode_steps is None else max_episode_steps)
        self.num_envs, self.render_mode, self.info = num_envs, render_mode, checked_info(info)
        self.single_observation_space = observation_space_of(self.world)
        self.single_action_space = spaces.to_gymnasium(self.world.spec.action_space)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.simulator = Simulator(
            self.world,
            num_envs,
            sampling=Sampling(temperature, top_k, top_p),
            starts=starts,
            batch_invariant=batch_invariant,
            backend=backend,
        )
        self._seeded = np.zeros(num_envs, bool)
        self._finished = np.zeros(num_envs, bool)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: Info | None = None
    ) -> tuple[np.ndarray, Info]:
        """Begin dreams.

        Args:
            seed: row i takes seed + i; or one seed a row.
            options: {"start": i} or {"start": (N,) indices}; {"reset_mask": (N,) bool} resets only those rows.

        Returns:
            (N, H, W, 3) uint8 and info.

        Raises:
            UserError: a mask or a list of seeds that does not fit the rows, or an option that only `DreamEnv` takes.
        """
        options = dict(options or {})
        if "frames" in options:
            raise UserError(
                "options: a context of your own is taken by DreamEnv, for one dream, or by reset(context=...) of a "
                "dream.Simulator, for many; here give {'start': indices}."
            )
        mask = np.asarray(options.pop("reset_mask", np.ones(self.num_envs, bool)))
        if mask.shape != (self.num_envs,) or mask.dtype != np.bool_ or not mask.any():
            raise UserError(f"reset_mask: wanted ({self.num_envs},) bool with a True in it, got {mask}.")
        if seed is None or isinstance(seed, int | np.integer):
            seeds: list[int | None] = [None if seed is None else int(seed) + i for i in range(self.num_envs)]
        else:
            seeds = list(seed)
        if len(seeds) != self.num_envs:
            raise UserError(f"seed: got {len(seeds)} seeds for {self.num_envs} rows; wanted one a row, or a number.")
        for i in np.flatnonzero(mask):
            if seeds[i] is not None or not self._seeded[i]:
                value = row_seed(seeds[i], seeding.np_random(seeds[i])[0])
                self.simulator.seed(torch.tensor([value]), torch.tensor([i]))
                self._seeded[i] = True
        start = options.get("start")
        chosen = None if start is None else torch.as_tensor(np.broadcast_to(start, self.num_envs)[mask].copy())
        info = self._begin(mask, chosen)
        return self._frames(), info

    def _begin(self, mask: np.ndarray, starts: torch.Tensor | None = None) -> Info:
        """Reset the rows of a mask."""
        self.simulator.reset(torch.as_tensor(np.flatnonzero(mask)), starts)
        self._finished[mask] = False
        state = self.simulator.state
        return _masked({"start": state.starts.cpu().numpy(), **frame_info(state, self.info)}, mask)

    def _frames(self) -> np.ndarray:
        return self.simulator.state.frames.cpu().numpy().copy()

    def step(self, actions: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, Info]:
        """Take a step in every row.

        Args:
            actions: (N,) or (N, A).

        Returns:
            Frames (N, H, W, 3) uint8, rewards (N,) float64, terminations and truncations (N,) bool, info.

        Raises:
            UserError: actions outside the space, or in mode DISABLED a row that has ended.
        """
        checked = spaces.check_actions(self.world.spec.action_space, actions)
        if len(np.atleast_1d(checked)) != self.num_envs:
            raise UserError(f"actions: got {len(np.atleast_1d(checked))} for {self.num_envs} rows; wanted one a row.")
        again = self._finished.copy()
        if self.mode == AutoresetMode.DISABLED and again.any():
            raise UserError(
                f"rows {np.flatnonzero(again).tolist()} have ended; call reset(options={{'reset_mask': mask}}) first, "
                f"mask ({self.num_envs},) bool, True for these."
            )
        out = self.simulator.step(torch.as_tensor(checked))
        rewards = out.rewards.cpu().numpy().astype(np.float64)
        terminations = out.terminations.cpu().numpy().copy()
        told = {name: v.cpu().numpy() for name, v in step_info(self.world, out).items()}
        told |= frame_info(self.simulator.state, self.info)
        info = _masked(told, ~again)
        if again.any():  # NEXT_STEP
            info |= self._begin(again)
            rewards[again], terminations[again] = 0.0, False
        truncations = self.simulator.at_max_frames.cpu().numpy() & ~terminations
        if self.horizon is not None:
            truncations |= (self.simulator.state.steps.cpu().numpy() >= self.horizon) & ~terminations
        done = terminations | truncations
        if self.mode == AutoresetMode.SAME_STEP and done.any():
            last = np.full(self.num_envs, None, object)
            for i, frame in zip(np.flatnonzero(done), self._frames()[done], strict=True):
                last[i] = frame
            ended = {"final_obs": last, "final_info": _masked(told, done)}
            info = _masked(told, ~done) | ended | {f"_{name}": done.copy() for name in ended} | self._begin(done)
        else:
            self._finished = done.copy()
            if done.any():  # those that were cut off as well
                self.simulator.hold(torch.as_tensor(done))
        info |= _masked(frame_info(self.simulator.state, self.info), np.ones(self.num_envs, bool))
        return self._frames(), rewards, terminations, truncations, info

    def render(self) -> tuple[np.ndarray, ...] | None:
        """The frames last shown, one (H, W, 3) uint8 a row, in mode "rgb_array"."""
        return None if self.render_mode is None else tuple(self._frames())


def _masked(values: dict[str, np.ndarray], mask: np.ndarray) -> Info:
    """An info in gymnasium's form: zero where a row has no value, and under "_name" which rows have one."""
    if not mask.any():
        return {}
    wide = {name: value.astype(np.float64 if value.dtype.kind == "f" else np.int64) for name, value in values.items()}
    info: Info = {name: np.where(mask.reshape(-1, *[1] * (v.ndim - 1)), v, 0) for name, v in wide.items()}
    return info | {f"_{name}": mask.copy() for name in values}
