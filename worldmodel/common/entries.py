"""Objects named by text, which are imported only when they are needed."""

from __future__ import annotations

import importlib
from typing import Any


def load_entry(entry: str) -> Any:
    """Import what "module:name" names."""
    module, name = entry.split(":")
    return getattr(importlib.import_module(module), name)
