"""Branches, rollouts and codes of a simulator, and the error message of each misuse."""

from __future__ import annotations

import contextlib
from dataclasses import fields, replace

import pretend
import pytest
import torch
from untrained import CODES, SIDE, SPACES, make_world, some_actions

from worldmodel.common.errors import UserError
from worldmodel.dream import CrossEntropy, DreamEnv, DreamVecEnv, DreamVectorEnv, Rollout, Simulator
from worldmodel.onnx.flat_export import OnnxFlatState
from worldmodel.world.world_model import WorldModel

ROWS = (torch.tensor([0]), torch.tensor([0, 1, 2, 3]))


@pytest.fixture(scope="module", params=["factored", "flat", "causal"])
def world(request: pytest.FixtureRequest) -> WorldModel:
    return make_world(flat=request.param == "flat", hazard=-1.5, causal=request.param == "causal")


def simulator_of(world: WorldModel, rows: int = 6, steps: int = 4, **options: object) -> Simulator:
    """A simulator whose rows have taken some steps, each with its own actions."""
    simulator = Simulator(world, rows, seed=5, batch_invariant=True, **options)  # type: ignore[arg-type]
    simulator.reset()
    for t in range(steps):
        simulator.step(some_actions(world.spec.action_space, rows, seed=t))
    return simulator


def equal_rows(a: object, b: object, rows_of_a: list[int], rows_of_b: list[int]) -> bool:
    """Whether some rows of two dataclasses of tensors are bit-identical."""
    same = [getattr(a, f.name) for f in fields(a)], [getattr(b, f.name) for f in fields(b)]  # type: ignore[arg-type]
    return all(
        torch.equal(x[rows_of_a], y[rows_of_b])
        if isinstance(x, torch.Tensor)
        else (x is None and y is None) or equal_rows(x, y, rows_of_a, rows_of_b)
        for x, y in zip(*same, strict=True)
    )


def test_a_clone_has_its_sources_future_and_with_another_seed_another_one(world: WorldModel) -> None:
    simulator = simulator_of(world, starts="any")
    simulator.reset(torch.tensor([0, 1]))
    before = simulator.state
    simulator.clone(torch.tensor([0, 1]), torch.tensor([3, 0]))  # a row may be source and target
    assert equal_rows(simulator.state, before, [0, 1, 2, 3, 4, 5], [1, 1, 2, 0, 4, 5])
    untouched, branched = Simulator(world, 6, batch_invariant=True), simulator_of(world)
    simulator.clone(torch.tensor([1]), torch.arange(6), torch.tensor([7, 7, 8, 9, 9, 9]))  # one source for all
    assert simulator.state.seeds.tolist() == [7, 7, 8, 9, 9, 9]
    shared = some_actions(world.spec.action_space, 12).reshape(1, 12).repeat(6, 1)
    rollout = simulator.rollout(shared)
    assert equal_rows(rollout, rollout, [0, 3, 3], [1, 4, 5])
    assert not torch.equal(rollout.log_probs[0], rollout.log_probs[2])
    assert not torch.equal(rollout.log_probs[0], rollout.log_probs[3])
    first = simulator.reset()
    assert torch.equal(first[0], first[1])  # up to the start of the next episode
    assert simulator.state.starts[0] == simulator.state.starts[1]
    untouched.restore(branched.save())
    branched.clone(torch.tensor([2]), torch.tensor([4]))
    for t in range(3):  # the other rows are bit-identical
        actions = some_actions(world.spec.action_space, 6, seed=t)
        assert equal_rows(untouched.step(actions), branched.step(actions), [0, 1, 2, 3, 5], [0, 1, 2, 3, 5])


def test_without_tiles_a_saved_state_never_changes_and_rows_are_independent(world: WorldModel) -> None:
    # all rows at once, with the ring cache written in place
    simulator, copy = (Simulator(world, 6, seed=5, starts="any") for _ in range(2))
    for each in (simulator, copy):
        each.reset()
        each.rollout(some_actions(world.spec.action_space, 18).reshape(6, 3))
    rows, plan = list(range(6)), some_actions(world.spec.action_space, 48, seed=1).reshape(6, 8)
    saved = simulator.save()
    expected = saved.copy()
    first = simulator.rollout(plan)
    assert not equal_rows(simulator.state, expected, rows, rows)
    assert equal_rows(saved, expected, rows, rows)
    for _ in range(2):
        simulator.restore(saved)
        assert equal_rows(simulator.rollout(plan), first, rows, rows)
    assert equal_rows(copy.rollout(plan), first, rows, rows)
    simulator.restore(saved)
    simulator.clone(torch.tensor([2]), torch.tensor([0, 4]))
    simulator.reset(torch.tensor([5]))
    branched = simulator.rollout(plan[2:3].expand(6, -1))
    for name in ("rewards", "log_probs"):  # in other rows of the batch: equal to rounding
        found = getattr(branched, name)
        torch.testing.assert_close(found[[0, 2, 4]], getattr(first, name)[[2, 2, 2]], rtol=1e-4, atol=1e-4)
    simulator.restore(saved)
    simulator.clone(torch.tensor([2]), torch.tensor([0, 4]))
    simulator.reset(torch.tensor([5]))
    assert equal_rows(simulator.rollout(plan), first, [1, 2, 3], [1, 2, 3])


