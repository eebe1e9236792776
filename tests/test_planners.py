"""Planners find known optima, plan alike for a seed, and act in the toy's own simulator and in dreams."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from untrained import SIDE, SPACES, make_world

from worldmodel import envs
from worldmodel.cli.eval_plan import EvalPlan, eval_plan, parse_success
from worldmodel.collect.policies import RandomPolicy
from worldmodel.collect.rollout import play
from worldmodel.common import spaces
from worldmodel.common.errors import UserError
from worldmodel.dream import (
    CEM,
    ICEM,
    MPPI,
    PLANNERS,
    DreamEvaluator,
    DreamPlanningPolicy,
    EnvEvaluator,
    EnvPlanningPolicy,
    Planner,
    Simulator,
    frame_score,
    goal_embedding_mse,
    goal_mse,
    goal_similarity,
    reward_score,
)
from worldmodel.dream.coloured_noise import coloured_noise
from worldmodel.dream.simulator_state import SimulatorStep


class Function:
    """Scores plans by a function; the state is not used. Keeps all plans that were evaluated."""

    def __init__(self, space: spaces.Space, function: Callable[[Tensor], Tensor]) -> None:
        self.action_space, self.function = space, function
        self.evaluated: list[Tensor] = []

    def evaluate(self, state: Any, plans: Tensor) -> Tensor:
        self.evaluated.append(plans.clone())
        return self.function(plans)


BOX = spaces.Box((-1.0, 0.0), (1.0, 4.0))
BOX_TARGET = torch.stack([torch.linspace(-0.8, 0.8, 6), torch.linspace(1.0, 3.0, 6)], dim=1)  # (6, 2)


def quadratic() -> Function:
    return Function(BOX, lambda plans: -(plans - BOX_TARGET).square().mean((1, 2)))


@pytest.mark.parametrize("name", PLANNERS)
def test_the_optimum_of_a_quadratic_is_found(name: str) -> None:
    planner = PLANNERS[name](horizon=6, candidates=200, rounds=12)
    if isinstance(planner, MPPI):
        planner = replace(planner, temperature=0.1)
    evaluator = quadratic()
    plan = planner.plan(evaluator, None, seed=0)
    assert plan.actions.shape == (6, 2)
    assert plan.actions.dtype == torch.float32
    assert -float(evaluator.function(plan.actions[None])) < 0.1, "of a variance of 1.1 about the middle"
    assert plan.rounds.shape == (12,)
    assert plan.rounds[-1] > plan.rounds[0]
    assert all(p.min() >= -1 and p[..., 1].min() >= 0 and p.max() <= 4 for p in evaluator.evaluated)


@pytest.mark.parametrize("name", PLANNERS)
@pytest.mark.parametrize(
    ("space", "target"),
    [
        (spaces.Discrete(4), torch.tensor([3, 0, 1, 1, 2])),
        (spaces.MultiDiscrete((3, 2)), torch.tensor([[2, 0], [0, 1], [1, 1], [2, 0], [2, 1]])),
        (spaces.MultiBinary(2), torch.tensor([[1, 0], [0, 1], [1, 1], [0, 0], [0, 1]])),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_known_sequence_of_choices_is_found(name: str, space: spaces.Space, target: Tensor) -> None:
    evaluator = Function(space, lambda plans: (plans == target).float().flatten(1).mean(1))
    plan = PLANNERS[name](horizon=5, candidates=150, rounds=8).plan(evaluator, None, seed=1)
    assert plan.actions.tolist() == target.tolist()
    assert plan.actions.dtype == torch.int64


@pytest.mark.parametrize("name", PLANNERS)
def test_the_same_arguments_find_the_same_plan(name: str) -> None:
    planner, evaluator = PLANNERS[name](horizon=6, candidates=20, rounds=2), quadratic()
    plan, again, other = (planner.plan(evaluator, None, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(plan.actions, again.actions)
    assert torch.equal(plan.rounds, again.rounds)
    assert not torch.equal(plan.actions, other.actions)
    following, fresh = planner.plan(evaluator, None, 5, plan, executed=1), planner.plan(evaluator, None, 5)
    assert not torch.equal(following.actions, fresh.actions), "it begins with the previous plan"
    assert torch.equal(following.actions, planner.plan(evaluator, None, 5, plan, executed=1).actions)


def test_a_search_begins_with_the_rest_of_the_previous_plan() -> None:
    """The optimum of the next decision is the rest of this one's."""
    for planner in (CEM(6, 60, 5), ICEM(6, 60, 5), MPPI(6, 60, 5)):
        previous = planner.plan(quadratic(), None, seed=0)
        shifted = torch.cat([BOX_TARGET[2:], BOX_TARGET[-1:].expand(2, -1)])
        evaluator = Function(BOX, lambda plans, goal=shifted: -(plans - goal).square().mean((1, 2)))
        one = replace(planner, rounds=1)
        following = one.plan(evaluator, None, 1, previous, executed=2)
        assert following.rounds[0] > one.plan(evaluator, None, 1).rounds[0] + 0.1, type(planner).__name__
        rest = evaluator.evaluated[0]
        if not isinstance(planner, ICEM):
            assert previous.distribution is not None
            torch.testing.assert_close(rest[0, :4], previous.distribution.mode()[2:])


