"""Action spaces: an exact translation from gymnasium or a sentence, samples inside, JSON."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import gymnasium
import gymnasium.spaces as gs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worldmodel.collect import record
from worldmodel.common.errors import UserError
from worldmodel.common.spaces import (
    Box,
    Discrete,
    MultiBinary,
    MultiDiscrete,
    Space,
    check_actions,
    from_gymnasium,
    from_json,
    to_gymnasium,
)
from worldmodel.data import Dataset

FLOAT32_MAX = float(np.finfo(np.float32).max)
INTEGERS = ["int8", "int32", "int64", "uint8"]
NUMBERS = [0.0, 0.1, 1.0, 1 / 3, 5.0, 1e-45, 1e-50, 1e30, FLOAT32_MAX, 3.5e38, 1e300, np.inf]


@st.composite
def boxes(draw: st.DrawFn) -> gymnasium.Space:
    dtype = np.dtype(draw(st.sampled_from(["float32"] * 4 + ["float64"] * 4 + ["float16", "bool", *INTEGERS])))
    shape = draw(st.sampled_from([(1,), (3,), (3,), (3,), (), (2, 2), (0,)]))
    numbers = st.sampled_from([-x for x in NUMBERS] + NUMBERS) | st.floats(allow_nan=False, width=64)
    size = int(np.prod(shape))
    if dtype.kind != "f":
        numbers = st.integers(0, 1) if dtype.kind == "b" else st.integers(0, 100)
    pairs = [sorted((draw(numbers), draw(numbers))) for _ in range(size)]
    limit = float(np.finfo(dtype).max) if dtype.kind == "f" else 100.0
    low, high = (np.asarray([pair[i] for pair in pairs], np.float64).reshape(shape) for i in range(2))
    low = np.where(np.isfinite(low) & (abs(low) > limit), np.sign(low) * limit, low)
    high = np.where(np.isfinite(high) & (abs(high) > limit), np.sign(high) * limit, high)
    low, high = np.where(low == np.inf, 0, low), np.where(high == -np.inf, 0, high)
    low, high = np.minimum(low, high), np.maximum(low, high)
    return gs.Box(np.asarray(low, dtype), np.asarray(high, dtype), dtype=dtype.type)


def discretes() -> st.SearchStrategy[gymnasium.Space]:
    counts, dtypes = st.integers(1, 9), st.sampled_from(INTEGERS)
    starts = st.sampled_from([0, 0, 0, 1, 3])
    return st.one_of(
        st.builds(lambda n, start: gs.Discrete(n, start=start), counts, starts),
        st.builds(lambda n: gs.Discrete(np.int64(n)), counts),
        st.builds(
            lambda nvec, dtype, start: gs.MultiDiscrete(nvec, dtype=np.dtype(dtype).type, start=[start] * len(nvec)),
            st.lists(counts, min_size=1, max_size=4),
            dtypes,
            starts,
        ),
        st.just(gs.MultiDiscrete([[2, 3], [4, 5]])),
        st.builds(gs.MultiBinary, st.integers(1, 5) | st.just([2, 3])),
        st.sampled_from([gs.Text(3), gs.Dict({"a": gs.Discrete(2)}), gs.Tuple([gs.Discrete(2)])]),
    )


def as_original(action: np.ndarray, space: gymnasium.Space) -> Any:
    """An action as the environment gets it: an int, or an array of the dtype of its space, without loss."""
    if action.ndim == 0:
        return int(action)
    array = action.astype(space.dtype)
    assert np.array_equal(array.astype(action.dtype), action)
    return array


@settings(max_examples=400, deadline=None)
@given(space=boxes() | discretes(), seed=st.integers(0, 2**32))
@pytest.mark.filterwarnings("ignore:.*precision lowered")
def test_a_gymnasium_space_is_translated_exactly_or_refused(space: gymnasium.Space, seed: int) -> None:
    try:
        ours = from_gymnasium(space)
    except UserError:
        return
    theirs = to_gymnasium(ours)
    rng = np.random.default_rng(seed)
    for _ in range(5):
        action = ours.sample(rng)
        assert action.shape == ours.shape
        assert action.dtype == ours.dtype
        assert np.isfinite(action).all()
        assert space.contains(as_original(action, space)), (space, action)
        assert theirs.contains(as_original(action, theirs))
        assert np.array_equal(check_actions(ours, action), action)  # what is stored is what was done
    assert from_json(json.loads(json.dumps(ours.to_json()))) == ours
    assert pickle.loads(pickle.dumps(ours)) == ours
    again = from_gymnasium(theirs)
    assert all(np.array_equal(a, b) for a, b in zip(again.bounds(), ours.bounds(), strict=True))


@settings(max_examples=300, deadline=None)
@given(space=boxes() | discretes(), data=st.data())
@pytest.mark.filterwarnings("ignore:.*precision lowered")
def test_translation_accepts_the_same_actions(space: gymnasium.Space, data: st.DataObject) -> None:
    try:
        ours = from_gymnasium(space)
    except UserError:
        return
    theirs = to_gymnasium(ours)
    low, high = (np.asarray(bound, np.float64).reshape(-1) for bound in ours.bounds())
    values = []
    for a, b in zip(low, high, strict=True):
        with np.errstate(over="ignore"):
            neighbours = np.nextafter(np.float32([a, a, b, b]), np.float32([-np.inf, np.inf] * 2))
        near = [a, b, *neighbours]
        numbers = st.sampled_from([float(x) for x in near if np.isfinite(x)] or [0.0]) | st.floats(width=32)
        values.append(data.draw(numbers if isinstance(ours, Box) else st.integers(-1, 10)))
    action = np.asarray(values, ours.dtype).reshape(ours.shape)
    if not np.isfinite(action).all():  # refused, although gymnasium accepts infinity without a bound
        with pytest.raises(UserError):
            check_actions(ours, action)
        return
    original = int(action) if action.ndim == 0 else action.astype(space.dtype)
    if space.dtype is not None and action.ndim and not np.array_equal(original.astype(action.dtype), action):
        return  # -1 is no uint8
    assert space.contains(original) == theirs.contains(int(action) if action.ndim == 0 else action.astype(theirs.dtype))
    if space.contains(original):
        assert np.array_equal(check_actions(ours, action), action)


@given(space=boxes(), seed=st.integers(0, 100))
@pytest.mark.filterwarnings("ignore:.*precision lowered")
def test_float64_actions_become_float32_actions_inside(space: gs.Box, seed: int) -> None:
    try:
        ours = from_gymnasium(space)
    except UserError:
        return
    for bound in (space.low, space.high):
        action = np.where(np.abs(bound) < FLOAT32_MAX, bound, np.clip(0.0, space.low, space.high))
        if not (np.abs(action) < FLOAT32_MAX).all():
            continue
        done = check_actions(ours, action)
        assert space.contains(done.astype(space.dtype))
        np.testing.assert_allclose(done, action, rtol=1e-6, atol=1e-44)


@pytest.mark.parametrize(
    ("space", "sentence"),
    [
        (gs.Box(0, 10, (2,), np.int32), "a Box of integers.* takes MultiDiscrete, counted from 0"),
        (gs.Box(0, 1, (2,), np.uint8), "MultiDiscrete"),
        (gs.Box(0, 1, (2,), bool), "takes MultiBinary"),
        (gs.Box(0, 1, (2,), np.float16), "stored as float32, which float16 cannot represent"),
        (gs.Box(0, 1, (2, 2)), "of one dimension"),
        (gs.Discrete(3, start=1), "counted from 0"),
        (gs.MultiDiscrete([3, 2], start=[0, 1]), "counted from 0"),
        (gs.Box(1e39, np.inf, (1,), np.float64), "has no float32 number"),
        (gs.Box(0.1, 0.1, (1,), np.float64), "has no float32 number"),
    ],
)
def test_spaces_that_would_lose_something_are_refused(space: gymnasium.Space, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        from_gymnasium(space)


class Named(gs.Discrete):
    """A subclass that changes nothing."""


class Odd(gs.Discrete):
    """Contains the odd actions only."""

    def contains(self, x: Any) -> bool:
        return super().contains(x) and int(x) % 2 == 1


def test_subclasses_are_accepted_if_they_contain_the_same_actions() -> None:
    assert from_gymnasium(Named(3)) == Discrete(3)
    with pytest.raises(UserError, match="not supported"):
        from_gymnasium(Odd(3))


def test_numpy_numbers_are_accepted_and_others_refused() -> None:
    assert Discrete(np.int64(3)) == Discrete(3)
    assert json.dumps(Discrete(np.int8(3)).to_json()) == '{"kind": "discrete", "n": 3}'
    assert MultiDiscrete(np.array([3, 2])) == MultiDiscrete([3, 2]) == MultiDiscrete((3, 2))
    assert MultiBinary(np.uint8(4)) == MultiBinary(4)
    assert Box(np.array([-1, -np.inf], np.float32), [np.float32(0.5), None]) == Box((-1.0, None), (0.5, None))
    assert Box((-1,), (1,)).to_json() == {"kind": "box", "low": [-1], "high": [1]}  # as given
    assert hash(Box([0.0], [1.0])) == hash(Box((0.0,), (1.0,)))
    for make in (
        lambda: Discrete(0),
        lambda: Discrete(2.0),
        lambda: Discrete(True),
        lambda: MultiDiscrete(()),
        lambda: MultiDiscrete((2, 0)),
        lambda: MultiDiscrete(3),
        lambda: MultiBinary("3"),
        lambda: Box((0.0,), (1.0, 2.0)),
        lambda: Box((), ()),
        lambda: Box((1.0,), (0.0,)),
        lambda: Box((np.nan,), (0.0,)),
        lambda: Box((np.inf,), (None,)),
        lambda: Box((0.0,), (10**400,)),
        lambda: Box(("0",), (1.0,)),
    ):
        with pytest.raises(UserError, match="wanted"):
            make()


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
        lambda inner: st.lists(inner, max_size=3),
    ),
    st.sampled_from(["discrete", "multi_discrete", "multi_binary", "box", "other"]),
)
def test_json_of_a_space_gives_a_space_or_a_sentence(value: Any, kind: str) -> None:
    for spec in (value, {}, {"kind": kind}, {"kind": kind, "n": value, "nvec": value, "low": value, "high": value}):
        try:
            space = from_json(spec)
        except UserError:
            continue
        space.sample(np.random.default_rng(0))


def test_samples_of_bounded_and_unbounded_spaces_are_as_before() -> None:
    # computed before bounds beyond float32 were accepted
    rng = np.random.default_rng(7)
    box = Box((-1.0, None, 0.25), (1.0, None, 0.75))
    want = rng.random(3) * np.float32([2, 1, 0.5]) + np.float32([-1, 0, 0.25])
    want[1] = rng.standard_normal(3)[1]
    assert np.array_equal(box.sample(np.random.default_rng(7)), want.astype(np.float32))


def test_samples_with_one_bound_are_spread() -> None:
    rng = np.random.default_rng(0)
    samples = np.stack([Box((5.0, None), (None, -5.0)).sample(rng) for _ in range(500)])
    assert (samples[:, 0] >= 5).all()
    assert (samples[:, 1] <= -5).all()
    assert len(np.unique(samples)) == 1000
    assert 5.6 < samples[:, 0].mean() < 6


class Recorded(gymnasium.Env):
    """Keeps the actions that it gets."""

    observation_space = gs.Box(0, 255, (16, 16, 3), np.uint8)

    def __init__(self, action_space: gymnasium.Space) -> None:
        self.action_space, self.done = action_space, []

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return np.zeros((16, 16, 3), np.uint8), {}

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action), action
        self.done.append(np.array(action))
        return np.zeros((16, 16, 3), np.uint8), 0.0, len(self.done) >= 60, False, {}


RECORDED_SPACES = {
    "float64": gs.Box(-0.1, 0.1, (2,), np.float64),
    "half-bounded": gs.Box(np.array([0.1, -np.inf]), np.array([np.inf, -0.1]), dtype=np.float64),
    "int32 choices": gs.MultiDiscrete([3, 2], dtype=np.int32),
    "buttons": gs.MultiBinary(3),
    "choices": gs.Discrete(4),
}


@pytest.mark.parametrize(
    ("name", "policy"),
    [
        *((name, policy) for name in RECORDED_SPACES for policy in ("random", "sticky")),
        *((name, "periodic") for name in RECORDED_SPACES if name != "half-bounded"),
        *((name, "upper bound") for name in ("float64", "half-bounded")),
    ],
)
def test_what_is_stored_is_what_the_environment_got(tmp_path: Path, name: str, policy: str) -> None:
    space: Any = RECORDED_SPACES[name]
    env = Recorded(space)

    def upper_bound(frame: np.ndarray) -> np.ndarray:
        """In float64, which float32 cannot represent."""
        return np.where(np.isfinite(space.high), space.high, space.low)

    chosen = upper_bound if policy == "upper bound" else policy
    data = Dataset(record(env, chosen, tmp_path / "a.h5", episodes=1, size=16, progress=False))
    actions, done = data.episode(0).actions, np.stack(env.done)
    assert np.array_equal(done, actions.astype(done.dtype))
    assert np.array_equal(done.astype(actions.dtype), actions)


def test_an_integer_box_is_not_recorded(tmp_path: Path) -> None:
    env = Recorded(gs.Box(0, 10, (2,), np.int32))
    with pytest.raises(UserError, match=r"a Box of integers.* MultiDiscrete"):
        record(env, "random", tmp_path / "a.h5", episodes=1, size=16, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_recordings_with_nearest_bounds_stay_readable() -> None:
    # until now a bound of 0.1 was rounded to the nearest float32, which is above it
    stored = np.float32([[0.1]])
    box: Space = Box((-0.1,), (0.1,))
    assert float(stored[0, 0]) > 0.1
    assert float(check_actions(box, stored)[0, 0]) < 0.1
    with pytest.raises(UserError, match="is outside"):
        check_actions(box, np.nextafter(stored, np.float32(1)))
