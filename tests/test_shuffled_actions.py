"""A world trained with the actions of other clips: the control whose dreams must be worth nothing."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from square import record_square, short

from worldmodel.prior.factored.factored_prior import FactoredPrior
from worldmodel.train import train_prior, train_world


def test_shuffled_actions_are_those_of_another_clip_of_the_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = record_square(tmp_path / "square.h5", 40)
    config = short(2, validations=0)
    train_world(data, tmp_path / "world", config)
    clips: dict[str, list] = {"plain": [], "shuffled": []}
    loss = FactoredPrior.loss
    for name, batches in clips.items():

        def keep(self: FactoredPrior, clip, batches=batches):  # type: ignore[no-untyped-def]
            batches.append(clip)
            return loss(self, clip)

        monkeypatch.setattr(FactoredPrior, "loss", keep)
        shuffled = dataclasses.replace(config, shuffled_actions=name == "shuffled")
        train_prior(tmp_path / "world", data, tmp_path / name, shuffled)
    for plain, other in zip(clips["plain"], clips["shuffled"], strict=True):
        assert torch.equal(other.codes, plain.codes)
        assert torch.equal(other.actions, plain.actions.roll(1, 0))
        assert not torch.equal(other.actions, plain.actions)
    assert "shuffled_actions" not in (tmp_path / "plain" / "training" / "run.json").read_text()
    assert '"shuffled_actions": true' in (tmp_path / "shuffled" / "training" / "run.json").read_text()