def test_icem_keeps_elites_over_rounds_and_decisions_and_evaluates_fewer_plans() -> None:
    planner, evaluator = ICEM(horizon=6, candidates=50, rounds=4, keep_fraction=0.5), quadratic()
    plan = planner.plan(evaluator, None, seed=0)
    assert (planner.num_elites, planner.num_kept) == (5, 3)
    assert [len(plans) for plans in evaluator.evaluated] == [50, 40, 32, 25]
    best = -torch.inf
    for before, after in zip(evaluator.evaluated, evaluator.evaluated[1:], strict=False):
        scores = evaluator.function(before)
        elites = before[scores.argsort(descending=True, stable=True)]
        assert torch.equal(after[:3], elites[:3]), "the best of a round are plans of the next"
        best = max(best, float(scores.max()))
    assert plan.score >= best
    assert float(evaluator.function(plan.actions[None])) == pytest.approx(plan.score)
    evaluator.evaluated.clear()
    planner.plan(evaluator, None, 1, plan, executed=2)
    assert torch.equal(evaluator.evaluated[0][:3, :4], plan.elites[:3, 2:]), "without the executed steps"


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("length", [16, 15])
def test_coloured_noise_has_the_stated_spectrum_and_unit_variance(exponent: float, length: int) -> None:
    noise = coloured_noise((20_000, length), exponent, torch.Generator().manual_seed(0))
    torch.testing.assert_close(noise.var(0), torch.ones(length), atol=0.05, rtol=0)
    assert noise.mean().abs() < 0.05
    power = torch.fft.rfft(noise).abs().square().mean(0)
    frequencies = torch.fft.rfftfreq(length).clamp_min(1 / length)
    expected = frequencies.pow(-exponent)
    torch.testing.assert_close(power / power.sum(), expected / expected.sum(), atol=0, rtol=0.06)


def test_coloured_plans_of_choices_persist_and_have_the_probabilities_of_each_step() -> None:
    from worldmodel.dream.plan_distributions import CategoricalPlans

    probs = torch.tensor([0.2, 0.5, 0.3]).expand(8, 1, 3)
    distribution = CategoricalPlans(probs, ())
    repeats = {}
    for exponent in (0.0, 2.0):
        plans = distribution.sample(20_000, torch.Generator().manual_seed(0), exponent)  # (M, L)
        frequencies = torch.stack([(plans == c).float().mean(0) for c in range(3)], dim=1)  # (L, C)
        torch.testing.assert_close(frequencies, probs[:, 0], atol=0.02, rtol=0)
        repeats[exponent] = float((plans[:, 1:] == plans[:, :-1]).float().mean())
    assert repeats[0.0] == pytest.approx(0.38, abs=0.02)
    assert repeats[2.0] > 0.5


def played(env: envs.PixelEnv, actions: list[int]) -> list[Any]:
    return [env.step(action)[:4] for action in actions]


def test_the_toy_returns_to_a_saved_state() -> None:
    env, other = envs.make("toy", size=16), envs.make("toy", size=16)
    env.reset(seed=3)
    played(env, [1, 4])
    state = env.save_state()  # type: ignore[attr-defined]
    expected = played(env, [2, 4, 3, 1, 0, 2])
    for again in (env, other):
        again.restore_state(state)  # type: ignore[attr-defined]
        for got, want in zip(played(again, [2, 4, 3, 1, 0, 2]), expected, strict=True):
            np.testing.assert_array_equal(got[0], want[0])
            assert got[1:] == want[1:]


