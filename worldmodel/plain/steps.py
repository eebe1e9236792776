"""How the parts of an exported world make a step, for both priors; `export.parts` says what each part is.

Shapes: B rows, W frames of a context, h w code grid, P = h*w places, n groups of G places, D width, C condition
width, L layers that write, H heads, d numbers a head, N slots of the cache, M frames of memory, S = P + 1 positions
of a frame, V codes in the book.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np

from worldmodel.errors import UserError
from worldmodel.plain.rows import PlainContext, PlainFlat
from worldmodel.plain.sampling import Restrictions, draw

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


class Cache:
    """Keys and values of each layer in slots, as `write` is handed them: whole, never copied.

    Args:
        facts: of the export's config.
        rows: B.
    """

    def __init__(self, facts: dict[str, Any], rows: int) -> None:
        heads, d, self.slots = facts["heads"], facts["head_dim"], facts["slots"]
        self.layers: int = facts["layers"]
        self.bias = np.full((rows, 1, 1, self.slots), FAR, np.float32)
        self.keys = np.zeros((self.layers, rows, heads, d, self.slots), np.float32)
        self.values = np.zeros((self.layers, rows, heads, self.slots, d), np.float32)

    def given(self) -> dict[str, np.ndarray]:
        """Inputs of `write`; nothing where there are no slots."""
        if not self.slots:
            return {}
        found = {"bias": self.bias}
        for i in range(self.layers):
            found |= {f"keys_{i}": self.keys[i], f"values_{i}": self.values[i]}
        return found

    def append(self, at: int, news: list[np.ndarray]) -> None:
        """Fill slots from `at` on with new keys and values (B, H, d, G) and (B, H, G, d) of each layer, if they fit."""
        end = at + news[0].shape[-1]
        if end <= self.slots:
            for i in range(self.layers):
                self.keys[i, ..., at:end] = news[2 * i]
                self.values[i, ..., at:end, :] = news[2 * i + 1]
            self.bias[..., at:end] = 0


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

    def run(self, name: str, *inputs: np.ndarray) -> list[Any]:
        """What a part says, its inputs in their order."""
        return self._parts[name].run(None, dict(zip(self._names[name], inputs, strict=True)))

    @abstractmethod
    def begin(self, context: PlainContext) -> Any:
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
        restrictions: Restrictions,
    ) -> tuple[np.ndarray, np.ndarray, Any]:
        """Draw the codes (B, h, w); their log-probability (B,); and what `after` needs of the writing."""

    @abstractmethod
    def after(
        self,
        state: Any,
        actions: np.ndarray,
        seen: np.ndarray,
        status: np.ndarray,
        has_picture: np.ndarray,
        written: Any,
    ) -> Any:
        """What is remembered after the step; `seen` are its codes, V where it has no picture."""

    def rewards(self, said: Said, terminations: np.ndarray, seen: np.ndarray) -> np.ndarray:
        """(B,) float32."""
        return self.run("reward", said.summary, terminations, seen)[0]

    def _groups(
        self,
        given: dict[str, np.ndarray],
        by_group: dict[str, np.ndarray],
        cache: Cache,
        at: int,
        draws: np.ndarray,
        restrictions: Restrictions,
    ) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
        """Write all groups, and what stands behind the last code if there is a turn more.

        Args:
            given: inputs of `write` that are the same for all groups.
            by_group: those that differ, the groups first.
            cache: filled on the way, from slot `at` on.
            at: a slot.
            draws: (B, P) float32.
            restrictions: how codes are drawn.

        Returns:
            Codes (B, h, w), their log-probability (B,), and what the last turn said.
        """
        rows, group = len(draws), self.group
        turns = len(by_group["base"])
        drawn, log_probs = np.empty((rows, len(self.places)), np.int64), np.zeros(rows, np.float32)
        feed = {**given, **cache.given(), "before": np.full((rows, group), self.num_codes)}
        session, told = self._parts["write"], 2 * cache.layers
        for turn in range(turns):
            feed["at"] = np.asarray(turn)
            for name, values in by_group.items():
                feed[name] = values[turn]
            said = session.run(None, feed)
            begin = turn * group
            cache.append(at + begin, said[-told:])
            if begin < len(self.places):
                span = slice(begin, begin + group)
                codes, nats = draw(restrictions, said[0], draws[:, span])
                drawn[:, span] = feed["before"] = codes
                log_probs += nats.sum(1)
        picture = np.empty_like(drawn)
        picture[:, self.places] = drawn
        return picture.reshape(rows, *self.grid), log_probs, said


class FactoredSteps(Steps):
    """A trunk over the context, then the frame group by group; its state is the context."""

    def begin(self, context: PlainContext) -> PlainContext:
        """The context is all there is to remember."""
        return context

    def outcome(self, state: PlainContext, actions: np.ndarray) -> Said:
        """As `Steps.outcome`."""
        taken, acted = self._acted(state, actions)
        summary, condition, hazards, status_logits, base = self.run("outcome", state.codes, taken, acted, state.status)
        return Said(summary, condition, hazards, status_logits, base)

    def write(
        self,
        state: PlainContext,
        said: Said,
        terminations: np.ndarray,
        status: np.ndarray,
        draws: np.ndarray,
        restrictions: Restrictions,
    ) -> tuple[np.ndarray, np.ndarray, None]:
        """As `Steps.write`."""
        assert said.base is not None
        (affines,) = self.run("tell", said.condition, terminations, status)
        cache = Cache(self.facts, len(draws))
        codes, log_probs, _ = self._groups({"affines": affines}, {"base": said.base}, cache, 0, draws, restrictions)
        return codes, log_probs, None

    def after(
        self,
        state: PlainContext,
        actions: np.ndarray,
        seen: np.ndarray,
        status: np.ndarray,
        has_picture: np.ndarray,
        written: None,
    ) -> PlainContext:
        """As `Steps.after`."""
        taken, acted = self._acted(state, actions)
        return PlainContext(np.concatenate([state.codes[:, 1:], seen[:, None]], 1), taken, acted, status)

    @staticmethod
    def _acted(state: PlainContext, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The window's actions with the one now taken, and which are there."""
        now = np.ones_like(state.has_action[:, :1])
        return (
            np.concatenate([state.actions[:, 1:], actions[:, None]], 1),
            np.concatenate([state.has_action[:, 1:], now], 1),
        )


