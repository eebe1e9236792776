"""benchmarks/paper_speed.py: both loops take optimisation steps, and FLOPs are those of a formula."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from worldmodel.train.loop import Loop

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import paper_speed

    threads = torch.get_num_threads()
    yield paper_speed
    torch.set_num_threads(threads)


def test_attention_and_products_are_counted(script: ModuleType) -> None:
    heads, n, d = 4, 64, 16
    x = torch.randn(1, heads, n, d, requires_grad=True)
    product = 2 * heads * n * n * d
    for is_causal, share in ((False, 1), (True, (n + 1) / (2 * n))):
        with script.flop_counter() as counter:
            F.scaled_dot_product_attention(x, x, x, is_causal=is_causal).sum().backward()
        # two products forward; backward four, and the scores again
        assert counter.get_total_flops() == pytest.approx((2 + 5) * product * share)
    weight = torch.randn(d, d, requires_grad=True)
    with script.flop_counter() as counter:
        (x.detach() @ weight).sum().backward()
    assert counter.get_total_flops() == 2 * (2 * heads * n * d * d)


@pytest.mark.slow
def test_both_loops_of_both_parts_are_measured(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    updates: Counter[str] = Counter()
    for owner, name in ((Loop, "update"), (script.PlainLoop, "step")):
        original = getattr(owner, name)

        def counted(self: Any, *args: Any, original: Any = original, key: str = owner.__name__) -> None:
            updates[key] += 1
            original(self, *args)

        monkeypatch.setattr(owner, name, counted)
    monkeypatch.setattr(script, "SIZES", (16, 32))
    script.main(["--preset", "tiny-clip", "--rounds", "2", "--threads", "1", "--out", str(tmp_path / "speed.json")])
    assert updates == {"Loop": 6, "PlainLoop": 6}  # an untimed step and two rounds for each part
    rows = json.loads((tmp_path / "speed.json").read_text())["rows"]
    names = [(row["part"], row["loop"]) for row in rows]
    assert names == [(part, loop) for part in ("tokenizer", "prior") for loop in ("package", "plain")]
    for row in rows:
        assert row["seconds"] == pytest.approx(row["FLOPs of a step"] / row["FLOP/s"])
        assert row["FLOPs of a step"] > 1e6
        assert row["share of matmul"] > 0
    assert rows[1]["speed relative to plain interval"] == [1, 1]
