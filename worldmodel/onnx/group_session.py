"""The module `group.onnx` as an onnxruntime session whose inputs and outputs are static arrays.

Shapes: B rows, G places of a group, V codes in the codebook, L decoder layers, F heads of keys and values, d head
width, N slots of the cache.
"""

from __future__ import annotations

from typing import Any

import numpy as np

MASKED = np.float32(-1e30)  # added to the attention score of a slot that is not visible


class GroupSession:
    """Predicts groups of codes for B rows. Inputs and outputs are arrays that stay in place.

    The cache of keys and values is among the inputs, so that a run copies only what is new.

    Args:
        session: of onnxruntime.
        rows: B.
        layers: L.

    Attributes:
        rows: B.
        inputs, outputs: arrays by name.
        keys, values: of each layer, (B, F, d, N) and (B, F, N, d); empty lists where there are no slots.
    """

    def __init__(self, session: Any, rows: int, layers: int) -> None:
        from onnxruntime import OrtValue

        self.rows, self._session, self._binding = rows, session, session.io_binding()
        self.inputs = {node.name: _zeros(node, rows) for node in session.get_inputs()}
        self.outputs = {node.name: _zeros(node, rows) for node in session.get_outputs()}
        self._ort_values = []  # they share the arrays' memory
        for arrays, bind in (
            (self.inputs, self._binding.bind_ortvalue_input),
            (self.outputs, self._binding.bind_ortvalue_output),
        ):
            for name, array in arrays.items():
                self._ort_values.append(OrtValue.ortvalue_from_numpy(array))
                bind(name, self._ort_values[-1])
        cached = range(layers if "slot_mask" in self.inputs else 0)
        self.keys, self.values = ([self.inputs[f"{kind}_{i}"] for i in cached] for kind in ("keys", "values"))
        self._new_pairs = [(self.outputs[f"new_keys_{i}"], self.outputs[f"new_values_{i}"]) for i in cached]

    def begin_frame(self, affines: np.ndarray) -> None:
        """Set the condition of a new frame, (B, 1, 4*L*D) or as the module takes it, and hide all slots."""
        self.inputs["affines"][...] = affines
        if "slot_mask" in self.inputs:
            self.inputs["slot_mask"].fill(MASKED)

    def run(self, group_index: int, slot: int) -> np.ndarray:
        """Predict the codes of a group from the arrays in `inputs`.

        Args:
            group_index: which group.
            slot: where the new keys and values are stored, if there are that many slots.

        Returns:
            Logits (B, G, V), overwritten by the next run.
        """
        self.inputs["group_index"][...] = group_index
        self._session.run_with_iobinding(self._binding)
        for keys, values, (new_keys, new_values) in zip(self.keys, self.values, self._new_pairs, strict=True):
            end = slot + new_keys.shape[-1]
            if end <= keys.shape[-1]:
                keys[..., slot:end], values[..., slot:end, :] = new_keys, new_values
                self.inputs["slot_mask"][..., slot:end] = 0
        return self.outputs["logits"]


def _zeros(node: Any, rows: int) -> np.ndarray:
    """Zeros for an input or output; the one size that is not a number is the rows."""
    shape = [size if isinstance(size, int) else rows for size in node.shape]
    return np.zeros(shape, {"tensor(float)": np.float32, "tensor(int64)": np.int64}[node.type])
