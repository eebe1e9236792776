"""`improve policy`: actions are compared under the same random numbers, and the policy moves to the better ones."""

from __future__ import annotations

import importlib
import itertools
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3.common.vec_env import DummyVecEnv

from worldmodel import envs
from worldmodel.cli import command_line as cli
from worldmodel.collect import policy_improvement, record
from worldmodel.collect.action_comparison import Comparisons, better_actions, compare_actions
from worldmodel.collect.batch_policies import batch_policy
from worldmodel.collect.collect_config import TrainPolicy
from worldmodel.collect.env_options import EnvOptions
from worldmodel.collect.improve_config import ImprovePolicy
from worldmodel.collect.learner_config import LearnerConfig
from worldmodel.collect.learner_model import new_model, save_model
from worldmodel.collect.lookahead_policy import LookaheadPolicy
from worldmodel.collect.lookahead_spec import LookaheadConfig, parse_lookahead
from worldmodel.collect.policies import NoisyPolicy
from worldmodel.collect.policy_evaluation import evaluate
from worldmodel.collect.policy_improvement import fit, improve_policy
from worldmodel.collect.policy_specs import describe_policy_file, load_policy_file, parse_noisy_policy
from worldmodel.collect.policy_training import train_policy
from worldmodel.common.errors import UserError
from worldmodel.data import Dataset
from worldmodel.dream import DreamLearnerEnv
from worldmodel.world.hub import find_world
from worldmodel.world.world_model import WorldModel

LEARNER = LearnerConfig(
    num_envs=32, decisions=2_500, learning_rate=3e-3, gamma=0.97, rollout_steps=16, batch_size=256,
    checkpoint_seconds=600, width=8, frame_stack=2,
)  # fmt: skip


class Images(gym.Env):
    """Spaces only."""

    observation_space = gym.spaces.Box(0, 255, (3, 16, 16), np.uint8)
    action_space = gym.spaces.Discrete(3)


def small_model(folder: Path, space: gym.Space | None = None) -> Any:
    env = Images()
    if space is not None:
        env.action_space = space  # type: ignore[assignment]
    learner = replace(LEARNER, num_envs=1, frame_stack=1)
    return new_model(learner, DummyVecEnv([lambda: env]), 0, folder, "cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "toy.h5"
    return record("toy", "sticky", path, episodes=40, size=16, progress=False)


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained policy of the toy."""
    out = tmp_path_factory.mktemp("policy")
    model = new_model(replace(LEARNER, num_envs=2), DreamLearnerEnv("toy", 2, frame_stack=2), 0, out, "cpu")
    save_model(model, out / "policy.zip")
    fields = {**vars(LEARNER), "view": None}
    (out / "policy.json").write_text(json.dumps({"env": "toy", "learner": fields, "result": {}}))
    return out


def config(policy: Path, data: Path, out: Path, **changes: Any) -> ImprovePolicy:
    fields: dict[str, Any] = {"minutes": 1e-6, "epochs": 1, "num_starts": 64, "num_envs": 20, "backend": "torch"}
    return ImprovePolicy(policy, Path("toy"), (data,), out, **{**fields, **changes})


def test_dreams_of_one_seed_are_alike_until_their_actions_differ(data: Path) -> None:
    dreams = DreamLearnerEnv("toy", 4, frame_stack=2, starts_from=data, num_starts=64)
    first = dreams.reset_with_seeds(np.array([5, 5, 5, 6]))
    assert np.array_equal(first[0], first[2])
    assert not np.array_equal(first[0], first[3])
    rewards = []
    for action in (1, 3, 1, 2):
        observations, reward, *_ = dreams.step(np.array([action, action, 0, action]))
        assert np.array_equal(observations[0], observations[1])
        rewards.append(reward)
    assert np.array_equal(np.array(rewards)[:, 0], np.array(rewards)[:, 1])
    again = dreams.reset_with_seeds(np.array([5, 5, 5, 6]))
    assert np.array_equal(again, first), "a seed begins alike, whatever was dreamed before"


def test_a_comparison_is_a_function_of_its_seed_and_discounts_the_rewards(data: Path, policy: Path) -> None:
    model = policy_improvement.load_model(policy / "policy.zip", "ppo")
    dreams = DreamLearnerEnv("toy", 50, frame_stack=2, starts_from=data, num_starts=64)
    one, again, other = (compare_actions(dreams, model, 3, 0.9, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.returns, again.returns)
    np.testing.assert_array_equal(one.observations, again.observations)
    assert not np.array_equal(one.observations, other.observations)
    assert one.returns.shape == one.probabilities.shape == (10, 5)
    np.testing.assert_allclose(one.probabilities.sum(1), 1, rtol=1e-5)
    single, twice = (compare_actions(dreams, model, decisions, 0.0, 1) for decisions in (1, 4))
    np.testing.assert_array_equal(single.returns, twice.returns)  # with discount 0 the first decision alone counts


class SeededDreams:
    """Rewards are a random number of the row's seed and step, plus the action in the first step; rows end at step 3."""

    action_space = gym.spaces.Discrete(3)
    num_envs = 12

    def reset_with_seeds(self, seeds: np.ndarray) -> np.ndarray:
        self.generators = [np.random.default_rng(seed) for seed in seeds]
        self.time = 0
        return np.zeros((12, 3, 16, 16), np.uint8)

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict]]:
        rewards = np.array([generator.normal() for generator in self.generators])
        rewards = rewards + actions * (self.time == 0) + 100.0 * (self.time >= 3)
        self.time += 1
        return np.zeros((12, 3, 16, 16), np.uint8), rewards, np.full(12, self.time == 3), [{}] * 12


