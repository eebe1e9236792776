"""How the modules of an exported world make a prior's step; `onnx.graphs` lists the modules.

Shapes: B rows, W frames of a context, h w code grid, P = h*w places, n groups of G places, V codes in the codebook.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, TypeVar

import numpy as np

from worldmodel.common.sampling_options import SamplingOptions
from worldmodel.onnx.group_session import GroupSession
from worldmodel.onnx.numpy_sampling import inverse_cdf, sample, softmax
from worldmodel.onnx.onnx_state import NumpyContext, NumpyRows
from worldmodel.prior.step_template import StepOutcome, StepPredictions, StepTemplate

Rows = TypeVar("Rows", bound=NumpyRows)


class OnnxPrior(StepTemplate[Rows, np.ndarray], ABC):
    """The modules of an exported prior as the hooks of a step.

    Args:
        sessions: onnxruntime sessions by name.
        facts: "prior" of the export's config.
        num_status: bins of the status; 0 without one.
        end_has_frame: whether the environment returns a frame for the step that terminates an episode.

    Attributes:
        state_type: class of the state.
    """

    state_type: ClassVar[type[NumpyRows]]
    where = staticmethod(np.where)

    def __init__(self, sessions: dict[str, Any], facts: dict[str, Any], num_status: int, end_has_frame: bool) -> None:
        self._sessions, self.facts, self._num_status, self.end_has_frame = sessions, facts, num_status, end_has_frame
        self._input_names = {name: [node.name for node in x.get_inputs()] for name, x in sessions.items()}
        self.grid, self.num_codes, self.group = tuple(facts["grid"]), int(facts["num_codes"]), facts["group"]
        self.places = np.asarray(facts["places"])  # in the order of sampling
        self._group_session: GroupSession | None = None

    @property
    def num_status(self) -> int:
        """Bins of the status; 0 without one."""
        return self._num_status

    def run(self, name: str, *inputs: np.ndarray) -> list[Any]:
        """The outputs of a module for its inputs in their order."""
        return self._sessions[name].run(None, dict(zip(self._input_names[name], inputs, strict=True)))

    @abstractmethod
    def init_state(self, context: NumpyContext) -> Rows:
        """The state after a context."""

    def sample_status(self, logits: np.ndarray, uniforms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As `StepTemplate.sample_status`."""
        return inverse_cdf(logits, uniforms), softmax(logits)

    def predict_rewards(
        self, predictions: StepPredictions[np.ndarray], outcome: StepOutcome[np.ndarray], codes: np.ndarray
    ) -> np.ndarray:
        """As `StepTemplate.predict_rewards`."""
        return self.run("reward", predictions.summary, outcome.terminations, codes)[0]

    def _begin_frame(self, rows: int, affines: np.ndarray) -> GroupSession:
        """The group session for B rows, with the condition of a frame and all slots hidden."""
        if self._group_session is None or self._group_session.rows != rows:
            self._group_session = GroupSession(self._sessions["group"], rows, self.facts["layers"])
        self._group_session.begin_frame(affines)
        return self._group_session

    def _sample_groups(
        self,
        session: GroupSession,
        group_inputs: dict[str, np.ndarray],
        slot: int,
        uniforms: np.ndarray,
        sampling: SamplingOptions,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Sample all groups of a frame. A flat prior has one run more, which reads the last code.

        Args:
            session: with the condition of the frame.
            group_inputs: inputs that differ between groups, (n, ...) or (n + 1, ...).
            slot: where the first group's keys and values are stored.
            uniforms: (B, P) float32.
            sampling: how codes are sampled.

        Returns:
            Codes (B, h, w) and their log-probability (B,).
        """
        rows, group, num_places = len(uniforms), self.group, len(self.places)
        ordered, log_probs = np.empty((rows, num_places), np.int64), np.zeros(rows, np.float32)
        previous_codes = session.inputs["previous_codes"]
        previous_codes.fill(self.num_codes)
        for i in range(len(group_inputs["place_inputs"])):
            for name, values in group_inputs.items():
                session.inputs[name][...] = values[i]
            first = i * group
            logits = session.run(i, slot + first)
            if first < num_places:
                span = slice(first, first + group)
                codes, nats = sample(sampling, logits, uniforms[:, span])
                ordered[:, span] = previous_codes[...] = codes
                log_probs += nats.sum(1)
        codes = np.empty_like(ordered)
        codes[:, self.places] = ordered
        return codes.reshape(rows, *self.grid), log_probs
