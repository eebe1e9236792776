"""The stages of the GPU run of the clip model: each works in the run's folder and returns its figures, JSON.

Shapes: N clips, L frames of a clip, T time steps of codes, h w code grid, K = h*w, S x S pixels.
"""

from __future__ import annotations

import gc
import shutil
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from gpu_moving_squares import CLASS_NAMES, motion_classes, write_clips
from gpu_run import StagedRun, TrainingProgress
from gpu_speed import peak_memory_gb, synchronizer
from torch import Tensor

from worldmodel.prior.clip.clip_config import ClipConfig
from worldmodel.tokenizer import PAPER_BAIR, TokenizerConfig
from worldmodel.train.clip_presets import TINY_CLIP
from worldmodel.train.clip_training_config import ClipTraining
from worldmodel.train.training_config import LoopConfig

SHARES = {"tokenizer": 0.2, "prior": 0.33}  # of the budget; evaluation and sampling have the rest
AFTER_SAMPLING = 0.08  # share of the budget kept for the stages after sampling
SCORED_AT_ONCE = 8  # clips
METRICS = ("frechet_pixels", "frechet_motion")
PICTURE_FRAMES = 8  # frames of each clip in samples.png
PICTURE_LIMIT = 2**20  # bytes

# The paper's tokenizer and prior for BAIR, but for what a few hundred steps need: a higher learning rate, smaller
# batches, no dropout, and the code of the previous time step as an input.
PAPER_CLIP = ClipTraining(
    tokenizer=PAPER_BAIR,
    prior=ClipConfig(class_label=True, previous_frame=True, width=512, num_heads=4, num_layers=16),
    train_tokenizer=LoopConfig(
        batch_size=32, clip_length=16, learning_rate=7e-4, warmup_steps=50, log_every=10, validations=1
    ),
    train_prior=LoopConfig(
        batch_size=16, clip_length=16, learning_rate=6e-4, warmup_steps=50, log_every=10, validations=0
    ),
)


@dataclass(frozen=True)
class Sizes:
    """What differs between the run and its rehearsal.

    Attributes:
        training: sizes of the models, and their training loops; budgets are set from the command line.
        prior_batches: batch sizes of the prior's training; the first that fits into memory is used.
        scale: seconds of a "minute" of the command line.
        episodes: number of clips in the dataset.
        size: S.
        batches: numbers of clips that are sampled together, each in float32 and bfloat16 as listed.
        real_clips: held-out clips at most, for the metrics.
        border: tokenizer of the stage "border", and its encoded part.
        border_size: height and width of its frames.
        border_frames: numbers of frames decoded at once.
        border_batch: frames of its training step.
        timed: duration of each measurement of that stage, seconds.
    """

    training: ClipTraining = PAPER_CLIP
    prior_batches: tuple[int, ...] = (16, 8, 4)
    scale: float = 60.0
    episodes: int = 3000
    size: int = 64
    batches: tuple[tuple[int, str], ...] = ((1, "float32"), (1, "bfloat16"), (16, "bfloat16"), (64, "bfloat16"))
    real_clips: int = 300
    border: tuple[TokenizerConfig, tuple[int, int, int, int]] = (
        TokenizerConfig(width=64, code_width=192, num_codes=1024),
        (20, 52, 0, 64),
    )
    border_size: int = 64
    border_frames: tuple[int, ...] = (1, 64, 1024)
    border_batch: int = 512
    timed: float = 1.0


TINY = Sizes(
    training=replace(
        TINY_CLIP,
        train_tokenizer=replace(TINY_CLIP.train_tokenizer, num_steps=0, batch_size=4, log_every=5),
        train_prior=replace(TINY_CLIP.train_prior, num_steps=0, log_every=5, validations=0),
    ),
    prior_batches=(4,),
    scale=0.5,
    episodes=80,
    size=16,
    batches=((1, "float32"), (4, "bfloat16")),
    border=(TokenizerConfig(width=8, code_width=16, num_codes=16, code_dim=4), (4, 12, 0, 16)),
    border_size=16,
    border_frames=(1, 8),
    border_batch=8,
    timed=0.02,
)


