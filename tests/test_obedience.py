"""Obedience and permanence: every metric on worlds whose values are known by construction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import untrained
from hypothesis import given, settings
from hypothesis import strategies as st
from recordings import make_episode, make_header, write_part
from square import picture, record_square
from torch import Tensor

from worldmodel.common import spaces
from worldmodel.common.errors import UserError
from worldmodel.common.pixels import PixelSpec
from worldmodel.data import Dataset, seal
from worldmodel.envs.doom_battle import ACTION_LABELS, ACTION_SPACE
from worldmodel.envs.env_registry import row_of
from worldmodel.envs.toy_objects import find_agents
from worldmodel.metrics import METRICS, EnvironmentRules, EvaluationSettings, evaluate
from worldmodel.metrics.action_recognition import chance_f1, f1_statistic, r2_statistic
from worldmodel.metrics.clip_dreams import PairedDreams, paired_dreams, random_dreams
from worldmodel.metrics.dream_rollouts import Dreams
from worldmodel.metrics.environment_rules import DetectedObject
from worldmodel.metrics.evaluation_run import EvaluationRun
from worldmodel.metrics.inverse_dynamics import InverseDynamics, class_counts, train_inverse_dynamics
from worldmodel.metrics.metric_registry import select_metrics
from worldmodel.metrics.object_tracks import follow_objects, nearby
from worldmodel.metrics.opposite_actions import Opposites, hold, opposite_values, score, verdict
from worldmodel.metrics.statistics import Estimate

WINDOW = 3


class LosslessTokenizer:
    """Codes are the pixels."""

    time_stride, encoded_shape, border = 1, (16, 16, 3), None
    encoder_past, pixel_mean = 0, torch.zeros(3)

    def encode(self, frames: Tensor) -> Tensor:
        return frames.long().flatten(3)  # (B, T, H, W*3)

    def decode(self, codes: Tensor) -> Tensor:
        return codes.unflatten(-1, (-1, 3)).to(torch.uint8)

    def decode_at(self, codes: Tensor, steps: Any) -> Tensor:
        return self.decode(codes[:, steps])

    def encoded_part(self, frames: Tensor) -> Tensor:
        return frames


def square_world(step: Callable[[int, int], int]) -> Callable[..., Dreams]:
    """Dreams of the square world in which an action takes a place to `step(place, action)`."""
    pictures = np.stack([picture(place) for place in range(4)])

    def dream_clips(world: Any, clip: Any, actions: Tensor, num_frames: int, *_: Any) -> Dreams:
        last = LosslessTokenizer().decode(clip.codes[:, num_frames - 1]).numpy()
        places = (last[:, None] == pictures).all((2, 3, 4)).argmax(1).tolist()
        frames = []
        for t in range(actions.shape[1]):
            places = [step(place, int(action)) % 4 for place, action in zip(places, actions[:, t], strict=True)]
            frames.append(torch.from_numpy(pictures[places]))
        return Dreams(torch.stack(frames, 1), torch.zeros(actions.shape[:2], dtype=torch.bool))

    return dream_clips


WORLDS = {
    "perfect": square_world(lambda place, action: place + action),
    "frozen": square_world(lambda place, action: place),
    "reversed": square_world(lambda place, action: place + 1 - action),
}


def find_square(frame: np.ndarray) -> list[DetectedObject]:
    """The quarters that are not background."""
    bright = frame[..., 0].reshape(2, 8, 2, 8).mean((1, 3)) > 100
    return [("square", 8.0 * row + 3.5, 8.0 * column + 3.5) for row, column in np.argwhere(bright)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    torch.set_num_threads(1)
    return record_square(tmp_path_factory.mktemp("data") / "square.h5", 200)


@pytest.fixture(scope="module")
def trained() -> list[InverseDynamics]:
    """The inverse dynamics model, which does not depend on the world; empty until a test has trained it."""
    return []


@pytest.fixture
def make_run(
    data: Dataset, trained: list[InverseDynamics], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., EvaluationRun]:
    def make(world: str, train: bool = False, **rules: Any) -> EvaluationRun:
        monkeypatch.setattr("worldmodel.metrics.clip_dreams.dream_clips", WORLDS[world])
        prior = SimpleNamespace(window=WINDOW, max_frames=None, status_config=SimpleNamespace(variable=""))
        spec = SimpleNamespace(pixels=data.header.pixels, action_space=data.header.action_space)
        stub: Any = SimpleNamespace(tokenizer=LosslessTokenizer(), prior=prior, spec=spec, device=torch.device("cpu"))
        setting = EvaluationSettings(clips=24, ahead=4, inverse_steps=80)
        run = EvaluationRun(stub, data, {}, setting, None, EnvironmentRules(**rules))
        if train or not trained:
            trained[:] = [run.cached(train_inverse_dynamics)]
        run._cache[train_inverse_dynamics] = trained[0]
        return run

    return make


# -- delta-PSNR --------------------------------------------------------------------------------------------


def test_delta_psnr_is_zero_if_actions_are_ignored_and_positive_if_they_are_obeyed(make_run: Any) -> None:
    for value in METRICS["delta_psnr"].function(make_run("frozen")):
        assert [value.value.mean, value.value.low, value.value.high] == [0, 0, 0]
        assert value.baselines["another clip's actions"].mean == 0
    values = METRICS["delta_psnr"].function(make_run("perfect"))
    assert [value.label for value in values] == ["1 ahead", "2 ahead", "4 ahead"]
    assert all(value.value.sign == 1 for value in values)
    reversed_values = METRICS["delta_psnr"].function(make_run("reversed"))
    assert reversed_values[0].value.sign == -1


def test_delta_psnr_by_hand(make_run: Any) -> None:
    run = make_run("perfect")
    run.clips = replace(run.clips, frames=run.clips.frames[:2], episodes=np.array([0, 1]))
    shape = (2, 4, 16, 16, 3)
    run.clips.frames[:] = 100
    grey = {
        offset: Dreams(torch.full(shape, 100 + offset, dtype=torch.uint8), torch.zeros(shape[:2])) for offset in (1, 10)
    }

    run._cache = {paired_dreams: PairedDreams(grey[1], grey[1]), random_dreams: grey[10]}
    for value in METRICS["delta_psnr"].function(run):
        assert value.value.mean == pytest.approx(20)  # ten times the error is 20 dB
        assert value.baselines["another clip's actions"].mean == pytest.approx(0)


# -- the inverse dynamics model ----------------------------------------------------------------------------


def test_a_perfect_dream_reaches_the_score_of_reconstructions(make_run: Any) -> None:
    share, score_of_all, right, _, change, change_score = METRICS["inverse_dynamics"].function(make_run("perfect"))
    assert share.value.mean == right.value.mean == change.value.mean == 1
    assert change_score.baselines["previous action"].mean == 0
    assert share.verdict == "reaches the goal"
    assert score_of_all.value.mean > 0.95
    assert score_of_all.value == score_of_all.baselines["real frames"] == score_of_all.baselines["reconstruction"]
    assert score_of_all.baselines["chance"].mean == pytest.approx(0.5, abs=0.05)
    assert score_of_all.baselines["previous action"].mean < 0.7


@pytest.mark.parametrize("world", ["frozen", "reversed"])
def test_a_dream_that_ignores_or_reverses_actions_is_below_the_goal(make_run: Any, world: str) -> None:
    share, score_of_all, *_ = METRICS["inverse_dynamics"].function(make_run(world))
    assert share.verdict == "below the goal"
    assert score_of_all.value.mean < (0.45 if world == "frozen" else 0.3)
    if world == "frozen":
        again = METRICS["inverse_dynamics"].function(make_run(world, train=True))
        assert again[0] == share  # the same seed gives the same model


@pytest.mark.parametrize(("world", "expected"), [("perfect", 1.0), ("frozen", 0.5), ("reversed", 0.0)])
def test_opposite_actions_have_opposite_effects_in_an_obedient_world(
    make_run: Any, world: str, expected: float
) -> None:
    (value,) = METRICS["opposite_actions"].function(make_run(world, opposites=(("stay", "move"), ("up", "down"))))
    assert value.label == "stay / move, 4 steps"
    assert value.value.mean == expected
    assert value.verdict == {1.0: "right sign", 0.5: "", 0.0: "wrong sign"}[expected]
    assert value.baselines["real frames"].mean == 1
    assert METRICS["opposite_actions"].function(make_run(world)) == []  # no pair is declared


def test_the_sign_of_opposite_actions_needs_an_interval_on_one_side() -> None:
    assert verdict(Estimate(0.75, 0.0, 1.0)) == ""
    assert verdict(Estimate(0.75, 0.6, 0.9)) == "right sign"
    assert verdict(Estimate(0.1, 0.0, 0.3)) == "wrong sign"
    assert verdict(Estimate(1.0)) == ""


def test_opposites_of_every_kind_of_space() -> None:
    def pairs(space: spaces.Space, labels: Any, actions: Any = None) -> list[Opposites]:
        header = SimpleNamespace(action_space=space, action_labels=labels)
        data = SimpleNamespace(header=header, flat=lambda name: np.asarray(actions, np.float32))
        rules = EnvironmentRules(opposites=(("left", "right"), ("back", "ahead")))
        return opposite_values(SimpleNamespace(data=data, rules=rules))  # type: ignore[arg-type]

    assert pairs(spaces.Discrete(3), ("noop", "right", "left")) == [Opposites("left / right", 0, (2, 1))]
    nested = (("back", "none", "ahead"), ("left", "none", "right"))
    found = pairs(spaces.MultiDiscrete((3, 3)), nested)
    assert found == [Opposites("left / right", 1, (0, 2)), Opposites("back / ahead", 0, (0, 2))]
    assert pairs(spaces.MultiDiscrete((3, 3)), ("move", "strafe")) == []
    assert pairs(spaces.MultiBinary(2), ("left", "right")) == []
    moves = [[-1, 0], [1, 1], [1, 0.5], [-1, 0]]
    found = pairs(spaces.Box((-1, 0), (1, 1)), ("dx", "lift"), moves)  # the lift has one sign only
    assert found == [Opposites("dx -, dx +", 0, (-1, 1))]

    actions = torch.zeros(2, 3, 2)
    assert hold(actions, 1, -0.5)[..., 1].eq(-0.5).all()
    assert hold(actions, 1, -0.5)[..., 0].eq(0).all()
    assert hold(torch.zeros(2, 3, dtype=torch.int64), 0, 2).eq(2).all()


def battle_run(*pairs: tuple[str, str], labels: tuple[str, ...] = ACTION_LABELS) -> Any:
    header = SimpleNamespace(action_space=ACTION_SPACE, action_labels=labels)
    return SimpleNamespace(data=SimpleNamespace(header=header), rules=EnvironmentRules(opposites=pairs))


def test_choices_of_a_component_are_opposites() -> None:
    for name in ("doom/battle", "doom/battle2"):
        row = row_of(name)
        assert row is not None
        turn, strafe = opposite_values(battle_run(*row.opposites))
        assert turn == Opposites("turn=0 / turn=10", 4, (0, 10))
        assert strafe == Opposites("strafe=1 / strafe=2", 1, (1, 2))
    assert opposite_values(battle_run(("turn=0", "turn=10"), labels=())) == []


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (("turn=0", "turn=11"), r"unknown opposite action 'turn=11'. Did you mean 'turn=1"),
        (("trun=0", "turn=10"), r"unknown opposite action 'trun=0'. Did you mean 'turn=0'\?"),
        (("turn=0", "strafe=1"), "'turn=0' and 'strafe=1': wanted two choices of one component"),
    ],
)
def test_opposites_that_are_no_choices_of_one_component_are_refused(pair: tuple[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        opposite_values(battle_run(pair))


def test_opposite_choices_of_a_component_are_held_in_dreams(tmp_path: Path) -> None:
    space = spaces.MultiDiscrete((3, 2))
    header = make_header(
        num_episodes=20, pixels=PixelSpec((16, 16)), action_space=space, action_labels=("turn", "attack"),
        variables=("lives",),
    )  # fmt: skip
    part = write_part(tmp_path / "a.part", header, [make_episode(header, i, 9) for i in range(20)])
    chosen = EvaluationSettings(clips=4, ahead=2, inverse_steps=2, metrics=("opposite_actions",))
    rules = EnvironmentRules(opposites=(("turn=0", "turn=2"),))
    with Dataset(seal([part], tmp_path / "a.h5")) as data:
        result = evaluate(untrained.make_world(space), data, {}, chosen, rules=rules)
    (value,) = result["sections"]["obedience"]["opposite_actions"]["values"]
    assert value["label"] == "turn=0 / turn=2, 2 steps"


SPACES = (spaces.Discrete(3), spaces.MultiDiscrete((2, 4)), spaces.MultiBinary(3), spaces.Box((-1, 0), (1, 4)))


@pytest.mark.parametrize("space", SPACES, ids=str)
@pytest.mark.parametrize("side", [(5, 7), (16, 16), (96, 70)])
def test_the_inverse_dynamics_model_takes_every_space_and_frame(space: spaces.Space, side: tuple[int, int]) -> None:
    model = InverseDynamics((*side, 3), space)
    frames = torch.randint(256, (2, 6, *side, 3), dtype=torch.uint8)
    outputs = model.outputs(frames)  # four actions of six frames
    assert outputs.shape == (2, 4, sum(class_counts(space)) or 2)
    choices = model.choices(outputs)
    assert choices.shape == (2, 4, *(space.shape or (1,)))
    actions = torch.from_numpy(np.stack([space.sample(np.random.default_rng(i)) for i in range(2)])).reshape(2, -1)
    weights = [torch.ones(n) for n in model.classes]
    assert torch.isfinite(model.loss(frames[:, :3], actions, weights))
    if model.classes:
        first = Opposites("", 0, (0, 1))
        np.testing.assert_allclose(score(model, outputs, first), (outputs[..., 1] - outputs[..., 0]).numpy())


def test_scores_by_hand() -> None:
    truth, found = np.array([0, 0, 1, 1, 1]), np.array([0, 1, 1, 1, 0])
    episode = np.array([0, 0, 1, 1, 1])
    f1 = f1_statistic(truth, found, episode)
    assert f1(np.ones((1, 2)))[0] == pytest.approx((2 * 1 / 4 + 2 * 2 / 6) / 2)
    assert f1(np.array([[1.0, 0.0]]))[0] == pytest.approx(2 * 1 / 3)  # class 1 does not occur in the first episode
    r2 = r2_statistic(np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 2.0, 3.0, 2.0]), np.array([0, 0, 1, 1]))
    assert r2(np.ones((1, 2)))[0] == pytest.approx(1 - 4 / 5)
    assert r2_statistic(np.ones(3), np.zeros(3), np.zeros(3, int))(np.ones((1, 1)))[0] == 0
    assert np.isnan(f1(np.zeros((1, 2)))[0])
    assert np.isnan(r2(np.zeros((1, 2)))[0])
    assert chance_f1(np.array([[0], [1], [2], [0], [1], [2]])) == pytest.approx(1 / 3)


def test_clips_of_one_episode_have_no_interval_and_no_score_has_no_share(
    make_run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run("perfect", opposites=(("stay", "move"),))
    run.clips = replace(run.clips, episodes=np.zeros(len(run.clips.episodes), np.int64))
    for name in ("inverse_dynamics", "opposite_actions", "delta_psnr"):
        for value in METRICS[name].function(run):
            lows = [value.value.low, *(baseline.low for baseline in value.baselines.values())]
            assert lows == [None] * len(lows), (name, value.label)
    monkeypatch.setattr(InverseDynamics, "choices", lambda self, outputs: np.full((*outputs.shape[:2], 1), 7))
    share, *_ = METRICS["inverse_dynamics"].function(make_run("perfect"))
    assert np.isnan(share.value.mean)
    assert share.verdict == ""


@pytest.mark.parametrize("space", untrained.SPACES.values(), ids=untrained.SPACES)
def test_every_action_space_is_evaluated(tmp_path: Path, space: spaces.Space) -> None:
    pixels = PixelSpec((16, 16))
    header = make_header(num_episodes=20, pixels=pixels, action_space=space, variables=("lives",))
    part = write_part(tmp_path / "a.part", header, [make_episode(header, i, 9) for i in range(20)])
    world = untrained.make_world(space)
    chosen = EvaluationSettings(
        clips=4, ahead=2, inverse_steps=2, metrics=("delta_psnr", "inverse_dynamics", "opposite_actions")
    )
    with Dataset(seal([part], tmp_path / "a.h5")) as data:
        result = evaluate(world, data, {}, chosen)
    section = result["sections"]["obedience"]
    assert [value["label"] for value in section["delta_psnr"]["values"]] == ["1 ahead", "2 ahead"]
    labels = [value["label"] for value in section["inverse_dynamics"]["values"]]
    assert labels[:2] == ["all steps, dream / reconstruction", "all steps"]
    assert ("all steps, component 1" in labels) == bool(space.shape)
    assert bool(section["opposite_actions"]["values"]) == isinstance(space, spaces.Box)
    assert any("Opposite actions are not tested" in note for note in result["notes"]) != isinstance(space, spaces.Box)


# -- permanence --------------------------------------------------------------------------------------------


def test_a_perfect_dream_keeps_every_object(make_run: Any) -> None:
    for name in ("permanence", "permanence_precision"):
        values = METRICS[name].function(make_run("perfect", objects=find_square))
        labels = [value.label for value in values if not value.label.startswith("moved")]
        assert labels == ["square, 1 ahead", "square, 2 ahead", "square, 4 ahead"]
        for value in values:
            assert value.value.mean == value.baselines["reconstruction"].mean == 1
            assert value.baselines["another clip"].mean < 0.6


def test_a_frozen_dream_equals_the_last_frame_repeated(make_run: Any) -> None:
    for name in ("permanence", "permanence_precision"):
        for value in METRICS[name].function(make_run("frozen", objects=find_square)):
            assert value.value == value.baselines["repeat last"]
            assert value.value.mean < 0.9
    assert METRICS["permanence"].function(make_run("frozen")) == []  # no rule


def test_objects_that_moved_are_counted_apart(make_run: Any) -> None:
    """A frozen dream finds none of those that left their place, and what it finds are those that stayed."""
    found = {
        name: METRICS["permanence"].function(make_run(name, objects=find_square)) for name in ("perfect", "frozen")
    }
    values = {name: {value.label: value.value.mean for value in of} for name, of in found.items()}
    assert values["perfect"]["moved, 4 ahead"] == 1
    assert values["frozen"]["moved, 4 ahead"] == 0
    assert values["frozen"]["square, 4 ahead"] > 0


def test_objects_of_several_kinds_are_counted_apart(make_run: Any) -> None:
    def two_kinds(frame: np.ndarray) -> list[DetectedObject]:
        return [*find_square(frame), ("corner", 0.0, 0.0)]

    values = {v.label: v.value.mean for v in METRICS["permanence"].function(make_run("frozen", objects=two_kinds))}
    assert values["corner, 4 ahead"] == 1
    assert values["all, 4 ahead"] == pytest.approx((1 + values["square, 4 ahead"]) / 2)


def test_objects_are_followed_by_hand() -> None:
    frames: list[list[DetectedObject]] = [
        [("a", 10, 10), ("a", 40, 40), ("b", 10, 10)],
        [("a", 10, 18), ("a", 44, 40)],  # both move; b is gone
        [("a", 48, 40)],  # the first is missed
        [("a", 10, 34), ("a", 52, 40), ("a", 60, 60)],  # and found where its motion has led it; another appears
    ]
    first, second, third = follow_objects(frames, 1.0)
    assert [track.kind for track in (first, second, third)] == ["a", "a", "b"]
    np.testing.assert_array_equal(first.positions, [[10, 10], [10, 18], [np.nan, np.nan], [10, 34]])
    np.testing.assert_array_equal(second.positions[:, 0], [40, 44, 48, 52])
    assert np.isnan(third.positions[1:]).all()
    gone = follow_objects([[("a", 10, 10), ("a", 50, 50)], *[[("a", 50, 50)]] * 3, [("a", 10, 10), ("a", 50, 50)]], 1)
    assert np.isnan(gone[0].positions[1:]).all()  # missed three times: what appears there is another
    alone = follow_objects([[("a", 0, 0)], [("a", 50, 50)]], 1.0)  # the only one of its kind
    np.testing.assert_array_equal(alone[0].positions[1], [50, 50])


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=5, unique=True),
    st.integers(-2, 2),
    st.integers(-2, 2),
    st.integers(1, 3),
)
def test_objects_in_common_motion_are_never_lost(
    grid: list[tuple[int, int]], down: int, right: int, scale: int
) -> None:
    starts = 32 * scale * np.asarray(grid, float)
    motion = 3 * scale * np.asarray([down, right])
    frames = [[("ball", *map(float, place)) for place in starts + t * motion] for t in range(6)]
    for track in follow_objects(frames, scale):  # in the order of the first frame
        assert not np.isnan(track.positions).any()
        np.testing.assert_array_equal(np.diff(track.positions, axis=0), np.broadcast_to(motion, (5, 2)))
    places = starts + np.asarray([0, 6 * scale])
    assert nearby(starts, places, scale).all()
    assert not nearby(starts[:1], starts[:1] + np.asarray([0, 6.5 * scale]), scale).any()
    assert not nearby(starts, np.zeros((0, 2)), scale).any()


def test_the_rule_of_the_toy_finds_the_agent_at_any_size() -> None:
    from worldmodel.envs.toy import CALM, FLASH, FLOOR, HIT, QUARTERS, STORM, _draw

    row = row_of("toy")
    assert row is not None
    assert row.objects.endswith(find_agents.__name__)
    noise = np.random.default_rng(0)
    for place in range(16):
        for lit, colour, floor in ((None, CALM, FLOOR), (QUARTERS[0], HIT, FLOOR), (None, HIT, STORM)):
            frame = _draw(place, lit, colour, floor)
            blurred = (frame + noise.integers(-20, 21, frame.shape)).clip(0, 255).astype(np.uint8)
            for image, size in ((frame, 16), (blurred, 16), (frame[::4, ::4], 4)):
                at = np.asarray(divmod(place, 4)) * size + (size - 1) / 2
                assert find_agents(image) == [("agent", *at)]
    assert find_agents(np.full((16, 16, 3), FLASH, np.uint8)) == []


def test_both_pushing_environments_have_the_rule_of_toys() -> None:
    push, goal = row_of("push"), row_of("push/goal")
    assert push is not None
    assert goal is not None
    assert push.objects == goal.objects != ""


# -- the registry ------------------------------------------------------------------------------------------


def test_metrics_that_train_a_model_are_evaluated_by_name_only(data: Dataset, tmp_path: Path) -> None:
    expensive = {"inverse_dynamics", "opposite_actions", "ladder_returns", "ladder_rank", "ladder_ratio"}
    weights = {"lpips", "lpips_vgg", "fvd"}
    assert {m.name for m in select_metrics(())} == set(METRICS) - expensive - weights
    assert {m.name for m in select_metrics(("all",))} == set(METRICS) - weights
    assert {m.name for m in select_metrics(("all", "fvd"))} == set(METRICS) - weights | {"fvd"}
    assert {m.name for m in select_metrics(("prediction",))} & weights == set()
    assert {m.name for m in select_metrics(("inverse_dynamics", "nats"))} == {"inverse_dynamics", "nats"}
    with pytest.raises(UserError, match="inverse_dynamics"):
        select_metrics(("inverse_dynamic",))
