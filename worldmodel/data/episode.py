"""One recorded episode, checked when it is made.

Shapes: T steps, T+1 frames of H x W pixels, A numbers an action.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from worldmodel.common.errors import UserError

MAX_SEED = 2**63 - 1


@dataclass(frozen=True, eq=False, kw_only=True)
class Episode:
    """A whole trajectory: `actions[t]` takes `frames[t]` to `frames[t+1]` and earns `rewards[t]`.

    Arrays are kept as they are given (not copied, so do not write to them afterwards); any that is not
    contiguous is copied once.

    Attributes:
        frames: (T+1, H, W, 3) uint8, T >= 1.
        frame_valid: (T+1,) bool. False where the environment gave no picture of that moment: the frame and
            the variables before it are then repeated. The first is True.
        actions: (T,) int64, (T, A) int64 or (T, A) float32.
        rewards: (T,) float32, finite.
        terminations: (T,) bool: the task ended here. Only the last may be True.
        truncations: (T,) bool: the recording was stopped here. Only the last may be True.
        variables: name -> (T+1,) float32, finite: what the environment tells besides its picture.
        index: the episode's number in its recording, >= 0.
        seed: what the environment was reset with, 0 .. 2**63 - 1.
        policy: the name of the policy that chose the actions.

    Raises:
        UserError: any of the above does not hold; the sentence names the field.
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

    def __post_init__(self) -> None:
        for name in ("index", "seed"):
            number = getattr(self, name)
            if isinstance(number, bool) or not isinstance(number, int | np.integer):
                raise UserError(f"episode: {name} is {number!r}; wanted a whole number.")
            if not 0 <= number <= MAX_SEED:
                raise UserError(f"episode: {name}={number}; wanted 0 .. 2**63 - 1.")
            object.__setattr__(self, name, int(number))
        if not isinstance(self.policy, str) or not self.policy:
            raise UserError(f"episode {self.index}: policy is {self.policy!r}; wanted its name.")
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
            raise self._fail(f"frames has shape {frames.shape}; wanted at least two frames of a pixel or more.")
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
        if 0 in actions.shape:
            raise self._fail(f"actions has shape {actions.shape}; wanted at least one number an action.")
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
                    f"{name}[{early[0]}] is True, but the episode goes on to step {self.length - 1}; "
                    "only its last step may end it. Split it into two episodes."
                )
        if not self.frame_valid[0]:
            raise self._fail("frame_valid[0] is False; an episode begins with a real frame.")
        for t in np.flatnonzero(~self.frame_valid):
            if not np.array_equal(self.frames[t], self.frames[t - 1]):
                raise self._fail(
                    f"frame_valid[{t}] is False, but frames[{t}] differs from frames[{t - 1}]; "
                    "where there is no picture, repeat the one before."
                )
            for name, values in self.variables.items():
                if values[t] != values[t - 1]:
                    raise self._fail(
                        f"frame_valid[{t}] is False, but variable {name!r} changes there from "
                        f"{values[t - 1]} to {values[t]}; where there is no picture, repeat the one before."
                    )

    @property
    def length(self) -> int:
        """T, the number of steps; there are T+1 frames."""
        return len(self.rewards)

    @property
    def return_(self) -> float:
        """The sum of the rewards, added in float64."""
        return float(self.rewards.sum(dtype=np.float64))

    def arrays(self) -> Iterator[tuple[str, np.ndarray]]:
        """Every array by its name on disk, in the order of the files and of the CRC.

        frames, frame_valid, variables/<name> sorted by name, actions, rewards, terminations, truncations;
        contiguous, little-endian.
        """
        yield "frames", self.frames
        yield "frame_valid", self.frame_valid
        for name in sorted(self.variables):
            yield f"variables/{name}", self.variables[name]
        for name in ("actions", "rewards", "terminations", "truncations"):
            yield name, getattr(self, name)

    def crc(self) -> int:
        """CRC-32 (zlib's) over the bytes of `arrays()`, one after the other."""
        crc = 0
        for _, array in self.arrays():
            crc = zlib.crc32(byte_view(array), crc)
        return crc

    @property
    def num_bytes(self) -> int:
        """Bytes of all arrays."""
        return sum(array.nbytes for _, array in self.arrays())

    def __eq__(self, other: object) -> bool:
        """Same index, seed and policy, and every array the same to the bit."""
        if not isinstance(other, Episode):
            return NotImplemented
        if (self.index, self.seed, self.policy) != (other.index, other.seed, other.policy):
            return False
        mine, theirs = dict(self.arrays()), dict(other.arrays())
        return mine.keys() == theirs.keys() and all(
            a.dtype == theirs[name].dtype and a.shape == theirs[name].shape and a.tobytes() == theirs[name].tobytes()
            for name, a in mine.items()
        )

    __hash__ = None  # type: ignore[assignment]


def byte_view(array: np.ndarray) -> memoryview:
    """The little-endian bytes of a contiguous array, without a copy on little-endian machines."""
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return np.ascontiguousarray(little).reshape(-1).view(np.uint8).data
