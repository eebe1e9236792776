"""The base class of prior configs: methods by which other packages use a config without knowing its class."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

from worldmodel.prior.status_config import StatusConfig


@dataclass(frozen=True)
class BasePriorConfig:
    """Base of the config dataclass of every prior.

    A subclass has the fields below, and a field `kind: Literal["name"] = "name"` with the key of its row in
    `prior.prior_registry.PRIORS`.
    """

    if TYPE_CHECKING:  # declared as properties, since dataclass fields of a base would precede the subclass' own

        @property
        def kind(self) -> str:
            """Name of the prior."""

        @property
        def window(self) -> int:
            """W, frames of a dream's context."""

        @property
        def width(self) -> int:
            """D, numbers in the summary of a state, from which end, status and reward are predicted."""

        @property
        def status(self) -> StatusConfig:
            """The hidden variable that is predicted, if any."""

    @property
    def label(self) -> str:
        """Name of the prior in tables of benchmarks."""
        return self.kind

    def benchmark_variants(self) -> list[Self]:
        """Configs that a benchmark compares, this one first."""
        return [self]

    def check_clip_length(self, length: int) -> None:
        """Check that the prior can be trained on clips of `length` frames.

        Raises:
            UserError: they are too short or too long.
        """

    def hashed_fields(self) -> dict[str, Any]:
        """The fields as JSON, for hashes of worlds. They must not change while the prior's dreams do not."""
        return asdict(self)

    @classmethod
    def upgrade_saved(cls, fields: dict[str, Any]) -> dict[str, Any]:
        """Fields that an earlier version saved, as fields of this version.

        Args:
            fields: JSON, of any types; not changed.

        Raises:
            UserError: this version cannot represent them.
        """
        return fields