def test_a_rollout_from_a_context_is_a_reset_to_it(world: WorldModel) -> None:
    frames = torch.randint(0, 256, (1, 2, SIDE, SIDE, 3), dtype=torch.uint8)
    context = world.context(frames, torch.tensor([[1]]))
    plans = some_actions(world.spec.action_space, 24).reshape(6, 4)
    simulator, reset = (Simulator(world, 6, batch_invariant=True) for _ in range(2))
    reset.reset(context=context.select(torch.zeros(6, dtype=torch.int64)))
    expected = reset.rollout(plans)
    assert expected.frames.shape == (6, 5, SIDE, SIDE, 3)
    assert equal_rows(simulator.rollout(plans, context), expected, list(range(6)), list(range(6)))
    assert isinstance(simulator.rollout(plans, context.select(torch.zeros(6, dtype=torch.int64))), Rollout)
    assert simulator.rollout(plans[:, :0]).rewards.shape == (6, 0)
    with pytest.raises(UserError, match="got 2 rows to reset 6"):
        simulator.rollout(plans, context.select(torch.zeros(2, dtype=torch.int64)))


@pytest.mark.parametrize("world", ["factored", "flat"], indirect=True)
def test_codes_are_those_of_the_current_frames(world: WorldModel) -> None:
    simulator = simulator_of(world, steps=0)
    for t in range(12):
        out = simulator.step(some_actions(world.spec.action_space, 6, seed=t))
        assert torch.equal(out.codes, simulator.state.codes)
        difference = world.tokenizer.decode(out.codes[:, None])[:, 0].int() - out.frames.int()
        assert difference.abs().max() <= 1  # also after a termination
    assert out.terminations.any()
    env = DreamEnv(world, info=["codes"], horizon=None)
    frame, info = env.reset(seed=3)
    for step_info, step_frame in [(info, frame), *((out[4], out[0]) for out in map(env.step, (1, 2, 0)))]:
        assert step_info["codes"].shape == world.tokenizer.grid
        decoded = world.tokenizer.decode(torch.from_numpy(step_info["codes"])[None, None])[0, 0].numpy()
        assert abs(decoded.astype(int) - step_frame.astype(int)).max() <= 1
    assert "codes" not in DreamEnv(world).reset(seed=0)[1]
    for interface in (DreamEnv, DreamVectorEnv, DreamVecEnv):
        with pytest.raises(UserError, match="Did you mean 'codes'"):
            interface(world=world, info=["code"])  # type: ignore[operator]


@pytest.mark.parametrize("name", SPACES)
def test_wrong_actions_are_refused(name: str) -> None:
    space = SPACES[name]
    simulator = Simulator(make_world(space), 4)
    simulator.reset()
    good = some_actions(space, 4)
    simulator.step(good)
    wrong_dtype = good.round().long() if good.is_floating_point() else good.float()
    for bad, message in (
        (good[:3], r"got shape \(3.*wanted \(4"),
        (good[:, None], r"got shape \(4, 1"),
        (good[0], "got shape"),
        (wrong_dtype, r"got torch\.(int64|float32), wanted (float32|int64)"),
        (good + 100, "is outside"),
    ):
        with pytest.raises(UserError, match=message):
            simulator.step(bad)
    with pytest.raises(UserError, match="got shape"):
        simulator.rollout(good)
    with pytest.raises(UserError, match="is outside"):
        simulator.rollout(good[:, None] + 100)


