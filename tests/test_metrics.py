"""Evaluation: every statistic against cases done by hand, and all metrics on the square world."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from square import play

from worldmodel.cli import command_line as cli
from worldmodel.cli.eval_world import policies_of
from worldmodel.cli.metric_plots import free_run_bars, prediction_curves
from worldmodel.common import spaces
from worldmodel.common.errors import UserError
from worldmodel.common.pixels import PixelSpec
from worldmodel.data import Dataset, Header, PartWriter, PolicyRecord, seal
from worldmodel.metrics import (
    METRICS,
    EnvironmentRules,
    Estimate,
    EvaluationSettings,
    Metric,
    MetricValue,
    evaluate,
    register,
    table,
)
from worldmodel.metrics.dream_rollouts import begin_dreams, select_rows
from worldmodel.metrics.evaluation_run import EvaluationRun
from worldmodel.metrics.frame_scores import bright_precision_counts, bright_recall_counts, changed, psnr, ssim
from worldmodel.metrics.free_run import (
    PolicyEvents,
    StepEvents,
    dreamed_events,
    longest_horizon,
    recorded_events,
    run_policies,
)
from worldmodel.metrics.likelihood import BIGRAM_COUNTS, UNIGRAM_COUNT, count_models
from worldmodel.metrics.outcomes import cover_episodes
from worldmodel.metrics.policy_order import (
    DIFFERENT,
    SAME,
    SIGNIFICANT,
    Comparison,
    compare_policies,
    comparisons,
    summary,
)
from worldmodel.metrics.statistics import (
    average_precision,
    bootstrap,
    calibration_error,
    difference,
    ratio,
    resample_weights,
)
from worldmodel.prior import Sampling, StatusConfig
from worldmodel.train import train_world
from worldmodel.train.presets import PRESETS
from worldmodel.world.world_model import WorldModel

SMALL = EvaluationSettings(clips=6, ahead=3, horizon=6, rows=5, seed=4, inverse_steps=5)
OPTIONAL = (
    "policy_order",
    "border_psnr",
    "reconstruction_border_psnr",
    "permanence_precision",
    "opposite_actions",
    "ladder_returns",
    "ladder_rank",
    "ladder_ratio",
)  # not for every dataset and world

# -- by hand -----------------------------------------------------------------------------------------------


def test_average_precision_by_hand() -> None:
    truth = np.array([True, False, True, False])
    assert average_precision(np.array([0.9, 0.8, 0.7, 0.6]), truth) == pytest.approx((1 + 2 / 3) / 2)
    assert average_precision(np.array([0.1, 0.8, 0.2, 0.9]), truth) == pytest.approx((1 / 3 + 2 / 4) / 2)
    assert average_precision(np.full(4, 0.3), truth) == pytest.approx(0.5)  # knowing nothing: the base rate
    # a weight is a number of copies
    scores, copies = np.array([0.4, 0.3, 0.3, 0.1]), np.array([2, 1, 3, 2])
    repeated = average_precision(scores.repeat(copies), truth.repeat(copies))
    assert average_precision(scores, truth, copies.astype(float)) == pytest.approx(repeated)
    assert np.isnan(average_precision(scores, np.zeros(4, bool)))


def test_calibration_error_by_hand() -> None:
    scores = np.array([0.9] * 5 + [0.1] * 5)
    truth = np.array([True] * 3 + [False] * 2 + [True] + [False] * 4)  # 0.6 and 0.2 of them
    assert calibration_error(scores, truth, bins=2) == pytest.approx((0.3 + 0.1) / 2)
    assert calibration_error(scores, truth, bins=1) == pytest.approx(0.1)
    only_high = np.array([1.0] * 5 + [0.0] * 5)
    assert calibration_error(scores, truth, only_high, bins=2) == pytest.approx(0.3)


def test_equal_scores_share_a_bin() -> None:
    rare = np.arange(100) < 20  # the events come first, and last
    for truth in (rare, rare[::-1]):
        assert calibration_error(np.full(100, 0.2), truth) == pytest.approx(0)
        assert calibration_error(np.full(100, 0.5), truth) == pytest.approx(0.3)
    # half of the samples are tied; the others keep bins of their own
    scores = np.concatenate([np.full(4, 0.25), [0.6, 0.7, 0.8, 0.9]])
    for first in ([True, False, False, False], [False, False, False, True]):
        truth = np.array(first + [True] * 4)
        assert calibration_error(scores, truth, bins=8) == pytest.approx((0.4 + 0.3 + 0.2 + 0.1) / 8)
        mixed = np.random.default_rng(0).permutation(8)
        assert calibration_error(scores[mixed], truth[mixed], bins=8) == pytest.approx(1 / 8)
    truth = np.array([True, True] + [False] * 6)  # too low by 1 among the tied, too high by 3 among the others
    assert calibration_error(scores, truth, bins=2) == pytest.approx((1 + 3) / 8)


def naive_ssim(x: np.ndarray, y: np.ndarray) -> float:
    """SSIM window by window, colour by colour."""
    at = np.arange(11) - 5.0
    kernel = np.exp(-(at[:, None] ** 2 + at[None] ** 2) / (2 * 1.5**2))
    kernel /= kernel.sum()
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    values = []
    for colour in range(3):
        for i in range(x.shape[0] - 10):
            for j in range(x.shape[1] - 10):
                a, b = (f[i : i + 11, j : j + 11, colour].astype(float) for f in (x, y))
                mean_a, mean_b = (kernel * a).sum(), (kernel * b).sum()
                var_a, var_b = (kernel * (a - mean_a) ** 2).sum(), (kernel * (b - mean_b) ** 2).sum()
                both = (kernel * (a - mean_a) * (b - mean_b)).sum()
                top = (2 * mean_a * mean_b + c1) * (2 * both + c2)
                values.append(top / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)))
    return float(np.mean(values))


def test_ssim_and_psnr() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (2, 12, 13, 3), generator=g, dtype=torch.uint8)
    y = (x.float() * 0.7 + 30 + 20 * torch.randn(x.shape, generator=g)).clamp(0, 255).to(torch.uint8)
    torch.testing.assert_close(ssim(x, x), torch.ones(2, dtype=torch.float64))
    wanted = [naive_ssim(a.numpy(), b.numpy()) for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(ssim(x, y).numpy(), wanted, atol=1e-4)

    black = torch.zeros(1, 2, 2, 3, dtype=torch.uint8)
    grey = black.clone()
    grey[0, 0, 0] = 51  # a fifth of the range in one of four pixels
    assert float(psnr(black, grey)) == pytest.approx(-10 * np.log10(0.04 / 4))
    mask = torch.zeros(1, 2, 2, dtype=torch.bool)
    mask[0, 0] = True
    assert float(psnr(black, grey, mask)) == pytest.approx(-10 * np.log10(0.04 / 2))
    assert float(psnr(black, black)) == pytest.approx(100)
    assert changed(black, grey).sum() == 1


def test_bright_recall_and_precision_by_hand() -> None:
    real = torch.zeros(1, 9, 9, 3, dtype=torch.uint8)
    real[0, 1, 1, 2] = real[0, 7, 7, 0] = 201  # two bright pixels
    real[0, 4, 4] = 200  # as bright as the threshold: not above it
    made = torch.zeros_like(real)
    made[0, 3, 3] = 255  # two pixels from the first, four from the second
    assert [int(x) for x in bright_recall_counts(real, made, 200)] == [1, 2]
    assert [int(x) for x in bright_recall_counts(real, torch.zeros_like(real), 200)] == [0, 2]
    assert [int(x) for x in bright_recall_counts(real, real, 200)] == [2, 2]
    made[0, 0, 8] = 255  # near nothing; the other of the two is right
    assert [int(x) for x in bright_precision_counts(real, made, 200)] == [1, 2]
    assert [int(x) for x in bright_precision_counts(real, torch.full_like(made, 255), 200)] == [
        16 + 16,
        81,
    ]  # all painted
    assert [int(x) for x in bright_precision_counts(torch.zeros_like(real), made, 200)] == [0, 2]
    real[0, :, 4] = 255  # a flash is no small thing
    assert [int(x) for x in bright_recall_counts(real, real, 200)] == [0, 0]
    assert [int(x) for x in bright_precision_counts(real, made, 200)] == [0, 0]


def test_intervals_cover_and_pairing_narrows_them() -> None:
    rng = np.random.default_rng(0)
    covered = []
    for seed in range(120):
        estimate = ratio(rng.exponential(2.0, 60), np.ones(60), seed)
        assert estimate.low is not None
        assert estimate.high is not None
        covered.append(estimate.low <= 2.0 <= estimate.high)
    assert 0.86 < np.mean(covered) <= 1.0
    assert (resample_weights(7, 3).sum(1) == 7).all()

    clips = 5 * rng.standard_normal(80)  # some clips are hard for both
    a, b, one = clips + 0.5 + 0.1 * rng.standard_normal(80), clips, np.ones(80)
    paired, apart = ratio(a - b, one), difference((a, one), (b, one))
    assert paired.sign == 1
    assert apart.sign == 0
    assert paired.mean == pytest.approx(apart.mean)
    units = np.repeat(np.arange(80), 2)
    same = bootstrap(lambda w: float((w * a[units]).sum() / w.sum()), units)
    assert same == ratio(a, one) or same.low == pytest.approx(ratio(a, one).low)


def test_clips_of_an_episode_are_resampled_together() -> None:
    episodes = np.random.default_rng(0).standard_normal(20)
    once = ratio(episodes, np.ones(20))
    clips = ratio(episodes.repeat(10), np.ones(200), units=np.arange(50, 70).repeat(10))  # ten alike of each
    assert (clips.mean, clips.low, clips.high) == pytest.approx((once.mean, once.low, once.high))
    assert ratio(np.arange(3.0), np.ones(3), units=np.zeros(3, int)) == Estimate(1.0)  # one unit has no interval
    assert difference((np.ones(1), np.ones(1)), (np.arange(3.0), np.ones(3))) == Estimate(0.0)


def test_a_unit_without_samples_is_ignored() -> None:
    with_idle = ratio(np.array([1.0, 3.0, 0.0, 0.0]), np.array([2.0, 2.0, 0.0, 0.0]))
    assert with_idle == ratio(np.array([1.0, 3.0]), np.array([2.0, 2.0]))
    assert with_idle.mean == 1.0
    assert np.isnan(ratio(np.zeros(3), np.zeros(3)).mean)
    assert ratio(np.zeros(3), np.zeros(3)).to_json() == {"mean": None, "low": None, "high": None}


def test_count_models_by_hand() -> None:
    train = np.array([[[0], [1], [0], [1], [1]]])  # one place, two codes
    valid = np.array([[True, True, True, True, False]])
    unigram, bigram = count_models(train, valid, np.array([[[0], [0], [1]]]), 2)
    share = (2 + UNIGRAM_COUNT) / (4 + 2 * UNIGRAM_COUNT)  # of either code
    assert unigram[0] == pytest.approx(-2 * np.log(share))
    # after 0 came 0 never and 1 twice; of the smoothings the best for this clip
    wanted = [-np.log(a * share / (2 + a)) - np.log((2 + a * share) / (2 + a)) for a in BIGRAM_COUNTS]
    assert bigram[0] == pytest.approx(min(wanted))


def test_clips_cover_every_step_once() -> None:
    lengths = np.array([4, 30, 9, 10, 23])  # frames
    seen = [np.zeros(n, int) for n in lengths]
    for frames, rows in cover_episodes(lengths, 9, 3).items():
        for episode, start, first in rows:
            assert 0 <= start <= lengths[episode] - frames
            assert first >= 3 or start == 0
            seen[episode][start + first : start + frames] += 1
    for counts in seen:
        assert counts[0] == 0  # no step leads to the first frame
        assert (counts[1:] == 1).all()


# -- the free run ------------------------------------------------------------------------------------------


def made_events(hit: float, rows: int = 60, steps: int = 40, seed: int = 0) -> StepEvents:
    """StepEvents with a hit rate and an end rate of a fifth of it."""
    rng = np.random.default_rng(seed)
    events = StepEvents.zeros(rows, steps)
    length = rng.geometric(hit / 5, rows)
    events.active[:] = np.arange(steps) < length[:, None]
    events.terminated[:] = np.arange(steps) == length[:, None] - 1
    events.has_frame[:] = events.active & ~events.terminated
    events.hit[:] = events.has_frame & (rng.random((rows, steps)) < hit)
    return events


def test_policy_order_is_right_in_a_perfect_dream_and_wrong_in_a_swapped_one() -> None:
    cautious, reckless = made_events(0.02, seed=1), made_events(0.2, seed=2)
    perfect = PolicyEvents(cautious, cautious, ""), PolicyEvents(reckless, reckless, "")
    swapped = PolicyEvents(cautious, reckless, ""), PolicyEvents(reckless, cautious, "")
    equal = PolicyEvents(cautious, made_events(0.1, seed=3), ""), PolicyEvents(reckless, made_events(0.1, seed=3), "")
    for measure in ("hit_rate", "end_rate", "steps_survived"):
        assert compare_policies(*perfect, measure, 40).verdict == SIGNIFICANT
        assert compare_policies(*swapped, measure, 40).verdict == DIFFERENT
        assert compare_policies(*equal, measure, 40).verdict == DIFFERENT  # the dream shows no difference
        assert compare_policies(perfect[0], perfect[0], measure, 40).verdict == ""  # no real difference
    few, more = made_events(0.1, rows=4, seed=7), made_events(0.12, rows=4, seed=8)
    faint = PolicyEvents(cautious, few, ""), PolicyEvents(reckless, more, "")
    assert compare_policies(*faint, "hit_rate", 40).verdict in (SAME, DIFFERENT)


def test_the_summary_counts_each_fact_once() -> None:
    def comparison(counts: bool, verdict: str) -> Comparison:
        return Comparison("steps_survived: a - b, 9 steps", counts, MetricValue("", Estimate(1.0), {}, verdict))

    same, significant, different = (comparison(True, verdict) for verdict in (SAME, SIGNIFICANT, DIFFERENT))
    repeated, undecided = comparison(False, DIFFERENT), comparison(True, "")
    first, second, *rest = summary([repeated, repeated, same, undecided, significant, different, significant])
    assert (first.verdict, first.value.mean, list(first.baselines)) == ("3 of 4", 0.75, ["coin flip"])
    assert (second.verdict, second.value.mean) == ("2 of 4", 0.5)
    assert first.value.low is not None
    assert first.value.low < 0.75 < first.value.high
    verdicts = [SAME, SIGNIFICANT, DIFFERENT, SIGNIFICANT, DIFFERENT, DIFFERENT]
    assert [value.verdict for value in rest] == verdicts
    assert ["not counted" in value.label for value in rest] == [False] * 4 + [True] * 2
    assert summary([repeated, undecided]) == []
    assert summary([significant, significant])[0].value == Estimate(1.0)  # no interval where all agree


def test_rows_that_ended_are_left_out() -> None:
    events = StepEvents.zeros(2, 10)
    events.active[0, :10] = events.active[1, :2] = True  # the second row ends in its second step
    events.has_frame[:] = events.active
    events.has_frame[1, 1] = False
    events.terminated[1, 1] = events.hit[0, 0] = True
    assert ratio(*events.totals("hit_rate", 10)).mean == pytest.approx(1 / 11)
    assert ratio(*events.totals("end_rate", 10)).mean == pytest.approx(1 / 12)
    assert ratio(*events.totals("end_rate", 1)).mean == 0
    assert ratio(*events.totals("steps_survived", 10)).mean == pytest.approx((10 + 2) / 2)


# -- the square world --------------------------------------------------------------------------------------


def record(path: Path, num_episodes: int, size: int = 16, actions: int = 2) -> Dataset:
    """The square world, played by two policies in turn; odd episodes are called sticky."""
    learned = PolicyRecord("ppo", "", {"kind": "file"})
    policies = (PolicyRecord("random"), PolicyRecord("sticky", "", {"stick": 0.5}), learned)
    header = Header(
        env="test/Square-v0",
        pixels=PixelSpec((size, size)),
        action_space=spaces.Discrete(actions),
        seed=0,
        num_episodes=num_episodes,
        policies=policies,
        max_steps=12,
        variables=("place",),
    )
    part = path.with_suffix(".part")
    with PartWriter(part, header) as writer:
        for index in range(num_episodes):
            episode = replace(play(index), policy=("random", "sticky")[index % 2])
            if size != 16:
                episode = replace(episode, frames=episode.frames.repeat(size // 16, 1).repeat(size // 16, 2))
            writer.append(episode)
    seal([part], path)
    return Dataset(path)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return record(tmp_path_factory.mktemp("data") / "square.h5", 100)


@pytest.fixture(scope="module")
def world_dir(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    tiny = PRESETS["tiny"]
    config = replace(
        tiny,
        prior=replace(tiny.prior, status=StatusConfig("place", (0.5, 1.5, 2.5))),
        train_tokenizer=replace(tiny.train_tokenizer, num_steps=50),
        train_prior=replace(tiny.train_prior, num_steps=40),
    )
    out = tmp_path_factory.mktemp("runs") / "square"
    train_world(data, out, config)
    return out


@pytest.fixture(scope="module")
def world(world_dir: Path) -> WorldModel:
    return WorldModel.from_pretrained(world_dir)


@pytest.fixture(scope="module")
def result(world: WorldModel, data: Dataset) -> dict:
    def find_square(frame: np.ndarray) -> list[tuple[str, float, float]]:
        bright = np.argwhere(frame[..., 0] > 100)
        return [("square", *bright.mean(0))] if len(bright) else []

    everything = replace(SMALL, metrics=("all",))
    return evaluate(world, data, policies_of(data), everything, rules=EnvironmentRules(find_square))


def test_every_metric_reports_values_with_baselines(result: dict) -> None:
    metrics = {name: metric for section in result["sections"].values() for name, metric in section.items()}
    assert next(iter(result["sections"])) == "free run"
    assert set(metrics) == {name for name, metric in METRICS.items() if not metric.assets}
    for name, metric in metrics.items():
        assert metric["better"] in ("higher", "lower", "real")
        assert metric["values"] or name in OPTIONAL, name
        for value in metric["values"]:
            assert value["baselines"], name
            low, mean, high = (value["value"][end] for end in ("low", "mean", "high"))
            assert low is None or low - 1e-9 <= mean <= high + 1e-9, name
    text = table(result)
    assert all(name in text for name in metrics)
    assert "not played in the dream: ppo" in text
    assert any("test and validation" in note for note in result["notes"])
    assert any("Hazards are calibrated on the validation split" in note for note in result["notes"])
    assert any("of 5 comparisons that count" in note for note in result["notes"])
    # what is certain of this world
    (nats,) = metrics["nats"]["values"]
    assert 0 < nats["value"]["mean"] < nats["baselines"]["unigram"]["mean"]
    (gap,) = metrics["control_gap"]["values"]
    assert gap["value"]["mean"] == pytest.approx(nats["baselines"]["other actions"]["mean"] - nats["value"]["mean"])
    (end,) = metrics["end_mean"]["values"]
    assert 0 < end["baselines"]["real"]["mean"] < 0.3
    psnr_of = metrics["psnr"]["values"][0]
    assert psnr_of["baselines"]["reconstruction"]["mean"] > psnr_of["baselines"]["mean frame"]["mean"]
    for picture in (free_run_bars(result), prediction_curves(result)):
        assert picture.startswith(b"\x89PNG")


def test_same_seed_same_values(world: WorldModel, data: Dataset, result: dict) -> None:
    names = ("policy_order", "motion", "psnr", "end_precision")  # each of them drawn
    again = evaluate(world, data, policies_of(data), replace(SMALL, metrics=names))
    for section, metrics in again["sections"].items():
        for name, metric in metrics.items():
            assert json.dumps(metric) == json.dumps(result["sections"][section][name])
    names = ("steps_survived", "control_psnr")
    other = evaluate(world, data, policies_of(data), replace(SMALL, seed=5, metrics=names))
    assert [list(section) for section in other["sections"].values()] == [["steps_survived"], ["control_psnr"]]
    assert other["sections"]["prediction"] != {"control_psnr": result["sections"]["prediction"]["control_psnr"]}


def test_clips_of_one_episode_have_no_interval(world: WorldModel, data: Dataset) -> None:
    run = EvaluationRun(world, data, {}, replace(SMALL, clips=3, ahead=1))
    run.clips = replace(run.clips, episodes=np.zeros(3, np.int64))  # as if all were of one
    for name in ("nats", "control_gap", "psnr", "bright_recall", "control_psnr", "reconstruction_psnr"):
        for value in METRICS[name].function(run):
            lows = [value.value.low, *(baseline.low for baseline in value.baselines.values())]
            assert lows == [None] * len(lows), name


def test_a_registered_metric_is_evaluated_and_printed(
    world: WorldModel, data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worldmodel.metrics.metric_registry.METRICS", registry := dict(METRICS))

    def clip_length(run: EvaluationRun) -> list[MetricValue]:
        return [MetricValue("all", Estimate(float(run.length)), {"none": Estimate(0.0)}, "long")]

    register(Metric("clip_length", "mine", "frames of a clip", "frames", "higher", clip_length))
    found = evaluate(world, data, {}, replace(SMALL, metrics=("clip_length",)))
    value = found["sections"]["mine"]["clip_length"]["values"][0]
    assert value["value"]["mean"] == world.prior.window + 3
    assert "clip_length (frames; higher is better)" in table(found)
    with pytest.raises(UserError, match="already"):
        register(registry["clip_length"])


def test_events_equal_the_recording_and_stop_at_the_end_of_a_dream(world: WorldModel, data: Dataset) -> None:
    run = EvaluationRun(world, data, policies_of(data), replace(SMALL, horizon=12, rows=24))
    number = int(data.episodes_of("test")[2])
    episode = data.episode(number)
    events = recorded_events(run, np.array([number]))
    assert events.active[0].sum() == episode.length
    assert events.reward[0].sum() == episode.rewards.sum()
    assert events.terminated[0].sum() == episode.terminations.sum()
    places = episode.variables["place"]
    falls = (places[1:] < places[:-1]) & episode.frame_valid[1:]
    np.testing.assert_array_equal(events.hit[0, : episode.length], falls)
    moved = np.abs(np.diff(episode.frames.astype(int), axis=0)).mean((1, 2, 3)) * episode.frame_valid[1:]
    np.testing.assert_allclose(events.motion[0, : episode.length], moved)

    def idle(seed: int, rows: int) -> Callable[[np.ndarray], np.ndarray]:
        return lambda frames: np.arange(rows) // 2 % 2  # half of the rows wait until they end, half move on

    events = dreamed_events(run, idle, 0, "idle")
    assert events.terminated.any()
    before = np.cumsum(events.terminated, 1) - events.terminated
    np.testing.assert_array_equal(events.active, before == 0)  # until the end and never after
    assert not (events.hit | events.has_frame)[~events.active].any()
    assert not events.reward[~events.active].any()
    assert not events.has_frame[events.terminated].any()  # this world's ends have no picture
    assert run.cached(run_policies) is run.cached(run_policies)
    counted = {c.label for c in run.cached(comparisons) if c.counts}
    measures = ("steps_survived", "hit_rate", "bright_share", "bright_frames", "motion")
    assert counted == {f"{measure}: random - sticky, 12 steps" for measure in measures}


def test_selected_rows_continue_as_they_would_have(world: WorldModel, data: Dataset) -> None:
    run = EvaluationRun(world, data, {}, SMALL)
    _, clip = run.code_clip(data.episodes_of("test")[:4], np.zeros(4, np.int64), 3)
    simulator = begin_dreams(world, clip, 3, torch.arange(4), Sampling())
    simulator.step(torch.tensor([1, 0, 1, 0]))
    kept = torch.tensor([1, 3])
    few = select_rows(simulator, kept)
    many, less = simulator.step(torch.tensor([1, 0, 1, 1])), few.step(torch.tensor([0, 1]))
    assert torch.equal(many.frames[kept], less.frames)
    torch.testing.assert_close(many.hazards[kept], less.hazards)


def test_outcomes_equal_the_probabilities_of_a_dream(world: WorldModel, data: Dataset) -> None:
    run = EvaluationRun(world, data, {}, SMALL)
    clip = run.clips.codes
    expected = world.prior.predict_outcomes(clip)
    assert expected.status_probs.shape == (*clip.rewards.shape, 4)
    torch.testing.assert_close(expected.status_probs.sum(-1), torch.ones(clip.rewards.shape))
    for frames in (1, 3):
        simulator = begin_dreams(world, clip, frames, torch.arange(len(clip.codes)), Sampling())
        out = simulator.step(clip.actions[:, frames - 1])
        torch.testing.assert_close(out.hazards, expected.hazards[:, frames - 1])


def test_bad_input_is_refused_in_one_sentence(
    world: WorldModel,
    world_dir: Path,
    data: Dataset,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(UserError, match="Did you mean 'bright_recall'"):
        evaluate(world, data, {}, replace(SMALL, metrics=("brigt_recall",)))
    with pytest.raises(UserError, match=r"frames \(32, 32, 3\), the world was learned from \(16, 16, 3\)"):
        evaluate(world, record(tmp_path / "large.h5", 10, size=32), {}, SMALL)
    with pytest.raises(UserError, match=r"actions Discrete\(n=3\)"):
        evaluate(world, record(tmp_path / "three.h5", 10, actions=3), {}, SMALL)
    with pytest.raises(UserError, match=r"split .*is empty: there is no"):
        evaluate(world, record(tmp_path / "few.h5", 3), {}, replace(SMALL, split="validation"))
    with pytest.raises(UserError, match="smaller --ahead"):
        evaluate(world, data, {}, replace(SMALL, ahead=40))
    with monkeypatch.context() as patch:
        patch.setattr(world.tokenizer, "time_stride", 4)
        with pytest.raises(UserError, match="span 4 frames"):
            evaluate(world, data, {}, SMALL)
    with monkeypatch.context() as patch:
        patch.setattr(world.prior, "max_frames", world.prior.window + 2)
        assert (
            longest_horizon(EvaluationRun(world, data, {}, replace(SMALL, ahead=2, horizon=40)))
            == world.prior.window + 1
        )
        with pytest.raises(UserError, match="give at most --ahead 2"):
            evaluate(world, data, {}, SMALL)
    with pytest.raises(UserError, match="--rows 1"):
        evaluate(world, data, {}, replace(SMALL, rows=1))
    file = ["--data", str(data.paths[0])]
    for arguments in ([str(tmp_path), *file], [str(world_dir), *file, "--split", "tset"]):
        with pytest.raises(SystemExit) as stop:
            cli.main(["eval", "world", *arguments])
        assert stop.value.code == 2
    assert "Did you mean 'test'" in capsys.readouterr().err


def test_the_command_writes_what_it_prints(
    world_dir: Path, data: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ["--metrics", "life,nats", "--clips", "4", "--ahead", "2", "--rows", "3", "--horizon", "4", "--device", "cpu"]
    out = tmp_path / "deep" / "judged.json"
    cli.main(["eval", "world", str(world_dir), "--data", str(data.paths[0]), "--json", "--out", str(out), *few])
    printed, saved = json.loads(capsys.readouterr().out), json.loads(out.read_text())
    assert printed["sections"] == saved["sections"]
    assert {name: list(metrics) for name, metrics in printed["sections"].items()} == {
        "free run": ["steps_survived"],  # "life" is its former name
        "likelihood": ["nats"],
    }
    assert saved["verb"] == "eval world"
