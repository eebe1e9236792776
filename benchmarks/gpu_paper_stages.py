"""The stages of gpu_paper.py: each works in the run's folder and returns its figures, JSON.

Shapes: N clips, L frames of a clip, S x S pixels, F features.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from itertools import tee
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpu_run import StagedRun, TrainingProgress
from gpu_speed import peak_memory_gb
from torch import Tensor

from worldmodel.metrics.clip_protocols import ClipNetworks, ClipSettings
from worldmodel.metrics.detectors import Detector
from worldmodel.prior.clip.clip_config import ClipConfig
from worldmodel.tokenizer import PAPER_BAIR, PAPER_MOVING_MNIST
from worldmodel.train.clip_presets import CLIP_PRESETS, TINY_CLIP
from worldmodel.train.clip_training_config import ClipTraining
from worldmodel.train.training_config import LoopConfig

PICTURE_CLIPS, PICTURE_LIMIT = 4, 2**20  # clips of samples.png, and its bytes
DIGIT = 28  # pixels of a side


def paper_loop(learning_rate: float, batch_size: int = 32) -> LoopConfig:
    """A loop of the paper's batches; its budget is set by the sizes."""
    return LoopConfig(
        batch_size=batch_size,
        clip_length=16,
        learning_rate=learning_rate,
        warmup_steps=100,
        log_every=20,
        validations=1,
    )


# The columns "Moving MNIST" of tables 8 and 9; the preset of that name is used where the package has one.
MOVING_MNIST = CLIP_PRESETS.get("moving-mnist") or ClipTraining(
    tokenizer=PAPER_MOVING_MNIST,
    prior=ClipConfig(
        num_given_frames=1, positions="paper", width=192, num_heads=4, num_layers=8, feedforward=2, dropout=0.1
    ),
    train_tokenizer=paper_loop(7e-4),
    train_prior=paper_loop(3e-4),
)
# The columns "BAIR" without conditions, which the ablation tables change. Batches of the prior are smaller than the
# paper's, so that 16 layers over 8 x 32 x 32 codes fit into memory.
ABLATED = ClipTraining(
    tokenizer=PAPER_BAIR,
    prior=ClipConfig(positions="paper", width=512, num_heads=4, num_layers=8, dropout=0.2),
    train_tokenizer=paper_loop(7e-4),
    train_prior=replace(paper_loop(3e-4, batch_size=8), validations=0),  # its image takes 8,192 passes
)


@dataclass(frozen=True)
class PaperSizes:
    """What differs between the run and its rehearsal.

    Attributes:
        training: the model of Moving MNIST.
        ablated: what the rows of the tables have in common.
        sequences: generated sequences, a tenth of them in the test split.
        size: S.
        training_minutes: budget of the tokenizer, and of the prior.
        table_minutes: budget of all rows of a table for one seed.
        seeds: of the tables.
        strides: rows of table 5.
        num_clips: N of FVD, reconstructions and the best of several samples.
        trials: of FVD, each with other clips and samples.
        samples: of each clip, of which the best counts.
        best_parts: stages that the clips of "best" are divided into.
        pair_metrics: metrics of pairs.
        random_features: random projections in place of I3D, for the rehearsal.
        training_seconds, scoring_seconds, best_seconds, table_seconds: a stage waits for the next call if this call has
            less time left.
    """

    training: ClipTraining = MOVING_MNIST
    ablated: ClipTraining = ABLATED
    sequences: int = 10_000
    size: int = 64
    training_minutes: float = 8.0
    table_minutes: float = 8.0
    seeds: tuple[int, ...] = (0, 1, 2)
    strides: tuple[str, ...] = field(default=("1x4", "2x2", "2x4", "2x8", "4x2", "4x4", "4x8", "8x2", "8x4", "16x2"))
    num_clips: int = 256
    trials: int = 4
    samples: int = 100
    best_parts: int = 4
    pair_metrics: tuple[str, ...] = ("psnr", "ssim", "lpips")
    random_features: bool = False
    training_seconds: float = 540.0
    scoring_seconds: float = 180.0
    best_seconds: float = 480.0
    table_seconds: float = 540.0


