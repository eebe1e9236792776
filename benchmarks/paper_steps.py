"""One optimisation step of each clip preset of the VideoGPT paper at full size and a reduced batch.

Each preset runs in a process of its own, so that its peak memory is its own. The clips are noise: what is measured is
whether the step works, its time and its memory, not learning.

    python benchmarks/paper_steps.py --out steps.json --presets moving-mnist bair ucf101
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from worldmodel.common import spaces
from worldmodel.common.pixels import PixelSpec
from worldmodel.prior.clip.clip_conditioning import Conditioning
from worldmodel.train.clip_presets import CLIP_PRESETS, PAPER_PRESETS
from worldmodel.world.clip_model import ClipModel
from worldmodel.world.world_spec import WorldSpec

BOX = spaces.Box((-1.0,) * 4, (1.0,) * 4)
SPACES: dict[str, spaces.Space] = {
    "bair": BOX,
    "robonet": BOX,
    "doom-hgs": spaces.Discrete(4),
    "doom-battle2": spaces.MultiDiscrete((3, 3, 2, 2, 11)),
}
NUM_CLASSES = 101


def make_model(name: str, attention: str) -> ClipModel:
    """The untrained model of a preset, for the data that the preset is for."""
    training, side = CLIP_PRESETS[name], 128 if "128" in name else 64
    space = SPACES.get(name.removesuffix("-unconditional"), spaces.NoAction())
    spec = WorldSpec("paper", PixelSpec((side, side)), space)
    classes = tuple(map(str, range(NUM_CLASSES))) if training.prior.class_label else ()
    return ClipModel(training.tokenizer, replace(training.prior, attention=attention), spec, classes)


def random_conditioning(model: ClipModel, clips: torch.Tensor) -> Conditioning:
    """What the model is conditioned on, at random; given frames are those of the clips."""
    config, space, num = model.prior.config, model.spec.action_space, len(clips)
    shape = (num, config.num_frames - 1, *space.shape)
    numbers = torch.rand(shape) * 2 - 1 if isinstance(space, spaces.Box) else torch.randint(0, 2, shape)
    return Conditioning(
        actions=None if config.actions == "none" else numbers,
        class_index=torch.randint(0, NUM_CLASSES, (num,)) if config.class_label else None,
        frames=clips[:, : config.num_given_frames] if config.num_given_frames else None,
    )


def timed_step(module: torch.nn.Module, rate: float, loss_of: Any) -> dict[str, Any]:
    """One step of AdamW; returns the loss, the norm of its gradient and the seconds of forward, backward and update."""
    begin = time.perf_counter()
    optimiser = torch.optim.AdamW(module.train().parameters(), lr=rate)
    loss = loss_of()
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
    optimiser.step()
    seconds = time.perf_counter() - begin
    parameters = sum(parameter.numel() for parameter in module.parameters())
    return {
        "parameters": parameters,
        "loss": round(loss.item(), 4),
        "gradient_norm": round(norm.item(), 4),
        "seconds": round(seconds, 1),
    }


def measure(name: str, batch: int, attention: str) -> dict[str, Any]:
    """A step of the tokenizer and a step of the prior, in this process."""
    torch.manual_seed(0)
    model, training = make_model(name, attention), CLIP_PRESETS[name]
    clips = torch.randint(0, 256, (batch, *model.clip_shape), dtype=torch.uint8)
    model.prior.transformer.activation_checkpointing = True
    model.tokenizer.fit_normaliser([clips])
    valid = torch.ones(clips.shape[:2], dtype=torch.bool)
    steps = {
        "tokenizer": timed_step(
            model.tokenizer, training.train_tokenizer.learning_rate, lambda: model.tokenizer.loss(clips, valid)["loss"]
        )
    }
    for parameter in model.tokenizer.parameters():
        parameter.grad = None
    codes = model.tokenizer.eval().encode(clips)
    conditioning, has_loss = random_conditioning(model, clips), torch.ones(batch, dtype=torch.bool)
    steps["prior"] = timed_step(
        model.prior,
        training.train_prior.learning_rate,
        lambda: model.prior.loss(codes, conditioning, has_loss)["loss"],
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # GB
    finite = all(torch.isfinite(parameter).all() for parameter in model.parameters())
    return {"batch": batch, "attention": attention, **steps, "peak_gb": round(peak, 2), "finite": finite}


def main() -> None:
    """Measure the presets one after the other and write the figures; a preset that is killed has its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", default=list(PAPER_PRESETS), choices=list(CLIP_PRESETS), metavar="NAME")
    parser.add_argument("--batch", type=int, default=1, help="clips of the step")
    parser.add_argument("--attention", default="full", choices=("full", "sparse"))
    parser.add_argument("--out", type=Path, required=True, help="file of the figures, JSON; presets in it are skipped")
    parser.add_argument("--one", action="store_true", help="measure one preset in this process and print its figures")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.presets[0], options.batch, options.attention)))
        return
    figures = json.loads(options.out.read_text()) if options.out.exists() else {}
    for name in options.presets:
        key = name if options.attention == "full" else f"{name} {options.attention}"
        if "error" in figures.get(key, {"error": ""}):
            sizes = ["--batch", str(options.batch), "--attention", options.attention, "--out", str(options.out)]
            command = [sys.executable, __file__, "--one", "--presets", name, *sizes]
            child = subprocess.run(command, stdout=subprocess.PIPE, text=True)
            done = child.returncode == 0
            figures[key] = json.loads(child.stdout) if done else {"error": f"exit status {child.returncode}"}
            options.out.write_text(json.dumps(figures, indent=1) + "\n")
        print(key, figures[key], flush=True)


if __name__ == "__main__":
    main()
