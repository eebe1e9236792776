"""The verb `ablate`: train the rows of one of the paper's ablation tables, with several seeds, and compare them.

Each row and seed is an ordinary output of `train tokenizer` or `train clip`, so the command continues inside a row.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import tyro

from worldmodel.cli.stages import Stage, run_stages
from worldmodel.common.errors import UserError
from worldmodel.train.ablation_tables import PRIOR_TABLE, SMALL_ABLATION, STRIDES, AblationRow, table_rows
from worldmodel.train.clip_presets import TINY_CLIP
from worldmodel.train.clip_training_config import ClipTraining
from worldmodel.train.training_config import TokenizerTraining, stage_config

if TYPE_CHECKING:
    from torch import Tensor

    from worldmodel.data import Dataset
    from worldmodel.data.clips import Batch

_WithoutPrefix = tyro.conf.arg(name="")  # fields become flags without a prefix: --tokenizer.width
BATCH_SIZE = 16  # clips encoded at once


@dataclass(frozen=True)
class Ablate:
    """Run an ablation table of the VideoGPT paper on any dataset, with several seeds, within a budget for each run.

    table3: attention of the tokenizer. table4: layers of the prior, on one tokenizer. table5: shape of the latents.
    table6: number of codes. table7: number of codebooks. Tokenizers are compared by NMSE of reconstructions, priors by
    nats per code, on the same held-out clips. Intervals are over seeds; rows whose intervals overlap are not separated.

    Every run is a directory in --out. table.txt, table.json and table.png are written after each. The same command
    continues; with more --seeds it adds runs. The sizes are reduced unless you give the paper's; the table names them.

    Example:
        worldmodel ablate table6 --data cover.h5 --budget 4 --seeds 0 1 2 --out runs/cover-codes
    """

    table: tyro.conf.Positional[Literal["table3", "table4", "table5", "table6", "table7"]]
    """table3, table4, table5, table6 or table7."""
    data: tuple[Path, ...]
    """Dataset files."""
    out: Path
    """The directory to write."""
    budget: float | None = None
    """Minutes of each run, in place of the loops' own minutes or numbers of steps."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One run of each row for each seed."""
    training: Annotated[ClipTraining, _WithoutPrefix] = SMALL_ABLATION
    """What the rows have in common; each row changes it. --seed is of table4's shared tokenizer."""
    strides: tuple[str, ...] = STRIDES
    """Rows of table5: frames x pixels per code."""
    clips: int = 256
    """Held-out clips that the runs are compared on; fewer where the split has fewer."""
    split: str = "validation"
    """Split of these clips: validation, test or train."""
    device: str = "auto"
    """auto, cpu or cuda."""
    preset: str = ""
    """Set by --preset."""
    force: bool = False
    """Begin anew: remove an existing --out."""
    json: bool = False
    """Print the table as JSON."""

    PRESETS: ClassVar[dict[str, Ablate]] = {}

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise UserError(f"seeds={self.seeds}: wanted different integers of 0 or more, at least one.")
        if self.clips < 1:
            raise UserError(f"clips={self.clips}: wanted at least 1.")
        if self.budget is not None and self.budget <= 0:
            raise UserError(f"budget={self.budget:g}: wanted minutes above 0.")

    @property
    def base(self) -> ClipTraining:
        """The common configuration with the budget in both loops."""
        if self.budget is None:
            return self.training
        tokenizer, prior = (
            replace(loop, minutes=self.budget, num_steps=0)
            for loop in (self.training.train_tokenizer, self.training.train_prior)
        )
        return replace(self.training, train_tokenizer=tokenizer, train_prior=prior)

    @property
    def is_of_priors(self) -> bool:
        """Whether the rows are priors; if not, they are tokenizers."""
        return self.table == PRIOR_TABLE

    def run_folder(self, row: AblationRow, seed: int) -> Path:
        """The directory of a run."""
        return self.out / f"{row.folder}-seed-{seed}"

    def score_path(self, row: AblationRow, seed: int) -> Path:
        """The JSON file of a run's figures."""
        return self.out / "scores" / f"{row.folder}-seed-{seed}.json"


