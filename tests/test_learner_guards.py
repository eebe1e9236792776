"""Guards of a learner in dreams: several worlds, temperature, horizon, recorded starts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from square import record_square
from untrained import SPACES, make_world

from worldmodel.collect.collect_config import TrainPolicy
from worldmodel.collect.env_options import EnvOptions
from worldmodel.collect.learner_config import LearnerConfig
from worldmodel.collect.learner_envs import dream_envs
from worldmodel.collect.policy_training import train_policy
from worldmodel.common import spaces
from worldmodel.common.errors import UserError
from worldmodel.data import Dataset
from worldmodel.dream import DreamLearnerEnv, recorded_starts
from worldmodel.dream.held_dreams import HeldDreams
from worldmodel.dream.shadow_world import OutcomeRisk
from worldmodel.prior import StatusConfig

TINY = LearnerConfig(
    decisions=32, num_envs=4, rollout_steps=4, batch_size=16, epochs=1, frame_stack=2, width=2, last_action=True,
    temperature=1.2, horizon=5,
)  # fmt: skip


def run(out: Path, learner: LearnerConfig = TINY, **options: Any) -> TrainPolicy:
    options = {"world": Path("toy"), "more_worlds": (Path("toy"),), "test_episodes": 0, **options}
    return TrainPolicy(out, "", 0, EnvOptions(size=(16, 16)), learner, **options)


# -- several worlds ----------------------------------------------------------------------------------------


def test_rows_of_several_worlds_are_the_dreams_of_each_world() -> None:
    first, second = make_world(), make_world(hazard=-1.0)
    spread = DreamLearnerEnv([first, second], 5, seed=4, hold=2, last_action=True)
    parts = [DreamLearnerEnv(first, 2, seed=4, hold=2, last_action=True)]
    parts.append(DreamLearnerEnv(second, 3, seed=6, hold=2, last_action=True))
    np.testing.assert_array_equal(spread.reset(), np.concatenate([part.reset() for part in parts]))
    rng = np.random.default_rng(0)
    for _ in range(12):
        actions = rng.integers(3, size=5)
        observations, rewards, dones, infos = spread.step(actions)
        results = [part.step(actions[rows]) for part, rows in zip(parts, (slice(2), slice(2, 5)), strict=True)]
        np.testing.assert_array_equal(observations, np.concatenate([result[0] for result in results]))
        np.testing.assert_array_equal(rewards, np.concatenate([result[1] for result in results]))
        np.testing.assert_array_equal(dones, np.concatenate([result[2] for result in results]))
        assert [info.keys() for info in infos] == [info.keys() for result in results for info in result[3]]
    assert len(spread.worlds) == 2
    assert spread.horizon == 20
    spread.seed(9)
    seeded = DreamLearnerEnv([first, second], 5, seed=9, hold=2, last_action=True)
    np.testing.assert_array_equal(spread.reset(), seeded.reset())


def test_worlds_that_differ_are_refused() -> None:
    with pytest.raises(UserError, match="give worlds of one environment"):
        DreamLearnerEnv([make_world(), make_world(SPACES["Box"])], 4)
    with pytest.raises(UserError, match="at least one for each of the 3 worlds"):
        DreamLearnerEnv([make_world()] * 3, 2)


def test_settings_of_dreams_reach_them(tmp_path: Path) -> None:
    with dream_envs(run(tmp_path / "p")) as venv:
        assert [part.horizon for part in venv.parts] == [5, 5]
        assert [part.simulator.sampling.temperature for part in venv.parts] == [1.2, 1.2]
        venv.reset()
        lengths = []
        for _ in range(12):
            *_, infos = venv.step(np.zeros(4, int))
            lengths += [info["episode"]["l"] for info in infos if "episode" in info]
        assert lengths
        assert max(lengths) == 5


def test_a_policy_of_two_worlds_is_evaluated_and_tested_with_its_last_action(tmp_path: Path) -> None:
    config = run(tmp_path / "p", eval_every=9.0, eval_episodes=4, test_episodes=2)
    train_policy(config)
    rows = [json.loads(line) for line in (config.out / "curve.jsonl").read_text().splitlines()]
    assert rows[-1]["validation_episodes"] == 4
    tested = json.loads((config.out / "test.json").read_text())["rows"]
    assert tested[0]["policy"] == "dreamer"
    saved = json.loads((config.out / "policy.json").read_text())["learner"]
    assert saved["last_action"] is True


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"world": None, "more_worlds": (), "learner": replace(TINY, temperature=1.0)}, "learner.horizon is an option"),
        ({"world": None, "more_worlds": (), "learner": replace(TINY, horizon=None)}, "learner.temperature is"),
        ({"world": None, "learner": LearnerConfig()}, "more_worlds is an option of dreams"),
        ({"learner": replace(TINY, start_before_end=0.5)}, "give --starts-from"),
        ({"more_worlds": (), "learner": replace(TINY, disagreement_penalty=1.0)}, "give --more-worlds"),
    ],
)
def test_options_of_dreams_without_their_condition_are_refused(
    options: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=words):
        run(tmp_path, **options)


@pytest.mark.parametrize("change", [{"horizon": 0}, {"temperature": -1.0}, {"start_before_end": 1.5}])
def test_settings_out_of_range_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=rf"learner.{next(iter(change))}="):
        replace(TINY, **change)


# -- recorded starts ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return record_square(tmp_path_factory.mktemp("data") / "square.h5", 40, noise=20)


@pytest.fixture(scope="module")
def world(data: Dataset) -> Any:
    world = make_world(spaces.Discrete(2), status=StatusConfig("place", (0.5, 1.5, 2.5)))
    world.tokenizer.codebook.initialised.fill_(False)  # take codes from latents, so that frames have different ones
    frames = torch.from_numpy(data.frames(0, 0, 3)[None].copy())
    world.tokenizer.train().loss(frames, torch.ones(1, 3, dtype=torch.bool))
    return world.eval()


def test_dreams_begin_at_recorded_time_steps(data: Dataset, world: Any) -> None:
    dreams = DreamLearnerEnv(
        world, 30, seed=2, frame_stack=1, starts_from=data.paths, start_before_end=0.5, num_starts=50
    )
    observations = dreams.reset()  # (30, 3, 16, 16)
    episodes = data.episodes_of("train").tolist()
    frames = np.concatenate([data.frames(number, 0, int(data.lengths[number])) for number in episodes])
    codes = world.tokenizer.encode(torch.from_numpy(frames[None]))
    assert len(codes.flatten(2)[0].unique(dim=0)) > 4
    recorded = {frame.tobytes() for frame in world.tokenizer.decode(codes)[0].movedim(-1, 1).numpy()}
    assert all(observation.tobytes() in recorded for observation in observations)
    again = DreamLearnerEnv(
        world, 30, seed=2, frame_stack=1, starts_from=data.paths, start_before_end=0.5, num_starts=50
    )
    np.testing.assert_array_equal(again.reset(), observations)
    assert not np.array_equal(dreams.reset(), observations), "the next episode begins elsewhere"


def test_the_first_observation_shows_the_frames_before_a_recorded_start(data: Dataset, world: Any) -> None:
    dreams = DreamLearnerEnv(world, 40, seed=3, frame_stack=3, starts_from=data.paths)
    recorded = set()
    for number in data.episodes_of("train").tolist():
        frames = torch.from_numpy(data.frames(number, 0, int(data.lengths[number]))[None].copy())
        decoded = world.tokenizer.decode(world.tokenizer.encode(frames))[0].movedim(-1, 1).numpy()  # (T, 3, H, W)
        shown = [decoded[max(0, t - 2)].tobytes() + decoded[max(0, t - 1)].tobytes() + decoded[t].tobytes()
                 for t in range(len(decoded))]  # fmt: skip
        recorded.update(shown)
    observations = dreams.reset()  # (40, 9, 16, 16)
    assert all(observation.tobytes() in recorded for observation in observations)
    moved = observations[:, :3] != observations[:, 6:]
    assert moved.any((1, 2, 3)).mean() > 0.3, "the frames of a stack differ"


def test_the_first_observation_shows_the_action_before_a_recorded_start(data: Dataset, world: Any) -> None:
    dreams = HeldDreams(world, 40, seed=3, frame_stack=1, last_action=True, starts_from=data.paths)
    planes = dreams.reset()[:, 0, 0, 3:]  # (40, 2)
    assert dreams.starts is not None
    state = dreams.simulator.state
    context = dreams.starts.sample(state.seeds, state.episodes, 0.0)
    taken, has_action = context.actions[:, -1].numpy(), context.has_action[:, -1].numpy()
    assert has_action.mean() > 0
    np.testing.assert_array_equal(planes, 255 * (taken[:, None] == np.arange(2)) * has_action[:, None])


def test_a_first_step_without_a_known_status_costs_what_an_end_costs(world: Any) -> None:
    dreams = HeldDreams(world, 2, frame_stack=1, reward="status")
    unknown = torch.full((2,), torch.nan)
    probs = torch.tensor([[0.0, 0.25, 0.75, 0.0]] * 2)
    values = dreams.simulator.status_values
    assert probs.shape[1] == len(values)
    out = SimpleNamespace(status_probs=probs, hazards=torch.tensor([0.0, 1.0]))
    rewards = dreams._status_rewards(unknown, out)  # type: ignore[arg-type]
    np.testing.assert_allclose(rewards, [0, -(probs[0] @ values) / 100], rtol=1e-6)
    assert rewards[1] < 0


def test_contexts_are_those_of_the_recording(data: Dataset, world: Any) -> None:
    long = np.flatnonzero(data.lengths >= 5)[:3]
    episodes, frames = long[[0, 0, 1, 2]], np.array([0, 4, 1, 2])
    contexts = recorded_starts._contexts(world, data, episodes, frames)
    single = []
    for number, frame in zip(episodes.tolist(), frames.tolist(), strict=True):
        first, offset = max(0, frame - 2), int(data.step_offsets[number])
        place = data.flat("variables/place")[int(data.frame_offsets[number]) + frame]
        single.append(
            world.context(
                torch.from_numpy(data.frames(number, first, frame + 1).copy()[None]),
                torch.from_numpy(data.flat("actions")[offset + first : offset + frame].copy()[None]),
                status=torch.tensor([int(place)]),
            )
        )
    for name in vars(contexts):
        wanted = torch.cat([getattr(context, name) for context in single])
        found = getattr(contexts, name)
        assert sorted(map(str, found.tolist())) == sorted(map(str, wanted.tolist())), name


def test_starts_before_an_end_precede_terminations_and_losses(
    data: Dataset, world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[np.ndarray, np.ndarray]] = []
    monkeypatch.setattr(recorded_starts, "_contexts", lambda _w, _d, episodes, frames: calls.append((episodes, frames)))
    monkeypatch.setattr(recorded_starts, "LEAD_STEPS", 2)
    recorded_starts._before_ends(world, data, "train", 100, np.random.default_rng(0))
    ends = data.flat("terminations")
    for number, frame in zip(*calls[0], strict=True):
        offset, first = int(data.step_offsets[number]), int(data.frame_offsets[number])
        length = int(data.lengths[number])
        steps = slice(frame, min(length, frame + 2))
        places = data.flat("variables/place")[first : first + length + 1]
        lost = places[1:] < places[:-1]  # from place 3 to place 0
        assert ends[offset : offset + length][steps].any() or lost[steps].any()


def test_the_share_of_starts_before_an_end_is_as_given(data: Dataset, world: Any) -> None:
    starts = recorded_starts.recorded_starts(world, data.paths, before_end=True)
    assert starts.before_end is not None
    marked = recorded_starts.RecordedStarts(
        replace(starts.anywhere, status=torch.zeros_like(starts.anywhere.status)),
        replace(starts.before_end, status=torch.ones_like(starts.before_end.status)),
    )
    seeds, episodes = torch.arange(2000), torch.zeros(2000, dtype=torch.int64)
    assert marked.sample(seeds, episodes, 0.3).status.float().mean() == pytest.approx(0.3, abs=0.03)
    assert not marked.sample(seeds, episodes, 0.0).status.any()


def test_recordings_that_do_not_fit_the_world_are_refused(data: Dataset) -> None:
    with pytest.raises(UserError, match="give recordings of the world's environment"):
        DreamLearnerEnv(make_world(), 2, starts_from=data.paths)
    with pytest.raises(UserError, match="give starts_from"):
        DreamLearnerEnv(make_world(), 2, start_before_end=0.5)


# -- disagreement of two worlds ----------------------------------------------------------------------------


def test_disagreement_of_two_worlds_is_subtracted_from_the_reward() -> None:
    first, second = make_world(hazard=-2.5), make_world(hazard=-1.5)
    for parameter in second.prior.parameters():
        parameter.data.mul_(0.9)
    options: dict[str, Any] = {"seed": 4, "reward": "status", "hold": 2, "frame_stack": 1}
    penalised = DreamLearnerEnv([first, second], 8, **options, disagreement_penalty=3.0)
    plain = DreamLearnerEnv([first, second], 8, **options)
    np.testing.assert_array_equal(penalised.reset(), plain.reset())
    rng, penalties = np.random.default_rng(0), []
    for _ in range(10):
        actions = rng.integers(3, size=8)
        observations, rewards, dones, _ = penalised.step(actions)
        frames, plain_rewards, plain_dones, _ = plain.step(actions)
        np.testing.assert_array_equal(observations, frames)
        np.testing.assert_array_equal(dones, plain_dones)
        penalties.append(plain_rewards - rewards)
    assert (np.stack(penalties) >= -1e-6).all()
    assert np.mean(penalties) > 0.05
    same = DreamLearnerEnv([first, first], 8, **options, disagreement_penalty=3.0)
    same.reset()
    own = [same.step(actions)[1] for _ in range(3)]
    assert np.isfinite(own).all()


def test_a_shadow_predicts_what_its_world_predicts_of_the_same_frames() -> None:
    dreamed, world = make_world(hazard=-6.0), make_world(hazard=-1.0)
    world.tokenizer.codebook.embeddings.mul_(0.5)
    dreams = HeldDreams(dreamed, 4, world, seed=1, disagreement_penalty=1.0)
    dreams.reset()
    assert dreams.shadow is not None
    frames, actions = [dreams.simulator.state.frames], []
    rng = np.random.default_rng(0)
    for _ in range(5):
        actions.append(torch.from_numpy(rng.integers(3, size=4)))
        dreams.step(actions[-1].numpy())
        frames.append(dreams.simulator.state.frames)
    assert (dreams.lengths == 5).all()
    status = dreams.simulator.state.prior.status
    codes, valid = world.tokenizer.encode(torch.stack(frames, 1)), torch.ones(4, 6, dtype=torch.bool)
    context = world.prior.context(codes, valid, torch.stack(actions, 1), status)
    for name, value in vars(context).items():
        torch.testing.assert_close(getattr(dreams.shadow.context, name), value, rtol=0, atol=0)
    last = torch.zeros(4, dtype=torch.int64)
    predictions = world.prior.predict_step(world.prior.init_state(context), last)
    risk = dreams.shadow.predict(last)
    torch.testing.assert_close(risk.hazards, predictions.hazards)
    dreams._reset_rows(np.array([2]))
    begun = world.context(dreams.simulator.state.frames[2:3, None], last[:0].reshape(1, 0), status=status[2:3])
    torch.testing.assert_close(dreams.shadow.context.codes[2:3], begun.codes, rtol=0, atol=0)
    torch.testing.assert_close(dreams.shadow.context.codes[3:], context.codes[3:], rtol=0, atol=0)


def test_the_difference_of_outcomes_counts_ends_and_losses() -> None:
    sure, dead = OutcomeRisk(torch.tensor([0.0]), torch.tensor([80.0])), OutcomeRisk(torch.tensor([1.0]), torch.ones(1))
    assert sure.difference(sure).item() == 0
    assert sure.difference(dead).item() == pytest.approx(1.8)
    hurt = OutcomeRisk(torch.tensor([0.0]), torch.tensor([50.0]))
    assert hurt.difference(sure).item() == pytest.approx(0.3)


def test_a_penalty_without_a_fitting_second_world_is_refused() -> None:
    with pytest.raises(UserError, match="give several worlds"):
        DreamLearnerEnv(make_world(), 2, disagreement_penalty=1.0)
    other = make_world(status=StatusConfig("lives", (0.5,)))
    with pytest.raises(UserError, match="different hidden variables"):
        DreamLearnerEnv([make_world(), other], 2, disagreement_penalty=1.0)
    with pytest.raises(UserError, match="disagreement_penalty=-1"):
        DreamLearnerEnv(make_world(), 2, disagreement_penalty=-1.0)
