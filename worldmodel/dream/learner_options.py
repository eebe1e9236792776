"""Options of dreams in which a policy learns, checked in one place."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypedDict

from worldmodel.common.arguments import checked_integer
from worldmodel.common.errors import UserError, unknown_name
from worldmodel.common.policy_view import Rectangle
from worldmodel.common.runtime import choose_runtime
from worldmodel.common.threads import limit_threads
from worldmodel.data.splits import SPLITS
from worldmodel.dream.dream_options import RECORDED
from worldmodel.dream.simulator import Simulator
from worldmodel.prior.sampling import Sampling
from worldmodel.world.world_model import WorldModel

REWARDS = ("env", "status", "status_change")


class LearnerKeywords(TypedDict, total=False):
    """The keyword arguments of `DreamLearnerEnv`: the fields of `LearnerOptions`."""

    frame_stack: int
    view: Rectangle | None
    hold: int
    reward: str
    reward_scale: float
    horizon: int | str | None
    temperature: float
    seed: int
    device: str
    mirror: bool
    last_action: bool
    starts_from: str | Path | Sequence[str | Path] | None
    start_before_end: float
    num_starts: int
    starts_split: str
    disagreement_penalty: float
    backend: str
    threads: int | None


@dataclass(frozen=True)
class LearnerOptions:
    """Options of dreams in which a policy learns.

    Attributes:
        frame_stack: D.
        view: (top, bottom, left, right) of the visible part, in pixels of the whole frame before the world's crop;
            None shows the world's frame.
        hold: steps of the dream per action.
        reward: "env" is the world's reward; "status" the expected change of the hidden variable in hundredths, at most
            0; a termination counts as the loss of all that was left; "status_change" the same, gains included.
        reward_scale: factor of the reward.
        horizon, temperature: as in `DreamOptions`.
        seed: row i begins with seed + i.
        device: "auto", "cpu" or "cuda": where a world given as a directory is loaded. On a GPU, matrix products are in
            bfloat16, as in training.
        mirror: mirror each episode with probability one half: the policy observes flipped frames, and its actions are
            mirrored before the dream takes them. The world's environment must declare it.
        last_action: the observation has planes with the last action behind the frames, see `common.action_planes`.
        starts_from: dataset files of the world's environment; dreams begin at time steps of one split
            (`dream.recorded_starts`). None begins at the world's own starts.
        start_before_end: with `starts_from`, the share of dreams that begin shortly before a termination or a loss of
            the hidden variable.
        num_starts: with `starts_from`, the number of time steps that are encoded before the first dream, and as many
            before ends.
        starts_split: with `starts_from`, the split: "train", "validation" or "test".
        disagreement_penalty: with several worlds: each dream is followed by the next world, and this weight times the
            difference of their predicted outcomes (`dream.shadow_world`) is subtracted from the reward of each step.
        backend, threads: see `Simulator`.

    Raises:
        UserError: a value out of range.
    """

    frame_stack: int = 4
    view: Rectangle | None = None
    hold: int = 1
    reward: str = "env"
    reward_scale: float = 1.0
    horizon: int | str | None = RECORDED
    temperature: float = 1.0
    seed: int = 0
    device: str = "cpu"
    mirror: bool = False
    last_action: bool = False
    starts_from: str | Path | Sequence[str | Path] | None = None
    start_before_end: float = 0.0
    num_starts: int = 1024
    starts_split: str = "train"
    disagreement_penalty: float = 0.0
    backend: str = "auto"
    threads: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("frame_stack", 1), ("hold", 1), ("seed", 0), ("num_starts", 1)):
            object.__setattr__(self, name, checked_integer(name, getattr(self, name), least))
        if self.reward not in REWARDS:
            raise unknown_name("reward", str(self.reward), REWARDS)
        if not 0 <= self.disagreement_penalty < math.inf:
            raise UserError(f"disagreement_penalty={self.disagreement_penalty}: wanted a number of at least 0.")
        if self.starts_split not in SPLITS:
            raise unknown_name("starts_split", self.starts_split, SPLITS)
        if not 0 <= self.start_before_end <= 1:
            raise UserError(f"start_before_end={self.start_before_end}: wanted a share from 0 to 1.")
        if self.start_before_end and not self.starts_from:
            raise UserError("start_before_end needs recorded time steps to begin from: give starts_from.")

    @staticmethod
    def from_keywords(**keywords: Any) -> LearnerOptions:
        """Options from keyword arguments.

        Raises:
            UserError: an unknown keyword, or a value out of range.
        """
        names = [field.name for field in fields(LearnerOptions)]
        for name in keywords:
            if name not in names:
                raise unknown_name("option of dreams to learn in", name, names)
        return LearnerOptions(**keywords)

    def load(self, world: str | Path | WorldModel) -> WorldModel:
        """The world: loaded from its directory or by its name, unless it is loaded already.

        Raises:
            UserError: not a world directory, or a device that is not there.
        """
        if isinstance(world, WorldModel):
            return world
        with limit_threads(1):
            return WorldModel.from_pretrained(world, choose_runtime(self.device).device)

    def simulator(self, world: WorldModel, num_rows: int) -> Simulator:
        """A simulator of a world.

        Raises:
            UserError: a reward from the hidden variable in a world that has none.
        """
        runtime = choose_runtime(world.device.type)
        if self.reward != "env" and not world.prior.status_config.num_bins:
            raise UserError(
                f"reward={self.reward!r} needs a world with a hidden variable; this one learned none. Train it with "
                "--prior.status.variable, or take reward='env'."
            )
        sampling = Sampling(self.temperature, exact=False)  # nobody reads the log-probabilities
        return Simulator(
            world,
            num_rows,
            self.seed,
            sampling,
            dtype=runtime.dtype,
            backend=self.backend,
            threads=self.threads,
        )
