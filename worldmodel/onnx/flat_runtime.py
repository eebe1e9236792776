"""The step of an exported flat prior: the frame position by position, with the keys and values of the last M frames.

Shapes: B rows, h w code grid, L decoder layers, F heads of keys and values, d head width, D width, M frames of memory,
S = h*w + 1 positions of a frame, V codes in the codebook.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from worldmodel.common.errors import UserError
from worldmodel.common.sampling_options import SamplingOptions
from worldmodel.onnx.group_session import MASKED, GroupSession
from worldmodel.onnx.onnx_prior import OnnxPrior
from worldmodel.onnx.onnx_state import NumpyContext, NumpyRows
from worldmodel.prior.step_template import SampledFrame, StepOutcome, StepPredictions


@dataclass(frozen=True)
class NumpyFlatState(NumpyRows):
    """The state of a flat prior, as `prior.flat.flat_prior.FlatState` but with the oldest frame first.

    Attributes:
        keys: (B, L, F, d, M*S) of L layers, F heads of keys and values and the last M frames of S positions.
        values: (B, L, F, M*S, d).
        frame_valid: (B, M) bool, which of those frames are valid.
        codes: (B, h, w) int64 of the last frame, V where there is none.
        summary: (B, D), summary of the last valid frame.
        status: (B,) int64.
        times: (B,) int64, frames since the first.
    """

    keys: np.ndarray
    values: np.ndarray
    frame_valid: np.ndarray
    codes: np.ndarray
    summary: np.ndarray
    status: np.ndarray
    times: np.ndarray

    def restart_times(self, rows: np.ndarray) -> Self:
        """As `StateRows.restart_times`."""
        return replace(self, times=np.where(rows, 0, self.times))


@dataclass(frozen=True)
class OnnxFlatFrame(SampledFrame[np.ndarray]):
    """A sampled frame; the session holds its keys, values and summary until its next run."""

    session: GroupSession


class OnnxFlatPrior(OnnxPrior[NumpyFlatState]):
    """As `prior.flat.flat_prior.FlatPrior`."""

    state_type = NumpyFlatState

    def init_state(self, context: NumpyContext) -> NumpyFlatState:
        """As `FlatPrior.init_state`."""
        keys, values, summary = self.run("context", *vars(context).values())
        memory, size = self.facts["memory"], len(self.places) + 1
        missing = memory - context.codes.shape[1]
        leading = [(0, 0)] * 3
        return NumpyFlatState(
            keys=np.pad(keys, [*leading, (0, 0), (missing * size, 0)]),
            values=np.pad(values, [*leading, (missing * size, 0), (0, 0)]),
            frame_valid=np.pad(context.codes[:, :, 0, 0] != self.num_codes, [(0, 0), (missing, 0)]),
            codes=context.codes[:, -1],
            summary=summary,
            status=context.status,
            times=context.has_action[:, 1:].sum(1) + 1,
        )

    def predict_step(self, state: NumpyFlatState, actions: np.ndarray) -> StepPredictions[np.ndarray]:
        """As `StepTemplate.predict_step`.

        Raises:
            UserError: a row at the last frame that this prior knows.
        """
        max_frames = self.facts["max_frames"]
        if max_frames is not None and (state.times >= max_frames).any():
            raise UserError(
                f"a dream has reached frame {max_frames}, the last this flat prior knows (num_frames). Reset "
                "it, ask for fewer steps, or train with attention window and positions rotary for endless dreams."
            )
        summary, condition, hazards, status_logits = self.run("outcome", state.summary, actions)
        return StepPredictions(summary, condition, hazards, status_logits[:, : self.num_status])

    def sample_frame(
        self,
        state: NumpyFlatState,
        predictions: StepPredictions[np.ndarray],
        outcome: StepOutcome[np.ndarray],
        uniforms: np.ndarray,
        sampling: SamplingOptions,
    ) -> OnnxFlatFrame:
        """As `StepTemplate.sample_frame`; the cache is copied to the session, so that a state never changes."""
        affines, place_inputs, *rotary = self.run(
            "frame_condition", predictions.condition, outcome.terminations, outcome.status, state.codes, state.times
        )
        size, past = len(place_inputs), state.keys.shape[-1]
        session = self._begin_frame(len(uniforms), affines)
        for i, (keys, values) in enumerate(zip(session.keys, session.values, strict=True)):
            keys[..., :past], values[..., :past, :] = state.keys[:, i], state.values[:, i]
        visible = state.frame_valid.repeat(size, 1)  # (B, M) -> (B, M*S)
        session.inputs["slot_mask"][:, 0, 0, :past] = np.where(visible, np.float32(0), MASKED)
        group_inputs = {"place_inputs": place_inputs} | ({"rotary": rotary[0]} if rotary else {})
        codes, log_probs = self._sample_groups(session, group_inputs, past, uniforms, sampling)
        return OnnxFlatFrame(codes, log_probs, session)

    def next_state(
        self,
        state: NumpyFlatState,
        predictions: StepPredictions[np.ndarray],
        outcome: StepOutcome[np.ndarray],
        frame: OnnxFlatFrame,
        codes: np.ndarray,
    ) -> NumpyFlatState:
        """As `StepTemplate.next_state`."""
        size, has_frame = len(self.places) + 1, outcome.has_frame[:, None]
        return NumpyFlatState(
            keys=np.stack([keys[..., size:] for keys in frame.session.keys], 1),
            values=np.stack([values[..., size:, :] for values in frame.session.values], 1),
            frame_valid=np.concatenate([state.frame_valid[:, 1:], has_frame], 1),
            codes=codes,
            summary=np.where(has_frame, frame.session.outputs["frame_summary"], state.summary),
            status=outcome.status,
            times=state.times + 1,
        )
