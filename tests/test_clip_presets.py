"""The clip models of the VideoGPT paper: presets field by field, parameter counts, training."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from worldmodel.cli import command_line as cli
from worldmodel.common import spaces
from worldmodel.common.pixels import PixelSpec
from worldmodel.data import ClipSampler, Dataset, Episode, Header, PartWriter, PolicyRecord, seal
from worldmodel.train.clip_presets import CLIP_PRESETS, PAPER_PRESETS
from worldmodel.train.clip_training_config import ClipTraining
from worldmodel.world.clip_model import ClipModel
from worldmodel.world.world_spec import WorldSpec

# Tables 8 and 9 of the paper as one row for each preset: latent shape; tokenizer (residual layers, attention, codes,
# dimension, thousands of steps); prior (heads, layers, embedding, feed-forward, ResNet depth, dropout, thousands of
# steps).
PAPER = {
    "moving-mnist": ((4, 16, 16), (2, False, 512, 64, 20), (4, 8, 192, 384, 18, 0.1, 80)),
    "bair": ((8, 32, 32), (4, True, 1024, 256, 100), (4, 16, 512, 2048, 34, 0.2, 150)),
    "robonet": ((8, 32, 32), (4, True, 1024, 256, 100), (4, 16, 512, 2048, 34, 0.2, 150)),
    "doom-hgs": ((8, 32, 32), (4, True, 1024, 256, 100), (4, 16, 512, 2048, 0, 0.2, 150)),
    "doom-battle2": ((8, 32, 32), (4, True, 1024, 256, 100), (4, 16, 512, 2048, 0, 0.2, 150)),
    "ucf101": ((4, 32, 32), (4, True, 1024, 256, 100), (8, 20, 1024, 4096, 0, 0.2, 200)),
    "ucf101-128": ((4, 32, 32), (4, True, 1024, 256, 100), (8, 20, 1024, 4096, 0, 0.2, 200)),
    "tgif": ((4, 32, 32), (4, True, 1024, 256, 100), (8, 20, 1024, 4096, 0, 0.2, 600)),
    "ucf101-class": ((4, 32, 32), (4, True, 1024, 256, 100), (8, 20, 1024, 4096, 0, 0.2, 200)),
}
BOX = spaces.Box((-1.0,) * 4, (1.0,) * 4)
BATTLE2 = spaces.MultiDiscrete((3, 3, 2, 2, 11))
# action space of the data, and numbers of the condition (paper, table 9)
CONDITIONS: dict[str, tuple[spaces.Space, int]] = {
    "bair": (BOX, 64),
    "robonet": (BOX, 64),
    "doom-hgs": (spaces.Discrete(4), 60),
    "doom-battle2": (BATTLE2, 315),
}
NUM_CLASSES = {"ucf101-class": 101}


def side_of(name: str) -> int:
    return 128 if "128" in name else 64


def build(name: str, training: ClipTraining) -> ClipModel:
    """The model of a preset for the data that it is for."""
    paper_name = name.removesuffix("-unconditional")
    space = CONDITIONS[paper_name][0] if paper_name in CONDITIONS else spaces.NoAction()
    spec = WorldSpec("test/Clips-v0", PixelSpec((side_of(name), side_of(name))), space)
    classes = tuple(map(str, range(NUM_CLASSES.get(paper_name, 0)))) if training.prior.class_label else ()
    return ClipModel(training.tokenizer, training.prior, spec, classes)


def build_on_meta(name: str) -> ClipModel:
    with torch.device("meta"):
        return build(name, CLIP_PRESETS[name])


def num_parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_every_model_of_the_paper_has_a_preset() -> None:
    assert set(PAPER_PRESETS) == set(PAPER)
    conditional = {"moving-mnist", *CONDITIONS, *NUM_CLASSES}
    twins = {f"{name}-unconditional" for name in conditional}
    assert set(CLIP_PRESETS) == {"tiny-clip"} | set(PAPER) | twins


@pytest.mark.parametrize("name", PAPER)
def test_a_preset_has_the_fields_of_tables_8_and_9(name: str) -> None:
    latent, (layers, attention, codes, dim, steps), prior = PAPER[name]
    training = CLIP_PRESETS[name]
    tokenizer, side = training.tokenizer, side_of(name)
    assert (16 // tokenizer.time_stride, side // tokenizer.space_stride, side // tokenizer.space_stride) == latent
    assert (tokenizer.time, tokenizer.clip_length, tokenizer.commitment) == ("clip", 16, 0.25)
    assert (tokenizer.width, tokenizer.residual_width, tokenizer.num_layers) == (240, 128, layers)
    assert (tokenizer.axial_attention, tokenizer.num_codes, tokenizer.code_dim) == (attention, codes, dim)
    assert (tokenizer.codebook_decay, tokenizer.num_codebooks, tokenizer.num_heads) == (0.99, 1, 2)
    heads, prior_layers, width, hidden, depth, dropout, prior_steps = prior
    config = training.prior
    assert (config.num_frames, config.positions, config.attention) == (16, "paper", "full")
    assert (config.num_heads, config.num_layers, config.width) == (heads, prior_layers, width)
    assert (config.width * config.feedforward, config.dropout) == (hidden, dropout)
    assert config.num_given_frames == (depth > 0)
    if depth:
        assert (config.frame_encoder, config.frame_units) == (f"resnet{depth}", 512)
    assert config.class_label == (name in NUM_CLASSES)
    assert (config.actions == "clip") == (name in CONDITIONS)
    assert not config.previous_frame
    for loop, rate, thousands in (
        (training.train_tokenizer, 7e-4, steps),
        (training.train_prior, 3e-4, prior_steps),
    ):
        assert (loop.batch_size, loop.learning_rate, loop.num_steps) == (32, rate, 1000 * thousands)
        assert loop.clip_length == 16


# -- parameter counts, written out independently of the code -----------------------------------------------


def convolution(kernel: int, inputs: int, outputs: int, bias: bool = True) -> int:
    return kernel * inputs * outputs + bias * outputs


def expected_tokenizer(name: str) -> int:
    (steps, rows, columns), (layers, attention, _, dim, _), _ = PAPER[name]
    width, residual = 240, 128
    in_time, in_space = int(math.log2(16 / steps)), int(math.log2(side_of(name) / rows))  # halvings
    levels = max(in_time, in_space)
    down = convolution(27, 3, width) + (levels - 1) * convolution(27, width, width)
    block = 2 * width + convolution(27, width, residual) + 2 * residual + convolution(1, residual, width)
    if attention:  # LayerNorm, then three times queries, keys and values without bias, and an output layer
        block += 2 * width + 3 * (3 * width * width + width * width + width)
    encoder = down + layers * block + 2 * width + convolution(1, width, dim)
    up = 0
    for level in range(levels):  # the last of the decoder's convolutions, at full resolution, is level 0
        kernel = (4 if level < in_time else 3) * (4 if level < in_space else 3) ** 2
        up += convolution(kernel, width, 3 if level == 0 else width)
    decoder = convolution(1, dim, width) + layers * block + 2 * width + up
    return encoder + decoder + attention * width * (steps + rows + columns)


def expected_resnet(depth: int, width: int) -> int:
    total, channels = convolution(27, 3, 64, bias=False) + 2 * 64, 64
    for outputs, count in zip((64, 128, 256, 512), {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}[depth], strict=True):
        for _ in range(count):
            total += convolution(27, channels, outputs, bias=False) + convolution(27, outputs, outputs, bias=False)
            total += 4 * outputs
            if channels != outputs:
                total += convolution(1, channels, outputs, bias=False) + 2 * outputs
            channels = outputs
    return total + convolution(1, 512, width) + 2 * width + width * (1 + 8 + 8)  # positions: one frame, 8 x 8 features


def expected_prior(name: str, is_conditional: bool) -> int:
    (steps, rows, columns), (_, _, codes, _, _), (_, layers, width, hidden, depth, _, _) = PAPER[name]
    condition = 1  # without a condition one number, 0
    if is_conditional and name in CONDITIONS:
        condition = CONDITIONS[name][1]
    elif is_conditional and name in NUM_CLASSES:
        condition = 128
    norm = 2 * width + 2 * width * condition  # gain, bias and W_g, W_b
    block = 2 * norm + 4 * (width * width + width) + (width * hidden + hidden) + (hidden * width + width)
    has_frame = is_conditional and depth > 0
    if has_frame:  # queries, keys, values, outputs
        block += norm + 4 * (width * width + width)
    inputs = width + (codes + 1) * width + (rows + 1 + columns + steps) * width  # start, codes, positions
    outputs = norm + (width * codes + codes) + rows * columns * codes  # with a bias of each code at each place
    classes = 102 * 128 if is_conditional and name in NUM_CLASSES else 0  # one more for "no label"
    return inputs + layers * block + outputs + classes + (expected_resnet(depth, width) if has_frame else 0)


@pytest.mark.parametrize("name", [name for name in CLIP_PRESETS if name != "tiny-clip"])
def test_a_preset_builds_with_the_expected_number_of_parameters(name: str) -> None:
    model, paper_name = build_on_meta(name), name.removesuffix("-unconditional")
    assert (model.prior.num_steps, *model.prior.grid) == PAPER[paper_name][0]
    assert num_parameters(model.tokenizer) == expected_tokenizer(paper_name)
    assert num_parameters(model.prior) == expected_prior(paper_name, is_conditional=name == paper_name)
    if name in CONDITIONS:
        assert model.prior.condition_encoder.condition_dim == CONDITIONS[name][1]


# -- training at reduced size ------------------------------------------------------------------------------

SIDE = 16
SIZES = {
    "tokenizer": {"width": 16, "residual-width": 8, "num-layers": 1, "num-codes": 16, "code-dim": 8},
    "prior": {"width": 32, "num-layers": 2, "frame-units": 16, "class-dim": 4},
    "train-tokenizer": {"num-steps": 2, "batch-size": 2, "validations": 0},
    "train-prior": {"num-steps": 2, "batch-size": 2, "validations": 0},
}
REDUCED = [f"--{group}.{flag}={value}" for group, flags in SIZES.items() for flag, value in flags.items()]


def write_episodes(path: Path, space: spaces.Space) -> None:
    """Twelve labelled episodes of 17 frames: a bright column that moves to the right."""
    header = Header(
        env="test/Clips-v0",
        pixels=PixelSpec((SIDE, SIDE)),
        action_space=space,
        seed=0,
        num_episodes=12,
        policies=(PolicyRecord("random"),),
        class_names=("even", "odd"),
    )
    rng = np.random.default_rng(0)
    with PartWriter(path.with_suffix(".part"), header) as part:
        for index in range(12):
            frames = np.zeros((17, SIDE, SIDE, 3), np.uint8)
            for t in range(17):
                frames[t, :, (index + t) % SIDE] = 255
            part.append(
                Episode(
                    frames=frames,
                    frame_valid=np.ones(17, bool),
                    actions=np.stack([space.sample(rng) for _ in range(16)]),
                    rewards=np.zeros(16, np.float32),
                    terminations=np.zeros(16, bool),
                    truncations=np.arange(16) == 15,
                    index=index,
                    seed=index,
                    policy="random",
                    label=index % 2,
                )
            )
    seal([path.with_suffix(".part")], path)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", [*PAPER, "bair-unconditional"])
def test_a_preset_trains_at_reduced_size_by_flags(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.set_num_threads(1)
    space = CONDITIONS.get(name, (spaces.Discrete(2), 0))[0]
    write_episodes(tmp_path / "clips.h5", space)
    out, flags = tmp_path / "model", [*REDUCED, "--json"]
    if name in ("bair", "doom-hgs"):
        flags += ["--prior.attention", "sparse", "--activation-checkpointing"]
    verb, config = cli.parse(
        ["train", "clip", "--preset", name, "--data", str(tmp_path / "clips.h5"), "--out", str(out), *flags]
    )
    cli.load_entry(cli.VERBS[verb].function)(config)
    figures = json.loads(capsys.readouterr().out)
    assert 0 < figures["nats_per_code"] < 10
    model = ClipModel.from_pretrained(out)
    training = CLIP_PRESETS[name]
    assert model.prior.config.num_given_frames == training.prior.num_given_frames
    assert model.prior.config.frame_encoder == training.prior.frame_encoder
    assert model.prior.config.attention == ("sparse" if "--activation-checkpointing" in flags else "full")
    with Dataset(tmp_path / "clips.h5") as data:
        batch = ClipSampler(data, 16, 1, "train", seed=0).batch(0).torch()
    conditioning = model.conditioning_of(batch)
    sampled = model.sample(
        1, class_index=conditioning.class_index, actions=conditioning.actions, frames=conditioning.frames
    )
    assert sampled.shape == (1, 16, SIDE, SIDE, 3)