def test_what_dreams_of_a_state_share_cancels_in_their_difference(tmp_path: Path) -> None:
    comparisons = compare_actions(SeededDreams(), small_model(tmp_path), 5, 0.9, 0)
    assert len(comparisons) == 4
    np.testing.assert_allclose(comparisons.returns - comparisons.returns[:, :1], [[0, 1, 2]] * 4, atol=1e-5)
    assert np.abs(comparisons.returns).max() < 20, "nothing counts after the end"
    assert comparisons.returns[:, 0].std() > 0.1


def bright_side(num: int, seed: int) -> Comparisons:
    """States whose best action is 1 if the left half is bright and 2 if the right is; returns are very noisy."""
    rng = np.random.default_rng(seed)
    right = rng.random(num) < 0.5
    observations = rng.integers(0, 60, (num, 3, 16, 16), np.uint8)
    observations[right, :, :, 8:] += 150
    observations[~right, :, :, :8] += 150
    returns = rng.normal(0, 1, (num, 3)) + np.stack([0 * right, ~right, right], 1)
    return Comparisons(observations, returns.astype(np.float32), np.full((num, 3), 1 / 3, np.float32))


@pytest.mark.parametrize("mirror", [False, True])
def test_a_fit_finds_the_better_action_through_noise(tmp_path: Path, mirror: bool) -> None:
    torch.manual_seed(0)
    model = small_model(tmp_path)
    parts = [bright_side(200, seed) for seed in range(10)]
    settings = config(tmp_path, tmp_path, tmp_path, epochs=4, batch_size=64, learning_rate=3e-3)
    result = fit(model, parts, settings, np.array([0, 2, 1]) if mirror else None)
    new = bright_side(100, 99)
    probabilities = policy_improvement.action_probabilities(model, new.observations)
    wanted = np.where(new.observations[:, :, :, 8:].mean((1, 2, 3)) > 100, 2, 1)
    assert (probabilities.argmax(1) == wanted).mean() > 0.95
    assert result["states"] == 2000
    assert result["gain"]["low"] > 0.3, "the true gain is 2/3"


