"""A second world that follows the dreams of a first: where both predict different outcomes, neither is to be trusted.

Shapes: N rows, n some of them, H W pixels of a frame, A action size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from worldmodel.common.errors import UserError
from worldmodel.common.threads import thread_limited
from worldmodel.prior.context import Context
from worldmodel.tokenizer import StreamState
from worldmodel.world.world_model import WorldModel


@dataclass(frozen=True)
class OutcomeRisk:
    """What a world predicts of a step, before its frame.

    Attributes:
        hazards: (N,) float32, probability of termination.
        status: (N,) float32, expected value of the hidden variable given that the episode goes on; 0 without one.
    """

    hazards: Tensor
    status: Tensor

    def difference(self, other: OutcomeRisk) -> Tensor:
        """How much two worlds disagree: (N,) float32.

        The absolute difference of the hazards, plus that of the expected hidden variable after the step, which is 0
        after a termination, in hundredths.
        """
        kept, other_kept = (risk.status * (1 - risk.hazards) / 100 for risk in (self, other))
        return (self.hazards - other.hazards).abs() + (kept - other_kept).abs()


class ShadowWorld:
    """A world whose prior predicts the outcomes of another world's dreams.

    It encodes the dreamed frames with its own tokenizer. Its history begins with the first frame of a dream. Each step
    costs one encoding and one pass of its trunk; it samples nothing.

    Args:
        world: the second world.
        dreamed: the world that dreams.
        num_rows: N.
        dtype: of matrix products.
        threads: torch threads, at most.

    Raises:
        UserError: other frames, actions or bins of the hidden variable than in the dreamed world.
    """

    def __init__(self, world: WorldModel, dreamed: WorldModel, num_rows: int, dtype: torch.dtype, threads: int) -> None:
        for name in ("pixels", "action_space"):
            if getattr(world.spec, name) != getattr(dreamed.spec, name):
                raise UserError(
                    f"disagreement_penalty: the worlds differ in {name}: {getattr(dreamed.spec, name)} and "
                    f"{getattr(world.spec, name)}; give worlds of one environment."
                )
        if world.prior.status_config != dreamed.prior.status_config:
            raise UserError(
                f"disagreement_penalty: the worlds learned different hidden variables: {dreamed.prior.status_config} "
                f"and {world.prior.status_config}; train both with the same --prior.status."
            )
        self.world, self.dtype, self.threads = world, dtype, threads
        self.values = torch.tensor(world.prior.status_config.values, dtype=torch.float32, device=world.device)
        shape = (num_rows, 1, *world.tokenizer.frame_shape)
        frames = torch.zeros(shape, dtype=torch.uint8)
        self.context = self._begin(frames, torch.zeros(num_rows, dtype=torch.int64))
        self.encoder = self._encoder_state(frames)

    def _begin(self, frames: Tensor, status: Tensor) -> Context:
        """Contexts of one frame: (n, 1, H, W, 3) uint8 and (n,) int64."""
        space = self.world.spec.action_space
        dtype = torch.float32 if space.dtype.kind == "f" else torch.int64
        actions = torch.zeros((len(frames), 0, *space.shape), dtype=dtype)
        return self.world.context(frames, actions, status=status if self.world.prior.num_status else None)

    def _encoder_state(self, frames: Tensor) -> StreamState | None:
        """The tokenizer's state after the first frames of dreams, (n, 1, H, W, 3) uint8."""
        state = self.world.tokenizer.init_encoder_state(len(frames))
        return None if state is None else self.world.tokenizer.encode_next(frames.to(self.world.device), state)[1]

    @thread_limited
    @torch.no_grad()
    def reset(self, rows: Tensor, frames: Tensor, status: Tensor) -> None:
        """Begin anew in some rows.

        Args:
            rows: (n,) int64.
            frames: (N, H, W, 3) uint8, the first frames of the dreams.
            status: (N,) int64, bins of the hidden variable.
        """
        rows = rows.to(frames.device)
        self.context = self.context.scatter(rows, self._begin(frames[rows, None], status[rows]))
        if self.encoder is not None:
            begun = self._encoder_state(frames[rows, None])
            assert begun is not None
            self.encoder = self.encoder.scatter(rows, begun)

    @thread_limited
    @torch.no_grad()
    def predict(self, actions: Tensor) -> OutcomeRisk:
        """The outcomes of a step that takes the actions, (N,) or (N, A)."""
        prior = self.world.prior
        with torch.autocast(self.world.device.type, self.dtype, enabled=self.dtype != torch.float32):
            predictions = prior.predict_step(prior.init_state(self.context), actions.to(self.world.device))
        status_probs = predictions.status_logits.float().softmax(-1)
        return OutcomeRisk(predictions.hazards, expected_status(status_probs, self.values))

    @thread_limited
    @torch.no_grad()
    def follow(self, actions: Tensor, frames: Tensor, status: Tensor) -> None:
        """Append a step of the dreams.

        Args:
            actions: (N,) or (N, A).
            frames: (N, H, W, 3) uint8, after the step.
            status: (N,) int64, after the step.
        """
        with torch.autocast(self.world.device.type, self.dtype, enabled=self.dtype != torch.float32):
            codes, self.encoder = self.world.tokenizer.encode_next(frames[:, None], self.encoder)
        actions = actions.to(self.context.actions)
        status = status if self.world.prior.num_status else self.context.status
        self.context = self.context.append_action(actions).append_frame(codes[:, 0], status)


def expected_status(status_probs: Tensor, values: Tensor) -> Tensor:
    """The expected hidden variable, (N, bins) and (bins,) -> (N,); 0 without bins."""
    return status_probs @ values if len(values) else status_probs.new_zeros(len(status_probs))
