"""The factored prior: a trunk processes the last W frames in one pass, a decoder predicts the next in groups of places.

p(frame t+1 | past) = product over groups of p(group | groups before it, trunk), and the codes of one group are
independent given those. The product is the exact likelihood. A group is a column, a single place (raster order), the
whole frame, or places that are far apart (`order`). A mixture of K such products, whose component is sampled first, has
an exact likelihood too (`mixture`).

Shapes: B clips or rows, T frames in a clip, N targets, W frames of context, h w code grid, P = h*w places, n places in
a group, K components, D width, C condition width, V codes in the codebook (code V: no frame). The tokens of a frame are
in sampling order.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from worldmodel.common import spaces
from worldmodel.common.processes import process_rows
from worldmodel.common.torch_state import default_torch_modes
from worldmodel.prior.code_clip import CodeClip
from worldmodel.prior.code_init import code_frequencies, init_code_weights
from worldmodel.prior.context import Context
from worldmodel.prior.factored.factored_config import FactoredConfig
from worldmodel.prior.factored.factored_network import FactoredNetwork
from worldmodel.prior.factored.mixture import mixture_log_likelihood, nats_by_place
from worldmodel.prior.interface import OutcomePredictions, Prior
from worldmodel.prior.losses import Predictions, code_nats, prior_losses
from worldmodel.prior.sampling import Sampling
from worldmodel.prior.step_template import SampledFrame, StepOutcome, StepPredictions
from worldmodel.prior.targets import Targets, make_targets


@dataclass(frozen=True)
class FactoredPredictions(StepPredictions[Tensor]):
    """What a factored prior predicts of a step, with the output of the trunk.

    Attributes:
        features: (B, P, D).
        context: the context that ends with the step's action and lacks its frame.
    """

    features: Tensor
    context: Context


class FactoredPrior(FactoredNetwork, Prior[Context]):
    """The prior of fast dreams; see the module's docstring. Its state is the context itself.

    Args:
        config: sizes.
        grid: (h, w) of the codes.
        num_codes: V.
        action_space: the action space.
        end_has_frame: whether the environment returns a frame for the step that terminates an episode.

    Raises:
        UserError: sizes that are out of range or contradict each other.
    """

    rare_codes: Tensor

    @default_torch_modes()
    def __init__(
        self,
        config: FactoredConfig,
        grid: tuple[int, int],
        num_codes: int,
        action_space: spaces.Space,
        end_has_frame: bool = True,
    ) -> None:
        super().__init__(config, grid, num_codes, action_space)
        (h, w), self.grid = grid, grid
        self.action_space, self.end_has_frame = action_space, end_has_frame
        self.status_config, self.window = config.status, config.window
        self.num_uniforms = 2 + h * w + (config.mixture > 1)  # end, status, codes, component
        self.register_buffer("rare_codes", torch.zeros(h * w, num_codes + 1, dtype=torch.bool))

    def init_from_codes(self, embeddings: Tensor, counts: Tensor) -> None:
        """As `Prior.init_from_codes`."""
        token_counts = self.order.to_tokens(counts[None])[0]  # (P, V)
        init_code_weights(
            (self.code_embed, self.previous_group_embed), self.code_head, self.place_bias, embeddings, token_counts
        )
        self.set_rare_codes(counts)

    @torch.no_grad()
    def set_rare_codes(self, counts: Tensor) -> None:
        """As `Prior.set_rare_codes`: at each place the rarest codes, which together make up `rare_share`."""
        frequencies = code_frequencies(self.order.to_tokens(counts[None])[0])  # (P, V)
        ascending, order = frequencies.sort(dim=1)
        self.rare_codes.zero_()
        self.rare_codes[:, :-1].scatter_(1, order, ascending.cumsum(1) <= self.config.rare_share)

    def fit_reward_scale(self, rewards: Tensor) -> None:
        """As `Prior.fit_reward_scale`."""
        self.heads.fit_reward_scale(rewards)

    # -- learning ------------------------------------------------------------------------------------------

    def _predict(self, targets: Targets, status: Tensor) -> tuple[Predictions, Tensor]:
        """Predictions for N targets, and the components' log-probabilities (N, K).

        Args:
            targets: (N,).
            status: (N,), the status that the decoder is conditioned on.
        """
        features, summary, condition = self.encode_context(targets.context)
        condition = condition + self.heads.embed_outcome(targets.terminations, status)
        codes = self.order.to_tokens(targets.codes)
        code_logits = self.frame_logits(self.decoder_inputs(features), condition, codes)
        rewards = self.heads.predict_rewards(summary, targets.terminations, targets.masked_codes)
        predictions = Predictions(
            code_logits, self.heads.end_logits(summary), self.heads.status_logits(summary), rewards
        )
        return predictions, self.mixture.log_probs(summary, condition)

    def loss(self, clip: CodeClip) -> dict[str, Tensor]:
        """As `Prior.loss`; in training mode some of the history is replaced or dropped."""
        has_loss = clip.weights > 0
        targets, weights = self._make_targets(clip).select(has_loss), clip.weights[has_loss]
        status = targets.status
        if self.training:
            bins, share = self.config.status.num_bins, self.config.history_loss
            targets = targets.corrupt_history(self.config.history_noise, self.num_codes)
            targets = targets.drop_history(share, self.num_codes, bins)
            # some frames are predicted without their status, as in a likelihood of frames alone
            status = torch.where(torch.rand_like(weights) < share, bins, targets.status)
            rows = process_rows(len(weights))
            targets, weights, status = targets.select(rows), weights[rows], status[rows]
        predictions, component_log_probs = self._predict(targets, status)
        nats = code_nats(predictions.code_logits, self._target_codes(targets))  # (N, K, P)
        nats, component_nats = nats_by_place(component_log_probs, nats)
        component_nats = component_nats[:, None] / nats.shape[1]  # (N, 1), per place
        weighted_nats = nats + component_nats
        if self.config.rare_weight != 1:
            is_near = self._near_rare_code(targets.context)
            place_weights = torch.ones_like(nats).masked_fill(is_near, self.config.rare_weight)
            weighted_nats = nats * place_weights + component_nats
        rewards = self.heads.standardise_rewards(targets.rewards)
        return prior_losses(self.config, predictions, targets, nats + component_nats, rewards, weights, weighted_nats)

    @torch.no_grad()
    def log_prob(self, clip: CodeClip) -> Tensor:
        """As `Prior.log_prob`."""
        targets = self._make_targets(clip).flatten()
        predictions, component_log_probs = self._predict(targets, targets.status)
        nats = code_nats(predictions.code_logits, self._target_codes(targets))  # (N, K, P)
        log_probs = mixture_log_likelihood(component_log_probs, nats) * targets.frame_valid
        return log_probs.reshape(clip.frame_valid.shape)

    @torch.no_grad()
    def predict_outcomes(self, clip: CodeClip) -> OutcomePredictions:
        """As `Prior.predict_outcomes`; the decoder is not needed."""
        targets = self._make_targets(clip)
        targets = targets.select(targets.has_step)
        _, summary, _ = self.encode_context(targets.context)
        status_probs = self.heads.status_logits(summary).float().softmax(-1)[:, : self.config.status.num_bins]
        rewards = self.heads.predict_rewards(summary, targets.terminations, targets.masked_codes)
        steps = clip.rewards.shape  # (B, T-1)
        return OutcomePredictions(
            hazards=self.heads.end_logits(summary).float().sigmoid().unflatten(0, steps),
            status_probs=status_probs.unflatten(0, steps),
            rewards=self.heads.unstandardise_rewards(rewards.float()).unflatten(0, steps),
        )

    def _target_codes(self, targets: Targets) -> Tensor:
        """The targets' codes in sampling order, repeated for every component: (N, K, P)."""
        return self.order.to_tokens(targets.codes)[:, None].expand(-1, self.config.mixture, -1)

    def _make_targets(self, clip: CodeClip) -> Targets:
        return make_targets(clip, self.config.window, self.num_codes, self.config.status.num_bins)

    def _near_rare_code(self, context: Context) -> Tensor:
        """Tokens (N, P) at whose place, or next to it, the last frame has a code that is rare where it is."""
        last = self.order.to_tokens(context.codes[:, -1])
        is_rare = self.rare_codes[torch.arange(last.shape[1], device=last.device), last]  # (N, P)
        near = F.max_pool2d(self.order.to_grid(is_rare.float())[:, None], 3, 1, 1)  # (N, 1, h, w)
        return self.order.to_tokens(near[:, 0]) > 0

    # -- dreaming ------------------------------------------------------------------------------------------

    def init_state(self, context: Context) -> Context:
        """As `Prior.init_state`; the context is the whole state."""
        return context

    def predict_step(self, state: Context, actions: Tensor) -> FactoredPredictions:
        """As `Prior.predict_step`: run the trunk."""
        context = state.append_action(actions)
        features, summary, condition = self.encode_context(context)
        hazards, status_logits = self.heads.predict_outcome(summary)
        return FactoredPredictions(summary, condition, hazards, status_logits, features, context)

    def sample_frame(
        self,
        state: Context,
        predictions: FactoredPredictions,
        outcome: StepOutcome[Tensor],
        uniforms: Tensor,
        sampling: Sampling,
    ) -> SampledFrame[Tensor]:
        """As `Prior.sample_frame`: run the decoder."""
        condition = predictions.condition + self.heads.embed_outcome(outcome.terminations, outcome.status)
        component_log_probs = self.mixture.log_probs(predictions.summary, condition)
        codes, log_probs = self.sample_codes(predictions.features, condition, component_log_probs, uniforms, sampling)
        return SampledFrame(codes, log_probs)

    def next_state(
        self,
        state: Context,
        predictions: FactoredPredictions,
        outcome: StepOutcome[Tensor],
        frame: SampledFrame[Tensor],
        codes: Tensor,
    ) -> Context:
        """As `Prior.next_state`."""
        return predictions.context.append_frame(codes, outcome.status)
