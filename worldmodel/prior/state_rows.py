"""The base class of every state of a prior: tensors with one row per dream."""

from __future__ import annotations

from typing import ClassVar, Self

import torch
from torch import Tensor


class StateRows:
    """Base of frozen dataclasses of tensors, each with one row per dream. Every subclass has `status`, (B,) int64.

    To branch a dream, take a `copy`: steps and `scatter` may write to the tensors named in `mutable_fields`.
    """

    mutable_fields: ClassVar[tuple[str, ...]] = ()
    status: Tensor

    @property
    def num_rows(self) -> int:
        """B."""
        return len(self.status)

    def to(self, device: torch.device | str) -> Self:
        """The same rows on another device."""
        return type(self)(**{name: tensor.to(device) for name, tensor in vars(self).items()})

    def select(self, index: Tensor) -> Self:
        """Some rows: (n,) int64 -> n rows."""
        return type(self)(**{name: tensor[index] for name, tensor in vars(self).items()})

    def copy(self) -> Self:
        """The same rows, unaffected by later writes to these."""
        copied = {name: tensor.clone() for name, tensor in vars(self).items() if name in self.mutable_fields}
        return type(self)(**{**vars(self), **copied})

    def writable(self) -> Self:
        """These rows, or a copy if they were created inside `torch.inference_mode` and are now used outside of it.

        torch forbids to write to such tensors there.
        """
        if torch.is_inference_mode_enabled():
            return self
        return self.copy() if any(getattr(self, name).is_inference() for name in self.mutable_fields) else self

    def scatter(self, index: Tensor, other: Self) -> Self:
        """Replace rows `index`, (n,) int64, by the n rows of `other`. These rows must not be used afterwards."""
        merged = {}
        for name, tensor in vars(self.writable()).items():
            copy = tensor.index_copy_ if name in self.mutable_fields else tensor.index_copy
            merged[name] = copy(0, index, getattr(other, name))
        return type(self)(**merged)

    def keep_where(self, mask: Tensor, previous: Self) -> Self:
        """The rows of `previous` where the mask (B,) is True (dreams that had ended), these rows elsewhere.

        Mutable fields are taken from these rows throughout: no step reads them for a dream that has ended.
        """
        merged = dict(vars(self))
        for name in merged.keys() - set(self.mutable_fields):
            row_mask = mask.reshape(-1, *[1] * (merged[name].ndim - 1))
            merged[name] = torch.where(row_mask, getattr(previous, name), merged[name])
        return type(self)(**merged)

    def restart_times(self, rows: Tensor) -> Self:
        """These rows, with time 0 where the mask (B,) is True. A state that knows no time is returned as it is.

        A prior with a last frame would refuse to step dreams that have ended there.
        """
        return self
