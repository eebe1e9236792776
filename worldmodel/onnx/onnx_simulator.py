"""Many dreams at once in numpy: `dream.Simulator` for an exported world, without torch.

Shapes: N rows, n some of them, H W pixels, h w code grid, A action size.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from worldmodel.common import spaces
from worldmodel.common.arguments import checked_integer
from worldmodel.common.errors import UserError
from worldmodel.common.random import STREAM_START, uniforms
from worldmodel.common.sampling_options import SamplingOptions
from worldmodel.onnx.onnx_state import NumpyContext, NumpyRows
from worldmodel.onnx.onnx_world import OnnxWorld
from worldmodel.world.start_kinds import KIND_EPISODE, NO_START


@dataclass(frozen=True)
class OnnxSimulatorState:
    """The whole state of a simulator. Its arrays are never written to, so that keeping one is saving it.

    Attributes:
        prior: N rows of the prior's state.
        frames: (N, H, W, 3) uint8, the last frames.
        codes: (N, h, w) int64, the codes from which those frames were decoded.
        seeds: (N,) int64, one per row.
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

    @property
    def layout(self) -> dict[str, tuple[int, ...]]:
        """Shapes of one row's arrays."""
        return {name: array.shape[1:] for name, array in {**vars(self.prior), "frames": self.frames}.items()}


