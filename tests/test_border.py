"""A tokenizer that encodes a part of the frame and decodes the whole of it, and worlds that are given a border."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from square import record_square, short
from torch import nn

from worldmodel.common.errors import UserError
from worldmodel.common.pixels import PixelSpec
from worldmodel.tokenizer import FrameTokenizer, TokenizerConfig
from worldmodel.tokenizer.border import BorderDecoder
from worldmodel.train import LoopConfig, train_world
from worldmodel.train.border_training import train_border
from worldmodel.world.world_model import WorldModel
from worldmodel.world.world_storage import tokenizer_hash

torch.set_num_threads(1)
SMALL = TokenizerConfig(width=8, code_width=16, num_codes=16, code_dim=4)


@given(
    stride=st.sampled_from([4, 8, 16]),
    cells=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    margins=st.tuples(*[st.integers(0, 20)] * 4),
)
@settings(max_examples=20, deadline=None)
def test_the_encoded_part_is_kept_and_every_other_pixel_is_drawn(
    stride: int, cells: tuple[int, int], margins: tuple[int, int, int, int]
) -> None:
    assume(any(margins))
    (h, w), (above, below, before, after) = cells, margins
    size = (above + h * stride + below, before + w * stride + after)
    encoded = (above, above + h * stride, before, before + w * stride)
    border = BorderDecoder(2, size, encoded, stride, width=3)
    nn.init.constant_(border.to_pixels[0].bias, 7.0)
    inside = torch.randn(2, 3, h * stride, w * stride)
    whole = border(torch.randn(2, 2, h, w), inside)
    assert whole.shape == (2, 3, *size)
    assert torch.equal(whole[:, :, encoded[0] : encoded[1], encoded[2] : encoded[3]], inside)
    mask = torch.ones(size, dtype=torch.bool)
    mask[encoded[0] : encoded[1], encoded[2] : encoded[3]] = False
    assert (whole[:, :, mask] > 3).all()  # near the bias of the last layer


def test_codes_and_the_encoded_part_equal_those_of_cropped_frames() -> None:
    torch.manual_seed(0)
    part = FrameTokenizer(dataclasses.replace(SMALL, encoded=(4, 20, 8, 24)), (32, 32, 3)).eval()
    crop = FrameTokenizer(SMALL, (16, 16, 3)).eval()
    crop.load_state_dict({k: v for k, v in part.state_dict().items() if not k.startswith("border.")})
    frames = torch.randint(0, 256, (2, 3, 32, 32, 3), dtype=torch.uint8)
    codes, cropped = part.encode(frames), frames[:, :, 4:20, 8:24]
    assert part.grid == crop.grid == (2, 2)
    assert torch.equal(codes, crop.encode(cropped))
    decoded = part.decode(codes)
    assert decoded.shape == frames.shape
    assert torch.equal(part.encoded_part(decoded), crop.decode(codes))
    assert tokenizer_hash(part) == tokenizer_hash(crop)  # a prior of one fits the other

    valid = torch.ones(2, 3, dtype=torch.bool)
    part.train()
    crop.train()
    torch.manual_seed(1)  # of the codebook's initial vectors
    losses = part.loss(frames, valid)
    torch.manual_seed(1)
    cropped_losses = crop.loss(cropped, valid)
    for name in ("reconstruction", "commitment", "psnr"):
        assert torch.allclose(losses[name], cropped_losses[name])
    assert torch.allclose(losses["loss"], cropped_losses["loss"] + losses["border"])
    losses["loss"].backward()
    cropped_losses["loss"].backward()
    for name, parameter in crop.named_parameters():  # the border's gradient does not reach the rest
        gradient = dict(part.named_parameters())[name].grad
        assert torch.allclose(gradient, parameter.grad, atol=1e-7), name


def test_a_border_that_follows_the_codes_is_learned() -> None:
    torch.manual_seed(0)
    tokenizer = FrameTokenizer(dataclasses.replace(SMALL, encoded=(8, 16, 0, 16)), (24, 16, 3))
    shade = torch.randint(0, 2, (16, 1, 1, 1, 1)) * 100
    frames = (50 + shade).expand(16, 1, 24, 16, 3).clone().to(torch.uint8)
    frames[:, :, 16:] = 255 - frames[:, :, 16:]  # below: the opposite of the inside
    tokenizer.fit_normaliser([frames[:, 0]])
    optimiser = torch.optim.AdamW(tokenizer.parameters(), 1e-2)
    valid = torch.ones(16, 1, dtype=torch.bool)
    for _ in range(50):
        optimiser.zero_grad()
        losses = tokenizer.loss(frames, valid)
        losses["loss"].backward()
        optimiser.step()
    mean_psnr = -10 * torch.log10((frames[:, 0] / 255 - (frames[:, 0] / 255).mean(0)).square().mean())
    assert losses["border_psnr"] > mean_psnr + 3


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (dataclasses.replace(SMALL, encoded=(0, 16, 0, 40)), "not inside frames of 32 x 32"),
        (dataclasses.replace(SMALL, encoded=(0, 12, 0, 16)), "12 x 16 pixels cannot be cut into patches"),
    ],
)
def test_a_part_that_does_not_fit_is_refused(config: TokenizerConfig, words: str) -> None:
    with pytest.raises(UserError, match=words):
        FrameTokenizer(config, (32, 32, 3))


def test_a_clip_tokenizer_takes_no_part() -> None:
    with pytest.raises(UserError, match="whole frames are encoded"):
        TokenizerConfig(time="clip", encoded=(0, 8, 0, 8))


def test_a_world_of_a_crop_is_given_whole_frames(tmp_path: Path) -> None:
    record_square(tmp_path / "square.h5", 40).close()
    data, loop = tmp_path / "square.h5", LoopConfig(num_steps=8, batch_size=4, validations=1)
    old = train_world(data, tmp_path / "old", dataclasses.replace(short(4), crop=(0, 16, 8, 16)), device="cpu")
    new = train_border(tmp_path / "old", data, tmp_path / "new", loop, device="cpu")
    assert old.spec.pixels == PixelSpec((16, 16), (0, 16, 8, 16))
    assert new.spec.pixels == PixelSpec((16, 16))
    assert new.tokenizer.frame_shape == (16, 16, 3)
    assert new.tokenizer.config.encoded == (0, 16, 8, 16)
    assert {**old.report, "border_psnr": new.report["border_psnr"]} == new.report
    for name, tensor in old.state_dict().items():
        assert torch.equal(tensor, new.state_dict()[name]), name
    assert old.starts is not None
    assert new.starts is not None
    for name, tensor in old.starts.tensors().items():
        assert torch.equal(tensor, new.starts.tensors()[name]), name
    again = train_border(tmp_path / "old", data, tmp_path / "new", loop, device="cpu")  # it is finished
    assert torch.equal(again.tokenizer.border.cell_embed, new.tokenizer.border.cell_embed)  # type: ignore[union-attr]
    with pytest.raises(UserError, match="wanted a world whose frames are a crop"):
        train_border(tmp_path / "new", data, tmp_path / "newer", loop, device="cpu")


def test_a_world_with_a_border_is_trained_and_read_again(tmp_path: Path) -> None:
    record_square(tmp_path / "square.h5", 40).close()
    config = short(4)
    config = dataclasses.replace(config, tokenizer=dataclasses.replace(config.tokenizer, encoded=(0, 8, 0, 16)))
    world = train_world(tmp_path / "square.h5", tmp_path / "world", config, device="cpu")
    assert world.tokenizer.grid == (1, 2)
    assert "border_psnr" in world.report
    again = WorldModel.from_pretrained(tmp_path / "world")
    codes = torch.randint(0, 16, (1, 4, 1, 2))
    assert again.tokenizer.decode(codes).shape == (1, 4, 16, 16, 3)
    assert torch.equal(again.tokenizer.decode(codes), world.tokenizer.decode(codes))
