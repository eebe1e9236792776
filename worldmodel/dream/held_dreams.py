"""Many dreams as a learning policy observes them: a part of the frame, stacked, with held actions.

Shapes: N rows, H W pixels of a frame, h w of the visible part, D frames in a stack, A action size.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack

import gymnasium
import numpy as np
import torch

from worldmodel.common import spaces
from worldmodel.common.action_planes import ActionPlanes
from worldmodel.common.arguments import checked_integer
from worldmodel.common.errors import UserError
from worldmodel.common.mirroring import action_mirror, flip_rows
from worldmodel.common.policy_view import FrameStack, PolicyView, Rectangle
from worldmodel.common.random import STREAM_MIRROR
from worldmodel.common.runtime import choose_runtime
from worldmodel.dream.batch_vec_env import BatchVecEnv
from worldmodel.dream.dream_options import DreamOptions
from worldmodel.dream.learner_options import LearnerKeywords, LearnerOptions
from worldmodel.dream.recorded_starts import recorded_starts
from worldmodel.dream.shadow_world import OutcomeRisk, ShadowWorld, expected_status
from worldmodel.dream.simulator_state import SimulatorStep
from worldmodel.prior.context import Context
from worldmodel.prior.sampling import uniforms
from worldmodel.world.world_model import WorldModel


class HeldDreams(BatchVecEnv):
    """The VecEnv inside `DreamLearnerEnv`; its observations have the channels last, (N, h, w, 3*D+P) uint8.

    Args:
        world: a world directory, the name of a shipped world, or a loaded `WorldModel`.
        num_envs: N.
        second_world: follows the dreams, for `disagreement_penalty`.
        **options: the fields of `LearnerOptions`.

    Raises:
        UserError: as `DreamLearnerEnv`.
    """

    def __init__(
        self,
        world: str | Path | WorldModel,
        num_envs: int,
        second_world: WorldModel | None = None,
        **options: Unpack[LearnerKeywords],
    ) -> None:
        num_envs = checked_integer("num_envs", num_envs)
        self.options = LearnerOptions.from_keywords(**options)
        self.hold = self.options.hold
        horizon = DreamOptions(horizon=self.options.horizon)
        self.world = self.options.load(world)
        self.simulator = self.options.simulator(self.world, num_envs)
        self.shadow = self._make_shadow(second_world, num_envs)
        self.horizon = horizon.max_steps(self.world)
        spec, planes = self.world.spec, 0
        self.planes = ActionPlanes(spec.action_space) if self.options.last_action else None
        if self.planes is not None:
            planes = self.planes.count
        self.last_actions = np.zeros((num_envs, planes), np.uint8)  # (N, P)
        self.mirror = None
        if self.options.mirror:
            self.mirror = action_mirror(spec.env, spec.action_space, spec.action_labels, spec.pixels)
        self.mirrored = np.zeros(num_envs, bool)
        self.starts = None
        if self.options.starts_from is not None:
            files, before_end = self.options.starts_from, self.options.start_before_end > 0
            num, seed, split = self.options.num_starts, self.options.seed, self.options.starts_split
            self.starts = recorded_starts(self.world, files, before_end, num, seed, split)
        self.view = policy_view(self.world, self.options.frame_stack, self.options.view, planes)
        self.stack = FrameStack(self.options.frame_stack)
        self.stacked = np.zeros((num_envs, *self.view.shape[:2], 3 * self.options.frame_stack), np.uint8)
        self.returns, self.lengths = np.zeros(num_envs), np.zeros(num_envs, np.int64)
        self.start_time = time.monotonic()
        super().__init__(
            self,
            num_envs,
            gymnasium.spaces.Box(0, 255, self.view.shape, np.uint8),
            spaces.to_gymnasium(self.world.spec.action_space),
        )

    def _make_shadow(self, second_world: WorldModel | None, num_envs: int) -> ShadowWorld | None:
        """The world that follows the dreams; None without a penalty."""
        if not self.options.disagreement_penalty:
            return None
        if second_world is None:
            raise UserError("disagreement_penalty needs a second world that follows the dreams: give several worlds.")
        dtype = choose_runtime(self.world.device.type).dtype
        return ShadowWorld(second_world, self.world, num_envs, dtype, self.simulator.threads)

    @property
    def worlds(self) -> list[WorldModel]:
        """The world, in a list."""
        return [self.world]

    def reset(self) -> np.ndarray:
        """Begin a dream in every row: (N, h, w, 3*D+P) uint8."""
        for i, seed in enumerate(self._seeds):
            if seed is not None:
                self.simulator.seed(torch.tensor([seed]), torch.tensor([i]))
        self._reset_seeds()
        self._reset_rows(np.arange(self.num_envs))
        return self._observations()

    def reset_with_seeds(self, seeds: np.ndarray) -> np.ndarray:
        """Begin the first dream of a seed in every row, (N,) int64: (N, h, w, 3*D+P) uint8."""
        return self._begin(seeds, None)

    def reset_after(self, context: Context, seeds: np.ndarray) -> np.ndarray:
        """Begin a dream after each of N contexts, with seeds (N,) int64: (N, h, w, 3*D+P) uint8."""
        return self._begin(seeds, context)

    def _begin(self, seeds: np.ndarray, context: Context | None) -> np.ndarray:
        self.simulator.seed(torch.from_numpy(seeds))
        self._reset_rows(np.arange(self.num_envs), context)
        return self._observations()

    def _reset_rows(self, rows: np.ndarray, context: Context | None = None) -> None:
        """Reset rows, (n,) int64, to given contexts if there are any; the others stay unchanged."""
        index, simulator, before = torch.from_numpy(rows), self.simulator, []
        if context is None and self.starts is not None:
            seeds, episodes = simulator.state.seeds.cpu()[index], simulator.state.episodes.cpu()[index] + 1
            device = self.world.device
            context = self.starts.sample(seeds.to(device), episodes.to(device), self.options.start_before_end)
        if context is not None:
            count = min(self.options.frame_stack, context.codes.shape[1]) - 1
            before = [past.cpu().numpy() for past in simulator.past_frames(context, count)]
        frames = simulator.reset(index, context=context).cpu().numpy()
        if self.mirror is not None:
            seeds, episodes = simulator.state.seeds.cpu()[index], simulator.state.episodes.cpu()[index]
            numbers = uniforms(seeds, episodes, torch.zeros_like(seeds), 1, STREAM_MIRROR)
            self.mirrored[rows] = numbers[:, 0].numpy() < 0.5
        if self.shadow is not None:
            self.shadow.reset(index, simulator.state.frames, simulator.state.prior.status)
        before = [self.view.crop(flip_rows(past, self.mirrored[rows])) for past in before]
        started = self._visible(frames)[rows]
        everything = len(rows) == self.num_envs
        self.stacked = self.stack.reset(started, None if everything else rows, before)
        self.last_actions[rows] = 0 if self.planes is None or context is None else self._led_to(context, rows)
        self.returns[rows], self.lengths[rows] = 0.0, 0

    def _led_to(self, context: Context, rows: np.ndarray) -> np.ndarray:
        """Planes (n, P) of the actions that led to the last frames of contexts, as the policy of each row sees them."""
        assert self.planes is not None
        actions = context.actions[:, -1].cpu().numpy()
        if self.mirror is not None:
            actions = self.mirror.rows(actions, self.mirrored[rows])
        return self.planes.encode(actions) * context.has_action[:, -1, None].cpu().numpy()

    def _visible(self, frames: np.ndarray) -> np.ndarray:
        """The part of frames that the policy sees, flipped in mirrored episodes: (N, H, W, 3) -> (N, h, w, 3)."""
        return self.view.crop(flip_rows(frames, self.mirrored))

    def _observations(self) -> np.ndarray:
        """The current observations, (N, h, w, 3*D+P) uint8, a new array."""
        if self.planes is None:
            return self.stacked.copy()
        return self.planes.append(self.stacked, self.last_actions)

    def step_async(self, actions: np.ndarray) -> None:
        """Keep the actions, (N,) or (N, A), for `step_wait`."""
        self._actions = actions

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Observations (N, h, w, 3*D+P) uint8, rewards (N,) float32, dones (N,) bool, one info per row."""
        actions = spaces.check_actions(self.world.spec.action_space, self._actions)
        if self.planes is not None:
            self.last_actions = self.planes.encode(actions)  # as the policy chose them, in its mirror
        if self.mirror is not None:
            actions = self.mirror.rows(actions, self.mirrored)
        rewards, terminations, truncations = self._hold_actions(torch.as_tensor(actions))
        dones = terminations | truncations
        infos: list[dict[str, Any]] = [{"TimeLimit.truncated": bool(x)} for x in truncations]
        finished = np.flatnonzero(dones)
        observations = self._observations()
        for i in finished:
            seconds = round(time.monotonic() - self.start_time, 6)
            infos[i]["terminal_observation"] = observations[i].copy()
            infos[i]["episode"] = {"r": float(self.returns[i]), "l": int(self.lengths[i]), "t": seconds}
        if len(finished):
            self._reset_rows(finished)
            observations = self._observations()
        return observations, (rewards * self.options.reward_scale).astype(np.float32), dones, infos

    def _hold_actions(self, actions: torch.Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Take `hold` steps: sums of rewards (N,), terminations and truncations (N,) bool.

        A row that ends stays unchanged until all rows have taken their steps.
        """
        simulator, count = self.simulator, self.num_envs
        rewards, terminations, truncations = np.zeros(count), np.zeros(count, bool), np.zeros(count, bool)
        for _ in range(self.hold):
            active = ~(terminations | truncations)
            status_before = simulator.status_to_values(simulator.state.prior.status)
            shadow = None if self.shadow is None else self.shadow.predict(actions)
            out = simulator.step(actions)
            env_rewards = out.rewards.cpu().numpy()
            self.returns += np.where(active, env_rewards, 0.0)
            step_rewards = env_rewards if self.options.reward == "env" else self._status_rewards(status_before, out)
            if shadow is not None:
                step_rewards = step_rewards - self._disagreement(shadow, actions, out)
            rewards += np.where(active, step_rewards, 0.0)
            frames = simulator.state.frames.cpu().numpy()
            self.stacked = self.stack.push(self._visible(frames), active)
            terminations |= active & out.terminations.cpu().numpy()
            self.lengths += active
            cut_off = active & ~terminations & self._at_last_step()
            truncations |= cut_off
            if (terminations | truncations).all():
                break
            if cut_off.any():
                simulator.hold(torch.from_numpy(cut_off))
        return rewards, terminations, truncations

    def _disagreement(self, shadow: OutcomeRisk, actions: torch.Tensor, out: SimulatorStep) -> np.ndarray:
        """The penalty of a step, (N,) float32; the second world then follows the step."""
        assert self.shadow is not None
        status = expected_status(out.status_probs, self.simulator.status_values)
        difference = OutcomeRisk(out.hazards, status).difference(shadow)
        self.shadow.follow(actions, out.frames, out.status)
        return self.options.disagreement_penalty * difference.cpu().numpy()

    def _status_rewards(self, status_before: torch.Tensor, out: SimulatorStep) -> np.ndarray:
        """The expected change of the hidden variable in hundredths, (N,).

        After a termination nothing is left of it, whatever its last bin is. For the reward "status" it is at most 0.
        Where it was not known, which is so in the first step after a context without it, only a termination changes it.
        """
        status = out.status_probs @ self.simulator.status_values
        change = status * (1 - out.hazards) - torch.where(status_before.isnan(), status, status_before)
        change = change.clamp_max(0.0) if self.options.reward == "status" else change
        return (change / 100).cpu().numpy()

    def _at_last_step(self) -> np.ndarray:
        """Rows at the horizon or at the last frame that the prior knows: (N,) bool."""
        at_end = self.simulator.at_max_frames.cpu().numpy()
        return at_end if self.horizon is None else at_end | (self.lengths >= self.horizon)

    def close(self) -> None:
        """There is nothing to close."""

    def get_images(self) -> Sequence[np.ndarray | None]:
        """The dreams' whole frames, (H, W, 3) uint8 each."""
        return list(self.simulator.state.frames.cpu().numpy())


def policy_view(world: WorldModel, frame_stack: int, view: Rectangle | None, action_planes: int = 0) -> PolicyView:
    """The view of a world's frames; `view` is in pixels of the whole frame before the world's crop.

    Raises:
        UserError: the view is not inside the world's frame.
    """
    pixels = world.spec.pixels
    return PolicyView(pixels.frame_shape, frame_stack, view, pixels.origin, action_planes=action_planes)