class FlatSteps(Steps):
    """The frame position by position, over keys and values of the last M frames."""

    def begin(self, context: PlainContext) -> PlainFlat:
        """As `FlatPrior.init_state`."""
        keys, values, summary = self.run("begin", *vars(context).values())
        memory, size = self.facts["memory"], len(self.places) + 1
        missing = memory - context.codes.shape[1]
        front = [(0, 0)] * 3
        return PlainFlat(
            keys=np.pad(keys, [*front, (0, 0), (missing * size, 0)]),
            values=np.pad(values, [*front, (missing * size, 0), (0, 0)]),
            seen=np.pad(context.codes[:, :, 0, 0] != self.num_codes, [(0, 0), (missing, 0)]),
            codes=context.codes[:, -1],
            summary=summary,
            status=context.status,
            times=context.has_action[:, 1:].sum(1) + 1,
        )

    def outcome(self, state: PlainFlat, actions: np.ndarray) -> Said:
        """As `Steps.outcome`.

        Raises:
            UserError: a row that has all the frames this prior knows.
        """
        longest = self.facts["max_frames"]
        if longest is not None and (state.times >= longest).any():
            raise UserError(
                f"a dream has reached frame {longest}, the last this flat prior knows (num_frames); reset "
                "it, or train with attention window and positions rotary, whose dreams have no end."
            )
        return Said(*self.run("outcome", state.summary, actions))

    def write(
        self,
        state: PlainFlat,
        said: Said,
        terminations: np.ndarray,
        status: np.ndarray,
        draws: np.ndarray,
        restrictions: Restrictions,
    ) -> tuple[np.ndarray, np.ndarray, tuple[Cache, np.ndarray]]:
        """As `Steps.write`; the cache is a copy, so that keeping a state is branching."""
        affines, last, base, *turns = self.run("tell", said.condition, terminations, status, state.codes, state.times)
        size, past = len(base), state.keys.shape[-1]
        cache = Cache(self.facts, len(draws))
        cache.keys[..., :past] = state.keys.swapaxes(0, 1)
        cache.values[..., :past, :] = state.values.swapaxes(0, 1)
        cache.bias[..., :past] = np.where(state.seen.repeat(size, 1), np.float32(0), FAR)[:, None, None]
        by_group = {"base": base} | ({"turns": turns[0]} if turns else {})
        given = {"affines": affines, "last": last}
        codes, log_probs, said_last = self._groups(given, by_group, cache, past, draws, restrictions)
        return codes, log_probs, (cache, said_last[1])

    def after(
        self,
        state: PlainFlat,
        actions: np.ndarray,
        seen: np.ndarray,
        status: np.ndarray,
        has_picture: np.ndarray,
        written: tuple[Cache, np.ndarray],
    ) -> PlainFlat:
        """As `Steps.after`."""
        cache, z = written
        size = len(self.places) + 1
        return PlainFlat(
            keys=cache.keys[..., size:].swapaxes(0, 1),
            values=cache.values[..., size:, :].swapaxes(0, 1),
            seen=np.concatenate([state.seen[:, 1:], has_picture[:, None]], 1),
            codes=seen,
            summary=np.where(has_picture[:, None], z, state.summary),
            status=status,
            times=state.times + 1,
        )