def test_a_fit_stays_near_the_old_policy_where_the_weight_says_so(tmp_path: Path) -> None:
    parts = [bright_side(200, seed) for seed in range(4)]
    gains = []
    for weight in (0.0, 100.0):
        torch.manual_seed(0)
        settings = config(tmp_path, tmp_path, tmp_path, epochs=4, batch_size=64, kl_weight=weight)
        gains.append(fit(small_model(tmp_path), parts, settings, None)["gain"]["mean"])
    assert abs(gains[1]) < 0.1 * gains[0]


def test_a_stopped_run_continues_to_the_same_policy(
    data: Path, policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy_improvement, "BATCHES", 2)
    whole = improve_policy(config(policy, data, tmp_path / "whole"))
    save, saved = Comparisons.save, []

    def stop(self: Comparisons, path: Path, minutes: float) -> None:
        if saved:
            raise KeyboardInterrupt
        saved.append(path)
        save(self, path, minutes)

    monkeypatch.setattr(Comparisons, "save", stop)
    with pytest.raises(KeyboardInterrupt):
        improve_policy(config(policy, data, tmp_path / "stopped"))
    monkeypatch.setattr(Comparisons, "save", save)
    with monkeypatch.context() as changed:
        changed.setattr(policy_improvement, "file_hash", lambda path: "0" * 64)
        with pytest.raises(UserError, match="was begun with another policy"):
            improve_policy(config(policy, data, tmp_path / "stopped"))
    continued = improve_policy(config(policy, data, tmp_path / "stopped"))
    models = [policy_improvement.load_model(path, "ppo").policy.state_dict() for path in (whole, continued)]
    for name, tensor in models[0].items():
        assert torch.equal(tensor, models[1][name]), name
    old = policy_improvement.load_model(policy / "policy.zip", "ppo").policy.state_dict()
    assert any(not torch.equal(tensor, old[name]) for name, tensor in models[0].items())
    assert not (tmp_path / "stopped" / "labels").exists()
    result = json.loads((tmp_path / "stopped" / "policy.json").read_text())["result"]
    assert result["states"] == 16
    with pytest.raises(UserError, match="another run"):
        improve_policy(config(policy, data, tmp_path / "stopped", epochs=2))


def test_the_gain_is_measured_in_episodes_that_were_not_learned_from(
    data: Path, policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy_improvement, "BATCHES", 2)
    monkeypatch.setenv("TQDM_DISABLE", "1")
    splits: list[str] = []

    class Recorded(DreamLearnerEnv):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            self.split = options["starts_split"]
            super().__init__(*arguments, **options)

        def reset_with_seeds(self, seeds: np.ndarray) -> np.ndarray:
            splits.append(self.split)
            return super().reset_with_seeds(seeds)

    monkeypatch.setattr("worldmodel.dream.DreamLearnerEnv", Recorded)
    improve_policy(config(policy, data, tmp_path / "out", minutes=60, states=88, backend="torch"))
    assert splits == ["train"] * 2 + ["validation"] * 2 + ["train"] * 18
    assert json.loads((tmp_path / "out" / "policy.json").read_text())["result"]["states"] == 88


