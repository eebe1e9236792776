"""The verbs `train clip` and `sample clips`: their configs and functions."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar

import tyro

from worldmodel.cli.train_commands import check_budget, finish_training
from worldmodel.common.errors import UserError, unknown_name
from worldmodel.train.clip_presets import CLIP_PRESETS
from worldmodel.train.clip_training_config import ClipTraining

_WithoutPrefix = tyro.conf.arg(name="")  # fields become flags without a prefix: --prior.width


@dataclass(frozen=True)
class TrainClip:
    """Train a model of whole clips (VideoGPT): a tokenizer, then a prior over the codes of a clip.

    The model is sampled with `worldmodel sample clips`; it cannot be stepped. The same command continues a stopped
    training. Clips can be conditioned on the class label of their episode and on its actions: see --prior.class-label
    and --prior.actions.

    Example:
        worldmodel train clip --preset tiny-clip --data cover.h5 --out runs/clips --prior.no-class-label
    """

    data: tuple[Path, ...]
    """Dataset files."""
    out: Path
    """The directory to make."""
    training: Annotated[ClipTraining, _WithoutPrefix] = field(default_factory=ClipTraining)
    """Sizes of the models, and training loops."""
    tokenizer: Annotated[Path | None, tyro.conf.arg(name="from-tokenizer")] = None
    """A tokenizer or world directory, whose tokenizer is used; if not given, one is trained."""
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

    PRESETS: ClassVar[dict[str, TrainClip]] = {}


for _name, _training in CLIP_PRESETS.items():
    TrainClip.PRESETS[_name] = TrainClip(tyro.MISSING, tyro.MISSING, _training)


@dataclass(frozen=True)
class SampleClips:
    """Sample whole clips from a clip model. A PNG has a row for each clip; a GIF or MP4 has them all in a grid.

    Example:
        worldmodel sample clips runs/clips --num 8 --out clips.png
    """

    model: tyro.conf.Positional[Path]
    """A clip model's directory, from `worldmodel train clip`."""
    out: Path
    """NAME.png, NAME.gif or NAME.mp4."""
    num: int = 16
    """Clips."""
    label: str = ""
    """Name or index of the class; all classes in turn if not given."""
    actions: str = ""
    """'turn_right*8,forward*7': labels or numbers, each repeated so many steps; random ones if not given."""
    seed: int = 0
    """Clip i has the seed `seed + i`; also of random actions."""
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    device: str = "auto"
    force: bool = False
    """Replace an existing --out."""


def train_clip(config: TrainClip) -> None:
    """Train with a progress bar, and print the report."""
    check_budget(config)
    from worldmodel.cli.progress import progress_bar
    from worldmodel.train.clip_trainer import train_clip as train

    with progress_bar() as progress:
        trained = train(
            list(config.data),
            config.out,
            config.training,
            tokenizer=config.tokenizer,
            minutes=config.minutes,
            device=config.device,
            progress=progress,
            force=config.force,
        )
    finish_training("train clip", "clip model", config, trained.report)


def sample_clips(config: SampleClips) -> None:
    """Sample, and write the image or video."""
    import numpy as np
    import torch

    from worldmodel.cli.action_text import parse_actions
    from worldmodel.cli.outputs import check_picture_path, write_clips
    from worldmodel.common.runtime import choose_runtime
    from worldmodel.prior.sampling import Sampling
    from worldmodel.world.clip_model import ClipModel

    check_picture_path(config.out, config.force)
    model = ClipModel.from_pretrained(config.model, choose_runtime(config.device).device)
    spec, prior = model.spec, model.prior.config
    titles, classes, actions = ["clip"] * config.num, None, None
    if prior.class_label:
        indices = range(len(model.class_names)) if not config.label else [class_of(config.label, model.class_names)]
        classes = torch.tensor([indices[i % len(indices)] for i in range(config.num)])
        titles = [model.class_names[i] for i in classes.tolist()]
    elif config.label:
        raise UserError(f"--label {config.label}: this clip model is not conditioned on a class; leave it out.")
    if prior.actions != "none":
        rng, length = np.random.default_rng(config.seed), prior.num_frames - 1
        actions = np.stack([spec.action_space.sample(rng) for _ in range(length)])
        if config.actions:
            actions = parse_actions(config.actions, spec.action_space, spec.action_labels)
    elif config.actions:
        raise UserError("--actions: this clip model is not conditioned on actions; leave them out.")
    sampling = Sampling(config.temperature, config.top_k, config.top_p)
    clips = model.sample(
        config.num, classes, None if actions is None else torch.from_numpy(actions), config.seed, sampling
    )
    videos = clips.cpu().numpy()
    write_clips(
        config.out, [(f"{title} {i + 1}", video) for i, (title, video) in enumerate(zip(titles, videos, strict=True))]
    )
    print(f"{config.out}: {config.num} clips of {prior.num_frames} frames.")


def class_of(label: str, class_names: tuple[str, ...]) -> int:
    """The index of a class, given its name or index.

    Raises:
        UserError: there is no such class.
    """
    if label in class_names:
        return class_names.index(label)
    if label.isdecimal() and int(label) < len(class_names):
        return int(label)
    raise unknown_name("class", label, class_names)
