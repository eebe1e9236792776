"""A pretended device: tensors report that they are on it, are computed on the CPU, and cannot be mixed with others.

Code that forgets to move a tensor fails as on a GPU: in an operation on tensors of both devices, or in `.numpy()`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

DEVICE = torch.device("meta")  # a device that torch always knows and that holds no data
aten = torch.ops.aten


class Far(torch.Tensor):
    """A tensor that reports `DEVICE` as its device; `near` holds its values."""

    near: torch.Tensor

    @staticmethod
    def __new__(cls, near: torch.Tensor) -> Far:
        self = torch.Tensor._make_wrapper_subclass(
            cls,
            near.shape,
            strides=near.stride(),
            storage_offset=near.storage_offset(),
            dtype=near.dtype,
            device=DEVICE,
            requires_grad=near.requires_grad,
        )
        self.near = near.detach()
        return self

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"Far({self.near!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func} outside of the pretended device")


def kept_there(make: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """`torch.tensor` or `torch.as_tensor` for `DEVICE`, where they would otherwise drop the values."""

    def made(*args: Any, device: Any = None, **kwargs: Any) -> torch.Tensor:
        tensor = make(*args, **kwargs)
        return tensor if device is None else tensor.to(device)

    return made


class Pretend(TorchDispatchMode):
    """Inside this mode, `DEVICE` exists."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        far: list[Far] = []
        here: list[torch.Tensor] = []
        inputs: dict[int, Far] = {}

        def near(x: Any) -> Any:
            if isinstance(x, Far):
                far.append(x)
                inputs[id(x.near)] = x
                return x.near
            if isinstance(x, torch.Tensor) and x.ndim:
                here.append(x)
            return x

        plain, named = tree_map(near, args), tree_map(near, kwargs)
        there = bool(far)
        if "device" in named and named["device"] is not None:
            there = torch.device(named["device"]).type == DEVICE.type
            named["device"] = torch.device("cpu")
        elif func in (aten.index.Tensor, aten.index_put_.default, aten._index_put_impl_.default):
            there = isinstance(args[0], Far)  # indices may be here
            if not there and far:
                raise RuntimeError(f"{func}: a tensor here, indices there")
        elif far and here and func not in (aten.copy_.default, aten._to_copy.default):
            raise RuntimeError(f"{func}: tensors of shapes {[tuple(x.shape) for x in here]} are here, others there")
        if func is aten.copy_.default:
            there = isinstance(args[0], Far)
        result = func(*plain, **named)

        def wrap(x: Any) -> Any:
            if not isinstance(x, torch.Tensor):
                return x
            if id(x) in inputs:
                return inputs[id(x)]
            return Far(x) if there else x

        return tree_map(wrap, result)
