"""Who may import whom (docs/architecture.md), read from the sources."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LEAVES = {
    "worldmodel.errors",
    "worldmodel.spaces",
    "worldmodel.pixels",
    "worldmodel.runinfo",
    "worldmodel.memory",
    "worldmodel.directory",
    "worldmodel.processes",
    "worldmodel.plain",
    "worldmodel.shipped",
}
MODELS = (
    "worldmodel.tokenizer",
    "worldmodel.prior",
    "worldmodel.heads",
    "worldmodel.model",
    "worldmodel.tokenizer_dir",
    "worldmodel.train",
)

# room -> what it must never import, anywhere in its files
FORBIDDEN: dict[str, tuple[str, ...]] = {
    "worldmodel.data": (
        "gymnasium",
        "stable_baselines3",
        "vizdoom",
        "worldmodel.envs",
        "worldmodel.collect",
        *MODELS,
    ),
    **dict.fromkeys(
        MODELS,
        (
            *("gymnasium", "stable_baselines3", "vizdoom"),
            *("worldmodel.envs", "worldmodel.collect", "worldmodel.dream.env"),
        ),
    ),
    "worldmodel.dream": ("vizdoom", "worldmodel.envs", "worldmodel.collect"),
    "worldmodel.export": (
        *("gymnasium", "stable_baselines3", "vizdoom"),
        *("worldmodel.envs", "worldmodel.collect", "worldmodel.dream"),
    ),
    "worldmodel.plain": (
        *("torch", "gymnasium", "stable_baselines3", "vizdoom", *MODELS),
        *(f"worldmodel.{room}" for room in ("envs", "collect", "data", "dream", "export", "metrics", "bench", "cli")),
    ),
    "worldmodel.metrics": (
        *("gymnasium", "stable_baselines3", "vizdoom"),
        *("worldmodel.envs", "worldmodel.collect"),
    ),
    "worldmodel.collect": MODELS,
    "worldmodel.envs": ("torch", "stable_baselines3", "worldmodel.data", "worldmodel.collect", *MODELS),
}


def sources() -> dict[str, Path]:
    """Module name -> file, for every file of the package."""
    found = {}
    for folder, prefix in (
        ("worldmodel", "worldmodel"),
        ("envs", "worldmodel.envs"),
        ("collect", "worldmodel.collect"),
    ):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            if folder == "worldmodel" and parts[0] in ("envs", "collect"):
                continue
            found[".".join((prefix, *(p for p in parts if p != "__init__")))] = path
    return found


def imports(path: Path) -> set[str]:
    """Every module that a file imports, wherever in the file, type checking aside."""
    tree = ast.parse(path.read_text())
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    names = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; write the whole name"
            names.add(node.module or "")
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def within(module: str, room: str) -> bool:
    return module == room or module.startswith(room + ".")


@pytest.mark.parametrize("module", sources())
def test_imports_keep_to_the_rooms(module: str) -> None:
    found = imports(sources()[module])
    for room, forbidden in FORBIDDEN.items():
        if within(module, room):
            bad = {name for name in found for room_ in forbidden if within(name, room_)}
            assert not bad, f"{module} ({room}) imports {sorted(bad)}"
    assert not {n for n in found if n.split(".")[0] in ("envs", "collect")}, "import worldmodel.envs, not envs"
    if module in LEAVES:
        ours = {n for n in found if within(n, "worldmodel") and n != "worldmodel"}
        assert all(any(within(n, leaf) for leaf in LEAVES) for n in ours), ours


def test_the_reader_of_imports_sees_them(tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    path.write_text("def f():\n    from worldmodel.envs import make\n    import torch.nn\n")
    assert imports(path) == {"worldmodel.envs", "worldmodel.envs.make", "torch.nn"}
    assert "worldmodel.data.hdf5" in sources()
    assert "worldmodel.collect.recorder" in sources()
