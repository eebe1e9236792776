"""For all tests: one torch thread, since two tests run at a time, and threads that sleep while they wait.

torch reads both variables when it is loaded, so they are set before any test module is (see `cli.command_line`).
"""

import gc
import os

import pytest

os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# The slowest files first, so that the two processes of `make test`, which take whole files in this order, end together.
# Seconds on one core: 26 to 17 for the first two lines, then 16 to 6.
SLOWEST = (
    *("test_collect", "test_onnx", "test_train_world", "test_shipped", "test_train_policy", "test_recording_processes"),
    *("test_train_full_disk", "test_toy_dream", "test_dream_interfaces", "test_dream_isolation", "test_docs"),
    *("test_full_disk", "test_model_policies", "test_world_flat", "test_world_model", "test_examples", "test_metrics"),
    *(
        "test_clip_model",
        "test_bench",
        "test_doom",
        "test_push",
        "test_pictures",
        "test_train_memory",
        "test_commands",
        "test_write_failures",
    ),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort by file; the order within a file stays."""
    rank = {name: place for place, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


def pytest_collection_finish() -> None:
    """Let the garbage collector skip what was imported: a tenth of the time of the tests."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)
