"""Directories of format version 1 are read: worlds and tokenizers in tests/data, written by the code of that version.

Each comes with what that code computed: `dream.safetensors` holds six steps of four dreams, `expected.safetensors`
the codes and decoded frames of a clip.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from worldmodel.common.directories import read_directory
from worldmodel.common.errors import UserError
from worldmodel.dream import Simulator
from worldmodel.onnx.onnx_world import EXPORT
from worldmodel.train.checkpoints import load_checkpoint, save_checkpoint
from worldmodel.world import legacy_keys
from worldmodel.world.legacy_keys import rename_tokenizer_weights, rename_world_weights
from worldmodel.world.tokenizer_storage import TokenizerCheckpoint
from worldmodel.world.world_model import WorldModel

DATA = Path(__file__).parent / "data"
WORLDS = ("world-v1", "world-v1-flat")
FIELDS = ("frames", "codes", "rewards", "hazards", "status", "log_probs")


def dream(world: WorldModel) -> dict[str, torch.Tensor]:
    """The dream of `dream.safetensors`: first frames and six steps, (4, 6 or 7, ...)."""
    simulator = Simulator(world, 4, seed=5, starts="any", backend="torch")
    first = simulator.reset()
    steps = [simulator.step(torch.tensor([0, 1, 2, t % 3])) for t in range(6)]
    result = {name: torch.stack([getattr(step, name) for step in steps], 1) for name in FIELDS}
    return {**result, "frames": torch.cat([first[:, None], result["frames"]], 1)}


def version(directory: Path) -> int:
    return json.loads((directory / "config.json").read_text())["version"]


@pytest.mark.parametrize("name", WORLDS)
def test_a_version_1_world_dreams_as_it_did(name: str, tmp_path: Path) -> None:
    assert version(DATA / name) == 1
    world = WorldModel.from_pretrained(DATA / name)
    found, expected = dream(world), load_file(DATA / name / "dream.safetensors")
    for field in ("codes", "status"):
        assert torch.equal(found[field], expected[field])
    for field in ("rewards", "hazards", "log_probs"):
        torch.testing.assert_close(found[field], expected[field], atol=1e-4, rtol=1e-4)
    assert (found["frames"].int() - expected["frames"].int()).abs().max() <= 1
    world.save_pretrained(tmp_path / "world")
    assert version(tmp_path / "world") == 2
    again = dream(WorldModel.from_pretrained(tmp_path / "world"))
    assert all(torch.equal(found[field], again[field]) for field in FIELDS)


def test_a_version_1_tokenizer_encodes_as_it_did(tmp_path: Path) -> None:
    assert version(DATA / "tokenizer-v1") == 1
    saved = TokenizerCheckpoint.from_pretrained(DATA / "tokenizer-v1")
    expected = load_file(DATA / "tokenizer-v1" / "expected.safetensors")
    assert torch.equal(saved.tokenizer.encode(expected["frames"]), expected["codes"])
    decoded = saved.tokenizer.decode(expected["codes"])
    assert (decoded.int() - expected["decoded"].int()).abs().max() <= 1
    saved.save_pretrained(tmp_path / "tokenizer")
    assert version(tmp_path / "tokenizer") == 2
    again = TokenizerCheckpoint.from_pretrained(tmp_path / "tokenizer").tokenizer
    assert torch.equal(again.decode(expected["codes"]), decoded)


def test_the_key_map_renames_every_tensor_once_and_has_no_unused_name() -> None:
    used = {"tokenizer": set(), "prior": set()}
    for name in (*WORLDS, "tokenizer-v1"):
        weights = load_file(DATA / name / "model.safetensors")
        if name in WORLDS:
            renamed, model = rename_world_weights(weights), WorldModel.from_pretrained(DATA / name)
        else:
            renamed, model = (
                rename_tokenizer_weights(weights),
                TokenizerCheckpoint.from_pretrained(DATA / name).tokenizer,
            )
            weights = {f"tokenizer.{key}": tensor for key, tensor in weights.items()}
        assert len(renamed) == len(weights)
        assert renamed.keys() == model.state_dict().keys()
        for key in weights:
            part, _, rest = key.partition(".")
            rules = {"tokenizer": legacy_keys._TOKENIZER, "prior": legacy_keys._PRIOR}[part]
            used[part] |= {old for old, new in rules.items() if legacy_keys._rename(rest, {old: new}) != rest}
    assert used == {"tokenizer": legacy_keys._TOKENIZER.keys(), "prior": legacy_keys._PRIOR.keys()}


def test_the_prior_of_a_version_1_world_must_fit_its_tokenizer(tmp_path: Path) -> None:
    directory = shutil.copytree(DATA / "world-v1", tmp_path / "world")
    weights = load_file(directory / "model.safetensors")
    weights["tokenizer.codebook.embeddings"] += 1
    save_file(weights, directory / "model.safetensors")
    config = json.loads((directory / "config.json").read_text())
    config["files"]["model.safetensors"] = hashlib.sha256((directory / "model.safetensors").read_bytes()).hexdigest()
    (directory / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="another tokenizer"):
        WorldModel.from_pretrained(directory)


def test_an_export_of_version_1_must_be_made_again(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"format": EXPORT.format, "version": 1, "files": {}}))
    with pytest.raises(
        UserError, match=r"version 1; this code reads version 2.*create it again with `worldmodel export"
    ):
        read_directory(tmp_path, EXPORT)


def test_a_checkpoint_with_other_names_is_refused(tmp_path: Path) -> None:
    model = torch.nn.ModuleDict({"old": torch.nn.Linear(2, 2)})
    save_checkpoint(tmp_path / "model.safetensors", model, [], torch.optim.AdamW(model.parameters()), {"steps": 1})
    renamed = torch.nn.ModuleDict({"new": torch.nn.Linear(2, 2)})
    before = renamed["new"].weight.clone()
    with pytest.raises(UserError, match="another version of worldmodel"):
        load_checkpoint(tmp_path / "model.safetensors", renamed, [], torch.optim.AdamW(renamed.parameters()))
    assert torch.equal(renamed["new"].weight, before)
