"""An exported world: its modules as onnxruntime sessions, and a step made of them.

Shapes: B rows, n some of them, W frames of a context, H W pixels, h w code grid, A action size, S starts, V codes in
the codebook (V: no frame).
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
from worldmodel.onnx.onnx_priors import OnnxFactoredPrior, OnnxFlatPrior, OnnxPrior, SampledOutcome
from worldmodel.onnx.onnx_state import NumpyContext, NumpyRows

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
_PRIORS: dict[str, type[OnnxPrior]] = {"factored": OnnxFactoredPrior, "flat": OnnxFlatPrior}


@dataclass(frozen=True)
class OnnxPriorStep:
    """The result of one step of B rows, as `prior.interface.PriorStep`.

    Attributes:
        state: the state after the step.
        codes: (B, h, w) int64 of the new frame; without meaning where `has_frame` is False.
        has_frame, terminations: (B,) bool.
        hazards, rewards: (B,) float32.
        status: (B,) int64.
        status_probs: (B, bins) float32, given that the row goes on.
        log_probs: (B,) float32, log-likelihood of the sampled codes at temperature 1 in nats; 0 without a frame.
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
            facts = dict(config["prior"])
            self._prior = _PRIORS[facts["kind"]](sessions, facts)
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

    def __reduce__(self) -> tuple[Any, ...]:
        return OnnxWorld, (self.directory, self.threads)  # the sessions are made again where it is unpickled

    def init_state(self, context: NumpyContext) -> NumpyRows:
        """The prior's state after a context of frames."""
        return self._prior.init_state(context)

    def step(self, state: Any, actions: np.ndarray, uniforms: np.ndarray, sampling: SamplingOptions) -> OnnxPriorStep:
        """Take one step in every row, sampling termination, status and codes in this order, as `Prior.step`.

        Args:
            state: before the step.
            actions: (B,) int64 or (B, A).
            uniforms: (B, num_uniforms) float32 in [0, 1): all random numbers of the step.
            sampling: how the codes are sampled. Termination and status are sampled as predicted.

        Raises:
            UserError: a row at the last frame that this prior knows.
        """
        prior = self._prior
        outcome = prior.outcome(state, actions)
        terminations = uniforms[:, 0] < outcome.hazards
        status, status_probs = state.status, np.zeros((len(uniforms), 0), np.float32)
        if self.num_status:
            status, status_probs = inverse_cdf(outcome.status_logits, uniforms[:, 1]), softmax(outcome.status_logits)
        has_frame = np.ones_like(terminations) if self.end_has_frame else ~terminations
        frame = prior.sample_frame(state, outcome, SampledOutcome(terminations, status), uniforms[:, 2:], sampling)
        codes = np.where(has_frame[:, None, None], frame.codes, self.num_codes)
        return OnnxPriorStep(
            state=prior.next_state(state, actions, codes, status, frame),
            codes=frame.codes,
            has_frame=has_frame,
            terminations=terminations,
            hazards=outcome.hazards,
            rewards=prior.rewards(outcome, terminations, codes),
            status=status,
            status_probs=status_probs,
            log_probs=np.where(has_frame, frame.log_probs, np.float32(0)),
        )

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Frames of codes: (n, h, w) int64 -> (n, H, W, 3) uint8."""
        return self._prior.run("decoder", codes)[0]
