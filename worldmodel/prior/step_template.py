"""The step of a dream, written once: for every prior in torch, and for their exports in numpy.

A step samples end, status and codes in this order, predicts the reward, and stores the frame in the state. How each
part is computed is a prior's own: its hooks. This module loads neither torch nor numpy; an Array is a tensor or a
numpy array.

Shapes: B rows, h w code grid, A action size, D width, C condition width, V codes in the codebook (code V: no frame).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

State = TypeVar("State")
Array = TypeVar("Array", bound=Any)


@dataclass(frozen=True)
class PriorStep(Generic[State, Array]):
    """Result of one step of B dreams, sampled in this order: end, status, codes, reward.

    Attributes:
        state: the state after the step.
        codes: (B, h, w) int64 of the new frame; meaningless where `has_frame` is False.
        has_frame: (B,) bool; False where the row ended in a world whose last frames are not recorded.
        terminations: (B,) bool.
        hazards: (B,) float32, the probability of termination from which `terminations` was sampled.
        rewards: (B,) float32, in the environment's units.
        status: (B,) int64.
        status_probs: (B, bins) float32, given that the row does not terminate.
        log_probs: (B,) float32, log-probability in nats of the sampled codes at temperature 1; of a mixture as
            `Sampling.exact` defines; 0 without a frame.
    """

    state: State
    codes: Array
    has_frame: Array
    terminations: Array
    hazards: Array
    rewards: Array
    status: Array
    status_probs: Array
    log_probs: Array


@dataclass(frozen=True)
class StepPredictions(Generic[Array]):
    """What is predicted of a step before its codes. A prior may add fields for its own hooks.

    Attributes:
        summary: (B, D), from which the reward is predicted too.
        condition: (B, C), of the new frame, without the outcome.
        hazards: (B,) float32, the probability of termination.
        status_logits: (B, bins) float32, of the status given that the row does not terminate.
    """

    summary: Array
    condition: Array
    hazards: Array
    status_logits: Array


@dataclass(frozen=True)
class StepOutcome(Generic[Array]):
    """What is sampled of a step before its codes.

    Attributes:
        terminations: (B,) bool.
        status: (B,) int64; the last status where none is learned.
        has_frame: (B,) bool, whether the environment returns a frame for this step.
    """

    terminations: Array
    status: Array
    has_frame: Array


@dataclass(frozen=True)
class SampledFrame(Generic[Array]):
    """A sampled frame. A prior may add fields that it stores in its state.

    Attributes:
        codes: (B, h, w) int64.
        log_probs: (B,) float32, nats.
    """

    codes: Array
    log_probs: Array


class StepTemplate(Generic[State, Array]):
    """The order of a step; a subclass implements the hooks.

    Attributes:
        num_codes: V.
        end_has_frame: whether the environment returns a frame for the step that terminates an episode.
        where: `torch.where` or `numpy.where`.
    """

    num_codes: int
    end_has_frame: bool
    where: Callable[..., Any]

    @property
    @abstractmethod
    def num_status(self) -> int:
        """Bins of the status; 0 without one."""

    def step(self, state: State, actions: Array, uniforms: Array, sampling: Any) -> PriorStep[State, Array]:
        """Take one step in every row: sample end, status and codes, predict the reward.

        Args:
            state: the current state, with a field `status`. The step may write to it, and it must not be used
                afterwards; to branch, pass a `copy`.
            actions: (B,) or (B, A).
            uniforms: (B, num_uniforms) float32 in [0, 1), the only source of randomness: the first for the end, the
                second for the status, the others for the frame.
            sampling: how codes are sampled; end and status are always sampled from the predicted probabilities.

        Raises:
            UserError: a row that has reached the last frame this prior knows.
        """
        predictions = self.predict_step(state, actions)  # hazards (B,), status_logits (B, bins)
        terminations = uniforms[:, 0] < predictions.hazards  # (B,) bool
        status, status_probs = state.status, predictions.status_logits  # type: ignore[attr-defined]  # (B,), (B, 0)
        if self.num_status:
            status, status_probs = self.sample_status(predictions.status_logits, uniforms[:, 1])  # (B,), (B, bins)
        has_frame = ~terminations | self.end_has_frame  # (B,) bool
        outcome = StepOutcome(terminations, status, has_frame)
        frame = self.sample_frame(state, predictions, outcome, uniforms[:, 2:], sampling)  # codes (B, h, w)
        codes = self.where(has_frame[:, None, None], frame.codes, self.num_codes)  # (B, h, w), V without a frame
        rewards = self.predict_rewards(predictions, outcome, codes)  # (B,)
        return PriorStep(
            state=self.next_state(state, predictions, outcome, frame, codes),
            codes=frame.codes,
            has_frame=has_frame,
            terminations=terminations,
            hazards=predictions.hazards,
            rewards=rewards,
            status=status,
            status_probs=status_probs,
            log_probs=frame.log_probs * has_frame,
        )

    @abstractmethod
    def predict_step(self, state: State, actions: Array) -> StepPredictions[Array]:
        """Predict end and status of the step, before any code of its frame."""

    @abstractmethod
    def sample_status(self, logits: Array, uniforms: Array) -> tuple[Array, Array]:
        """Sample the status: logits (B, bins) and uniforms (B,) -> status (B,) int64, probabilities (B, bins)."""

    @abstractmethod
    def sample_frame(self, state: State, predictions: Any, outcome: Any, uniforms: Array, sampling: Any) -> Any:
        """Sample the frame's codes, conditioned on the action and the outcome.

        Args:
            state: before the step.
            predictions: from `predict_step`.
            outcome: the `StepOutcome`.
            uniforms: (B, num_uniforms - 2) float32.
            sampling: how codes are sampled.

        Returns:
            A `SampledFrame`.
        """

    @abstractmethod
    def predict_rewards(self, predictions: Any, outcome: Any, codes: Array) -> Array:
        """Expected rewards in the environment's units, (B,) float32; codes are V where there is no frame."""

    @abstractmethod
    def next_state(self, state: State, predictions: Any, outcome: Any, frame: Any, codes: Array) -> State:
        """The state after the step.

        Args:
            state: before the step.
            predictions: from `predict_step`.
            outcome: the `StepOutcome`.
            frame: from `sample_frame`.
            codes: (B, h, w) int64, V where there is no frame.
        """
