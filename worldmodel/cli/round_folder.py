"""The files of one round of `worldmodel loop`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RoundFolder:
    """The files of one round.

    Attributes:
        path: the folder, OUT/round-K.
    """

    path: Path

    @staticmethod
    def of(out: Path, number: int) -> RoundFolder:
        """The folder of a round, numbered from 1."""
        return RoundFolder(out / f"round-{number}")

    @property
    def data(self) -> Path:
        """The recording."""
        return self.path / "data.h5"

    @property
    def counts(self) -> Path:
        """JSON: episodes, steps and frames of the recording."""
        return self.path / "data.json"

    @property
    def world(self) -> Path:
        """The world directory."""
        return self.path / "world"

    @property
    def metrics(self) -> Path:
        """JSON of `eval world`."""
        return self.path / "metrics.json"

    @property
    def policy(self) -> Path:
        """The directory of `train policy`."""
        return self.path / "policy"

    @property
    def dream(self) -> Path:
        """JSON: returns of the policy in dreams."""
        return self.path / "dream.json"

    @property
    def real(self) -> Path:
        """JSON of `eval policy`."""
        return self.path / "real.json"
