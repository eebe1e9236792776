"""The toy learned from recordings: its dreams keep its laws, and what is learned in them works outside.

The toy is deterministic but for what a window of four frames does not show: which of four quarters lights up next. So a
world learned from it can be held to exactness. `python tests/test_toy_dream.py FOLDER FILE.json` goes the whole way in
a folder and writes the figures.

Shapes: N rows, T steps, H W pixels.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from worldmodel.collect import record
from worldmodel.collect.collect_config import LearnerConfig, TrainPolicy
from worldmodel.collect.env_options import EnvOptions
from worldmodel.collect.policy_evaluation import bootstrap_interval, evaluate
from worldmodel.collect.policy_specs import describe_policy_file
from worldmodel.collect.policy_training import TEST_SEED, train_policy
from worldmodel.common.run_info import code_version, machine, versions
from worldmodel.data import Dataset
from worldmodel.dream.simulator import Simulator
from worldmodel.envs import toy, toy_optimum
from worldmodel.envs.toy import State
from worldmodel.metrics import EvaluationSettings
from worldmodel.metrics import evaluate as judge
from worldmodel.prior.sampling import Sampling
from worldmodel.train import LoopConfig, WorldConfig, train_world
from worldmodel.train.presets import PRESETS
from worldmodel.world.world_model import WorldModel

SIDE = 16  # pixels of a frame each way, four of them a place
EPISODES = 3000
DRAWN, FIRMLY = Sampling(), Sampling(top_p=0.9)
ROUNDING = 28  # half of the least distance between two of the toy's colours, in levels of their channels
LEARNER = LearnerConfig(
    num_envs=32,
    decisions=60_000,
    learning_rate=1e-3,
    gamma=0.97,
    rollout_steps=64,
    batch_size=256,
    checkpoint_seconds=600,
)


def paint(place: int, lit: int | None, colour: tuple[int, int, int], ended: bool = False) -> np.ndarray:
    """The toy's own picture: (16, 16, 3) uint8."""
    return toy._paint(place, lit, colour, toy.STORM if ended else toy.FLOOR)[::4, ::4]


def matches(frame: np.ndarray, pictures: list[np.ndarray]) -> int | None:
    """Which of some pictures a frame is, every pixel rounded to the nearest of the toy's colours; None for no one."""
    errors = [np.abs(frame.astype(np.int16) - picture).max() for picture in pictures]
    return int(np.argmin(errors)) if min(errors) < ROUNDING else None


def flashes_of(colour: tuple[int, int, int]) -> list[np.ndarray]:
    """The 64 pictures with a flash: picture 4 * place + quarter."""
    return [paint(place, quarter, colour) for place in range(16) for quarter in range(4)]


def make_world(folder: Path, episodes: int, config: WorldConfig) -> tuple[WorldModel, Dataset]:
    """Record the toy under sticky and random play, and learn it."""
    path = record(
        "toy", "sticky", folder / "toy.h5", episodes=episodes, seed=3, mix_with="random=0.4", size=SIDE, progress=False
    )
    return train_world(path, folder / "world", config, device="cpu"), Dataset(path)


# -- one step ahead, on episodes that were not learned -----------------------------------------------------


@dataclass
class OneStep:
    """What a world said of every step of the test split, given the frames before it; a row a step.

    Attributes:
        frames: share of the frames that are right in every pixel, where the past determines them.
        repeated: share of those frames that the frame before them shows already.
        flashes: share of the frames with a new flash that show one whole quarter lit, and all else right.
        lit: how often each quarter was drawn, (4,).
        reward_error: the largest, of all steps.
        reward_wrong: share of rewards that are off by more than 0.05.
        ends_wrong: share of steps whose end the likelier of "end" and "no end" misses.
        hazard_alive, hazard_ended: the highest probability of an end where there was none, the lowest where
            there was one.
        steps: how many.
    """

    frames: float
    repeated: float
    flashes: float
    lit: list[int]
    reward_error: float
    reward_wrong: float
    ends_wrong: float
    hazard_alive: float
    hazard_ended: float
    steps: int


