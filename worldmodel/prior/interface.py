"""The interface of every prior: p(end, status, codes, reward of the next step | past, actions).

Shapes: B batch or rows, T frames in a clip, W frames of context, h w code grid, A action size, V codes in the
codebook. Code V means "no frame": before the clip began, or where the environment returned no frame.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from worldmodel.common import spaces
from worldmodel.prior.code_clip import CodeClip
from worldmodel.prior.context import Context
from worldmodel.prior.heads import OutcomeHeads
from worldmodel.prior.sampling import Sampling, inverse_cdf
from worldmodel.prior.state_rows import StateRows
from worldmodel.prior.status_config import StatusConfig
from worldmodel.prior.step_template import SampledFrame, StepOutcome, StepPredictions, StepTemplate

State = TypeVar("State", bound=StateRows)


@dataclass(frozen=True)
class OutcomePredictions:
    """Predictions for each step of recorded clips.

    Attributes:
        hazards: (B, T-1) float32, the probability that step t terminates the episode.
        status_probs: (B, T-1, bins) float32, of the status after step t given that the episode goes on; 0 bins
            where no status is learned.
        rewards: (B, T-1) float32, expected, in the environment's units.
    """

    hazards: Tensor
    status_probs: Tensor
    rewards: Tensor


class Prior(nn.Module, StepTemplate[State, Tensor], ABC):
    """The base class of every prior. Its `step` is that of `step_template`.

    A subclass decorates its constructor with `common.torch_state.default_torch_modes`, so that its parameters are
    float32 and trainable in any program.

    Attributes:
        config: its sizes, a dataclass.
        grid: (h, w) of the codes.
        num_codes: V.
        action_space: the action space.
        end_has_frame: whether the environment returns a frame for the step that terminates an episode.
        status_config: the hidden variable that is predicted, if any.
        window: W, frames of a context.
        num_uniforms: uniform numbers per row and step.
        predicts_whole_clips: whether one pass predicts every frame of a clip, so that all of them are learned at the
            cost of one; otherwise each frame needs a pass of its own.
        heads: predict ends, status and rewards.
        max_frames: frames of the longest clip or dream; None for no limit.
    """

    config: Any
    grid: tuple[int, int]
    num_codes: int
    action_space: spaces.Space
    end_has_frame: bool
    status_config: StatusConfig
    window: int
    num_uniforms: int
    predicts_whole_clips: bool = False
    heads: OutcomeHeads
    max_frames: int | None = None
    where = staticmethod(torch.where)
    step = torch.no_grad()(StepTemplate.step)  # the template cannot: it loads no torch

    @property
    def num_status(self) -> int:
        """Bins of the status; 0 without one."""
        return self.status_config.num_bins

    @abstractmethod
    def init_from_codes(self, embeddings: Tensor, counts: Tensor) -> None:
        """Initialise code embeddings and logits from the codebook and the code frequencies of each place.

        Args:
            embeddings: (V, d) float32, the tokenizer's codebook.
            counts: (h, w, V), how often the training split has each code at each place.
        """

    def set_rare_codes(self, counts: Tensor) -> None:
        """Determine which codes are rare at each place, for priors that weight them: (h, w, V) counts."""

    @abstractmethod
    def fit_reward_scale(self, rewards: Tensor) -> None:
        """Fit the scale of the rewards to the training split: (N,) float32."""

    @abstractmethod
    def loss(self, clip: CodeClip) -> dict[str, Tensor]:
        """Losses of a batch of clips; frames of weight 0 have none. Random numbers: torch's global generator.

        Where several processes train together, each gets the whole batch, corrupts its history as one process would,
        and in training mode continues with its own part (`worldmodel.common.processes`). The average of their losses
        is the whole batch's.

        Returns:
            Scalars: `loss`, the weighted sum of `codes` (nats per code), `end` (nats per step), `status` (nats per
            frame) and `reward` (squared standard deviations).
        """

    @abstractmethod
    def log_prob(self, clip: CodeClip) -> Tensor:
        """Exact log-likelihood of each frame's codes given the past, the action, and the clip's end and status there.

        The codes are conditioned on the outcome of their step. A status that is not known (`bins`) gives the
        likelihood of the frame without it.

        Args:
            clip: the clips. Frame 0 is conditioned on "no action" alone.

        Returns:
            (B, T) float32, nats per frame (divide by h*w for nats per code); 0 where the frame is invalid.
        """

    @abstractmethod
    def predict_outcomes(self, clip: CodeClip) -> OutcomePredictions:
        """Predict end, status and reward of each step from what was recorded before it.

        As in a dream, end and status are conditioned on the past and the step's action. The reward is also
        conditioned on the recorded end and the recorded new frame.

        Args:
            clip: the clips. The past of frame 0 is not known.
        """

    def context(self, codes: Tensor, frame_valid: Tensor, actions: Tensor, status: Tensor) -> Context:
        """The context after a sequence of real frames: see `Context.from_frames`."""
        return Context.from_frames(codes, frame_valid, actions, status, self.window, self.num_codes)

    @abstractmethod
    def init_state(self, context: Context) -> State:
        """The state after a context of real frames."""

    # -- hooks of the step ---------------------------------------------------------------------------------

    @abstractmethod
    def predict_step(self, state: State, actions: Tensor) -> StepPredictions[Tensor]:
        """As `StepTemplate.predict_step`."""

    def sample_status(self, logits: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        """As `StepTemplate.sample_status`."""
        return inverse_cdf(logits, uniforms), logits.softmax(-1)

    @abstractmethod
    def sample_frame(
        self, state: State, predictions: Any, outcome: StepOutcome[Tensor], uniforms: Tensor, sampling: Sampling
    ) -> SampledFrame[Tensor]:
        """As `StepTemplate.sample_frame`."""

    def predict_rewards(
        self, predictions: StepPredictions[Tensor], outcome: StepOutcome[Tensor], codes: Tensor
    ) -> Tensor:
        """As `StepTemplate.predict_rewards`."""
        rewards = self.heads.predict_rewards(predictions.summary, outcome.terminations, codes)
        return self.heads.unstandardise_rewards(rewards.float())

    @abstractmethod
    def next_state(
        self, state: State, predictions: Any, outcome: StepOutcome[Tensor], frame: Any, codes: Tensor
    ) -> State:
        """As `StepTemplate.next_state`."""
