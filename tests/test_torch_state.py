"""torch's global state does not change what models are: default dtype, inference mode, random generator."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
import torch
from test_tokenizer import clip_config, frame_config, random_frames
from test_world_flat import make_prior as make_flat_prior
from test_world_prior import GRID, V, make_clip
from test_world_prior import make_prior as make_factored_prior

from worldmodel.common.torch_state import default_torch_modes, isolated_torch_state
from worldmodel.prior import CodeClip, Prior
from worldmodel.prior.sampling import Sampling, uniforms
from worldmodel.tokenizer import Codebook, Tokenizer, make_tokenizer


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


STATES: dict[str, Callable[[], AbstractContextManager]] = {
    "float64": lambda: default_dtype(torch.float64),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "inference mode": lambda: torch.inference_mode(),
    "no grad": lambda: torch.no_grad(),
}
MODELS: dict[str, Callable[[], torch.nn.Module]] = {
    "frame tokenizer": lambda: make_tokenizer(frame_config(rare_weight=2.0), (8, 8, 3)),
    "clip tokenizer": lambda: make_tokenizer(clip_config(rare_weight=2.0), (8, 8, 3)),
    "codebook": lambda: Codebook(4, 2),
    "factored": lambda: make_factored_prior(mixture=2, rare_weight=3.0),
    "flat": lambda: make_flat_prior(),
    "flat, learned positions": lambda: make_flat_prior(positions="paper", num_frames=12),
}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("model", MODELS)
def test_models_are_built_the_same_in_any_state(model: str, state: str) -> None:
    torch.manual_seed(0)
    expected = MODELS[model]()
    with STATES[state]():
        torch.manual_seed(0)
        dtype, mode, grad = torch.get_default_dtype(), torch.is_inference_mode_enabled(), torch.is_grad_enabled()
        found = MODELS[model]()
        after = torch.get_default_dtype(), torch.is_inference_mode_enabled(), torch.is_grad_enabled()
        assert after == (dtype, mode, grad), "the state is as before"
    tensors = {**dict(found.named_parameters()), **dict(found.named_buffers())}
    expected_tensors = {**dict(expected.named_parameters()), **dict(expected.named_buffers())}
    assert tensors.keys() == expected_tensors.keys()
    for name, tensor in tensors.items():
        assert tensor.dtype == expected_tensors[name].dtype, name
        assert tensor.requires_grad == expected_tensors[name].requires_grad, name
        assert not tensor.is_inference(), name
        assert torch.equal(tensor, expected_tensors[name]), name


def train_and_dream(prior: Prior, clip: CodeClip) -> list[torch.Tensor]:
    """Initialise, take a loss, evaluate and step a prior; everything that it returns."""
    counts = torch.arange(V).expand(*GRID, V)
    prior.init_from_codes(torch.arange(2 * V, dtype=torch.float32).view(V, 2).sin(), counts)
    prior.fit_reward_scale(clip.rewards.flatten())
    torch.manual_seed(1)
    losses = prior.train().loss(clip)
    prior.eval()
    state = prior.init_state(
        prior.context(clip.codes[:, :1], clip.frame_valid[:, :1], clip.actions[:, :0], clip.status[:, 0])
    )
    rows = torch.arange(len(clip.codes))
    step = prior.step(state, clip.actions[:, 0], uniforms(rows, rows, rows, prior.num_uniforms), Sampling(top_p=0.9))
    outcomes = vars(prior.predict_outcomes(clip)).values()
    rest = [value for name, value in vars(step).items() if name != "state"]
    return [*losses.values(), prior.log_prob(clip), *outcomes, *rest, *vars(step.state).values()]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("model", ["factored", "flat", "flat, learned positions"])
def test_priors_compute_the_same_under_any_default_dtype(model: str, dtype: torch.dtype) -> None:
    clip = make_clip()
    expected = train_and_dream(MODELS[model](), clip)
    with default_dtype(dtype):
        found = train_and_dream(MODELS[model](), clip)
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


def train_and_decode(tokenizer: Tokenizer) -> list[torch.Tensor]:
    frames = random_frames(2, 4, 8, 8)
    tokenizer.fit_normaliser([frames.flatten(0, 1)])
    torch.manual_seed(1)
    losses = tokenizer.train().loss(frames, torch.ones(2, 4, dtype=torch.bool))
    codes = tokenizer.eval().encode(frames)
    return [*losses.values(), codes, tokenizer.decode(codes), *tokenizer.state_dict().values()]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("model", ["frame tokenizer", "clip tokenizer"])
def test_tokenizers_compute_the_same_under_any_default_dtype(model: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    expected = train_and_decode(MODELS[model]())
    with default_dtype(dtype):
        torch.manual_seed(0)
        found = train_and_decode(MODELS[model]())
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


@pytest.mark.parametrize("model", ["factored", "flat"])
def test_a_state_made_in_inference_mode_is_stepped_outside(model: str) -> None:
    prior, clip = MODELS[model](), make_clip()
    rows = torch.arange(len(clip.codes))
    numbers = uniforms(rows, rows, rows, prior.num_uniforms)

    def init() -> object:
        context = prior.context(clip.codes[:, :1], clip.frame_valid[:, :1], clip.actions[:, :0], clip.status[:, 0])
        return prior.init_state(context)

    def steps(state: object) -> list[torch.Tensor]:
        first = prior.step(state, clip.actions[:, 0], numbers, Sampling())
        return [first.codes, prior.step(first.state, clip.actions[:, 1], numbers, Sampling()).codes]

    expected = steps(init())
    with torch.inference_mode():
        state = init()
        copy = state.copy()
        merged = init().scatter(torch.tensor([0]), state.select(torch.tensor([0])))
    for made_inside in (state, copy, merged, init().scatter(rows, copy), copy.scatter(rows, init())):
        for a, b in zip(steps(made_inside), expected, strict=True):
            assert torch.equal(a, b)


def test_isolated_torch_state_restores_dtype_mode_and_generator() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)

    @isolated_torch_state()
    def fail() -> None:
        assert torch.rand(5).dtype == torch.float32
        assert not torch.rand(5).is_inference()
        torch.manual_seed(9)
        raise RuntimeError("stop")

    torch.manual_seed(3)
    with default_dtype(torch.float64), torch.inference_mode():
        with pytest.raises(RuntimeError, match="stop"):
            fail()
        assert torch.get_default_dtype() == torch.float64
        assert torch.is_inference_mode_enabled()
    assert torch.equal(torch.rand(2), expected)
    with default_torch_modes():
        torch.rand(5)
    assert not torch.equal(torch.rand(2), expected), "default_torch_modes does not restore the generator"
