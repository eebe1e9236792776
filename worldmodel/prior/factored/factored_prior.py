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
from typing import cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from worldmodel.common import spaces
from worldmodel.common.processes import process_rows
from worldmodel.common.torch_state import default_torch_modes
from worldmodel.prior.code_clip import CodeClip
from worldmodel.prior.code_init import code_frequencies, init_code_weights
from worldmodel.prior.conditioning import ActionEncoder
from worldmodel.prior.context import Context
from worldmodel.prior.factored.factored_config import FactoredConfig
from worldmodel.prior.factored.factored_layers import FactoredBlock, GainsAndBiases, GroupCache, ResidualGridConv
from worldmodel.prior.factored.group_order import GroupOrder, make_groups
from worldmodel.prior.factored.mixture import Mixture, mixture_log_likelihood, nats_by_place
from worldmodel.prior.heads import OutcomeHeads
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


class FactoredPrior(Prior[Context]):
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
        super().__init__()
        self.config, self.grid, self.num_codes = config, grid, num_codes
        self.action_space, self.end_has_frame = action_space, end_has_frame
        self.status_config, self.window = config.status, config.window
        (h, w), width, depth = grid, config.width, config.trunk_layers + config.decoder_layers
        self.num_uniforms = 2 + h * w + (config.mixture > 1)  # end, status, codes, component
        self.order = GroupOrder(make_groups(config.order, grid, config.num_groups), grid)
        condition_dim = config.window * config.action_dim
        self.action_encoder = ActionEncoder(action_space, config.action_dim)
        self.code_embed = nn.Embedding(num_codes + 1, config.embed_dim)
        self.stem = nn.Conv2d(config.window * config.embed_dim, width, 3, padding=1)
        self.position_embed = nn.Parameter(0.02 * torch.randn(h * w + 1, width))  # the last: the summary token
        self.status_embed = nn.Embedding(config.status.num_bins + 1, width)
        self.trunk_convs = nn.ModuleList(ResidualGridConv(width, self.order) for _ in range(config.trunk_layers))

        def blocks(count: int) -> nn.ModuleList:
            return nn.ModuleList(FactoredBlock(width, config.num_heads, condition_dim, depth) for _ in range(count))

        self.trunk_blocks = blocks(config.trunk_layers)
        self.decoder_blocks = blocks(config.decoder_layers)
        self.decoder_proj = nn.Linear(width, width)
        self.previous_group_embed = nn.Embedding(num_codes + 1, width)  # the last: no previous group
        self.place_embed = nn.Parameter(0.02 * torch.randn(h * w, width))
        self.code_head = nn.Linear(width, num_codes)
        self.place_bias = nn.Parameter(torch.zeros(h * w, num_codes))
        self.heads = OutcomeHeads(width, num_codes, config.status.num_bins, condition_dim)
        nn.init.normal_(self.code_embed.weight, std=0.3)
        nn.init.normal_(self.previous_group_embed.weight, std=0.3)
        self.register_buffer("rare_codes", torch.zeros(h * w, num_codes + 1, dtype=torch.bool))
        self.mixture = Mixture(config.mixture, width, condition_dim)

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

    # -- the network ---------------------------------------------------------------------------------------

    def encode_context(self, context: Context) -> tuple[Tensor, Tensor, Tensor]:
        """The trunk: process a context whose last action is the one of the coming step.

        Returns:
            Features of the places (N, P, D), the summary (N, D), the condition (N, C).
        """
        condition = self.action_encoder(context.actions, context.has_action).flatten(1)  # (N, W*action_dim) = (N, C)
        history = rearrange(self.code_embed(context.codes), "n k h w e -> n (k e) h w")
        features = self.order.to_tokens(rearrange(self.stem(history), "n d h w -> n h w d"))  # (N, P, D)
        summary = self.status_embed(context.status)[:, None]  # (N, 1, D)
        tokens = torch.cat([features, summary], 1) + self.position_embed  # (N, P+1, D)
        for conv, block in zip(self.trunk_convs, self.trunk_blocks, strict=True):
            tokens = block(conv(tokens), cast(FactoredBlock, block).gains_and_biases(condition))
        tokens = F.layer_norm(tokens, tokens.shape[-1:])
        return tokens[:, :-1], tokens[:, -1], condition

    def decoder_inputs(self, features: Tensor) -> Tensor:
        """Input tokens of the decoder, before components and previous codes are added: (N, P, D) -> (N, P, D)."""
        return self.decoder_proj(features) + self.place_embed

    def _gains_and_biases(self, condition: Tensor) -> list[GainsAndBiases]:
        """Of each decoder block, for a frame's condition (N, C)."""
        return [cast(FactoredBlock, block).gains_and_biases(condition) for block in self.decoder_blocks]

    def _decode(
        self,
        tokens: Tensor,
        previous_codes: Tensor,
        group: slice,
        gains_and_biases: list[GainsAndBiases],
        caches: list[GroupCache] | None = None,
    ) -> Tensor:
        """The decoder, on one group or on all groups of a frame at once.

        Args:
            tokens: (N, n, D), from `decoder_inputs` and the mixture.
            previous_codes: (N, n) int64, each token's code of the previous group; V for none.
            group: which tokens of the frame they are.
            gains_and_biases: from the method of that name.
            caches: keys and values of the groups before, one per block; None for all groups at once.

        Returns:
            Logits (N, n, V).
        """
        x = tokens + self.previous_group_embed(previous_codes)
        for i, block in enumerate(self.decoder_blocks):
            if caches is None:
                x = block(x, gains_and_biases[i], self.order.attention_mask)
            else:
                x = block(x, gains_and_biases[i], None, caches[i])
        return self.code_head(F.layer_norm(x, x.shape[-1:])) + self.place_bias[group]

    def _frame_logits(self, inputs: Tensor, condition: Tensor, codes: Tensor) -> Tensor:
        """Logits (N, K, P, V) of whole frames with known codes (N, P), under every component."""
        num = self.config.mixture
        previous_codes = F.pad(codes, (0, 1), value=self.num_codes).index_select(1, self.order.input_tokens)
        if num > 1:
            previous_codes, condition = (x.repeat_interleave(num, 0) for x in (previous_codes, condition))
        tokens = self.mixture.add_all_components(inputs)
        logits = self._decode(tokens, previous_codes, slice(None), self._gains_and_biases(condition))
        return logits.unflatten(0, (-1, num))

    def _predict(self, targets: Targets, status: Tensor) -> tuple[Predictions, Tensor]:
        """Predictions for N targets, and the components' log-probabilities (N, K).

        Args:
            targets: (N,).
            status: (N,), the status that the decoder is conditioned on.
        """
        features, summary, condition = self.encode_context(targets.context)
        condition = condition + self.heads.embed_outcome(targets.terminations, status)
        codes = self.order.to_tokens(targets.codes)
        code_logits = self._frame_logits(self.decoder_inputs(features), condition, codes)
        rewards = self.heads.predict_rewards(summary, targets.terminations, targets.masked_codes)
        predictions = Predictions(
            code_logits, self.heads.end_logits(summary), self.heads.status_logits(summary), rewards
        )
        return predictions, self.mixture.log_probs(summary, condition)

    # -- learning ------------------------------------------------------------------------------------------

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
        codes, log_probs = self._sample_groups(predictions.features, condition, component_log_probs, uniforms, sampling)
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

    def _sample_groups(
        self, features: Tensor, condition: Tensor, component_log_probs: Tensor, uniforms: Tensor, sampling: Sampling
    ) -> tuple[Tensor, Tensor]:
        """Sample a frame: first the component of a mixture, then group by group.

        Args:
            features: (B, P, D), from the trunk.
            condition: (B, C), of the new frame.
            component_log_probs: (B, K).
            uniforms: (B, P) or, with a mixture, (B, P+1) float32 in [0, 1), the last for the component.
            sampling: how component and codes are sampled.

        Returns:
            Codes (B, h, w) and their log-probability (B,) at temperature 1.
        """
        rows, is_mixture = len(features), self.config.mixture > 1
        inputs, gains_and_biases = self.decoder_inputs(features), self._gains_and_biases(condition)
        components = torch.zeros(rows, dtype=torch.int64, device=features.device)
        if is_mixture:
            components = sampling.sample(component_log_probs, uniforms[:, -1])
        tokens = self.mixture.add_component(inputs, components)
        caches = self._init_caches(features)
        codes = torch.full((rows, tokens.shape[1] + 1), self.num_codes, device=features.device)  # the last: none
        logits = []
        for group in self.order.group_slices:
            previous_codes = codes.index_select(1, self.order.input_tokens[group])
            logits.append(self._decode(tokens[:, group], previous_codes, group, gains_and_biases, caches).float())
            codes[:, group] = sampling.sample(logits[-1], uniforms[:, group])  # (B, n, V) -> (B, n)
        codes = codes[:, :-1]
        if is_mixture and sampling.exact:
            all_logits = self._frame_logits(inputs, condition, codes)  # (B, K, P, V)
        else:
            all_logits = torch.cat(logits, 1)[:, None]  # (B, 1, P, V)
            component_log_probs = component_log_probs.gather(1, components[:, None])
        nats = code_nats(all_logits, codes[:, None].expand(all_logits.shape[:-1]))  # (B, K or 1, P)
        return self.order.to_grid(codes), mixture_log_likelihood(component_log_probs, nats)

    def _init_caches(self, features: Tensor) -> list[GroupCache] | None:
        """Empty caches for the decoder blocks; None where the frame is one group. (B, P, D)"""
        if len(self.order.group_slices) == 1:
            return None
        (rows, num_places, width), heads = features.shape, self.config.num_heads
        shape = (rows, heads, num_places, width // heads)
        return [GroupCache(features.new_empty(shape), features.new_empty(shape)) for _ in self.decoder_blocks]