def test_a_plan_that_ends_earns_no_more_and_the_environment_is_restored() -> None:
    env: Any = envs.make("toy", size=16, max_steps=None)
    env.reset(seed=0)
    state = env.save_state()
    evaluator = EnvEvaluator(env, frame_score(lambda frames: frames.float().mean((1, 2, 3))))
    rewards = EnvEvaluator(env).evaluate(state, torch.zeros(2, 60, dtype=torch.int64))
    assert rewards[0] == rewards[1]
    _, frames = [], evaluator.evaluate(state, torch.zeros(1, 60, dtype=torch.int64))
    total, ended, brightness = 0.0, False, 0.0
    for _ in range(60):
        if not ended:
            frame, reward, ended, _, _ = env.step(0)
            total += reward
        brightness += float(frame.mean())
    assert ended
    assert float(rewards[0]) == total
    assert float(frames[0]) == pytest.approx(brightness, rel=1e-4)
    env.restore_state(state)
    assert env.save_state().state == state.state


def test_rewards_alone_are_simulated_without_frames_where_possible() -> None:
    class Simulated:
        def __init__(self) -> None:
            self.meta = envs.make("toy").meta
            self.total = 0

        def save_state(self) -> int:
            return self.total

        def restore_state(self, state: int) -> None:
            self.total = state

        def simulate(self, action: int) -> float:
            self.total += action
            return float(self.total)

    scores = EnvEvaluator(Simulated()).evaluate(10, torch.tensor([[1, 2], [0, 0]]))
    assert scores.tolist() == [11 + 13, 20]
    with pytest.raises(UserError, match="save_state"):
        EnvEvaluator(_without_states())


def _without_states() -> Any:
    class Stateless:
        meta = envs.make("toy").meta

    return Stateless()


def test_planning_in_the_toys_own_simulator_beats_random_play() -> None:
    env = envs.make("toy", size=16, max_steps=16)  # four storms
    seeds = range(700, 704)

    def returns(policy: Any, seeds: range = seeds) -> list[float]:
        return [float(play(env, policy, index=s, seed=0, policy_name="p", env_seed=s).rewards.sum()) for s in seeds]

    planning = EnvPlanningPolicy(env, CEM(horizon=4, candidates=48, rounds=2), replan_every=4)
    planned = returns(planning)
    assert planned[:1] == returns(planning, seeds[:1]), "the seeds of the episodes determine the plans"
    assert np.mean(planned) > np.mean(returns(RandomPolicy(env.meta.action_space))) + 1.5
    assert planning.searches == 5 * 4
    assert planning.seconds > 0


def test_plans_beyond_the_rows_of_a_simulator_are_evaluated_in_batches() -> None:
    world = make_world(hazard=-1.0)
    plans = torch.randint(3, (10, 3), generator=torch.Generator().manual_seed(0))
    scores = []
    for rows in (20, 6, 3):
        simulator = Simulator(world, rows, seed=7, batch_invariant=True)
        simulator.reset(starts=torch.zeros(rows, dtype=torch.int64))
        evaluator = DreamEvaluator(simulator, reward_score, dreams=2)
        state = evaluator.state(seed=5)
        scores.append(evaluator.evaluate(state, plans))
        assert torch.equal(scores[-1], evaluator.evaluate(state, plans)), "the state determines the noise"
    assert scores[0].shape == (10,)
    torch.testing.assert_close(scores[1], scores[0])
    torch.testing.assert_close(scores[2], scores[0])
    with pytest.raises(UserError, match="dreams=7"):
        DreamEvaluator(simulator, dreams=7)


@pytest.mark.parametrize("name", SPACES)
def test_a_planner_acts_from_frames_in_every_action_space(name: str) -> None:
    world = make_world(SPACES[name])
    policy = DreamPlanningPolicy(Simulator(world, 4), ICEM(horizon=2, candidates=4, rounds=1))
    frames = np.random.default_rng(0).integers(0, 256, (6, SIDE, SIDE, 3), np.uint8)
    chosen = []
    for _ in range(2):
        policy.begin(np.random.default_rng(1))
        chosen.append([np.asarray(policy.act(frame)) for frame in frames])
    for first, second in zip(*chosen, strict=True):
        spaces.check_actions(SPACES[name], first)
        np.testing.assert_array_equal(first, second)


