"""The cross-entropy planner finds the rewarded actions of a scripted dream in all four spaces, alike for a seed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from untrained import SIDE, SPACES, make_world, some_actions

from worldmodel.common import spaces
from worldmodel.common.errors import UserError
from worldmodel.dream import CrossEntropy, Simulator, goal_similarity, reward_score
from worldmodel.dream.plan_distributions import initial_distribution
from worldmodel.dream.simulator_state import SimulatorStep

TARGETS = {  # the action with the highest reward, in each space
    "Discrete": torch.tensor(2),
    "MultiDiscrete": torch.tensor([1, 0]),
    "MultiBinary": torch.tensor([1, 0, 1]),
    "Box": torch.tensor([0.5, 4.0]),
}


class Scripted(Simulator):
    """A dream with higher rewards and darker frames the nearer the actions are to a target."""

    target: torch.Tensor

    def step(self, actions: torch.Tensor) -> SimulatorStep:
        out = super().step(actions)
        error = (actions.float() - self.target.float()).abs().reshape(len(actions), -1).sum(1)
        shade = (50 * error).clamp_max(255).byte()[:, None, None, None]
        return replace(out, rewards=-error, frames=shade.expand_as(out.frames))


def scripted(name: str, rows: int) -> Scripted:
    simulator = Scripted(make_world(SPACES[name], hazard=-30.0), rows)
    simulator.target = TARGETS[name]
    simulator.reset()
    return simulator


@pytest.mark.parametrize("name", SPACES)
def test_the_best_actions_of_each_space_are_found_and_reproduced_by_the_seed(name: str) -> None:
    simulator = scripted(name, 100)
    search = CrossEntropy(horizon=2, rounds=4)
    state = simulator.state
    plan = search.plan(simulator, seed=1)
    for name_of, rows in vars(simulator.state.prior).items():  # the state is restored
        assert torch.equal(rows, vars(state.prior)[name_of])
    assert torch.equal(simulator.state.seeds, state.seeds)
    assert plan.actions.shape == (2, *SPACES[name].shape)
    assert plan.actions.dtype == (torch.float32 if name == "Box" else torch.int64)
    torch.testing.assert_close(
        plan.actions.float(), TARGETS[name].float().expand(2, *plan.actions.shape[1:]), atol=0.15, rtol=0
    )
    assert plan.score > -0.5
    assert plan.rounds.shape == (4,)
    assert plan.rounds[-1] > plan.rounds[0] + 0.5
    simulator.step(some_actions(SPACES[name], 100))
    simulator.restore(state)
    again, other = search.plan(simulator, seed=1), search.plan(simulator, seed=2)
    assert torch.equal(plan.actions, again.actions)
    assert torch.equal(plan.rounds, again.rounds)
    assert not torch.equal(plan.rounds, other.rounds)


def test_a_goal_frame_is_approached() -> None:
    simulator = scripted("MultiDiscrete", 64)
    plan = CrossEntropy(horizon=2, rounds=4).plan(
        simulator, goal_similarity(torch.zeros(SIDE, SIDE, 3, dtype=torch.uint8))
    )
    assert plan.actions.tolist() == [[1, 0], [1, 0]]
    assert plan.score == 0
    with pytest.raises(UserError, match="goal: got a frame"):
        CrossEntropy(horizon=1).plan(simulator, goal_similarity(torch.zeros(3, 3, 3)))


def test_dreams_of_all_plans_share_their_noise_seeds_and_are_averaged() -> None:
    world = make_world(hazard=-1.0)
    simulator = Simulator(world, 60, batch_invariant=True)
    simulator.reset()
    observed: list[tuple[list[int], torch.Tensor]] = []

    def observe(step: SimulatorStep) -> torch.Tensor:
        observed.append((simulator.state.seeds.tolist(), simulator.state.starts))
        return reward_score(step)

    plan = CrossEntropy(horizon=2, rounds=2, dreams=3).plan(simulator, observe)
    assert len(observed) == 4
    for seeds, starts in observed:
        assert seeds == seeds[:3] * 20, "dream i of every plan has the same noise seed"
        assert len(set(seeds)) == 3
        assert len(set(starts.tolist())) == 1, "all begin at the state of row 0"
    simulator.clone(torch.tensor([0]), torch.arange(60), torch.tensor(observed[0][0]))
    again = simulator.rollout(plan.actions.expand(60, -1)).rewards[:3].sum(1)
    assert len(again.unique()) > 1
    assert float(again.mean()) == pytest.approx(plan.score, abs=1e-5)


def test_sampled_plans_stay_within_the_bounds_of_their_space() -> None:
    generator = torch.Generator().manual_seed(0)
    box = initial_distribution(spaces.Box((-1.0, None, 0.0, None), (1.0, None, None, -3.0)), 5, torch.device("cpu"))
    sampled = box.sample(500, generator)
    assert sampled.shape == (500, 5, 4)
    assert sampled[..., 0].abs().max() == 1
    assert sampled[..., 1].std() > 0.9
    assert sampled[..., 2].min() == 0
    assert sampled[..., 3].max() == -3
    choices = initial_distribution(spaces.MultiDiscrete((2, 5)), 4, torch.device("cpu"))
    sampled = choices.sample(500, generator)
    assert sampled.amax((0, 1)).tolist() == [1, 4]
    refitted = choices.refit(torch.ones(3, 4, 2, dtype=torch.int64), keep=0.0)
    assert (refitted.sample(20, generator) == 1).all()


def test_wrong_arguments_are_refused() -> None:
    simulator: Any = Simulator(make_world(), 6)
    with pytest.raises(UserError, match="has ended or was never reset"):
        CrossEntropy().plan(simulator)
    simulator.reset()
    for search in (CrossEntropy(dreams=4), CrossEntropy(dreams=6)):
        with pytest.raises(UserError, match="got a simulator of 6 rows"):
            search.plan(simulator)
    with pytest.raises(UserError, match=r"score: got shape \(\), wanted \(6,\)"):
        CrossEntropy().plan(simulator, lambda step: step.rewards.sum())
    for bad in ({"horizon": 0}, {"rounds": 0}, {"dreams": 0}, {"best": 0.0}, {"best": 1.0}, {"keep": 1.0}):
        with pytest.raises(UserError, match=f"{next(iter(bad))}="):
            CrossEntropy(**bad)  # type: ignore[arg-type]