@dataclass(frozen=True)
class OnnxSimulatorStep:
    """The result of one step of N rows.

    Attributes:
        frames: (N, H, W, 3) uint8.
        codes: (N, h, w) int64, the codes from which those frames were decoded.
        rewards: (N,) float32.
        terminations: (N,) bool.
        hazards: (N,) float32, the probability with which the termination was sampled.
        status: (N,) int64, the hidden variable's bin.
        status_values: (N,) float32, the middle of that bin; NaN where no status is learned.
        status_probs: (N, bins) float32, from which the bin was sampled, given that the row goes on.
        log_probs: (N,) float32, log-likelihood of the sampled frame in nats.
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
    """N independent dreams of one exported world. A row dreams the same as in `dream.Simulator`, to rounding.

    Args:
        world: the exported world, or its directory.
        num_rows: N.
        seed: row i has seed + i.
        sampling: how the frames' codes are sampled. Terminations and the status are always sampled as predicted.
        starts: "episode" begins at first frames of episodes, "any" also at time steps inside episodes.

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
        self.num_rows = num_rows = checked_integer("num_rows", num_rows)
        if starts not in ("episode", "any"):
            raise UserError(f"starts={starts!r}: wanted 'episode' or 'any'.")
        self.world = world if isinstance(world, OnnxWorld) else OnnxWorld(world)
        self.sampling = sampling
        kinds = self.world.start_kinds
        true_starts = np.flatnonzero(kinds == KIND_EPISODE)
        self._choices = np.arange(len(kinds)) if starts == "any" or not len(true_starts) else true_starts
        self._status_values = np.array([*self.world.status_values, np.nan], np.float32)
        zeros = np.zeros(num_rows, np.int64)
        self._state = OnnxSimulatorState(
            prior=self.world.prior.init_state(self.world.starts.select(zeros)),
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
        """The current state."""
        return self._state

    def seed(self, seeds: np.ndarray, rows: np.ndarray | None = None) -> None:
        """Set the seeds, (n,) int64, of rows, given as to `reset`. Their next reset is the first episode of that seed.

        Raises:
            UserError: rows that this simulator does not have, or seeds that are not integers or not one per row.
        """
        index = self._row_index(rows)
        _check_integers("seeds", seeds)
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
            rows: (n,) int64 rows to reset, or a mask (N,) bool; None resets all.
            starts: (n,) int64 indices into the world's starts; None samples them.
            context: n rows of codes to begin from instead.

        Returns:
            (N, H, W, 3) uint8: all rows' frames. A reset row shows the reconstruction of its start.

        Raises:
            UserError: rows or starts that do not exist, not one start per row, or a context of another number of rows
                or of another world's size.
        """
        index, state = self._row_index(rows), self._state
        if not len(index):
            return state.frames.copy()
        episodes = state.episodes.copy()
        episodes[index] += 1
        chosen = self._sample_starts(index, episodes) if starts is None else self._checked_starts(starts, index)
        if context is None:
            context = self.world.starts.select(chosen)
        else:
            self._check_context(context, index)
            chosen = np.full(len(index), NO_START)
        codes = context.codes[:, -1]  # (n, h, w)
        new = {"frames": self.world.decode(codes), "codes": codes, "steps": 0, "ended": False, "starts": chosen}
        mixed = {name: getattr(state, name).copy() for name in new}
        for name, value in new.items():
            mixed[name][index] = value
        prior = state.prior.scatter(index, self.world.prior.init_state(context))
        self._state = OnnxSimulatorState(prior=prior, seeds=state.seeds, episodes=episodes, **mixed)
        return self._state.frames.copy()

    def _sample_starts(self, index: np.ndarray, episodes: np.ndarray) -> np.ndarray:
        """Sample a start for each of some rows, (n,) int64, from its seed and episode number."""
        zeros = np.zeros(len(index), np.int64)
        uniform = uniforms(self._state.seeds[index], episodes[index], zeros, 1, STREAM_START)[:, 0]
        return self._choices[(uniform * np.float32(len(self._choices))).astype(np.int64)]

    def _checked_starts(self, starts: np.ndarray, index: np.ndarray) -> np.ndarray:
        """Starts that the caller chose for some rows, (n,) int64."""
        _check_integers("starts", starts)
        chosen, num_starts = np.asarray(starts, np.int64), len(self.world.start_kinds)
        if chosen.shape != index.shape:
            raise UserError(f"starts: got shape {chosen.shape} for {len(index)} rows to reset.")
        if ((chosen < 0) | (chosen >= num_starts)).any():
            raise UserError(f"start {chosen.tolist()}: this world has starts 0 to {num_starts - 1}.")
        return chosen

    def _check_context(self, context: NumpyContext, index: np.ndarray) -> None:
        """Refuse a context that does not fit the rows to reset or this world."""
        if len(context.status) != len(index):
            raise UserError(f"context: got {len(context.status)} rows to reset {len(index)}.")
        wanted = self.world.starts.codes.shape[1:]
        if context.codes.shape[1:] != wanted:
            raise UserError(
                f"context: got codes of shape {context.codes.shape[1:]} per row, this world has {tuple(wanted)}."
            )
        if (context.codes[:, -1] == self.world.num_codes).any():
            raise UserError("context: its last frame is not valid; cut off what comes after the last valid frame.")

    def step(self, actions: np.ndarray) -> OnnxSimulatorStep:
        """Take one step in every row.

        Args:
            actions: (N,) or (N, A).

        Returns:
            The result of the step, in arrays that belong to the caller. Rows that had ended before stay unchanged.

        Raises:
            UserError: actions outside the space, or not one per row.
        """
        actions = spaces.check_actions(self.world.action_space, actions)
        if actions.shape != (self.num_rows, *self.world.action_space.shape):
            raise UserError(f"actions: got shape {actions.shape} for {self.num_rows} rows; wanted one per row.")
        state, world = self._state, self.world
        uniform = uniforms(state.seeds, state.episodes.clip(0), state.steps, world.num_uniforms)
        before = state.prior.restart_times(state.ended)  # rows that have ended are not refused at their last frame
        out = world.prior.step(before, actions, uniform, self.sampling)
        changes = out.has_frame & ~state.ended  # (N,)
        codes = np.where(changes[:, None, None], out.codes, state.codes)
        frames = np.where(changes[:, None, None, None], world.decode(out.codes), state.frames)
        unchanged, prior = np.flatnonzero(state.ended), out.state
        if len(unchanged):
            prior = prior.scatter(unchanged, state.prior.select(unchanged))
        ended = state.ended | out.terminations
        self._state = replace(state, prior=prior, frames=frames, codes=codes, steps=state.steps + 1, ended=ended)
        zero, nan = np.float32(0), np.float32("nan")
        return OnnxSimulatorStep(
            frames=frames.copy(),
            codes=codes.copy(),
            rewards=np.where(state.ended, zero, out.rewards),
            terminations=ended.copy(),
            hazards=out.hazards,
            status=prior.status.copy(),
            status_values=self._status_values[prior.status] if world.num_status else np.full(self.num_rows, nan),
            status_probs=out.status_probs,
            log_probs=np.where(state.ended, zero, out.log_probs),
        )

    def save(self) -> OnnxSimulatorState:
        """The state, to restore as often as wanted."""
        return self._state

    def restore(self, state: OnnxSimulatorState) -> None:
        """Return to a saved state. The same actions then give the same dream.

        Raises:
            UserError: a state of another number of rows, or of another world.
        """
        if len(state.seeds) != self.num_rows:
            raise UserError(f"restore: got {len(state.seeds)} rows, this simulator has {self.num_rows}.")
        if state.layout != self._state.layout:
            raise UserError(
                f"restore: got a state of {state.layout}, this simulator has {self._state.layout}; give it one of the "
                "same world."
            )
        self._state = state

    def _row_index(self, rows: np.ndarray | None) -> np.ndarray:
        """Rows as (n,) int64; None selects all rows."""
        array = np.arange(self.num_rows) if rows is None else np.asarray(rows)
        if array.dtype == np.bool_ and array.shape == (self.num_rows,):
            return np.flatnonzero(array)
        if array.ndim != 1 or (len(array) and array.dtype.kind not in "iu"):
            raise UserError(
                f"rows: got {array.shape} {array.dtype}, wanted row numbers, (n,) integers, or a mask, "
                f"({self.num_rows},) bool."
            )
        index = array.astype(np.int64)
        if ((index < 0) | (index >= self.num_rows)).any():
            raise UserError(f"rows {index.tolist()}: this simulator has rows 0 to {self.num_rows - 1}.")
        return index


def _check_integers(name: str, values: np.ndarray) -> None:
    """Refuse an array of another dtype than integers."""
    if np.asarray(values).dtype.kind not in "iu":
        raise UserError(f"{name}: got {np.asarray(values).dtype}, wanted integers.")
