"""The network of the factored prior: a trunk processes the context, a decoder predicts the frame in groups of places.

Shapes: N frames or rows, W frames of context, h w code grid, P = h*w places, n places in a group, K components, D
width, C condition width, V codes in the codebook (code V: no frame). The tokens of a frame are in sampling order.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from worldmodel.common import spaces
from worldmodel.prior.conditioning import ActionEncoder
from worldmodel.prior.context import Context
from worldmodel.prior.factored.factored_config import FactoredConfig
from worldmodel.prior.factored.factored_layers import FactoredBlock, GainsAndBiases, GroupCache, ResidualGridConv
from worldmodel.prior.factored.group_order import GroupOrder, make_groups
from worldmodel.prior.factored.mixture import Mixture, mixture_log_likelihood
from worldmodel.prior.heads import OutcomeHeads
from worldmodel.prior.losses import code_nats
from worldmodel.prior.sampling import Sampling


class FactoredNetwork(nn.Module):
    """Trunk, decoder, mixture and heads.

    Args:
        config: sizes.
        grid: (h, w) of the codes.
        num_codes: V.
        action_space: the action space.

    Raises:
        UserError: sizes that are out of range or contradict each other.
    """

    config: FactoredConfig
    heads: OutcomeHeads

    def __init__(
        self, config: FactoredConfig, grid: tuple[int, int], num_codes: int, action_space: spaces.Space
    ) -> None:
        super().__init__()
        self.config, self.num_codes = config, num_codes
        (h, w), width, depth = grid, config.width, config.trunk_layers + config.decoder_layers
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
        self.mixture = Mixture(config.mixture, width, condition_dim)

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

    def frame_logits(self, inputs: Tensor, condition: Tensor, codes: Tensor) -> Tensor:
        """Logits (N, K, P, V) of whole frames with known codes (N, P), under every component."""
        num = self.config.mixture
        previous_codes = F.pad(codes, (0, 1), value=self.num_codes).index_select(1, self.order.input_tokens)
        if num > 1:
            previous_codes, condition = (x.repeat_interleave(num, 0) for x in (previous_codes, condition))
        tokens = self.mixture.add_all_components(inputs)
        logits = self._decode(tokens, previous_codes, slice(None), self._gains_and_biases(condition))
        return logits.unflatten(0, (-1, num))

    def sample_codes(
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
            all_logits = self.frame_logits(inputs, condition, codes)  # (B, K, P, V)
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
