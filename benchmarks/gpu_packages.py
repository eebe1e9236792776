"""Which packages this Python lacks; imported before anything that may be missing."""

from __future__ import annotations

import importlib


def missing_packages(modules: tuple[str, ...]) -> list[str]:
    """Modules that cannot be imported, each with the reason."""
    missing = []
    for name in modules:
        try:
            importlib.import_module(name)
        except Exception as error:  # a broken package is as bad as a missing one
            missing.append(f"{name} ({type(error).__name__}: {error})")
    return missing


def print_missing(missing: list[str]) -> None:
    """Print what to do about them."""
    print("These packages are missing; put their unpacked wheels into the folder WHEELS:", *missing, sep="\n  ")
