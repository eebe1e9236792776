"""Formatting of sizes and lists for messages."""

from __future__ import annotations

from collections.abc import Sequence


def human_bytes(num_bytes: float) -> str:
    """Format a size in bytes: 512 B, 3.2 MB, 1.5 GB (powers of 1000)."""
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} TB"


def format_list(numbers: Sequence[int], limit: int = 8) -> str:
    """Format the first `limit` numbers: "1, 2, 3 and 5 more"."""
    shown = ", ".join(str(number) for number in numbers[:limit])
    return shown + (f" and {len(numbers) - limit} more" if len(numbers) > limit else "")
