"""The split of an episode: exact in every block of ten, and as documented."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from worldmodel.data.splits import missing_splits, split_numbers

DOCS = Path(__file__).parent.parent / "docs" / "file_format.md"


@given(seed=st.integers(0, 2**63 - 1), block=st.integers(0, 2**50))
def test_every_block_of_ten_is_8_1_1(seed: int, block: int) -> None:
    numbers = split_numbers(seed, np.arange(10, dtype=np.int64) + block * 10)
    assert np.bincount(numbers, minlength=3).tolist() == [8, 1, 1]


def test_splits_are_uniform_and_follow_the_documented_rule() -> None:
    numbers = split_numbers(3, np.arange(20_000))
    for split in (1, 2):
        positions = np.bincount(np.flatnonzero(numbers == split) % 10, minlength=10)
        assert positions.min() > 140  # 200 expected, six deviations
    code = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.S)[1]
    namespace: dict[str, Any] = {}
    exec(code, namespace)
    for seed in (0, 3, 2**63 - 1):
        assert [namespace["split"](seed, i) for i in range(200)] == split_numbers(seed, np.arange(200)).tolist()


def test_missing_splits_are_named() -> None:
    assert missing_splits(split_numbers(0, range(10))) is None
    assert "there is no validation and no test episode (3 train" in str(missing_splits(np.zeros(3)))
