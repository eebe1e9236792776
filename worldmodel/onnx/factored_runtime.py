"""The step of an exported factored prior: a trunk over the context, then the frame group by group.

Shapes: B rows, W frames of a context, h w code grid, n groups of G places, D width, A action size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from worldmodel.common.sampling_options import SamplingOptions
from worldmodel.onnx.onnx_prior import OnnxPrior
from worldmodel.onnx.onnx_state import NumpyContext
from worldmodel.prior.step_template import SampledFrame, StepOutcome, StepPredictions


@dataclass(frozen=True)
class OnnxFactoredPredictions(StepPredictions[np.ndarray]):
    """What is predicted of a step, with the output of the trunk.

    Attributes:
        place_inputs: (n, B, G, D), inputs of the decoder.
        window_actions: (B, W) or (B, W, A), the window's actions, the last of which is the step's.
        has_action: (B, W) bool.
    """

    place_inputs: np.ndarray
    window_actions: np.ndarray
    has_action: np.ndarray


class OnnxFactoredPrior(OnnxPrior[NumpyContext]):
    """As `prior.factored.factored_prior.FactoredPrior`: the state is the context."""

    state_type = NumpyContext

    def init_state(self, context: NumpyContext) -> NumpyContext:
        """The context is the state."""
        return context

    def predict_step(self, state: NumpyContext, actions: np.ndarray) -> OnnxFactoredPredictions:
        """As `StepTemplate.predict_step`."""
        window_actions = np.concatenate([state.actions[:, 1:], actions[:, None]], 1)
        has_action = np.concatenate([state.has_action[:, 1:], np.ones_like(state.has_action[:, :1])], 1)
        summary, condition, hazards, status_logits, place_inputs = self.run(
            "outcome", state.codes, window_actions, has_action, state.status
        )
        status_logits = status_logits[:, : self.num_status]
        return OnnxFactoredPredictions(
            summary, condition, hazards, status_logits, place_inputs, window_actions, has_action
        )

    def sample_frame(
        self,
        state: NumpyContext,
        predictions: OnnxFactoredPredictions,
        outcome: StepOutcome[np.ndarray],
        uniforms: np.ndarray,
        sampling: SamplingOptions,
    ) -> SampledFrame[np.ndarray]:
        """As `StepTemplate.sample_frame`."""
        (affines,) = self.run("frame_condition", predictions.condition, outcome.terminations, outcome.status)
        session = self._begin_frame(len(uniforms), affines)
        group_inputs = {"place_inputs": predictions.place_inputs}
        return SampledFrame(*self._sample_groups(session, group_inputs, 0, uniforms, sampling))

    def next_state(
        self,
        state: NumpyContext,
        predictions: OnnxFactoredPredictions,
        outcome: StepOutcome[np.ndarray],
        frame: SampledFrame[np.ndarray],
        codes: np.ndarray,
    ) -> NumpyContext:
        """As `StepTemplate.next_state`."""
        window_codes = np.concatenate([state.codes[:, 1:], codes[:, None]], 1)  # (B, W, h, w)
        return NumpyContext(window_codes, predictions.window_actions, predictions.has_action, outcome.status)