_TINY = replace(TINY_CLIP, prior=replace(TINY_CLIP.prior, class_label=False))
Ablate.PRESETS.update(
    {
        "small": Ablate(tyro.MISSING, tyro.MISSING, tyro.MISSING),
        # For tests: seconds, and useless models.
        "tiny-clip": Ablate(tyro.MISSING, tyro.MISSING, tyro.MISSING, training=_TINY, strides=("2x8", "1x8")),
    }
)


def ablate(config: Ablate) -> dict[str, Any]:
    """Run what is not finished; write and print the table after each run.

    Returns:
        The table, see `ablation_report.table_result`.

    Raises:
        UserError: invalid options, or `config.out` holds another table, or one that is running.
    """
    from worldmodel.cli.ablation_report import format_table, write_table
    from worldmodel.cli.progress import print_status
    from worldmodel.common.locks import acquire_lock
    from worldmodel.common.run_info import check_same_run, machine, remove_run, save_run_info
    from worldmodel.data import ClipSampler, Dataset

    out, run = config.out, config.out / "run.json"
    with Dataset(list(config.data), crop=config.training.crop) as data:
        rows = table_rows(config.table, config.base, data.header.pixels.frame_shape, config.strides)
        ClipSampler(data, clip_length(config), 1, config.split, 0)  # an empty split is known before any training
    if config.force:
        remove_run(out)
    check_same_run(run, out, config)
    out.mkdir(parents=True, exist_ok=True)
    lock = acquire_lock(out / "ablation.lock", f"another process runs the table of {out}; wait for it, or end it.")
    try:
        save_run_info(run, "ablate", config, machine=machine())

        def report() -> None:
            print_status(f"\n{format_table(write_table(config, rows))}\n")

        run_stages(ablation_stages(config, rows), out / "seconds.json", report)
        result = write_table(config, rows)
        print(json.dumps(result) if config.json else format_table(result))
        return result
    except UserError:
        if not any(out.glob("*/*")):  # the same --out can be used with other options
            run.unlink(missing_ok=True)
        raise
    finally:
        lock.release()


def clip_length(config: Ablate) -> int:
    """Frames of the clips that the runs are compared on."""
    return config.training.prior.num_frames if config.is_of_priors else config.training.train_tokenizer.clip_length


def ablation_stages(config: Ablate, rows: list[AblationRow]) -> list[Stage]:
    """A training and its figures for each seed and row; all rows of a seed before the next seed."""
    stages = []
    if config.is_of_priors:
        shared = shared_tokenizer(config)
        stages.append(
            Stage(
                "tokenizer",
                f"learn the shared tokenizer -> {shared}",
                shared / "run.json",
                lambda: _train_tokenizer(config, config.base, shared),
            )
        )
    for seed in config.seeds:
        for row in rows:
            name, folder = f"{row.label}, seed {seed}", config.run_folder(row, seed)
            scores = config.score_path(row, seed)
            stages.append(Stage(name, f"learn -> {folder}", folder / "run.json", _training_of(config, row, seed)))
            stages.append(Stage(f"{name}: figures", f"-> {scores}", scores, _scoring_of(config, row, seed)))
    return stages


def shared_tokenizer(config: Ablate) -> Path:
    """The tokenizer directory of the table of priors."""
    return config.out / "tokenizer"


def _training_of(config: Ablate, row: AblationRow, seed: int) -> Any:
    """The training of a run, as a function without arguments."""
    training, folder = replace(row.training, seed=seed), config.run_folder(row, seed)
    train = _train_prior if config.is_of_priors else _train_tokenizer
    return lambda: train(config, training, folder)


def _scoring_of(config: Ablate, row: AblationRow, seed: int) -> Any:
    """The measurement of a run, as a function without arguments."""

    def score() -> None:
        from worldmodel.common.files import write_json_atomic

        measure = prior_figures if config.is_of_priors else tokenizer_figures
        write_json_atomic(config.score_path(row, seed), measure(config, config.run_folder(row, seed)))

    return score


def _train_tokenizer(config: Ablate, training: ClipTraining, out: Path) -> None:
    from worldmodel.cli.train_commands import TrainTokenizer, train_tokenizer

    part = stage_config(training, TokenizerTraining)
    train_tokenizer(TrainTokenizer(config.data, out, part, device=config.device))


