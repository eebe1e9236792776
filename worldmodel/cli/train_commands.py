"""The verbs `train world`, `train tokenizer` and `train prior`: their configs and functions."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import tyro

from worldmodel.common.errors import UserError
from worldmodel.train.presets import PRESETS as WORLDS
from worldmodel.train.training_config import PriorTraining, TokenizerTraining, WorldConfig, stage_config

if TYPE_CHECKING:
    from worldmodel.train.training_run import Progress

_Bare = tyro.conf.arg(name="")  # fields become flags without a prefix: --prior.width


@dataclass(frozen=True)
class TrainWorld:
    """Learn a world from a dataset: tokenizer, codes, prior. The same command continues a stopped training.

    Several processes share the work under torchrun: `torchrun --nproc-per-node 2 -m worldmodel train world ...`.

    Example:
        worldmodel train world --preset doom-take-cover-demo --data cover.h5 --out runs/cover --minutes 20
    """

    data: tuple[Path, ...]
    """Dataset files."""
    out: Path
    """The world directory to make."""
    world: Annotated[WorldConfig, _Bare] = field(default_factory=WorldConfig)
    """Sizes and loops."""
    init_from: Path | None = None
    """A world, or a tokenizer, of the same sizes whose weights to begin with."""
    minutes: float | None = None
    """Budget of both loops together; the preset's own if not given. It replaces the preset's number of steps."""
    device: str = "auto"
    """auto, cpu or cuda."""
    preset: str = ""
    """Set by --preset."""
    force: bool = False
    """Replace what stands at --out."""
    json: bool = False
    """Print the figures as JSON."""

    PRESETS: ClassVar[dict[str, TrainWorld]] = {}


@dataclass(frozen=True)
class TrainTokenizer:
    """Learn a tokenizer alone, the first half of `train world`. The same command continues a stopped training.

    Example:
        worldmodel train tokenizer --preset doom-take-cover-demo --data cover.h5 --out runs/codes
    """

    data: tuple[Path, ...]
    """Dataset files."""
    out: Path
    """The tokenizer directory to make."""
    training: Annotated[TokenizerTraining, _Bare] = field(default_factory=TokenizerTraining)
    """Size and loop."""
    init_from: Path | None = None
    """A tokenizer, or a world, of the same sizes whose weights to begin with."""
    minutes: float | None = None
    """Budget; the preset's own if not given. It replaces the preset's number of steps."""
    device: str = "auto"
    """auto, cpu or cuda."""
    preset: str = ""
    """Set by --preset."""
    force: bool = False
    """Replace what stands at --out."""
    json: bool = False
    """Print the figures as JSON."""

    PRESETS: ClassVar[dict[str, TrainTokenizer]] = {}


@dataclass(frozen=True)
class TrainPrior:
    """Learn a prior on a tokenizer's codes, the second half of `train world`: a whole world directory.

    Example:
        worldmodel train prior --preset doom-take-cover-demo --tokenizer runs/codes --data cover.h5 --out runs/cover
    """

    tokenizer: Path
    """A tokenizer directory, or a world whose tokenizer to take."""
    data: tuple[Path, ...]
    """Dataset files."""
    out: Path
    """The world directory to make."""
    training: Annotated[PriorTraining, _Bare] = field(default_factory=PriorTraining)
    """Size and loop."""
    init_from: Path | None = None
    """A world of the same sizes whose prior's weights to begin with."""
    minutes: float | None = None
    """Budget; the preset's own if not given. It replaces the preset's number of steps."""
    device: str = "auto"
    """auto, cpu or cuda."""
    preset: str = ""
    """Set by --preset."""
    force: bool = False
    """Replace what stands at --out."""
    json: bool = False
    """Print the figures as JSON."""

    PRESETS: ClassVar[dict[str, TrainPrior]] = {}


for _name, _world in WORLDS.items():
    TrainWorld.PRESETS[_name] = TrainWorld(tyro.MISSING, tyro.MISSING, _world)
    TrainTokenizer.PRESETS[_name] = TrainTokenizer(tyro.MISSING, tyro.MISSING, stage_config(_world, TokenizerTraining))
    TrainPrior.PRESETS[_name] = TrainPrior(
        tyro.MISSING, tyro.MISSING, tyro.MISSING, stage_config(_world, PriorTraining)
    )


def train_world(config: TrainWorld) -> None:
    """Train, with a bar, and print what came out."""
    from worldmodel.cli.data_commands import progress_bar
    from worldmodel.dream.dream_clips import draw_clips
    from worldmodel.train.trainers import train_world as train

    _check_budget(config)
    with progress_bar() as progress:
        made = train(list(config.data), config.out, config.world, **_how(config, progress), draw_dreams=draw_clips)
    _finish("world", config, made.report)


def train_tokenizer(config: TrainTokenizer) -> None:
    """Train, with a bar, and print what came out."""
    from worldmodel.cli.data_commands import progress_bar
    from worldmodel.train.trainers import train_tokenizer as train

    _check_budget(config)
    with progress_bar() as progress:
        made = train(list(config.data), config.out, config.training, **_how(config, progress))
    _finish("tokenizer", config, made.report)


def train_prior(config: TrainPrior) -> None:
    """Train, with a bar, and print what came out."""
    from worldmodel.cli.data_commands import progress_bar
    from worldmodel.dream.dream_clips import draw_clips
    from worldmodel.train.trainers import train_prior as train

    _check_budget(config)
    with progress_bar() as progress:
        made = train(
            config.tokenizer,
            list(config.data),
            config.out,
            config.training,
            **_how(config, progress),
            draw_dreams=draw_clips,
        )
    _finish("prior", config, made.report)


def _check_budget(config: TrainWorld | TrainTokenizer | TrainPrior) -> None:
    """Refuse --minutes together with a number of steps; the number of a preset gives way to --minutes.

    Raises:
        UserError: both are given.
    """
    if config.minutes is None:
        return

    def training_of(command: Any) -> Any:
        return command.world if isinstance(command, TrainWorld) else command.training

    training, preset = training_of(config), type(config).PRESETS.get(config.preset)
    default = type(training)() if preset is None else training_of(preset)
    for name in ("train_tokenizer", "train_prior"):
        steps = getattr(training, name).num_steps if hasattr(training, name) else 0
        if steps and steps != getattr(default, name).num_steps:
            flag = f"--{name.replace('_', '-')}.num-steps"
            raise UserError(
                f"--minutes {config.minutes:g} and {flag} {steps} contradict each other: give a time or a number of "
                "steps."
            )


def _how(config: TrainWorld | TrainTokenizer | TrainPrior, progress: Progress) -> dict[str, Any]:
    names = ("minutes", "device", "force", "init_from")
    return {"progress": progress, **{name: getattr(config, name) for name in names}}


def _finish(verb: str, config: TrainWorld | TrainTokenizer | TrainPrior, report: dict[str, Any]) -> None:
    """Save the command beside what it made, and print the figures: the main process alone."""
    from worldmodel.common.processes import process
    from worldmodel.common.run_info import save_run_info

    if process()[0]:
        return
    save_run_info(config.out / "run.json", f"train {verb}", config)
    figures = {"tokenizer" if verb == "tokenizer" else "world": str(config.out), **report}
    text = "\n".join(f"{key}: {value}" for key, value in figures.items())
    print(json.dumps(figures) if config.json else text)
