"""The verbs `train clip` and `sample clips`: their configs and functions."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import tyro

from worldmodel.cli.train_commands import check_budget, finish_training
from worldmodel.common.errors import UserError, unknown_name
from worldmodel.train.clip_presets import CLIP_PRESETS
from worldmodel.train.clip_training_config import ClipTraining

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from worldmodel.prior.sampling import Sampling
    from worldmodel.world.clip_model import ClipModel

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
    frames: tuple[Path, ...] = ()
    """Images of the first frames, for a model that is conditioned on frames. Their short side is scaled to the model's
    size and the centre is used."""
    data: Path | None = None
    """Dataset; clip i gets the class, the actions and the first frames of a recorded clip, as far as the model needs
    them."""
    split: str = "test"
    """Split of the recorded clips: test, validation or train."""
    seed: int = 0
    """Clip i has the seed `seed + i`; also of random actions and of the choice of recorded clips."""
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
    from worldmodel.cli.outputs import check_picture_path, write_clips
    from worldmodel.common.runtime import choose_runtime
    from worldmodel.prior.sampling import Sampling
    from worldmodel.world.clip_model import ClipModel

    check_picture_path(config.out, config.force)
    if config.num < 1 or config.seed < 0:
        raise UserError(f"--num {config.num} --seed {config.seed}: wanted at least 1 and 0.")
    model = ClipModel.from_pretrained(config.model, choose_runtime(config.device).device)
    sampling = Sampling(config.temperature, config.top_k, config.top_p)
    sample = _sample_given if config.data is None else _sample_like
    clips, spread = sample(config, model, sampling)
    write_clips(config.out, clips)
    print(f"{config.out}: {len(clips)} clips of {model.prior.config.num_frames} frames.")
    if spread is not None:
        print("Samples of one condition differ by {:.1f} grey levels (deviation of a pixel, {} clips).".format(*spread))


_Sampled = tuple[list[tuple[str, "np.ndarray"]], tuple[float, int] | None]  # clips with titles, and their mean spread


def _sample_given(config: SampleClips, model: ClipModel, sampling: Sampling) -> _Sampled:
    """Clips of the class, the actions and the first frames that the flags give."""
    import numpy as np
    import torch

    from worldmodel.cli.action_text import parse_actions
    from worldmodel.metrics.diversity import mean_spread

    spec, prior = model.spec, model.prior.config
    for flag, value, is_used in (
        ("--label", config.label, prior.class_label),
        ("--actions", config.actions, prior.actions != "none"),
        ("--frames", " ".join(map(str, config.frames)), prior.num_given_frames > 0),
    ):
        if value and not is_used:
            raise UserError(f"{flag} {value}: this clip model is not conditioned on it; leave it out.")
    given = read_given_frames(config.frames, model) if prior.num_given_frames else None
    titles, classes, actions = ["clip"] * config.num, None, None
    if prior.class_label:
        indices = range(len(model.class_names)) if not config.label else [class_of(config.label, model.class_names)]
        classes = torch.tensor([indices[i % len(indices)] for i in range(config.num)])
        titles = [model.class_names[i] for i in classes.tolist()]
    if prior.actions != "none":
        rng, length = np.random.default_rng(config.seed), prior.num_frames - 1
        chosen = np.stack([spec.action_space.sample(rng) for _ in range(length)])
        if config.actions:
            chosen = parse_actions(config.actions, spec.action_space, spec.action_labels)
        actions = torch.from_numpy(chosen)
    videos = model.sample(config.num, classes, actions, config.seed, sampling, frames=given).cpu().numpy()
    titled = [(f"{title} {i + 1}", video) for i, (title, video) in enumerate(zip(titles, videos, strict=True))]
    return titled, mean_spread(videos[:, prior.num_given_frames :], titles)


def read_given_frames(paths: tuple[Path, ...], model: ClipModel) -> Tensor:
    """The first frames of a clip model from image files, (G, H, W, 3) uint8.

    Raises:
        UserError: another number of images than the model is conditioned on, or a file that is not an image.
    """
    import numpy as np
    import torch
    from PIL import Image

    from worldmodel.data.importers.frame_conversion import fit_frame

    count = model.prior.config.num_given_frames
    if len(paths) != count:
        raise UserError(
            f"this clip model is conditioned on {count} first frames, got {len(paths)}: give {count} images with "
            "--frames, or take the frames from a dataset with --data FILE."
        )
    frames = []
    for path in paths:
        try:
            with Image.open(path) as image:
                if image.mode.startswith(("I", "F")):
                    raise ValueError(f"its pixels are {image.mode}, wanted 8 bits for each colour")
                rgb = np.asarray(image.convert("RGB"))
        except (OSError, ValueError) as error:
            raise UserError(f"--frames {path}: cannot be read as an image ({error}).") from error
        frames.append(fit_frame(rgb, model.spec.pixels.size, "crop"))
    return torch.from_numpy(np.stack(frames))


def _sample_like(config: SampleClips, model: ClipModel, sampling: Sampling) -> _Sampled:
    """Each recorded clip, followed by a clip that is sampled with its conditions, with titles."""
    from worldmodel.data import Dataset
    from worldmodel.metrics.clip_sources import check_source, generated_clips, recorded_clips

    assert config.data is not None
    if config.label or config.actions or config.frames:
        raise UserError("--data gives all conditions of each clip; leave --label, --actions and --frames out.")
    length = model.prior.config.num_frames
    with Dataset.open_cropped(config.data, model.spec.pixels) as data:
        check_source(model, data, length)
        batches = list(recorded_clips(data, length, config.num, config.split, config.seed))
    real = [clip for batch in batches for clip in batch.frames.numpy()]
    sampled = [clip for batch in generated_clips(model, batches, config.seed, sampling) for clip in batch.numpy()]
    pairs = list(enumerate(zip(real, sampled, strict=True)))
    titled = [
        (f"{title} {i + 1}", clip) for i, pair in pairs for title, clip in zip(("real", "clip"), pair, strict=True)
    ]
    return titled, None


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
