"""A world with a causal tokenizer: codes in training equal codes in a dream, and a dream's frames are one sequence."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from square import record_square
from untrained import CODES, SIDE, SPACES, make_world, some_actions

from worldmodel.common.errors import UserError
from worldmodel.data import Dataset
from worldmodel.dream import DreamEnv, Simulator
from worldmodel.dream.dream_clips import compare_clip, reset_to_episode
from worldmodel.dream.plan_scores import goal_embedding_mse
from worldmodel.dream.recorded_starts import recorded_starts
from worldmodel.dream.shadow_world import ShadowWorld
from worldmodel.metrics.recorded_codes import encode_recorded
from worldmodel.onnx.export import export_world
from worldmodel.prior import FactoredConfig
from worldmodel.prior.clip.clip_conditioning import Conditioning
from worldmodel.prior.clip.clip_config import ClipConfig
from worldmodel.tokenizer import TokenizerConfig
from worldmodel.train import code_cache, train_prior, train_tokenizer, train_world
from worldmodel.train.clip_training_config import ClipTraining
from worldmodel.train.code_cache import encode_dataset
from worldmodel.train.presets import PRESETS
from worldmodel.train.training_config import LoopConfig
from worldmodel.world.clip_model import ClipModel
from worldmodel.world.world_model import WorldModel

CAUSAL = TokenizerConfig(
    time="causal", space_stride=8, width=12, residual_width=8, num_layers=1, time_window=2, num_codes=16, code_dim=4
)  # a frame depends on 4 steps of codes


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return record_square(tmp_path_factory.mktemp("data") / "square.h5", noise=20)


@pytest.fixture(scope="module")
def world(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> WorldModel:
    """A world that is trained for a few steps; no weight of its tokenizer is zero."""
    tiny = PRESETS["tiny"]
    config = replace(
        tiny,
        tokenizer=CAUSAL,
        prior=replace(tiny.prior, window=4),
        train_tokenizer=replace(tiny.train_tokenizer, num_steps=12, clip_length=6),
        train_prior=replace(tiny.train_prior, num_steps=3, clip_length=5),
        num_starts=120,
    )
    return train_world(data, tmp_path_factory.mktemp("runs") / "causal", config)


@pytest.fixture(scope="module")
def codes(world: WorldModel, data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """The codes that the prior was trained on, (F, h, w)."""
    return encode_dataset(data, world.tokenizer, tmp_path_factory.mktemp("codes") / "codes.npy")


def episode_codes(data: Dataset, codes: np.ndarray, number: int) -> torch.Tensor:
    """Codes of one episode, (1, T+1, h, w)."""
    first = int(data.frame_offsets[number])
    return torch.from_numpy(codes[first : first + int(data.lengths[number]) + 1].astype(np.int64))[None]


def long_episodes(data: Dataset) -> list[int]:
    """Episodes of 12 steps without an invalid frame."""
    return [n for n in range(data.num_episodes) if data.lengths[n] == 12 and data.episode(n).frame_valid.all()][:4]


def test_the_training_codes_are_those_of_each_episode_as_one_sequence(
    world: WorldModel, data: Dataset, codes: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        frames = torch.from_numpy(data.episode(number).frames)[None]
        assert torch.equal(world.tokenizer.encode(frames), episode_codes(data, codes, number))
    monkeypatch.setattr(code_cache, "ENCODED_FRAMES", 4)  # an episode that is read in parts
    assert np.array_equal(encode_dataset(data, world.tokenizer, tmp_path / "parts.npy"), codes)
    alone = torch.from_numpy(data.episode(0).frames)[:, None]
    assert not torch.equal(world.tokenizer.encode(alone)[:, 0], episode_codes(data, codes, 0)[0])


def test_a_context_has_the_codes_of_training(world: WorldModel, data: Dataset, codes: np.ndarray) -> None:
    assert world.context_frames == 7
    for number in long_episodes(data):
        known, simulator = episode_codes(data, codes, number), Simulator(world, 1)
        decoded = world.tokenizer.decode(known)[0]
        for frame in (0, 2, 3, 5, 11):
            reset_to_episode(simulator, data, number, frame)
            state = simulator.state
            assert torch.equal(state.prior.codes[:, -min(4, frame + 1) :], known[:, max(0, frame - 3) : frame + 1])
            assert torch.equal(state.codes, known[:, frame])
            assert torch.equal(state.frames[0], decoded[frame]), "the decoder has the state of the whole episode"
            sizes = np.array([number]), np.array([frame])
            clip = torch.from_numpy(data.frames(number, frame, frame + 2))[None]
            assert torch.equal(encode_recorded(world.tokenizer, data, clip, *sizes), known[:, frame : frame + 2])
    comparison = compare_clip(world, data, number, 5, 4)
    assert np.array_equal(comparison.reconstructed, decoded[5:9].numpy())
    assert np.array_equal(comparison.dreamed[0], decoded[5].numpy())


def test_starts_inside_episodes_have_the_codes_of_training(world: WorldModel, data: Dataset, codes: np.ndarray) -> None:
    windows = {
        tuple(window.flatten().tolist())
        for number in range(data.num_episodes)
        for known in [episode_codes(data, codes, number)[0]]
        for window in (known[t : t + 4] for t in range(len(known) - 3))
    }
    recorded = recorded_starts(world, data.paths, before_end=False).anywhere
    assert world.starts is not None
    for context in (world.starts.context, recorded):
        inside = context.codes[(context.codes < 16).all((1, 2, 3))]
        assert len(inside) > 20
        assert all(tuple(window.flatten().tolist()) in windows for window in inside)


def test_the_frames_of_a_dream_are_one_decoded_sequence() -> None:
    world = make_world(hazard=-20.0, causal=True)
    simulator = Simulator(world, 3, starts="any")
    simulator.reset(starts=torch.tensor([0, 6, 7]))
    context = simulator.state.prior.codes
    rollout = [simulator.step(some_actions(SPACES["Discrete"], 3, seed=t)) for t in range(9)]
    dreamed = torch.stack([step.codes for step in rollout], 1)
    frames = torch.stack([step.frames for step in rollout], 1)
    for row in range(3):
        known = context[row][(context[row] < CODES).all((1, 2))]
        assert len(known) == (1 if row == 0 else 5)
        decoded = world.tokenizer.decode(torch.cat([known, dreamed[row]])[None])[0, len(known) :]
        assert (decoded.int() - frames[row].int()).abs().max() <= 1
    alone = world.tokenizer.decode(dreamed[:, -1:])[:, 0]
    assert (alone.int() - frames[:, -1].int()).abs().max() > 20, "the past matters"


def test_a_row_that_has_ended_keeps_its_decoder_state() -> None:
    world = make_world(hazard=-1.0, causal=True)
    simulator = Simulator(world, 16)
    simulator.reset()
    for t in range(4):
        before = simulator.save()
        step = simulator.step(some_actions(SPACES["Discrete"], 16, seed=t))
        after = simulator.state
        assert before.decoder is not None
        assert after.decoder is not None
        assert torch.equal(after.decoder.memory[before.ended], before.decoder.memory[before.ended])
        assert (after.decoder.steps - before.decoder.steps)[~step.terminations].tolist() == [1] * int(
            (~step.terminations).sum()
        )
    assert 0 < before.ended.sum() < 16


def test_a_saved_world_dreams_the_same(tmp_path: Path) -> None:
    world = make_world(causal=True)
    world.save_pretrained(tmp_path / "world")
    again = WorldModel.from_pretrained(tmp_path / "world")
    assert again.tokenizer.config == world.tokenizer.config
    plan = some_actions(SPACES["Discrete"], 12).reshape(2, 6)
    frames = []
    for each in (world, again):
        simulator = Simulator(each, 2, seed=3, starts="any")
        simulator.reset()
        frames.append(simulator.rollout(plan).frames)
    assert torch.equal(*frames)
    env = DreamEnv(again)
    env.reset(seed=0)
    with pytest.raises(UserError, match="causal tokenizer cannot be exported to ONNX"):
        export_world(again, tmp_path / "onnx")
    with pytest.raises(UserError, match="causal tokenizer cannot be exported to ONNX"):
        Simulator(again, 1, backend="onnx")
    with pytest.raises(UserError, match="depend on earlier frames"):
        goal_embedding_mse(torch.zeros(SIDE, SIDE, 3, dtype=torch.uint8), again.tokenizer)


def test_a_second_world_encodes_a_dream_as_one_sequence() -> None:
    world = make_world(causal=True)
    frames = torch.randint(0, 256, (2, 6, SIDE, SIDE, 3), dtype=torch.uint8)
    with torch.no_grad():
        latents = world.tokenizer._encode_pixels(world.tokenizer._standardise(frames))
        world.tokenizer.codebook.embeddings.copy_(latents.movedim(1, -1).reshape(-1, 4)[::6])
    alone = world.tokenizer.encode(frames.view(12, 1, SIDE, SIDE, 3)).view(2, 6, 2, 2)
    assert not torch.equal(alone[:, 1:], world.tokenizer.encode(frames)[:, 1:]), "codes depend on the past"
    shadow = ShadowWorld(world, world, 2, torch.float32, 1)
    status, both = torch.zeros(2, dtype=torch.int64), torch.arange(2)
    shadow.reset(both, frames[:, 0], status)
    for t in range(1, 6):
        if t == 3:
            shadow.reset(torch.tensor([1]), frames[:, 2], status)
        shadow.follow(status, frames[:, t], status)
    codes = shadow.context.codes
    assert torch.equal(codes[0], world.tokenizer.encode(frames[:1])[0, 1:])
    assert torch.equal(codes[1, 1:], world.tokenizer.encode(frames[1:, 2:])[0])


def test_a_prior_is_trained_on_a_causal_tokenizer(data: Dataset, tmp_path: Path) -> None:
    tiny = PRESETS["tiny"]
    loop = replace(tiny.train_tokenizer, num_steps=1, clip_length=4)
    config = replace(tiny, tokenizer=CAUSAL, train_tokenizer=loop)
    train_tokenizer(data, tmp_path / "codes", config)
    short_clips = replace(config, train_tokenizer=replace(loop, clip_length=3), prior=replace(tiny.prior, window=4))
    for train, out in ((train_tokenizer, "short-codes"), (train_world, "short-world")):
        with pytest.raises(UserError, match=r"depends on up to 4 frames.*--train-tokenizer\.clip-length 4 or more"):
            train(data, tmp_path / out, short_clips)
    short = replace(tiny, train_prior=replace(tiny.train_prior, num_steps=1))
    with pytest.raises(UserError, match=r"depends on 4 steps of codes.*--prior\.window 4 or more"):
        train_prior(tmp_path / "codes", data, tmp_path / "short", short)
    loop = replace(tiny.train_prior, num_steps=1, clip_length=5)
    world = train_prior(
        tmp_path / "codes", data, tmp_path / "w", replace(tiny, prior=replace(tiny.prior, window=4), train_prior=loop)
    )
    assert world.tokenizer.config == CAUSAL
    assert 5 < world.report["psnr"] < 60


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"time_stride": 2}, "time='causal' with time_stride=2, wanted time='frame', or 'causal' with time_stride=1"),
        ({"time": "clip"}, "time='clip'"),
        ({"num_layers": 2}, "depends on 7 steps of codes"),
    ],
)
def test_a_tokenizer_that_cannot_be_stepped_is_refused(options: dict, message: str) -> None:
    world = make_world()
    with pytest.raises(UserError, match=message):
        WorldModel(replace(CAUSAL, **options), FactoredConfig(window=4), world.spec)


def test_a_clip_model_takes_a_causal_tokenizer_with_a_stride_in_time() -> None:
    torch.manual_seed(0)
    tokenizer = replace(CAUSAL, time_stride=2)
    prior = ClipConfig(num_frames=6, width=16, num_heads=2, num_layers=1)
    model = ClipModel(tokenizer, prior, make_world().spec).eval()
    clips = model.sample(2, seed=0)
    assert clips.shape == (2, 6, SIDE, SIDE, 3)
    assert torch.isfinite(model.log_prob(clips, Conditioning())).all()
    loops = {"train_prior": LoopConfig(clip_length=6)}
    with pytest.raises(UserError, match=r"wanted a multiple of the tokenizer\.time-stride=2"):
        ClipTraining(tokenizer=tokenizer, prior=prior, train_tokenizer=LoopConfig(clip_length=5), **loops)
