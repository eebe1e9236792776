"""The verb `assets`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import tyro


@dataclass(frozen=True)
class Assets:
    """List the files from elsewhere that the package can use, or fetch some of them into the cache.

    Example:
        worldmodel assets
    """

    names: tyro.conf.Positional[tuple[str, ...]] = ()
    """Assets to fetch; without a name the table is printed."""
    json: bool = False
    """Print as JSON."""


def assets(config: Assets) -> None:
    """Print the table, or fetch and print the paths."""
    from worldmodel.common.assets import ASSETS, cached_path, find_asset

    if config.names:
        found = {name: str(find_asset(name, explicit=True)) for name in config.names}
        print(json.dumps(found) if config.json else "\n".join(f"{name}: {path}" for name, path in found.items()))
        return
    if config.json:
        print(json.dumps([{**asdict(row), "cached": cached_path(row).is_file()} for row in ASSETS.values()]))
        return
    width = max(len(name) for name in ASSETS)
    for name, row in ASSETS.items():
        state = "cached" if cached_path(row).is_file() else "not fetched"
        print(f"{name:<{width}}  {row.description} ({row.licence or 'no stated licence'}; {row.source}; {state})")