def test_what_cannot_be_improved_is_refused(data: Path, policy: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "policy.zip").write_bytes((policy / "policy.zip").read_bytes())
    with pytest.raises(UserError, match=r"wanted a directory with policy\.json"):
        improve_policy(config(bare, data, tmp_path / "out"))
    saved = json.loads((policy / "policy.json").read_text())
    saved["learner"]["algo"] = "dqn"
    (bare / "policy.json").write_text(json.dumps(saved))
    with pytest.raises(UserError, match="trained by dqn; wanted a policy of ppo or a2c"):
        improve_policy(config(bare, data, tmp_path / "out"))
    save_model(small_model(tmp_path, gym.spaces.Box(-1, 1, (2,))), tmp_path / "box.zip")
    with pytest.raises(UserError, match=r"is a PPO with actions Box.* wanted PPO or A2C with a Discrete action space"):
        policy_improvement.load_model(tmp_path / "box.zip", "ppo")
    other = replace(LEARNER, frame_stack=3)
    model = new_model(replace(other, num_envs=2), DreamLearnerEnv("toy", 2, frame_stack=3), 0, tmp_path, "cpu")
    save_model(model, bare / "policy.zip")  # whose policy.json has two frames
    (bare / "policy.json").write_text((policy / "policy.json").read_text())
    with pytest.raises(UserError, match=r"observation_space .* give the world of the environment"):
        improve_policy(config(bare, data, tmp_path / "other"))
    with pytest.raises(UserError, match=r"policy .*nowhere: wanted a file or a directory"):
        improve_policy(config(tmp_path / "nowhere", data, tmp_path / "out"))
    for changes, message in (
        ({"decisions": 0}, "decisions=0"),
        ({"start_before_end": 2.0}, "share from 0 to 1"),
        ({"states": 0}, "states=0"),
    ):
        with pytest.raises(UserError, match=message):
            config(policy, data, tmp_path, **changes)


@pytest.mark.slow
def test_an_improved_policy_of_the_toy_is_better_outside(tmp_path: Path) -> None:
    size, base, own = EnvOptions(size=(16, 16)), tmp_path / "base", tmp_path / "own.h5"
    learner = replace(LEARNER, decisions=6_000)
    train_policy(TrainPolicy(base, "toy", 0, size, learner, world=Path("toy"), test_episodes=0))
    record("toy", str(base), own, episodes=120, size=16, progress=False)
    command = [
        "improve",
        "policy",
        str(base),
        "--world",
        "toy",
        "--starts-from",
        str(own),
        "--out",
        str(tmp_path / "new"),
    ]
    lengths = ["--minutes", "60", "--states", "12000", "--decisions", "8", "--epochs", "30", "--num-envs", "160"]
    cli.main([*command, *lengths, "--start-before-end", "0", "--learning-rate", "3e-3", "--kl-weight", "0.05"])
    policies = {name: describe_policy_file(tmp_path / name / "policy.zip") for name in ("new", "base")}
    new, old = (np.asarray(row["returns"]) for row in evaluate(policies, "toy", size.kwargs(), 600, 2_000_000, 1))
    gain = new - old
    assert gain.mean() - 1.96 * gain.std(ddof=1) / len(gain) ** 0.5 > 0


def test_lookahead_takes_an_action_that_dreams_promise_more_for(policy: Path) -> None:
    world = WorldModel.from_pretrained("toy")
    model = policy_improvement.load_model(policy / "policy.zip", "ppo")
    learner = replace(LEARNER, hold=2)
    env = envs.make("toy", size=(16, 16))
    played = {}
    for margin in (0.0, 1e9):
        ahead = LookaheadPolicy(model, learner, world, dreams=4, decisions=2, margin=margin)
        for attempt in range(2):
            frame, _ = env.reset(seed=3)
            ahead.begin(np.random.default_rng(3))
            actions = []
            for _ in range(12):
                actions.append(ahead.act(frame))
                frame, *_ = env.step(actions[-1])
            assert actions == played.setdefault(margin, actions), f"attempt {attempt} differs"
        assert actions[::2] == actions[1::2], "a decision is held"
        assert ahead.decided == 12
        assert (ahead.changed > 0) == (margin == 0)
    assert played[0.0] != played[1e9]
    env.close()


def test_lookahead_of_a_policy_that_observes_its_last_action(tmp_path: Path) -> None:
    learner = replace(LEARNER, num_envs=2, last_action=True, hold=2)
    dreams = DreamLearnerEnv("toy", 2, frame_stack=2, last_action=True)
    model = new_model(learner, dreams, 0, tmp_path, "cpu")
    world, choices = WorldModel.from_pretrained("toy"), np.arange(5)
    env = envs.make("toy", size=(16, 16))
    ahead = LookaheadPolicy(model, learner, world, dreams=1, decisions=1, margin=1e9)
    observed: list[np.ndarray] = []
    decide = ahead._decide
    ahead._decide = lambda x: observed.append(x) or decide(x)  # type: ignore[method-assign, func-returns-value]
    ahead.begin(np.random.default_rng(0))
    frame, _ = env.reset(seed=0)
    actions = []
    for _ in range(4):
        actions.append(ahead.act(frame))
        frame, *_ = env.step(actions[-1])
    assert [x.shape for x in observed] == [(16, 16, 6 + len(choices))] * 2
    assert not observed[0][..., 6:].any(), "no action yet"
    np.testing.assert_array_equal(observed[1][0, 0, 6:], 255 * (choices == actions[1]))
    env.close()


