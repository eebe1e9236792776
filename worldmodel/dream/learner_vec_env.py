"""Many dreams as a learning policy observes them: a part of the frame, stacked, with held actions.

Shapes: N rows, H W pixels of a frame, h w of the visible part, D frames in a stack, A action size.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypedDict, Unpack

import gymnasium
import numpy as np
import torch

from worldmodel.common import spaces
from worldmodel.common.arguments import checked_integer
from worldmodel.common.channels_first import VecChannelsFirst
from worldmodel.common.errors import UserError, unknown_name
from worldmodel.common.policy_view import FrameStack, PolicyView, Rectangle
from worldmodel.common.runtime import choose_runtime
from worldmodel.common.threads import limit_threads
from worldmodel.dream.batch_vec_env import BatchVecEnv
from worldmodel.dream.dream_options import RECORDED, DreamOptions
from worldmodel.dream.simulator import Simulator
from worldmodel.dream.simulator_state import SimulatorStep
from worldmodel.prior.sampling import Sampling
from worldmodel.world.world_model import WorldModel

REWARDS = ("env", "status", "status_change")


class LearnerKeywords(TypedDict, total=False):
    """The keyword arguments of `DreamLearnerEnv`: the fields of `LearnerOptions`."""

    frame_stack: int
    view: Rectangle | None
    hold: int
    reward: str
    reward_scale: float
    horizon: int | str | None
    temperature: float
    seed: int
    device: str


@dataclass(frozen=True)
class LearnerOptions:
    """Options of dreams in which a policy learns.

    Attributes:
        frame_stack: D.
        view: (top, bottom, left, right) of the visible part, in pixels of the whole frame before the world's crop;
            None shows the world's frame.
        hold: steps of the dream per action.
        reward: "env" is the world's reward; "status" the expected change of the hidden variable in hundredths, at most
            0; a termination counts as the loss of all that was left; "status_change" the same, gains included.
        reward_scale: factor of the reward.
        horizon, temperature: as in `DreamOptions`.
        seed: row i begins with seed + i.
        device: "auto", "cpu" or "cuda": where a world given as a directory is loaded. On a GPU, matrix products are in
            bfloat16, as in training.

    Raises:
        UserError: a value out of range.
    """

    frame_stack: int = 4
    view: Rectangle | None = None
    hold: int = 1
    reward: str = "env"
    reward_scale: float = 1.0
    horizon: int | str | None = RECORDED
    temperature: float = 1.0
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name, least in (("frame_stack", 1), ("hold", 1), ("seed", 0)):
            object.__setattr__(self, name, checked_integer(name, getattr(self, name), least))
        if self.reward not in REWARDS:
            raise unknown_name("reward", str(self.reward), REWARDS)

    @staticmethod
    def from_keywords(**keywords: Any) -> LearnerOptions:
        """Options from keyword arguments.

        Raises:
            UserError: an unknown keyword, or a value out of range.
        """
        names = [field.name for field in fields(LearnerOptions)]
        for name in keywords:
            if name not in names:
                raise unknown_name("option of dreams to learn in", name, names)
        return LearnerOptions(**keywords)

    def simulator(self, world: str | Path | WorldModel, num_rows: int) -> Simulator:
        """A simulator of a world, which is loaded first if it is a directory or a name.

        Raises:
            UserError: not a world directory, or a reward from the hidden variable in a world that has none.
        """
        runtime = choose_runtime(world.device.type if isinstance(world, WorldModel) else self.device)
        if not isinstance(world, WorldModel):
            with limit_threads(1):
                world = WorldModel.from_pretrained(world, runtime.device)
        if self.reward != "env" and not world.prior.status_config.num_bins:
            raise UserError(
                f"reward={self.reward!r} needs a world with a hidden variable; this one learned none. Train it with "
                "--prior.status.variable, or take reward='env'."
            )
        sampling = Sampling(self.temperature, exact=False)  # nobody reads the log-probabilities
        return Simulator(world, num_rows, self.seed, sampling, dtype=runtime.dtype)


class HeldDreams(BatchVecEnv):
    """The VecEnv inside `DreamLearnerEnv`; its observations have the channels last, (N, h, w, 3*D) uint8."""

    def __init__(self, world: str | Path | WorldModel, num_envs: int, **options: Unpack[LearnerKeywords]) -> None:
        num_envs = checked_integer("num_envs", num_envs)
        self.options = LearnerOptions.from_keywords(**options)
        self.hold = self.options.hold
        horizon = DreamOptions(horizon=self.options.horizon)
        self.simulator = self.options.simulator(world, num_envs)
        self.world = self.simulator.world
        self.horizon = horizon.max_steps(self.world)
        self.view = policy_view(self.world, self.options.frame_stack, self.options.view)
        self.stack = FrameStack(self.options.frame_stack)
        self.observations = np.zeros((num_envs, *self.view.shape), np.uint8)  # (N, h, w, 3*D)
        self.returns, self.lengths = np.zeros(num_envs), np.zeros(num_envs, np.int64)
        self.start_time = time.monotonic()
        super().__init__(
            self,
            num_envs,
            gymnasium.spaces.Box(0, 255, self.view.shape, np.uint8),
            spaces.to_gymnasium(self.world.spec.action_space),
        )

    def reset(self) -> np.ndarray:
        """Begin a dream in every row: (N, h, w, 3*D) uint8."""
        for i, seed in enumerate(self._seeds):
            if seed is not None:
                self.simulator.seed(torch.tensor([seed]), torch.tensor([i]))
        self._reset_seeds()
        self.observations = self.stack.reset(self.view.crop(self.simulator.reset().cpu().numpy()))
        self.returns[:], self.lengths[:] = 0.0, 0
        return self.observations.copy()

    def _reset_rows(self, rows: np.ndarray) -> None:
        """Reset rows, (n,) int64; the others stay unchanged."""
        frames = self.simulator.reset(torch.from_numpy(rows)).cpu().numpy()[rows]
        self.observations = self.stack.reset(self.view.crop(frames), rows)
        self.returns[rows], self.lengths[rows] = 0.0, 0

    def step_async(self, actions: np.ndarray) -> None:
        """Keep the actions, (N,) or (N, A), for `step_wait`."""
        self._actions = actions

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Stacks (N, h, w, 3*D) uint8, rewards (N,) float32, dones (N,) bool, one info per row."""
        actions = torch.as_tensor(spaces.check_actions(self.world.spec.action_space, self._actions))
        rewards, terminations, truncations = self._hold_actions(actions)
        dones = terminations | truncations
        infos: list[dict[str, Any]] = [{"TimeLimit.truncated": bool(x)} for x in truncations]
        finished = np.flatnonzero(dones)
        for i in finished:
            seconds = round(time.monotonic() - self.start_time, 6)
            infos[i]["terminal_observation"] = self.observations[i].copy()
            infos[i]["episode"] = {"r": float(self.returns[i]), "l": int(self.lengths[i]), "t": seconds}
        if len(finished):
            self._reset_rows(finished)
        return self.observations.copy(), (rewards * self.options.reward_scale).astype(np.float32), dones, infos

    def _hold_actions(self, actions: torch.Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Take `hold` steps: sums of rewards (N,), terminations and truncations (N,) bool.

        A row that ends stays unchanged until all rows have taken their steps.
        """
        simulator, count = self.simulator, self.num_envs
        rewards, terminations, truncations = np.zeros(count), np.zeros(count, bool), np.zeros(count, bool)
        for _ in range(self.hold):
            active = ~(terminations | truncations)
            status_before = simulator.status_to_values(simulator.state.prior.status)
            out = simulator.step(actions)
            env_rewards = out.rewards.cpu().numpy()
            self.returns += np.where(active, env_rewards, 0.0)
            step_rewards = env_rewards if self.options.reward == "env" else self._status_rewards(status_before, out)
            rewards += np.where(active, step_rewards, 0.0)
            frames = simulator.state.frames.cpu().numpy()
            self.observations = self.stack.push(self.view.crop(frames), active)
            terminations |= active & out.terminations.cpu().numpy()
            self.lengths += active
            cut_off = active & ~terminations & self._at_last_step()
            truncations |= cut_off
            if (terminations | truncations).all():
                break
            if cut_off.any():
                simulator.hold(torch.from_numpy(cut_off))
        return rewards, terminations, truncations

    def _status_rewards(self, status_before: torch.Tensor, out: SimulatorStep) -> np.ndarray:
        """The expected change of the hidden variable in hundredths, (N,), and 0 where it is not known.

        After a termination nothing is left of it, whatever its last bin is. For the reward "status" it is at most 0.
        """
        change = (out.status_probs @ self.simulator.status_values) * (1 - out.hazards) - status_before
        change = change.clamp_max(0.0) if self.options.reward == "status" else change
        return (change / 100).nan_to_num().cpu().numpy()

    def _at_last_step(self) -> np.ndarray:
        """Rows at the horizon or at the last frame that the prior knows: (N,) bool."""
        at_end = self.simulator.at_max_frames.cpu().numpy()
        return at_end if self.horizon is None else at_end | (self.lengths >= self.horizon)

    def close(self) -> None:
        """There is nothing to close."""

    def get_images(self) -> Sequence[np.ndarray | None]:
        """The dreams' whole frames, (H, W, 3) uint8 each."""
        return list(self.simulator.state.frames.cpu().numpy())


class DreamLearnerEnv(VecChannelsFirst):
    """An SB3 VecEnv in which one step is `hold` steps of every dream; as `collect.learner_view` over an environment.

    Observations are (N, 3*D, h, w) uint8, with the channels first so that SB3 cannot take rows for channels. A row that
    ends while its action is held waits until the others have taken their steps, and is then reset. infos of a finished
    row have `terminal_observation`, `TimeLimit.truncated` and `episode` (the dream's return and number of steps).

    Args:
        world: a world directory, the name of a shipped world, or a loaded `WorldModel`.
        num_envs: N.
        **options: the fields of `LearnerOptions`.

    Raises:
        UserError: a view outside the world's frame, reward="status" of a world without a hidden variable, or an option
            that is unknown or out of range.
    """

    def __init__(self, world: str | Path | WorldModel, num_envs: int, **options: Unpack[LearnerKeywords]) -> None:
        super().__init__(HeldDreams(world, num_envs, **options))


def policy_view(world: WorldModel, frame_stack: int, view: Rectangle | None) -> PolicyView:
    """The view of a world's frames; `view` is in pixels of the whole frame before the world's crop.

    Raises:
        UserError: the view is not inside the world's frame.
    """
    pixels = world.spec.pixels
    return PolicyView(pixels.frame_shape, frame_stack, view, pixels.origin)
