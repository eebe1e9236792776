"""Stable-Baselines3 models as policies: with the observations of their training, without changes of global state."""

from __future__ import annotations

from typing import Any

import numpy as np

from worldmodel.collect.global_state import EpisodeGenerator
from worldmodel.collect.learner_config import LearnerConfig
from worldmodel.collect.policies import Policy
from worldmodel.common.action_planes import ActionPlanes
from worldmodel.common.errors import UserError
from worldmodel.common.pixels import PixelSpec
from worldmodel.common.policy_view import FrameStack, PolicyView
from worldmodel.common.spaces import Box, Space, from_gymnasium


class ModelPolicy:
    """A Stable-Baselines3 model that gets observations of a wrapped environment as they are.

    Args:
        model: the model.
        deterministic: take the most likely action instead of sampling one.
        num_threads: torch threads of a prediction; None leaves them.
    """

    uses_inner_observation = True

    def __init__(self, model: Any, deterministic: bool = False, num_threads: int | None = None) -> None:
        self.model, self.deterministic = model, deterministic
        self.exploration: float | None = getattr(model, "exploration_rate", None)  # of DQN
        self.generator = EpisodeGenerator(model.device, num_threads)
        self.space = from_gymnasium(model.action_space)

    def begin(self, rng: np.random.Generator) -> None:
        """Start an episode. SB3 samples with torch's global generator, which is replaced for each prediction."""
        self.rng = rng
        self.generator.seed(int(rng.integers(2**31)))

    def act(self, observation: Any) -> Any:
        """The action for an observation."""
        deterministic = self.deterministic
        if self.exploration is not None and not deterministic:
            # DQN itself explores with numpy's global generator
            if self.rng.random() < self.exploration:
                return self.space.sample(self.rng)
            deterministic = True
        with self.generator.active():
            action, _ = self.model.predict(observation, deterministic=deterministic)
        return action


class LearnedPolicy(ModelPolicy):
    """A Stable-Baselines3 model that gets frames, as `LearnerView` gives them in training.

    It also acts for R episodes at once, which begin and step together: frames (R, H, W, 3), actions (R,) or (R, A).

    Args:
        model: the model.
        view: the part of the frame and the number of frames that it observes.
        hold: environment steps per action.
        channels_first: the model observes (C*D, h, w) instead of (h, w, C*D). Explicit, since Stable-Baselines3
            guesses the order from the sizes of the axes.
        deterministic: take the most likely action instead of sampling one.
        num_threads: torch threads of a prediction; None leaves them.
    """

    uses_inner_observation = False

    def __init__(
        self,
        model: Any,
        view: PolicyView,
        hold: int = 1,
        channels_first: bool = False,
        deterministic: bool = False,
        num_threads: int | None = None,
    ) -> None:
        super().__init__(model, deterministic, num_threads)
        self.view, self.hold, self.channels_first = view, hold, channels_first
        self.stack = FrameStack(view.frame_stack)
        self.planes = ActionPlanes(self.space) if view.action_planes else None

    def begin(self, rng: np.random.Generator) -> None:
        """Start an episode."""
        super().begin(rng)
        self.step, self.action = 0, None

    def act(self, frame: np.ndarray) -> Any:
        """A new action every `hold` steps."""
        frame = self.view.crop(frame)
        stacked = self.stack.reset(frame) if self.step == 0 else self.stack.push(frame)
        if self.step % self.hold == 0:
            if self.planes is not None:
                stacked = self.planes.append_action(stacked, self.action)
            self.action = super().act(np.moveaxis(stacked, -1, -3) if self.channels_first else stacked)
        self.step += 1
        return self.action


