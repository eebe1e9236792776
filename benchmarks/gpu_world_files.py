"""A world in files of at most 16 MiB, its prior in bfloat16; `gpu_world_files.py FOLDER WORLD` makes a world of them.

The tokenizer stays in float32, so that codes keep their meaning.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

LIMIT = 16 * 2**20 - 2**16  # bytes of a file, without its header
NUM_STARTS = 256  # starts that are packed, at most


def pack(world: Any, folder: Path, max_files: int = 3, limit: int = LIMIT) -> list[Path]:
    """Write a world as `world-1.safetensors` and so on; only its tokenizer if that takes too many files.

    Args:
        world: a `WorldModel` with its starts.
        folder: an existing folder; files of an earlier world are replaced.
        max_files: files at most.
        limit: bytes of a file.

    Returns:
        The files.
    """
    from worldmodel.world.starts import Starts

    index = torch.arange(min(NUM_STARTS, len(world.starts)), device=world.starts.kinds.device)
    starts = Starts(world.starts.context.select(index), world.starts.kinds[index])
    tensors = {f"model.{name}": tensor for name, tensor in world.state_dict().items()}
    for name, tensor in tensors.items():
        if name.startswith("model.prior.") and tensor.dtype == torch.float32 and tensor.ndim > 1:
            tensors[name] = tensor.to(torch.bfloat16)
    tensors |= {f"starts.{name}": tensor for name, tensor in starts.tensors().items()}
    facts = {
        "spec": world.spec.to_json(),
        "tokenizer": asdict(world.tokenizer.config),
        "prior": asdict(world.prior.config),
        "report": world.report,
    }
    shards = _split(tensors, limit)
    if len(shards) > max_files:
        shards = [{name: tensor for name, tensor in tensors.items() if name.startswith("model.tokenizer.")}]
    for old in folder.glob("world-*.safetensors"):
        old.unlink()
    paths = []
    for number, shard in enumerate(shards, 1):
        paths.append(folder / f"world-{number}.safetensors")
        contiguous = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in shard.items()}
        save_file(contiguous, paths[-1], {"facts": json.dumps(facts), "files": str(len(shards))})
    return paths


def unpack(folder: Path, out: Path) -> None:
    """Make a world directory of the files that `pack` wrote.

    Raises:
        UserError: a file is missing, or the files hold only the tokenizer.
    """
    from worldmodel.common.errors import UserError
    from worldmodel.world.starts import Starts
    from worldmodel.world.world_model import WorldModel
    from worldmodel.world.world_spec import WorldSpec
    from worldmodel.world.world_storage import read_sizes

    tensors: dict[str, Tensor] = {}
    count, facts = 0, {}
    paths = sorted(folder.glob("world-*.safetensors"))
    for path in paths:
        with safe_open(path, "pt") as file:
            facts, count = json.loads(file.metadata()["facts"]), int(file.metadata()["files"])
            tensors |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    if not paths or len(paths) != count or not any(name.startswith("starts.") for name in tensors):
        raise UserError(f"{folder} holds {len(paths)} of {count} files of a whole world; copy all files of the run.")
    tokenizer, prior = read_sizes(facts)
    world = WorldModel(tokenizer, prior, WorldSpec.from_json(facts["spec"]))
    state = {name.removeprefix("model."): tensor for name, tensor in tensors.items() if name.startswith("model.")}
    world.load_state_dict({name: tensor.to(world.state_dict()[name].dtype) for name, tensor in state.items()})
    kept = {name.removeprefix("starts."): tensor for name, tensor in tensors.items() if name.startswith("starts.")}
    world.starts, world.report = Starts.from_tensors(kept), facts["report"]
    world.save_pretrained(out)


def _split(tensors: dict[str, Tensor], limit: int) -> list[dict[str, Tensor]]:
    """Tensors in groups of at most `limit` bytes; a larger one is a group of its own."""
    groups: list[dict[str, Tensor]] = [{}]
    room = limit
    for name, tensor in tensors.items():
        size = tensor.numel() * tensor.element_size()
        if size > room and groups[-1]:
            groups.append({})
            room = limit
        groups[-1][name] = tensor
        room -= size
    return groups


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("world", type=Path)
    args = parser.parse_args()
    unpack(args.folder, args.world)
    print(args.world)
