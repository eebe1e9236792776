"""One recorded episode, validated at construction.

Shapes: T steps, T+1 frames of H x W pixels, A numbers per action.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from worldmodel.common.errors import UserError, unknown_name
from worldmodel.data.splits import SPLITS

MAX_SEED = 2**63 - 1


@dataclass(frozen=True, eq=False, kw_only=True)
class Episode:
    """A whole trajectory: `actions[t]` takes `frames[t]` to `frames[t+1]` and earns `rewards[t]`.

    Arrays are not copied unless they are not contiguous; do not write to them afterwards.

    Attributes:
        frames: (T+1, H, W, 3) uint8, T >= 1.
        frame_valid: (T+1,) bool. False where the environment returned no frame for that time step: the previous
            frame and variables are repeated there. The first is True.
        actions: (T,) int64, (T, A) int64 or (T, A) float32; (T, 0) int64 for no actions.
        rewards: (T,) float32, finite.
        terminations: (T,) bool: the task ended here. Only the last may be True.
        truncations: (T,) bool: the episode was cut off here. Only the last may be True.
        variables: name -> (T+1,) float32, finite: further values that the environment reports, e.g. health.
        index: the number of the episode in its recording, >= 0.
        seed: the seed of the environment's reset, 0 .. 2**63 - 1.
        policy: the name of the policy that chose the actions.
        label: the class of the episode, an index of `Header.class_names`; None for no label.
        split: "train", "validation" or "test" if the split is given (`Header.split_rule`), else None.

    Raises:
        UserError: a field violates this; the message names it.
    """

    frames: np.ndarray
    frame_valid: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    terminations: np.ndarray
    truncations: np.ndarray
    variables: Mapping[str, np.ndarray] = field(default_factory=dict)
    index: int
    seed: int
    policy: str
    label: int | None = None
    split: str | None = None

    def __post_init__(self) -> None:
        for name in ("index", "seed", "label"):
            number = getattr(self, name)
            if number is None and name == "label":
                continue
            if isinstance(number, bool) or not isinstance(number, int | np.integer):
                raise UserError(f"episode: {name} is {number!r}; wanted an integer.")
            if not 0 <= number <= MAX_SEED:
                raise UserError(f"episode: {name}={number}; wanted 0 .. 2**63 - 1.")
            object.__setattr__(self, name, int(number))
        if not isinstance(self.policy, str) or not self.policy:
            raise UserError(f"episode {self.index}: policy is {self.policy!r}; wanted its name.")
        if self.split is not None and self.split not in SPLITS:
            raise unknown_name("split", str(self.split), SPLITS)
        self._check_shapes()
        self._check_values()

    def _fail(self, problem: str) -> UserError:
        return UserError(f"episode {self.index}: {problem}")

    def _array(self, name: str, value: Any, shape: tuple[int | None, ...], dtypes: str) -> np.ndarray:
        """Check one array's dtype and shape (None: any length) and make it contiguous."""
        if not isinstance(value, np.ndarray):
            raise self._fail(f"{name} is a {type(value).__name__}; wanted a numpy array of {dtypes}.")
        if str(value.dtype) not in dtypes.split(" or "):
            raise self._fail(f"{name} has dtype {value.dtype}; wanted {dtypes}. Convert with .astype().")
        fits = len(shape) == value.ndim and all(n is None or n == m for n, m in zip(shape, value.shape, strict=True))
        if not fits:
            wanted = str(tuple("any" if n is None else n for n in shape)).replace("'", "")
            raise self._fail(f"{name} has shape {value.shape}; wanted {wanted}.")
        return np.ascontiguousarray(value)

    def _check_shapes(self) -> None:
        frames = self._array("frames", self.frames, (None, None, None, 3), "uint8")
        num_frames = len(frames)
        if num_frames < 2 or 0 in frames.shape:
            raise self._fail(f"frames has shape {frames.shape}; wanted at least two frames of at least one pixel.")
        steps = num_frames - 1
        object.__setattr__(self, "frames", frames)
        wanted: dict[str, tuple[int, str]] = {
            "frame_valid": (num_frames, "bool"),
            "rewards": (steps, "float32"),
            "terminations": (steps, "bool"),
            "truncations": (steps, "bool"),
        }
        for name, (length, dtype) in wanted.items():
            object.__setattr__(self, name, self._array(name, getattr(self, name), (length,), dtype))
        flat = isinstance(self.actions, np.ndarray) and self.actions.ndim == 1
        shape, dtypes = ((steps,), "int64") if flat else ((steps, None), "int64 or float32")
        actions = self._array("actions", self.actions, shape, dtypes)
        if 0 in actions.shape and actions.dtype.kind == "f":
            raise self._fail(f"actions has shape {actions.shape}; wanted at least one number per action, or int64.")
        object.__setattr__(self, "actions", actions)
        variables = {}
        for name, values in self.variables.items():
            if not isinstance(name, str) or not name or "/" in name or name.startswith("."):
                raise self._fail(f"a variable is called {name!r}; wanted a name without '/' or leading dot.")
            variables[name] = self._array(f"variable {name!r}", values, (num_frames,), "float32")
        object.__setattr__(self, "variables", variables)

    def _check_values(self) -> None:
        finite = {"rewards": self.rewards, **{f"variable {k!r}": v for k, v in self.variables.items()}}
        if self.actions.dtype.kind == "f":
            finite["actions"] = self.actions
        for name, values in finite.items():
            if not np.isfinite(values).all():
                where = int(np.argwhere(~np.isfinite(values))[0, 0])
                raise self._fail(f"{name} at {where} is {values[where]}; wanted finite numbers.")
        for name in ("terminations", "truncations"):
            early = np.flatnonzero(getattr(self, name)[:-1])
            if early.size:
                raise self._fail(
                    f"{name}[{early[0]}] is True, but the episode has {self.length} steps; only "
                    "its last step may end it. Split it into two episodes."
                )
        if not self.frame_valid[0]:
            raise self._fail("frame_valid[0] is False; the first frame of an episode must be valid.")
        for t in np.flatnonzero(~self.frame_valid):
            if not np.array_equal(self.frames[t], self.frames[t - 1]):
                raise self._fail(
                    f"frame_valid[{t}] is False, but frames[{t}] differs from frames[{t - 1}]; "
                    "repeat the previous frame where the environment returned none."
                )
            for name, values in self.variables.items():
                if values[t] != values[t - 1]:
                    raise self._fail(
                        f"frame_valid[{t}] is False, but variable {name!r} changes there from "
                        f"{values[t - 1]} to {values[t]}; repeat the previous value there."
                    )

    @property
    def length(self) -> int:
        """T, the number of steps; there are T+1 frames."""
        return len(self.rewards)

    @property
    def return_(self) -> float:
        """The sum of the rewards, computed in float64."""
        return float(self.rewards.sum(dtype=np.float64))

    def arrays(self) -> Iterator[tuple[str, np.ndarray]]:
        """Every array with its name in files, in the order of the files and of the CRC.

        The order is frames, frame_valid, variables/<name> sorted by name, actions, rewards, terminations,
        truncations. Arrays are contiguous and little-endian.
        """
        yield "frames", self.frames
        yield "frame_valid", self.frame_valid
        for name in sorted(self.variables):
            yield f"variables/{name}", self.variables[name]
        for name in ("actions", "rewards", "terminations", "truncations"):
            yield name, getattr(self, name)

    def crc(self) -> int:
        """CRC-32 (as in zlib) over the concatenated bytes of `arrays()`."""
        crc = 0
        for _, array in self.arrays():
            crc = zlib.crc32(byte_view(array), crc)
        return crc

    @property
    def num_bytes(self) -> int:
        """Number of bytes of all arrays."""
        return sum(array.nbytes for _, array in self.arrays())

    def __eq__(self, other: object) -> bool:
        """Same index, seed, policy, label and split, and bit-identical arrays."""
        if not isinstance(other, Episode):
            return NotImplemented
        if any(getattr(self, name) != getattr(other, name) for name in ("index", "seed", "policy", "label", "split")):
            return False
        arrays, other_arrays = dict(self.arrays()), dict(other.arrays())
        return arrays.keys() == other_arrays.keys() and all(
            a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
            for a, b in ((array, other_arrays[name]) for name, array in arrays.items())
        )

    __hash__ = None  # type: ignore[assignment]


def byte_view(array: np.ndarray) -> memoryview:
    """The little-endian bytes of a contiguous array, without a copy on little-endian machines."""
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return np.ascontiguousarray(little).reshape(-1).view(np.uint8).data
