"""How the modules of an exported world make a prior's step; `onnx.graphs` lists the modules.

Shapes: B rows, W frames of a context, h w code grid, P = h*w places, n groups of G places, D width, C condition width,
L decoder layers, F heads of keys and values, d head width, N slots of the cache, M frames of memory, S = P + 1
positions of a frame, V codes in the codebook.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np

from worldmodel.common.errors import UserError
from worldmodel.common.sampling_options import SamplingOptions
from worldmodel.onnx.group_session import MASKED, GroupSession
from worldmodel.onnx.numpy_sampling import sample
from worldmodel.onnx.onnx_state import NumpyContext, NumpyFlatState


@dataclass(frozen=True)
class OnnxOutcome:
    """What is predicted of a step before its codes.

    Attributes:
        summary: (B, D), from which the reward is predicted too.
        condition: (B, C).
        hazards: (B,) float32, the probability of a termination.
        status_logits: (B, bins).
        place_inputs: (n, B, G, D) of the factored prior; None of a flat prior.
    """

    summary: np.ndarray
    condition: np.ndarray
    hazards: np.ndarray
    status_logits: np.ndarray
    place_inputs: np.ndarray | None = None


@dataclass(frozen=True)
class SampledOutcome:
    """The sampled termination, (B,) bool, and status, (B,) int64, of a step."""

    terminations: np.ndarray
    status: np.ndarray


@dataclass(frozen=True)
class SampledFrame:
    """A sampled frame.

    Attributes:
        codes: (B, h, w) int64.
        log_probs: (B,) float32, nats.
        session: of a flat prior, which holds the new keys and values; None of a factored prior.
    """

    codes: np.ndarray
    log_probs: np.ndarray
    session: GroupSession | None = None


class OnnxPrior(ABC):
    """The modules of an exported prior, in the order of a step.

    Args:
        sessions: onnxruntime sessions by name.
        facts: "prior" of the export's config.
    """

    def __init__(self, sessions: dict[str, Any], facts: dict[str, Any]) -> None:
        self._sessions, self.facts = sessions, facts
        self._input_names = {name: [node.name for node in x.get_inputs()] for name, x in sessions.items()}
        self.grid, self.num_codes, self.group = tuple(facts["grid"]), facts["num_codes"], facts["group"]
        self.places = np.asarray(facts["places"])  # in the order of sampling
        self._group_session: GroupSession | None = None

    def run(self, name: str, *inputs: np.ndarray) -> list[Any]:
        """The outputs of a module for its inputs in their order."""
        return self._sessions[name].run(None, dict(zip(self._input_names[name], inputs, strict=True)))

    @abstractmethod
    def init_state(self, context: NumpyContext) -> Any:
        """The state after a context."""

    @abstractmethod
    def outcome(self, state: Any, actions: np.ndarray) -> OnnxOutcome:
        """What is predicted of a step before its codes."""

    @abstractmethod
    def sample_frame(
        self, state: Any, outcome: OnnxOutcome, sampled: SampledOutcome, uniforms: np.ndarray, sampling: SamplingOptions
    ) -> SampledFrame:
        """Sample the codes of the new frame.

        Args:
            state: before the step.
            outcome: the predictions of the step.
            sampled: what was sampled from them.
            uniforms: (B, P) float32 in [0, 1), uniform numbers.
            sampling: how codes are sampled.
        """

    @abstractmethod
    def next_state(
        self, state: Any, actions: np.ndarray, codes: np.ndarray, status: np.ndarray, frame: SampledFrame
    ) -> Any:
        """The state after a step.

        Args:
            state: before the step.
            actions: (B,) or (B, A).
            codes: (B, h, w) int64, V in rows whose step has no frame.
            status: (B,) int64.
            frame: the sampled frame.
        """

    def rewards(self, outcome: OnnxOutcome, terminations: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """(B,) float32; codes are V in rows whose step has no frame."""
        return self.run("reward", outcome.summary, terminations, codes)[0]

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


class OnnxFactoredPrior(OnnxPrior):
    """A trunk over the context, then the frame group by group; its state is the context."""

    def init_state(self, context: NumpyContext) -> NumpyContext:
        """The context is the state."""
        return context

    def outcome(self, state: NumpyContext, actions: np.ndarray) -> OnnxOutcome:
        """As `OnnxPrior.outcome`."""
        window_actions, has_action = self._append_action(state, actions)
        return OnnxOutcome(*self.run("outcome", state.codes, window_actions, has_action, state.status))

    def sample_frame(
        self,
        state: NumpyContext,
        outcome: OnnxOutcome,
        sampled: SampledOutcome,
        uniforms: np.ndarray,
        sampling: SamplingOptions,
    ) -> SampledFrame:
        """As `OnnxPrior.sample_frame`."""
        assert outcome.place_inputs is not None
        (affines,) = self.run("frame_condition", outcome.condition, sampled.terminations, sampled.status)
        session = self._begin_frame(len(uniforms), affines)
        return SampledFrame(
            *self._sample_groups(session, {"place_inputs": outcome.place_inputs}, 0, uniforms, sampling)
        )

    def next_state(
        self, state: NumpyContext, actions: np.ndarray, codes: np.ndarray, status: np.ndarray, frame: SampledFrame
    ) -> NumpyContext:
        """As `OnnxPrior.next_state`."""
        window_actions, has_action = self._append_action(state, actions)
        window_codes = np.concatenate([state.codes[:, 1:], codes[:, None]], 1)  # (B, W, h, w)
        return NumpyContext(window_codes, window_actions, has_action, status)

    @staticmethod
    def _append_action(state: NumpyContext, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The window's actions with that of this step, and which of them exist."""
        true = np.ones_like(state.has_action[:, :1])
        return (
            np.concatenate([state.actions[:, 1:], actions[:, None]], 1),
            np.concatenate([state.has_action[:, 1:], true], 1),
        )


