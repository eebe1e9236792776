"""A recorded step brings the dream that an unrecorded one does: resets, branches, marks and pickles included.

What a recording does on the CPU is to run the function again on the same tensors; on a GPU it is a CUDA graph.
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


def again(work: Callable[[], None]) -> Callable[[], None]:
    return work


def pair(flat: bool, device: str, rows: int = 3) -> tuple[Simulator, Simulator]:
    """The same dreams, recorded and not."""
    world = make_world(flat=flat, hazard=-2.0).to(device)
    world.starts = world.starts.to(device)
    recorded, plain = (Simulator(world, rows, seed=5, starts="any", cuda_graph=False) for _ in range(2))
    recorded._capture = capture_cuda_graph if device == "cuda" else again
    return recorded, plain


@pytest.mark.parametrize("device", ["cpu", GPU])
@pytest.mark.parametrize("flat", [False, True], ids=["factored", "flat"])
def test_a_recorded_dream_is_the_same(flat: bool, device: str) -> None:
    recorded, plain = pair(flat, device)
    both = (recorded, plain)
    kept, marks = [], []
    for simulator in both:
        simulator.reset()
    for t in range(12):
        actions = some_actions(plain.world.spec.action_space, 3, seed=t)
        ours, theirs = (simulator.step(actions) for simulator in both)
        kept.append((ours, theirs))
        if t == 3:
            marks = [simulator.save() for simulator in both]
        if t == 5:
            for simulator in both:
                simulator.reset(torch.tensor([1]))
        if t == 7:
            for simulator in both:
                simulator.clone(torch.tensor([0]), torch.tensor([2]), torch.tensor([9]))
    assert isinstance(recorded._captured_step, CapturedStep)
    for ours, theirs in kept:  # what was brought then is not overwritten since
        for a, b in zip(tree_leaves(ours), tree_leaves(theirs), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
    for simulator, mark in zip(both, marks, strict=True):
        simulator.restore(mark)
    plan = torch.stack([some_actions(plain.world.spec.action_space, 3, seed=t) for t in range(5)], 1)
    futures = [simulator.rollout(plan).frames for simulator in both]
    assert torch.equal(*futures)
    for simulator, mark in zip(both, marks, strict=True):
        simulator.restore(mark)
    assert torch.equal(recorded.rollout(plan).frames, futures[0]), "a mark may be come back to twice"


def test_a_recording_is_not_pickled() -> None:
    recorded, plain = pair(False, "cpu")
    for simulator in (recorded, plain):
        simulator.reset()
        simulator.step(some_actions(plain.world.spec.action_space, 3))
    twin = pickle.loads(pickle.dumps(recorded))
    assert twin._captured_step is None
    actions = some_actions(plain.world.spec.action_space, 3, seed=1)
    assert torch.equal(twin.step(actions).frames, plain.step(actions).frames)


def test_what_cannot_be_recorded_is_refused() -> None:
    with pytest.raises(UserError, match="cuda_graph=True needs a world on a GPU"):
        Simulator(make_world(), 2, cuda_graph=True)
