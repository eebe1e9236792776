"""A captured step gives the same dream as an uncaptured one, with resets, branches, saved states and pickles.

On the CPU a captured step runs the function again on the same tensors; on a GPU it replays a CUDA graph.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable

import pytest
import torch
from untrained import make_world, some_actions

from worldmodel.common.errors import UserError
from worldmodel.dream import Simulator
from worldmodel.dream.cuda_graphs import CapturedStep, capture_cuda_graph
from worldmodel.dream.tensor_tree import tree_leaves

GPU = pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")])


def run_again(work: Callable[[], None]) -> Callable[[], None]:
    return work


def pair(kind: str, device: str, rows: int = 3) -> tuple[Simulator, Simulator]:
    """The same dreams, captured and not."""
    world = make_world(flat=kind == "flat", hazard=-2.0, causal=kind == "causal").to(device)
    world.starts = world.starts.to(device)
    captured, uncaptured = (Simulator(world, rows, seed=5, starts="any", cuda_graph=False) for _ in range(2))
    captured._capture = capture_cuda_graph if device == "cuda" else run_again
    return captured, uncaptured


@pytest.mark.parametrize("device", ["cpu", GPU])
@pytest.mark.parametrize("kind", ["factored", "flat", "causal"])
def test_a_captured_dream_equals_an_uncaptured_one(kind: str, device: str) -> None:
    captured, uncaptured = pair(kind, device)
    both = (captured, uncaptured)
    results, saved = [], []
    for simulator in both:
        simulator.reset()
    for t in range(12):
        actions = some_actions(uncaptured.world.spec.action_space, 3, seed=t)
        results.append([simulator.step(actions) for simulator in both])
        if t == 3:
            saved = [simulator.save() for simulator in both]
        if t == 5:
            for simulator in both:
                simulator.reset(torch.tensor([1]))
        if t == 7:
            for simulator in both:
                simulator.clone(torch.tensor([0]), torch.tensor([2]), torch.tensor([9]))
    assert isinstance(captured._captured_step, CapturedStep)
    for result, expected in results:  # later steps do not overwrite earlier results
        for a, b in zip(tree_leaves(result), tree_leaves(expected), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
    for simulator, state in zip(both, saved, strict=True):
        simulator.restore(state)
    plan = torch.stack([some_actions(uncaptured.world.spec.action_space, 3, seed=t) for t in range(5)], 1)
    futures = [simulator.rollout(plan).frames for simulator in both]
    assert torch.equal(*futures)
    for simulator, state in zip(both, saved, strict=True):
        simulator.restore(state)
    assert torch.equal(captured.rollout(plan).frames, futures[0]), "a saved state can be restored twice"


def test_a_captured_step_is_not_pickled() -> None:
    captured, uncaptured = pair("factored", "cpu")
    for simulator in (captured, uncaptured):
        simulator.reset()
        simulator.step(some_actions(uncaptured.world.spec.action_space, 3))
    copy = pickle.loads(pickle.dumps(captured))
    assert copy._captured_step is None
    actions = some_actions(uncaptured.world.spec.action_space, 3, seed=1)
    assert torch.equal(copy.step(actions).frames, uncaptured.step(actions).frames)


def test_a_cuda_graph_without_a_gpu_is_refused() -> None:
    with pytest.raises(UserError, match="cuda_graph=True needs a world on a GPU"):
        Simulator(make_world(), 2, cuda_graph=True)