class OnnxFlatPrior(OnnxPrior):
    """The frame position by position, with the keys and values of the last M frames."""

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

    def outcome(self, state: NumpyFlatState, actions: np.ndarray) -> OnnxOutcome:
        """As `OnnxPrior.outcome`.

        Raises:
            UserError: a row at the last frame that this prior knows.
        """
        max_frames = self.facts["max_frames"]
        if max_frames is not None and (state.times >= max_frames).any():
            raise UserError(
                f"a dream has reached frame {max_frames}, the last this flat prior knows (num_frames); reset "
                "it, ask for fewer steps, or train with attention window and positions rotary: endless dreams."
            )
        return OnnxOutcome(*self.run("outcome", state.summary, actions))

    def sample_frame(
        self,
        state: NumpyFlatState,
        outcome: OnnxOutcome,
        sampled: SampledOutcome,
        uniforms: np.ndarray,
        sampling: SamplingOptions,
    ) -> SampledFrame:
        """As `OnnxPrior.sample_frame`; the cache is copied to the session and back, so that a state never changes."""
        affines, place_inputs, *rotary = self.run(
            "frame_condition", outcome.condition, sampled.terminations, sampled.status, state.codes, state.times
        )
        size, past = len(place_inputs), state.keys.shape[-1]
        session = self._begin_frame(len(uniforms), affines)
        for i, (keys, values) in enumerate(zip(session.keys, session.values, strict=True)):
            keys[..., :past], values[..., :past, :] = state.keys[:, i], state.values[:, i]
        visible = state.frame_valid.repeat(size, 1)  # (B, M) -> (B, M*S)
        session.inputs["slot_mask"][:, 0, 0, :past] = np.where(visible, np.float32(0), MASKED)
        group_inputs = {"place_inputs": place_inputs} | ({"rotary": rotary[0]} if rotary else {})
        codes, log_probs = self._sample_groups(session, group_inputs, past, uniforms, sampling)
        return SampledFrame(codes, log_probs, session)

    def next_state(
        self, state: NumpyFlatState, actions: np.ndarray, codes: np.ndarray, status: np.ndarray, frame: SampledFrame
    ) -> NumpyFlatState:
        """As `OnnxPrior.next_state`."""
        assert frame.session is not None
        size, has_frame = len(self.places) + 1, codes[:, 0, 0] != self.num_codes
        return NumpyFlatState(
            keys=np.stack([keys[..., size:] for keys in frame.session.keys], 1),
            values=np.stack([values[..., size:, :] for values in frame.session.values], 1),
            frame_valid=np.concatenate([state.frame_valid[:, 1:], has_frame[:, None]], 1),
            codes=codes,
            summary=np.where(has_frame[:, None], frame.session.outputs["frame_summary"], state.summary),
            status=status,
            times=state.times + 1,
        )
