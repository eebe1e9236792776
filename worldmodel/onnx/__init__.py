"""A learned world stepped with onnxruntime and numpy alone: nothing in this room loads torch.

It reads what `worldmodel export` writes.
"""

from __future__ import annotations

from typing import Any

_NAMES = {"OnnxSimulator": "onnx_simulator", "OnnxWorld": "onnx_world"}


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        from importlib import import_module

        return getattr(import_module(f"worldmodel.onnx.{_NAMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
