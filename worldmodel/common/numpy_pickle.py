"""Weights in pickles of numpy arrays, as published for JAX, read without running what a pickle may contain.

A pickle can name any function, and loading it calls that function. `load_numpy_pickle` allows the three names that
numpy arrays need; everything else is refused.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.common.errors import UserError

# numpy 2 moved its modules; files of both versions are read by either.
_RECONSTRUCT = np.ndarray.__reduce__(np.zeros(0))[0]
ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


class _NumpyUnpickler(pickle.Unpickler):
    """An unpickler that knows numpy arrays and Python's containers and numbers alone."""

    def find_class(self, module: str, name: str) -> Any:
        """The object of an allowed name.

        Raises:
            pickle.UnpicklingError: any other name.
        """
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is not allowed")
        return ALLOWED[module, name]


def load_numpy_pickle(path: Path) -> dict[str, np.ndarray]:
    """The arrays in a pickle of nested dicts of arrays.

    Args:
        path: the file.

    Returns:
        Array by name; the keys of nested dicts are joined by ":".

    Raises:
        UserError: the file is no such pickle, or names anything but numpy arrays.
    """
    try:
        with path.open("rb") as file:
            content = _NumpyUnpickler(file).load()
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, IndexError, KeyError) as error:
        raise UserError(
            f"'{path}' cannot be read: {error}; wanted a pickle of numpy arrays and nothing else."
        ) from error
    arrays: dict[str, np.ndarray] = {}
    _flatten(content, "", arrays, path)
    return arrays


def _flatten(value: Any, name: str, arrays: dict[str, np.ndarray], path: Path) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            _flatten(item, f"{name}:{key}" if name else str(key), arrays, path)
    elif isinstance(value, np.ndarray) and value.dtype != object:
        arrays[name] = value
    else:
        raise UserError(f"'{path}' has a {type(value).__name__} at {name!r}; wanted arrays in nested dicts.")
