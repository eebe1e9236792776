"""The verb `eval video`: compare generated clips with real ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import tyro

from worldmodel.cli.eval_world import SamplingFlags
from worldmodel.common.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from worldmodel.metrics.clip_comparison import Comparison
    from worldmodel.metrics.clip_protocols import ClipSettings
    from worldmodel.world.clip_model import ClipModel
    from worldmodel.world.world_model import WorldModel


@dataclass(frozen=True)
class EvalVideo:
    """Compare two sets of clips: real ones, and those of a file or of a model.

    A set is a .npy file (N, T, H, W, C) uint8, a folder of videos, or a dataset. The second one may also be a model,
    if the first is a dataset: a clip model gets the classes, actions and first frames that it is conditioned on; a
    world dreams on from the first frame of each clip with its actions. Metrics are rows of
    `worldmodel.metrics.CLIP_METRICS`; those that need a network are evaluated by name only.

    Example:
        worldmodel eval video cover.h5 runs/clips --metrics fvd,kvd --out runs/clips-evaluation.json
    """

    RENAMED_FIELDS: ClassVar[dict[str, str]] = {"file": "real", "generated": "fake"}

    real: tyro.conf.Positional[Path]
    """Real clips: a .npy file, a folder of videos, or a dataset."""
    fake: tyro.conf.Positional[Path]
    """The clips to evaluate: one of these, a clip model, or a world."""
    metrics: str = ""
    """Names separated by commas, or all; if not given, those that need no network."""
    protocol: str = "videogpt"
    """videogpt, styleganv or unterthiner: numbers of clips and frames, resizing, divisor of covariances."""
    num: int | None = None
    """Clips of each side; if not given, that of the protocol."""
    length: int | None = None
    """Frames of a clip; if not given, those of the clip model, else that of the protocol."""
    reconstruct: bool = False
    """Evaluate the reconstructions of the real clips by the model's tokenizer instead (R-FVD)."""
    reconstruct_real: bool = False
    """Compare with reconstructions of the real clips (FVD*)."""
    best_of: int = 1
    """Samples of the model for each real clip; metrics of pairs count the best, the others the first."""
    context_frames: int = 0
    """First frames of every clip that metrics of pairs leave out, because the model was given them."""
    trials: int = 1
    """Repetitions with other clips and samples; the mean and the deviation are reported."""
    floor: bool = False
    """Compare real clips with as many other real clips too."""
    likelihood: bool = False
    """Report nats and bits of the real clips under a clip model too, and the use of its codes."""
    detector: Path | None = None
    """A TorchScript file whose features are used instead of I3D's."""
    classifier: Path | None = None
    """A TorchScript file with the class logits of the Inception Score, instead of I3D's."""
    size: tuple[int, int] | None = None
    """Rows and columns of the frames of videos, by area averaging; if not given, they are not resized."""
    split: str = "test"
    """Of datasets: test, validation or train."""
    seed: int = 0
    """Of the choice of clips, and of the samples."""
    sampling: SamplingFlags = field(default_factory=SamplingFlags)
    """How codes are sampled."""
    batch_size: int = 16
    """Clips generated at once."""
    cache: bool = True
    """Keep features of networks in the cache folder; the same command then continues where it was stopped."""
    out: Path | None = None
    """Write JSON here."""
    force: bool = False
    """Replace an existing --out."""
    json: bool = False
    """Print JSON."""
    device: str = "auto"
    """auto, cpu or cuda."""


def eval_video(config: EvalVideo) -> None:
    """Evaluate, and print the table."""
    from worldmodel.cli.outputs import refuse_existing
    from worldmodel.common.files import atomic_path
    from worldmodel.common.run_info import machine, run_info
    from worldmodel.metrics.evaluation import section_lines
    from worldmodel.metrics.metric_registry import select_clip_metrics

    if config.out is not None:
        refuse_existing(config.out, config.force)
    numbers = [config.batch_size, config.best_of, config.trials, *(x for x in (config.num,) if x is not None)]
    if min(numbers) < 1 or config.seed < 0:
        raise UserError(
            f"--num {config.num} --batch-size {config.batch_size} --best-of {config.best_of} --trials {config.trials} "
            f"--seed {config.seed}: wanted at least 1, 1, 1, 1 and 0."
        )
    if config.length is not None and config.length < 2:
        raise UserError(f"--length {config.length}: wanted at least 2 frames.")
    names = tuple(name for name in config.metrics.split(",") if name)
    select_clip_metrics(names)
    result = _evaluate(config, names)
    if config.out is not None:
        origin = {"machine": machine(), **run_info("eval video", config)}
        with atomic_path(config.out) as temporary:
            temporary.write_text(json.dumps({**result, **origin}, indent=1) + "\n")
    counts = result["clips"]
    head = f"{counts['real']} real and {counts['generated']} generated clips of {result['length']} frames"
    warnings = [f"warning: {sentence}" for sentence in result["warnings"]]
    print(json.dumps(result) if config.json else "\n".join([head, *warnings, *section_lines(result["sections"])]))


