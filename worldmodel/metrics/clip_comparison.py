"""Comparisons of real clips with files of clips or with what a model generates, in one or more trials.

Shapes: N clips, L frames, H W pixels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import tee
from typing import Any

import numpy as np
from torch import Tensor

from worldmodel.common.errors import UserError
from worldmodel.data import Dataset
from worldmodel.metrics.clip_evaluation import SECTIONS, evaluate_clips
from worldmodel.metrics.clip_files import ClipFile
from worldmodel.metrics.clip_likelihood import likelihood_section
from worldmodel.metrics.clip_protocols import ClipNetworks
from worldmodel.metrics.clip_sources import (
    DEFAULT_SAMPLING,
    check_source,
    generated_clips,
    reconstructed_clips,
    recorded_clips,
)
from worldmodel.metrics.metric_registry import ALL, select_clip_metrics
from worldmodel.prior.sampling import Sampling
from worldmodel.world.clip_model import ClipModel
from worldmodel.world.world_model import WorldModel

FLOOR = "other real clips"
Clips = Iterator[Tensor]


@dataclass(frozen=True)
class Choice:
    """Which clips are compared.

    Attributes:
        length: L.
        num: N of each side; fewer where a source has fewer.
        split: of datasets.
        seed: of the choice of clips, and of samples.
        batch_size: clips generated at once.
    """

    length: int
    num: int
    split: str = "test"
    seed: int = 0
    batch_size: int = 16


class Comparison(ABC):
    """Two sets of clips, of which every trial draws anew."""

    choice: Choice

    @abstractmethod
    def is_paired(self, metrics: Sequence[str]) -> bool:
        """Whether clip i of one set belongs to clip i of the other.

        Raises:
            UserError: a metric of pairs is named, and the sets have different numbers of clips.
        """

    @abstractmethod
    def draw(self, trial: int) -> tuple[Clips, Clips]:
        """Batches of real clips and of generated ones."""

    @abstractmethod
    def further(self, trial: int) -> tuple[Clips, Clips]:
        """Batches of the same real clips and of as many other ones.

        Raises:
            UserError: there are not twice as many.
        """

    @abstractmethod
    def check_trials(self) -> None:
        """Refuse several trials where all would have the same clips.

        Raises:
            UserError: they would.
        """


@dataclass
class FileComparison(Comparison):
    """Clips of two files or folders.

    Attributes:
        real, generated: the sources.
        choice: which clips.
    """

    real: ClipFile
    generated: ClipFile
    choice: Choice

    def is_paired(self, metrics: Sequence[str]) -> bool:
        """As `Comparison.is_paired`: by order, if a metric of pairs is named and no set is a dataset."""
        named = [row.name for row in select_clip_metrics(metrics) if metrics and row.is_paired]
        if not named or not (self.real.is_ordered and self.generated.is_ordered):
            return False
        counts = [source.count(self.choice.length) for source in (self.real, self.generated)]
        if counts[0] != counts[1] and ALL not in metrics:
            raise UserError(
                f"{named[0]} compares clip i with clip i, but there are {counts[0]} real and {counts[1]} generated "
                "clips; give as many of both in the same order, or leave it out."
            )
        return counts[0] == counts[1]

    def _clips(self, source: ClipFile, trial: int, skip: int = 0) -> Clips:
        return source.clips(self.choice.length, self.choice.num, self.choice.seed + trial, skip)

    def draw(self, trial: int) -> tuple[Clips, Clips]:
        """As `Comparison.draw`; both sets have the same random order, so that pairs stay together."""
        return self._clips(self.real, trial), self._clips(self.generated, trial)

    def further(self, trial: int) -> tuple[Clips, Clips]:
        """As `Comparison.further`; the real clips are those of `draw` if there are more than N."""
        _check_twice(self.real.count(self.choice.length), self.choice.num)
        return self._clips(self.real, trial), self._clips(self.real, trial, self.choice.num)

    def check_trials(self) -> None:
        """As `Comparison.check_trials`."""
        counts = [source.count(self.choice.length) for source in (self.real, self.generated)]
        if max(counts) <= self.choice.num:
            raise UserError(
                f"trials draw {self.choice.num} clips each, but there are {counts[0]} real and {counts[1]} generated "
                "ones: all trials would be equal. Give more clips, or draw fewer in a trial."
            )


@dataclass
class ModelComparison(Comparison):
    """Clips of a dataset, and what a model makes of them.

    Attributes:
        data: the dataset.
        model: a clip model or a world.
        choice: which clips.
        sampling: how codes are sampled.
        reconstruct: the model encodes and decodes the clips instead of generating new ones.
        reconstruct_real: real clips are encoded and decoded too: the generated ones are compared with reconstructions.
        samples: generated clips for each real one; metrics of pairs count the best.

    Raises:
        UserError: the model cannot generate clips like those of the dataset.
    """

    data: Dataset
    model: ClipModel | WorldModel
    choice: Choice
    sampling: Sampling = DEFAULT_SAMPLING
    reconstruct: bool = False
    reconstruct_real: bool = False
    samples: int = 1

    def __post_init__(self) -> None:
        check_source(self.model, self.data, self.choice.length)

    def is_paired(self, metrics: Sequence[str]) -> bool:
        """As `Comparison.is_paired`: worlds continue real clips; clip models may be given first frames."""
        if self.reconstruct or isinstance(self.model, WorldModel):
            return True
        return bool(self.model.prior.config.num_given_frames)

    def _batches(self, trial: int, skip: int = 0) -> Iterator[Any]:
        choice = self.choice
        return recorded_clips(
            self.data, choice.length, choice.num, choice.split, choice.seed + trial, choice.batch_size, skip
        )

    def _real(self, batches: Iterable[Any]) -> Clips:
        return reconstructed_clips(self.model, batches) if self.reconstruct_real else (x.frames for x in batches)

    def draw(self, trial: int) -> tuple[Clips, Clips]:
        """As `Comparison.draw`."""
        real, conditions = tee(self._batches(trial))
        if self.reconstruct:
            return self._real(real), reconstructed_clips(self.model, conditions)
        seed = self.choice.seed + trial * self.choice.num * self.samples
        return self._real(real), generated_clips(self.model, conditions, seed, self.sampling, self.samples)

    def further(self, trial: int) -> tuple[Clips, Clips]:
        """As `Comparison.further`."""
        found = sum(len(x.frames) for x in self._batches(trial)) + sum(
            len(x.frames) for x in self._batches(trial, self.choice.num)
        )
        _check_twice(found, self.choice.num)
        return self._real(self._batches(trial)), self._real(self._batches(trial, self.choice.num))

    def check_trials(self) -> None:
        """As `Comparison.check_trials`; samples differ in each trial, reconstructions only if other clips are drawn."""
        if self.reconstruct and next(self._batches(0, skip=self.choice.num), None) is None:
            raise UserError(
                f"the split has no more than the {self.choice.num} clips of a trial, so all trials would reconstruct "
                "the same ones; compare fewer clips, or leave --trials out."
            )

    def likelihood(self) -> dict[str, Any]:
        """The section of `likelihood_section` for the real clips of the first trial.

        Raises:
            UserError: the model is a world.
        """
        if not isinstance(self.model, ClipModel):
            raise UserError("the likelihood is of clip models; a world has it in 'worldmodel eval world'.")
        return likelihood_section(self.model, self._batches(0))


def _check_twice(found: int, num: int) -> None:
    if found < 2 * num:
        raise UserError(f"the noise floor of {num} clips needs {2 * num} real clips, got {found}; compare fewer clips.")


def compare_clips(
    comparison: Comparison,
    metrics: Sequence[str] = (),
    networks: ClipNetworks | None = None,
    trials: int = 1,
    floor: bool = False,
    watch: Callable[[str, Clips], Clips] = lambda name, clips: clips,
) -> dict[str, Any]:
    """Evaluate two sets of clips, several times if wanted.

    Args:
        comparison: the sets.
        metrics: names of clip metrics; empty for those that are evaluated by default.
        networks: settings and networks; None for the defaults.
        trials: every trial draws other clips and samples.
        floor: compare real clips with as many other real clips too, by the metrics of distributions.
        watch: called with a name and the batches of one side; returns the batches, e.g. with a progress bar.

    Returns:
        As `evaluate_clips`; of several trials the mean of each value, its `deviation` (divisor n-1) and `trials`, all
        values.

    Raises:
        UserError: as `evaluate_clips`; several trials of the same clips; too few clips for the floor.
    """
    networks, results = networks or ClipNetworks(), []
    if trials > 1:
        comparison.check_trials()
    paired = comparison.is_paired(metrics)
    for trial in range(trials):
        real, generated = comparison.draw(trial)
        watched = watch("real", real), watch("generated", generated)
        result = evaluate_clips(*watched, metrics, paired, networks=networks)
        names = list(result["sections"].get(SECTIONS[False], {}))
        if floor and names:
            same, other = comparison.further(trial)
            _add_floor(result, evaluate_clips(same, watch("floor", other), names, networks=networks))
        results.append(result)
    return results[0] if trials == 1 else combine_trials(results)


def _add_floor(result: dict[str, Any], floor: dict[str, Any]) -> None:
    """Add the values of real against real clips as a baseline."""
    for name, metric in floor["sections"][SECTIONS[False]].items():
        values = result["sections"][SECTIONS[False]][name]["values"]
        for value, real in zip(values, metric["values"], strict=False):
            value["baselines"][FLOOR] = real["value"]


def combine_trials(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The mean and deviation of every value over the results of trials, which have the same metrics."""
    combined = dict(results[0])
    combined["sections"] = {
        section: {
            name: {**metric, "values": _combine([result["sections"][section][name]["values"] for result in results])}
            for name, metric in metrics.items()
        }
        for section, metrics in results[0]["sections"].items()
    }
    return combined


def _combine(trials: Sequence[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The values of one metric: trial -> values."""
    combined = []
    for values in zip(*trials, strict=True):
        means = [value["value"]["mean"] for value in values]
        baselines = {
            name: _mean([value["baselines"][name]["mean"] for value in values]) for name in values[0]["baselines"]
        }
        deviation = float(np.std(means, ddof=1))
        combined.append(
            {**values[0], "value": _mean(means), "baselines": baselines, "deviation": deviation, "trials": means}
        )
    return combined


def _mean(values: Sequence[float]) -> dict[str, float | None]:
    return {"mean": float(np.mean(values)), "low": None, "high": None}