def _train_prior(config: Ablate, training: ClipTraining, out: Path) -> None:
    from worldmodel.cli.clip_commands import TrainClip, train_clip

    train_clip(TrainClip(config.data, out, training, tokenizer=shared_tokenizer(config), device=config.device))


def tokenizer_figures(config: Ablate, folder: Path) -> dict[str, float]:
    """Figures of a tokenizer on the held-out clips.

    Args:
        config: names the clips.
        folder: of `train tokenizer`.

    Returns:
        `nmse` of reconstructions: squared error over the variance of all pixels; `psnr` in dB; `perplexity` and
        `unused_codes`; `codes` of a clip; `parameters`; `steps` of the training; `clips`.
    """
    import torch

    from worldmodel.common.runtime import choose_runtime
    from worldmodel.data import Dataset
    from worldmodel.metrics import evaluate_clips
    from worldmodel.metrics.clip_likelihood import code_use
    from worldmodel.world.tokenizer_storage import TokenizerCheckpoint

    device = choose_runtime(config.device).device
    checkpoint = TokenizerCheckpoint.from_pretrained(folder, device)
    tokenizer, real, codes, decoded = checkpoint.tokenizer, [], [], []
    with Dataset.open_cropped(list(config.data), checkpoint.pixels) as data:
        for batch in held_out_clips(config, data):
            real.append(batch.frames)
            codes.append(tokenizer.encode(batch.frames.to(device)))
            decoded.append(tokenizer.decode(codes[-1]).cpu())
    (pairs,) = evaluate_clips(real, decoded, ["nmse", "psnr"], paired=True)["sections"].values()
    perplexity, unused = code_use(torch.cat(codes), tokenizer.num_codes)
    return {
        **{name: pairs[name]["values"][0]["value"]["mean"] for name in ("nmse", "psnr")},
        "perplexity": perplexity,
        "unused_codes": unused,
        "codes": codes[0][0].numel(),
        "parameters": sum(p.numel() for p in tokenizer.parameters()),
        "steps": steps_done(folder, "tokenizer"),
        "clips": sum(map(len, real)),
    }


def prior_figures(config: Ablate, folder: Path) -> dict[str, float]:
    """Figures of a prior on the held-out clips.

    Args:
        config: names the clips.
        folder: of `train clip`.

    Returns:
        `nats_per_code`, `bits_per_code` and `bits_per_dim` (per colour of a pixel) of the clips, with their conditions;
        `codes` of a clip; `parameters` of the prior; `steps` of its training; `clips`.
    """
    from worldmodel.common.runtime import choose_runtime
    from worldmodel.data import Dataset
    from worldmodel.metrics.clip_likelihood import likelihood_section
    from worldmodel.world.clip_model import ClipModel

    model = ClipModel.from_pretrained(folder, choose_runtime(config.device).device)
    with Dataset.open_cropped(list(config.data), model.spec.pixels) as data:
        batches = list(held_out_clips(config, data))
    section = likelihood_section(model, batches)
    grid = model.tokenizer.grid
    return {
        **{name: section[name]["values"][0]["value"]["mean"] for name in ("nats_per_code", "bits_per_code")},
        "bits_per_dim": section["bits_per_dim"]["values"][0]["value"]["mean"],
        "codes": model.prior.num_steps * grid[0] * grid[1],
        "parameters": sum(p.numel() for p in model.prior.parameters()),
        "steps": steps_done(folder, "prior"),
        "clips": sum(len(batch.frames) for batch in batches),
    }


def held_out_clips(config: Ablate, data: Dataset) -> Iterator[Batch[Tensor]]:
    """The clips that all runs are compared on: the same for every row and seed."""
    from worldmodel.metrics.clip_sources import recorded_clips

    return recorded_clips(data, clip_length(config), config.clips, config.split, 0, BATCH_SIZE)


def steps_done(folder: Path, stage: str) -> int:
    """Steps of a finished training, by the last line of its log."""
    lines = (folder / "training" / f"{stage}.jsonl").read_text().splitlines()
    return int(json.loads(lines[-1])["step"])