def test_scores_of_goals_are_best_at_the_goal() -> None:
    world = make_world()
    simulator = Simulator(world, 5)
    simulator.reset()
    step = simulator.step(torch.zeros(5, dtype=torch.int64))
    goal = step.frames[2]
    for score in (goal_mse(goal), goal_similarity(goal), goal_embedding_mse(goal, world.tokenizer)):
        scores = score(step)
        assert scores.shape == (5,)
        assert (scores <= 0).all()
    assert goal_mse(goal)(step)[2] == 0
    error = (step.frames[0].double() / 255 - goal.double() / 255).square().mean()
    assert float(goal_mse(goal)(step)[0]) == pytest.approx(-float(error), rel=1e-4)
    encoded = goal_embedding_mse(goal, world.tokenizer)(EnvStepsLike(step))
    assert encoded[2] == 0, "frames of an environment are encoded"


class EnvStepsLike:
    """A step with frames and no codes."""

    def __init__(self, step: SimulatorStep) -> None:
        self.frames, self.rewards = step.frames, step.rewards


@pytest.mark.parametrize(
    ("planner", "changes", "words"),
    [
        (CEM, {"candidates": 1}, "candidates=1"),
        (CEM, {"momentum": 1.0}, "momentum"),
        (CEM, {"init_std": 0.0}, "init_std"),
        (CEM, {"elite_fraction": 0.0}, "elite_fraction"),
        (ICEM, {"noise_exponent": -1.0}, "noise_exponent"),
        (ICEM, {"keep_fraction": 2.0}, "keep_fraction"),
        (ICEM, {"decay": 0.5}, "decay"),
        (MPPI, {"temperature": 0.0}, "temperature"),
    ],
)
def test_settings_out_of_range_are_refused(planner: type[Planner], changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        planner(**changes)


def test_eval_plan_compares_the_dream_with_the_true_simulator(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = EvalPlan(
        world=Path("toy"), planner="cem", horizon=4, candidates=16, rounds=2, replan_every=4, episodes=2,
        env_options=replace(EvalPlan().env_options, max_steps=8), success="return>0.5", out=tmp_path / "plan.json",
        planner_args="momentum=0.2",
    )  # fmt: skip
    rows = eval_plan(config)
    assert [row["policy"] for row in rows] == ["cem, dream", "cem, true simulator", "random"]
    assert all(len(row["returns"]) == 2 and "success" in row for row in rows)
    assert rows[0]["seconds_per_search"] > rows[1]["seconds_per_search"] > 0
    assert "first_minus_this" in rows[2]
    assert json.loads((tmp_path / "plan.json").read_text())["rows"] == rows
    assert "seconds per search" in capsys.readouterr().out


def test_eval_plan_refuses_bad_input(tmp_path: Path) -> None:
    for changes, words in (
        ({"true_simulator": False}, "nothing to plan in"),
        ({"objective": "goal-pixels"}, "needs a goal"),
        ({"success": "near"}, "NAME<NUMBER"),
        ({"episodes": 1}, "at least 2"),
    ):
        with pytest.raises(UserError, match=words):
            EvalPlan(env="toy", **changes)  # type: ignore[arg-type]
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "goal.png")
    for config, words in (
        (EvalPlan(env="toy", success="distance<1"), "return, lives"),
        (EvalPlan(env="toy", planner_args="wide=1"), "wide"),
        (EvalPlan(env="toy", planner_args="momentum=true"), "wanted a number"),
        (EvalPlan(env="toy/continuous", world=Path("toy")), "has frames"),
        (EvalPlan(env="toy", objective="goal-pixels", goal=tmp_path / "goal.png"), "shape"),
        (EvalPlan(env="toy", objective="goal-pixels", goal=tmp_path / "none.png"), "not a picture"),
    ):
        with pytest.raises(UserError, match=words):
            eval_plan(config)
    condition = parse_success("distance < 0.05")
    assert condition is not None
    assert (condition[0], condition[1](0.04), condition[1](0.06)) == ("distance", True, False)
