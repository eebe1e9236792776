"""A learned world stepped with onnxruntime and numpy alone: nothing here loads torch except the export itself.

`worldmodel export` writes the directory that these classes read.
"""

from __future__ import annotations

from typing import Any

_MODULES = {"OnnxSimulator": "onnx_simulator", "OnnxWorld": "onnx_world"}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        from importlib import import_module

        return getattr(import_module(f"worldmodel.onnx.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
