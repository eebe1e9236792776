"""For all tests: one torch thread, since two tests run at a time, and threads that sleep while they wait.

torch reads both variables when it is loaded, so they are set before any test module is (see `cli.command_line`).
"""

import os

import pytest

os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# The slowest files first, so that the two processes of `make test`, which take whole files in this order, end together.
# Seconds on one core: 36, 30, 22, 19, 18, 15, 12, then 8 and less.
SLOWEST = (
    *("test_collect", "test_faces", "test_train_policy", "test_shipped", "test_toy_dream", "test_train_world"),
    *("test_onnx", "test_world_flat", "test_world_prior", "test_docs", "test_world_model", "test_doom", "test_bench"),
    *("test_examples", "test_write_failures", "test_metrics", "test_pictures"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort by file; the order within a file stays."""
    rank = {name: place for place, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))