def test_wrong_contexts_rows_and_worlds_are_refused(world: WorldModel) -> None:
    frames = torch.zeros((2, 3, SIDE, SIDE, 3), dtype=torch.uint8)
    acted = torch.zeros((2, 2), dtype=torch.int64)
    for function in (world.context, world.log_prob):
        for a, b, message in (
            (frames[:, :0], acted[:, :0], "got no frame; wanted at least one"),
            (frames, acted[:, :1], "one action fewer than frames"),
            (frames, acted[..., None], "one action fewer than frames in each row, each of shape"),
            (frames[..., :1], acted, r"wanted \(B, T, 16, 16, 3\) uint8"),
            (frames.float(), acted, "uint8"),
            (frames[0], acted[0], "got frames"),
            (frames, acted + 9, "is outside"),
            (frames, acted.float(), "wanted integers"),
        ):
            with pytest.raises(UserError, match=message):
                function(a, b)
    simulator = simulator_of(world, rows=2)
    long = torch.randint(0, 256, (2, 12, SIDE, SIDE, 3), dtype=torch.uint8)
    actions = some_actions(world.spec.action_space, 22).reshape(2, 11)
    count = world.context_frames  # a long context is cut to its last frames
    whole, cut = world.context(long, actions), world.context(long[:, -count:], actions[:, -count + 1 :])
    assert torch.equal(whole.codes, cut.codes)
    simulator.reset(context=whole)
    other = make_world(window=4).context(frames, acted)
    other_state = OnnxFlatState(*[simulator.state.codes] * 7)
    for call, message in (
        (lambda: simulator.reset(context=other), "per row, this world has"),
        (lambda: simulator.reset(torch.tensor([2])), "has rows 0 to 1"),
        (lambda: simulator.reset(starts=torch.tensor([99, 0])), "starts 0 to 9"),
        (lambda: simulator.reset(starts=torch.tensor([1])), r"starts: got shape \(1,\) for 2 rows"),
        (lambda: simulator.seed(torch.tensor([1, 2, 3])), r"seeds: got shape \(3,\) for 2 rows"),
        (lambda: simulator.clone(torch.tensor([0]), torch.tensor([5])), "has rows 0 to 1"),
        (lambda: simulator.clone(torch.tensor([0]), torch.tensor([1, 1])), "each row once"),
        (lambda: simulator.clone(torch.tensor([0, 1]), torch.tensor([1])), "got 2 sources"),
        (lambda: simulator.clone(torch.tensor([0]), torch.tensor([1]), torch.tensor([1, 2])), "2 seeds for 1"),
        (lambda: simulator.restore(simulator_of(world, rows=3).save()), "got 3 rows, this simulator has 2"),
        (lambda: simulator.restore(replace(simulator.state, prior=other_state)), "give it one of the same world and"),
        (lambda: Simulator(world, 0), "num_rows=0"),
        (lambda: Simulator(world, 1, threads=0), "threads=0"),
        (lambda: Simulator(world, 1, starts="episodes"), "wanted 'episode' or 'any'"),
    ):
        with pytest.raises(UserError, match=message):
            call()
    env = DreamEnv(world)
    given = frames[0].numpy()
    for options, message in (
        ({"frames": given[:0]}, "got no frame"),
        ({"frames": given, "actions": [0.5, 1.0]}, "wanted integers"),
        ({"frames": given, "actions": [[0], [1]]}, "one action fewer"),
        ({"frames": given, "actions": [0, 9]}, "is outside"),
        ({"frames": given[0], "actions": []}, "got frames"),
        ({"start": -1}, "starts 0 to 9"),
    ):
        with pytest.raises(UserError, match=message):
            env.reset(options=options)
    no_last_frame = world.context(frames[:1], acted[:1], frame_valid=torch.tensor([[True, True, False]]))
    assert int(no_last_frame.codes[0, -1, 0, 0]) == CODES
    with pytest.raises(UserError, match="last frame is not valid"):
        Simulator(world, 1).reset(context=no_last_frame)


def test_starts_are_first_frames_any_frames_or_given_ones(world: WorldModel) -> None:
    first, every = (Simulator(world, 64, starts=kind) for kind in ("episode", "any"))
    first.reset()
    every.reset()
    assert set(first.state.starts.tolist()) == set(range(5))
    assert set(every.state.starts.tolist()) == set(range(10))
    assert every.reset(starts=torch.full((64,), 7)).unique(dim=0).shape[0] == 1


def test_inputs_of_another_device_are_moved_to_the_worlds_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    for name in ("tensor", "as_tensor"):
        monkeypatch.setattr(torch, name, pretend.kept_there(getattr(torch, name)))
    monkeypatch.setattr(torch.__future__, "_swap_module_params_on_conversion", True)
    here, there = make_world(), make_world()
    frames = torch.randint(0, 256, (1, 2, SIDE, SIDE, 3), dtype=torch.uint8)
    acted, plans = torch.tensor([[1]]), some_actions(here.spec.action_space, 12).reshape(6, 2)
    near = Simulator(here, 6)
    near.rollout(plans, here.context(frames, acted))
    near.clone(ROWS[0], ROWS[1])
    plan = CrossEntropy(horizon=1, rounds=2).plan(near)
    with pretend.Pretend():
        there.to(pretend.DEVICE)
        far = Simulator(there, 6)
        assert far.rollout(plans, here.context(frames, acted)).frames.device == pretend.DEVICE
        far.clone(ROWS[0], ROWS[1])
        torch.testing.assert_close(far.state.frames.cpu(), near.state.frames)
        assert far.state.codes.device == pretend.DEVICE
        assert far.step(plans[:, 0]).codes.device == pretend.DEVICE
        assert there.log_prob(frames, acted).device == pretend.DEVICE
        far.restore(far.save())
        again = Simulator(there, 6)
        again.rollout(plans, there.context(frames, acted))
        again.clone(ROWS[0], ROWS[1])
        found = CrossEntropy(horizon=1, rounds=2).plan(again).actions.cpu()
    assert torch.equal(found, plan.actions)


