"""Behaviour cloning: it imitates, continues exactly, chooses episodes, and gives policies that other commands take."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from recordings import make_file

from worldmodel import envs
from worldmodel.cli import command_line as cli
from worldmodel.collect import cloning
from worldmodel.collect.clone_config import TrainClone
from worldmodel.collect.cloning import ClonedSteps, choose_episodes, train_clone
from worldmodel.collect.learner_config import LearnerConfig
from worldmodel.collect.policy_evaluation import evaluate
from worldmodel.collect.policy_specs import parse_policy
from worldmodel.common import spaces
from worldmodel.common.errors import UserError
from worldmodel.common.pixels import PixelSpec
from worldmodel.common.policy_view import FrameStack, PolicyView
from worldmodel.data import Dataset, Episode, Header, PartWriter, PolicyRecord, seal
from worldmodel.envs.toy import ToyEnv

LEARNER = LearnerConfig(frame_stack=2, width=8, learning_rate=3e-3, batch_size=64)


def play(index: int) -> Episode:
    """An optimal episode of the toy, or, every fourth, a random one."""
    env = ToyEnv(size=16, max_steps=30)
    rng, expert = np.random.default_rng(index), index % 4 > 0
    frame, _ = env.reset(seed=index)
    frames, actions, rewards, ends, over = [frame], [], [], [], False
    while not over:
        action = ToyEnv.optimal_action(env.state) if expert else int(rng.integers(5))
        frame, reward, terminated, truncated, _ = env.step(action)
        frames.append(frame)
        actions.append(action)
        rewards.append(reward)
        ends.append((terminated, truncated and not terminated))
        over = terminated or truncated
    terminations, truncations = np.asarray(ends).T
    return Episode(
        frames=np.stack(frames),
        frame_valid=np.ones(len(frames), bool),
        actions=np.asarray(actions, np.int64),
        rewards=np.asarray(rewards, np.float32),
        terminations=terminations,
        truncations=truncations,
        variables={},
        index=index,
        seed=index,
        policy="expert" if expert else "random",
    )


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("clone") / "toy.h5"
    header = Header(
        env="worldmodel/Toy-v0",
        pixels=PixelSpec((16, 16)),
        action_space=spaces.Discrete(5),
        seed=0,
        num_episodes=120,
        policies=(PolicyRecord("expert"), PolicyRecord("random")),
        max_steps=30,
    )
    with PartWriter(path.with_suffix(".part"), header) as writer:
        for index in range(120):
            writer.append(play(index))
    seal([path.with_suffix(".part")], path)
    return path


def test_a_clone_plays_as_the_recorded_policy_and_ppo_continues_it(recording: Path, tmp_path: Path) -> None:
    out = tmp_path / "clone"
    policy = train_clone(TrainClone(out, (recording,), policies="expert", steps=400, learner=LEARNER))
    result = json.loads((out / "policy.json").read_text())["result"]
    assert result["accuracy"] > 0.6
    arguments = {"size": (16, 16), "max_steps": 30}
    env = envs.make("toy", **arguments)
    defaults = envs.policy_defaults("toy")
    specs = {name: parse_policy(name, env.meta.action_space, defaults) for name in (str(policy), "random")}
    clone, random = evaluate(specs, "toy", arguments, 30, 1_000_000, 1)
    assert clone["return_mean"] > 1.5 * random["return_mean"]
    words = f"train policy --env toy --size 16 16 --init-from {out} --out {tmp_path / 'ppo'} --learner.decisions 64"
    words += " --learner.num-envs 1 --learner.rollout-steps 64 --learner.frame-stack 2 --learner.width 8"
    cli.main(words.split())
    assert (tmp_path / "ppo" / "policy.zip").exists()


def test_a_stopped_training_continues_exactly(recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = TrainClone(tmp_path / "whole", (recording,), steps=12, learner=LEARNER)
    train_clone(config)
    stopped = replace(config, out=tmp_path / "stopped", learner=replace(LEARNER, checkpoint_seconds=0))
    take_step, count = cloning._step, [0]

    def stop_at_seven(*args: object) -> float:
        count[0] += 1
        if count[0] == 7:
            raise KeyboardInterrupt
        return take_step(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(cloning, "_step", stop_at_seven)
    with pytest.raises(KeyboardInterrupt):
        train_clone(stopped)
    assert not (stopped.out / "policy.zip").exists()
    train_clone(stopped)
    assert count[0] == 13  # six before the stop, one that failed, six after it
    weights = [cloning_weights(c.out / "policy.zip") for c in (config, stopped)]
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


def cloning_weights(path: Path) -> list[torch.Tensor]:
    from stable_baselines3 import PPO

    return list(PPO.load(path, device="cpu").policy.state_dict().values())


def test_the_best_episodes_of_the_named_policies_are_chosen(recording: Path) -> None:
    with Dataset(recording) as data:
        every = choose_episodes(data, "train", "expert", 1.0)
        best = choose_episodes(data, "train", "expert", 0.1)
        assert set(data.policies[every]) == {"expert"}
        assert len(best) == round(0.1 * len(every))
        sums = {int(n): float(data.episode(int(n)).rewards.sum()) for n in every}
        assert min(sums[n] for n in best) >= max(sums[n] for n in every if n not in best)
        with pytest.raises(UserError, match=r"'walker' did not play; recorded: \['expert', 'random'\]"):
            choose_episodes(data, "train", "walker", 1.0)


def test_observations_are_those_of_the_learner(recording: Path, tmp_path: Path) -> None:
    other, _ = make_file(tmp_path, 4, action_space=spaces.MultiDiscrete((3, 2)))
    for path in (recording, other):
        with Dataset(path) as data:
            learner = LearnerConfig(frame_stack=3, gamma=0.9, hold=2, view=(1, 4, 0, 5))
            numbers = np.arange(2)
            steps = ClonedSteps(data, numbers, learner)
            observations, actions, returns = steps.batch(np.arange(len(steps)))
            view, stack, row = PolicyView(data.header.pixels.frame_shape, 3, learner.view), FrameStack(3), 0
            for number in numbers.tolist():
                episode = data.episode(number)
                for t, action in enumerate(episode.actions):
                    frame = view.crop(episode.frames[t])
                    expected = stack.push(frame) if t else stack.reset(frame)
                    assert np.array_equal(observations[row].numpy().transpose(1, 2, 0), expected)
                    assert np.array_equal(actions[row].numpy(), action)
                    powers = 0.9 ** (np.arange(len(episode.actions) - t) / 2)
                    assert float(returns[row]) == pytest.approx(float(powers @ episode.rewards[t:]), abs=1e-4)
                    row += 1


@pytest.mark.parametrize("space", [spaces.MultiDiscrete((3, 2)), spaces.Box((-1.0, 0.0), (1.0, 2.0))], ids=str)
def test_every_action_space_can_be_cloned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], space: spaces.Space
) -> None:
    path, _ = make_file(tmp_path, 30, action_space=space)
    words = ["train", "clone", "--data", str(path), "--out", str(tmp_path / "out"), "--steps", "2"]
    for _ in range(2):  # the second call prints the result of the finished run
        cli.main([*words, "--learner.width", "4", "--json"])
        assert json.loads(capsys.readouterr().out)["steps"] == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--best", "0"], "best=0.0: wanted a share above 0, at most 1."),
        (["--steps", "0"], "steps=0: wanted at least 1."),
        (["--learner.algo", "sac"], "cloning trains the networks of ppo or a2c."),
        (["--learner.last-action"], "cloning trains policies that observe frames alone"),
        (["--learner.reward", "health"], "needs a dataset with the variable 'health'"),
    ],
)
def test_bad_settings_are_refused(
    recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", "clone", "--data", str(recording), "--out", str(tmp_path / "x"), *words])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
