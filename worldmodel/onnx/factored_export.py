"""The ONNX graphs of a factored prior; `onnx.factored_runtime` runs them.

Shapes: B rows, W frames of a context, h w code grid, P = h*w places, n groups of G places each (P = n*G), D width, C
condition width, L decoder layers.
"""

from __future__ import annotations

from typing import Any

from einops import rearrange
from torch import Tensor, nn

from worldmodel.common.errors import UserError
from worldmodel.onnx.group_modules import GroupWeights, LayerWeights, layer_affines
from worldmodel.onnx.prior_export import DecoderSizes, Graph, PriorExport, condition_inputs, context_inputs
from worldmodel.prior.context import Context
from worldmodel.prior.factored.factored_prior import FactoredPrior


class FactoredOutcome(nn.Module):
    """The trunk of a factored prior: termination and status of a step, and the inputs of the new frame's places."""

    def __init__(self, prior: FactoredPrior) -> None:
        super().__init__()
        self.prior = prior

    def forward(
        self, codes: Tensor, actions: Tensor, has_action: Tensor, status: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Read a window (B, W, ...) whose last action is that of this step.

        Returns:
            summary (B, D), condition (B, C), hazards (B,), status logits (B, bins or 1), place inputs (n, B, G, D).
        """
        prior = self.prior
        places, summary, condition = prior.encode_context(Context(codes, actions, has_action, status))
        place_inputs = prior.decoder_inputs(places)  # (B, P, D)
        place_inputs = rearrange(place_inputs, "b (n g) d -> n b g d", n=len(prior.order.group_slices))
        hazards = prior.heads.end_logits(summary).sigmoid()
        return summary, condition, hazards, prior.heads.status_logits(summary), place_inputs


class FactoredFrameCondition(nn.Module):
    """The condition of a new frame: gain and bias of the LayerNorms of all decoder layers."""

    def __init__(self, prior: FactoredPrior) -> None:
        super().__init__()
        self.heads = prior.heads
        self.blocks = prior.decoder_blocks

    def forward(self, condition: Tensor, terminations: Tensor, status: Tensor) -> Tensor:
        """(B, C), (B,) bool, (B,) int64 -> affines (B, 1, 4*L*D)."""
        return layer_affines(self.blocks, condition + self.heads.embed_outcome(terminations, status))


class FactoredExport(PriorExport):
    """The export of a factored prior without a mixture, with groups of one size."""

    prior: FactoredPrior
    state_type = Context

    def decoder_sizes(self) -> DecoderSizes:
        """As `PriorExport.decoder_sizes`."""
        prior, config = self.prior, self.prior.config
        group_sizes = {span.stop - span.start for span in prior.order.group_slices}
        if config.mixture > 1 or len(group_sizes) > 1:
            raise UserError(
                f"this world's prior samples frames from a mixture of {config.mixture} in groups of "
                f"{sorted(group_sizes)} codes; an export takes no mixture, and groups of one size. Step it with torch."
            )
        group = group_sizes.pop()
        return DecoderSizes(
            order=config.order,
            group=group,
            places=prior.order.token_places.tolist(),
            layers=config.decoder_layers,
            heads=config.num_heads,
            head_dim=config.width // config.num_heads,
            slots=prior.grid[0] * prior.grid[1] - group,  # no later group attends to the last one's keys and values
            memory=0,
        )

    def graphs(self) -> dict[str, Graph]:
        """As `PriorExport.graphs`."""
        prior = self.prior
        condition = condition_inputs(prior.config.window * prior.config.action_dim)
        outputs = ("summary", "condition", "hazards", "status_logits", "place_inputs")
        return {
            "outcome": Graph(FactoredOutcome(prior), context_inputs(prior), outputs),
            "frame_condition": Graph(FactoredFrameCondition(prior), condition, ("affines",)),
            "group": self.group_graph(self._group_weights()),
        }

    def _group_weights(self) -> GroupWeights:
        prior, blocks = self.prior, list[Any](self.prior.decoder_blocks)
        return GroupWeights(
            layers=[
                LayerWeights(block.attention.qkv_proj, block.attention.out_proj, block.up_proj, block.down_proj)
                for block in blocks
            ],
            num_heads=prior.config.num_heads,
            num_kv_heads=prior.config.num_heads,
            code_head=prior.code_head,
            embeddings=prior.previous_group_embed.weight.data,
            place_bias=prior.place_bias.data,
            group=self.sizes.group,
        )
