"""An exported world: its modules as onnxruntime sessions, among them the prior that is stepped.

Shapes: B rows, n some of them, W frames of a context, H W pixels, h w code grid, A action size, S starts, V codes in
the codebook (V: no frame).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.common import spaces
from worldmodel.common.directories import DirectoryKind, read_directory
from worldmodel.common.entries import load_entry
from worldmodel.common.errors import UserError
from worldmodel.common.pixels import PixelSpec
from worldmodel.onnx.onnx_prior import OnnxPrior
from worldmodel.onnx.onnx_state import NumpyContext
from worldmodel.prior.prior_registry import PRIORS

INSTALL = "pip install 'worldmodel[onnx]'"
STARTS = "starts.safetensors"
MODULES = ("outcome", "frame_condition", "group", "reward", "decoder")  # and "context" of a flat prior
EXPORT = DirectoryKind(
    "portable world",
    "worldmodel.onnx",
    2,
    (*(f"{name}.onnx" for name in MODULES), STARTS),
    "worldmodel export DIR --onnx OUT",
)


class OnnxWorld:
    """A world that `worldmodel export` wrote, stepped by onnxruntime.

    Args:
        directory: the export.
        threads: threads of one call.

    Attributes:
        directory: where it was read from.
        prior: makes states and steps.
        world_hash: hash of the world's weights when it was exported, see `export.world_hash`.
        action_space, pixels, env, action_labels, action_keys: of the environment it was learned from.
        max_steps: steps after which recording stopped an episode; None for no limit.
        grid: (h, w).
        num_codes: V.
        num_uniforms: uniform numbers per row and step.
        num_status: bins of the hidden variable, 0 without one.
        status_values: the variable at the middle of each bin.
        starts: contexts to begin from, S rows.
        start_kinds: (S,) int64, as `world.starts.Starts.kinds`.

    Raises:
        UserError: not an exported world, another version, damaged, or no onnxruntime.
    """

    def __init__(self, directory: str | Path, threads: int = 1) -> None:
        path = Path(directory)
        try:
            import onnxruntime
        except ImportError:
            raise UserError(f"an exported world is stepped by onnxruntime, which is not installed: {INSTALL}") from None
        config = read_directory(path, EXPORT)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads sleep
        self.directory, self.threads = path, threads
        try:
            self._read_spec(config)
            sessions = {
                name.removesuffix(".onnx"): onnxruntime.InferenceSession(path / name, options, ["CPUExecutionProvider"])
                for name in config["files"]
                if name.endswith(".onnx")
            }
            self.prior = self._make_prior(sessions, dict(config["prior"]))
            self._read_starts()
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise UserError(
                f"{path}/config.json is incomplete or not of an export ({type(error).__name__}: {error})."
            ) from error

    def _read_spec(self, config: dict[str, Any]) -> None:
        """Set the attributes that describe the environment and the prior."""
        spec, prior = config["spec"], config["prior"]
        self.env, self.max_steps = str(spec["env"]), spec["max_steps"]
        self.pixels, self.action_space = PixelSpec.from_json(spec["pixels"]), spaces.from_json(spec["action_space"])
        self.action_labels, self.end_has_frame = spec["action_labels"], bool(spec["end_has_frame"])
        self.action_keys = tuple(spec.get("action_keys", ()))  # absent in exports of older versions
        self.world_hash, self.status_values = str(config["world"]), tuple(config["status"]["values"])
        self.grid: tuple[int, int] = (prior["grid"][0], prior["grid"][1])
        self.num_codes, self.num_uniforms = int(prior["num_codes"]), int(prior["num_uniforms"])
        self.num_status, self.window = len(self.status_values), int(prior["window"])

    def _read_starts(self) -> None:
        from safetensors.numpy import load_file

        tensors = load_file(self.directory / STARTS)
        self.start_kinds = tensors.pop("kinds")
        self.starts = NumpyContext(**{**tensors, "codes": tensors["codes"].astype(np.int64)})

    def _make_prior(self, sessions: dict[str, Any], facts: dict[str, Any]) -> OnnxPrior[Any]:
        """The prior of the export's kind."""
        entries = PRIORS[facts["kind"]].onnx
        if entries is None:
            raise KeyError(facts["kind"])
        prior: OnnxPrior[Any] = load_entry(entries.runtime)(sessions, facts, self.num_status, self.end_has_frame)
        return prior

    def __reduce__(self) -> tuple[Any, ...]:
        return OnnxWorld, (self.directory, self.threads)  # the sessions are made again where it is unpickled

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Frames of codes: (n, h, w) int64 -> (n, H, W, 3) uint8."""
        return self.prior.run("decoder", codes)[0]
