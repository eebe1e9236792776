"""Contracts of the flat prior: stepping equals the full forward, what attends to what, limited and endless dreams."""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from square import PLACES, picture, record_square
from test_world_prior import GRID, SPACES, V, make_clip

from worldmodel.cli.command_line import parse
from worldmodel.common import spaces
from worldmodel.common.errors import UserError
from worldmodel.common.run_info import config_from_json, config_to_json
from worldmodel.dream import DreamEnv, Simulator
from worldmodel.prior import CodeClip, FactoredConfig, FlatConfig, FlatPrior, StatusConfig
from worldmodel.prior.flat.flat_layers import attention_mask, windowed_attention
from worldmodel.prior.flat.flat_prior import FlatState
from worldmodel.prior.flat.rotary import RotaryEmbedding
from worldmodel.prior.sampling import Sampling, uniforms
from worldmodel.prior.targets import replace_codes
from worldmodel.train import train_world
from worldmodel.train.presets import PRESETS
from worldmodel.train.training_config import WorldConfig
from worldmodel.world.world_model import WorldModel

BINS = 3
VARIANTS: dict[str, dict[str, object]] = {
    "window": {},
    "window-paper": {"positions": "paper", "num_frames": 12, "previous_frame": False},
    "full": {"attention": "full", "num_frames": 12},
    "shared-keys": {"num_heads": 2, "num_kv_heads": 1},
}


def make_prior(space: spaces.Space = SPACES[0], **sizes: object) -> FlatPrior:
    torch.manual_seed(0)
    settings = {
        "window": 2, "width": 16, "num_heads": 2, "num_layers": 2, "action_dim": 4,
        "status": StatusConfig("health", (0.5, 1.5)),
    }  # fmt: skip
    prior = FlatPrior(FlatConfig(**{**settings, **sizes}), GRID, V, space, end_has_frame=False)  # type: ignore[arg-type]
    with torch.no_grad():  # no zeros: everything that could matter does
        for parameter in prior.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return prior.eval()


def all_predictions(prior: FlatPrior, clip: CodeClip) -> list[torch.Tensor]:
    """All predictions for a clip, leading axes (B, T): codes, end, status, reward."""
    targets = prior._make_targets(clip)
    return list(vars(prior._predict(targets, targets.masked_codes, targets.status)).values())


def state_after(prior: FlatPrior, clip: CodeClip, frames: int = 1) -> FlatState:
    """The state after a clip's first frames."""
    span = slice(frames)
    valid, acted = clip.frame_valid[:, span], clip.actions[:, : frames - 1]
    return prior.init_state(prior.context(clip.codes[:, span], valid, acted, clip.status[:, frames - 1]))


