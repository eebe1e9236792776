"""What a world stores about the environment that it was learned from."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from worldmodel.common import spaces
from worldmodel.common.errors import UserError
from worldmodel.common.pixels import PixelSpec
from worldmodel.world.config_values import (
    MAX_CHOICES,
    MAX_PIXELS,
    MAX_SIDE,
    check_bool,
    check_float,
    check_int,
    check_list,
    check_object,
    check_text,
)

OPTIONAL_FIELDS = ("action_keys",)  # added after the first worlds were saved
MAX_STEPS = 2**40  # of an episode
MAX_FLOAT32 = 3.4028234e38

Labels = tuple[str, ...] | tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class WorldSpec:
    """The environment that a world was learned from.

    Attributes:
        env: id of the environment.
        pixels: how its screen was turned into frames.
        action_space: its action space.
        action_labels: a name for each action; may be empty.
        action_keys: a keyboard key for each label, by the names of `KeyboardEvent.key` in browsers; "" for none. Empty
            if the environment has no keys, and in worlds that were saved before keys were stored.
        env_kwargs: arguments that the environment was made with, JSON.
        frame_skip: ticks of the environment per step.
        max_steps: steps after which recording truncated an episode; None for no limit.
        end_has_frame: whether the data holds a frame of the terminal step.
        dataset: fingerprint of the data.
    """

    env: str
    pixels: PixelSpec
    action_space: spaces.Space
    action_labels: Labels = ()
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    frame_skip: int = 1
    max_steps: int | None = None
    end_has_frame: bool = True
    dataset: str = ""
    action_keys: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Every field, as JSON."""
        return {**vars(self), "pixels": self.pixels.to_json(), "action_space": self.action_space.to_json()}

    @staticmethod
    def from_json(spec: Any) -> WorldSpec:
        """The inverse of `to_json`.

        Raises:
            UserError: a field is missing, unknown, of the wrong type or out of range.
        """
        names = [field.name for field in fields(WorldSpec)]
        check_object(spec, "spec", names)
        missing = [name for name in names if name not in spec and name not in OPTIONAL_FIELDS]
        if missing:
            raise UserError(f"spec lacks the field {missing[0]!r}.")
        if not check_text(spec["env"], "spec.env"):
            raise UserError("spec.env is empty: wanted the id of an environment.")
        max_steps = spec["max_steps"]
        return WorldSpec(
            env=spec["env"],
            pixels=read_pixels(spec["pixels"], "spec.pixels"),
            action_space=_read_action_space(spec["action_space"]),
            action_labels=_read_labels(spec["action_labels"]),
            env_kwargs=check_object(spec["env_kwargs"], "spec.env_kwargs"),
            frame_skip=check_int(spec["frame_skip"], "spec.frame_skip", 1, MAX_STEPS),
            max_steps=None if max_steps is None else check_int(max_steps, "spec.max_steps", 1, MAX_STEPS),
            end_has_frame=check_bool(spec["end_has_frame"], "spec.end_has_frame"),
            dataset=check_text(spec["dataset"], "spec.dataset"),
            action_keys=_read_keys(spec.get("action_keys", [])),
        )


def read_pixels(value: Any, name: str) -> PixelSpec:
    """A `PixelSpec` from JSON, whose frames are of a sensible size.

    Args:
        value: the JSON.
        name: what errors call it.

    Raises:
        UserError: a field is missing, unknown, of the wrong type or out of range.
    """
    check_object(value, name, ("size", "crop"))
    if set(value) != {"size", "crop"}:
        raise UserError(f"{name}={value!r}: wanted the fields 'size' and 'crop'.")
    height, width = (
        check_int(side, f"{name}.size", 1, MAX_SIDE) for side in check_list(value["size"], f"{name}.size", 2)
    )
    if value["crop"] is None:
        pixels = PixelSpec((height, width))
    else:
        sides = check_list(value["crop"], f"{name}.crop", 4)
        top, bottom, left, right = (check_int(side, f"{name}.crop", 0, MAX_SIDE) for side in sides)
        pixels = PixelSpec((height, width), (top, bottom, left, right))
    rows, columns, _ = pixels.frame_shape
    if rows * columns > MAX_PIXELS:
        raise UserError(f"{name}: frames of {rows} x {columns} pixels are too large, wanted at most {MAX_PIXELS}.")
    return pixels


def _read_action_space(value: Any) -> spaces.Space:
    """An action space with a sensible number of choices and finite bounds."""
    name = "spec.action_space"
    known: dict[str, set[str]] = {
        "discrete": {"n"},
        "multi_discrete": {"nvec"},
        "multi_binary": {"n"},
        "box": {"low", "high"},
        "none": set(),
    }
    kind = check_object(value, name).get("kind")
    if not isinstance(kind, str) or kind not in known:
        raise UserError(f"{name}.kind={kind!r}: wanted {', '.join(known)}.")
    if set(value) != known[kind] | {"kind"}:
        raise UserError(f"{name}={value!r}: wanted the fields {sorted(known[kind])}.")
    if kind in ("discrete", "multi_binary"):
        check_int(value["n"], f"{name}.n", 1, MAX_CHOICES)
    elif kind == "multi_discrete":
        choices = [check_int(n, f"{name}.nvec", 1, MAX_CHOICES) for n in check_list(value["nvec"], f"{name}.nvec")]
        check_int(sum(choices), f"the sum of {name}.nvec", 1, MAX_CHOICES)
    elif kind == "box":
        _check_bounds(value, name)
    return spaces.from_json(value)


def _check_bounds(value: dict[str, Any], name: str) -> None:
    """Bounds of a box: null, or finite with low <= high."""
    low, high = (check_list(value[end], f"{name}.{end}") for end in ("low", "high"))
    if not low or len(low) != len(high) or len(low) > MAX_CHOICES:
        raise UserError(f"{name}: got {len(low)} low and {len(high)} high bounds, wanted the same number, at least 1.")
    for a, b in zip(low, high, strict=True):
        for bound in (a, b):
            if bound is not None:
                check_float(bound, f"a bound of {name}", -MAX_FLOAT32, MAX_FLOAT32)
        if a is not None and b is not None and a > b:
            raise UserError(f"{name}: the low bound {a} is above the high bound {b}.")


def _read_labels(value: Any) -> Labels:
    """Names of actions, or of the choices of several actions."""
    name = "spec.action_labels"
    labels = [x if isinstance(x, str) else tuple(check_list(x, name)) for x in check_list(value, name)]
    if any(not isinstance(word, str) for label in labels if isinstance(label, tuple) for word in label):
        raise UserError(f"{name}={value!r}: wanted strings, or lists of strings.")
    return tuple(labels)  # type: ignore[return-value]


def _read_keys(value: Any) -> tuple[str, ...]:
    """Names of keys, one for each action label."""
    keys = check_list(value, "spec.action_keys")
    return tuple(check_text(key, "spec.action_keys") for key in keys)
