"""Networks with published weights: fetched as assets, converted once, kept in the cache as safetensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from worldmodel.common.assets import ASSETS, cached_path, find_asset
from worldmodel.common.errors import UserError
from worldmodel.common.numpy_pickle import load_numpy_pickle
from worldmodel.common.tensor_files import save_tensors

Network = TypeVar("Network", bound=nn.Module)
SOURCE_KEY = "source_sha256"  # in the header of a converted file


def load_pretrained(
    network: Network,
    asset: str,
    convert: Callable[[Mapping[str, Tensor]], dict[str, Tensor]],
    device: torch.device | str = "cpu",
) -> Network:
    """Give a network the weights of an asset, a pickle of numpy arrays that is read without running it.

    Args:
        network: a new network; changed in place.
        asset: a row of `ASSETS`.
        convert: from the arrays of the asset, by name, to the state of the network.
        device: where the network goes.

    Returns:
        The network in evaluation mode, without gradients.

    Raises:
        UserError: the asset is not in the cache and cannot be fetched, or its arrays do not fit.
    """
    network.load_state_dict(_converted(asset, convert))
    return network.eval().requires_grad_(False).to(device)


def _converted(asset: str, convert: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]) -> dict[str, Tensor]:
    """The state from the cache, converted first if it is not there."""
    from safetensors import SafetensorError, safe_open

    row = ASSETS[asset]
    path = cached_path(row).with_suffix(".safetensors")
    if path.is_file():
        try:
            with safe_open(path, "pt") as file:
                if (file.metadata() or {}).get(SOURCE_KEY) == row.sha256:
                    return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        except SafetensorError:
            pass  # damaged: converted again
    arrays = {name: torch.from_numpy(array.copy()) for name, array in load_numpy_pickle(find_asset(asset)).items()}
    try:
        state = convert(arrays)
    except KeyError as error:
        raise UserError(f"asset {asset!r} has no array {error}; wanted the weights of {row.description}.") from error
    save_tensors(path, state, {SOURCE_KEY: row.sha256})
    return state
