"""The run.json that every output has: resolved config, command line, versions of code and packages.

Configs are frozen dataclasses. On disk they are strict JSON: an unknown key is an error that names the key.
"""

from __future__ import annotations

import functools
import json
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import fields, is_dataclass
from importlib import metadata
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args

from worldmodel.common.config_upgrades import upgrade_config
from worldmodel.common.errors import UserError
from worldmodel.common.files import expand_path, write_json_atomic
from worldmodel.common.version import VERSION

T = TypeVar("T")
PACKAGES = ("torch", "numpy", "gymnasium", "vizdoom", "stable-baselines3", "h5py", "imageio", "pillow")
# Config fields that may differ when a run is resumed: they do not change its output, or (rounds, seeds) only extend it.
EXECUTION_FIELDS = frozenset(
    {"workers", "device", "json", "force", "threads", "minutes_left", "quiet", "rounds", "seeds"}
)


def structure_unions_by_kind(converter: Any) -> Any:
    """Let a cattrs converter read unions of config dataclasses, by the field `kind` of each.

    Args:
        converter: changed in place. Every member of a union has a field `kind` with a distinct default. If it has a
            classmethod `upgrade_saved`, that converts the fields of earlier versions.

    Returns:
        The same converter.
    """

    def is_union(kind: Any) -> bool:
        members = get_args(kind)
        return isinstance(kind, UnionType) and all(isinstance(m, type) and is_dataclass(m) for m in members)

    def hook_of(union: Any) -> Any:
        members = {next(f.default for f in fields(m) if f.name == "kind"): m for m in get_args(union)}

        def hook(value: Any, _: Any) -> Any:
            kind = value.get("kind") if isinstance(value, dict) else None
            if kind not in members:
                raise ValueError(f"kind {kind!r}, wanted {' or '.join(map(repr, members))}")
            member = members[kind]
            upgrade = getattr(member, "upgrade_saved", None)
            return converter.structure(value if upgrade is None else upgrade(value), member)

        return hook

    converter.register_structure_hook_factory(is_union, hook_of)
    return converter


@functools.cache
def strict_converter() -> Any:
    """A cattrs converter of config dataclasses that accepts exactly the JSON types of the fields."""
    from cattrs.preconf.json import make_converter

    converter = structure_unions_by_kind(make_converter(forbid_extra_keys=True))
    converter.register_unstructure_hook(Path, str)
    converter.register_structure_hook(Path, lambda value, _: Path(value))

    def strict(kind: type) -> Any:
        def hook(value: Any, _: Any) -> Any:
            if kind is float and type(value) is int:
                return float(value)
            if type(value) is not kind:
                raise UserError(f"got {value!r} ({type(value).__name__}), wanted {kind.__name__}")
            return value

        return hook

    for kind in (int, bool, float, str):
        converter.register_structure_hook(kind, strict(kind))
    return converter


def config_to_json(config: Any) -> dict[str, Any]:
    """A config dataclass as JSON data: paths as text, tuples as lists."""
    return json.loads(json.dumps(strict_converter().unstructure(config)))


def config_from_json(data: dict[str, Any], cls: type[T], where: str) -> T:
    """The inverse of `config_to_json`.

    Args:
        data: JSON data.
        cls: the config class.
        where: the subject of the error message, e.g. the path of the file.

    Raises:
        UserError: an unknown key or a wrong type; the message names it.
    """
    import cattrs
    from cattrs.v import format_exception

    def phrase(error: BaseException, kind: type | None) -> str:
        return str(error).rstrip(".") if isinstance(error, UserError) else format_exception(error, kind)

    try:
        return strict_converter().structure(data, cls)
    except (cattrs.BaseValidationError, UserError) as error:
        nested = not isinstance(error, UserError)
        problems = "; ".join(cattrs.transform_error(error, format_exception=phrase)) if nested else str(error)
        raise UserError(f"{where} is not a {cls.__name__}: {problems}") from None


def versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that can change a result."""
    installed = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return installed


def code_version() -> str:
    """The version of the package; in a git checkout also the commit, and "+" if files have changed."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return VERSION

    def git(*args: str) -> str:
        result = subprocess.run(["git", "-C", str(root), *args], capture_output=True, text=True, timeout=10)
        return result.stdout.strip() if result.returncode == 0 else ""

    try:
        commit = git("rev-parse", "--short=12", "HEAD")
        dirty = "+" if commit and git("status", "--porcelain", "--untracked-files=no") else ""
    except (OSError, subprocess.TimeoutExpired):
        return VERSION
    return f"{VERSION}-{commit}{dirty}" if commit else VERSION


def machine() -> dict[str, Any]:
    """Processor name, number of cores that this process may use, memory in GB, operating system."""
    name = platform.processor()
    memory = None
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
                break
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemTotal"):
                memory = round(int(line.split()[1]) / 1e6, 1)
    except OSError:
        pass
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"processor": name, "cores": cores, "memory_gb": memory, "system": platform.platform()}


def run_info(verb: str, config: Any) -> dict[str, Any]:
    """The content of run.json.

    Args:
        verb: the command, e.g. "train world".
        config: its config dataclass.
    """
    return {
        "verb": verb,
        "config": config_to_json(config),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "code_version": code_version(),
        "packages": versions(),
    }


def save_run_info(path: Path, verb: str, config: Any, **extra: Any) -> None:
    """Write `run_info` and more entries as JSON, atomically.

    Raises:
        UserError: the file cannot be written.
    """
    write_json_atomic(path, {**run_info(verb, config), **extra})


def load_run_info(path: Path) -> dict[str, Any]:
    """Read a run.json.

    Raises:
        UserError: the file is missing or is not a run.json.
    """
    path = expand_path(path)
    try:
        info = json.loads(path.read_text())
        if not isinstance(info, dict) or "config" not in info or "verb" not in info:
            raise ValueError("it has no 'verb' and 'config'")
    except FileNotFoundError:
        raise UserError(f"there is no saved config {path}; every output has one (*.run.json or run.json).") from None
    except ValueError as error:
        raise UserError(f"{path} is not a saved config: {error}.") from None
    return {**info, "config": upgrade_config(info["config"])}


def run_difference(saved: dict[str, Any], config: Any) -> str | None:
    """Compare a config with that of a saved run, without the fields in `EXECUTION_FIELDS`.

    Returns:
        None if both give the same output; else the first field that differs ("seed is 1, was 0").
    """
    values, saved_values = config_to_json(config), saved["config"]
    for key in values:
        if key not in EXECUTION_FIELDS and values[key] != saved_values.get(key):
            return f"{key} is {values[key]!r}, was {saved_values.get(key)!r}"
    return None


def remove_run(out: Path) -> None:
    """Remove the folder of a run, for `--force`.

    Raises:
        UserError: the folder has files but no run.json, so it is something else.
    """
    out = expand_path(out)
    if out.is_dir() and any(out.iterdir()) and not (out / "run.json").is_file():
        raise UserError(f"{out} is not the folder of a run (it has no run.json), so --force does not remove it.")
    shutil.rmtree(out, ignore_errors=True)


def check_same_run(saved: Path, out: Path, config: Any) -> None:
    """Refuse to overwrite the output of another config.

    Args:
        saved: the run.json of the output; if it is missing, nothing is refused.
        out: the output, for the error message.
        config: the config of the run that would write to `out`.

    Raises:
        UserError: the saved config gives another output; the message names the first field that differs.
    """
    difference = run_difference(load_run_info(saved), config) if expand_path(saved).exists() else None
    if difference:
        raise UserError(f"{out} holds another run ({difference}); choose another --out, or --force to remove it.")