def model_policy(
    model: Any, env: Any, name: str, learner: LearnerConfig | None = None, deterministic: bool = False,
    num_threads: int | None = None,
) -> Policy:  # fmt: skip
    """The policy of a Stable-Baselines3 model in an environment.

    Args:
        model: the model.
        env: a `PixelEnv`.
        name: of the model, for error messages.
        learner: settings of its training; without them the frame stack follows from the model's observation space.
        deterministic: take the most likely action instead of sampling one.
        num_threads: torch threads of a prediction; None leaves them.

    Returns:
        A `LearnedPolicy` if the model observes frames; a `ModelPolicy` if it observes what the environment inside
        `env` returns.

    Raises:
        UserError: the model has another action space, or observes something else.
    """
    check_action_space(model, env.meta.action_space, name)
    view = _frame_view(model.observation_space, env, learner)
    if view is not None:
        rows, columns, channels = view.shape
        # three equal axes: `train policy` puts the channels first, Stable-Baselines3 alone does not
        first = learner is not None if rows == columns == channels else model.observation_space.shape != view.shape
        return LearnedPolicy(model, view, 1 if learner is None else learner.hold, first, deterministic, num_threads)
    if _same_observations(model.observation_space, env.inner_observation_space):
        return ModelPolicy(model, deterministic, num_threads)
    frames = PolicyView(env.meta.pixels.frame_shape) if learner is None else _learner_view(env, learner)
    inner = env.inner_observation_space
    raise UserError(
        f"{name} observes {model.observation_space}, but the environment {env.meta.id} gives frames of shape "
        f"{frames.shape} (rows, columns, stacked channels)"
        + ("" if inner == env.observation_space else f" and observations {inner}")
        + ". Use the environment, the wrappers, the size, the crop and the frame stack of its training."
    )


def check_action_space(model: Any, space: Space, name: str) -> None:
    """Refuse a model with another action space. The bounds of a Box may differ.

    Raises:
        UserError: both action spaces.
    """
    model_space = from_gymnasium(model.action_space)
    both_boxes = isinstance(model_space, Box) and isinstance(space, Box)
    if model_space.shape != space.shape if both_boxes else model_space != space:
        raise UserError(f"{name} acts in {model_space}, but the environment takes {space}.")


def observed_view(learner: LearnerConfig, pixels: PixelSpec, space: Space) -> PolicyView:
    """What a policy observes with the settings of its training.

    Args:
        learner: frame_stack, last_action, view.
        pixels: of the frames.
        space: the action space.

    Raises:
        UserError: a view that is not inside the frames, or a last action without bounds.
    """
    planes = ActionPlanes(space).count if learner.last_action else 0
    return PolicyView(
        pixels.frame_shape, learner.frame_stack, learner.view, pixels.origin, "learner.view", action_planes=planes
    )


def _learner_view(env: Any, learner: LearnerConfig) -> PolicyView:
    return observed_view(learner, env.meta.pixels, env.meta.action_space)


def _frame_view(space: Any, env: Any, learner: LearnerConfig | None) -> PolicyView | None:
    """The view of frames that gives observations of this space, channels first or last; None if there is none."""
    shape: tuple[int, ...] = space.shape or ()
    if len(shape) != 3 or space.dtype != np.uint8:
        return None
    pixels = env.meta.pixels
    _, _, channels = pixels.frame_shape
    stacks = [size // channels for size in (shape[-1], shape[0]) if size and size % channels == 0]
    for frame_stack in stacks if learner is None else [learner.frame_stack]:
        try:
            if learner is None:
                view = PolicyView(pixels.frame_shape, frame_stack, None, pixels.origin)
            else:
                view = _learner_view(env, learner)
        except UserError:  # a part that this frame does not have
            return None
        rows, columns, stacked = view.shape
        if shape in (view.shape, (stacked, rows, columns)):
            return view
    return None


def _same_observations(model_space: Any, inner_space: Any) -> bool:
    """Whether a model's observation space is that of an environment; SB3 moves the channels of images to the front."""
    if model_space == inner_space:
        return True
    model_shape, inner_shape = model_space.shape, inner_space.shape
    if not model_shape or not inner_shape or type(model_space) is not type(inner_space):
        return False
    if model_space.dtype != inner_space.dtype:
        return False
    return model_shape == inner_shape or model_shape == (inner_shape[-1], *inner_shape[:-1])
