"""Tokenizers of clips and of sequences at every latent shape of table 5, and the variants of tables 3, 6 and 7."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_tokenizers import random_frames

from worldmodel.tokenizer import TokenizerConfig, make_tokenizer
from worldmodel.tokenizer.tokenizer_layers import AxialAttention

STRIDES = [(time, space) for time in (1, 2, 4, 8, 16) for space in (1, 2, 4, 8)]
CODES, CODEBOOKS = (256, 512, 1024, 4096), (1, 2, 4, 8)  # tables 6 and 7


def grid_config(time: str, index: int) -> TokenizerConfig:
    """The sizes of one pair of strides; codes, codebooks and attention change from pair to pair."""
    time_stride, space_stride = STRIDES[index]
    return TokenizerConfig(
        time=time,  # type: ignore[arg-type]
        time_stride=time_stride,
        space_stride=space_stride,
        width=6,
        residual_width=4,
        num_layers=1,
        axial_attention=index % 3 > 0,
        time_window=1 + index % 4,
        num_codes=CODES[index // 4 % 4],
        num_codebooks=CODEBOOKS[index % 4],
        code_dim=8,
    )


@pytest.mark.parametrize("index", range(len(STRIDES)), ids=[f"{t}x{s}" for t, s in STRIDES])
@pytest.mark.parametrize("time", ["clip", "causal"])
def test_every_latent_shape_is_encoded_decoded_and_trained(time: str, index: int) -> None:
    config = grid_config(time, index)
    frames, valid = random_frames(1, 16, 8, 16), torch.ones(1, 16, dtype=torch.bool)
    torch.manual_seed(index)
    tokenizer = make_tokenizer(config, (8, 16, 3)).train()
    tokenizer.fit_normaliser([frames[0]])
    before = {name: parameter.detach().clone() for name, parameter in tokenizer.named_parameters()}
    optimiser = torch.optim.Adam(tokenizer.parameters(), lr=1e-3)
    losses = tokenizer.loss(frames, valid)
    losses["loss"].backward()
    optimiser.step()
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert losses["perplexity"] > 1
    changed = [name for name, parameter in tokenizer.named_parameters() if not torch.equal(parameter, before[name])]
    for part in ("encoder.down_convs.0", "encoder.output_conv", "decoder.input_conv", "decoder.up_convs"):
        assert any(name.startswith(part) for name in changed), part
    assert all(torch.isfinite(parameter).all() for parameter in tokenizer.parameters())
    codes = tokenizer.eval().encode(frames)
    h, w = 8 // config.space_stride, 16 // config.space_stride
    assert codes.shape == (1, 16 // config.time_stride, h, w * config.num_codebooks)
    assert 0 <= codes.min() <= codes.max() < config.num_codes
    made = tokenizer.decode(codes)
    assert (made.shape, made.dtype) == (frames.shape, torch.uint8)


def test_the_grid_has_every_variant() -> None:
    configs = [grid_config("clip", index) for index in range(len(STRIDES))]
    assert {config.num_codes for config in configs} == set(CODES)
    assert {config.num_codebooks for config in configs} == set(CODEBOOKS)
    assert {config.axial_attention for config in configs} == {True, False}
    assert max(config.time_stride for config in configs) == 16


@pytest.mark.parametrize("axis", [1, 2, 3])
def test_axial_attention_is_the_formula(axis: int) -> None:
    torch.manual_seed(0)
    layer = AxialAttention(6, 2, axis)
    for parameter in layer.parameters():
        parameter.data = 0.7 * torch.randn_like(parameter)
    x = torch.randn(2, 2, 3, 4, 6)
    weights = {name: tensor.detach().double().numpy() for name, tensor in layer.state_dict().items()}
    values = np.moveaxis(x.double().numpy(), axis, 3)  # (N, two other axes, n, D)
    expected = np.zeros_like(values)
    for place in np.ndindex(*values.shape[:3]):
        line = values[place]  # (n, D)
        q, k, v = np.split(line @ weights["qkv_proj.weight"].T, 3, axis=1)
        heads = []
        for part in (slice(0, 3), slice(3, 6)):
            scores = np.exp(q[:, part] @ k[:, part].T / np.sqrt(3))
            heads.append(scores / scores.sum(1, keepdims=True) @ v[:, part])
        expected[place] = np.concatenate(heads, 1) @ weights["out_proj.weight"].T + weights["out_proj.bias"]
    found = layer(x).detach().numpy()
    np.testing.assert_allclose(found, np.moveaxis(expected, 3, axis), rtol=1e-4, atol=1e-5)
