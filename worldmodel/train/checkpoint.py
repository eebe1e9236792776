"""Checkpoints: every tensor of a model and its optimiser, written whole or not at all, without pickle."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn, optim


def save_checkpoint(path: Path, model: nn.Module, optimiser: optim.Optimizer, facts: dict[str, Any]) -> None:
    """Write under a temporary name, then rename.

    Args:
        path: the file.
        model: its parameters and buffers.
        optimiser: its state; the settings come from the config.
        facts: JSON, e.g. the number of steps done.
    """
    tensors = {f"model.{name}": tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    for index, state in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{name}": tensor.detach().cpu() for name, tensor in state.items()}
    fresh = path.with_name(f".{path.name}.new-{os.getpid()}")
    # clones: safetensors refuses tensors that share memory
    save_file({name: t.clone().contiguous() for name, t in tensors.items()}, fresh, {"facts": json.dumps(facts)})
    with open(fresh, "rb") as file:
        os.fsync(file.fileno())
    fresh.replace(path)


def load_checkpoint(path: Path, model: nn.Module, optimiser: optim.Optimizer) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote into a model and an optimiser of the same sizes.

    Returns:
        The facts.
    """
    weights: dict[str, Any] = {}
    states: dict[int, dict[str, Any]] = {}
    with safe_open(path, "pt") as file:
        facts = json.loads(file.metadata()["facts"])
        for name in file.keys():  # noqa: SIM118 (not a dict)
            kind, rest = name.split(".", 1)
            if kind == "model":
                weights[rest] = file.get_tensor(name)
            else:
                index, field = rest.split(".", 1)
                states.setdefault(int(index), {})[field] = file.get_tensor(name)
    model.load_state_dict(weights, strict=True)
    optimiser.load_state_dict({**optimiser.state_dict(), "state": states})
    return facts
