"""A stored world's config.json: every wrong value is refused in one sentence, and every change is noticed."""

from __future__ import annotations

import contextlib
import copy
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from untrained import SPACES, make_world

from worldmodel.cli import command_line as cli
from worldmodel.common.errors import UserError
from worldmodel.common.pixels import PixelSpec
from worldmodel.tokenizer import TokenizerConfig, make_tokenizer
from worldmodel.world.config_checksum import KEY, with_checksum
from worldmodel.world.tokenizer_storage import TokenizerCheckpoint
from worldmodel.world.world_model import WorldModel

# Values that are wrong whatever else the config holds: path -> value.
WRONG: list[tuple[str, Any]] = [
    ("spec.max_steps", -5),
    ("spec.max_steps", 1.5),
    ("spec.max_steps", 0),
    ("spec.max_steps", True),
    ("spec.max_steps", "40"),
    ("spec.max_steps", 10**30),
    ("spec.frame_skip", 0),
    ("spec.frame_skip", None),
    ("spec.end_has_frame", 1),
    ("spec.end_has_frame", "false"),
    ("spec.env", ""),
    ("spec.env", 3),
    ("spec.dataset", None),
    ("spec.env_kwargs", []),
    ("spec.action_labels", "stay"),
    ("spec.action_labels", [1, 2]),
    ("spec.action_labels", [["a"], [2]]),
    ("spec.action_keys", "ArrowUp"),
    ("spec.action_keys", ["ArrowUp", 2, ""]),
    ("spec.pixels", None),
    ("spec.pixels.size", [10**9, 10**9]),
    ("spec.pixels.size", [4096, 4096]),
    ("spec.pixels.size", [16]),
    ("spec.pixels.size", [16.0, 16]),
    ("spec.pixels.size", [-16, 16]),
    ("spec.pixels.size", [24, 16]),
    ("spec.pixels.size", [32, 32]),
    ("spec.pixels.size", 16),
    ("spec.pixels.crop", [0, 99, 0, 16]),
    ("spec.pixels.crop", [0, 16, 0]),
    ("spec.pixels.crop", {}),
    ("spec.action_space", {}),
    ("spec.action_space", 3),
    ("spec.action_space.kind", "box"),
    ("spec.action_space.kind", ["discrete"]),
    ("spec.action_space.n", 0),
    ("spec.action_space.n", 4),
    ("spec.action_space.n", 2.0),
    ("spec.action_space.n", 10**12),
    ("tokenizer", []),
    ("tokenizer.time", "clip"),
    ("tokenizer.space_stride", 4),
    ("tokenizer.space_stride", 3),
    ("tokenizer.space_stride", 0),
    ("tokenizer.width", -8),
    ("tokenizer.width", 8.0),
    ("tokenizer.width", 2**30),
    ("tokenizer.width", 2**14),
    ("tokenizer.code_width", None),
    ("tokenizer.num_codes", 0),
    ("tokenizer.num_codes", 9),
    ("tokenizer.num_codes", 10**9),
    ("tokenizer.num_codebooks", 0),
    ("tokenizer.code_dim", "4"),
    ("tokenizer.commitment", float("nan")),
    ("tokenizer.codebook_decay", 2.0),
    ("tokenizer.rare_weight", -1.0),
    ("tokenizer.flavour", 1),
    ("prior", None),
    ("prior.kind", "diffusion"),
    ("prior.kind", "flat"),
    ("prior.order", "spiral"),
    ("prior.order", 7),
    ("prior.window", 0),
    ("prior.window", 4),
    ("prior.window", 10**9),
    ("prior.width", 17),
    ("prior.width", 2**14),
    ("prior.num_heads", 0),
    ("prior.num_heads", 3),
    ("prior.num_heads", -2),
    ("prior.trunk_layers", 10**9),
    ("prior.trunk_layers", 200),
    ("prior.mixture", 0),
    ("prior.embed_dim", 2**14),
    ("prior.history_noise", float("inf")),
    ("prior.history_noise", -0.5),
    ("prior.end_weight", "1"),
    ("prior.status", None),
    ("prior.status.edges", [1.5, 0.5]),
    ("prior.status.edges", [0.5]),
    ("prior.status.edges", [0.5, float("nan")]),
    ("prior.status.edges", "0.5"),
    ("prior.status.variable", ""),
    ("prior_of_tokenizer", None),
    ("prior_of_tokenizer", "0" * 64),
    ("report", []),
    ("files", []),
    ("files", None),
    ("version", 99),
    ("version", None),
    ("format", "diffusers"),
    ("licence", "MIT"),
]
# Values that are possible in themselves, but not those of this world: only the checksum shows the change.
CHANGED: list[tuple[str, Any]] = [
    ("spec.max_steps", 21),
    ("spec.max_steps", None),
    ("spec.end_has_frame", False),
    ("spec.frame_skip", 4),
    ("spec.env", "test/Other-v0"),
    ("spec.dataset", "0"),
    ("spec.action_labels", ["a", "b", "c"]),
    ("spec.action_keys", ["a", "b", "c"]),
    ("spec.env_kwargs", {"skill": 5}),
    ("prior.order", "raster"),
    ("prior.num_heads", 4),
    ("prior.history_noise", 0.5),
    ("prior.rare_weight", 2.0),
    ("prior.status.edges", [0.5, 1.0]),
    ("prior.status.variable", "health"),
    ("tokenizer.codebook_decay", 0.5),
    ("tokenizer.restart_below", 0.0),
]
MISSING = (
    "format", "version", "files", "spec", "tokenizer", "prior", "prior_of_tokenizer", "report", "spec.env",
    "spec.max_steps", "spec.end_has_frame", "spec.pixels", "spec.pixels.size", "spec.action_space.n", "prior.kind",
)  # fmt: skip
DELETED = object()


