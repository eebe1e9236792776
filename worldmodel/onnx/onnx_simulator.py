"""Many dreams at once in numpy: `dream.Simulator` for an exported world, without torch.

Shapes: N rows, n some of them, H W pixels, h w code grid, A action size.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from worldmodel.common import spaces
from worldmodel.common.errors import UserError
from worldmodel.common.random import STREAM_START, uniforms
from worldmodel.common.sampling_options import SamplingOptions
from worldmodel.onnx.onnx_state import NumpyContext, NumpyFlatState, NumpyRows
from worldmodel.onnx.onnx_world import OnnxWorld
from worldmodel.world.start_kinds import KIND_EPISODE, NO_START


@dataclass(frozen=True)
class OnnxSimulatorState:
    """Everything a simulator remembers; keeping it is branching, since no array is ever written to.

    Attributes:
        prior: N rows of the prior's state.
        frames: (N, H, W, 3) uint8, the last frames shown.
        codes: (N, h, w) int64, what those frames were decoded from.
        seeds: (N,) int64, one a row.
        episodes: (N,) int64, resets of the row since it was seeded.
        steps: (N,) int64 since the last reset.
        ended: (N,) bool.
        starts: (N,) int64, the start each row began from; `NO_START` after a given context.
    """

    prior: NumpyRows
    frames: np.ndarray
    codes: np.ndarray
    seeds: np.ndarray
    episodes: np.ndarray
    steps: np.ndarray
    ended: np.ndarray
    starts: np.ndarray


@dataclass(frozen=True)
class OnnxSimulatorStep:
    """What a step of N rows brought.

    Attributes:
        frames: (N, H, W, 3) uint8.
        codes: (N, h, w) int64, what those frames were decoded from.
        rewards: (N,) float32.
        terminations: (N,) bool.
        hazards: (N,) float32, the probability of the end that was drawn from.
        status: (N,) int64, the hidden variable's bin.
        status_values: (N,) float32, the variable in the middle of that bin; NaN where no status is learned.
        status_probs: (N, bins) float32, of the bins before one was drawn, given that the row goes on.
        log_probs: (N,) float32, nats of the frame drawn.
    """

    frames: np.ndarray
    codes: np.ndarray
    rewards: np.ndarray
    terminations: np.ndarray
    hazards: np.ndarray
    status: np.ndarray
    status_values: np.ndarray
    status_probs: np.ndarray
    log_probs: np.ndarray


class OnnxSimulator:
    """N independent dreams of one exported world; a row dreams what it would in `dream.Simulator`, to rounding.

    Args:
        world: the exported world, or its directory.
        num_rows: N.
        seed: row i has seed + i.
        sampling: how the frames' codes are drawn; the end and the status always as they are predicted.
        starts: "episode" draws true episode starts, "any" also moments inside episodes.

    Raises:
        UserError: not an exported world, or an argument out of range.
    """

    def __init__(
        self,
        world: OnnxWorld | str | Path,
        num_rows: int,
        seed: int = 0,
        sampling: SamplingOptions = SamplingOptions(),  # noqa: B008 (frozen)
        starts: str = "episode",
    ) -> None:
        if num_rows < 1:
            raise UserError(f"num_rows={num_rows}: wanted at least 1.")
        if starts not in ("episode", "any"):
            raise UserError(f"starts={starts!r}: wanted 'episode' or 'any'.")
        self.world = world if isinstance(world, OnnxWorld) else OnnxWorld(world)
        self.num_rows, self.sampling = num_rows, sampling
        kinds = self.world.start_kinds
        true_starts = np.flatnonzero(kinds == KIND_EPISODE)
        self._choices = np.arange(len(kinds)) if starts == "any" or not len(true_starts) else true_starts
        self._values = np.array([*self.world.status_values, np.nan], np.float32)
        zeros = np.zeros(num_rows, np.int64)
        self._state = OnnxSimulatorState(
            prior=self.world.begin(self.world.starts.select(zeros)),
            frames=np.zeros((num_rows, *self.world.pixels.frame_shape), np.uint8),
            codes=np.zeros((num_rows, *self.world.grid), np.int64),
            seeds=zeros,
            episodes=zeros,
            steps=zeros,
            ended=np.ones(num_rows, bool),
            starts=zeros,
        )
        self.seed(np.arange(num_rows) + seed)

    @property
    def state(self) -> OnnxSimulatorState:
        """What is remembered now."""
        return self._state

    def seed(self, seeds: np.ndarray, rows: np.ndarray | None = None) -> None:
        """Seed rows anew: (n,) int64. Their next reset is the first episode of that seed.

        Raises:
            UserError: rows that this simulator does not have, or not one seed a row.
        """
        index = self._rows(rows)
        if np.shape(seeds) != index.shape:
            raise UserError(f"seeds: got shape {np.shape(seeds)} for {len(index)} rows.")
        episodes, mixed = self._state.episodes.copy(), self._state.seeds.copy()
        episodes[index], mixed[index] = -1, seeds
        self._state = replace(self._state, seeds=mixed, episodes=episodes)

    def reset(
        self, rows: np.ndarray | None = None, starts: np.ndarray | None = None, context: NumpyContext | None = None
    ) -> np.ndarray:
        """Begin new episodes.

        Args:
            rows: (n,) int64 rows to reset, or a mask (N,) bool; None for all.
            starts: (n,) int64 indices into the world's starts; None draws them.
            context: n rows of codes to begin from instead.

        Returns:
            (N, H, W, 3) uint8: all rows' frames, the reset ones showing the reconstruction of their start.

        Raises:
            UserError: rows or starts that are not there, not one start a row, or a context of another number of rows
                or of another world's size.
        """
        index, state, kinds = self._rows(rows), self._state, self.world.start_kinds
        if not len(index):
            return state.frames.copy()
        episodes = state.episodes.copy()
        episodes[index] += 1
        if starts is None:
            moments = (state.seeds[index], episodes[index], np.zeros(len(index), np.int64))
            draws = uniforms(*moments, 1, STREAM_START)[:, 0]
            chosen = self._choices[(draws * np.float32(len(self._choices))).astype(np.int64)]
        else:
            chosen = np.asarray(starts, np.int64)
            if chosen.shape != index.shape:
                raise UserError(f"starts: got shape {chosen.shape} for {len(index)} rows to reset.")
            if ((chosen < 0) | (chosen >= len(kinds))).any():
                raise UserError(f"start {chosen.tolist()}: this world has starts 0 to {len(kinds) - 1}.")
        if context is None:
            context = self.world.starts.select(chosen)
        elif len(context.status) != len(index):
            raise UserError(f"context: got {len(context.status)} rows to reset {len(index)}.")
        elif context.codes.shape[1:] != (wanted := self.world.starts.codes.shape[1:]):
            raise UserError(
                f"context: got frames of codes {context.codes.shape[1:]}, this world remembers {tuple(wanted)}."
            )
        elif (context.codes[:, -1] == self.world.num_codes).any():
            raise UserError("context: its last frame must be a picture; cut off what comes after the last valid frame.")
        else:
            chosen = np.full(len(index), NO_START)
        codes = context.codes[:, -1]
        fresh = {"frames": self.world.decode(codes), "codes": codes, "steps": 0, "ended": False, "starts": chosen}
        mixed = {name: getattr(state, name).copy() for name in fresh}
        for name, value in fresh.items():
            mixed[name][index] = value
        prior = state.prior.scatter(index, self.world.begin(context))
        self._state = OnnxSimulatorState(prior=prior, seeds=state.seeds, episodes=episodes, **mixed)
        return self._state.frames.copy()

    def step(self, actions: np.ndarray) -> OnnxSimulatorStep:
        """Take one step in every row.

        Args:
            actions: (N,) or (N, A).

        Returns:
            What happened, in arrays that are the caller's own; rows that had ended before keep still.

        Raises:
            UserError: actions outside the space, or not one a row.
        """
        actions = spaces.check_actions(self.world.action_space, actions)
        if actions.shape != (self.num_rows, *self.world.action_space.shape):
            raise UserError(f"actions: got shape {actions.shape} for {self.num_rows} rows; wanted one a row.")
        state, world = self._state, self.world
        draws = uniforms(state.seeds, state.episodes.clip(0), state.steps, world.num_draws)
        before = state.prior
        if isinstance(before, NumpyFlatState):  # rows that keep still are at no last frame
            before = replace(before, times=np.where(state.ended, 0, before.times))
        out = world.step(before, actions, draws, self.sampling)
        shown = out.has_frame & ~state.ended
        codes = np.where(shown[:, None, None], out.codes, state.codes)
        frames = np.where(shown[:, None, None, None], world.decode(out.codes), state.frames)
        still, prior = np.flatnonzero(state.ended), out.state
        if len(still):
            prior = prior.scatter(still, state.prior.select(still))
        ended = state.ended | out.terminations
        self._state = replace(state, prior=prior, frames=frames, codes=codes, steps=state.steps + 1, ended=ended)
        nothing = np.float32(0)
        return OnnxSimulatorStep(
            frames=frames.copy(),
            codes=codes.copy(),
            rewards=np.where(state.ended, nothing, out.rewards),
            terminations=ended.copy(),
            hazards=out.hazards,
            status=prior.status.copy(),
            status_values=self._values[prior.status] if world.num_status else np.full(self.num_rows, np.float32("nan")),
            status_probs=out.status_probs,
            log_probs=np.where(state.ended, nothing, out.log_probs),
        )

    def save(self) -> OnnxSimulatorState:
        """A mark to come back to."""
        return self._state

    def restore(self, state: OnnxSimulatorState) -> None:
        """Go back to a mark; the same actions then bring the same dream."""
        if len(state.seeds) != self.num_rows:
            raise UserError(f"restore: got {len(state.seeds)} rows, this simulator has {self.num_rows}.")
        sizes, ours = _sizes(state), _sizes(self._state)
        if sizes != ours:
            raise UserError(
                f"restore: got a mark of {sizes}, this simulator remembers {ours}; give it its own world's."
            )
        self._state = state

    def _rows(self, rows: np.ndarray | None) -> np.ndarray:
        given = np.arange(self.num_rows) if rows is None else np.asarray(rows)
        if given.dtype == np.bool_ and given.shape == (self.num_rows,):
            return np.flatnonzero(given)
        if given.ndim != 1 or (len(given) and given.dtype.kind not in "iu"):
            raise UserError(
                f"rows: got {given.shape} {given.dtype}, wanted their numbers, (n,) integers, or a mask, "
                f"({self.num_rows},) bool."
            )
        index = given.astype(np.int64)
        if ((index < 0) | (index >= self.num_rows)).any():
            raise UserError(f"rows {index.tolist()}: this simulator has rows 0 to {self.num_rows - 1}.")
        return index


def _sizes(state: OnnxSimulatorState) -> dict[str, tuple[int, ...]]:
    """Of each array of the prior's state, and of the frames, without the rows."""
    return {name: array.shape[1:] for name, array in {**vars(state.prior), "frames": state.frames}.items()}
