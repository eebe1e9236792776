"""Preprocessing of pixels: area averaging, cropping and frame stacks."""

import numpy as np
import pytest

from worldmodel.common.errors import UserError
from worldmodel.common.pixels import FrameStack, PixelSpec, to_frame


def screen(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (rows, columns, 3), dtype=np.uint8)


@pytest.mark.parametrize("size", [(64, 64), (96, 128), (48, 32), (192, 256)])
def test_exact_boxes_give_rounded_means(size: tuple[int, int]) -> None:
    image = screen(192, 256)
    y, x = 192 // size[0], 256 // size[1]
    means = image.reshape(size[0], y, size[1], x, 3).astype(np.float64).mean((1, 3))
    frame = to_frame(image, PixelSpec(size))
    assert frame.shape == (*size, 3)
    assert frame.dtype == np.uint8
    assert np.abs(frame - means).max() <= 0.5 + 1e-9


def test_fractional_boxes_are_close_to_the_area_average() -> None:
    smooth = np.add.outer(np.arange(192) * 0.6, np.arange(256) * 0.4).astype(np.uint8)
    image = np.repeat(smooth[..., None], 3, axis=2)
    fine = smooth.repeat(84, axis=0).reshape(84, 192, 256).mean(1)  # boxes without fractional edges
    means = fine.repeat(84, axis=1).reshape(84, 84, 256).mean(2)
    frame = to_frame(image, PixelSpec((84, 84)))
    assert frame.shape == (84, 84, 3)
    assert np.abs(frame[..., 0] - means).max() <= 1.5


@pytest.mark.parametrize("size", [(64, 64), (84, 84), (50, 70)])
def test_crop_equals_the_crop_of_the_averaged_screen(size: tuple[int, int]) -> None:
    image, crop = screen(192, 256), (20, 45, 3, 50)
    whole = to_frame(image, PixelSpec(size))
    cut = to_frame(image, PixelSpec(size, crop))
    assert cut.shape == PixelSpec(size, crop).frame_shape == (25, 47, 3)
    np.testing.assert_array_equal(cut, whole[20:45, 3:50])


def test_fractional_boxes_weight_the_pixels_at_their_edges() -> None:
    # 3 columns into 2: each box is one whole column and half of the middle one
    image = np.zeros((2, 3, 3), np.uint8)
    image[:, 0], image[:, 1], image[:, 2] = 30, 90, 240
    frame = to_frame(image, PixelSpec((2, 2)))
    np.testing.assert_array_equal(frame[0, :, 0], [50, 190])


def test_frame_does_not_share_memory_with_the_screen() -> None:
    for spec in (PixelSpec((8, 8)), PixelSpec((8, 8), (0, 4, 0, 8)), PixelSpec((4, 4))):
        image = screen(8, 8)
        frame = to_frame(image, spec)
        frame[:] = 0
        np.testing.assert_array_equal(image, screen(8, 8))


def test_screen_must_be_uint8_rgb() -> None:
    for bad in (np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3), np.float32), np.zeros((8, 8, 4), np.uint8)):
        with pytest.raises(UserError, match="uint8 RGB"):
            to_frame(bad, PixelSpec((4, 4)))


def test_crop_must_be_inside_the_size() -> None:
    for crop in ((0, 65, 0, 64), (10, 10, 0, 64), (-1, 5, 0, 64)):
        with pytest.raises(UserError, match="is not inside"):
            PixelSpec((64, 64), crop)


def test_pixel_spec_json_round_trip() -> None:
    for spec in (PixelSpec(), PixelSpec((48, 96), (1, 2, 3, 4))):
        assert PixelSpec.from_json(spec.to_json()) == spec


def test_frame_stack_is_oldest_first_and_starts_with_repeats() -> None:
    frames = [np.full((2, 2, 3), i, np.uint8) for i in range(4)]
    stack = FrameStack(3)
    stacks = [stack.reset(frames[0]), *(stack.push(f) for f in frames[1:])]
    assert [s[0, 0, ::3].tolist() for s in stacks] == [[0, 0, 0], [0, 0, 1], [0, 1, 2], [1, 2, 3]]
    assert stacks[0].shape == (2, 2, 9)
    assert stack.reset(frames[3])[0, 0, ::3].tolist() == [3, 3, 3]  # no frame of the previous episode


def test_crop_to_gives_the_crop_between_two_specs() -> None:
    recorded = PixelSpec((64, 64), (10, 50, 0, 64))
    assert recorded.crop_to(PixelSpec((64, 64), (20, 50, 3, 60))) == (10, 40, 3, 60)
    assert recorded.cropped((10, 40, 3, 60)) == PixelSpec((64, 64), (20, 50, 3, 60))
    for wanted in (
        recorded,
        PixelSpec((64, 64)),
        PixelSpec((32, 32), (0, 8, 0, 8)),
        PixelSpec((64, 64), (0, 50, 0, 64)),
    ):
        assert recorded.crop_to(wanted) is None