def one_step(world: WorldModel, data: Dataset, drawn_as: Sampling = DRAWN) -> OneStep:
    """Predict every step of the test split at temperature 0, and each new flash once more as codes are drawn."""
    played = [data.episode(int(number)) for number in data.episodes_of("test")]
    right, still, flashes, lit, errors, hazards, ended = [], [], [], [0] * 4, [], [], []
    for t in range(max(episode.length for episode in played)):
        rows = [episode for episode in played if episode.length > t]
        first = max(0, t - world.prior.window + 1)
        context = world.context(
            torch.from_numpy(np.stack([e.frames[first : t + 1] for e in rows])),
            torch.from_numpy(np.stack([e.actions[first:t] for e in rows])),
            status=torch.tensor([int(e.variables["lives"][t]) for e in rows]),
        )
        actions = torch.tensor([int(e.actions[t]) for e in rows])
        made = []
        for sampling in (Sampling(temperature=0), drawn_as):
            simulator = Simulator(world, len(rows), seed=1000 * t, sampling=sampling)
            simulator.reset(context=context)
            made.append(simulator.step(actions))
        likeliest, drawn = made
        for i, episode in enumerate(rows):
            real, over = episode.frames[t + 1], bool(episode.terminations[t])
            errors.append(abs(float(likeliest.rewards[i]) - float(episode.rewards[t])))
            hazards.append(float(likeliest.hazards[i]))
            ended.append(over)
            if episode.variables["clock"][t + 1] or over:
                right.append(matches(likeliest.frames[i].numpy(), [real]) is not None)
                still.append(np.array_equal(real, episode.frames[t]))
                continue
            flash = flashes_of(toy.SAFE if episode.rewards[t] else toy.HIT)
            place, shown = matches(real, flash), matches(drawn.frames[i].numpy(), flash)
            assert place is not None, "a real frame after a storm"
            quarter = shown % 4 if shown is not None and shown // 4 == place // 4 else None
            flashes.append(quarter is not None)
            if quarter is not None:
                lit[quarter] += 1
    hazard, end = np.asarray(hazards), np.asarray(ended)
    return OneStep(
        frames=float(np.mean(right)),
        repeated=float(np.mean(still)),
        flashes=float(np.mean(flashes)),
        lit=lit,
        reward_error=max(errors),
        reward_wrong=float((np.asarray(errors) > 0.05).mean()),
        ends_wrong=float(((hazard > 0.5) != end).mean()),
        hazard_alive=float(hazard[~end].max()),
        hazard_ended=float(hazard[end].min()),
        steps=len(end),
    )


# -- whole dreams against the toy's laws -------------------------------------------------------------------


@dataclass
class Lives:
    """Dreams from their starts to their ends, each step held against the toy's laws.

    Attributes:
        lawful: share of the steps whose frame, reward and end are what the dream's own past demands.
        whole: share of the dreams without a single other step.
        steps: how many.
    """

    lawful: float
    whole: float
    steps: int