def _evaluate(config: EvalVideo, metrics: tuple[str, ...]) -> dict[str, Any]:
    """The result of `compare_clips`, and what was compared."""
    from worldmodel.common.assets import cache_folder
    from worldmodel.common.runtime import choose_runtime
    from worldmodel.metrics.clip_comparison import compare_clips
    from worldmodel.metrics.clip_protocols import ClipNetworks, ClipSettings

    settings = ClipSettings(
        protocol=config.protocol,
        detector=config.detector,
        classifier=config.classifier,
        context_frames=config.context_frames,
        device=str(choose_runtime(config.device).device),
        cache=cache_folder().parent / "features" if config.cache else None,
    )
    with ExitStack() as stack:
        comparison = _open(config, settings, stack)
        networks = ClipNetworks(settings)
        extra = _likelihood(comparison, config)
        result = compare_clips(
            comparison, metrics, networks, config.trials, config.floor, _Watch(comparison.choice.num)
        )
    result["sections"] |= extra
    facts = {"split": config.split, "seed": config.seed, "reconstruct": config.reconstruct}
    facts |= {"reconstruct_real": config.reconstruct_real, "best_of": config.best_of}
    protocol = {"name": config.protocol, **asdict(settings.rules)}
    return {"length": comparison.choice.length, **facts, "protocol": protocol, **result}


def _open(config: EvalVideo, settings: ClipSettings, stack: ExitStack) -> Comparison:
    """Both sets of clips; the stack closes them."""
    from worldmodel.data import Dataset
    from worldmodel.metrics.clip_comparison import Choice, FileComparison, ModelComparison
    from worldmodel.metrics.clip_files import open_clips
    from worldmodel.prior.sampling import Sampling
    from worldmodel.world.clip_model import ClipModel

    num, length = config.num or settings.rules.num_clips, config.length or settings.rules.num_frames
    if not _is_model(config.fake):
        for flag, value in (("reconstruct", config.reconstruct), ("reconstruct-real", config.reconstruct_real)):
            if value:
                kind = "a dataset" if config.fake.is_file() else "a folder of videos"
                raise UserError(f"--{flag}: {config.fake} is {kind}, which has no tokenizer; give a model.")
        if config.best_of > 1:
            raise UserError(
                f"--best-of {config.best_of}: {config.fake} is no model; give a .npy (N, samples, T, H, W, C)."
            )
        sources = [
            stack.enter_context(closing(open_clips(path, config.split, config.size)))
            for path in (config.real, config.fake)
        ]
        return FileComparison(sources[0], sources[1], Choice(length, num, config.split, config.seed))
    model = _load_model(config.fake, settings.device)
    if config.real.suffix == ".npy" or config.real.is_dir():
        raise UserError(
            f"{config.real} has no actions and classes, which a model may be conditioned on; make a dataset of it with "
            "'worldmodel data convert'."
        )
    if config.length is None and isinstance(model, ClipModel):
        length = model.prior.config.num_frames
    data = stack.enter_context(Dataset.open_cropped(config.real, model.spec.pixels))
    choice = Choice(length, num, config.split, config.seed, config.batch_size)
    sampling = Sampling(**vars(config.sampling), exact=False)
    return ModelComparison(data, model, choice, sampling, config.reconstruct, config.reconstruct_real, config.best_of)


def _likelihood(comparison: Comparison, config: EvalVideo) -> dict[str, Any]:
    """The section of the likelihood, if it is requested."""
    from worldmodel.metrics.clip_comparison import ModelComparison
    from worldmodel.metrics.clip_likelihood import SECTION

    if not config.likelihood:
        return {}
    if not isinstance(comparison, ModelComparison):
        raise UserError(f"--likelihood: {config.fake} is no clip model, which has one; leave it out.")
    return {SECTION: comparison.likelihood()}


def _is_model(path: Path) -> bool:
    """Whether a path is of a world or clip model, or names neither a file nor a folder, as shipped worlds do."""
    from worldmodel.world.clip_directory import CLIP_MODEL
    from worldmodel.world.world_storage import WORLD

    if path.is_dir():
        return CLIP_MODEL.is_stored_at(path) or WORLD.is_stored_at(path)
    return not path.is_file() and path.suffix != ".npy"


def _load_model(directory: Path, device: str) -> ClipModel | WorldModel:
    """The clip model or world of a directory."""
    from worldmodel.world.clip_directory import CLIP_MODEL
    from worldmodel.world.clip_model import ClipModel
    from worldmodel.world.world_model import WorldModel

    kind = ClipModel if CLIP_MODEL.is_stored_at(directory) else WorldModel
    return kind.from_pretrained(directory, device)


@dataclass
class _Watch:
    """Progress bars of the batches of each side.

    Attributes:
        num: clips of a side, at most.
    """

    num: int

    def __call__(self, name: str, clips: Iterator[Tensor]) -> Iterator[Tensor]:
        """The same batches; the bar of the generated clips advances when they have been scored."""
        from tqdm import tqdm

        if name == "real":
            yield from clips
            return
        with tqdm(desc=name, total=self.num, unit="clip", leave=False) as bar:
            for batch in clips:
                yield batch
                bar.update(len(batch))
