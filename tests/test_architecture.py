"""Which module may import which (docs/design.md), read from the sources."""

from __future__ import annotations

import ast
import functools
from collections import Counter
from pathlib import Path

import pytest

from worldmodel.prior import PRIORS

ROOT = Path(__file__).parent.parent

# Packages from the bottom up: each may import itself and those before it.
LAYERS = (
    "worldmodel.common",
    "worldmodel.data",
    "worldmodel.tokenizer",
    "worldmodel.prior",
    "worldmodel.world",
    "worldmodel.train",
    "worldmodel.onnx",
    "worldmodel.dream",
    "worldmodel.metrics",
    "worldmodel.envs",
    "worldmodel.collect",
    "worldmodel.bench",
    "worldmodel.cli",
)

# External packages that a package must not need, although a layer above does.
GAMES = ("gymnasium", "stable_baselines3", "vizdoom", "mujoco")
FORBIDDEN: dict[str, tuple[str, ...]] = {
    "worldmodel.data": GAMES,
    "worldmodel.tokenizer": GAMES,
    "worldmodel.prior": GAMES,
    "worldmodel.world": GAMES,
    "worldmodel.train": GAMES,
    "worldmodel.onnx": GAMES,
    "worldmodel.dream": ("vizdoom", "mujoco"),
    "worldmodel.metrics": GAMES,
    "worldmodel.envs": ("torch", "stable_baselines3"),
}

# Modules that load no torch, neither by themselves nor through what they import.
TORCH_FREE = (
    "worldmodel.onnx.onnx_simulator",
    "worldmodel.onnx.onnx_world",
    "worldmodel.onnx.factored_runtime",
    "worldmodel.onnx.flat_runtime",
    "worldmodel.prior.step_template",
    "worldmodel.data.dataset",
    "worldmodel.envs.env_registry",
    "worldmodel.cli.command_line",
)


@functools.cache
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


@functools.cache
def parsed(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text())


def type_checking_nodes(tree: ast.AST) -> set[int]:
    """Ids of the nodes under `if TYPE_CHECKING`."""
    return {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }


def imports(path: Path, modules: frozenset[str] = frozenset()) -> set[str]:
    """Every module that a file imports, anywhere in the file, except for type checking.

    `from package import name` counts as an import of the package, and of `package.name`; where that is one of
    `modules`, of it alone.
    """
    tree = parsed(path)
    skipped = type_checking_nodes(tree)
    names = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; write the full module name"
            full = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= full if full <= modules else full | {node.module or ""}
    return names


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def layer_of(module: str) -> int | None:
    """Index in `LAYERS`; None for the package's own top level."""
    return next((i for i, layer in enumerate(LAYERS) if within(module, layer)), None)


@pytest.mark.parametrize("module", sources())
def test_a_module_imports_only_its_own_layer_and_those_below(module: str) -> None:
    found = imports(sources()[module])
    assert not {n for n in found if n.split(".")[0] in ("envs", "collect")}, "import worldmodel.envs, not envs"
    own = layer_of(module)
    if own is not None:
        above = {name for name in found if (layer_of(name) or 0) > own}
        assert not above, f"{module} imports from layers above its own: {sorted(above)}"
    for package, forbidden in FORBIDDEN.items():
        if within(module, package):
            bad = {name for name in found for other in forbidden if within(name, other)}
            assert not bad, f"{module} ({package}) imports {sorted(bad)}"


def test_there_is_no_import_circle() -> None:
    modules = sources()
    names = frozenset(modules)
    graph = {module: (imports(path, names) & names) - {module} for module, path in modules.items()}
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, f"import circle: {' -> '.join((*trail[trail.index(module) :], module))}"
        if module in done:
            return
        for other in sorted(graph[module]):
            visit(other, (*trail, module))
        done.add(module)

    for module in sorted(graph):
        visit(module, ())


def test_module_names_are_unique() -> None:
    names = Counter(module.rsplit(".", 1)[-1] for module, path in sources().items() if path.stem != "__init__")
    names.pop("__main__", None)
    assert not {name: count for name, count in names.items() if count > 1}


def class_checks(path: Path, classes: frozenset[str]) -> list[tuple[int, str]]:
    """Lines of a file that ask for one of some classes, and its name: isinstance, issubclass, `type(x) is`, match.

    Args:
        path: the file.
        classes: names of the classes.
    """
    source, found = path.read_text(), []
    if not any(name in source for name in classes):
        return []
    for node in ast.walk(ast.parse(source)):
        candidates: list[ast.AST] = []
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            candidates = list(node.args[1:]) if node.func.id in ("isinstance", "issubclass") else []
        elif isinstance(node, ast.Compare):
            candidates = [node.left, *node.comparators]
        elif isinstance(node, ast.MatchClass):
            candidates = [node.cls]
        for inner in (x for tree in candidates for x in ast.walk(tree)):
            name = getattr(inner, "id", getattr(inner, "attr", ""))
            if name in classes:
                found.append((inner.lineno, name))  # type: ignore[attr-defined]
    return sorted(found)


def test_only_its_own_folder_asks_for_the_class_of_a_prior() -> None:
    folders = {
        name: row.config.__module__.rpartition(".")[0]
        for row in PRIORS.values()
        for name in (row.config.__name__, row.prior.partition(":")[2])
    }
    checks = [
        f"{path}:{line}: {name}"
        for module, path in sources().items()
        for line, name in class_checks(path, frozenset(folders))
        if not within(module, folders[name])
    ]
    assert not checks, f"use a method of its config or a field of its row of PRIORS: {checks}"


@pytest.mark.parametrize("module", TORCH_FREE)
def test_torch_is_not_loaded(module: str) -> None:
    import subprocess
    import sys

    code = f"import sys, {module}; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_the_reader_of_imports_sees_them(tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    path.write_text("def f():\n    from worldmodel.envs import make\n    import torch.nn\n")
    assert imports(path) == {"worldmodel.envs", "worldmodel.envs.make", "torch.nn"}
    assert "worldmodel.data.sealing" in sources()
    assert "worldmodel.collect.recorder" in sources()


def test_the_reader_of_class_checks_sees_them(tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    path.write_text(
        "isinstance(x, (int, flat.FlatPrior))\n"
        "type(x) is FlatPrior\n"
        "y: FlatPrior = FlatPrior()\n"
        "match x:\n    case FlatPrior(): pass\n"
    )
    assert class_checks(path, frozenset({"FlatPrior"})) == [(line, "FlatPrior") for line in (1, 2, 5)]


MAX_FILE_LINES, MAX_FUNCTION_LINES = 350, 60


@pytest.mark.parametrize("module", sources())
def test_files_and_functions_are_short(module: str) -> None:
    text = sources()[module].read_text()
    lines = text.count("\n")
    assert lines <= MAX_FILE_LINES, f"{module} has {lines} lines: split it by noun"
    for node in ast.walk(parsed(sources()[module])):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            length = node.end_lineno - node.lineno + 1
            assert length <= MAX_FUNCTION_LINES, f"{module}.{node.name} has {length} lines"
