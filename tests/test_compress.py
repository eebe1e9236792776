"""`worldmodel compress`: a smaller copy of a world with the same codes and nearly the same probabilities."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from worldmodel.bench.bench_worlds import random_clip
from worldmodel.cli.compress_command import Compress, compress
from worldmodel.common.errors import UserError
from worldmodel.world.hub import find_world
from worldmodel.world.start_kinds import KIND_EPISODE
from worldmodel.world.world_model import WorldModel


def test_a_compressed_world_has_the_same_codes_and_nearly_the_same_probabilities(tmp_path: Path) -> None:
    source, out = WorldModel.from_pretrained("toy"), tmp_path / "small"
    compress(Compress(Path("toy"), out, starts=20))
    copy = WorldModel.from_pretrained(out)
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (find_world("toy"), out)]
    assert sizes[1] < 0.75 * sizes[0]
    frames = torch.randint(256, (2, 3, 16, 16, 3), dtype=torch.uint8)
    assert torch.equal(source.tokenizer.encode(frames), copy.tokenizer.encode(frames))
    assert all(tensor.dtype != torch.bfloat16 for tensor in copy.state_dict().values()), "loaded in float32"
    clip = random_clip(source, 4, source.prior.window + 1)
    before, after = source.prior.log_prob(clip), copy.prior.log_prob(clip)
    assert not torch.equal(before, after)
    torch.testing.assert_close(before, after, rtol=0.02, atol=0.5)


def test_the_kinds_of_starts_keep_their_shares(tmp_path: Path) -> None:
    starts = WorldModel.from_pretrained("toy").starts
    assert starts is not None
    thin = starts.thin(20)
    assert len(thin) == 20
    shares = [float((kinds == KIND_EPISODE).float().mean()) for kinds in (starts.kinds, thin.kinds)]
    assert shares[1] == pytest.approx(shares[0], abs=0.1)
    assert torch.equal(starts.thin(10**6).context.codes, starts.context.codes)
    with pytest.raises(UserError, match="wanted at least 1"):
        starts.thin(0)


def test_an_existing_output_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--force"):
        compress(Compress(Path("toy"), tmp_path))
