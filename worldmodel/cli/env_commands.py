"""The verb `envs`."""

from __future__ import annotations

import json
from dataclasses import dataclass


@dataclass(frozen=True)
class Envs:
    """List the registered environments; any other gymnasium id with a supported action space works too.

    Example:
        worldmodel envs
    """

    json: bool = False
    """Print the table as JSON."""


def envs(config: Envs) -> None:
    """Print the registry."""
    from worldmodel.envs import rows

    table = [
        {
            "name": row.name,
            "id": row.id,
            "actions": list(row.action_labels),
            "reward": row.reward,
            "needs": row.requires,
        }
        for row in rows()
    ]
    width = max(len(row.name) for row in rows())
    lines = []
    for row in rows():
        actions = ", ".join(row.action_labels) or "see the environment"
        lines.append(f"{row.name:<{width}}  {row.id}\n{'':<{width}}  actions: {actions}. Reward: {row.reward}")
        if row.requires:
            lines.append(f"{'':<{width}}  needs: {row.requires}")
    print(json.dumps(table) if config.json else "\n".join(lines))
