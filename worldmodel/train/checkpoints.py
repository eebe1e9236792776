"""Checkpoints: all tensors of a model, its averaged weights and its optimiser, written atomically, without pickle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn, optim

from worldmodel.common.errors import UserError
from worldmodel.common.files import atomic_path


def save_checkpoint(
    path: Path, model: nn.Module, average: list[Tensor], optimiser: optim.Optimizer, facts: dict[str, Any]
) -> None:
    """Write a checkpoint atomically.

    Args:
        path: the file.
        model: its parameters and buffers are stored.
        average: the averaged weights; may be empty.
        optimiser: its state is stored, without the settings, which come from the config.
        facts: JSON, e.g. the number of steps done.
    """
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"average.{index}": tensor for index, tensor in enumerate(average)}
    for index, state in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{name}": tensor for name, tensor in state.items()}
    # clones: safetensors refuses tensors that share memory
    copies = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    with atomic_path(path) as temporary:
        save_file(copies, temporary, {"facts": json.dumps(facts)})


def load_checkpoint(path: Path, model: nn.Module, average: list[Tensor], optimiser: optim.Optimizer) -> dict[str, Any]:
    """Load a checkpoint in place, into a model, an average and an optimiser of the same sizes.

    Returns:
        The facts.

    Raises:
        UserError: the names of the model's tensors have changed since.
    """
    weights: dict[str, Any] = {}
    states: dict[int, dict[str, Any]] = {}
    with safe_open(path, "pt") as file:
        facts = json.loads(file.metadata()["facts"])
        saved = {name.removeprefix("model.") for name in file.keys() if name.startswith("model.")}  # noqa: SIM118
        if saved != model.state_dict().keys():
            raise UserError(
                f"{path} was written by another version of worldmodel: its tensors have other names. Continue the "
                "training with that version, or repeat its command with --force to start again."
            )
        for name in file.keys():  # noqa: SIM118 (not a dict)
            kind, rest = name.split(".", 1)
            if kind == "model":
                weights[rest] = file.get_tensor(name)
            elif kind == "average":
                average[int(rest)].copy_(file.get_tensor(name))
            else:
                index, field = rest.split(".", 1)
                states.setdefault(int(index), {})[field] = file.get_tensor(name)
    model.load_state_dict(weights, strict=True)
    optimiser.load_state_dict({**optimiser.state_dict(), "state": states})
    return facts
