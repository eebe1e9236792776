"""Many dreams as a learner sees them: part of the frame, stacked, each action held for some steps.

Shapes: N rows, H W pixels of a frame, h w of the part that is seen, D frames in a stack.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch

from worldmodel.common import spaces
from worldmodel.common.errors import UserError
from worldmodel.common.runtime import choose_runtime
from worldmodel.dream.dream_env import DEFAULT_HORIZON, horizon_of, load
from worldmodel.dream.dream_vec_env import BatchVecEnv
from worldmodel.dream.simulator import Simulator
from worldmodel.prior.sampling import Sampling
from worldmodel.world.world_model import WorldModel


class DreamLearnerEnv(BatchVecEnv):
    """An SB3 VecEnv whose one step is `hold` steps of every dream; as `collect.view.LearnerView` over a real one.

    A row that ends while its action is held waits until the others are through, and then begins anew. infos of a
    finished row have `terminal_observation`, `TimeLimit.truncated` and `episode` (the dream's return and steps).

    Args:
        world: a world directory, or a loaded `WorldModel`.
        num_envs: N.
        frame_stack: D.
        view: (top, bottom, left, right) that is seen, in pixels of the whole picture the environment's screen is
            averaged to: a world that learned a crop of it shows the same part. None shows all the world's frame.
        hold: steps of the dream for each action.
        reward: "env" is the world's own reward; "status" the expected change of the hidden variable in hundredths,
            never above 0, where an end takes all that was left.
        reward_scale: factor on the reward.
        horizon, temperature: as for `DreamEnv`.
        seed: row i begins with seed + i.
        device: "auto", "cpu" or "cuda": where a world given as a directory is loaded. On a GPU matrix products are in
            bfloat16, as in training.

    Raises:
        UserError: a view outside the world's frame, or reward="status" of a world without one.
    """

    def __init__(
        self,
        world: str | Path | WorldModel,
        num_envs: int,
        *,
        frame_stack: int = 4,
        view: tuple[int, int, int, int] | None = None,
        hold: int = 1,
        reward: str = "env",
        reward_scale: float = 1.0,
        horizon: int | str | None = DEFAULT_HORIZON,
        temperature: float = 1.0,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        runtime = choose_runtime(world.device.type if isinstance(world, WorldModel) else device)
        loaded = load(world, runtime.device)
        if reward not in ("env", "status"):
            raise UserError(f"reward={reward!r}: wanted 'env' or 'status'.")
        if reward == "status" and not loaded.prior.status_config.num_bins:
            raise UserError(
                "reward='status' needs a world with a hidden variable; this one learned none. Train it with "
                "--prior.status.variable, or take reward='env'."
            )
        self.world, self.horizon = loaded, horizon_of(loaded, horizon)
        self.part = part_seen(loaded, view)
        shape = (self.part[0].stop - self.part[0].start, self.part[1].stop - self.part[1].start, 3 * frame_stack)
        self.target, self.render_mode = self, None
        action_space = spaces.to_gymnasium(loaded.spec.action_space)
        super().__init__(num_envs, gymnasium.spaces.Box(0, 255, shape, np.uint8), action_space)
        self.hold, self.reward, self.reward_scale = hold, reward, reward_scale
        self.simulator = Simulator(loaded, num_envs, seed, Sampling(temperature, exact=False), dtype=runtime.dtype)
        self.stack = np.zeros((num_envs, *shape), np.uint8)  # (N, h, w, 3*D), oldest first
        self.returns, self.lengths = np.zeros(num_envs), np.zeros(num_envs, np.int64)
        self.begun = time.monotonic()

    def _begin(self, rows: np.ndarray) -> None:
        """Reset rows, (n,) int64, and fill their stacks with their first frame."""
        frames = self.simulator.reset(torch.from_numpy(rows)).cpu().numpy()[(rows, *self.part)]
        self.stack[rows] = np.tile(frames, self.stack.shape[-1] // 3)
        self.returns[rows], self.lengths[rows] = 0.0, 0

    def reset(self) -> np.ndarray:
        """Begin a dream in every row: (N, h, w, 3*D) uint8."""
        for i, seed in enumerate(self._seeds):
            if seed is not None:
                self.simulator.seed(torch.tensor([seed]), torch.tensor([i]))
        self._reset_seeds()
        self._begin(np.arange(self.num_envs))
        return self.stack.copy()

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Stacks (N, h, w, 3*D) uint8, rewards (N,) float32, dones (N,) bool, one info a row."""
        actions = torch.as_tensor(spaces.check_actions(self.world.spec.action_space, self._actions))
        simulator, count = self.simulator, self.num_envs
        rewards, terminated, truncated = np.zeros(count), np.zeros(count, bool), np.zeros(count, bool)
        for _ in range(self.hold):
            alive = ~(terminated | truncated)
            had = simulator.status_to_values(simulator.state.prior.status)
            out = simulator.step(actions)
            paid = out.rewards.cpu().numpy()
            self.returns += np.where(alive, paid, 0.0)
            if self.reward == "status":
                # dead is nothing at all, whatever the last bin said
                kept = (out.status_probs @ simulator.status_values) * (1 - out.hazards)
                paid = ((kept - had).clamp_max(0.0) / 100).nan_to_num().cpu().numpy()
            rewards += np.where(alive, paid, 0.0)
            frames = simulator.state.frames.cpu().numpy()[(slice(None), *self.part)]
            pushed = np.concatenate([self.stack[..., 3:], frames], -1)
            self.stack = np.where(alive[:, None, None, None], pushed, self.stack)
            terminated |= alive & out.terminations.cpu().numpy()
            self.lengths += alive
            over = simulator.at_max_frames.cpu().numpy()
            if self.horizon is not None:
                over |= self.lengths >= self.horizon
            cut = alive & ~terminated & over
            truncated |= cut
            if (terminated | truncated).all():
                break
            if cut.any():
                simulator.hold(torch.from_numpy(cut))
        dones = terminated | truncated
        infos: list[dict[str, Any]] = [{"TimeLimit.truncated": bool(cut)} for cut in truncated]
        finished = np.flatnonzero(dones)
        for i in finished:
            seconds = round(time.monotonic() - self.begun, 6)
            infos[i]["terminal_observation"] = self.stack[i].copy()
            infos[i]["episode"] = {"r": float(self.returns[i]), "l": int(self.lengths[i]), "t": seconds}
        if len(finished):
            self._begin(finished)
        return self.stack.copy(), (rewards * self.reward_scale).astype(np.float32), dones, infos

    def step_async(self, actions: np.ndarray) -> None:
        """Keep the actions, (N,) or (N, A), for `step_wait`."""
        self._actions = actions

    def close(self) -> None:
        """Nothing is held that had to be let go."""

    def get_images(self) -> Sequence[np.ndarray | None]:
        """The dreams' whole frames."""
        return list(self.simulator.state.frames.cpu().numpy())


def part_seen(world: WorldModel, view: tuple[int, int, int, int] | None) -> tuple[slice, slice]:
    """Rows and columns of the world's frame that a view of the whole picture shows.

    Raises:
        UserError: the view is not inside what the world shows.
    """
    height, width, _ = world.spec.pixels.frame_shape
    if view is None:
        return slice(0, height), slice(0, width)
    down, _, across, _ = world.spec.pixels.crop or (0, 0, 0, 0)
    top, bottom, left, right = view[0] - down, view[1] - down, view[2] - across, view[3] - across
    if not (0 <= top < bottom <= height and 0 <= left < right <= width):
        raise UserError(
            f"view={view} is not inside the part of the picture that this world shows: rows {down} to "
            f"{down + height}, columns {across} to {across + width}."
        )
    return slice(top, bottom), slice(left, right)
