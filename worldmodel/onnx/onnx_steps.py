"""How the parts of an exported world make a step, for both priors; `export.parts` says what each part is.

Shapes: B rows, W frames of a context, h w code grid, P = h*w places, n groups of G places, D width, C condition
width, L layers that write, F heads of keys and values, d numbers a head, N slots of the cache, M frames of memory,
S = P + 1 positions of a frame, V codes in the book.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np

from worldmodel.common.errors import UserError
from worldmodel.common.sampling_options import SamplingOptions
from worldmodel.onnx.numpy_sampling import draw
from worldmodel.onnx.onnx_state import NumpyContext, NumpyFlatState

FAR = np.float32(-1e30)  # added to the score of a slot that is not seen


@dataclass(frozen=True)
class Said:
    """What is said of a step before its codes.

    Attributes:
        summary: (B, D).
        condition: (B, C).
        hazards: (B,) float32.
        status_logits: (B, bins).
        base: (n, B, G, D), what the factored prior's places are given; None of a flat prior.
    """

    summary: np.ndarray
    condition: np.ndarray
    hazards: np.ndarray
    status_logits: np.ndarray
    base: np.ndarray | None = None


class Writer:
    """The part that writes a group, for B rows: what it is given and what it says lie in arrays that stay in place.

    So a turn costs no copy of the cache, which is among what is given.

    Args:
        session: of onnxruntime.
        rows: B.
        layers: L.

    Attributes:
        rows: B.
        given, said: inputs and outputs by name.
        keys, values: of each layer, (B, F, d, N) and (B, F, N, d); nothing where there are no slots.
    """

    def __init__(self, session: Any, rows: int, layers: int) -> None:
        from onnxruntime import OrtValue

        self.rows, self._session, self._binding = rows, session, session.io_binding()
        self.given, self.said = ({node.name: _room(node, rows) for node in nodes} for nodes in _nodes(session))
        self._held = []  # they lie in the arrays' memory
        for arrays, bind in (
            (self.given, self._binding.bind_ortvalue_input),
            (self.said, self._binding.bind_ortvalue_output),
        ):
            for name, array in arrays.items():
                self._held.append(OrtValue.ortvalue_from_numpy(array))
                bind(name, self._held[-1])
        known = range(layers if "unseen" in self.given else 0)
        self.keys, self.values = ([self.given[f"{kind}_{i}"] for i in known] for kind in ("keys", "values"))
        self._news = [(self.said[f"new_keys_{i}"], self.said[f"new_values_{i}"]) for i in known]

    def turn(self, at: int, slot: int) -> np.ndarray:
        """Write the group `at`; its keys and values go into the slots from `slot` on, if there are that many."""
        self.given["at"][...] = at
        self._session.run_with_iobinding(self._binding)
        for keys, values, (new_keys, new_values) in zip(self.keys, self.values, self._news, strict=True):
            end = slot + new_keys.shape[-1]
            if end <= keys.shape[-1]:
                keys[..., slot:end], values[..., slot:end, :] = new_keys, new_values
                self.given["unseen"][..., slot:end] = 0
        return self.said["logits"]


def _nodes(session: Any) -> tuple[list[Any], list[Any]]:
    return session.get_inputs(), session.get_outputs()


def _room(node: Any, rows: int) -> np.ndarray:
    """Zeros for an input or output; the one size that is not a number is the rows."""
    shape = [size if isinstance(size, int) else rows for size in node.shape]
    return np.zeros(shape, {"tensor(float)": np.float32, "tensor(int64)": np.int64}[node.type])


class Steps(ABC):
    """The parts in their order.

    Args:
        parts: onnxruntime sessions by name.
        facts: "prior" of the export's config.
    """

    def __init__(self, parts: dict[str, Any], facts: dict[str, Any]) -> None:
        self._parts, self.facts = parts, facts
        self._names = {name: [given.name for given in part.get_inputs()] for name, part in parts.items()}
        self.grid, self.num_codes, self.group = tuple(facts["grid"]), facts["num_codes"], facts["group"]
        self.places = np.asarray(facts["places"])  # in the order of writing
        self._last: Writer | None = None

    def run(self, name: str, *inputs: np.ndarray) -> list[Any]:
        """What a part says, its inputs in their order."""
        return self._parts[name].run(None, dict(zip(self._names[name], inputs, strict=True)))

    @abstractmethod
    def begin(self, context: NumpyContext) -> Any:
        """What is remembered after a context."""

    @abstractmethod
    def outcome(self, state: Any, actions: np.ndarray) -> Said:
        """What is said of the step before it is drawn."""

    @abstractmethod
    def write(
        self,
        state: Any,
        said: Said,
        terminations: np.ndarray,
        status: np.ndarray,
        draws: np.ndarray,
        restrictions: SamplingOptions,
    ) -> tuple[np.ndarray, np.ndarray, Any]:
        """Draw the codes (B, h, w); their log-probability (B,); and what `after` needs of the writing."""

    @abstractmethod
    def after(
        self,
        state: Any,
        actions: np.ndarray,
        seen: np.ndarray,
        status: np.ndarray,
        has_frame: np.ndarray,
        written: Any,
    ) -> Any:
        """What is remembered after the step; `seen` are its codes, V where it has no picture."""

    def rewards(self, said: Said, terminations: np.ndarray, seen: np.ndarray) -> np.ndarray:
        """(B,) float32."""
        return self.run("reward", said.summary, terminations, seen)[0]

    def _writer(self, rows: int, affines: np.ndarray) -> Writer:
        """The writer for B rows, told of a frame and with no slot seen."""
        if self._last is None or self._last.rows != rows:
            self._last = Writer(self._parts["write"], rows, self.facts["layers"])
        self._last.given["affines"][...] = affines
        if "unseen" in self._last.given:
            self._last.given["unseen"].fill(FAR)
        return self._last

    def _groups(
        self,
        writer: Writer,
        by_turn: dict[str, np.ndarray],
        slot: int,
        draws: np.ndarray,
        restrictions: SamplingOptions,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Write all groups, and what stands behind the last code if there is a turn more.

        Args:
            writer: told of the frame.
            by_turn: what differs from turn to turn, the turns first.
            slot: where the first group's keys and values go.
            draws: (B, P) float32.
            restrictions: how codes are drawn.

        Returns:
            Codes (B, h, w) and their log-probability (B,).
        """
        rows, group, count = len(draws), self.group, len(self.places)
        drawn, log_probs = np.empty((rows, count), np.int64), np.zeros(rows, np.float32)
        before = writer.given["before"]
        before.fill(self.num_codes)
        for turn in range(len(by_turn["base"])):
            for name, values in by_turn.items():
                writer.given[name][...] = values[turn]
            begin = turn * group
            logits = writer.turn(turn, slot + begin)
            if begin < count:
                span = slice(begin, begin + group)
                codes, nats = draw(restrictions, logits, draws[:, span])
                drawn[:, span] = before[...] = codes
                log_probs += nats.sum(1)
        picture = np.empty_like(drawn)
        picture[:, self.places] = drawn
        return picture.reshape(rows, *self.grid), log_probs


