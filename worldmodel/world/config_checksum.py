"""The checksum of a config.json, which shows edits of anything that decides how a model behaves."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from worldmodel.common.errors import UserError

KEY = "config_sha256"
# The report may be edited, like the card. The rest has its own checks: the files have their own sha256.
NOT_COVERED = ("format", "version", "files", "report", KEY)


def with_checksum(config: dict[str, Any]) -> dict[str, Any]:
    """The entries of a config.json, with their checksum."""
    return {**config, KEY: _checksum(config)}


def check_checksum(config: dict[str, Any], path: Path) -> bool:
    """Whether a config.json has a checksum; directories of older versions have none.

    Args:
        config: its content.
        path: the directory, for the error.

    Raises:
        UserError: the checksum is not that of the content.
    """
    if KEY not in config:
        return False
    if config[KEY] != _checksum(config):
        raise UserError(
            f"{path}/config.json was changed after it was written: its {KEY} does not match. Copy the directory again; "
            f'or, if the change is intended, remove the line "{KEY}".'
        )
    return True


def _checksum(config: dict[str, Any]) -> str:
    covered = {name: value for name, value in config.items() if name not in NOT_COVERED}
    # through JSON, since tuples are read as lists; NaN, which is no JSON, has a text all the same
    text = json.dumps(json.loads(json.dumps(covered)), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
