"""Give a world of cropped frames the whole frames of its environment.

The codes, the prior and its starts stay as they are: only a decoder of what lies outside the crop is trained.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from worldmodel.common.errors import UserError
from worldmodel.common.runtime import choose_runtime
from worldmodel.common.torch_state import isolated_torch_state
from worldmodel.data import ClipSampler, Dataset
from worldmodel.tokenizer import Tokenizer
from worldmodel.train.loop import Loop
from worldmodel.train.training_config import LoopConfig
from worldmodel.train.training_loops import clip_sampler
from worldmodel.train.training_run import Progress, TrainingRun
from worldmodel.train.validation import TOKENIZER_CLIPS, validation_split
from worldmodel.train.workspace import Workspace, disk_errors
from worldmodel.train.world_facts import make_world_spec
from worldmodel.world.world_model import WorldModel
from worldmodel.world.world_storage import WORLD, tokenizer_hash


@isolated_torch_state()
def train_border(
    world: str | Path,
    data: str | Path | list[str | Path],
    out: str | Path,
    settings: LoopConfig,
    *,
    seed: int = 0,
    device: str = "auto",
    progress: Progress | None = None,
    force: bool = False,
) -> WorldModel:
    """Train the border of a world whose frames are a crop. The same call continues a stopped training.

    Args:
        world: directory or name of the world.
        data: recordings of its environment, whole frames.
        out: the world directory to make.
        settings: the training loop.
        seed: seed of the weights and of the choice of clips.
        device: "auto", "cpu" or "cuda".
        progress: called as (stage, steps done, steps in total or 0, metrics).
        force: replace another world at `out`, or the files of another training.

    Returns:
        The world with whole frames, in evaluation mode, as it was saved.

    Raises:
        UserError: a world without a crop, data that does not show more than it, or `out` belongs to another training.
    """
    runtime = choose_runtime(device)
    dataset, old = Dataset(data), WorldModel.from_pretrained(world, runtime.device)
    encoded = dataset.header.pixels.crop_to(old.spec.pixels)
    if encoded is None or old.tokenizer.border is not None:
        raise UserError(
            f"{world} shows frames of {old.spec.pixels.to_json()}, {dataset.name} has frames of "
            f"{dataset.header.pixels.to_json()}: wanted a world whose frames are a crop of the recorded ones."
        )
    assert old.starts is not None
    torch.manual_seed(seed)
    config = replace(old.tokenizer.config, encoded=encoded)
    new = WorldModel(config, old.prior.config, make_world_spec(dataset)).to(runtime.device)
    new.load_state_dict(old.state_dict(), strict=False)
    new.starts = old.starts
    identity = {
        "tokenizer": tokenizer_hash(old.tokenizer),
        "encoded": list(encoded),
        "settings": asdict(settings),
        "seed": seed,
        "dataset": dataset.fingerprint,
    }
    workspace = Workspace(Path(out).expanduser(), WORLD, force)
    with disk_errors(workspace.out):
        if workspace.begin(identity, runtime):
            run = TrainingRun(workspace.folder, runtime, progress)
            figures = train_border_stage(new.tokenizer, dataset, settings, seed, run)
            new.report = {**old.report, **figures}
            workspace.finish(new.eval().save_pretrained, runtime)
    return WorldModel.from_pretrained(out, runtime.device)


def train_border_stage(
    tokenizer: Tokenizer, data: Dataset, settings: LoopConfig, seed: int, run: TrainingRun
) -> dict[str, float]:
    """Train `tokenizer.border` in place; everything else stays as it is.

    Returns:
        `border_psnr`, mean PSNR in dB outside the encoded part of validation frames.
    """
    assert tokenizer.border is not None
    sampler, length = clip_sampler(data, settings, seed), settings.clip_length
    split = validation_split(data, length)
    validation = ClipSampler(data, length, TOKENIZER_CLIPS, split, seed).batch(0).torch(run.runtime.device)
    tokenizer.eval()

    def losses_of(frames: Tensor, valid: Tensor) -> dict[str, Tensor]:
        units = frames[valid]  # (N, H, W, 3)
        with torch.no_grad():
            codes = tokenizer.encode_units(units).reshape(len(units), *tokenizer.grid)
            latents = tokenizer.codebook.decode(codes).movedim(-1, 1).contiguous()  # (N, d, h, w)
        losses = tokenizer.border_losses(units, latents)
        return {**losses, "loss": losses["border"]}

    @torch.no_grad()
    def validate() -> tuple[dict[str, float], np.ndarray | None]:
        losses = losses_of(validation.frames, validation.frame_valid)
        return {name: float(value) for name, value in losses.items()}, None

    loop = Loop("border", tokenizer.border, settings, seed, run, sampler.locate, validate)
    for step in loop.steps():
        episodes, starts = sampler.locate(step)
        for rows, share in loop.parts(sampler.frame_valid(episodes, starts).sum(1)):
            batch = sampler.gather(episodes[rows], starts[rows]).torch(run.runtime.device)
            with run.runtime.autocast():
                losses = losses_of(batch.frames, batch.frame_valid)
            loop.backward(losses, share)
        loop.update()
    return {"border_psnr": round(validate()[0]["border_psnr"], 2)}