@pytest.mark.parametrize(
    ("rows", "options", "wanted"),
    [
        (1, {}, 1),
        (31, {}, 1),
        (32, {}, 2),
        (64, {}, 3),
        (64, {"threads": 1}, 1),
        (1, {"threads": 8}, 3),
        (64, {"batch_invariant": True}, 1),
    ],
)
def test_a_step_limits_the_threads_by_its_rows_and_restores_them(
    rows: int, options: dict[str, bool], wanted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, used = make_world(), set()
    step = world.prior.step

    def counted(*args: object, **more: object) -> object:
        used.add(torch.get_num_threads())
        return step(*args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(world.prior, "step", counted)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        simulator = Simulator(world, rows, backend="torch", **options)
        simulator.reset()
        simulator.step(some_actions(world.spec.action_space, rows))
        assert (used, torch.get_num_threads()) == ({wanted}, 3)
        monkeypatch.setattr(world.tokenizer, "decode", None)
        with pytest.raises(TypeError, match="not callable"):  # within the step
            simulator.step(some_actions(world.spec.action_space, rows))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_rows_are_numbers_or_a_mask_and_an_empty_selection_resets_nothing(world: WorldModel) -> None:
    simulator, other = simulator_of(world), simulator_of(world)
    simulator.reset(torch.tensor([2, 3]))
    mask = torch.tensor([False, False, True, True, False, False])
    other.reset(mask)
    assert equal_rows(other.state, simulator.state, list(range(6)), list(range(6)))
    assert other.state.steps.tolist() == [4, 4, 0, 0, 4, 4]
    before = other.save()
    assert torch.equal(other.reset(~mask & mask), before.frames)
    other.reset(torch.tensor([], dtype=torch.int64))
    assert equal_rows(other.state, before, list(range(6)), list(range(6)))
    other.hold(mask)
    assert other.state.ended.tolist() == (mask | before.ended).tolist()
    for rows in (mask[:4], torch.tensor([1.0]), torch.tensor(1)):
        with pytest.raises(UserError, match=r"wanted row numbers, .* or a mask, \(6,\) bool"):
            other.reset(rows)


def test_the_results_of_a_step_belong_to_the_caller(world: WorldModel) -> None:
    simulator, copy = simulator_of(world), simulator_of(world)
    saved = simulator.save()
    actions = some_actions(world.spec.action_space, 6)
    step = simulator.step(actions)
    copy.step(actions)
    for name in (field.name for field in fields(step)):
        getattr(step, name).fill_(1)
    simulator.reset(torch.tensor([0])).fill_(0)
    copy.reset(torch.tensor([0]))
    assert equal_rows(simulator.state, copy.state, list(range(6)), list(range(6)))
    simulator.restore(saved)
    assert equal_rows(simulator.state, saved, list(range(6)), list(range(6)))


@pytest.mark.parametrize("flat", [False, True])
def test_a_state_of_another_layout_is_refused(flat: bool) -> None:
    saved = simulator_of(make_world(flat=flat)).save()
    with pytest.raises(UserError, match="give it one of the same world"):
        simulator_of(make_world(flat=flat, window=2)).restore(saved)


def test_a_context_is_cast_or_refused(world: WorldModel) -> None:
    frames = torch.randint(0, 256, (2, 2, SIDE, SIDE, 3), dtype=torch.uint8)
    acted, known = torch.tensor([[1], [2]]), torch.tensor([0, 2])
    right, cast = (
        world.context(frames, a, status=s) for a, s in ((acted, known), (acted.to(torch.int32), known.to(torch.int32)))
    )
    assert equal_rows(cast, right, [0, 1], [0, 1])
    Simulator(world, 2).reset(context=cast)
    for status in (torch.tensor([0, 4]), torch.tensor([-1, 0]), torch.tensor([0]), torch.tensor([0.0, 1.0])):
        with pytest.raises(UserError, match="wanted an integer from 0 to 3 for each of 2 rows"):
            world.context(frames, acted, status=status)
    env = DreamEnv(world)
    given = frames[0].numpy()
    mirrored, _ = env.reset(options={"frames": given[..., ::-1], "actions": [1]})
    again, _ = env.reset(options={"frames": given[..., ::-1].copy(), "actions": [1]})
    assert (mirrored == again).all()
