"""The verb `eval clips`: compare generated clips with recorded ones."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from itertools import tee
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from worldmodel.cli.eval_world import SamplingFlags
from worldmodel.common.errors import UserError

if TYPE_CHECKING:
    from worldmodel.world.clip_model import ClipModel
    from worldmodel.world.world_model import WorldModel

DEFAULT_LENGTH = 16  # frames


@dataclass(frozen=True)
class EvalClips:
    """Compare clips that a model generates, or that another dataset holds, with recorded clips.

    A clip model gets the classes and actions of the recorded clips, if it is conditioned on them. A world dreams on
    from the first frame of each clip with its actions, so that its clips are also compared with the recorded ones pair
    by pair. Metrics are rows of `worldmodel.metrics.CLIP_METRICS`.

    Example:
        worldmodel eval clips cover.h5 runs/clips --out runs/clips-evaluation.json
    """

    file: tyro.conf.Positional[Path]
    """The dataset of the recorded clips."""
    generated: tyro.conf.Positional[Path]
    """A clip model, a world, or another dataset."""
    reconstruct: bool = False
    """Compare the recorded clips with their reconstructions by the tokenizer of the model instead."""
    split: str = "test"
    """Recorded clips are of this split: test, validation or train; so are those of another dataset."""
    num: int = 256
    """Clips of each side."""
    length: int | None = None
    """Frames of a clip; if not given, those of the clip model, else 16."""
    seed: int = 0
    """Of the choice of clips, and of the samples."""
    metrics: str = ""
    """Names separated by commas; all that apply if not given."""
    sampling: SamplingFlags = field(default_factory=SamplingFlags)
    """How codes are sampled."""
    batch_size: int = 16
    """Clips generated at once."""
    out: Path | None = None
    """Write JSON here."""
    force: bool = False
    """Replace an existing --out."""
    json: bool = False
    """Print JSON."""
    device: str = "auto"
    """auto, cpu or cuda."""


def eval_clips(config: EvalClips) -> None:
    """Evaluate, and print the table."""
    from worldmodel.cli.outputs import refuse_existing
    from worldmodel.common.files import atomic_path
    from worldmodel.common.run_info import machine, run_info
    from worldmodel.metrics.evaluation import section_lines
    from worldmodel.metrics.metric_registry import select_clip_metrics

    if config.out is not None:
        refuse_existing(config.out, config.force)
    if min(config.num, config.batch_size) < 1 or config.seed < 0:
        raise UserError(
            f"--num {config.num} --batch-size {config.batch_size} --seed {config.seed}: wanted at least 1, 1 and 0."
        )
    names = tuple(name for name in config.metrics.split(",") if name)
    select_clip_metrics(names)
    result = _evaluate(config, names)
    if config.out is not None:
        origin = {"machine": machine(), **run_info("eval clips", config)}
        with atomic_path(config.out) as temporary:
            temporary.write_text(json.dumps({**result, **origin}, indent=1) + "\n")
    counts = result["clips"]
    head = f"{counts['real']} real and {counts['generated']} generated clips of {result['length']} frames"
    print(json.dumps(result) if config.json else "\n".join([head, *section_lines(result["sections"])]))


def _evaluate(config: EvalClips, metrics: tuple[str, ...]) -> dict[str, Any]:
    """The result of `evaluate_clips`, and what was compared."""
    from worldmodel.data import Dataset
    from worldmodel.metrics.clip_evaluation import evaluate_clips
    from worldmodel.metrics.clip_sources import check_source, generated_clips, reconstructed_clips, recorded_clips
    from worldmodel.prior.sampling import Sampling
    from worldmodel.world.clip_model import ClipModel
    from worldmodel.world.world_model import WorldModel

    facts = {"split": config.split, "seed": config.seed, "reconstruct": config.reconstruct}
    if config.generated.is_file():
        if config.reconstruct:
            raise UserError(f"--reconstruct: {config.generated} is a dataset, which has no tokenizer; give a model.")
        length = config.length or DEFAULT_LENGTH
        choice = (length, config.num, config.split, config.seed, config.batch_size)
        with Dataset(config.file) as data, Dataset(config.generated) as other:
            real, fake = [(batch.frames for batch in recorded_clips(x, *choice)) for x in (data, other)]
            return {"length": length, **facts, **evaluate_clips(real, fake, metrics)}
    model = _load_model(config.generated, config.device)
    length = config.length or (model.prior.config.num_frames if isinstance(model, ClipModel) else DEFAULT_LENGTH)
    with Dataset.open_cropped(config.file, model.spec.pixels) as data:
        check_source(model, data, length)
        batches = tee(recorded_clips(data, length, config.num, config.split, config.seed, config.batch_size))
        if config.reconstruct:
            generated = reconstructed_clips(model, batches[1])
        else:
            sampling = Sampling(**vars(config.sampling), exact=False)
            generated = generated_clips(model, batches[1], config.seed, sampling)
        paired = config.reconstruct or isinstance(model, WorldModel)
        real = (batch.frames for batch in batches[0])
        return {"length": length, **facts, **evaluate_clips(real, generated, metrics, paired)}


def _load_model(directory: Path, device: str) -> ClipModel | WorldModel:
    """The clip model or world of a directory."""
    from worldmodel.common.runtime import choose_runtime
    from worldmodel.world.clip_directory import CLIP_MODEL
    from worldmodel.world.clip_model import ClipModel
    from worldmodel.world.world_model import WorldModel

    kind = ClipModel if CLIP_MODEL.is_stored_at(directory) else WorldModel
    return kind.from_pretrained(directory, choose_runtime(device).device)