@dataclass
class ClipStages:
    """The stages of one run.

    Attributes:
        run: the run.
        sizes: of the run or its rehearsal.
        seconds: budget of the whole command.
        device: "auto", "cpu" or "cuda".
    """

    run: StagedRun
    sizes: Sizes
    seconds: float
    device: str

    def __post_init__(self) -> None:
        from worldmodel.common.runtime import choose_runtime

        self.work = self.run.work
        self.runtime = choose_runtime(self.device)
        self.data_path, self.model_path = self.work / "clips.h5", self.work / "model"
        self.samples_path = self.work / "samples.npz"

    def dataset(self) -> Any:
        """The clips."""
        from worldmodel.data import Dataset

        return Dataset(self.data_path)

    def model(self) -> Any:
        """The trained clip model, on the device."""
        from worldmodel.world.clip_model import ClipModel

        return ClipModel.from_pretrained(self.model_path, self.runtime.device)

    def autocast(self, dtype: str) -> AbstractContextManager[None]:
        """Autocast to a number format."""
        return replace(self.runtime, dtype=getattr(torch, dtype)).autocast()

    # -- data and training ---------------------------------------------------------------------------------

    def data(self) -> dict[str, Any]:
        """Clips of moving squares as a dataset with class labels."""
        sizes, length = self.sizes, self.sizes.training.prior.num_frames
        with write_clips(self.data_path, sizes.episodes, sizes.size, length) as data:
            counts = np.bincount(data.labels, minlength=len(CLASS_NAMES))
            held_out = torch.from_numpy(np.stack([data.frames(int(n)) for n in data.episodes_of("test")]))
            labels = torch.from_numpy(data.labels[data.episodes_of("test")])
        return {
            "episodes": sizes.episodes,
            "frames": length,
            "size": sizes.size,
            "bytes": self.data_path.stat().st_size,
            "classes": dict(zip(CLASS_NAMES, counts.tolist(), strict=True)),
            "right_class": float((motion_classes(held_out) == labels).float().mean()),  # of the check itself
        }

    def training(self, stage: str) -> ClipTraining:
        """The training with this stage's share of the budget, which is the same after a kill."""
        minutes = self.run.once(f"{stage}_minutes", lambda: SHARES[stage] * self.seconds / 60)
        loop = replace(getattr(self.sizes.training, f"train_{stage}"), minutes=minutes)
        changes: dict[str, Any] = {f"train_{stage}": loop}
        return replace(self.sizes.training, **changes)

    def tokenizer(self) -> dict[str, Any]:
        """The tokenizer of clips."""
        from worldmodel.train import train_tokenizer

        progress, config = TrainingProgress(self.run), self.training("tokenizer")
        with self.dataset() as data:
            out = self.work / "tokenizer"
            checkpoint = train_tokenizer(data, out, config, device=self.device, progress=progress)
        figures = self.training_figures(progress, config.train_tokenizer.batch_size, checkpoint.tokenizer)
        return {"report": checkpoint.report, "config": asdict(config.tokenizer), **figures}

    def prior(self) -> dict[str, Any]:
        """The prior of the tokenizer's codes, and so the clip model."""
        for batch in self.sizes.prior_batches:
            too_large = f"prior_batch_{batch}_too_large"
            if too_large in self.run.plan:  # found before a kill
                continue
            try:
                return self.train_prior(batch)
            except torch.OutOfMemoryError:
                self.run.once(too_large, lambda: True)
                self.run.print(f"  batches of {batch} clips do not fit into memory")
            gc.collect()  # the training that failed
            torch.cuda.empty_cache()
        raise RuntimeError(f"none of the batch sizes {self.sizes.prior_batches} fits into memory")

    def train_prior(self, batch: int) -> dict[str, Any]:
        """Train the prior with a batch size."""
        from worldmodel.train.clip_trainer import train_clip

        progress, config = TrainingProgress(self.run), self.training("prior")
        config = replace(config, train_prior=replace(config.train_prior, batch_size=batch))
        with self.dataset() as data:
            model = train_clip(
                data,
                self.model_path,
                config,
                tokenizer=self.work / "tokenizer",
                device=self.device,
                progress=progress,
                force=batch != self.sizes.prior_batches[0],  # replace the training with a batch that was too large
            )
        figures = self.training_figures(progress, batch, model.prior)
        codes = model.prior.num_steps * model.tokenizer.grid[0] * model.tokenizer.grid[1]
        rate = figures["clips_per_second"]
        figures |= {"codes_per_clip": codes, "codes_per_second": None if rate is None else rate * codes}
        return {"report": model.report, "config": asdict(config.prior), **figures}

    def training_figures(self, progress: TrainingProgress, batch: int, model: Any) -> dict[str, Any]:
        """Last losses, speed and memory of a training."""
        return {
            "parameters": sum(p.numel() for p in model.parameters()),
            "dtype": str(self.runtime.dtype).removeprefix("torch."),
            "batch": batch,
            "steps": progress.num_steps,
            "last_step": progress.metrics,
            "steps_per_second": progress.rate,
            "clips_per_second": None if progress.rate is None else progress.rate * batch,
            "gpu_memory_gb": peak_memory_gb(self.runtime.device),
        }

    # -- sampling and scoring ------------------------------------------------------------------------------

    @torch.no_grad()
    def half_precision(self) -> dict[str, Any]:
        """Log-probabilities of held-out codes: bfloat16 compared with float32, code by code."""
        from worldmodel.prior.losses import code_nats

        model = self.model()
        with self.dataset() as data:
            batch = next(self.real_clips(data, SCORED_AT_ONCE)).torch(self.runtime.device)
        codes, conditioning = model.tokenizer.encode(batch.frames), model.conditioning_of(batch)
        nats = {}
        for dtype in ("float32", "bfloat16"):
            with self.autocast(dtype):
                nats[dtype] = code_nats(model.prior.logits(codes, conditioning), codes.flatten(2))  # (N, T, K)
        difference = (nats["bfloat16"] - nats["float32"]).abs()
        with self.autocast("bfloat16"):
            other_codes = model.tokenizer.encode(batch.frames)
        return {
            "clips": len(codes),
            "nats_per_code": {dtype: float(values.mean()) for dtype, values in nats.items()},
            "nats_difference_mean": float(difference.mean()),
            "nats_difference_max": float(difference.max()),
            "share_of_equal_codes": float((other_codes == codes).float().mean()),
        }

    def sample(self) -> dict[str, Any]:
        """Cached sampling at several batch sizes: speed, agreement with a full forward, motion of the samples.

        Batch sizes for which there is no time are left out.
        """
        model, rows = self.model(), []
        clips: list[np.ndarray] = []
        classes: list[np.ndarray] = []
        reserved, seconds, last_batch = AFTER_SAMPLING * self.seconds, 0.0, 1
        for batch, dtype in self.sizes.batches:
            row: dict[str, Any] = {"clips": batch, "dtype": dtype}
            expected = min(4.0, batch / last_batch) * seconds  # small batches take hardly longer than one clip
            if self.run.seconds_left - reserved < expected:
                row["left_out"] = f"it may need {expected:.0f} s"
            else:
                begin, class_index = time.monotonic(), torch.arange(batch, device=model.device) % len(CLASS_NAMES)
                try:
                    figures, frames = self.sample_batch(model, class_index, dtype, seed=len(clips))
                    row |= figures
                    clips.append(frames.cpu().numpy())
                    classes.append(class_index.cpu().numpy())
                except torch.OutOfMemoryError as error:
                    row["error"] = str(error).splitlines()[0]
                seconds, last_batch = time.monotonic() - begin, batch
            rows.append(row)
            self.run.print(f"  {row}")
        np.savez(self.samples_path, clips=np.concatenate(clips), classes=np.concatenate(classes))
        return {"rows": rows, **self.class_shares(np.concatenate(clips), np.concatenate(classes))}

    @torch.no_grad()
    def sample_batch(self, model: Any, class_index: Tensor, dtype: str, seed: int) -> tuple[dict[str, Any], Tensor]:
        """Sample clips of classes (N,); the figures, and the frames (N, L, S, S, 3) uint8."""
        from worldmodel.prior import Sampling
        from worldmodel.prior.clip.clip_conditioning import Conditioning

        wait, conditioning, (h, w) = synchronizer(model.device), Conditioning(class_index=class_index), model.prior.grid
        generator, shape = torch.Generator().manual_seed(seed), (len(class_index), model.prior.num_steps, h * w)
        uniforms = torch.rand(shape, generator=generator).to(model.device)  # (N, T, K)
        peak_memory_gb(model.device)  # counts from here
        begin = time.perf_counter()
        with self.autocast(dtype):
            codes, log_probs = model.prior.sample(conditioning, uniforms, Sampling())
        wait()
        seconds, begin = time.perf_counter() - begin, time.perf_counter()
        frames = model.tokenizer.decode(codes)
        wait()
        decode_seconds, memory = time.perf_counter() - begin, peak_memory_gb(model.device)
        nats, num_equal = [], 0
        for rows in torch.arange(len(codes), device=model.device).split(SCORED_AT_ONCE):  # in float32
            logits = model.prior.logits(codes[rows], conditioning.select(rows))  # (n, T, K, V)
            num_equal += int((Sampling().sample(logits, uniforms[rows]) == codes[rows].flatten(2)).sum())
            nats.append(logits.log_softmax(-1).gather(3, codes[rows].flatten(2)[..., None]).sum((1, 2, 3)))
        difference, count = (log_probs.float() - torch.cat(nats)).abs(), shape[1] * shape[2]
        return {
            "seconds": seconds,
            "clips_per_second": len(codes) / seconds,
            "ms_per_code": 1000 * seconds / count,  # of one clip; the clips of a batch are sampled together
            "codes_per_second": len(codes) * count / seconds,
            "decode_seconds": decode_seconds,
            "gpu_memory_gb": memory,
            "nats_per_code": -float(torch.cat(nats).mean()) / count,
            "log_prob_difference_max": float(difference.max()),  # cached - full forward in float32, nats per clip
            "log_prob_difference_per_code_max": float(difference.max()) / count,
            "share_of_equal_codes": num_equal / codes.numel(),  # that the full forward in float32 would sample too
        }, frames

    def class_shares(self, clips: np.ndarray, classes: np.ndarray) -> dict[str, Any]:
        """The share of clips that move in the direction of their class; by chance 0.25."""
        is_right = motion_classes(torch.from_numpy(clips)).numpy() == classes
        shares = {name: float(is_right[classes == i].mean()) for i, name in enumerate(CLASS_NAMES) if i in classes}
        return {"sampled_clips": len(clips), "right_class": float(is_right.mean()), "right_class_by_class": shares}

    def real_clips(self, data: Any, num: int) -> Iterator[Any]:
        """Batches of held-out clips in a random order."""
        from worldmodel.metrics.clip_sources import recorded_clips

        return recorded_clips(data, self.sizes.training.prior.num_frames, num, "test", batch_size=SCORED_AT_ONCE)

    def metrics(self) -> dict[str, Any]:
        """Frechet distances of samples and of reconstructions to held-out clips, as many as there are samples."""
        from worldmodel.metrics import evaluate_clips
        from worldmodel.metrics.clip_sources import reconstructed_clips

        samples = torch.from_numpy(np.load(self.samples_path)["clips"])
        num = min(len(samples), self.sizes.real_clips)
        with self.dataset() as data:
            real = [batch.frames for batch in self.real_clips(data, num)]
            reconstructed = reconstructed_clips(self.model(), self.real_clips(data, num))
            return {
                "samples": evaluate_clips(real, samples.split(SCORED_AT_ONCE), METRICS),
                "reconstructions": evaluate_clips(real, reconstructed, METRICS),
            }

    def pictures(self) -> dict[str, Any]:
        """Write samples.png: for each class a held-out clip and two samples of the largest batch."""
        from worldmodel.cli.videos import frame_strips
        from worldmodel.common.files import atomic_path

        stored = np.load(self.samples_path)
        clips, classes, rows = stored["clips"][::-1], stored["classes"][::-1], []
        with self.dataset() as data:
            test = data.episodes_of("test")
            every = max(1, clips.shape[1] // PICTURE_FRAMES)
            for i, name in enumerate(CLASS_NAMES):
                real = [(f"{name}: real", data.frames(int(n))) for n in test[data.labels[test] == i][:1]]
                rows += real + [(f"{name}: sample", clip) for clip in clips[classes == i][:2]]
        rows = [(label, clip[::every]) for label, clip in rows]
        picture = next(p for scale in (2, 1) if len(p := frame_strips(rows, scale)) <= PICTURE_LIMIT or scale == 1)
        with atomic_path(self.run.out / "samples.png") as temporary:
            temporary.write_bytes(picture)
        return {"rows": [label for label, _ in rows], "every": every, "bytes": len(picture)}

    def logs(self) -> dict[str, Any]:
        """Copy the logs of both trainings: one line of JSON for each logged step."""
        logs = {"tokenizer": self.work / "tokenizer", "prior": self.model_path}
        found = {name: folder / "training" / f"{name}.jsonl" for name, folder in logs.items()}
        found = {name: path for name, path in found.items() if path.exists()}
        for name, path in found.items():
            shutil.copyfile(path, self.run.out / f"{name}.jsonl")
        return {"files": [f"{name}.jsonl" for name in found]}

    # -- the border ----------------------------------------------------------------------------------------

    def border(self) -> dict[str, Any]:
        """Decoding and a training step of a tokenizer of frames: the whole frame, a part with the rest, the part."""
        config, encoded = self.sizes.border
        top, bottom, left, right = encoded
        side = self.sizes.border_size
        variants = {
            "whole frame encoded": (config, (side, side, 3)),
            "part encoded, border decoded": (replace(config, encoded=encoded), (side, side, 3)),
            "part alone": (config, (bottom - top, right - left, 3)),
        }
        return {"encoded": list(encoded), **{name: self.border_row(*row) for name, row in variants.items()}}

    def border_row(self, config: TokenizerConfig, frame_shape: tuple[int, int, int]) -> dict[str, Any]:
        """Milliseconds of one tokenizer, with random weights."""
        from worldmodel.bench.timing import mean_seconds
        from worldmodel.tokenizer import make_tokenizer

        device, wait = self.runtime.device, synchronizer(self.runtime.device)
        torch.manual_seed(0)
        tokenizer = make_tokenizer(config, frame_shape).to(device).eval()
        decode_ms = {}
        for count in self.sizes.border_frames:
            codes = torch.randint(config.num_codes, (1, count, *tokenizer.grid), device=device)
            decode_ms[count] = 1000 * mean_seconds(lambda: tokenizer.decode(codes), self.sizes.timed, wait)  # noqa: B023
        frames = torch.randint(256, (self.sizes.border_batch, 1, *frame_shape), device=device).to(torch.uint8)
        valid = torch.ones(frames.shape[:2], dtype=torch.bool, device=device)
        optimizer = torch.optim.AdamW(tokenizer.parameters(), lr=0.0)

        def train() -> None:
            optimizer.zero_grad(set_to_none=True)
            with self.runtime.autocast():
                loss = tokenizer.loss(frames, valid)["loss"]
            loss.backward()
            optimizer.step()

        tokenizer.train()
        step_ms = 1000 * mean_seconds(train, self.sizes.timed, wait)
        return {
            "decode_ms": decode_ms,
            "train_step_ms": step_ms,
            "train_frames": len(frames),
            "parameters": sum(p.numel() for p in tokenizer.parameters()),
        }
