"""Returns of policies in real environments on validation seeds, measured once and kept on the disk."""

from __future__ import annotations

import hashlib
import importlib.metadata
import inspect
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from worldmodel import envs
from worldmodel.collect import policies
from worldmodel.collect.policy_evaluation import play_returns
from worldmodel.collect.policy_specs import PolicySpec
from worldmodel.collect.policy_validation import VALIDATION_SEED
from worldmodel.common.assets import cache_folder
from worldmodel.common.files import write_error, write_json_atomic
from worldmodel.data.header import canonical_json
from worldmodel.envs import env_registry
from worldmodel.envs.env_registry import scripted_policy


def validation_returns(env: str, env_kwargs: dict[str, Any], spec: PolicySpec, episodes: int) -> np.ndarray:
    """Returns of a policy on the first validation seeds, 2,000,000 and up; from the cache where it has them.

    The cache is `$XDG_CACHE_HOME/worldmodel/returns` (`~/.cache/worldmodel/returns`), one JSON file for each
    environment, its arguments, policy and code (`code_hash`). Removing files is safe. A lock file lets one process
    measure while others that want the same policy wait.

    Args:
        env: short name or id.
        env_kwargs: arguments of `worldmodel.envs.make`, JSON values.
        spec: the policy.
        episodes: N.

    Returns:
        (N,) float64.
    """
    from filelock import FileLock

    made = envs.make(env, **env_kwargs)
    made.close()
    facts = {
        "env": made.meta.id,
        "env_kwargs": made.meta.kwargs,
        "policy": [spec.kind, spec.hash, spec.params, spec.epsilon],
        "first_seed": VALIDATION_SEED,
        "code": code_hash(made, spec),
    }
    key = hashlib.sha256(canonical_json(facts).encode()).hexdigest()[:32]
    path = cache_folder("returns") / f"{key}.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(path, error) from error
    with FileLock(path.with_suffix(".lock")):
        returns = _read_returns(path)
        if len(returns) < episodes:
            seeds = range(VALIDATION_SEED + len(returns), VALIDATION_SEED + episodes)
            returns += [value for value, _ in play_returns(env, env_kwargs, spec, list(seeds))]
            write_json_atomic(path, {**facts, "name": spec.name, "returns": returns})
    return np.asarray(returns[:episodes], np.float64)


def _read_returns(path: Path) -> list[float]:
    try:
        return [float(value) for value in json.loads(path.read_text())["returns"]]
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError):  # damaged: measured again
        return []


def code_hash(env: Any, spec: PolicySpec) -> str:
    """sha256 of the code that decides a policy's returns.

    Hashed are the sources of the modules of the environment's class and its bases, of modules of the same packages that
    they import names from, and of the scripted policy, and the version of the package that the environment needs. Other
    code is not noticed.

    Args:
        env: a `PixelEnv`; it may be closed.
        spec: the policy.
    """
    queue = [sys.modules[cls.__module__] for cls in type(env).__mro__]
    modules: dict[str, ModuleType] = {policies.__name__: policies}
    if spec.kind == "scripted":
        queue.append(sys.modules[scripted_policy(spec.params["entry_point"]).__module__])
    while queue:
        module = queue.pop()
        name = module.__name__
        if name in modules or name == env_registry.__name__ or name.partition(".")[0] in sys.stdlib_module_names:
            continue
        modules[name] = module
        package = name.rpartition(".")[0]
        imported = {getattr(value, "__module__", None) for value in vars(module).values()}
        queue += [sys.modules[n] for n in imported if n in sys.modules and package and n.rpartition(".")[0] == package]
    digest = hashlib.sha256()
    for _, module in sorted(modules.items()):
        digest.update(_source(module))
    row = env_registry.row_of(env.meta.id)
    if row is not None and row.requires:
        digest.update(f"{row.requires} {importlib.metadata.version(row.requires)}".encode())
    return digest.hexdigest()


def _source(module: ModuleType) -> bytes:
    try:
        return inspect.getsource(module).encode()
    except (OSError, TypeError):  # of an interactive session
        return module.__name__.encode()