def test_lookahead_continues_from_the_actions_that_were_executed(policy: Path) -> None:
    model = policy_improvement.load_model(policy / "policy.zip", "ppo")
    ahead = LookaheadPolicy(model, replace(LEARNER, hold=2), WorldModel.from_pretrained("toy"), dreams=1, decisions=1)
    chosen: list[int] = []
    act = ahead.act
    ahead.act = lambda frame: chosen.append(act(frame)) or chosen[-1]  # type: ignore[method-assign, func-returns-value]
    env = envs.make("toy", size=(16, 16))
    noisy = NoisyPolicy(ahead, env.meta.action_space, 0.5)
    noisy.begin(np.random.default_rng(1))
    frame, _ = env.reset(seed=1)
    executed = []
    for _ in range(8):
        executed.append(int(noisy.act(frame)))
        frame, *_ = env.step(executed[-1])
    assert executed != chosen
    assert list(ahead.actions) == executed[-len(ahead.actions) :]
    env.close()


def test_lookahead_is_a_policy_for_recordings_and_evaluations(policy: Path, tmp_path: Path) -> None:
    text, env = f"lookahead:{policy}:toy", {"size": (16, 16), "max_steps": 4}
    path = record("toy", text, tmp_path / "ahead.h5", episodes=2, progress=False, epsilon=0.25, **env)
    with Dataset(path) as dataset:
        recorded = dataset.header.policies[0]
    alone = describe_policy_file(policy / "policy.zip")
    assert recorded.name == "lookahead"
    assert recorded.params["lookahead"]["world"] == "toy"
    assert recorded.hash != alone.hash
    space = envs.make("toy", **env).meta.action_space
    spec = parse_noisy_policy(f"{text}@0.25", space, {})
    assert (spec.hash, spec.epsilon) == (recorded.hash, 0.25)
    policies = {"alone": alone, "ahead": parse_noisy_policy(text, space, {})}
    rows = evaluate(policies, "toy", env, 6, 2_000_000, 1)
    assert rows[0]["returns"] != rows[1]["returns"]


def test_lookahead_is_refused_where_it_cannot_work(policy: Path, tmp_path: Path) -> None:
    for text in ("lookahead:toy", "lookahead::toy", f"lookahead:{policy}:"):
        with pytest.raises(UserError, match="wanted lookahead:POLICY:WORLD"):
            parse_lookahead(text)
    with pytest.raises(UserError, match="nowhere: wanted a file or a directory"):
        parse_lookahead("lookahead:nowhere:toy")
    with pytest.raises(UserError, match="is not a world directory"):
        parse_lookahead(f"lookahead:{policy}:{policy}")
    for changes in ({"dreams": 0}, {"decisions": 0}, {"margin": -1.0}, {"backend": "tpu"}):
        with pytest.raises(UserError, match="wanted at least 1, 1 and 0"):
            LookaheadConfig("toy", **changes)  # type: ignore[arg-type]
    ahead = describe_policy_file(policy / "policy.zip", lookahead=LookaheadConfig("toy"))
    env = envs.make("toy", size=16)
    with pytest.raises(UserError, match="plays in environments, not in dreams"):
        batch_policy(ahead, env.meta.action_space, env)
    with pytest.raises(UserError, match=r"the world toy has .*give a world of this environment"):
        load_policy_file(ahead, envs.make("toy", size=32))
    with pytest.raises(UserError, match="there is no world directory"):
        describe_policy_file(policy / "policy.zip", lookahead=LookaheadConfig("nowhere"))
    bare = tmp_path / "policy.zip"
    bare.write_bytes((policy / "policy.zip").read_bytes())
    with pytest.raises(UserError, match=r"needs the policy\.json"):
        load_policy_file(describe_policy_file(bare, lookahead=LookaheadConfig("toy")), env)
    other = replace(ahead, params={**ahead.params, "lookahead": {**ahead.params["lookahead"], "dreams": 5}})
    with pytest.raises(UserError, match="changed since"):
        load_policy_file(other, env)
    copy = shutil.copytree(find_world("toy"), tmp_path / "world")
    copied = describe_policy_file(policy / "policy.zip", lookahead=LookaheadConfig(str(copy)))
    weights = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    with pytest.raises(UserError, match=r"or the world .* changed since"):
        load_policy_file(copied, env)


