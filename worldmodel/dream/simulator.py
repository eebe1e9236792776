"""Many dreams at once: tensors in, tensors out, on the world's device.

Shapes: N rows, n some of them, H W pixels, h w code grid, A action size.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from worldmodel.common import spaces
from worldmodel.common.arguments import checked_integer
from worldmodel.common.errors import UserError
from worldmodel.common.threads import thread_limited, threads_for_rows
from worldmodel.dream.backends import choose_backend
from worldmodel.dream.cuda_graphs import CapturedStep, capture_cuda_graph
from worldmodel.dream.dream_stepper import DreamStepper
from worldmodel.dream.episode_starts import EpisodeStarts
from worldmodel.dream.simulator_state import Rollout, SimulatorState, SimulatorStep, check_integers, row_index
from worldmodel.dream.tensor_tree import tree_map
from worldmodel.dream.tiles import TILE
from worldmodel.prior.context import Context
from worldmodel.prior.sampling import Sampling
from worldmodel.world.world_model import WorldModel


class Simulator:
    """N independent dreams of one world.

    A row's dream depends on its seed, its episode number, its start and its actions, never on the other rows. A row
    that has ended keeps its last frame, gets no reward and stays ended until it is reset.

    Args:
        world: the learned world, with its starts.
        num_rows: N.
        seed: row i has seed + i.
        sampling: how the frames' codes are sampled. Terminations and the status are always sampled as predicted.
        starts: "episode" begins at first frames of episodes, "any" also at time steps inside episodes.
        batch_invariant: compute the rows in tiles of one size (`dream.tiles`), so that a row's dream is bit-identical
            for any number of rows. Without it, results agree to rounding, and two dreams can diverge where a uniform
            number lies on the border between two codes.
        dtype: of matrix products. In bfloat16 (fast on a GPU) a frame's log-likelihood agrees with that in float32 to
            0.02 nats per code, probabilities and rewards to 0.01; sampled codes then differ from a float32 dream's.
        backend: "torch", "onnx" or "auto": what computes the step, see `dream.backends.choose_backend`. Backends agree
            to rounding; a dream that must be reproduced bit by bit names its backend.
        cuda_graph: capture the step at its first call and replay it with one launch (`dream.cuda_graphs`), which gives
            the same dream; None does so on a GPU if the prior knows no last frame (`max_frames`).
        threads: torch threads of one step on a CPU, at most, and never more than `torch.get_num_threads`; None takes
            one for every 16 rows that are computed at once.

    Raises:
        UserError: an argument out of range, a world without starts, or a backend or CUDA graph that cannot step it.
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
        cuda_graph: bool | None = None,
        threads: int | None = None,
    ) -> None:
        self.num_rows = checked_integer("num_rows", num_rows)
        computed_rows = TILE if batch_invariant else self.num_rows
        self.threads = threads_for_rows(computed_rows) if threads is None else checked_integer("threads", threads)
        self.world, self.sampling = world, sampling
        self._starts = EpisodeStarts(world, starts)
        self.backend = choose_backend(world, backend, dtype, batch_invariant, self.threads)
        self._stepper = DreamStepper(world, self.backend, sampling, batch_invariant, dtype)
        self._capture = capture_cuda_graph if self._captures(cuda_graph) else None
        self._captured_step: CapturedStep[SimulatorState, SimulatorStep] | None = None
        self._state = self._initial_state()
        self.seed(torch.arange(self.num_rows) + seed)

    def _captures(self, cuda_graph: bool | None) -> bool:
        """Whether steps are captured as a CUDA graph.

        Raises:
            UserError: it is requested and not possible.
        """
        possible = self.world.device.type == "cuda" and not self._stepper.is_bounded
        if cuda_graph and not possible:
            raise UserError(
                f"cuda_graph=True needs a world on a GPU whose prior knows no last frame; this world is on "
                f"{self.world.device} and its prior knows {self.world.prior.max_frames or 'any number of'} frames. "
                "Leave it out."
            )
        return possible and cuda_graph is not False

    @thread_limited
    def _initial_state(self) -> SimulatorState:
        """The state before the first reset."""
        prior, tokenizer = self.backend.init_state(self._starts.placeholder(self.num_rows)), self.world.tokenizer
        decoder = tokenizer.init_decoder_state(self.num_rows)
        return SimulatorState.ended_rows(prior, decoder, tokenizer.frame_shape, tokenizer.grid)

    @property
    def state(self) -> SimulatorState:
        """The current state; the next step or reset may write to its tensors."""
        return self._state

    @property
    def at_max_frames(self) -> Tensor:
        """Rows at the last frame that their prior knows (`max_frames`), which cannot be stepped further: (N,) bool."""
        limit, prior = self.world.prior.max_frames, self._state.prior
        return torch.zeros_like(self._state.ended) if limit is None else prior.times >= limit  # type: ignore[attr-defined]

    @property
    def status_values(self) -> Tensor:
        """The hidden variable at the middle of each bin: (bins,) float32."""
        return self._stepper.status_values

    def status_to_values(self, status: Tensor) -> Tensor:
        """The hidden variable at the middle of its bins: (N,) int64 -> (N,) float32, NaN where it is not known."""
        return self._stepper.status_to_values(status)

    @thread_limited
    def seed(self, seeds: Tensor, rows: Tensor | None = None) -> None:
        """Set the seeds, (n,) int64, of rows, given as to `reset`. Their next reset is the first episode of that seed.

        Raises:
            UserError: rows that this simulator does not have, or seeds that are not integers or not one per row.
        """
        index = self._row_index(rows)
        check_integers("seeds", seeds)
        if seeds.shape != index.shape:
            raise UserError(f"seeds: got shape {tuple(seeds.shape)} for {len(index)} rows.")
        episodes = self._state.episodes.index_fill(0, index, -1)
        mixed = self._state.seeds.index_copy(0, index, seeds.to(index.device, torch.int64))
        self._state = replace(self._state, seeds=mixed, episodes=episodes)

    @thread_limited
    @torch.no_grad()
    def reset(self, rows: Tensor | None = None, starts: Tensor | None = None, context: Context | None = None) -> Tensor:
        """Begin new episodes.

        Args:
            rows: (n,) int64 rows to reset, or a mask (N,) bool; None resets all.
            starts: (n,) int64 indices into the world's starts; None samples them.
            context: n rows of frames to begin from instead, see `WorldModel.context`.

        Returns:
            (N, H, W, 3) uint8: all rows' frames. A reset row shows the reconstruction of its start.

        Raises:
            UserError: rows or starts that do not exist, or a context of other rows or of another world's size.
        """
        index, state = self._row_index(rows), self._state
        if not len(index):
            return state.frames.clone()
        episodes = state.episodes.index_add(0, index, torch.ones_like(index))
        if starts is None:
            chosen = self._starts.sample(state.seeds[index], episodes[index])
        else:
            chosen = self._starts.checked(starts, index)
        context, chosen = self._starts.context_of(chosen, context)
        codes = context.codes[:, -1]  # (n, h, w)
        decoded = self._stepper.decode_context(context.codes)
        decoder = decoded.state
        if decoder is not None and state.decoder is not None:
            decoder = state.decoder.scatter(index, decoder)
        self._state = SimulatorState(
            prior=state.prior.scatter(index, self._stepper.init_state(context)),
            frames=state.frames.index_copy(0, index, decoded.frames),
            codes=state.codes.index_copy(0, index, codes),
            seeds=state.seeds,
            episodes=episodes,
            steps=state.steps.index_fill(0, index, 0),
            ended=state.ended.index_fill(0, index, False),
            starts=state.starts.index_copy(0, index, chosen),
            decoder=decoder,
        )
        return self._state.frames.clone()

    @thread_limited
    @torch.no_grad()
    def past_frames(self, context: Context, count: int) -> list[Tensor]:
        """Frames before the last one of each context, as the world decodes them, oldest first.

        Args:
            context: n rows, see `WorldModel.context`.
            count: frames of each row, fewer than the prior's window. Where the context has fewer, its first frame is
                repeated.

        Returns:
            `count` tensors (n, H, W, 3) uint8.
        """
        if not 0 <= count < context.codes.shape[1]:
            raise UserError(f"past_frames: count={count}; wanted 0 to {context.codes.shape[1] - 1}.")
        return self._stepper.decode_past(context.to(self.world.device).codes, count) if count else []

    @thread_limited
    @torch.no_grad()
    def step(self, actions: Tensor) -> SimulatorStep:
        """Take one step in every row.

        Args:
            actions: (N,) or (N, A).

        Returns:
            The result of the step, in tensors that belong to the caller. Rows that had ended before stay unchanged.

        Raises:
            UserError: actions of another shape or dtype than the space's; on a CPU also values outside the space. On a
                GPU the values are not checked, since that would wait for the device.
        """
        self._check_actions(actions, (self.num_rows,))
        is_float = self.world.spec.action_space.dtype.kind == "f"
        actions = actions.to(self.world.device, torch.float32 if is_float else torch.int64)
        if self._capture is not None and self._captured_step is None:
            self._captured_step = CapturedStep(self._stepper.step, self._state, actions, self._capture)
        if self._captured_step is not None:
            self._state, step = self._captured_step(self._state, actions)  # a copy
            return step
        self._state, step = self._stepper.step(self._state, actions)
        return tree_map(torch.clone, step)

    @thread_limited
    def hold(self, rows: Tensor) -> None:
        """Keep rows, given as to `reset`, unchanged until they are reset, like rows that have ended."""
        self._state = replace(self._state, ended=self._state.ended.index_fill(0, self._row_index(rows), True))

    @thread_limited
    def rollout(self, actions: Tensor, context: Context | None = None) -> Rollout:
        """Step every row through a sequence of actions.

        Args:
            actions: (N, L) or (N, L, A).
            context: N rows to begin from, see `WorldModel.context`, or one row that all begin from; None continues
                from the current state.

        Returns:
            The frames and results of all steps. A row that ends stays unchanged from then on.

        Raises:
            UserError: as `step` and `reset`.
        """
        self._check_actions(actions, (self.num_rows, actions.shape[1] if actions.ndim > 1 else 0))
        if context is not None:
            zeros = torch.zeros(self.num_rows, dtype=torch.int64, device=context.status.device)
            self.reset(context=context.select(zeros) if context.num_rows == 1 else context)
        first_frames = self._state.frames.clone()
        return Rollout.stack(first_frames, [self.step(actions[:, t]) for t in range(actions.shape[1])])

    @thread_limited
    def save(self) -> SimulatorState:
        """A copy of the state, to restore as often as wanted."""
        return self._state.copy()

    @thread_limited
    def restore(self, state: SimulatorState) -> None:
        """Return to a saved state. The same actions then give the same dream.

        Raises:
            UserError: a state of another number of rows, or of another world or backend.
        """
        if len(state.seeds) != self.num_rows:
            raise UserError(f"restore: got {len(state.seeds)} rows, this simulator has {self.num_rows}.")
        if state.layout != self._state.layout:
            raise UserError(
                f"restore: got a state of {state.layout}, this simulator has {self._state.layout}; give it one of the "
                "same world and backend."
            )
        self._state = state.copy()

    @thread_limited
    def clone(self, source_rows: Tensor, target_rows: Tensor, seeds: Tensor | None = None) -> None:
        """Branch dreams: copy the state of some rows to other rows.

        A branch keeps its source's seed, and with it its future: the same actions give the same frames, up to the
        starts of the next episodes. With another seed it begins at the source's state and continues with other
        random numbers.

        Args:
            source_rows: (n,) int64, or (1,) for all targets.
            target_rows: (n,) int64, each once. A row may be source and target.
            seeds: (n,) int64, one per target; None keeps the sources'.

        Raises:
            UserError: rows that this simulator does not have, or numbers of them that do not match.
        """
        source, target = self._row_index(source_rows), self._row_index(target_rows)
        if len(source) not in (1, len(target)) or (seeds is not None and len(seeds) != len(target)):
            given = "no" if seeds is None else len(seeds)
            raise UserError(
                f"clone: got {len(source)} sources and {given} seeds for {len(target)} targets; wanted one of each "
                "per target."
            )
        if target_rows.device.type == "cpu" and len(target.unique()) != len(target):
            raise UserError(f"clone: got targets {target.tolist()}; wanted each row once.")
        order = torch.arange(self.num_rows, device=target.device).index_copy(0, target, source.expand(len(target)))
        state = self._state.select(order)
        if seeds is not None:
            state = replace(state, seeds=state.seeds.index_copy(0, target, seeds.to(target.device, torch.int64)))
        self._state = state

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the captured step, which is captured again where it is needed."""
        return {**self.__dict__, "_captured_step": None}

    def _check_actions(self, actions: Tensor, leading: tuple[int, ...]) -> None:
        """Refuse actions that are not (*leading, *space.shape) with the space's kind of dtype."""
        space = self.world.spec.action_space
        if actions.shape != (*leading, *space.shape):
            raise UserError(
                f"actions: got shape {tuple(actions.shape)}, wanted {(*leading, *space.shape)} for {space}."
            )
        if actions.is_floating_point() != (space.dtype.kind == "f"):
            raise UserError(f"actions: got {actions.dtype}, wanted {space.dtype} for {space}.")
        if actions.device.type == "cpu":
            spaces.check_actions(space, actions.detach().numpy())

    def _row_index(self, rows: Tensor | None) -> Tensor:
        """Rows as indices on the world's device; None selects all rows."""
        return row_index(rows, self.num_rows, self._state.seeds.device)
