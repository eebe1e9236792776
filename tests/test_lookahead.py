"""Lookahead: a policy that compares its actions in dreams while it plays, and the benchmarks of it."""

from __future__ import annotations

import importlib
import itertools
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from toy_learner import LEARNER, untrained_policy

from worldmodel import envs
from worldmodel.collect import policy_improvement, record
from worldmodel.collect.action_comparison import better_actions
from worldmodel.collect.batch_policies import batch_policy
from worldmodel.collect.learner_model import new_model
from worldmodel.collect.lookahead_policy import LookaheadPolicy
from worldmodel.collect.lookahead_spec import LookaheadConfig, parse_lookahead
from worldmodel.collect.policies import NoisyPolicy
from worldmodel.collect.policy_evaluation import evaluate
from worldmodel.collect.policy_specs import describe_policy_file, load_policy_file, parse_noisy_policy
from worldmodel.common.errors import UserError
from worldmodel.data import Dataset
from worldmodel.dream import DreamLearnerEnv
from worldmodel.world.hub import find_world
from worldmodel.world.world_model import WorldModel


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained_policy(tmp_path_factory.mktemp("policy"))


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
