"""The options that all interfaces of a dream share, checked in one place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypedDict

import torch

from worldmodel.common.arguments import checked_integer, is_integer
from worldmodel.common.errors import UserError, unknown_name
from worldmodel.common.runtime import resolve_device
from worldmodel.common.threads import limit_threads
from worldmodel.dream.simulator import Simulator
from worldmodel.prior.sampling import Sampling
from worldmodel.world.world_model import WorldModel

RECORDED = "recorded"
INFO_FIELDS = ("codes",)
RENDER_MODES = ("rgb_array", "human")
FPS = 9  # frames per second of windows and videos


class DreamKeywords(TypedDict, total=False):
    """The keyword arguments of `DreamEnv`, `DreamVectorEnv` and `DreamVecEnv`: the fields of `DreamOptions`."""

    horizon: int | str | None
    temperature: float
    top_k: int
    top_p: float
    starts: str
    batch_invariant: bool
    info: Sequence[str]
    backend: str
    render_mode: str | None
    device: str


@dataclass(frozen=True)
class DreamOptions:
    """Options of a dream.

    Attributes:
        horizon: steps until truncation; "recorded" takes the recorded environment's number, None never truncates. A
            world whose prior knows only so many frames (`prior.max_frames`) also truncates at the last of them.
        temperature, top_k, top_p: how the frames' codes are sampled, see `Sampling`.
        starts: "episode" begins at first frames of episodes, "any" also at time steps inside episodes.
        batch_invariant, backend: see `Simulator`.
        info: more keys of `info`, after resets too: "codes", (h, w) int64 of the current frame.
        render_mode: None, "rgb_array", or "human" (`DreamEnv` alone): a window that shows every frame.
        device: where a world given as a directory is loaded: "cpu", "cuda", "cuda:1" ...

    Raises:
        UserError: a value out of range.
    """

    horizon: int | str | None = RECORDED
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    starts: str = "episode"
    batch_invariant: bool = False
    info: Sequence[str] = ()
    backend: str = "auto"
    render_mode: str | None = None
    device: str | torch.device = "cpu"

    def __post_init__(self) -> None:
        horizon = self.horizon
        if is_integer(horizon) and int(horizon) >= 1:  # type: ignore[arg-type]
            object.__setattr__(self, "horizon", int(horizon))  # type: ignore[arg-type]
        elif horizon is not None and horizon != RECORDED:
            raise UserError(f"horizon={horizon!r}: wanted a number of steps, None for no limit, or {RECORDED!r}.")
        object.__setattr__(self, "top_k", checked_integer("top_k", self.top_k, least=0))
        names = (self.info,) if isinstance(self.info, str) else tuple(self.info)
        for name in names:
            if name not in INFO_FIELDS:
                raise unknown_name("info", str(name), INFO_FIELDS)
        object.__setattr__(self, "info", names)
        if self.render_mode is not None and self.render_mode not in RENDER_MODES:
            raise unknown_name("render mode", str(self.render_mode), RENDER_MODES)
        _ = self.sampling  # checks its numbers

    @staticmethod
    def from_keywords(keywords: Mapping[str, Any], render_modes: Sequence[str]) -> DreamOptions:
        """Options from keyword arguments.

        Args:
            keywords: fields of `DreamOptions`.
            render_modes: those that the interface has.

        Raises:
            UserError: an unknown keyword, or a value out of range.
        """
        names = [field.name for field in fields(DreamOptions)]
        for name in keywords:
            if name not in names:
                raise unknown_name("option of a dream", name, names)
        options = DreamOptions(**keywords)
        if options.render_mode is not None and options.render_mode not in render_modes:
            wanted = " or ".join(repr(mode) for mode in (None, *render_modes))
            raise UserError(f"render_mode={options.render_mode!r}: wanted {wanted}.")
        return options

    @property
    def sampling(self) -> Sampling:
        """How the frames' codes are sampled."""
        return Sampling(self.temperature, self.top_k, self.top_p)

    def load(self, world: str | Path | WorldModel) -> WorldModel:
        """The world: loaded from its directory or by its name, unless it is loaded already.

        Raises:
            UserError: not a world directory, or a device that is not there.
        """
        if isinstance(world, WorldModel):
            return world
        with limit_threads(1):
            return WorldModel.from_pretrained(world, resolve_device(self.device))

    def max_steps(self, world: WorldModel) -> int | None:
        """Steps until truncation in a world; None never truncates."""
        return world.spec.max_steps if self.horizon == RECORDED else self.horizon  # type: ignore[return-value]

    def simulator(self, world: str | Path | WorldModel, num_rows: int) -> Simulator:
        """A simulator of a world, which is loaded first if it is a directory or a name.

        Raises:
            UserError: not a world directory, or an option that this world does not allow.
        """
        return Simulator(
            self.load(world),
            num_rows,
            sampling=self.sampling,
            starts=self.starts,
            batch_invariant=self.batch_invariant,
            backend=self.backend,
        )
