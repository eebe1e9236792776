"""Options of an environment on the command line: frame size, crop, length of an episode, its own arguments."""

from __future__ import annotations

import ast
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldmodel.common.errors import UserError

DEFAULT_ENV = "doom/take-cover"
_BRACKETS = {"(": ")", "[": "]", "{": "}"}


@dataclass(frozen=True)
class EnvOptions:
    """Options of the environment."""

    size: tuple[int, int] = (64, 64)
    """Rows and columns of the whole frame, before the crop."""
    crop: tuple[int, int, int, int] | None = None
    """Top, bottom, left, right of the part that is kept."""
    max_steps: int | None = None
    """Truncate episodes after this many steps; the environment's own limit if not given."""
    env_args: str = ""
    """The environment's own arguments, as JSON or Python values: 'hud=true,skill=3'."""

    def kwargs(self) -> dict[str, Any]:
        """Keyword arguments for `worldmodel.envs.make`, without defaults.

        Raises:
            UserError: `env_args` is malformed, or sets size, crop or max_steps.
        """
        arguments: dict[str, Any] = {}
        if self.size != (64, 64):
            arguments["size"] = self.size
        if self.crop is not None:
            arguments["crop"] = self.crop
        if self.max_steps is not None:
            arguments["max_steps"] = self.max_steps
        for name, value in parse_env_args(self.env_args).items():
            if name in ("size", "crop", "max_steps"):
                raise UserError(f"env_args sets {name!r}: use --{name.replace('_', '-')}.")
            arguments[name] = value
        return arguments


def env_name(env: str, world: Path | None) -> str:
    """The environment of a command that takes --env and --world: short name or id.

    Args:
        env: what --env gives; "" takes the environment of the world, or `DEFAULT_ENV` without one.
        world: a world directory or name, or None.

    Raises:
        UserError: not a world.
    """
    if env or world is None:
        return env or DEFAULT_ENV
    from worldmodel.envs import rows
    from worldmodel.envs.make_like import recorded_env

    env_id, _, _ = recorded_env(world)
    return next((row.name for row in rows() if row.id == env_id), env_id)


def choose_env(env: str, world: Path | None, options: EnvOptions) -> tuple[str, dict[str, Any]]:
    """The environment of a command that takes --env and --world, with its arguments.

    Args:
        env, world: as for `env_name`.
        options: replace arguments of the world's recording.

    Returns:
        Short name or id, and keyword arguments for `worldmodel.envs.make`: those of the recording and `options`. If
        `env` names another environment than the world's, or that was recorded inside wrappers, only `options` apply.

    Raises:
        UserError: not a world, or `env` is "" and the world was recorded inside wrappers.
    """
    name = env_name(env, world)
    if world is None:
        return name, options.kwargs()
    from worldmodel.envs.make_like import env_arguments, recorded_env

    env_id, recorded, _ = recorded_env(world)
    if env and (name not in (env_id, env_name("", world)) or "wrappers" in recorded):
        return name, options.kwargs()
    _, arguments = env_arguments(world)
    return name, {**arguments, **options.kwargs()}


def parse_env_args(text: str) -> dict[str, Any]:
    """'hud=true,skill=3' -> {"hud": True, "skill": 3}.

    Args:
        text: NAME=VALUE, separated by commas. A value is a JSON or Python literal; text needs quotes.

    Raises:
        UserError: a part that is not of that form, or a name that occurs twice.
    """
    arguments: dict[str, Any] = {}
    for part in _split(text):
        name, separator, value = (piece.strip() for piece in part.partition("="))
        if not separator or not name.isidentifier():
            raise UserError(f"env_args {part!r}: wanted NAME=VALUE, separated by commas, as hud=true,skill=3.")
        if name in arguments:
            raise UserError(f"env_args sets {name!r} twice.")
        arguments[name] = _literal(name, value)
    return arguments


def _literal(name: str, value: str) -> Any:
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(value)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    raise UserError(f'env_args {name}={value}: wanted a JSON or Python value; text needs quotes, as {name}="{value}".')


def _split(text: str) -> list[str]:
    """Split at the commas that are outside of quotes and brackets; empty parts are dropped."""
    parts, closing, quote, start = [], [], "", 0
    for i, char in enumerate(text):
        if quote:
            quote = "" if char == quote and text[i - 1] != "\\" else quote
        elif char in "'\"":
            quote = char
        elif char in _BRACKETS:
            closing.append(_BRACKETS[char])
        elif closing and char == closing[-1]:
            closing.pop()
        elif char == "," and not closing:
            parts.append(text[start:i])
            start = i + 1
    return [part.strip() for part in (*parts, text[start:]) if part.strip()]