def live(world: WorldModel, sampling: Sampling = DRAWN, num: int = 64, length: int = 40, seed: int = 0) -> Lives:
    """Dream on, one half of the rows at random, the other going where the dream's flash was.

    Args:
        world: the toy's.
        sampling: how codes are drawn.
        num: N, dreams.
        length: T, steps of each.
        seed: of dreams and actions.
    """
    rng, simulator = np.random.default_rng(seed), Simulator(world, num, seed, sampling)
    frames = simulator.reset().numpy()
    states, broken = [], np.zeros(num, bool)
    for frame in frames:
        shown = matches(frame, flashes_of(toy.CALM))
        assert shown is not None, "a start is a place and a lit quarter"
        states.append(State(shown // 4, toy.QUARTERS.index(shown % 4), 0, toy.LIVES))
    lawful = steps = 0
    for _ in range(length):
        actions = [
            int(rng.integers(5)) if i % 2 else toy.ToyEnv.optimal_action(state) for i, state in enumerate(states)
        ]
        alive = ~simulator.state.ended.numpy() & ~broken
        out = simulator.step(torch.tensor(actions))
        for i in np.flatnonzero(alive):
            after, reward, over = toy.transition(states[i], actions[i])
            colour = toy.CALM if after.clock else toy.SAFE if reward else toy.HIT
            lit = range(4) if after.clock == 0 and not over else [None]
            shown = matches(out.frames[i].numpy(), [paint(after.place, q, colour, over) for q in lit])
            fits = shown is not None and abs(float(out.rewards[i]) - reward) <= 0.05
            fits = fits and bool(out.terminations[i]) == over
            steps, lawful, broken[i] = steps + 1, lawful + fits, not fits
            storm = toy.QUARTERS.index(shown or 0) if after.clock == 0 else after.storm
            states[i] = after._replace(storm=storm)
    return Lives(lawful / steps, float((~broken).mean()), steps)


# -- a policy that never saw the toy -----------------------------------------------------------------------


def outside(folder: Path, learner: LearnerConfig, episodes: int) -> list[float]:
    """Learn in the dream of the world in `folder` alone, then play the toy on seeds that nothing else uses.

    Returns:
        The returns.
    """
    env_options = EnvOptions(size=(SIDE, SIDE))
    config = TrainPolicy(folder / "policy", "toy", 0, env_options, learner, world=folder / "world", test_episodes=0)
    spec = describe_policy_file(train_policy(config))
    return evaluate({"dreamer": spec}, "toy", env_options.kwargs(), episodes, TEST_SEED, 1)[0]["returns"]


def measure(
    folder: Path, episodes: int, config: WorldConfig, learner: LearnerConfig, tested: int = 100
) -> dict[str, Any]:
    """The whole way, as JSON; what is done already in the folder is not done again."""
    world, data = make_world(folder, episodes, config)
    said, lived = one_step(world, data), live(world)
    firm, firmly = one_step(world, data, FIRMLY), live(world, FIRMLY)
    returns = outside(folder, learner, tested)
    low, high = bootstrap_interval(np.asarray(returns))
    return {
        "episodes recorded": episodes,
        "one step ahead": dataclasses.asdict(said),
        "whole dreams": dataclasses.asdict(lived),
        "with top_p 0.9": {"flashes": firm.flashes, "lit": firm.lit, **dataclasses.asdict(firmly)},
        "outside": {"episodes": tested, "return_mean": float(np.mean(returns)), "low": low, "high": high},
        "rivals": {
            "optimum": toy_optimum.optimal_return(),
            "random": toy_optimum.random_return(),
            "best fixed sequence": toy_optimum.best_open_loop_return(),
        },
    }


def test_a_world_learned_in_seconds_says_ends_rewards_and_most_frames(tmp_path: Path) -> None:
    """Too short for the shelter: that a flash is where the next reward lies is learned in minutes, not in seconds."""
    whole = PRESETS["toy"]
    config = replace(
        whole,
        prior=replace(whole.prior, width=48, trunk_layers=1),
        train_tokenizer=replace(whole.train_tokenizer, num_steps=250, validations=0),
        train_prior=LoopConfig(num_steps=220, batch_size=16, clip_length=6, learning_rate=6e-3, validations=0),
    )
    world, data = make_world(tmp_path, 300, config)
    said = one_step(world, data)
    assert said.frames >= 0.75
    assert said.frames >= said.repeated + 0.3
    assert said.ends_wrong <= 0.01, "one step in sixteen is an end"
    sections = judge(world, data, {}, EvaluationSettings(metrics=("reward_error", "end_precision"), ahead=4))[
        "sections"
    ]
    found = {name: metric["figures"][0] for metrics in sections.values() for name, metric in metrics.items()}
    assert found["end_precision"]["value"]["mean"] >= 0.9 > 0.1 >= found["end_precision"]["beside"]["chance"]["mean"]
    rewards = found["reward_error"]  # given the real new frame, off which the reward is read
    assert rewards["value"]["mean"] <= rewards["beside"]["the mean"]["mean"] / 3
    assert world.report["nats_per_code"] <= world.report["nats_per_code_shuffled"] - 0.1


@pytest.mark.slow
def test_a_dream_of_the_toy_is_exact_and_a_policy_learned_in_it_plays_the_toy(tmp_path: Path) -> None:
    found = measure(tmp_path, EPISODES, PRESETS["toy"], LEARNER)
    said, lived, firmly = found["one step ahead"], found["whole dreams"], found["with top_p 0.9"]
    assert said["frames"] >= 0.998
    assert said["ends_wrong"] <= 0.001
    assert said["reward_wrong"] <= 0.002
    assert (abs(np.asarray(said["lit"]) / sum(said["lit"]) - 0.25) < 0.08).all(), "one of four quarters, all alike"
    assert said["flashes"] >= 0.93
    assert firmly["flashes"] >= 0.97
    assert lived["lawful"] >= 0.95
    assert found["outside"]["return_mean"] >= 9
    assert found["outside"]["low"] > 3 * found["rivals"]["best fixed sequence"]


@pytest.mark.slow
@pytest.mark.parametrize(("mixture", "least", "most"), [(1, 0.0, 0.1), (4, 0.85, 1.0)])
def test_a_flash_is_torn_by_a_frame_at_once_and_whole_in_a_mixture(
    mixture: int, least: float, most: float, tmp_path: Path
) -> None:
    config = replace(PRESETS["toy"], prior=replace(PRESETS["toy"].prior, order="frame", mixture=mixture))
    said = one_step(*make_world(tmp_path, EPISODES, config))
    assert said.frames >= 0.995
    assert least <= said.flashes <= most


def test_the_example_runs(tmp_path: Path) -> None:
    script = Path(__file__).parent.parent / "examples" / "dream_policy.py"
    result = subprocess.run(
        [sys.executable, str(script), str(tmp_path), "--quick"], capture_output=True, text=True, timeout=200
    )
    assert result.returncode == 0, result.stderr
    assert "outside the dream: return" in result.stdout


if __name__ == "__main__":
    torch.set_num_threads(1)
    place, file = map(Path, sys.argv[1:])
    place.mkdir(parents=True, exist_ok=True)
    figures = measure(place, EPISODES, PRESETS["toy"], LEARNER)
    command = "python tests/test_toy_dream.py FOLDER FILE.json"
    about = {"command": command, "machine": machine(), "code_version": code_version(), "packages": versions()}
    file.write_text(json.dumps({**figures, **about}, indent=1) + "\n")
