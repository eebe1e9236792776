"""The verbs `train world`, `train tokenizer` and `train prior`: their configs and functions."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import tyro

from worldmodel.common.errors import UserError
from worldmodel.train.presets import PRESETS as WORLD_PRESETS
from worldmodel.train.training_config import PriorTraining, TokenizerTraining, WorldConfig, stage_config

if TYPE_CHECKING:
    from worldmodel.train.training_run import Progress

_WithoutPrefix = tyro.conf.arg(name="")  # fields become flags without a prefix: --prior.width


@dataclass(frozen=True)
class TrainWorld:
    """Train a world on a dataset: tokenizer, codes, prior. The same command continues a stopped training.

    Several processes share each batch under torchrun: `torchrun --nproc-per-node 2 -m worldmodel train world ...`.

    Example:
        worldmodel train world --preset doom-take-cover-demo --data cover.h5 --out runs/cover --minutes 20
        worldmodel train world --crop 20 52 0 64 --data cover.h5 --out runs/crop
    """

    data: tuple[Path, ...]
    """Dataset files."""
    out: Path
    """The world directory to make."""
    world: Annotated[WorldConfig, _WithoutPrefix] = field(default_factory=WorldConfig)
    """Sizes of the models, and training loops."""
    init_from: Path | None = None
    """A world or tokenizer of the same sizes; training begins with its weights."""
    minutes: float | None = None
    """Budget of both loops together; the preset's if not given."""
    device: str = "auto"
    """auto, cpu or cuda."""
    preset: str = ""
    """Set by --preset."""
    force: bool = False
    """Replace an existing --out."""
    json: bool = False
    """Print the figures as JSON."""

    PRESETS: ClassVar[dict[str, TrainWorld]] = {}


@dataclass(frozen=True)
class TrainTokenizer:
    """Train a tokenizer alone, the first half of `train world`. The same command continues a stopped training.

    Example:
        worldmodel train tokenizer --preset doom-take-cover-demo --data cover.h5 --out runs/codes
    """

    data: tuple[Path, ...]
    """Dataset files."""
    out: Path
    """The tokenizer directory to make."""
    training: Annotated[TokenizerTraining, _WithoutPrefix] = field(default_factory=TokenizerTraining)
    """Size of the model, and training loop."""
    init_from: Path | None = None
    """A tokenizer or world of the same sizes; training begins with its weights."""
    minutes: float | None = None
    """Budget; the preset's if not given."""
    device: str = "auto"
    """auto, cpu or cuda."""
    preset: str = ""
    """Set by --preset."""
    force: bool = False
    """Replace an existing --out."""
    json: bool = False
    """Print the figures as JSON."""

    PRESETS: ClassVar[dict[str, TrainTokenizer]] = {}


@dataclass(frozen=True)
class TrainPrior:
    """Train a prior on a tokenizer's codes, the second half of `train world`, and write a world directory.

    Example:
        worldmodel train prior --preset doom-take-cover-demo --tokenizer runs/codes --data cover.h5 --out runs/cover
    """

    tokenizer: Path
    """A tokenizer directory, or a world directory, whose tokenizer is used."""
    data: tuple[Path, ...]
    """Dataset files."""
    out: Path
    """The world directory to make."""
    training: Annotated[PriorTraining, _WithoutPrefix] = field(default_factory=PriorTraining)
    """Size of the model, and training loop."""
    init_from: Path | None = None
    """A world of the same sizes; training begins with its prior's weights."""
    minutes: float | None = None
    """Budget; the preset's if not given."""
    device: str = "auto"
    """auto, cpu or cuda."""
    preset: str = ""
    """Set by --preset."""
    force: bool = False
    """Replace an existing --out."""
    json: bool = False
    """Print the figures as JSON."""

    PRESETS: ClassVar[dict[str, TrainPrior]] = {}


for _name, _world in WORLD_PRESETS.items():
    TrainWorld.PRESETS[_name] = TrainWorld(tyro.MISSING, tyro.MISSING, _world)
    TrainTokenizer.PRESETS[_name] = TrainTokenizer(tyro.MISSING, tyro.MISSING, stage_config(_world, TokenizerTraining))
    TrainPrior.PRESETS[_name] = TrainPrior(
        tyro.MISSING, tyro.MISSING, tyro.MISSING, stage_config(_world, PriorTraining)
    )


def train_world(config: TrainWorld) -> None:
    """Train with a progress bar, and print the report."""
    _check_budget(config)
    from worldmodel.cli.progress import progress_bar
    from worldmodel.dream.dream_clips import render_comparisons
    from worldmodel.train.trainers import train_world as train

    with progress_bar() as progress:
        trained = train(
            list(config.data),
            config.out,
            config.world,
            **_training_options(config, progress),
            draw_dreams=render_comparisons,
        )
    _finish("world", config, trained.report)


def train_tokenizer(config: TrainTokenizer) -> None:
    """Train with a progress bar, and print the report."""
    _check_budget(config)
    from worldmodel.cli.progress import progress_bar
    from worldmodel.train.trainers import train_tokenizer as train

    with progress_bar() as progress:
        trained = train(list(config.data), config.out, config.training, **_training_options(config, progress))
    _finish("tokenizer", config, trained.report)


def train_prior(config: TrainPrior) -> None:
    """Train with a progress bar, and print the report."""
    _check_budget(config)
    from worldmodel.cli.progress import progress_bar
    from worldmodel.dream.dream_clips import render_comparisons
    from worldmodel.train.trainers import train_prior as train

    with progress_bar() as progress:
        trained = train(
            config.tokenizer,
            list(config.data),
            config.out,
            config.training,
            **_training_options(config, progress),
            draw_dreams=render_comparisons,
        )
    _finish("prior", config, trained.report)


def _training_options(config: TrainWorld | TrainTokenizer | TrainPrior, progress: Progress) -> dict[str, Any]:
    """Arguments that all trainers share."""
    names = ("minutes", "device", "force", "init_from")
    return {"progress": progress, **{name: getattr(config, name) for name in names}}


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


def _finish(verb: str, config: TrainWorld | TrainTokenizer | TrainPrior, report: dict[str, Any]) -> None:
    """Save run.json in the output directory and print the figures, in the main process alone."""
    from worldmodel.common.processes import process
    from worldmodel.common.run_info import save_run_info

    if process()[0]:
        return
    save_run_info(config.out / "run.json", f"train {verb}", config)
    figures = {"tokenizer" if verb == "tokenizer" else "world": str(config.out), **report}
    text = "\n".join(f"{key}: {value}" for key, value in figures.items())
    print(json.dumps(figures) if config.json else text)