_TINY_LOOP = {"num_steps": 0, "batch_size": 4, "validations": 0, "log_every": 5}
_TINY_TRAINING = replace(
    TINY_CLIP,
    prior=replace(TINY_CLIP.prior, class_label=False, num_given_frames=1),
    train_tokenizer=replace(TINY_CLIP.train_tokenizer, **_TINY_LOOP),
    train_prior=replace(TINY_CLIP.train_prior, **_TINY_LOOP),
)
TINY = PaperSizes(
    training=_TINY_TRAINING,
    ablated=replace(_TINY_TRAINING, prior=replace(_TINY_TRAINING.prior, num_given_frames=0)),
    sequences=120,
    size=16,
    training_minutes=0.02,
    table_minutes=0.02,
    seeds=(0, 1),
    strides=("1x8", "2x8"),
    num_clips=6,
    trials=2,
    samples=3,
    best_parts=2,
    pair_metrics=("psnr", "ssim"),
    random_features=True,
    training_seconds=1.0,
    scoring_seconds=1.0,
    best_seconds=1.0,
    table_seconds=1.0,
)


class RandomFeatures(Detector):
    """A random projection of coarse pixels, which takes no time and no weights."""

    name, identity, min_frames, resizing, device = "random projection", "random projection", 2, "crop", "cpu"

    def features(self, clips: Tensor) -> np.ndarray:
        """As `Detector.features`."""
        coarse = torch.nn.functional.adaptive_avg_pool3d(clips.movedim(-1, 1).double() / 255, (2, 4, 4)).flatten(1)
        projection = torch.randn(coarse.shape[1], 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        return (coarse @ projection).numpy()


class RandomNetworks(ClipNetworks):
    """Networks of the rehearsal."""

    def load_detector(self, path: Path | None) -> Detector:
        """As `ClipNetworks.load_detector`."""
        return RandomFeatures()


@dataclass
class PaperStages:
    """The stages of one run.

    Attributes:
        run: the run.
        sizes: of the run or its rehearsal.
        device: "auto", "cpu" or "cuda".
        digits: the digits that move: the word mnist-5k or a file.
    """

    run: StagedRun
    sizes: PaperSizes
    device: str
    digits: str

    def __post_init__(self) -> None:
        from worldmodel.common.runtime import choose_runtime

        self.work = self.run.work
        self.runtime = choose_runtime(self.device)
        self.data_path, self.model_path = self.work / "moving-mnist.h5", self.work / "model"

    def dataset(self) -> Any:
        """The sequences."""
        from worldmodel.data import Dataset

        return Dataset(self.data_path)

    def model(self) -> Any:
        """The trained clip model, on the device."""
        from worldmodel.world.clip_model import ClipModel

        return ClipModel.from_pretrained(self.model_path, self.runtime.device)

    def networks(self, context_frames: int = 0) -> ClipNetworks:
        """Networks of the protocol `videogpt`; features are kept in the working folder."""
        settings = ClipSettings(
            context_frames=context_frames, device=self.runtime.device.type, cache=self.work / "features"
        )
        return RandomNetworks(settings) if self.sizes.random_features else ClipNetworks(settings)

    # -- data and training ---------------------------------------------------------------------------------

    def data(self) -> dict[str, Any]:
        """Sequences of two moving digits, one clip each."""
        from worldmodel.data.importers import ImportOptions, convert

        sizes, length = self.sizes, self.sizes.training.prior.num_frames
        options = ImportOptions(size=(sizes.size, sizes.size), num_frames=length, num_sequences=sizes.sequences)
        source = self.tiny_digits() if sizes.random_features else self.digits
        convert("moving-mnist", source, self.data_path, options)
        with self.dataset() as data:
            return {"splits": data.split_counts, "frames": length, "bytes": self.data_path.stat().st_size}

    def tiny_digits(self) -> Path:
        """A file of digits that are discs of random sizes, for the rehearsal, which has no assets."""
        path, rng = self.work / "digits.csv", np.random.default_rng(0)
        axis = np.arange(DIGIT) - DIGIT / 2
        discs = [(np.hypot(*np.meshgrid(axis, axis)) < rng.uniform(4, 12)) * 255 for _ in range(60)]
        np.savetxt(path, np.stack(discs).reshape(60, -1), fmt="%d", delimiter=",")
        return path

    def tokenizer(self) -> dict[str, Any]:
        """The tokenizer of clips (table 8)."""
        from worldmodel.train import train_tokenizer

        config, progress = self.sizes.training, TrainingProgress(self.run)
        loop = replace(config.train_tokenizer, minutes=self.sizes.training_minutes, num_steps=0)
        with self.dataset() as data:
            checkpoint = train_tokenizer(
                data,
                self.work / "tokenizer",
                replace(config, train_tokenizer=loop),
                device=self.device,
                progress=progress,
            )
        return {"report": checkpoint.report, "config": asdict(config.tokenizer)} | self.figures(
            progress, loop, checkpoint.tokenizer
        )

    def prior(self) -> dict[str, Any]:
        """The prior that is given the first frame (table 9), and so the clip model."""
        from worldmodel.train.clip_trainer import train_clip

        config, progress = self.sizes.training, TrainingProgress(self.run)
        loop = replace(config.train_prior, minutes=self.sizes.training_minutes, num_steps=0)
        with self.dataset() as data:
            model = train_clip(
                data,
                self.model_path,
                replace(config, train_prior=loop),
                tokenizer=self.work / "tokenizer",
                device=self.device,
                progress=progress,
            )
        return {"report": model.report, "config": asdict(config.prior)} | self.figures(progress, loop, model.prior)

    def figures(self, progress: TrainingProgress, loop: LoopConfig, model: Any) -> dict[str, Any]:
        """Size, speed and memory of a training."""
        return {
            "parameters": sum(p.numel() for p in model.parameters()),
            "batch": loop.batch_size,
            "learning_rate": loop.learning_rate,
            "minutes": loop.minutes,
            "steps": progress.num_steps,
            "steps_per_second": progress.rate,
            "last_step": progress.metrics,
            "gpu_memory_gb": peak_memory_gb(self.runtime.device),
        }

    # -- scores --------------------------------------------------------------------------------------------

    def comparison(self, data: Any, seed: int, **options: Any) -> Any:
        """Recorded test clips and what the model makes of them."""
        from worldmodel.metrics.clip_comparison import Choice, ModelComparison

        num = self.sizes.num_clips
        choice = Choice(self.sizes.training.prior.num_frames, num, "test", seed, batch_size=min(64, num))
        return ModelComparison(data, self.model(), choice, **options)

    def reconstruction(self) -> dict[str, Any]:
        """R-FVD and the error of reconstructions."""
        from worldmodel.metrics.clip_comparison import compare_clips

        with self.dataset() as data:
            comparison = self.comparison(data, 0, reconstruct=True)
            return compare_clips(comparison, ["fvd", "nmse", *self.sizes.pair_metrics], self.networks())

    def fvd_trial(self, number: int) -> dict[str, Any]:
        """One trial of FVD and KVD: other clips and other samples; the first one with the floor of real clips."""
        from worldmodel.metrics.clip_comparison import compare_clips

        with self.dataset() as data:
            comparison = self.comparison(data, number * self.sizes.num_clips)  # samples are numbered from the seed on
            return compare_clips(comparison, ["fvd", "kvd"], self.networks(), floor=number == 0)

    def fvd(self, trials: Sequence[str]) -> dict[str, Any]:
        """Mean and deviation of the trials."""
        from worldmodel.metrics.clip_comparison import FLOOR, combine_trials

        results = [deepcopy(self.run.result["stages"][name]["figures"]) for name in trials]
        sections = [result["sections"]["distributions of clips"] for result in results]
        floor = sections[0]["fvd"]["values"][0]["baselines"][FLOOR]
        for value in (value for section in sections for metric in section.values() for value in metric["values"]):
            value["baselines"].pop(FLOOR, None)  # the first trial alone has it
        return {"floor": floor, **combine_trials(results)}

    def best_part(self, number: int) -> dict[str, Any]:
        """The best of several samples of some of the test clips, without the given frame, by each metric."""
        from worldmodel.metrics import evaluate_clips
        from worldmodel.metrics.clip_sources import generated_clips, recorded_clips

        sizes, model = self.sizes, self.model()
        count, length = sizes.num_clips // sizes.best_parts, sizes.training.prior.num_frames
        with self.dataset() as data:
            batches = recorded_clips(data, length, count, "test", batch_size=count, skip=number * count)
            real, conditions = tee(batches)
            seed = number * count * sizes.samples
            generated = generated_clips(model, conditions, seed, samples=sizes.samples)
            networks = self.networks(context_frames=1)
            return evaluate_clips((x.frames for x in real), generated, sizes.pair_metrics, True, networks=networks)

    def best(self, parts: Sequence[str]) -> dict[str, Any]:
        """The means over all clips: the parts have as many clips each."""
        sections = [self.run.result["stages"][name]["figures"]["sections"]["pairs of clips"] for name in parts]
        means = {
            name: {
                "best": float(np.mean([section[name]["values"][0]["value"]["mean"] for section in sections])),
                "first sample": float(
                    np.mean([section[name]["values"][0]["baselines"]["first sample"]["mean"] for section in sections])
                ),
            }
            for name in sections[0]
        }
        return {"samples": self.sizes.samples, "clips": self.sizes.num_clips, "context_frames": 1, **means}

    def pictures(self) -> dict[str, Any]:
        """Write samples.png: test clips, and below each a sample that is given its first frame."""
        from worldmodel.cli.videos import frame_strips
        from worldmodel.common.files import write_bytes_atomic
        from worldmodel.metrics.clip_sources import generated_clips, recorded_clips

        length, rows = self.sizes.training.prior.num_frames, []
        with self.dataset() as data:
            (batch,) = recorded_clips(data, length, PICTURE_CLIPS, "test")
            (sampled,) = generated_clips(self.model(), [batch], 0)
        for i, (real, sample) in enumerate(zip(batch.frames.numpy(), sampled.numpy(), strict=True), 1):
            rows += [(f"real {i}", real[::2]), (f"sample {i}", sample[::2])]
        pictures = (frame_strips(rows, scale) for scale in (2, 1))
        picture = next(png for png in pictures if len(png) <= PICTURE_LIMIT)
        write_bytes_atomic(self.run.out / "samples.png", picture)
        return {"rows": [label for label, _ in rows], "bytes": len(picture)}

    # -- ablations -----------------------------------------------------------------------------------------

    def table(self, table: str, seed: int) -> dict[str, Any]:
        """The rows of an ablation table for all seeds up to this one; earlier seeds are done already."""
        from worldmodel.cli.ablate_command import Ablate, ablate
        from worldmodel.train.ablation_tables import table_rows

        sizes = self.sizes
        with self.dataset() as data:
            rows = table_rows(table, sizes.ablated, data.header.pixels.frame_shape, sizes.strides)
        runs = len(rows) + (table == "table4" and seed == sizes.seeds[0])  # the shared tokenizer is one more
        config = Ablate(
            table,  # type: ignore[arg-type]  # one of the tables
            (self.data_path,),
            self.work / table,
            budget=self.run.once(f"{table}-minutes", lambda: sizes.table_minutes / runs),
            seeds=sizes.seeds[: sizes.seeds.index(seed) + 1],
            training=sizes.ablated,
            strides=sizes.strides,
            clips=sizes.num_clips,
            device=self.device,
        )
        result = ablate(config)
        shutil.copyfile(config.out / "table.png", self.run.out / f"{table}.png")
        return result
