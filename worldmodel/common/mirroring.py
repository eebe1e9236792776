"""Mirroring of frames and actions: a frame is flipped left to right, and an action becomes the one that fits.

An environment that looks and behaves alike in a mirror declares which actions change (`EnvRow.mirror`). The registry
of environments passes each declaration to `declare_mirror`, so that training and dreams, which do not import
environments, find it by the environment's id. Needs numpy only.

Shapes: B rows, H W pixels of a frame, A numbers per action.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from worldmodel.common.errors import UserError, unknown_name
from worldmodel.common.space_kinds import Box, Discrete, MultiBinary, MultiDiscrete
from worldmodel.common.spaces import Space

if TYPE_CHECKING:
    from worldmodel.common.pixels import Crop, PixelSpec

MirrorRule = tuple[tuple[str, ...], ...]
Labels = Sequence[str | Sequence[str]]

_RULES: dict[str, MirrorRule] = {}  # by id of the environment


def declare_mirror(env: str, rule: MirrorRule | None) -> None:
    """Declare how actions of an environment change in a mirror; None removes its declaration.

    Args:
        env: id of the environment.
        rule: see `EnvRow.mirror`.
    """
    if rule is None:
        _RULES.pop(env, None)
    else:
        _RULES[env] = rule


@dataclass(frozen=True)
class ActionMirror:
    """Actions in a mirror. Mirroring twice changes nothing.

    Attributes:
        space: the action space.
        tables: Discrete: one table, the mirrored choice of each choice. MultiDiscrete: such a table for each component.
            MultiBinary: one table, the component that each component takes its value from. Box: one table, the sign of
            each component. Empty for actions that do not change.
    """

    space: Space
    tables: tuple[tuple[int, ...], ...] = ()

    def __call__(self, actions: np.ndarray) -> np.ndarray:
        """Mirror actions, (..., *space.shape): a new array of the same shape and dtype."""
        if not self.tables:
            return actions.copy()
        if isinstance(self.space, Discrete):
            return np.asarray(self.tables[0], actions.dtype)[actions]
        if isinstance(self.space, MultiDiscrete):
            columns = [np.asarray(table)[actions[..., i]] for i, table in enumerate(self.tables)]
            return np.stack(columns, -1).astype(actions.dtype)
        if isinstance(self.space, MultiBinary):
            return actions[..., list(self.tables[0])]
        return actions * np.asarray(self.tables[0], actions.dtype)

    def rows(self, actions: np.ndarray, mirrored: np.ndarray) -> np.ndarray:
        """Mirror the actions of some rows.

        Args:
            actions: (B, ..., *space.shape).
            mirrored: (B,) bool.

        Returns:
            A new array.
        """
        out = actions.copy()
        out[mirrored] = self(actions[mirrored])
        return out


def flip_rows(frames: np.ndarray, mirrored: np.ndarray) -> np.ndarray:
    """Flip the frames of some rows left to right.

    Args:
        frames: (B, ..., H, W, 3).
        mirrored: (B,) bool.

    Returns:
        A new array if a row is flipped, else `frames`.
    """
    if not mirrored.any():
        return frames
    out = frames.copy()
    out[mirrored] = frames[mirrored][..., ::-1, :]
    return out


def action_mirror(
    env: str, space: Space, labels: Labels, pixels: PixelSpec, encoded: Crop | None = None
) -> ActionMirror:
    """How actions of an environment change in a mirror.

    Args:
        env: id of the environment.
        space: its action space.
        labels: of its actions, as a dataset or a world stores them.
        pixels: of its frames.
        encoded: the part of a frame that a tokenizer encodes, (top, bottom, left, right); None for the whole frame.

    Raises:
        UserError: the environment declares no mirror, names an unknown action, or a part of the frame that is not in
            the middle between left and right.
    """
    rule = _RULES.get(env)
    if rule is None:
        raise UserError(
            f"mirror=True: {env} does not declare that it looks and behaves alike in a mirror (EnvRow.mirror); leave "
            "it out."
        )
    _, width, _ = pixels.frame_shape
    for name, part, sides in (("crop", pixels.crop, pixels.size[1]), ("tokenizer.encoded", encoded, width)):
        if part is not None and part[2] + part[3] != sides:
            raise UserError(
                f"mirror=True: {name}={part} is not symmetric in {sides} columns, so a flipped frame would show "
                f"another part of the screen; wanted left + right = {sides}, or no mirror."
            )
    return ActionMirror(space, _tables(space, labels, rule))


def _tables(space: Space, labels: Labels, rule: MirrorRule) -> tuple[tuple[int, ...], ...]:
    """The tables of an `ActionMirror`."""
    if isinstance(space, Discrete):
        names = [tuple(map(str, labels))]
    elif isinstance(space, MultiDiscrete):
        names = [choice_names(label, n) for label, n in zip(labels, space.nvec, strict=False)]
    elif isinstance(space, MultiBinary | Box):
        names = [tuple(map(str, labels))]
    else:
        return ()
    _check_names(rule, names, space)
    if isinstance(space, Box):
        return (_signs(space, names[0], rule),)
    exchanged = {a: b for pair in rule for a, b in (pair, pair[::-1])}
    return tuple(_exchange(group, exchanged) for group in names)


def choice_names(label: str | Sequence[str], count: int) -> tuple[str, ...]:
    """Names of the choices of a MultiDiscrete component: its own labels, or LABEL=0, LABEL=1, ...

    Args:
        label: the component's label, or a label of each choice.
        count: the number of choices.
    """
    return tuple(label) if not isinstance(label, str) else tuple(f"{label}={choice}" for choice in range(count))


def _check_names(rule: MirrorRule, names: Sequence[tuple[str, ...]], space: Space) -> None:
    """Refuse labels that the actions do not have, and entries that do not fit the space."""
    size = 1 if isinstance(space, Box) else 2
    known = [name for group in names for name in group]
    for entry in rule:
        if len(entry) != size:
            raise UserError(f"mirror {entry}: wanted {size} label(s) for {space}.")
        for name in entry:
            if name not in known:
                raise unknown_name("mirrored action", name, known)


def _signs(space: Box, names: tuple[str, ...], rule: MirrorRule) -> tuple[int, ...]:
    negated = {name for entry in rule for name in entry}
    for name, low, high in zip(names, *space.bounds(), strict=True):
        if name in negated and low != -high:
            wanted = "wanted bounds that are symmetric about 0"
            raise UserError(f"mirror: the component {name!r} lies in [{low}, {high}]; {wanted}.")
    return tuple(-1 if name in negated else 1 for name in names)


def _exchange(names: tuple[str, ...], exchanged: dict[str, str]) -> tuple[int, ...]:
    """The index of each name's mirrored name. "left+attack" consists of the names of two buttons."""
    index = {frozenset(name.split("+")): i for i, name in enumerate(names)}
    table = []
    for name in names:
        target = frozenset(exchanged.get(part, part) for part in name.split("+"))
        if target not in index:
            raise unknown_name("mirrored action", "+".join(sorted(target)), names)
        table.append(index[target])
    return tuple(table)