@dataclass(frozen=True)
class RecordingSampler(Sampling):
    """A sampling that records the logits it gets."""

    logits: list[torch.Tensor] = field(default_factory=list)

    def sample(self, logits: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
        self.logits.append(logits)
        return super().sample(logits, uniforms)


@pytest.mark.parametrize("variant", VARIANTS)
def test_stepping_equals_the_full_forward_since_each_rows_reset(variant: str) -> None:
    prior, clip = make_prior(**VARIANTS[variant]), make_clip(batch=3, length=12)
    no_end = torch.zeros_like(clip.terminations)
    clip = replace(clip, frame_valid=torch.ones_like(clip.frame_valid), terminations=no_end)
    resets, context_frames, missing = [0, 3, 5], [1, 2, 2], (1, 6)  # row 1 terminates in frame 6 and is stepped further
    codes, status, stepped = clip.codes.clone(), clip.status.clone(), {}
    state = state_after(prior, clip)
    for t in range(11):  # the step from frame t to frame t+1
        for row, (reset, frames) in enumerate(zip(resets, context_frames, strict=True)):
            if t == reset + frames - 1:
                span = slice(reset, reset + frames)
                valid, acted = clip.frame_valid[:, span], clip.actions[:, reset : reset + frames - 1]
                fresh = prior.init_state(prior.context(clip.codes[:, span], valid, acted, clip.status[:, t]))
                codes[row, span], status[row, span] = clip.codes[row, span], clip.status[row, span]
                state = state.scatter(torch.tensor([row]), fresh.select(torch.tensor([row])))
        numbers = uniforms(torch.arange(3), torch.zeros(3).long(), torch.full((3,), t), prior.num_uniforms)
        numbers[:, 0] = 0.999999
        if t + 1 == missing[1]:
            numbers[missing[0], 0] = 0.0
        sampling = RecordingSampler()
        before = state.copy()
        copies = [before.keys.clone(), before.values.clone()]
        out = prior.step(state, clip.actions[:, t], numbers, sampling)
        assert out.state.keys.data_ptr() == state.keys.data_ptr()  # written in place; the copy is unchanged
        assert torch.equal(before.keys, copies[0])
        assert torch.equal(before.values, copies[1])
        assert all(vars(out.state)[k].shape == v.shape for k, v in vars(state).items())
        state = out.state
        codes[:, t + 1], status[:, t + 1] = out.codes, out.status
        stepped[t + 1] = [torch.stack(sampling.logits, 1), out.hazards, out.status_probs, out.rewards, out.log_probs]
    for row, (reset, frames) in enumerate(zip(resets, context_frames, strict=True)):
        known_status = status.clone()
        known_status[:, reset : reset + frames - 1] = BINS  # of a context only the last frame's status is known
        valid, ended = clip.frame_valid.clone(), no_end.clone()
        valid[missing], ended[missing[0], missing[1] - 1] = False, True
        whole = replace(clip, codes=codes, status=known_status, frame_valid=valid, terminations=ended)
        since = {name: value[row : row + 1, reset : reset + value.shape[1]] for name, value in vars(whole).items()}
        full = CodeClip(**since)
        logits, outcomes, nats = all_predictions(prior, full)[0], prior.predict_outcomes(full), prior.log_prob(full)
        assert 12 - reset > 3 * prior.window
        for t in range(reset + frames, 12):
            step, at = [x[row] for x in stepped[t]], t - reset
            if (row, t) != missing:
                torch.testing.assert_close(step[0], logits[0, at], atol=1e-5, rtol=1e-5)
                torch.testing.assert_close(step[4], nats[0, at], atol=1e-4, rtol=1e-5)
            torch.testing.assert_close(step[1], outcomes.hazards[0, at - 1], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(step[2], outcomes.status_probs[0, at - 1], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(step[3], outcomes.rewards[0, at - 1], atol=1e-5, rtol=1e-5)


def test_only_the_last_frames_of_a_long_context_matter() -> None:
    prior, clip = make_prior(), make_clip(batch=3, length=5)
    whole = prior.context(clip.codes[:, :4], clip.frame_valid[:, :4], clip.actions[:, :3], clip.status[:, 3])
    last = prior.context(clip.codes[:, 2:4], clip.frame_valid[:, 2:4], clip.actions[:, 2:3], clip.status[:, 3])
    for a, b in zip(vars(prior.init_state(whole)).values(), vars(prior.init_state(last)).values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("space", SPACES, ids=lambda s: type(s).__name__)
def test_the_future_changes_no_earlier_prediction(space: spaces.Space, variant: str) -> None:
    prior, clip = make_prior(space, **VARIANTS[variant]), make_clip(space=space)
    before, cut, mixed = all_predictions(prior, clip), 3, {}
    for name, value in vars(clip).items():
        begin = cut if value.shape[1] == clip.frame_valid.shape[1] else cut - 1
        mixed[name] = torch.cat([value[:, :begin], value.roll(1, 0)[:, begin:]], 1)
    after = all_predictions(prior, CodeClip(**mixed))
    for a, b in zip(before, after, strict=True):
        torch.testing.assert_close(a[:, :cut], b[:, :cut])
        assert not torch.allclose(a[:, cut:], b[:, cut:])
    # end and status of the step into frame `cut` depend on its action, never on the frame or its outcome
    keep_action = {**mixed, "actions": torch.cat([clip.actions[:, :cut], mixed["actions"][:, cut:]], 1)}
    after = all_predictions(prior, CodeClip(**keep_action))
    for i in (1, 2):
        torch.testing.assert_close(after[i][:, : cut + 1], before[i][:, : cut + 1])
    # codes depend on earlier codes of their frame, not on later ones
    codes = clip.codes.clone()
    codes[:, cut, 1, 0] = (codes[:, cut, 1, 0] + 1) % V  # the fourth of six
    after = all_predictions(prior, replace(clip, codes=codes))
    torch.testing.assert_close(after[0][:, cut, :4], before[0][:, cut, :4])
    assert not torch.allclose(after[0][:, cut, 4:], before[0][:, cut, 4:])


def test_predictions_depend_on_actions_and_on_no_frame_before_the_window() -> None:
    prior, clip = make_prior(num_layers=1, previous_frame=False), make_clip(length=7)
    clip = replace(clip, frame_valid=torch.ones_like(clip.frame_valid))
    before = all_predictions(prior, clip)
    for a, b in zip(before, all_predictions(prior, replace(clip, actions=(clip.actions + 1) % 3)), strict=True):
        assert not torch.allclose(a[:, 1:], b[:, 1:])
    codes = clip.codes.clone()
    codes[:, 1] = (codes[:, 1] + 1) % V
    after = all_predictions(prior, replace(clip, codes=codes))[0]
    for t in (2, 3):  # one layer attends to the two frames before its own ...
        assert not torch.allclose(after[:, t], before[0][:, t])
    torch.testing.assert_close(after[:, 4:], before[0][:, 4:])  # ... and to no others


@pytest.mark.parametrize("variant", VARIANTS)
def test_invalid_frames_have_no_influence(variant: str) -> None:
    prior, clip = make_prior(**VARIANTS[variant]), make_clip(length=6)
    valid = clip.frame_valid.clone()
    valid[1, 2] = valid[2, 0] = False
    clip = replace(clip, frame_valid=valid)
    noise = torch.where(valid[:, :, None, None], clip.codes, (clip.codes + 1) % V)
    noisy = replace(clip, codes=noise, status=torch.where(valid, clip.status, (clip.status + 1) % BINS))
    expected = all_predictions(prior, clip)
    for a, b in zip(expected, all_predictions(prior, noisy), strict=True):
        assert torch.isfinite(a).all()
        assert torch.equal(a, b)
    with torch.no_grad():  # nor has the "no frame" code in their places
        prior.transformer.code_embed.weight[-1] += 1
    for a, b in zip(expected, all_predictions(prior, clip), strict=True):
        assert torch.equal(a[valid], b[valid])
    prior.train()
    losses = []
    for c in (clip, noisy):
        torch.manual_seed(5)
        losses.append(prior.loss(c))
    assert all(torch.equal(losses[0][k], losses[1][k]) for k in losses[0])
    assert (prior.log_prob(clip)[~valid] == 0).all()


def test_windowed_attention_equals_attention_with_an_explicit_mask() -> None:
    torch.manual_seed(0)
    length, size, memory = 6, 3, 2
    valid = torch.ones(2, length, dtype=torch.bool)
    valid[0, 1] = valid[1, 4] = False
    q, k, v = torch.randn(3, 2, 2, length * size, 4)
    mask = torch.zeros(2, 1, length * size, length * size, dtype=torch.bool)
    for b, i, j in itertools.product(range(2), range(length * size), range(length * size)):
        query, key = i // size, j // size  # frames
        mask[b, 0, i, j] = (query == key and j <= i) or (query - memory <= key < query and bool(valid[b, key]))
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    torch.testing.assert_close(
        windowed_attention(q, k, v, attention_mask(valid, size, memory), length, memory), expected
    )
    for b, i, j in itertools.product(range(2), range(length * size), range(length * size)):
        mask[b, 0, i, j] = j <= i and (i // size == j // size or bool(valid[b, j // size]))
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    torch.testing.assert_close(
        windowed_attention(q, k, v, attention_mask(valid, size, length), length, length), expected
    )


@pytest.mark.parametrize("previous_frame", [True, False])
def test_likelihood_sums_to_one(previous_frame: bool) -> None:
    torch.manual_seed(0)
    config = FlatConfig(window=2, width=16, num_heads=2, num_layers=1, action_dim=4, previous_frame=previous_frame)
    prior = FlatPrior(config, (2, 2), 3, spaces.Discrete(2)).eval()
    for parameter in prior.parameters():
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    all_frames = torch.tensor(list(itertools.product(range(3), repeat=4))).reshape(81, 1, 2, 2)
    first = torch.tensor([[[0, 2], [1, 1]]]).expand(81, 1, 2, 2)
    steps = torch.zeros(81, 1)
    clip = CodeClip(
        codes=torch.cat([first, all_frames], 1),
        frame_valid=torch.ones(81, 2, dtype=torch.bool),
        actions=steps.long(),
        rewards=steps,
        terminations=steps.bool(),
        truncations=steps.bool(),
        status=torch.zeros(81, 2, dtype=torch.int64),
        weights=torch.ones(81, 2),
    )
    torch.testing.assert_close(prior.log_prob(clip)[:, 1].exp().sum(), torch.tensor(1.0), atol=1e-5, rtol=0)


def test_rows_are_independent() -> None:
    prior, clip = make_prior(), make_clip(batch=5, length=4)
    state = state_after(prior, clip, 2)
    numbers = uniforms(torch.arange(5), torch.zeros(5).long(), torch.zeros(5).long(), prior.num_uniforms)
    out = prior.step(state.copy(), clip.actions[:, 1], numbers, Sampling())
    for i in range(5):
        row = torch.tensor([i])
        alone = prior.step(state.select(row), clip.actions[row, 1], numbers[row], Sampling())
        assert torch.equal(alone.codes[0], out.codes[i])
        for name in out.state.mutable_fields:
            torch.testing.assert_close(getattr(alone.state, name)[0], getattr(out.state, name)[i], atol=1e-5, rtol=1e-5)


def test_dropout_and_replaced_codes_are_seeded_and_only_in_training() -> None:
    for sizes in ({"dropout": 0.3, "history_noise": 0.0}, {"dropout": 0.0, "history_noise": 0.9}):
        prior, clip = make_prior(history_loss=0.0, **sizes), make_clip(batch=8)

        def loss(seed: int, prior: FlatPrior = prior, clip: CodeClip = clip) -> torch.Tensor:
            torch.manual_seed(seed)
            return prior.loss(clip)["codes"]

        assert torch.equal(loss(0), loss(1))
        prior.train()
        assert torch.equal(loss(0), loss(0))
        assert loss(0) != loss(1)
    codes = prior._make_targets(clip).masked_codes
    changed = replace_codes(codes, 0.9, V) != codes
    assert 0.1 < changed.float().mean() < 0.6
    assert not changed[codes == V].any()


def test_only_frames_with_a_weight_have_a_loss() -> None:
    prior, clip = make_prior(), make_clip()
    weights = torch.zeros_like(clip.weights)
    weights[1, 2] = 1.0
    nats = prior.loss(replace(clip, weights=weights))["codes"]
    torch.testing.assert_close(nats, -prior.log_prob(clip)[1, 2] / 6)


def test_rotary_positions_are_exact_at_any_time() -> None:
    rotary = RotaryEmbedding(16, (2, 3), memory=4)
    shift = 10_000 // rotary.period * rotary.period
    near, far = rotary.cos_sin(torch.tensor([[10, 13]])), rotary.cos_sin(torch.tensor([[10, 13]]) + shift)
    assert torch.equal(near, far)
    # a query has the place that it predicts, a key the place that it holds: query 2 and key 3 are of the third code
    assert torch.equal(near[0, :, :, :, 2], near[1, :, :, :, 3])
    # the formula 2 pi n t / P at a late time, in float64
    pairs = 8 - 2 * (8 // 3)
    n = np.round(np.geomspace(1, rotary.period // 4, pairs))
    wanted = np.cos(2 * np.pi * n * (10_003 % rotary.period) / rotary.period)
    got = rotary.cos_sin(torch.tensor([[10_003]]))[0, 0, 0, 0, 0, :pairs]
    np.testing.assert_allclose(got.numpy(), wanted, atol=1e-6)
    prior, clip = make_prior(), make_clip(batch=3, length=4)
    state = state_after(prior, clip, 2)
    assert prior.transformer.rotary is not None
    late = replace(state.copy(), times=state.times + prior.transformer.rotary.period * 600)
    numbers = torch.full((3, prior.num_uniforms), 0.5)
    a, b = (prior.step(s, clip.actions[:, 1], numbers, Sampling()) for s in (state, late))
    assert torch.equal(a.state.keys, b.state.keys)


@pytest.mark.parametrize("variant", ["window-paper", "full"])
def test_a_limited_prior_refuses_more_frames(variant: str) -> None:
    prior, clip = make_prior(**{**VARIANTS[variant], "num_frames": 4}), make_clip(length=5)
    with pytest.raises(UserError, match="attention window"):
        prior.loss(clip)
    state = state_after(prior, clip)
    numbers = torch.full((3, prior.num_uniforms), 0.999)
    for _ in range(3):
        state = prior.step(state, clip.actions[:, 0], numbers, Sampling()).state
    with pytest.raises(UserError, match="attention window"):
        prior.step(state, clip.actions[:, 0], numbers, Sampling())
    with pytest.raises(UserError, match="no frame to predict"):
        make_prior(**{**VARIANTS[variant], "num_frames": 2})


def test_contradicting_sizes_are_refused() -> None:
    for sizes, message in (
        ({"width": 18, "num_heads": 4}, "multiple of num_heads"),
        ({"window": 0}, "window=0"),
        ({"attention": "windows"}, "Did you mean 'window'"),
        ({"dropout": 1.1}, "dropout=1.1: wanted 0 to 1"),
        ({"num_layers": 0}, "num_layers=0"),
        ({"width": 8}, "6 or more"),
        ({"num_kv_heads": 3}, "divisor of num_heads=2"),
    ):
        with pytest.raises(UserError, match=message):
            make_prior(**sizes)


def test_flags_and_saved_configs_work_for_both_priors(tmp_path: Path) -> None:
    for preset, kind in (("tiny", FactoredConfig), ("tiny-flat", FlatConfig)):
        command = ["train", "world", "--preset", preset, "--data", "x.h5", "--out", "o", "--prior.width", "96"]
        _, config = parse(command)
        assert isinstance(config.world.prior, kind)
        assert config.world.prior == replace(PRESETS[preset].prior, width=96)
        assert config_from_json(config_to_json(config.world), WorldConfig, "run.json") == config.world


# -- a whole world -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("flat")
    train_world(record_square(folder / "square.h5"), folder / "world", PRESETS["tiny-flat"])
    return folder / "world"


def test_a_tiny_flat_world_is_learned_and_stepped(world_dir: Path) -> None:
    world = WorldModel.from_pretrained(world_dir)
    assert world.prior.config == PRESETS["tiny-flat"].prior
    assert world.report["nats_per_code"] < 0.1
    assert world.report["nats_per_code_shuffled"] > 2 * world.report["nats_per_code"] + 0.1
    env = DreamEnv(world, temperature=0.0)
    right, total = 0, 0
    for seed in range(8):
        frame, _ = env.reset(seed=seed)
        place = int(np.argmin([np.abs(frame.astype(int) - picture(p)).mean() for p in range(PLACES)]))
        while place != 3:
            frame, reward, terminated, _, _ = env.step(1)
            place = (place + 1) % PLACES
            right += np.abs(frame.astype(int) - picture(place)).mean() < 20
            total += 1
            assert abs(reward - (place == 3)) < 0.5
            assert not terminated
        before = frame.copy()
        frame, _, terminated, _, info = env.step(0)
        assert terminated
        assert info["hazard"] > 0.5
        np.testing.assert_array_equal(frame, before)
    assert right == total


def test_flat_dreams_are_the_same_in_any_batch(world_dir: Path) -> None:
    world = WorldModel.from_pretrained(world_dir)

    def run(rows: int, first: int, resets: tuple[int, ...]) -> list[torch.Tensor]:
        simulator = Simulator(world, rows, seed=first, starts="any", batch_invariant=True)
        simulator.reset()
        out = []
        for t in range(8):
            again = [row for row in range(rows) if row + first in resets]
            if again and t in (3, 6):  # rows are reset at any time, independently
                simulator.reset(torch.tensor(again))
            out.append(simulator.step(torch.full((rows,), t % 2)))
        return [torch.stack([getattr(step, name) for step in out], 1) for name in ("frames", "rewards", "log_probs")]

    sixteen, resets = run(16, 0, (2, 9, 11)), (2, 11)
    others = [row for row in range(16) if row != 9]
    for a, b in zip(run(16, 0, resets), sixteen, strict=True):
        assert torch.equal(a[others], b[others])
    for rows, first in ((1, 0), (1, 11), (5, 3), (7, 2)):
        for few, many in zip(run(rows, first, resets), sixteen, strict=True):
            assert torch.equal(few, many[first : first + rows])


def test_a_flat_dream_can_be_restored_several_times(world_dir: Path) -> None:
    simulator = Simulator(WorldModel.from_pretrained(world_dir), 3)
    simulator.reset()
    for t in range(4):
        simulator.step(torch.full((3,), t % 2))
    first = simulator.state.prior.keys  # referenced, so that its memory is not reused
    saved, results = simulator.save(), []
    for actions in ([1, 0, 1], [0, 0, 0], [1, 0, 1]):
        simulator.restore(saved)
        steps = [simulator.step(torch.tensor(actions)) for _ in range(4)]
        results.append(
            {n: torch.stack([getattr(s, n) for s in steps]).nan_to_num() for n in dataclasses.asdict(steps[0])}
        )
        simulator.reset(torch.tensor([1]))  # a new episode of a row does not change the saved state
    assert all(torch.equal(results[0][name], results[2][name]) for name in results[0])
    assert not all(torch.equal(results[0][name], results[1][name]) for name in results[0])
    assert simulator.state.prior.keys.data_ptr() not in (first.data_ptr(), saved.prior.keys.data_ptr())
    ring = simulator.state.prior.keys.data_ptr()
    simulator.step(torch.tensor([1, 0, 1]))
    assert simulator.state.prior.keys.data_ptr() == ring  # steps and resets write to the same ring
