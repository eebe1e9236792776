"""ClipModel: trained on the toy with a class label, saved, loaded, sampled, scored; cached sampling == full forward."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from clip_priors import random_conditioning, random_frames, random_prior
from PIL import Image
from untrained import make_world

from worldmodel.cli import command_line as cli
from worldmodel.cli.clip_commands import read_given_frames
from worldmodel.common import spaces
from worldmodel.common.errors import UserError
from worldmodel.common.pixels import PixelSpec
from worldmodel.common.run_info import load_run_info
from worldmodel.data import ClipSampler, Dataset, Episode, Header, PartWriter, PolicyRecord, seal
from worldmodel.dream import DreamEnv
from worldmodel.envs import toy
from worldmodel.metrics.clip_sources import generated_clips, recorded_clips
from worldmodel.metrics.diversity import mean_spread, sample_spread
from worldmodel.prior import Sampling
from worldmodel.prior.clip.clip_conditioning import Conditioning
from worldmodel.tokenizer import TokenizerConfig
from worldmodel.train import train_tokenizer
from worldmodel.train.clip_presets import TINY_CLIP
from worldmodel.train.clip_trainer import train_clip
from worldmodel.world.clip_model import ClipModel
from worldmodel.world.world_model import WorldModel
from worldmodel.world.world_spec import WorldSpec

SIZE, STEPS = 16, 7
SPACES = [spaces.Discrete(3), spaces.MultiDiscrete((2, 3)), spaces.Box((-1.0, 0.0), (1.0, 4.0))]


def play(index: int) -> Episode:
    """An episode of the toy in which the agent never leaves the quarter that it begins in: its label."""
    rng, env = np.random.default_rng(index), toy.ToyEnv(size=SIZE, max_steps=STEPS)
    frames, actions, rewards = [env.reset(seed=index)[0]], [], []
    label = toy.quarter(env.state.place)
    for _ in range(STEPS):
        action = int(rng.integers(toy.NUM_ACTIONS))
        if toy.quarter(toy.transition(env.state, action)[0].place) != label:
            action = 0
        frame, reward, _, _, _ = env.step(action)
        frames, actions, rewards = [*frames, frame], [*actions, action], [*rewards, float(reward)]
    last = np.arange(STEPS) == STEPS - 1
    return Episode(
        frames=np.stack(frames),
        frame_valid=np.ones(STEPS + 1, bool),
        actions=np.array(actions, np.int64),
        rewards=np.array(rewards, np.float32),
        terminations=np.zeros(STEPS, bool),
        truncations=last,
        index=index,
        seed=index,
        policy="random",
        label=label,
    )


def visible_quarters(clips: torch.Tensor) -> np.ndarray:
    """The quarter in which each frame shows the agent: (N, L, 16, 16, 3) uint8 -> (N, L)."""
    colours = clips.float().unflatten(3, (4, 4)).unflatten(2, (4, 4)).mean((3, 5))  # (N, L, 4, 4, 3)
    wanted = torch.tensor([toy.CALM, toy.SAFE, toy.HIT]).float()
    distance = (colours[..., None, :] - wanted).abs().sum(-1).amin(-1)  # (N, L, 4, 4)
    return np.vectorize(toy.quarter)(distance.flatten(2).argmin(2).numpy())


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("data") / "toy.h5"
    header = Header(
        env="worldmodel/Toy-v0",
        pixels=PixelSpec((SIZE, SIZE)),
        action_space=spaces.Discrete(toy.NUM_ACTIONS),
        seed=0,
        num_episodes=80,
        policies=(PolicyRecord("random"),),
        class_names=("top left", "top right", "bottom left", "bottom right"),
    )
    with PartWriter(path.with_suffix(".part"), header) as part:
        for index in range(80):
            part.append(play(index))
    seal([path.with_suffix(".part")], path)
    return Dataset(path)


@pytest.fixture(scope="module")
def model_dir(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("clip") / "model"
    train_clip(data, out, TINY_CLIP)
    return out


@pytest.fixture
def model(model_dir: Path) -> ClipModel:
    return ClipModel.from_pretrained(model_dir)


def held_out(data: Dataset, num: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    """Clips of the validation split and their classes."""
    batch = ClipSampler(data, 4, num, "validation", seed=1).batch(0)
    return torch.from_numpy(batch.frames), torch.from_numpy(data.labels[batch.episode])


# -- the trained model -------------------------------------------------------------------------------------


def test_samples_of_a_class_show_it(model: ClipModel) -> None:
    assert model.class_names == ("top left", "top right", "bottom left", "bottom right")
    classes = torch.arange(4).repeat_interleave(8)
    clips = model.sample(32, class_index=classes, seed=5)
    assert clips.shape == (32, 4, SIZE, SIZE, 3)
    assert clips.dtype == torch.uint8
    share = (visible_quarters(clips) == classes[:, None].numpy()).mean()
    assert share > 0.6, f"{share:.2f} of the frames show the class; by chance 0.25"


def test_the_true_class_is_likelier_than_the_others(model: ClipModel, data: Dataset) -> None:
    clips, labels = held_out(data)
    scores = torch.stack([model.log_prob(clips, Conditioning(class_index=(labels + i) % 4)) for i in range(4)])
    assert (scores.argmax(0) == 0).float().mean() > 0.8
    assert scores[0].mean() > scores[1:].mean() + 5, "nats per clip"
    assert model.report["nats_per_code"] < model.report["nats_per_code_shuffled"] - 0.1


def test_log_prob_is_that_of_a_full_forward(model: ClipModel, data: Dataset) -> None:
    clips, labels = held_out(data, 6)
    codes = model.tokenizer.encode(clips)  # (B, T, h, w)
    assert codes.shape == (6, 2, 2, 2)
    conditioning = Conditioning(class_index=labels)
    log_probs = model.prior.logits(codes, conditioning).double().log_softmax(-1)  # (B, T, K, V)
    wanted = torch.stack(
        [sum(log_probs[b, t, k, codes.flatten(2)[b, t, k]] for t in range(2) for k in range(4)) for b in range(6)]
    )
    torch.testing.assert_close(model.log_prob(clips, conditioning).double(), wanted, rtol=1e-5, atol=1e-4)


def test_a_sample_depends_on_its_seed_alone(model: ClipModel) -> None:
    clips = model.sample(5, class_index=1, seed=3)
    assert torch.equal(clips, model.sample(5, class_index=1, seed=3, batch_size=2))
    assert torch.equal(clips[2:], model.sample(3, class_index=1, seed=5))
    assert not torch.equal(clips, model.sample(5, class_index=1, seed=8))
    assert not torch.equal(clips, model.sample(5, class_index=2, seed=3))


def test_a_saved_model_is_the_same(model: ClipModel, data: Dataset, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "copy")
    copy = ClipModel.from_pretrained(tmp_path / "copy")
    clips, labels = held_out(data, 4)
    conditioning = Conditioning(class_index=labels)
    assert torch.equal(copy.log_prob(clips, conditioning), model.log_prob(clips, conditioning))
    assert copy.report == model.report
    assert not copy.training


def test_a_stopped_training_continues_exactly(data: Dataset, tmp_path: Path) -> None:
    loop = {"num_steps": 4, "checkpoint_seconds": 0.0, "log_every": 1, "validations": 1}
    config = replace(
        TINY_CLIP,
        train_tokenizer=replace(TINY_CLIP.train_tokenizer, **loop),
        train_prior=replace(TINY_CLIP.train_prior, **loop),
        prior=replace(TINY_CLIP.prior, dropout=0.1),
    )

    def stop(stage: str, done: int, total: int, metrics: dict[str, float]) -> None:
        if (stage, done) == ("prior", 3):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_clip(data, tmp_path / "stopped", config, progress=stop)
    stages: list[str] = []
    continued = train_clip(data, tmp_path / "stopped", config, progress=lambda *args: stages.append(args[0]))
    assert stages == ["prior"] * 2, "steps 3 and 4 of the prior alone"
    once = train_clip(data, tmp_path / "once", config)
    for name, tensor in once.state_dict().items():
        assert torch.equal(tensor, continued.state_dict()[name]), name
    again = train_clip(data, tmp_path / "once", config, progress=stop)  # finished: nothing is trained
    assert again.report == once.report


# -- what cannot be done with it ---------------------------------------------------------------------------


def test_a_clip_model_cannot_be_stepped(model_dir: Path, model: ClipModel) -> None:
    for use in (WorldModel.from_pretrained, DreamEnv):
        with pytest.raises(UserError, match="clip model, which samples whole clips and cannot be stepped"):
            use(model_dir)
    with pytest.raises(UserError, match="a ClipModel cannot be stepped: give a WorldModel"):
        DreamEnv(model)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("prior", "num_heads"), 1, "was changed after it was written"),
        (("class_names",), ["a", "b"], "was changed after it was written"),
        (("prior", "num_heads"), 0, "num_heads=0"),
        (("prior", "width"), "32", "prior.width"),
        (("prior", "actions"), "all", "actions"),
        (("tokenizer", "time_stride"), 3, "power of two"),
        (("class_names",), [1], "class_names=1: wanted a string"),
        (("class_names",), "abcd", "class_names='abcd': wanted a list"),
        (("prior", "other"), 1, "other"),
        (("other",), 1, "unknown field 'other'"),
    ],
)
def test_an_edited_config_is_refused(
    model_dir: Path, tmp_path: Path, path: tuple[str, ...], value: Any, message: str
) -> None:
    config = json.loads((model_dir / "config.json").read_text())
    entry = config
    for name in path[:-1]:
        entry = entry[name]
    entry[path[-1]] = value
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "model.safetensors").write_bytes((model_dir / "model.safetensors").read_bytes())
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=message):
        ClipModel.from_pretrained(copy)


def test_wrong_conditions_are_refused(model: ClipModel) -> None:
    for arguments, message in (
        ({}, "needs class_index"),
        ({"class_index": 4}, "wanted one integer from 0 to 3"),
        ({"class_index": 0.5}, "wanted one integer"),
        ({"class_index": 0, "actions": torch.zeros(3, dtype=torch.int64)}, "not conditioned on actions"),
        ({"class_index": 0, "seed": -1}, "seed=-1"),
    ):
        with pytest.raises(UserError, match=message):
            model.sample(2, **arguments)
    with pytest.raises(UserError, match="num=0"):
        model.sample(0, class_index=0)
    with pytest.raises(UserError, match=r"wanted \(B, 4, 16, 16, 3\) uint8"):
        model.log_prob(torch.zeros(1, 5, SIZE, SIZE, 3, dtype=torch.uint8), Conditioning(class_index=torch.tensor([0])))


def test_sizes_that_do_not_fit_are_refused(data: Dataset, tmp_path: Path) -> None:
    for changes, message in (
        ({"num_frames": 6}, "cannot be cut into the clips of 4 frames"),
        ({"actions": "step"}, "a step has several actions"),
        ({"class_label": True}, "there is no class"),
    ):
        config = replace(TINY_CLIP.prior, **{"class_label": False, **changes})
        with pytest.raises(UserError, match=message):
            ClipModel(TINY_CLIP.tokenizer, config, spec())
    for actions in ("step", "clip"):
        with pytest.raises(UserError, match="the episodes have no actions"):
            random_prior(spaces.NoAction(), actions=actions)
    with pytest.raises(UserError, match="wanted the same number"):
        replace(TINY_CLIP, prior=replace(TINY_CLIP.prior, num_frames=8))
    prior, loop = replace(TINY_CLIP.prior, num_frames=12), replace(TINY_CLIP.train_prior, clip_length=12)
    with pytest.raises(UserError, match="clip_length=12 needs 12 frames"):
        train_clip(data, tmp_path / "x", replace(TINY_CLIP, prior=prior, train_prior=loop))


# -- the prior alone ---------------------------------------------------------------------------------------


def spec(space: spaces.Space = SPACES[0]) -> WorldSpec:
    return WorldSpec("test/Clips-v0", PixelSpec((SIZE, SIZE)), space)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"class_label": True, "positions": "paper", "num_frames": 6, "time_stride": 2},
        {"actions": "clip", "previous_frame": True, "num_kv_heads": 2},
        {"actions": "step", "class_label": True, "previous_frame": True},
        {"actions": "clip", "num_frames": 4, "time_stride": 4},
        {"num_given_frames": 2, "actions": "step", "class_label": True},
        {"space": spaces.NoAction()},
    ],
    ids=lambda changes: ",".join(f"{name}={value}" for name, value in changes.items()) or "unconditional",
)
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=0.0), Sampling(0.7, top_k=3)])
def test_cached_sampling_equals_a_full_forward(changes: dict[str, Any], sampling: Sampling) -> None:
    prior = random_prior(**changes)
    conditioning, uniforms = random_conditioning(prior, 5), torch.rand(5, prior.num_steps, 6)
    codes, log_probs = prior.sample(conditioning, uniforms, sampling)
    logits = prior.logits(codes, conditioning)  # (B, T, K, V)
    assert torch.equal(sampling.sample(logits, uniforms), codes.flatten(2))
    torch.testing.assert_close(log_probs, prior.log_prob(codes, conditioning), rtol=1e-5, atol=1e-4)
    assert len(codes.unique()) > (3 if sampling.temperature else 1)


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_actions_condition_the_codes_that_they_may(space: spaces.Space) -> None:
    codes = torch.randint(0, 8, (4, 4, 3, 2), generator=torch.Generator().manual_seed(1))
    for mode, first_changed in (("clip", 0), ("step", 2)):
        prior = random_prior(space, actions=mode)
        conditioning = random_conditioning(prior, 4)
        assert conditioning.actions is not None
        actions = conditioning.actions.clone()
        actions[:, 1] = actions[:, 1].roll(1, 0)  # leads to frame 2
        changed = (actions != conditioning.actions).flatten(1).any(1)
        before, after = prior.logits(codes, conditioning), prior.logits(codes, Conditioning(actions))
        assert torch.equal(before[:, :first_changed], after[:, :first_changed])
        assert changed.any()
        assert (before != after)[changed, first_changed].any()
    # the paper's sizes (section 4.1): 15 actions of four numbers are 60 numbers
    space = spaces.Box((-1.0,) * 4, (1.0,) * 4)
    prior = random_prior(space, actions="clip", num_frames=16)
    assert prior.condition_encoder.condition_dim == 60


def test_given_frames_condition_every_code() -> None:
    codes = torch.randint(0, 8, (3, 4, 3, 2), generator=torch.Generator().manual_seed(1))
    prior, frames = random_prior(num_given_frames=2), random_frames(3, 2)
    before = prior.logits(codes, Conditioning(frames=frames))
    for frame in (0, 1):
        other = frames.clone()
        other[1:, frame, 9, 5] = 255 - other[1:, frame, 9, 5]  # one pixel of two clips
        after = prior.logits(codes, Conditioning(frames=other))
        assert torch.equal(before[0], after[0])
        assert ((before - after)[1:].abs().amax(-1) > 1e-7).float().mean() > 0.9
    for wrong in (frames[:, :1], frames[:2], frames.float(), frames[:, :, :8]):
        with pytest.raises(UserError, match="given frames"):
            prior.logits(codes, Conditioning(frames=wrong))
    with pytest.raises(UserError, match="needs frames"):
        prior.logits(codes, Conditioning())
    with pytest.raises(UserError, match="not conditioned on frames"):
        random_prior().logits(codes, Conditioning(frames=frames))


def test_every_code_depends_on_all_codes_before_it_and_on_no_other() -> None:
    prior, codes = random_prior(), torch.randint(0, 8, (1, 4, 3, 2), generator=torch.Generator().manual_seed(2))
    before = prior.logits(codes, Conditioning()).flatten(1, 2)[0]  # (T*K, V)
    for position in (0, 7, 22):
        other = codes.flatten().clone()
        other[position] = (other[position] + 1) % 8
        after = prior.logits(other.view(codes.shape), Conditioning()).flatten(1, 2)[0]
        assert torch.equal(before[: position + 1], after[: position + 1])
        assert ((before - after)[position + 1 :].abs().amax(1) > 1e-6).all()


def test_clips_without_a_loss_have_no_influence() -> None:
    prior = random_prior()
    codes = torch.randint(0, 8, (3, 4, 3, 2), generator=torch.Generator().manual_seed(3))
    has_loss = torch.tensor([True, False, True])
    loss = prior.loss(codes, Conditioning(), has_loss)["loss"]
    torch.testing.assert_close(loss, -prior.log_prob(codes[[0, 2]], Conditioning()).mean() / 24)
    assert prior.loss(codes, Conditioning(), torch.zeros(3, dtype=torch.bool))["loss"] == 0


def test_a_frame_tokenizer_with_actions_of_each_step_and_a_given_frame(
    data: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loop = {"num_steps": 2, "validations": 1, "clip_length": 3}
    config = replace(
        TINY_CLIP,
        tokenizer=TokenizerConfig(space_stride=8, width=8, code_width=8, num_codes=8, code_dim=4),
        prior=replace(TINY_CLIP.prior, num_frames=3, actions="step", num_given_frames=1, class_label=False),
        train_tokenizer=replace(TINY_CLIP.train_tokenizer, **loop),
        train_prior=replace(TINY_CLIP.train_prior, **loop),
    )
    tokenizer = train_tokenizer(data, tmp_path / "tokenizer", config).tokenizer
    stages: list[str] = []
    model = train_clip(
        data, tmp_path / "a", config, tokenizer=tmp_path / "tokenizer", progress=lambda *args: stages.append(args[0])
    )
    assert set(stages) == {"prior"}
    for name, tensor in tokenizer.state_dict().items():
        assert torch.equal(tensor, model.tokenizer.state_dict()[name])
    frames = torch.from_numpy(data.frames(0, 0, 1))
    for actions in (torch.tensor([1, 4]), torch.tensor([[1, 4], [0, 0]])):
        for given in (frames, torch.stack([frames, frames])):
            assert model.sample(2, actions=actions, frames=given).shape == (2, 3, SIZE, SIZE, 3)
    with pytest.raises(UserError, match="outside"):
        model.sample(2, actions=torch.tensor([1, 5]), frames=frames)
    picture = tmp_path / "clips.png"
    command = ["sample", "clips", str(tmp_path / "a"), "--out", str(picture), "--num", "3"]
    with pytest.raises(UserError, match="--data FILE"):
        run(command)
    run([*command, "--data", str(data.paths[0])])
    assert picture.exists()
    assert "differ by" not in capsys.readouterr().out, "each clip has conditions of its own"
    image = np.zeros((SIZE, 2 * SIZE, 4), np.uint8)  # with an alpha channel; its centre is used
    image[:, SIZE // 2 : SIZE // 2 + SIZE] = np.pad(frames[0].numpy(), ((0, 0), (0, 0), (0, 1)), constant_values=255)
    iio.imwrite(tmp_path / "first.png", image)
    assert torch.equal(read_given_frames((tmp_path / "first.png",), model), frames)
    screen = Image.fromarray(frames[0].numpy())
    screen.convert("CMYK").save(tmp_path / "first.tif")  # exact: CMYK without black
    assert torch.equal(read_given_frames((tmp_path / "first.tif",), model), frames)
    screen.convert("LA").save(tmp_path / "grey.png")
    assert (read_given_frames((tmp_path / "grey.png",), model).diff(dim=-1) == 0).all()
    Image.fromarray(np.zeros((SIZE, SIZE), np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(UserError, match=r"deep\.png: cannot be read as an image \(its pixels are I;16"):
        read_given_frames((tmp_path / "deep.png",), model)
    run([*command, "--frames", str(tmp_path / "first.png"), "--actions", "1*2", "--force"])
    wanted = model.sample(3, actions=torch.tensor([1, 1]), frames=frames)[:, 1:]
    assert f"differ by {sample_spread(wanted.numpy()):.1f} grey levels" in capsys.readouterr().out
    for names, message in (
        ([str(picture)] * 2, "got 2: give 1 images"),
        ([str(data.paths[0])], "cannot be read as an"),
    ):
        with pytest.raises(UserError, match=message):
            run([*command, "--force", "--frames", *names])
    assert "nats_per_code_shuffled" in model.report


def test_the_spread_of_samples_is_the_deviation_of_a_pixel() -> None:
    clips = np.zeros((5, 2, 4, 4, 3), np.uint8)
    clips[1], clips[2] = 10, 20  # deviation 10 among the first three
    clips[4, 0] = 100  # of the frames of two others, half differ: variance 5000 / 2
    assert sample_spread(clips[:3]) == pytest.approx(10)
    assert mean_spread(clips, "aaabb") == (pytest.approx((10 + 50) / 2), 5)
    assert mean_spread(clips, "aaabc") == (pytest.approx(10), 3)
    assert mean_spread(clips, "abcde") is None
    assert mean_spread(clips[:, :0], "aaaaa") is None


# -- the commands ------------------------------------------------------------------------------------------


def test_the_commands_train_and_sample(data: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loops = [f"--train-{stage}.{flag}" for stage in ("tokenizer", "prior") for flag in ("num-steps=2", "validations=0")]
    out = tmp_path / "model"
    command = ["train", "clip", "--preset", "tiny-clip", "--data", str(data.paths[0]), "--out", str(out), "--json"]
    run([*command, *loops, "--prior.actions", "clip"])
    figures = json.loads(capsys.readouterr().out)
    assert figures["clip model"] == str(out)
    assert figures["split"] == "validation"
    assert load_run_info(out / "run.json")["verb"] == "train clip"
    picture = tmp_path / "clips.png"
    run(["sample", "clips", str(out), "--out", str(picture), "--num", "3", "--label", "top right", "--actions", "2*3"])
    assert Image.open(picture).size[0] > 4 * SIZE
    for arguments, message in (
        (["--label", "top"], "unknown class 'top'"),
        (["--actions", "2*2"], "wanted"),
    ):
        with pytest.raises(UserError, match=message):
            run(["sample", "clips", str(out), "--out", str(tmp_path / "x.png"), *arguments])
    with pytest.raises(UserError, match="contradict each other"):
        run([*command, *loops, "--minutes", "1"])


def test_eval_video_compares_models_and_datasets(
    data: Dataset, model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = str(data.paths[0]), tmp_path / "evaluation.json"
    run(["eval", "video", file, str(model_dir), "--num", "24", "--split", "train", "--out", str(out)])
    assert "24 real and 24 generated clips of 4 frames" in capsys.readouterr().out
    distances = json.loads(out.read_text())["sections"]["distributions of clips"]
    value = distances["frechet_pixels"]["values"][0]
    assert value["value"]["mean"] < 5 * value["baselines"]["half of the real clips"]["mean"]
    run(["eval", "video", file, str(model_dir), "--num", "8", "--reconstruct", "--json"])
    result = json.loads(capsys.readouterr().out)
    assert result["sections"]["pairs of clips"]["psnr"]["values"][0]["value"]["mean"] > 15
    run(["eval", "video", file, str(model_dir), "--num", "8", "--likelihood", "--json"])
    likelihood = json.loads(capsys.readouterr().out)["sections"]["likelihood of real clips"]
    figures = {name: metric["values"][0]["value"]["mean"] for name, metric in likelihood.items()}
    model = ClipModel.from_pretrained(model_dir)
    codes = model.prior.num_steps * model.tokenizer.grid[0] * model.tokenizer.grid[1]
    assert figures["bits_per_code"] == pytest.approx(figures["nats_per_code"] / np.log(2))
    assert figures["bits_per_dim"] == pytest.approx(figures["bits_per_code"] * codes / (4 * SIZE * SIZE * 3))
    batch = next(recorded_clips(data, 4, 8, "test"))
    nats = -model.log_prob(batch.frames, model.conditioning_of(batch)).mean().item() / codes
    assert figures["nats_per_code"] == pytest.approx(nats, rel=1e-5)
    assert 1 <= figures["perplexity"] <= model.prior.num_codes - figures["unused_codes"]
    run(["eval", "video", file, file, "--num", "8", "--length", "3", "--json", "--metrics", "frechet_motion"])
    distances = json.loads(capsys.readouterr().out)["sections"]["distributions of clips"]
    assert list(distances) == ["frechet_motion"]
    assert distances["frechet_motion"]["values"][0]["value"]["mean"] < 1e-9
    make_world().save_pretrained(tmp_path / "world")
    for arguments, message in (
        ([str(model_dir), "--length", "5"], "this clip model has clips of 4 frames"),
        ([file, "--reconstruct"], "is a dataset, which has no tokenizer"),
        ([str(tmp_path / "world")], "give a dataset of the same environment"),
        ([str(tmp_path / "none")], "there is no world directory"),
        ([str(model_dir), "--num", "0"], "wanted at least 1"),
    ):
        with pytest.raises(UserError, match=message):
            run(["eval", "video", file, *arguments])


def test_a_world_generates_clips_from_first_frames_and_actions(data: Dataset) -> None:
    world = make_world(space=data.header.action_space)
    batches = list(recorded_clips(data, 5, 7, "train", seed=1, batch_size=4))
    assert [len(batch.frames) for batch in batches] == [4, 3]
    clips = list(generated_clips(world, batches))
    assert [tuple(x.shape) for x in clips] == [(4, 5, SIZE, SIZE, 3), (3, 5, SIZE, SIZE, 3)]
    first = world.tokenizer.decode(world.tokenizer.encode(batches[0].frames[:, :1]))
    assert torch.equal(clips[0][:, :1], first)


def run(arguments: list[str]) -> None:
    name, config = cli.parse(arguments)
    cli.load_entry(cli.VERBS[name].function)(config)
