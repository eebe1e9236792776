"""One step of a dream as a function of its state.

Shapes: N rows, n some of them, H W pixels, h w code grid, A action size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from worldmodel.dream.backends import Backend, DecodedFrames
from worldmodel.dream.simulator_state import SimulatorState, SimulatorStep
from worldmodel.dream.tiles import apply_in_tiles
from worldmodel.prior.context import Context
from worldmodel.prior.sampling import Sampling, uniforms
from worldmodel.prior.state_rows import StateRows
from worldmodel.prior.step_template import PriorStep
from worldmodel.world.world_model import WorldModel


class DreamStepper:
    """Steps dreams of one world; it has settings but no state.

    Args:
        world: the world.
        backend: what computes the world's step.
        sampling: how the frames' codes are sampled.
        batch_invariant: whether rows are computed in tiles of one size.
        dtype: of matrix products.

    Attributes:
        status_values: (bins,) float32, the hidden variable at the middle of each bin.
    """

    def __init__(
        self,
        world: WorldModel,
        backend: Backend,
        sampling: Sampling,
        batch_invariant: bool,
        dtype: torch.dtype,
    ) -> None:
        self.world, self.backend, self.sampling = world, backend, sampling
        self.batch_invariant, self.dtype = batch_invariant, dtype
        self.status_values = torch.tensor(world.prior.status_config.values, dtype=torch.float32, device=world.device)

    @property
    def is_bounded(self) -> bool:
        """Whether the prior knows a last frame. Its step then waits for the device, to see whether a row is there."""
        return self.world.prior.max_frames is not None

    def init_state(self, context: Context) -> StateRows:
        """The prior's state after a context of frames, n rows."""
        return self._compute(self.backend.init_state, context)

    def decode_context(self, codes: Tensor) -> DecodedFrames:
        """The last frames of contexts: codes (n, W, h, w), V where there is no frame, which only precedes frames."""
        state = self.world.tokenizer.init_decoder_state(len(codes))
        if state is None:
            return self._compute(self.backend.decode, codes[:, -1], None)
        num_codes = self.world.prior.num_codes
        for step in codes[:, -1 - self.world.tokenizer.decoder_past :].unbind(1):
            decoded = self._compute(self.backend.decode, step.clamp_max(num_codes - 1), state)
            state = decoded.state.keep_where(step[:, 0, 0] == num_codes, state)  # not begun
        return DecodedFrames(decoded.frames, state)

    def decode_past(self, codes: Tensor, count: int) -> list[Tensor]:
        """The frames before the last ones of contexts: codes (n, W, h, w) -> `count` < W frames (n, H, W, 3) uint8.

        Where there is no frame, the first one of the context is repeated. The frames of a decoder that reads its past
        differ from those of the episode where codes before the context matter.
        """
        num_codes, width = self.world.prior.num_codes, codes.shape[1]
        first = (codes[:, :, 0, 0] == num_codes).sum(1)  # (n,) the first frame of each context
        index = torch.arange(width, device=codes.device).maximum(first[:, None])  # (n, W)
        filled = codes[torch.arange(len(codes), device=codes.device)[:, None], index]  # (n, W, h, w)
        state, frames = self.world.tokenizer.init_decoder_state(len(codes)), []
        for step in filled[:, :-1].unbind(1) if state is not None else filled[:, width - 1 - count : -1].unbind(1):
            decoded = self._compute(self.backend.decode, step, state)
            frames.append(decoded.frames)
            state = decoded.state
        return frames[len(frames) - count :]

    def step(self, state: SimulatorState, actions: Tensor) -> tuple[SimulatorState, SimulatorStep]:
        """Take a step in every row.

        Args:
            state: N rows; the step may write to its tensors.
            actions: (N,) or (N, A), on the world's device.

        Returns:
            The state after the step and the step's result, which may share tensors. A row that had ended keeps its
            last frame and gets no reward.
        """
        uniform = uniforms(state.seeds, state.episodes.clamp_min(0), state.steps, self.world.prior.num_uniforms)
        prior = state.prior
        if self.is_bounded:  # rows that have ended are not refused at their last frame
            prior = prior.restart_times(state.ended)
        out: PriorStep[Any, Tensor] = self._compute(
            partial(self.backend.step, sampling=self.sampling), prior, actions, uniform
        )
        changes = out.has_frame & ~state.ended  # (N,)
        decoded: DecodedFrames = self._compute(self.backend.decode, out.codes, state.decoder)
        decoder = decoded.state
        if decoder is not None and state.decoder is not None:
            decoder = decoder.keep_where(~changes, state.decoder)
        frames = torch.where(changes[:, None, None, None], decoded.frames, state.frames)
        codes = torch.where(changes[:, None, None], out.codes, state.codes)
        after = replace(
            state,
            prior=out.state.keep_where(state.ended, state.prior),
            frames=frames,
            codes=codes,
            steps=state.steps + 1,
            ended=state.ended | out.terminations,
            decoder=decoder,
        )
        status = after.prior.status
        return after, SimulatorStep(
            frames=frames,
            codes=codes,
            rewards=out.rewards.masked_fill(state.ended, 0.0),
            terminations=after.ended,
            hazards=out.hazards,
            status=status,
            status_values=self.status_to_values(status),
            status_probs=out.status_probs,
            log_probs=out.log_probs.masked_fill(state.ended, 0.0),
        )

    def status_to_values(self, status: Tensor) -> Tensor:
        """The hidden variable at the middle of its bins: (N,) int64 -> (N,) float32, NaN where it is not known."""
        if not len(self.status_values):
            return torch.full(status.shape, float("nan"), dtype=torch.float32, device=status.device)
        return F.pad(self.status_values, (0, 1), value=float("nan"))[status]

    def _compute(self, function: Callable[..., Any], *inputs: Any) -> Any:
        """Apply a function of rows under this stepper's settings."""
        with torch.autocast(self.world.device.type, self.dtype, enabled=self.dtype != torch.float32):
            return apply_in_tiles(function, *inputs) if self.batch_invariant else function(*inputs)