class FactoredSteps(Steps):
    """A trunk over the context, then the frame group by group; its state is the context."""

    def begin(self, context: NumpyContext) -> NumpyContext:
        """The context is all there is to remember."""
        return context

    def outcome(self, state: NumpyContext, actions: np.ndarray) -> Said:
        """As `Steps.outcome`."""
        taken, acted = self._acted(state, actions)
        summary, condition, hazards, status_logits, base = self.run("outcome", state.codes, taken, acted, state.status)
        return Said(summary, condition, hazards, status_logits, base)

    def write(
        self,
        state: NumpyContext,
        said: Said,
        terminations: np.ndarray,
        status: np.ndarray,
        draws: np.ndarray,
        restrictions: SamplingOptions,
    ) -> tuple[np.ndarray, np.ndarray, None]:
        """As `Steps.write`."""
        assert said.base is not None
        (affines,) = self.run("tell", said.condition, terminations, status)
        writer = self._writer(len(draws), affines)
        return *self._groups(writer, {"base": said.base}, 0, draws, restrictions), None

    def after(
        self,
        state: NumpyContext,
        actions: np.ndarray,
        seen: np.ndarray,
        status: np.ndarray,
        has_frame: np.ndarray,
        written: None,
    ) -> NumpyContext:
        """As `Steps.after`."""
        taken, acted = self._acted(state, actions)
        return NumpyContext(np.concatenate([state.codes[:, 1:], seen[:, None]], 1), taken, acted, status)

    @staticmethod
    def _acted(state: NumpyContext, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The window's actions with the one now taken, and which are there."""
        now = np.ones_like(state.has_action[:, :1])
        return (
            np.concatenate([state.actions[:, 1:], actions[:, None]], 1),
            np.concatenate([state.has_action[:, 1:], now], 1),
        )


class FlatSteps(Steps):
    """The frame position by position, over keys and values of the last M frames."""

    def begin(self, context: NumpyContext) -> NumpyFlatState:
        """As `FlatPrior.init_state`."""
        keys, values, summary = self.run("begin", *vars(context).values())
        memory, size = self.facts["memory"], len(self.places) + 1
        missing = memory - context.codes.shape[1]
        front = [(0, 0)] * 3
        return NumpyFlatState(
            keys=np.pad(keys, [*front, (0, 0), (missing * size, 0)]),
            values=np.pad(values, [*front, (missing * size, 0), (0, 0)]),
            seen=np.pad(context.codes[:, :, 0, 0] != self.num_codes, [(0, 0), (missing, 0)]),
            codes=context.codes[:, -1],
            summary=summary,
            status=context.status,
            times=context.has_action[:, 1:].sum(1) + 1,
        )

    def outcome(self, state: NumpyFlatState, actions: np.ndarray) -> Said:
        """As `Steps.outcome`.

        Raises:
            UserError: a row that has all the frames this prior knows.
        """
        longest = self.facts["max_frames"]
        if longest is not None and (state.times >= longest).any():
            raise UserError(
                f"a dream has reached frame {longest}, the last this flat prior knows (num_frames); reset "
                "it, ask for fewer steps, or train with attention window and positions rotary: dreams without an end."
            )
        return Said(*self.run("outcome", state.summary, actions))

    def write(
        self,
        state: NumpyFlatState,
        said: Said,
        terminations: np.ndarray,
        status: np.ndarray,
        draws: np.ndarray,
        restrictions: SamplingOptions,
    ) -> tuple[np.ndarray, np.ndarray, Writer]:
        """As `Steps.write`; the cache is copied in and out, so that keeping a state is branching."""
        affines, base, *turns = self.run("tell", said.condition, terminations, status, state.codes, state.times)
        size, past = len(base), state.keys.shape[-1]
        writer = self._writer(len(draws), affines)
        for i, (keys, values) in enumerate(zip(writer.keys, writer.values, strict=True)):
            keys[..., :past], values[..., :past, :] = state.keys[:, i], state.values[:, i]
        writer.given["unseen"][:, 0, 0, :past] = np.where(state.seen.repeat(size, 1), np.float32(0), FAR)
        by_turn = {"base": base} | ({"turns": turns[0]} if turns else {})
        return *self._groups(writer, by_turn, past, draws, restrictions), writer

    def after(
        self,
        state: NumpyFlatState,
        actions: np.ndarray,
        seen: np.ndarray,
        status: np.ndarray,
        has_frame: np.ndarray,
        written: Writer,
    ) -> NumpyFlatState:
        """As `Steps.after`."""
        size = len(self.places) + 1
        return NumpyFlatState(
            keys=np.stack([keys[..., size:] for keys in written.keys], 1),
            values=np.stack([values[..., size:, :] for values in written.values], 1),
            seen=np.concatenate([state.seen[:, 1:], has_frame[:, None]], 1),
            codes=seen,
            summary=np.where(has_frame[:, None], written.said["z"], state.summary),
            status=status,
            times=state.times + 1,
        )
