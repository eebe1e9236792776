"""An exported world: its parts as onnxruntime sessions, and a step made of them.

Shapes: N or B rows, n some of them, W frames of a context, h w code grid, P = h*w places, n groups of G places,
A action size, S starts, V codes in the book (V: no frame).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.common import spaces
from worldmodel.common.directories import DirectoryKind, read_directory
from worldmodel.common.errors import UserError
from worldmodel.common.pixels import PixelSpec
from worldmodel.common.sampling_options import SamplingOptions
from worldmodel.onnx.numpy_sampling import inverse_cdf, softmax
from worldmodel.onnx.onnx_state import NumpyContext, NumpyRows
from worldmodel.onnx.onnx_steps import FactoredSteps, FlatSteps, Steps

EXTRA = "pip install 'worldmodel[onnx]'"
STARTS = "starts.safetensors"
PARTS = ("outcome", "tell", "write", "reward", "pixels")  # and "begin" of a flat prior
EXPORT = DirectoryKind(
    "portable world",
    "worldmodel.onnx",
    2,
    (*(f"{part}.onnx" for part in PARTS), STARTS),
    "worldmodel export DIR --onnx OUT",
)


@dataclass(frozen=True)
class OnnxPriorStep:
    """What a step of B rows brought, as `prior.interface.PriorStep`.

    Attributes:
        state: the state after the step.
        codes: (B, h, w) int64 of the new frame; of no meaning where `has_frame` is False.
        has_frame, terminations: (B,) bool.
        hazards, rewards: (B,) float32.
        status: (B,) int64.
        status_probs: (B, bins) float32, given that the row goes on.
        log_probs: (B,) float32, nats of the drawn frame's codes at temperature 1; 0 without a picture.
    """

    state: NumpyRows
    codes: np.ndarray
    has_frame: np.ndarray
    terminations: np.ndarray
    hazards: np.ndarray
    rewards: np.ndarray
    status: np.ndarray
    status_probs: np.ndarray
    log_probs: np.ndarray


class OnnxWorld:
    """A world that `worldmodel export` wrote, stepped by onnxruntime.

    Args:
        directory: the export.
        threads: threads of one call.

    Attributes:
        directory: where it was read from.
        world_hash: what the world's weights were when it was exported, see `export.world_hash`.
        action_space, pixels, env, action_labels: of the environment it was learned from.
        max_steps: steps after which recording stopped an episode; None for no limit.
        grid: (h, w).
        num_codes: V.
        num_draws: uniform numbers a row needs for one step.
        num_status: bins of the hidden variable, 0 without one.
        status_values: the variable in the middle of each bin.
        starts: contexts to begin from, S rows.
        start_kinds: (S,) int64, as `prior.starts.Starts.kinds`.

    Raises:
        UserError: not an exported world, another version, damaged, or no onnxruntime.
    """

    def __init__(self, directory: str | Path, threads: int = 1) -> None:
        path = Path(directory)
        try:
            import onnxruntime
        except ImportError:
            raise UserError(f"an exported world is stepped by onnxruntime, which is not installed: {EXTRA}") from None
        from safetensors.numpy import load_file

        config = read_directory(path, EXPORT)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads sleep
        try:
            spec, self._facts = config["spec"], dict(config["prior"])
            self.env, self.max_steps = str(spec["env"]), spec["max_steps"]
            self.pixels, self.action_space = PixelSpec.from_json(spec["pixels"]), spaces.from_json(spec["action_space"])
            self.action_labels, self.end_has_frame = spec["action_labels"], bool(spec["end_has_frame"])
            self.world_hash, self.status_values = str(config["world"]), tuple(config["status"]["values"])
            self.grid: tuple[int, int] = (self._facts["grid"][0], self._facts["grid"][1])
            self.num_codes, self.num_draws = int(self._facts["num_codes"]), int(self._facts["num_draws"])
            self.num_status, self.window = len(self.status_values), int(self._facts["window"])
            parts = {
                name.removesuffix(".onnx"): onnxruntime.InferenceSession(path / name, options, ["CPUExecutionProvider"])
                for name in config["files"]
                if name.endswith(".onnx")
            }
            steps = {"factored": FactoredSteps, "flat": FlatSteps}[self._facts["kind"]]
            self._steps: Steps = steps(parts, self._facts)
            tensors = load_file(path / STARTS)
            self.start_kinds = tensors.pop("kinds")
            self.starts = NumpyContext(**{**tensors, "codes": tensors["codes"].astype(np.int64)})
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise UserError(
                f"{path}/config.json is not whole or not ours ({type(error).__name__}: {error})."
            ) from error
        self.directory, self.threads = path, threads

    def __reduce__(self) -> tuple[Any, ...]:
        return OnnxWorld, (self.directory, self.threads)  # sessions are made again where it is unpickled

    def begin(self, context: NumpyContext) -> NumpyRows:
        """What is remembered after a context of real frames."""
        return self._steps.begin(context)

    def step(self, state: Any, actions: np.ndarray, draws: np.ndarray, restrictions: SamplingOptions) -> OnnxPriorStep:
        """Take one step in every row: end, status, codes, reward, in this order, as `Prior.step`.

        Args:
            state: what is remembered.
            actions: (B,) int64 or (B, A).
            draws: (B, num_draws) float32 in [0, 1): all the randomness there is.
            restrictions: how the codes are drawn; the end and the status are drawn as they are predicted.

        Raises:
            UserError: a row that has all the frames this prior knows.
        """
        steps = self._steps
        said = steps.outcome(state, actions)
        terminations = draws[:, 0] < said.hazards
        status, status_probs = state.status, np.zeros((len(draws), 0), np.float32)
        if self.num_status:
            status, status_probs = inverse_cdf(said.status_logits, draws[:, 1]), softmax(said.status_logits)
        has_frame = np.ones_like(terminations) if self.end_has_frame else ~terminations
        codes, log_probs, written = steps.write(state, said, terminations, status, draws[:, 2:], restrictions)
        seen = np.where(has_frame[:, None, None], codes, self.num_codes)
        return OnnxPriorStep(
            state=steps.after(state, actions, seen, status, has_frame, written),
            codes=codes,
            has_frame=has_frame,
            terminations=terminations,
            hazards=said.hazards,
            rewards=steps.rewards(said, terminations, seen),
            status=status,
            status_probs=status_probs,
            log_probs=np.where(has_frame, log_probs, np.float32(0)),
        )

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Frames of codes: (n, h, w) int64 -> (n, H, W, 3) uint8."""
        return self._steps.run("pixels", codes)[0]
