"""The flat prior: the paper's GPT over the raster sequence of codes (section 2.2), stepped with a cache.

A frame has S = K+1 positions: a learned start token, then its K codes. The start token and code k predict code k+1.
The output of the last position predicts no code; it is the frame's state vector z_t. End and status are predicted from
z_t and the next action, before any code of the next frame. All positions of that frame are conditioned on the action,
the end and the status through their LayerNorms. The reward is predicted last, from z_t, the action, the end and the new
codes.

Shapes: B clips or rows, T frames, h w code grid, K = h*w codes per frame, S = K+1 positions per frame, M frames of
memory, L layers, G key/value heads, d numbers per head, D width, C condition width, V codes in the codebook (code V: no
frame).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from worldmodel.common import spaces
from worldmodel.common.errors import UserError
from worldmodel.common.processes import process_rows, seed_by_rank
from worldmodel.common.torch_state import default_torch_modes
from worldmodel.prior.code_clip import CodeClip
from worldmodel.prior.conditioning import ActionEncoder
from worldmodel.prior.context import Context
from worldmodel.prior.flat.flat_config import FlatConfig
from worldmodel.prior.flat.frame_sampling import sample_frame
from worldmodel.prior.flat.raster_transformer import RasterTransformer
from worldmodel.prior.flat.ring_cache import KeyValueCache, init_ring, store_frame
from worldmodel.prior.heads import OutcomeHeads
from worldmodel.prior.interface import OutcomePredictions, Prior
from worldmodel.prior.losses import Predictions, code_nats, prior_losses
from worldmodel.prior.sampling import Sampling
from worldmodel.prior.state_rows import StateRows
from worldmodel.prior.step_template import SampledFrame, StepOutcome, StepPredictions
from worldmodel.prior.targets import Targets, make_targets, replace_codes


@dataclass(frozen=True)
class FlatState(StateRows):
    """The memory of each row, of the same size after any number of steps.

    Attributes:
        keys: (B, G, L, d, (M+1)*S) float32, of the last M frames in a ring (see `ring_cache`); steps write to it.
        values: (B, G, L, (M+1)*S, d) float32; likewise.
        visible: (B, M) bool, which slots of the ring hold a frame.
        codes: (B, h, w) int64 of the last frame, V where there was none.
        summary: (B, D), z of the last frame that the environment returned.
        status: (B,) int64.
        times: (B,) int64, frames since the beginning.
    """

    mutable_fields = ("keys", "values")
    keys: Tensor
    values: Tensor
    visible: Tensor
    codes: Tensor
    summary: Tensor
    status: Tensor
    times: Tensor

    def restart_times(self, rows: Tensor) -> Self:
        """As `StateRows.restart_times`."""
        return replace(self, times=self.times.masked_fill(rows, 0))


@dataclass(frozen=True)
class FlatFrame(SampledFrame[Tensor]):
    """A sampled frame and its memory.

    Attributes:
        summary: (B, D), its z.
        ring: `keys`, `values` and `visible` of `FlatState`, with the frame.
    """

    summary: Tensor
    ring: KeyValueCache


class FlatPrior(Prior[FlatState]):
    """The paper's prior; see the module's docstring.

    Args:
        config: sizes.
        grid: (h, w) of the codes.
        num_codes: V.
        action_space: the action space.
        end_has_frame: whether the environment returns a frame for the step that terminates an episode.

    Raises:
        UserError: sizes that are out of range or contradict each other.
    """

    predicts_whole_clips = True

    @default_torch_modes()
    def __init__(
        self,
        config: FlatConfig,
        grid: tuple[int, int],
        num_codes: int,
        action_space: spaces.Space,
        end_has_frame: bool = True,
    ) -> None:
        super().__init__()
        self.config, self.grid, self.num_codes = config, grid, num_codes
        self.action_space, self.end_has_frame = action_space, end_has_frame
        self.status_config, self.window, self.num_uniforms = config.status, config.window, 2 + grid[0] * grid[1]
        self.max_frames = config.num_frames if config.bounded else None
        self.memory = config.num_frames - 1 if config.attention == "full" else config.window  # M
        condition_dim, width, bins = config.action_dim, config.width, config.status.num_bins  # C, D
        self.action_encoder = ActionEncoder(action_space, config.action_dim)
        self.transformer = RasterTransformer(config, grid, num_codes, condition_dim, self.memory)
        self.initial_summary = nn.Parameter(0.02 * torch.randn(width))  # z before the first frame
        self.transition = nn.Sequential(nn.Linear(width + config.action_dim, width), nn.GELU(), nn.Linear(width, width))
        self.heads = OutcomeHeads(width, num_codes, bins, condition_dim)

    def init_from_codes(self, embeddings: Tensor, counts: Tensor) -> None:
        """As `Prior.init_from_codes`."""
        self.transformer.init_from_codes(embeddings, counts)

    def fit_reward_scale(self, rewards: Tensor) -> None:
        """As `Prior.fit_reward_scale`."""
        self.heads.fit_reward_scale(rewards)

    # -- the network ---------------------------------------------------------------------------------------

    def _last_valid(self, z: Tensor, valid: Tensor) -> Tensor:
        """At each frame, z of the last valid frame so far: (B, T, D) and (B, T) -> (B, T, D)."""
        order = torch.arange(valid.shape[1], device=valid.device)
        index = torch.where(valid, order, -1).cummax(1).values[:, :, None]  # (B, T, 1)
        return torch.where(index >= 0, z.gather(1, index.clamp_min(0).expand_as(z)), self.initial_summary)

    def _predict(self, targets: Targets, codes: Tensor, status: Tensor) -> Predictions:
        """Predictions for the frames of clips, leading axes (B, T).

        Args:
            targets: the frames of the clips, (B, T), each with the action that led to it.
            codes: (B, T, h, w), the input codes, V where invalid.
            status: (B, T), the status that each frame is conditioned on.
        """
        batch, length = targets.frame_valid.shape
        if self.max_frames is not None and length > self.max_frames:
            raise UserError(
                f"a clip of {length} frames: this flat prior knows {self.max_frames} (num_frames). Pass shorter "
                "clips, or train with attention window and positions rotary."
            )
        actions = self.action_encoder(
            targets.context.actions[:, :, 0], targets.context.has_action[:, :, 0]
        )  # (B, T, a)
        outcome_condition = self.heads.embed_outcome(targets.terminations.flatten(), status.flatten())
        condition = actions + outcome_condition.unflatten(0, (batch, length))  # (B, T, C)
        times = torch.arange(length, device=actions.device).expand(batch, -1)
        logits, z, _ = self.transformer(codes, targets.frame_valid, condition, times)
        z = self._last_valid(z, targets.frame_valid)
        previous_z = torch.cat([self.initial_summary.expand_as(z[:, :1]), z[:, :-1]], 1)
        summary = self.transition(torch.cat([previous_z, actions], -1)).flatten(0, 1)  # (B*T, D)
        rewards = self.heads.predict_rewards(
            summary, targets.terminations.flatten(), targets.masked_codes.flatten(0, 1)
        )
        outcomes = (self.heads.end_logits(summary), self.heads.status_logits(summary), rewards)
        return Predictions(logits, *(values.unflatten(0, (batch, length)) for values in outcomes))

    # -- learning ------------------------------------------------------------------------------------------

    def loss(self, clip: CodeClip) -> dict[str, Tensor]:
        """As `Prior.loss`; in training mode some input codes are replaced and some status values are dropped.

        Each process has its own dropout: with dropout several processes learn as well as one, but not the same.
        """
        targets = self._make_targets(clip)
        codes, status = targets.masked_codes, targets.status
        if self.training:
            codes = replace_codes(codes, self.config.history_noise, self.num_codes)
            status = self._drop_status(status)
            rows = process_rows(len(codes))
            clip, targets, codes, status = clip.select(rows), targets.select(rows), codes[rows], status[rows]
            seed_by_rank()
        predictions, has_loss = self._predict(targets, codes, status), clip.weights > 0
        predictions = Predictions(**{name: value[has_loss] for name, value in vars(predictions).items()})
        targets = targets.select(has_loss)
        nats = code_nats(predictions.code_logits, targets.codes.flatten(1))
        rewards = self.heads.standardise_rewards(targets.rewards)
        return prior_losses(self.config, predictions, targets, nats, rewards, clip.weights[has_loss])

    def _drop_status(self, status: Tensor) -> Tensor:
        """In a share of the clips, make the status before a random frame unknown, as in a dream's context. (B, T)"""
        batch, length = status.shape
        is_dropped = torch.rand(batch, 1, device=status.device, dtype=torch.float32) < self.config.history_loss
        first_known = torch.randint(0, length + 1, (batch, 1), device=status.device)
        is_early = torch.arange(length, device=status.device) < first_known
        return torch.where(is_dropped & is_early, self.config.status.num_bins, status)

    @torch.no_grad()
    def log_prob(self, clip: CodeClip) -> Tensor:
        """As `Prior.log_prob`."""
        targets = self._make_targets(clip)
        predictions = self._predict(targets, targets.masked_codes, targets.status)
        log_probs = predictions.code_logits.float().log_softmax(-1)  # (B, T, K, V)
        log_probs = log_probs.gather(-1, targets.codes.flatten(2)[..., None])[..., 0].sum(2)  # (B, T)
        return log_probs * targets.frame_valid

    @torch.no_grad()
    def predict_outcomes(self, clip: CodeClip) -> OutcomePredictions:
        """As `Prior.predict_outcomes`."""
        targets = self._make_targets(clip)
        predictions = self._predict(targets, targets.masked_codes, targets.status)
        return OutcomePredictions(
            hazards=predictions.end_logits[:, 1:].float().sigmoid(),
            status_probs=predictions.status_logits[:, 1:].float().softmax(-1)[..., : self.config.status.num_bins],
            rewards=self.heads.unstandardise_rewards(predictions.rewards[:, 1:].float()),
        )

    def _make_targets(self, clip: CodeClip) -> Targets:
        """Every frame, with the frame before it and the action that led to it."""
        return make_targets(clip, 1, self.num_codes, self.config.status.num_bins)

    # -- dreaming ------------------------------------------------------------------------------------------

    @torch.no_grad()
    def init_state(self, context: Context) -> FlatState:
        """As `Prior.init_state`: process up to M frames of the context as a clip, whose first frame has no action."""
        codes, has_action = context.codes[:, -self.memory :], context.has_action[:, -self.memory :].clone()
        has_action[:, 0] = False
        valid = codes[:, :, 0, 0] != self.num_codes  # (B, n)
        rows, count = valid.shape
        last_time = has_action.sum(1)  # of the last frame; frames before the beginning have times below 0
        times = last_time[:, None] - torch.arange(count - 1, -1, -1, device=last_time.device)
        status = torch.full_like(times, self.config.status.num_bins)
        status[:, -1] = context.status
        outcome = self.heads.embed_outcome(torch.zeros_like(times, dtype=torch.bool).flatten(), status.flatten())
        condition = self.action_encoder(context.actions[:, -self.memory :], has_action) + outcome.unflatten(
            0, (rows, count)
        )
        _, z, key_values = self.transformer(codes, valid, condition, times)
        ring = init_ring(key_values, self.transformer.rotary is not None, times, valid, self.memory)
        return FlatState(
            **ring._asdict(),
            codes=codes[:, -1],
            summary=self._last_valid(z, valid)[:, -1],
            status=context.status,
            times=last_time + 1,
        )

    def predict_step(self, state: FlatState, actions: Tensor) -> StepPredictions[Tensor]:
        """As `Prior.predict_step`.

        Raises:
            UserError: a row that has reached the last frame this prior knows.
        """
        if self.max_frames is not None and bool((state.times >= self.max_frames).any()):
            raise UserError(
                f"a dream has reached frame {self.max_frames}, the last this flat prior knows (num_frames). Reset "
                "it, ask for fewer steps, or train with attention window and positions rotary for endless dreams."
            )
        action = self.action_encoder(actions[:, None], torch.ones_like(state.visible[:, :1]))[:, 0]  # (B, action_dim)
        summary = self.transition(torch.cat([state.summary, action], -1))
        return StepPredictions(summary, action, *self.heads.predict_outcome(summary))

    def sample_frame(
        self,
        state: FlatState,
        predictions: StepPredictions[Tensor],
        outcome: StepOutcome[Tensor],
        uniforms: Tensor,
        sampling: Sampling,
    ) -> FlatFrame:
        """As `Prior.sample_frame`; the frame's keys and values are written into the ring."""
        condition = predictions.condition + self.heads.embed_outcome(outcome.terminations, outcome.status)
        state = state.writable()
        ring = KeyValueCache(state.keys, state.values, state.visible)
        codes, log_probs, z = sample_frame(
            self.transformer, ring, state.codes, state.times, condition, uniforms, sampling
        )
        ring = store_frame(ring, state.times, outcome.has_frame, self.transformer.num_positions)
        return FlatFrame(codes, log_probs, z, ring)

    def next_state(
        self,
        state: FlatState,
        predictions: StepPredictions[Tensor],
        outcome: StepOutcome[Tensor],
        frame: FlatFrame,
        codes: Tensor,
    ) -> FlatState:
        """As `Prior.next_state`."""
        has_frame = outcome.has_frame[:, None]
        return FlatState(
            **frame.ring._asdict(),
            codes=codes,
            summary=torch.where(has_frame, frame.summary, state.summary),
            status=outcome.status,
            times=state.times + 1,
        )


def as_flat_prior(prior: Prior[Any]) -> FlatPrior | None:
    """The same prior if it is flat, for benchmarks of its memory; else None."""
    return prior if isinstance(prior, FlatPrior) else None
