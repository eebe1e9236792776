"""What is saved beside every output: the resolved config, the command line, code and package versions.

A leaf. Configs are frozen dataclasses; on disk they are strict JSON (an unknown key is an error that names it).
"""

from __future__ import annotations

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
from worldmodel.common.files import atomic_path
from worldmodel.common.version import VERSION

T = TypeVar("T")
PACKAGES = ("torch", "numpy", "gymnasium", "vizdoom", "stable-baselines3", "h5py", "imageio", "pillow")
# Fields that say how a run is carried out, not what it makes: they may differ when a run goes on.
HOW = frozenset({"workers", "device", "json", "force", "threads", "minutes_left", "quiet"})


def structure_unions_by_kind(converter: Any) -> Any:
    """Let a converter read unions of config dataclasses: each has a field `kind` with a default of its own.

    Returns:
        The same cattrs converter.
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
            return converter.structure(value, members[kind])

        return hook

    converter.register_structure_hook_factory(is_union, hook_of)
    return converter


def _converter() -> Any:
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


def to_json_data(config: Any) -> dict[str, Any]:
    """A config dataclass as JSON-able data (paths as text, tuples as lists)."""
    return json.loads(json.dumps(_converter().unstructure(config)))


def from_json_data(plain: dict[str, Any], cls: type[T], where: str) -> T:
    """Structure a config from JSON data.

    Raises:
        UserError: an unknown key or a wrong type, named.
    """
    import cattrs

    try:
        return _converter().structure(plain, cls)
    except (cattrs.BaseValidationError, UserError) as error:
        problems = "; ".join(cattrs.transform_error(error)) if not isinstance(error, UserError) else str(error)
        raise UserError(f"{where} is not a {cls.__name__}: {problems}") from None


def versions() -> dict[str, str]:
    """Installed versions of the packages that can change a result, and of Python."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def code_version() -> str:
    """The package's version, with the commit where this is a git checkout (and '+' if it has changes)."""
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
    """Processor name, cores that this process may use, memory in GB, system."""
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
    """Everything that is saved beside an output."""
    return {
        "verb": verb,
        "config": to_json_data(config),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "code_version": code_version(),
        "packages": versions(),
    }


def save_run_info(path: Path, verb: str, config: Any, **extra: Any) -> None:
    """Write `run_info` (and more) as JSON, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps({**run_info(verb, config), **extra}, indent=1) + "\n")


def load_run_info(path: Path) -> dict[str, Any]:
    """Read a saved run.

    Raises:
        UserError: missing, or not such a file.
    """
    try:
        info = json.loads(path.read_text())
        if not isinstance(info, dict) or "config" not in info or "verb" not in info:
            raise ValueError("it has no 'verb' and 'config'")
    except FileNotFoundError:
        raise UserError(
            f"no saved config at {path}; every output has one beside it (*.run.json or run.json)."
        ) from None
    except ValueError as error:
        raise UserError(f"{path} is not a saved run: {error}.") from None
    return {**info, "config": upgrade_config(info["config"])}


def run_difference(saved: dict[str, Any], config: Any) -> str | None:
    """Does a saved run make the same thing as this config?

    Returns:
        None if so; else a phrase naming the first field that differs ("seed is 1, was 0").
    """
    ours, theirs = to_json_data(config), saved["config"]
    for key in ours:
        if key not in HOW and ours[key] != theirs.get(key):
            return f"{key} is {ours[key]!r}, was {theirs.get(key)!r}"
    return None


def remove_run(out: Path) -> None:
    """Remove a run's folder for `--force`, and never a folder that is something else.

    Raises:
        UserError: it holds files but no run.json of ours.
    """
    if out.is_dir() and any(out.iterdir()) and not (out / "run.json").is_file():
        raise UserError(f"{out} is not a run's folder (it has no run.json), so --force does not remove it.")
    shutil.rmtree(out, ignore_errors=True)


def check_same_run(saved: Path, out: Path, config: Any) -> None:
    """Leave an output alone that another config made.

    Args:
        saved: the run saved beside it; nothing is refused where there is none.
        out: the output, as the sentence names it.
        config: of the run that would write to it.

    Raises:
        UserError: the saved run makes something else; the first field that differs is named.
    """
    differs = run_difference(load_run_info(saved), config) if saved.exists() else None
    if differs:
        raise UserError(f"{out} holds another run ({differs}); choose another --out, or --force to remove it.")