@pytest.fixture(scope="module")
def world_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    directory = tmp_path_factory.mktemp("worlds") / "world"
    make_world(mixture=1).save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def edited(world_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy whose config.json the tests replace."""
    directory = tmp_path_factory.mktemp("edited") / "world"
    shutil.copytree(world_dir, directory)
    return directory


def read_config(directory: Path) -> dict[str, Any]:
    return json.loads((directory / "config.json").read_text())


def write_config(directory: Path, config: dict[str, Any], checksum: bool) -> None:
    if not checksum:
        config = {name: value for name, value in config.items() if name != KEY}
    (directory / "config.json").write_text(json.dumps(config))


def edit(config: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy of a config in which the value at a path is another one, or deleted."""
    config = copy.deepcopy(config)
    *parents, name = path.split(".")
    place = config
    for parent in parents:
        place = place[parent]
    if value is DELETED:
        del place[name]
    else:
        place[name] = value
    return config


def refusal(directory: Path) -> str:
    with pytest.raises(UserError) as error:
        WorldModel.from_pretrained(directory)
    message = str(error.value)
    assert "\n" not in message
    assert message.endswith(".")
    return message


@pytest.mark.parametrize("checksum", [True, False], ids=["checksum", "no checksum"])
@pytest.mark.parametrize(("path", "value"), WRONG)
def test_a_wrong_value_is_refused_in_one_sentence(
    path: str, value: Any, checksum: bool, world_dir: Path, edited: Path
) -> None:
    write_config(edited, edit(read_config(world_dir), path, value), checksum)
    refusal(edited)


@pytest.mark.parametrize(("path", "value"), CHANGED)
def test_a_changed_value_is_noticed_by_the_checksum(path: str, value: Any, world_dir: Path, edited: Path) -> None:
    config = edit(read_config(world_dir), path, value)
    assert config != read_config(world_dir)
    write_config(edited, config, checksum=True)
    assert f'remove the line "{KEY}"' in refusal(edited)
    write_config(edited, config, checksum=False)  # the change is intended
    WorldModel.from_pretrained(edited)


@pytest.mark.parametrize("path", MISSING)
def test_a_missing_entry_is_refused(path: str, world_dir: Path, edited: Path) -> None:
    for checksum in (True, False):
        write_config(edited, edit(read_config(world_dir), path, DELETED), checksum)
        refusal(edited)


def test_a_field_that_an_older_version_did_not_have_takes_its_default(world_dir: Path, edited: Path) -> None:
    config = edit(read_config(world_dir), "prior.mixture", DELETED)
    write_config(edited, config, checksum=False)
    assert WorldModel.from_pretrained(edited).prior.config.mixture == 1
    write_config(edited, config, checksum=True)
    assert KEY in refusal(edited)


def test_report_and_card_may_be_edited(world_dir: Path, edited: Path) -> None:
    write_config(edited, edit(read_config(world_dir), "report", {"note": "mine"}), checksum=True)
    (edited / "README.md").write_text("mine")
    assert WorldModel.from_pretrained(edited).report == {"note": "mine"}


@pytest.mark.parametrize("kind", ["Box", "MultiDiscrete", "MultiBinary"])
def test_bounds_and_choices_of_other_action_spaces_are_checked(kind: str, tmp_path: Path) -> None:
    make_world(SPACES[kind]).save_pretrained(tmp_path / "world")
    config = read_config(tmp_path / "world")
    wrong = {
        "Box": [("low", [0.0]), ("low", [2.0, 0.0]), ("high", [float("inf"), 4.0]), ("high", [1e300, 4.0]), ("low", 1)],
        "MultiDiscrete": [("nvec", []), ("nvec", [2, -3]), ("nvec", [2, 2.5]), ("nvec", "ab"), ("nvec", [2, 4])],
        "MultiBinary": [("n", -1), ("n", False), ("n", 4)],
    }[kind]
    for name, value in wrong:
        write_config(tmp_path / "world", edit(config, f"spec.action_space.{name}", value), checksum=False)
        refusal(tmp_path / "world")


@pytest.mark.parametrize("field", ["order", "num_heads", "attention", "positions", "num_kv_heads", "window"])
def test_a_changed_flat_prior_is_noticed(field: str, tmp_path: Path) -> None:
    make_world(flat=True).save_pretrained(tmp_path / "world")
    values = {"attention": "full", "positions": "paper", "num_kv_heads": 1, "window": 2, "num_heads": 1, "order": "x"}
    write_config(tmp_path / "world", edit(read_config(tmp_path / "world"), f"prior.{field}", values[field]), True)
    refusal(tmp_path / "world")


def test_starts_must_fit_the_config(tmp_path: Path) -> None:
    """The window of a flat prior changes no weight, but the starts have as many frames."""
    make_world(flat=True).save_pretrained(tmp_path / "world")
    write_config(tmp_path / "world", edit(read_config(tmp_path / "world"), "prior.window", 2), checksum=False)
    assert "the starts do not fit" in refusal(tmp_path / "world")


def test_a_command_refuses_an_edited_world_with_exit_code_2(
    world_dir: Path, edited: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_config(edited, edit(read_config(world_dir), "spec.max_steps", -5), checksum=True)
    with pytest.raises(SystemExit) as stop:
        cli.main(["sample", "--world", str(edited), "--out", str(edited / "x.gif")])
    assert stop.value.code == 2
    assert "spec.max_steps=-5: wanted an integer" in capsys.readouterr().err


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths to everything in a JSON value that is neither a list nor an object."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if children is None:
        yield path
        return
    for name, child in children:
        yield from leaves(child, (*path, name))


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from([0, 1, -1, 2**31]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), checksum=st.booleans())
def test_a_random_edit_is_refused_or_leaves_a_world(
    data: st.DataObject, checksum: bool, world_dir: Path, edited: Path
) -> None:
    config = read_config(world_dir)
    path = data.draw(st.sampled_from([*leaves(config)]))
    place: Any = config
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = data.draw(JSON_VALUES)
    write_config(edited, config, checksum)
    world = None
    with contextlib.suppress(UserError):
        world = WorldModel.from_pretrained(edited)
    if world is None:
        refusal(edited)
    elif checksum and path[0] != KEY:  # only an edit that changes nothing passes, such as true for the version 1
        original = WorldModel.from_pretrained(world_dir)
        assert world.spec == original.spec
        assert (world.tokenizer.config, world.prior.config) == (original.tokenizer.config, original.prior.config)


def test_a_tokenizer_directory_is_checked_alike(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = TokenizerConfig(time="clip", space_stride=4, time_stride=2, clip_length=4, width=8, num_codes=8, code_dim=4)
    tokenizer = make_tokenizer(sizes, (16, 16, 3))
    out = tmp_path / "tokenizer"
    TokenizerCheckpoint(tokenizer, "test/X-v0", PixelSpec((16, 16)), "", {"psnr": 1.0}).save_pretrained(out)
    config = read_config(out)
    assert TokenizerCheckpoint.from_pretrained(out).tokenizer.config == sizes
    for path, value in (
        ("tokenizer.width", 2**14), ("tokenizer.num_layers", -1), ("pixels.size", [10**9, 10**9]), ("env", 3),
        ("report", 1), ("dataset", None), ("tokenizer", []), ("tokenizer.axial_attention", "yes"), ("extra", 1),
    ):  # fmt: skip
        for checksum in (True, False):
            write_config(out, edit(config, path, value), checksum)
            with pytest.raises(UserError):
                TokenizerCheckpoint.from_pretrained(out)
    write_config(out, edit(config, "tokenizer.commitment", 0.5), checksum=True)
    with pytest.raises(UserError, match=KEY):
        TokenizerCheckpoint.from_pretrained(out)


def test_the_checksum_does_not_depend_on_the_order_of_entries() -> None:
    first, second = with_checksum({"a": 1, "b": (2.0, 3)}), with_checksum({"b": [2.0, 3], "a": 1, "report": {}})
    assert first[KEY] == second[KEY]
    assert with_checksum({"a": 2, "b": [2.0, 3]})[KEY] != first[KEY]
