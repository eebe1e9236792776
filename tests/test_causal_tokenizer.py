"""Contracts of the causal tokenizer: the past alone decides, and a stream in parts equals the whole sequence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_tokenizers import causal_config, clip_config, frame_config, make_fitted, random_frames
from torch import Tensor

from worldmodel.common.errors import UserError
from worldmodel.common.pixels import PixelSpec
from worldmodel.tokenizer import CausalTokenizer, StreamState, TokenizerConfig, causal_tokenizer, make_tokenizer
from worldmodel.tokenizer.causal_layers import CausalResidualBlock
from worldmodel.tokenizer.stream_state import Stream
from worldmodel.world.tokenizer_storage import TokenizerCheckpoint

CONFIGS = {
    "attention": causal_config(),
    "two blocks": causal_config(num_layers=2, time_window=2),
    "no attention": causal_config(axial_attention=False),
    "no blocks": causal_config(num_layers=0),
    "stride 2": causal_config(time_stride=2, num_codebooks=2),
    "stride 4": causal_config(time_stride=4, space_stride=2, axial_attention=False),
}
FRAMES = 12


def fitted(config: TokenizerConfig) -> tuple[CausalTokenizer, Tensor]:
    """A tokenizer whose codes depend on the past, and two sequences of noise (2, 12, 8, 12, 3)."""
    frames = random_frames(2, FRAMES, 8, 12)
    tokenizer = make_fitted(config, frames, noise=0.4)
    assert isinstance(tokenizer, CausalTokenizer)
    return tokenizer.eval(), frames


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_prefix_has_the_first_codes_and_frames_of_the_whole(config: TokenizerConfig) -> None:
    tokenizer, frames = fitted(config)
    stride = config.time_stride
    codes = tokenizer.encode(frames)
    decoded = tokenizer.decode(codes)
    pixels = tokenizer._standardise(frames)
    latents = tokenizer._encode_pixels(pixels)
    embeddings = tokenizer.codebook.decode(codes).movedim(-1, 1)
    output = tokenizer._decode_latents(embeddings)
    if tokenizer.encoder_past:
        assert not torch.equal(tokenizer.encode(frames[:, 4:]), codes[:, 4 // stride :])
        assert not torch.equal(tokenizer.decode(codes[:, 4 // stride :]), decoded[:, 4:])
    for length in range(stride, FRAMES + 1, stride):
        steps = length // stride
        assert torch.equal(tokenizer.encode(frames[:, :length]), codes[:, :steps])
        assert torch.equal(tokenizer.decode(codes[:, :steps]), decoded[:, :length])
        prefix = tokenizer._encode_pixels(pixels[:, :, :length])  # to rounding of float32: kernels differ in size
        torch.testing.assert_close(prefix, latents[:, :, :steps], rtol=1e-4, atol=1e-4)
        prefix = tokenizer._decode_latents(embeddings[:, :, :steps])
        torch.testing.assert_close(prefix, output[:, :, :length], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_stream_in_parts_equals_the_whole_sequence(config: TokenizerConfig) -> None:
    tokenizer, frames = fitted(config)
    stride = config.time_stride
    codes, total = tokenizer.encode(frames), FRAMES // stride
    decoded = tokenizer.decode(codes)
    after = []
    for sizes in ([1] * total, [1, total - 1], [total]):
        encoder, decoder = tokenizer.init_encoder_state(2), tokenizer.init_decoder_state(2)
        done = 0
        for size in sizes:
            steps = slice(done, done + size)
            part, encoder = tokenizer.encode_next(frames[:, done * stride : (done + size) * stride], encoder)
            shown, decoder = tokenizer.decode_next(codes[:, steps], decoder)
            assert torch.equal(part, codes[:, steps])
            assert torch.equal(shown, decoded[:, done * stride : (done + size) * stride])
            done += size
        assert encoder.steps.tolist() == decoder.steps.tolist() == [total] * 2
        after.append((encoder.memory, decoder.memory))
    for memories in after[1:]:
        torch.testing.assert_close(memories, after[0], rtol=1e-4, atol=1e-4)


def test_large_batches_and_long_sequences_are_computed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer, frames = fitted(causal_config(time_stride=2))
    frames = torch.cat([frames, frames.flip(1)])
    codes = tokenizer.encode(frames)
    decoded, state = tokenizer.decode_next(codes, tokenizer.init_decoder_state(4))
    monkeypatch.setattr(causal_tokenizer, "ENCODE_CHUNK", 3)
    monkeypatch.setattr(causal_tokenizer, "MAX_STEPS", 2)
    assert torch.equal(tokenizer.encode(frames), codes)
    again, same = tokenizer.decode_next(codes, tokenizer.init_decoder_state(4))
    assert torch.equal(again, decoded)
    torch.testing.assert_close(same.memory, state.memory, rtol=1e-4, atol=1e-4)


def test_rows_begin_and_stay_at_times_of_their_own() -> None:
    tokenizer, frames = fitted(causal_config())
    whole, late = tokenizer.encode(frames), tokenizer.encode(frames[1:, 4:])
    state = tokenizer.init_encoder_state(2)
    found = []
    for t in range(FRAMES):
        if t == 4:  # row 1 begins anew
            state = state.scatter(torch.tensor([1]), tokenizer.init_encoder_state(1))
        codes, after = tokenizer.encode_next(frames[:, t : t + 1], state)
        if t == 6:  # row 0 stays, then gets the same frame again
            stays = after.keep_where(torch.tensor([True, False]), state)
            assert torch.equal(stays.memory[0], state.memory[0])
            assert stays.steps.tolist() == [6, 3]
            again, _ = tokenizer.encode_next(frames[:1, t : t + 1], stays.select(torch.tensor([0])))
            assert torch.equal(again, codes[:1])
        found.append(codes)
        state = after
    found = torch.cat(found, 1)
    assert torch.equal(found[0], whole[0])
    assert torch.equal(found[1, 4:], late[0])
    assert not torch.equal(found[1, 4:], whole[1, 4:])


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_outputs_depend_on_the_past_that_is_stated_and_on_no_more(config: TokenizerConfig) -> None:
    tokenizer, _ = fitted(config)
    stride, step = config.time_stride, 24 // config.time_stride - 2  # the last but one step of 24 frames
    pixels = torch.randn(1, 3, 24, 8, 12, requires_grad=True)
    tokenizer._encode_pixels(pixels)[:, :, step].square().sum().backward()
    assert pixels.grad is not None
    first, last = step * stride - tokenizer.encoder_past, (step + 1) * stride - 1
    assert pixels.grad.abs().amax((0, 1, 3, 4)).nonzero()[:, 0].tolist() == list(range(max(0, first), last + 1))
    latents = torch.randn(1, config.code_dim, 24 // stride, 2, 3, requires_grad=True)
    if config.space_stride == 2:
        latents = torch.randn(1, config.code_dim, 24 // stride, 4, 6, requires_grad=True)
    own = slice(step * stride, (step + 1) * stride)
    tokenizer._decode_latents(latents)[:, :, own].square().sum().backward()
    assert latents.grad is not None
    reached = latents.grad.abs().amax((0, 1, 3, 4)).nonzero()[:, 0].tolist()
    assert reached == list(range(max(0, step - tokenizer.decoder_past), step + 1))


def numpy_block(block: CausalResidualBlock, x: np.ndarray, positions: np.ndarray, window: int) -> np.ndarray:
    """The block of one sequence (D, T, h, w) with two heads, place by place, in float64."""
    weights = {name: tensor.detach().double().numpy() for name, tensor in block.state_dict().items()}
    _, num_steps, h, w = x.shape

    def norm_relu(values: np.ndarray, name: str) -> np.ndarray:
        deviation = values - values.mean(0)
        scaled = deviation / np.sqrt((deviation**2).mean(0) + 1e-5)
        affine = (weights[f"{name}.{part}"][:, None, None, None] for part in ("weight", "bias"))
        gain, bias = affine
        return np.maximum(scaled * gain + bias, 0)

    y = norm_relu(x, "norm_conv3")
    padded = np.pad(y, ((0, 0), (2, 0), (1, 1), (1, 1)))  # in time on the left alone
    kernel = weights["conv3.weight"]  # (out, in, 3, 3, 3)
    y = np.zeros((len(kernel), num_steps, h, w)) + weights["conv3.bias"][:, None, None, None]
    for a, b, c in np.ndindex(3, 3, 3):
        part = padded[:, a : a + num_steps, b : b + h, c : c + w]
        y += np.einsum("oi,ithw->othw", kernel[:, :, a, b, c], part)
    y = norm_relu(y, "norm_conv1")
    y = np.einsum("oi,ithw->othw", weights["conv1.weight"][:, :, 0, 0, 0], y)
    y += weights["conv1.bias"][:, None, None, None]
    y = norm_relu(y, "norm_attention").transpose(1, 2, 3, 0) + positions  # (T, h, w, D)

    def attend(name: str, t: int, i: int, j: int, keys: list[tuple[int, int, int]], biases: np.ndarray) -> np.ndarray:
        """One place attends to others; biases (heads, keys)."""
        d = y.shape[-1]
        q, k, v = (weights[f"{name}.qkv_proj.weight"][n * d : (n + 1) * d] for n in range(3))
        query, out = q @ y[t, i, j], np.zeros(d)
        for head in range(2):
            part = slice(head * d // 2, (head + 1) * d // 2)
            scores = np.array([query[part] @ (k @ y[key])[part] for key in keys]) / np.sqrt(d // 2) + biases[head]
            shares = np.exp(scores - scores.max())
            shares /= shares.sum()
            out[part] = sum(share * (v @ y[key])[part] for share, key in zip(shares, keys, strict=True))
        return weights[f"{name}.out_proj.weight"] @ out + weights[f"{name}.out_proj.bias"]

    total = np.zeros_like(y)
    for t, i, j in np.ndindex(num_steps, h, w):
        row, column = [(t, i, n) for n in range(w)], [(t, n, j) for n in range(h)]
        total[t, i, j] += attend("space_attention.0", t, i, j, row, np.zeros((2, w)))
        total[t, i, j] += attend("space_attention.1", t, i, j, column, np.zeros((2, h)))
        past = range(max(0, t - window + 1), t + 1)
        biases = weights["time_attention.distance_bias"][:, [t - n for n in past]]
        total[t, i, j] += attend("time_attention", t, i, j, [(n, i, j) for n in past], biases)
    return x + total.transpose(3, 0, 1, 2)


def test_the_causal_block_is_the_formula() -> None:
    torch.manual_seed(0)
    block = CausalResidualBlock(6, 4, num_heads=2, window=3)
    x, positions = torch.randn(2, 6, 5, 2, 3), torch.randn(1, 2, 3, 6)
    assert torch.equal(block(x, positions, Stream(None)), x)  # initially the identity
    for parameter in block.parameters():
        parameter.data = 0.5 * torch.randn_like(parameter)
    made = block(x, positions, Stream(None)).detach().numpy()
    for row in range(2):
        expected = numpy_block(block, x[row].double().numpy(), positions[0].double().numpy(), 3)
        np.testing.assert_allclose(made[row], expected, rtol=1e-4, atol=1e-5)


def test_the_size_of_a_state_is_what_the_layers_keep() -> None:
    tokenizer = make_tokenizer(causal_config(time_stride=2, num_layers=2), (8, 12, 3))
    width, places = 8, 2 * 3
    blocks = 2 * places * width * (2 + 2 * 2)  # inputs of the convolution; keys and values of two past steps
    assert tokenizer.init_encoder_state(1).memory.shape == (1, 3 * 8 * 12 + blocks)  # and one past frame
    assert tokenizer.init_decoder_state(5).memory.shape == (5, width * 4 * 6 + blocks)
    assert isinstance(tokenizer.init_decoder_state(1), StreamState)
    for config in (frame_config(), clip_config()):
        other = make_tokenizer(config, (8, 12, 3))
        assert other.init_encoder_state(1) is None
        assert other.encoder_past == other.decoder_past == 0
        frames = random_frames(1, 4, 8, 12)
        codes, state = other.eval().encode_next(frames, None)
        assert state is None
        assert torch.equal(codes, other.encode(frames))


def test_a_causal_tokenizer_is_saved_and_the_files_of_others_stay_as_they_were(tmp_path: Path) -> None:
    tokenizer, frames = fitted(causal_config(time_window=5))
    pixels = PixelSpec((8, 12))
    TokenizerCheckpoint(tokenizer, "test/Noise-v0", pixels, "", {}).save_pretrained(tmp_path / "causal")
    again = TokenizerCheckpoint.from_pretrained(tmp_path / "causal").tokenizer
    assert again.config.time_window == 5
    assert torch.equal(again.encode(frames), tokenizer.encode(frames))
    other = make_tokenizer(frame_config(), (8, 12, 3))
    TokenizerCheckpoint(other, "test/Noise-v0", pixels, "", {}).save_pretrained(tmp_path / "frame")
    saved = json.loads((tmp_path / "frame" / "config.json").read_text())["tokenizer"]
    assert list(saved)[-1] == "encoded"
    assert "time_window" not in saved


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"time_window": 0}, "time_window=0: wanted 1 or more"),
        ({"space_stride": 3}, "power of two"),
        ({"encoded": (0, 8, 0, 8)}, "with time='causal' whole frames"),
        ({"width": 9}, "num_heads"),
    ],
)
def test_wrong_sizes_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        causal_config(**options)


def test_wrong_lengths_are_refused() -> None:
    tokenizer = make_tokenizer(causal_config(time_stride=2), (8, 12, 3))
    with pytest.raises(UserError, match="got 3 frames per row, wanted a multiple of the tokenizer's time_stride=2"):
        tokenizer.encode(random_frames(1, 3, 8, 12))
    with pytest.raises(UserError, match="got 0 steps"):
        tokenizer.decode(torch.zeros(1, 0, 2, 3, dtype=torch.int64))