@pytest.mark.slow
def test_the_lookahead_benchmark_continues_and_compares_on_the_same_seeds(policy: Path, tmp_path: Path) -> None:
    script, out = Path(__file__).parent.parent / "benchmarks" / "lookahead.py", tmp_path / "lookahead.json"
    command = [sys.executable, str(script), str(policy), "--world", "toy", "--out", str(out), "--workers", "1"]
    command += ["--against", "random"]
    for episodes in ("2", "3"):
        subprocess.run([*command, "--episodes", episodes, "--dreams", "1", "--decisions", "1"], check=True, timeout=300)
        report = json.loads(out.read_text())
        assert [row["seed"] for row in report["episodes"]] == list(range(2_000_000, 2_000_000 + int(episodes)))
    returns = [row["return"] for row in report["episodes"]]
    assert report["figures"]["with lookahead"]["mean"] == pytest.approx(np.mean(returns))
    figures = {name: value["mean"] for name, value in report["figures"].items()}
    for other in ("alone", "random", "actions of the next episode"):
        assert figures[f"lookahead minus {other}"] == pytest.approx(figures["with lookahead"] - figures[other])
    env = envs.make("toy", size=(16, 16))
    first, second = (row["actions"] for row in report["episodes"][:2])
    for episode, actions in ((0, first), (1, second)):
        env.reset(seed=2_000_000 + episode)
        assert sum(env.step(action)[1] for action in actions) == pytest.approx(returns[episode])
    env.reset(seed=2_000_000)
    replayed, over = 0.0, False
    for action in itertools.chain(second, report["episodes"][2]["actions"], first):
        if not over:
            _, reward, terminated, truncated, _ = env.step(action)
            replayed, over = replayed + reward, terminated or truncated
    env.close()
    assert report["returns"]["actions of the next episode"][0] == pytest.approx(replayed)
    wrong = subprocess.run([*command, "--margin", "5"], capture_output=True, text=True, timeout=300)
    assert wrong.returncode == 2
    assert "has other settings" in wrong.stderr


def test_runs_of_the_lookahead_benchmark_are_pooled(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "benchmarks"))
    script = importlib.import_module("pool_lookahead")
    reports = [
        {"settings": {"world": world}, "episodes": [{"seed": first + i, "return": x} for i, x in enumerate(own)],
         "returns": {"random": other}}
        for world, first, own, other in (("a", 10, [5.0, 7.0, 9.0], [1.0, 1.0]), ("b", 20, [3.0, 1.0], [4.0, 0.0]))
    ]  # fmt: skip
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    for file, report in zip(files, reports, strict=True):
        file.write_text(json.dumps(report))
    script.main([*map(str, files), "--out", str(tmp_path / "pooled.json")])
    pooled = json.loads((tmp_path / "pooled.json").read_text())
    assert [run["episodes"] for run in pooled["runs"]] == [2, 2], "the third has no other policy yet"
    assert [run["with lookahead"]["mean"] for run in pooled["runs"]] == [6.0, 2.0]
    everything = pooled["all"]
    assert (everything["with lookahead"]["mean"], everything["random"]["mean"]) == (4.0, 1.5)
    difference = everything["lookahead minus random"]
    assert difference["mean"] == 2.5
    assert -1 <= difference["low"] < 2.5 < difference["high"] <= 6
    assert "all, 4 episodes" in capsys.readouterr().out
    with pytest.raises(ValueError, match="share a seed"):
        script.pool([reports[0], reports[0]])


