"""The wheel has one top-level package with every module, also when it is built from an sdist."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def build(source: Path, out: Path, kind: str) -> Path:
    arguments = [sys.executable, "-m", "build", f"--{kind}", "--no-isolation", "--outdir", str(out), str(source)]
    result = subprocess.run(arguments, capture_output=True, text=True, timeout=200)
    assert result.returncode == 0, result.stdout + result.stderr
    return next(out.glob("*.whl" if kind == "wheel" else "*.tar.gz"))


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_the_wheel_holds_one_package_with_every_module(tmp_path: Path) -> None:
    sdist = build(ROOT, tmp_path / "sdist", "sdist")
    with tarfile.open(sdist) as archive:
        safe = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # Python 3.11.4 and newer
        archive.extractall(tmp_path / "unpacked", **safe)
    unpacked = next((tmp_path / "unpacked").iterdir())
    found = names(build(unpacked, tmp_path / "wheel", "wheel"))
    assert found == names(build(ROOT, tmp_path / "direct", "wheel")), "the same through an sdist"
    top = {name.split("/")[0] for name in found}
    assert {t for t in top if not t.endswith(".dist-info")} == {"worldmodel"}
    sources = {p.relative_to(ROOT / "worldmodel") for p in (ROOT / "worldmodel").rglob("*.py")}
    for folder in ("envs", "collect"):
        sources |= {Path(folder) / p.relative_to(ROOT / folder) for p in (ROOT / folder).rglob("*.py")}
    assert {f"worldmodel/{s.as_posix()}" for s in sources} | {"worldmodel/py.typed"} <= found


@pytest.mark.slow
def test_the_wheel_installs_in_an_empty_environment(tmp_path: Path) -> None:
    """Needs a package index; minutes."""
    wheel = build(ROOT, tmp_path / "wheel", "wheel")
    python = tmp_path / "env" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "env")], check=True)
    pip = [str(python), "-m", "pip", "install", "-q", "--constraint", str(ROOT / "constraints.txt")]
    subprocess.run([*pip, "torch==2.13.0"], check=True, timeout=900)
    subprocess.run([*pip, str(wheel)], check=True, timeout=900)
    command = tmp_path / "env" / "bin" / "worldmodel"
    arguments = ["collect", "--env", "toy", "--episodes", "10", "--out", str(tmp_path / "toy.h5")]
    subprocess.run([str(command), *arguments], check=True, cwd=tmp_path, timeout=300)
    subprocess.run([str(command), "data", "verify", str(tmp_path / "toy.h5")], check=True, cwd=tmp_path, timeout=300)
    code = (
        "import sys, worldmodel, gymnasium; assert 'torch' not in sys.modules\n"
        "gymnasium.make('worldmodel/Toy-v0').reset(seed=0)"
    )
    subprocess.run([str(python), "-c", code], check=True, cwd=tmp_path, timeout=100)
