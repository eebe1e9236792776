"""Skips tests where MuJoCo, or OpenGL for its renderer, is missing."""

import functools
import importlib.util

import pytest

from worldmodel import envs
from worldmodel.common.errors import UserError


@functools.cache
def reason_to_skip() -> str:
    """Why frames of MuJoCo cannot be rendered here; "" if they can."""
    if importlib.util.find_spec("mujoco") is None:
        return "mujoco is not installed (pip install 'worldmodel[push]')"
    try:
        envs.make("push").reset(seed=0)
    except UserError as error:
        if "MuJoCo cannot render" in str(error):
            return "no OpenGL for MuJoCo's renderer (Debian: libegl1 libopengl0 libgl1-mesa-dri)"
        raise
    return ""


def skip_without_mujoco() -> None:
    """Skip the current test."""
    if reason_to_skip():
        pytest.skip(reason_to_skip())