def test_decisions_in_dreams_are_compared_with_those_of_the_environment(
    policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "benchmarks"))
    script = importlib.import_module("decision_values")
    real = [[[0.0, 2.0, 0.0], [0.0, 2.0, 1.0]], [[1.0, 0.0, 0.0], [0.0, 0.0, 3.0]]]  # two decisions, (C, A)
    dream = [[0.0, 0.5, 0.4], [0.0, -1.0, 0.005]]  # the second promises too little to change the action
    episodes = [{"decisions": [{"step": 0, "own": 0, "dream": d, "real": r}]} for d, r in zip(dream, real, strict=True)]
    found = script.figures(episodes, margin=0.01)
    assert found["decisions"] == 2
    assert found["changed"] == 0.5
    assert found["gain"]["dream"]["mean"] == pytest.approx((2.0 + 0.0) / 2)
    assert found["gain"]["best"]["mean"] == pytest.approx((2.0 + 0.0) / 2), "chosen in the first half alone"
    assert found["gain"]["random"]["mean"] == pytest.approx(((2.0 + 0.5) / 3 + (0.5 + 0.0 + 1.5) / 3 - 0.5) / 2)
    differences = np.array([[0.5, 0.4, -1.0, 0.005], [2.0, 0.5, -0.5, 1.0]])
    assert found["correlation"] == pytest.approx(np.corrcoef(*differences)[0, 1])

    out = tmp_path / "decisions.json"
    command = ["decision_values.py", str(policy), "--world", "toy", "--out", str(out), "--per-episode", "2"]
    command += ["--dreams", "1", "--continuations", "2", "--decisions", "2"]
    for episodes_done in (1, 2):
        monkeypatch.setattr("sys.argv", [*command, "--episodes", str(episodes_done)])
        script.main()
        report = json.loads(out.read_text())
        assert [episode["seed"] for episode in report["episodes"]] == [2_000_000, 2_000_001][:episodes_done]
    assert report["figures"]["decisions"] == 4
    assert "dream: " in capsys.readouterr().out
    changed = tmp_path / "changed.json"
    command[command.index(str(out))] = str(changed)
    monkeypatch.setattr("sys.argv", [*command, "--episodes", "2", "--only-changed", "--margin", "0"])
    script.main()
    fewer, all_values = json.loads(changed.read_text()), script.figures(report["episodes"], margin=0.0)
    assert fewer["figures"]["gain"].keys() == {"dream"}
    assert fewer["figures"]["gain"]["dream"]["mean"] == pytest.approx(all_values["gain"]["dream"]["mean"])
    for episode, other in zip(fewer["episodes"], report["episodes"], strict=True):
        for decision, full in zip(episode["decisions"], other["decisions"], strict=True):
            taken = int(better_actions(np.array([full["dream"]]), np.array([full["own"]]), 0.0)[0])
            tried = [a for a, x in enumerate(decision["real"][0]) if x is not None]
            assert tried == sorted({full["own"], taken}) if taken != full["own"] else not tried
    env = envs.make("toy", size=16)
    spec = describe_policy_file(policy / "policy.zip", lookahead=LookaheadConfig("toy", dreams=1))
    game = script.Game(env, spec.build(env.meta.action_space, env))
    with pytest.raises(UserError, match="did not repeat episode 2000000"):
        script.real_values(game, 2_000_000, [0], np.zeros((16, 16, 3), np.uint8), np.zeros((1, 1)), [0])
    env.close()
