"""Nested dataclasses of tensors as trees: the tensors are the leaves. None is a tree without leaves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor


def tree_leaves(tree: Any) -> list[Tensor]:
    """The tensors of a tree, in the order of the fields."""
    if isinstance(tree, Tensor):
        return [tree]
    if tree is None:
        return []
    assert is_dataclass(tree), type(tree)
    return [leaf for field in fields(tree) for leaf in tree_leaves(getattr(tree, field.name))]


def tree_map(function: Callable[..., Tensor], tree: Any, *others: Any) -> Any:
    """A tree of the same dataclasses with other tensors.

    Args:
        function: takes one tensor of each tree and returns the new tensor.
        tree: a tensor, or nested dataclasses of tensors.
        *others: more trees of the same structure.
    """
    if isinstance(tree, Tensor):
        return function(tree, *others)
    if tree is None:
        return None
    return type(tree)(
        **{name: tree_map(function, value, *(getattr(x, name) for x in others)) for name, value in vars(tree).items()}
    )


@torch.no_grad()
def tree_copy_(target: Any, source: Any) -> None:
    """Copy the tensors of one tree into those of another. A leaf that is the same tensor in both is skipped."""
    pairs = [(a, b) for a, b in zip(tree_leaves(target), tree_leaves(source), strict=True) if a is not b]
    if pairs:
        torch._foreach_copy_([a for a, _ in pairs], [b for _, b in pairs])
