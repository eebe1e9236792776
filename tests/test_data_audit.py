"""The audit of a dataset: it finds shifted rewards and ends, repeats and dead frames, and nothing in a good file."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from recordings import make_file

from worldmodel.cli import command_line as cli
from worldmodel.common import spaces
from worldmodel.common.pixels import PixelSpec
from worldmodel.data import Dataset, Episode, Header, PartWriter, PolicyRecord, seal
from worldmodel.envs.toy import ToyEnv
from worldmodel.metrics.data_alignment import reward_event
from worldmodel.metrics.data_audit import audit, format_audit
from worldmodel.metrics.event_classifier import shrink

NUM_EPISODES, STEPS = 160, 50


def play_toy(index: int) -> Episode:
    """An episode of the toy: a quarter of the actions is optimal, the others random."""
    env = ToyEnv(size=16, max_steps=30)
    rng = np.random.default_rng(index)
    frame, _ = env.reset(seed=index)
    frames, actions, rewards, terminations, over = [frame], [], [], [], False
    while not over:
        action = ToyEnv.optimal_action(env.state) if rng.random() < 0.25 else int(rng.integers(5))
        frame, reward, terminated, truncated, _ = env.step(action)
        frames.append(frame)
        actions.append(action)
        rewards.append(reward)
        terminations.append(terminated)
        over = terminated or truncated
    truncations = np.zeros(len(actions), bool)
    truncations[-1] = not terminations[-1]
    return Episode(
        frames=np.stack(frames),
        frame_valid=np.ones(len(frames), bool),
        actions=np.asarray(actions, np.int64),
        rewards=np.asarray(rewards, np.float32),
        terminations=np.asarray(terminations),
        truncations=truncations,
        variables={},
        index=index,
        seed=index,
        policy="mixed",
    )


@pytest.fixture(scope="module")
def episodes() -> list[Episode]:
    torch.set_num_threads(1)
    return [play_toy(index) for index in range(NUM_EPISODES)]


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worldmodel.metrics.data_alignment.RESAMPLES", 200)


def write(path: Path, episodes: list[Episode]) -> Dataset:
    header = Header(
        env="worldmodel/Toy-v0",
        pixels=PixelSpec((16, 16)),
        action_space=spaces.Discrete(5),
        seed=0,
        num_episodes=len(episodes),
        policies=(PolicyRecord("mixed"),),
        max_steps=40,
        action_labels=("stay", "up", "down", "left", "right"),
    )
    part = path.with_suffix(".part")
    with PartWriter(part, header) as writer:
        for episode in episodes:
            writer.append(episode)
    seal([part], path)
    return Dataset(path)


def late_rewards(episode: Episode) -> Episode:
    """Every reward is stored one step late."""
    return replace(episode, rewards=np.concatenate([[0], episode.rewards[:-1]]).astype(np.float32))


def early_rewards(episode: Episode) -> Episode:
    """Every reward is stored one step early."""
    return replace(episode, rewards=np.concatenate([episode.rewards[1:], [0]]).astype(np.float32))


def late_end(episode: Episode) -> Episode:
    """The end is stored one step late: the first frame of the next episode follows the last one, as after a reset."""

    def longer(values: np.ndarray) -> np.ndarray:
        return np.concatenate([np.zeros_like(values[:1]), values])

    return replace(
        episode,
        frames=np.concatenate([episode.frames, episode.frames[:1]]),
        frame_valid=np.append(episode.frame_valid, True),
        actions=np.append(episode.actions, 0),
        rewards=np.append(episode.rewards, np.float32(0)),
        terminations=longer(episode.terminations),
        truncations=longer(episode.truncations),
    )


def late_actions(episode: Episode) -> Episode:
    """Every action is stored one step late."""
    return replace(episode, actions=np.concatenate([[0], episode.actions[:-1]]))


def early_actions(episode: Episode) -> Episode:
    """Every action is stored one step early."""
    return replace(episode, actions=np.concatenate([episode.actions[1:], [0]]))


def test_a_file_without_mistakes_gives_no_warning(tmp_path: Path, episodes: list[Episode]) -> None:
    with write(tmp_path / "good.h5", episodes) as data:
        result = audit(data, train_steps=STEPS)
    assert result["warnings"] == []
    assert {row["event"] for row in result["alignment"]} == {
        "reward", "end", "action stay", "action up", "action down", "action left", "action right",
    }  # fmt: skip
    own = {row["event"]: row["own_average_precision"]["mean"] for row in result["alignment"]}
    assert own["reward"] > 0.9
    assert own["end"] > 0.9
    assert own["action up"] > 0.4  # a fifth of the actions
    assert result["invalid_last_frames"] == 0
    assert sum(result["actions"][0]["shares"].values()) == pytest.approx(1)
    text = format_audit(result)
    assert "No warnings." in text
    assert "reward is not 0" in text


@pytest.mark.parametrize(
    ("change", "warning"),
    [
        (late_rewards, "rewards are probably stored one step too late"),
        (early_rewards, "rewards are probably stored one step too early"),
        (late_end, "ends are probably stored one step too late"),
        (late_actions, "actions are probably stored one step too late"),
        (early_actions, "actions are probably stored one step too early"),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_a_shift_of_one_step_is_found(
    tmp_path: Path, episodes: list[Episode], change: Callable[[Episode], Episode], warning: str
) -> None:
    with write(tmp_path / "shifted.h5", [change(episode) for episode in episodes]) as data:
        result = audit(data, train_steps=STEPS)
    assert any(warning in line for line in result["warnings"]), result["warnings"]
    assert all(warning in line for line in result["warnings"] if "probably stored" in line)
    assert f"WARNING: {result['warnings'][0]}" in format_audit(result)


def test_repeats_dead_frames_and_missing_actions_are_found(tmp_path: Path, episodes: list[Episode]) -> None:
    twin = replace(episodes[0], index=1)
    dark = replace(episodes[2], frames=np.zeros_like(episodes[2].frames), actions=np.zeros_like(episodes[2].actions))
    with write(tmp_path / "bad.h5", [episodes[0], twin, dark]) as data:
        result = audit(data, train_steps=1)
    assert result["episodes"] == {"repeated_seeds": 2, "repeated_episodes": 2}
    words = " ".join(result["warnings"])
    for text in ("share their seed", "are equal to another", "have one colour"):
        assert text in words
    assert all(note.startswith("not tested") for note in result["events"].values())
    still = [replace(episode, actions=np.zeros_like(episode.actions)) for episode in episodes[:3]]
    with write(tmp_path / "still.h5", still) as data:
        assert "almost never up, down, left, right" in " ".join(audit(data, train_steps=1)["warnings"])


@pytest.mark.parametrize("space", [spaces.MultiDiscrete((3, 2)), spaces.Box((-1.0,), (1.0,)), spaces.NoAction()])
def test_every_action_space_can_be_audited(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], space: spaces.Space
) -> None:
    path, _ = make_file(tmp_path, 10, action_space=space)
    cli.main(["data", "audit", str(path), "--steps", "1", "--json"])
    result = json.loads(capsys.readouterr().out)
    assert len(result["actions"]) == int(np.prod(space.shape))
    assert result["files"] == [str(path)]
    cli.main(["data", "audit", str(path), "--steps", "1"])
    assert "ALIGNMENT" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        cli.main(["data", "audit", str(path), "--steps", "0"])
    assert stop.value.code == 2


def test_the_event_of_a_reward() -> None:
    event, text = reward_event(np.array([4, 4, 4, 1]))
    assert event.tolist() == [False, False, False, True]
    assert text == "reward is not 4"
    event, text = reward_event(np.array([0.1, 0.2, 0.3, 0.4]))
    assert event.tolist() == [False, False, True, True]
    assert "above 0.25" in text


def test_frames_are_averaged_down_by_whole_factors() -> None:
    frames = np.arange(2 * 65 * 48 * 3).reshape(2, 65, 48, 3).astype(np.uint8)
    small = shrink(frames)
    assert small.shape == (2, 21, 16, 3)
    assert small[1, 0, 0, 2] == round(frames[1, :3, :3, 2].mean())
    assert shrink(frames[:, :32, :32]).shape == (2, 32, 32, 3)
