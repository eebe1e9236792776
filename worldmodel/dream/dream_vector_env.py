"""Many dreams as one gymnasium VectorEnv, stepped as one batch.

Shapes: N sub-environments, H W pixels, A action size. Observations are frames, uint8 (N, H, W, 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from worldmodel.common import spaces
from worldmodel.common.arguments import checked_integer, is_integer
from worldmodel.common.errors import UserError, unknown_name
from worldmodel.dream.dream_env import (
    check_reset_options,
    checked_seed,
    frame_info,
    frame_space,
    row_seed,
    step_info,
)
from worldmodel.dream.dream_options import FPS, DreamKeywords, DreamOptions
from worldmodel.world.world_model import WorldModel

Info = dict[str, Any]
RESET_OPTIONS = ("start", "reset_mask")


class DreamVectorEnv(VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """N dreams in one of gymnasium's three autoreset modes.

    Row i of `reset(seed=s)` dreams the same as a `DreamEnv` with `reset(seed=s + i)`. Infos are those of gymnasium's
    `SyncVectorEnv` over such environments: an array per key, and under "_key" the rows that have it.

    Args:
        num_envs: N.
        world: a world directory, the name of a shipped world, or a loaded `WorldModel`.
        autoreset_mode: NEXT_STEP: the step after an end resets that row and ignores its action. SAME_STEP: the
            step of an end returns the next episode's first frame; the last one is in info["final_obs"]. DISABLED:
            call `reset(options={"reset_mask": rows})`.
        max_episode_steps: another name for the horizon, which gymnasium's `make_vec` may pass.
        **options: the fields of `DreamOptions`; render modes are None and "rgb_array".

    Raises:
        UserError: not a world directory, or an argument that is unknown or out of range.
    """

    metadata: Info = {"render_modes": ["rgb_array"], "render_fps": FPS}  # noqa: RUF012 (gymnasium's own)

    def __init__(
        self,
        num_envs: int = 1,
        *,
        world: str | Path | WorldModel,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        max_episode_steps: int | None = None,
        **options: Unpack[DreamKeywords],
    ) -> None:
        self.num_envs = checked_integer("num_envs", num_envs)
        self.autoreset_mode = _autoreset_mode(autoreset_mode)
        self.metadata = {**type(self).metadata, "autoreset_mode": self.autoreset_mode}
        if max_episode_steps is not None:
            options["horizon"] = max_episode_steps
        self.options = DreamOptions.from_keywords(options, self.metadata["render_modes"])
        self.render_mode = self.options.render_mode
        self.simulator = self.options.simulator(world, self.num_envs)
        self.world = self.simulator.world
        self.horizon = self.options.max_steps(self.world)
        self.single_observation_space = frame_space(self.world)
        self.single_action_space = spaces.to_gymnasium(self.world.spec.action_space)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._seeded = np.zeros(self.num_envs, bool)
        self._finished = np.zeros(self.num_envs, bool)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: Info | None = None
    ) -> tuple[np.ndarray, Info]:
        """Begin dreams.

        Args:
            seed: row i takes seed + i; or one seed per row.
            options: {"start": i} or {"start": (N,) indices}; {"reset_mask": (N,) bool} resets only those rows.

        Returns:
            (N, H, W, 3) uint8 and info.

        Raises:
            UserError: a mask, starts or seeds that do not fit the rows, or an option that is unknown or that only
                `DreamEnv` takes.
        """
        options = dict(options or {})
        if "frames" in options or "actions" in options:
            raise UserError(
                "options: frames to begin from are taken by DreamEnv, for one dream, or by reset(context=...) of a "
                "dream.Simulator, for many; here give {'start': indices}."
            )
        check_reset_options(options, RESET_OPTIONS)
        mask = np.asarray(options.get("reset_mask", np.ones(self.num_envs, bool)))
        if mask.shape != (self.num_envs,) or mask.dtype != np.bool_ or not mask.any():
            raise UserError(f"reset_mask: wanted ({self.num_envs},) bool with a True in it, got {mask}.")
        starts = None if options.get("start") is None else self._checked_starts(options["start"])[mask]
        seeds = self._row_seeds(seed)
        super().reset(seed=seeds[0] if is_integer(seed) else None)
        self._seed_rows(np.flatnonzero(mask), seeds)
        info = self._reset_rows(mask, None if starts is None else torch.from_numpy(starts))
        return self._frames(), info

    def _checked_starts(self, start: Any) -> np.ndarray:
        """The start of every row, (N,) int64."""
        starts = np.asarray(start)
        if starts.dtype.kind not in "iu" or starts.shape not in ((), (self.num_envs,)):
            raise UserError(f"start={start!r}: wanted an integer, or ({self.num_envs},) integers, one per row.")
        return np.broadcast_to(starts, self.num_envs).astype(np.int64)

    def _row_seeds(self, seed: Any) -> list[int | None]:
        """A seed, or None, for every row."""
        if seed is None:
            return [None] * self.num_envs
        if not isinstance(seed, Sequence | np.ndarray):
            first = checked_seed(seed)
            assert first is not None
            return [first + i for i in range(self.num_envs)]
        seeds = [checked_seed(x) for x in seed]
        if len(seeds) != self.num_envs:
            raise UserError(f"seed: got {len(seeds)} seeds for {self.num_envs} rows; wanted one per row, or a number.")
        return seeds

    def _seed_rows(self, rows: np.ndarray, seeds: list[int | None]) -> None:
        """Seed the rows that have a seed or that were never seeded."""
        index = [int(i) for i in rows if seeds[i] is not None or not self._seeded[i]]
        if index:
            values = [row_seed(seeds[i], self.np_random) for i in index]
            self.simulator.seed(torch.tensor(values), torch.tensor(index))
            self._seeded[index] = True

    def _reset_rows(self, mask: np.ndarray, starts: torch.Tensor | None = None) -> Info:
        """Reset the rows of a mask, (N,) bool."""
        self.simulator.reset(torch.as_tensor(np.flatnonzero(mask)), starts)
        self._finished[mask] = False
        state = self.simulator.state
        return _to_vector_info({"start": state.starts.cpu().numpy(), **frame_info(state, self.options.info)}, mask)

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
        actions = self._checked_actions(actions)
        resets = self._finished.copy()  # NEXT_STEP resets these rows instead of stepping them
        out = self.simulator.step(torch.as_tensor(actions))
        rewards = out.rewards.cpu().numpy().astype(np.float64)
        terminations = out.terminations.cpu().numpy().copy()
        fields = {name: values.cpu().numpy() for name, values in step_info(self.world, out).items()}
        fields |= frame_info(self.simulator.state, self.options.info)
        info = _to_vector_info(fields, ~resets)
        if resets.any():
            info |= self._reset_rows(resets)
            rewards[resets], terminations[resets] = 0.0, False
        truncations = self._truncations() & ~terminations
        done = terminations | truncations
        if self.autoreset_mode == AutoresetMode.SAME_STEP and done.any():
            info = self._reset_same_step(fields, done)
        else:
            self._finished = done.copy()
            if done.any():
                self.simulator.hold(torch.as_tensor(done))
        info |= _to_vector_info(frame_info(self.simulator.state, self.options.info), np.ones(self.num_envs, bool))
        return self._frames(), rewards, terminations, truncations, info

    def _checked_actions(self, actions: Any) -> np.ndarray:
        """Actions as the simulator takes them."""
        actions = spaces.check_actions(self.world.spec.action_space, actions)
        if len(np.atleast_1d(actions)) != self.num_envs:
            raise UserError(f"actions: got {len(np.atleast_1d(actions))} for {self.num_envs} rows; wanted one per row.")
        if self.autoreset_mode == AutoresetMode.DISABLED and self._finished.any():
            raise UserError(
                f"rows {np.flatnonzero(self._finished).tolist()} have ended; call "
                f"reset(options={{'reset_mask': mask}}) first, mask ({self.num_envs},) bool, True for these."
            )
        return actions

    def _truncations(self) -> np.ndarray:
        """Rows at the horizon or at the last frame that the prior knows: (N,) bool."""
        at_end = self.simulator.at_max_frames.cpu().numpy()
        if self.horizon is None:
            return at_end
        return at_end | (self.simulator.state.steps.cpu().numpy() >= self.horizon)

    def _reset_same_step(self, fields: dict[str, np.ndarray], done: np.ndarray) -> Info:
        """Reset the rows that are done; their last frames and infos are under "final_obs" and "final_info"."""
        last_frames = np.full(self.num_envs, None, object)
        for i, frame in zip(np.flatnonzero(done), self._frames()[done], strict=True):
            last_frames[i] = frame
        final: Info = {"final_obs": last_frames, "final_info": _to_vector_info(fields, done)}
        masks = {f"_{name}": done.copy() for name in final}
        return _to_vector_info(fields, ~done) | final | masks | self._reset_rows(done)

    def render(self) -> tuple[np.ndarray, ...] | None:
        """The current frames, one (H, W, 3) uint8 per row, in mode "rgb_array"; None otherwise."""
        return None if self.render_mode is None else tuple(self._frames())


def _autoreset_mode(mode: AutoresetMode | str) -> AutoresetMode:
    """The mode of a value, such as "SameStep", or of a name, such as "SAME_STEP"."""
    if isinstance(mode, AutoresetMode):
        return mode
    modes = {x.value: x for x in AutoresetMode} | {x.name: x for x in AutoresetMode}
    if mode not in modes:
        raise unknown_name("autoreset mode", str(mode), [x.value for x in AutoresetMode])
    return modes[mode]


def _to_vector_info(values: dict[str, np.ndarray], mask: np.ndarray) -> Info:
    """An info in gymnasium's form: zero where a row has no value, and under "_name" the rows that have one."""
    if not mask.any():
        return {}
    wide = {name: value.astype(np.float64 if value.dtype.kind == "f" else np.int64) for name, value in values.items()}
    info: Info = {name: np.where(mask.reshape(-1, *[1] * (v.ndim - 1)), v, 0) for name, v in wide.items()}
    return info | {f"_{name}": mask.copy() for name in values}
