"""Many dreams at once: tensors in, tensors out, on the world's device.

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

from worldmodel.common import spaces
from worldmodel.common.errors import UserError
from worldmodel.common.threads import limit_threads, threads_for_rows
from worldmodel.dream.backends import choose_backend
from worldmodel.dream.cuda_graphs import CapturedStep, cuda_graph, leaves, mapped
from worldmodel.dream.simulator_state import Rollout, SimulatorState, SimulatorStep, row_index
from worldmodel.dream.tiles import TILE, tiled
from worldmodel.prior.context import Context
from worldmodel.prior.interface import PriorStep
from worldmodel.prior.sampling import STREAM_START, Sampling, uniforms
from worldmodel.world.start_kinds import NO_START
from worldmodel.world.world_model import WorldModel


class Simulator:
    """N independent dreams of one world.

    A row's dream depends on its seed, its episode number, its start and its actions, never on the other
    rows. A row that ended keeps its last frame, earns nothing and stays ended until it is reset.

    Args:
        world: the learned world, with its starts.
        num_rows: N.
        seed: row i has seed + i.
        sampling: how the frames' codes are drawn; the end and the status always as they are predicted.
        starts: "episode" draws true episode starts, "any" also moments inside episodes.
        batch_invariant: run the rows in tiles of one size (`dream.tiles`), so that a row's dream is the same
            to the bit in any number of rows. Without it, numbers agree to rounding and a dream can part
            from its twin where a draw falls on the border between two codes.
        dtype: of matrix products. In bfloat16 (fast on a GPU) a frame's log-likelihood agrees with that in float32 to
            0.02 nats a code, probabilities and rewards to a hundredth; draws then part from a float32 twin's.
        backend: "torch", "onnx" or "auto": what steps the world, see `dream.backend.choose_backend`. Backends agree
            to rounding; a dream that is to be the same to the bit names its backend.
        captured: record the step at its first call and replay it as one launch (`dream.captured`), which brings the
            same dream; None does so on a GPU if the prior knows no last frame (`max_frames`).
        threads: at most so many in a step on a CPU, and never more than torch has (`torch.set_num_threads`); None
            takes one for every 16 rows that are computed at once (`dream.threads`).

    Raises:
        UserError: an argument out of range, a world without starts, or a backend or recording that cannot step it.
    """

    def __init__(
        self,
        world: WorldModel,
        num_rows: int,
        seed: int = 0,
        sampling: Sampling = Sampling(),  # noqa: B008 (frozen)
        starts: str = "episode",
        batch_invariant: bool = False,
        dtype: torch.dtype = torch.float32,
        backend: str = "auto",
        captured: bool | None = None,
        threads: int | None = None,
    ) -> None:
        if num_rows < 1:
            raise UserError(f"num_rows={num_rows}: wanted at least 1.")
        if threads is not None and threads < 1:
            raise UserError(f"threads={threads}: wanted at least 1, or None.")
        if world.starts is None or not len(world.starts):
            raise UserError("this world has no starts to dream from; load it with WorldModel.from_pretrained.")
        self.world, self.num_rows, self.sampling, self.batch_invariant = world, num_rows, sampling, batch_invariant
        self.dtype = dtype
        self.threads = threads or threads_for_rows(TILE if batch_invariant else num_rows)
        self.backend = choose_backend(world, backend, dtype, batch_invariant, self.threads)
        self._bounded = world.prior.max_frames is not None  # asks the device at every step whether a row is at its end
        if captured and (world.device.type != "cuda" or self._bounded):
            raise UserError(
                f"captured=True records CUDA graphs of dreams without end; this world is on {world.device} and its "
                f"prior knows {world.prior.max_frames or 'any number of'} frames. Leave it out."
            )
        recorded = world.device.type == "cuda" and captured is not False and not self._bounded
        self._record = cuda_graph if recorded else None
        self._captured: CapturedStep[SimulatorState, SimulatorStep] | None = None
        self._starts = world.starts
        self._choices = world.starts.choices(starts)
        self.status_values = torch.tensor(world.prior.status_config.values, device=world.device)
        zeros = torch.zeros(num_rows, dtype=torch.int64, device=world.device)
        self._state = SimulatorState(
            prior=self.backend.init_state(world.starts.context.select(zeros)),
            frames=torch.zeros((num_rows, *world.tokenizer.frame_shape), dtype=torch.uint8, device=world.device),
            codes=torch.zeros((num_rows, *world.tokenizer.grid), dtype=torch.int64, device=world.device),
            seeds=zeros,
            episodes=zeros,
            steps=zeros,
            ended=torch.ones_like(zeros, dtype=torch.bool),
            starts=zeros,
        )
        self.seed(torch.arange(num_rows) + seed)

    def status_to_values(self, status: Tensor) -> Tensor:
        """The hidden variable in the middle of its bins: (N,) int64 -> (N,) float32, NaN where it is not known."""
        if not len(self.status_values):
            return torch.full(status.shape, float("nan"), device=status.device)
        return F.pad(self.status_values, (0, 1), value=float("nan"))[status]

    @property
    def state(self) -> SimulatorState:
        """What is remembered now; the next step or reset uses it up."""
        return self._state

    @property
    def at_max_frames(self) -> Tensor:
        """Rows that show the last frame their prior knows (`max_frames`), and cannot be stepped on: (N,) bool."""
        limit, prior = self.world.prior.max_frames, self._state.prior
        return torch.zeros_like(self._state.ended) if limit is None else prior.times >= limit  # type: ignore[attr-defined]

    def seed(self, seeds: Tensor, rows: Tensor | None = None) -> None:
        """Seed rows, given as to `reset`, anew: (n,) int64. Their next reset is the first episode of that seed."""
        index = self._rows(rows)
        if seeds.shape != index.shape:
            raise UserError(f"seeds: got shape {tuple(seeds.shape)} for {len(index)} rows.")
        episodes = self._state.episodes.index_fill(0, index, -1)
        mixed = self._state.seeds.index_copy(0, index, seeds.to(index.device, torch.int64))
        self._state = replace(self._state, seeds=mixed, episodes=episodes)

    @torch.no_grad()
    def reset(self, rows: Tensor | None = None, starts: Tensor | None = None, context: Context | None = None) -> Tensor:
        """Begin new episodes.

        Args:
            rows: (n,) int64 rows to reset, or a mask (N,) bool; None for all.
            starts: (n,) int64 indices into the world's starts; None draws them.
            context: n rows of frames to begin from instead, see `WorldModel.context`.

        Returns:
            (N, H, W, 3) uint8: all rows' frames, the reset ones showing the reconstruction of their start.

        Raises:
            UserError: a start that the world does not have, or a context of other rows or of another world's size.
        """
        index, state = self._rows(rows), self._state
        if not len(index):
            return state.frames.clone()
        episodes = state.episodes.index_add(0, index, torch.ones_like(index))
        if starts is None:
            zero = torch.zeros_like(index)
            draw = uniforms(state.seeds[index], episodes[index], zero, 1, STREAM_START)[:, 0]
            chosen = self._choices[(draw * len(self._choices)).long()]
        else:
            chosen = starts.to(index.device, torch.int64)
            if chosen.shape != index.shape:
                raise UserError(f"starts: got shape {tuple(chosen.shape)} for {len(index)} rows to reset.")
            if bool(((chosen < 0) | (chosen >= len(self._starts))).any()):
                raise UserError(f"start {chosen.tolist()}: this world has starts 0 to {len(self._starts) - 1}.")
        if context is None:
            context = self._starts.context.select(chosen)
        elif len(context.status) != len(index):
            raise UserError(f"context: got {len(context.status)} rows to reset {len(index)}.")
        elif context.codes.shape[1:] != (wanted := self._starts.context.codes.shape[1:]):
            raise UserError(
                f"context: got frames of codes {tuple(context.codes.shape[1:])}, this world remembers {tuple(wanted)}; "
                "make it with this world's own `context`."
            )
        elif bool((context.codes[:, -1] == self.world.prior.num_codes).any()):
            raise UserError("context: its last frame must be a picture; cut off what comes after the last valid frame.")
        else:
            context, chosen = context.to(index.device), torch.full_like(index, NO_START)
        fresh = self._tiled(self.backend.init_state, context)
        frames = self._decode(context.codes[:, -1])  # (n, H, W, 3)
        self._state = SimulatorState(
            prior=state.prior.scatter(index, fresh),
            frames=state.frames.index_copy(0, index, frames),
            codes=state.codes.index_copy(0, index, context.codes[:, -1]),
            seeds=state.seeds,
            episodes=episodes,
            steps=state.steps.index_fill(0, index, 0),
            ended=state.ended.index_fill(0, index, False),
            starts=state.starts.index_copy(0, index, chosen),
        )
        return self._state.frames.clone()

    @torch.no_grad()
    def step(self, actions: Tensor) -> SimulatorStep:
        """Take one step in every row.

        Args:
            actions: (N,) or (N, A).

        Returns:
            What happened, in tensors that are the caller's own; rows that had ended before keep still.

        Raises:
            UserError: actions of another shape or kind than the space's; on a CPU also those outside the space. On a
                GPU their numbers are not looked at, which would make it wait.
        """
        self._check_actions(actions, (self.num_rows,))
        whole = self.world.spec.action_space.dtype.kind != "f"
        taken = actions.to(self.world.device, torch.int64 if whole else torch.float32)
        if self._record is not None and self._captured is None:
            self._captured = CapturedStep(self._advance, self._state, taken, self._record)
        if self._captured is not None:
            self._state, out = self._captured(self._state, taken)  # copies
            return out
        self._state, out = self._advance(self._state, taken)
        return mapped(torch.clone, out)

    def _advance(self, state: SimulatorState, taken: Tensor) -> tuple[SimulatorState, SimulatorStep]:
        """The state after a step, and what it brought."""
        prior = self.world.prior
        draws = uniforms(state.seeds, state.episodes.clamp_min(0), state.steps, prior.num_uniforms)
        before: Any = state.prior
        if self._bounded:  # rows that keep still are at no last frame
            before = replace(before, times=before.times.masked_fill(state.ended, 0))
        out: PriorStep[Any] = self._tiled(partial(self.backend.step, sampling=self.sampling), before, taken, draws)
        shown = out.has_frame & ~state.ended
        frames = self._decode(out.codes)  # (N, H, W, 3)
        frames = torch.where(shown[:, None, None, None], frames, state.frames)
        codes = torch.where(shown[:, None, None], out.codes, state.codes)
        after = replace(
            state,
            prior=out.state.keep_where(state.ended, state.prior),
            frames=frames,
            codes=codes,
            steps=state.steps + 1,
            ended=state.ended | out.terminations,
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

    def hold(self, rows: Tensor) -> None:
        """Let rows, given as to `reset`, keep still until they are reset, as those do that have ended."""
        self._state = replace(self._state, ended=self._state.ended.index_fill(0, self._rows(rows), True))

    def rollout(self, actions: Tensor, context: Context | None = None) -> Rollout:
        """Step every row through a sequence of actions.

        Args:
            actions: (N, L) or (N, L, A).
            context: N rows to begin from, see `WorldModel.context`, or one that all rows begin from; None goes on
                from where each row stands.

        Returns:
            What happened; a row that ends keeps still from then on.

        Raises:
            UserError: as `step` and `reset`.
        """
        self._check_actions(actions, (self.num_rows, actions.shape[1] if actions.ndim > 1 else 0))
        if context is not None:
            spread = torch.zeros(self.num_rows, dtype=torch.int64, device=context.status.device)
            self.reset(context=context.select(spread) if context.num_rows == 1 else context)
        frames, steps = [self._state.frames.clone()], []
        for t in range(actions.shape[1]):
            steps.append(self.step(actions[:, t]))
            frames.append(steps[-1].frames)

        def over_time(name: str) -> Tensor:
            empty = torch.zeros((self.num_rows, 0), device=self.world.device)
            return torch.stack([getattr(step, name) for step in steps], 1) if steps else empty

        return Rollout(
            torch.stack(frames, 1), over_time("rewards"), over_time("terminations").bool(), over_time("log_probs")
        )

    def _decode(self, codes: Tensor) -> Tensor:
        """Frames of codes: (n, h, w) -> (n, H, W, 3) uint8."""
        return self._tiled(self.backend.decode, codes)

    def _tiled(self, function: Callable[..., Any], *inputs: Any) -> Any:
        """What a function of rows returns, computed in tiles if dreams must not depend on their number."""
        half = torch.autocast(self.world.device.type, self.dtype, enabled=self.dtype != torch.float32)
        with half, limit_threads(self.threads):
            return tiled(function, *inputs) if self.batch_invariant else function(*inputs)

    def save(self) -> SimulatorState:
        """A mark to come back to, as often as wanted."""
        return self._state.copy()

    def restore(self, state: SimulatorState) -> None:
        """Go back to a mark; the same actions then bring the same dream.

        Raises:
            UserError: a mark of another number of rows, or of a world or backend that remembers otherwise.
        """
        if len(state.seeds) != self.num_rows:
            raise UserError(f"restore: got {len(state.seeds)} rows, this simulator has {self.num_rows}.")
        sizes, ours = _sizes(state), _sizes(self._state)
        if sizes != ours:
            raise UserError(
                f"restore: got a mark of {sizes}, this simulator remembers {ours}; give it one of the same world and "
                "backend."
            )
        self._state = state.copy()

    def clone(self, source_rows: Tensor, target_rows: Tensor, seeds: Tensor | None = None) -> None:
        """Branch dreams: rows become what other rows are.

        A branch keeps its source's seed, and with it what will happen: the same actions bring the same future, to the
        next episodes' starts. Given another seed, it is where its source is and goes on differently, by chance alone.

        Args:
            source_rows: (n,) int64, or (1,) for all targets.
            target_rows: (n,) int64, each once. A row may be source and target.
            seeds: (n,) int64, one a target; None keeps the sources'.

        Raises:
            UserError: rows that this simulator does not have, or numbers of them that do not fit.
        """
        source, target = self._rows(source_rows), self._rows(target_rows)
        if len(source) not in (1, len(target)) or (seeds is not None and len(seeds) != len(target)):
            given = "no" if seeds is None else len(seeds)
            raise UserError(
                f"clone: got {len(source)} sources and {given} seeds for {len(target)} targets; wanted one of each "
                "a target."
            )
        if target_rows.device.type == "cpu" and len(target.unique()) != len(target):
            raise UserError(f"clone: got targets {target.tolist()}; wanted each row once.")
        order = torch.arange(self.num_rows, device=target.device).index_copy(0, target, source.expand(len(target)))
        tensors = {name: rows[order] for name, rows in vars(self._state).items() if name != "prior"}
        if seeds is not None:
            tensors["seeds"] = tensors["seeds"].index_copy(0, target, seeds.to(target.device, torch.int64))
        self._state = SimulatorState(prior=self._state.prior.select(order), **tensors)

    def __getstate__(self) -> dict[str, Any]:
        """Everything but a recording, which is made anew where it is needed."""
        return {**self.__dict__, "_captured": None}

    def _check_actions(self, actions: Tensor, leading: tuple[int, ...]) -> None:
        """Refuse actions that are not (*leading, *space.shape) of the space's kind."""
        space = self.world.spec.action_space
        if actions.shape != (*leading, *space.shape):
            raise UserError(
                f"actions: got shape {tuple(actions.shape)}, wanted {(*leading, *space.shape)} for {space}."
            )
        if actions.is_floating_point() != (space.dtype.kind == "f"):
            raise UserError(f"actions: got {actions.dtype}, wanted {space.dtype} for {space}.")
        if actions.device.type == "cpu":
            spaces.check_actions(space, actions.detach().numpy())

    def _rows(self, rows: Tensor | None) -> Tensor:
        """Rows as indices on the world's device; all of them for None."""
        return row_index(rows, self.num_rows, self._state.seeds.device)


def _sizes(state: SimulatorState) -> str:
    """What a state remembers, in words: its kind, and the sizes of what a row remembers."""
    sizes = ", ".join(str(tuple(leaf.shape[1:])) for leaf in [*leaves(state.prior), state.frames])
    return f"{type(state.prior).__name__} ({sizes})"
