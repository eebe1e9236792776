"""The command `worldmodel`: a table of verbs, each a config dataclass and a function that takes it.

Nothing heavy is imported here: `worldmodel --help` reads only this file. From a verb to the work are two hops:
the row below names the function.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import io
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from worldmodel.common.errors import UserError, unknown_name


@dataclass(frozen=True)
class Verb:
    """One row: where the config and the function live ("module:name"), and what the verb does."""

    config: str
    function: str
    help: str


VERBS: dict[str, Verb] = {
    "demo": Verb(
        "worldmodel.cli.demo:Demo",
        "worldmodel.cli.demo:demo",
        "the whole way on real take-cover, with a page at the end",
    ),
    "envs": Verb(
        "worldmodel.cli.data_commands:Envs",
        "worldmodel.cli.data_commands:envs",
        "the environments that are known, as a table",
    ),
    "collect": Verb(
        "worldmodel.collect.collect_config:Collect",
        "worldmodel.collect.collect_command:collect",
        "play an environment and record a dataset",
    ),
    "data info": Verb(
        "worldmodel.cli.data_commands:DataInfo",
        "worldmodel.cli.data_commands:data_info",
        "what a dataset holds: counts, histograms, sizes",
    ),
    "data verify": Verb(
        "worldmodel.cli.data_commands:DataVerify",
        "worldmodel.cli.data_commands:data_verify",
        "check every checksum, offset and split",
    ),
    "data preview": Verb(
        "worldmodel.cli.data_commands:DataPreview",
        "worldmodel.cli.data_commands:data_preview",
        "a contact sheet and a GIF",
    ),
    "data seal": Verb(
        "worldmodel.cli.data_commands:DataSeal",
        "worldmodel.cli.data_commands:data_seal",
        "part files of a stopped recording into one dataset",
    ),
    "data merge": Verb(
        "worldmodel.cli.data_commands:DataMerge",
        "worldmodel.cli.data_commands:data_merge",
        "several datasets as one, without copying",
    ),
    "train policy": Verb(
        "worldmodel.collect.collect_config:TrainPolicy",
        "worldmodel.collect.policy_training:train_policy",
        "train a policy with Stable-Baselines3",
    ),
    "train world": Verb(
        "worldmodel.cli.train_commands:TrainWorld",
        "worldmodel.cli.train_commands:train_world",
        "learn a world from a dataset",
    ),
    "train tokenizer": Verb(
        "worldmodel.cli.train_commands:TrainTokenizer",
        "worldmodel.cli.train_commands:train_tokenizer",
        "its first half: frames to codes and back",
    ),
    "train prior": Verb(
        "worldmodel.cli.train_commands:TrainPrior",
        "worldmodel.cli.train_commands:train_prior",
        "its second half, on a tokenizer's codes",
    ),
    "export": Verb(
        "worldmodel.cli.export_command:Export",
        "worldmodel.cli.export_command:export",
        "write a world for onnxruntime: faster on a CPU, and without torch",
    ),
    "eval policy": Verb(
        "worldmodel.collect.collect_config:EvalPolicy",
        "worldmodel.collect.policy_evaluation:eval_policy",
        "play policies on fixed test seeds, with intervals",
    ),
    "eval world": Verb(
        "worldmodel.cli.eval_world:EvalWorld",
        "worldmodel.cli.eval_world:eval_world",
        "judge a learned world: free runs, likelihood, prediction",
    ),
    "predict": Verb(
        "worldmodel.cli.pictures:Predict",
        "worldmodel.cli.pictures:predict",
        "dream on from a recorded moment, beside what happened",
    ),
    "sample": Verb(
        "worldmodel.cli.pictures:Sample", "worldmodel.cli.pictures:sample", "several futures of one sequence of actions"
    ),
    "assets": Verb(
        "worldmodel.cli.assets_command:Assets",
        "worldmodel.cli.assets_command:assets",
        "files from elsewhere (maps, weights): list and fetch",
    ),
    "bench loader": Verb(
        "worldmodel.cli.bench_commands:BenchLoader",
        "worldmodel.cli.bench_commands:bench_loader",
        "clips read per second, beside other ways",
    ),
    "bench collect": Verb(
        "worldmodel.cli.bench_commands:BenchCollect",
        "worldmodel.cli.bench_commands:bench_collect",
        "steps recorded per second, beside no recorder",
    ),
    "bench tokenizer": Verb(
        "worldmodel.cli.bench_commands:BenchTokenizer",
        "worldmodel.cli.bench_commands:bench_tokenizer",
        "frames encoded, decoded and learned per second, beside plain convolutions",
    ),
    "bench prior": Verb(
        "worldmodel.cli.bench_commands:BenchPrior",
        "worldmodel.cli.bench_commands:bench_prior",
        "codes learned, frames scored and stepped per second, beside other ways of stepping",
    ),
    "bench dream": Verb(
        "worldmodel.cli.bench_commands:BenchDream",
        "worldmodel.cli.bench_commands:bench_dream",
        "whole steps of dreams per second, alone and in batches",
    ),
}


def usage() -> str:
    """The help page of the whole command."""
    width = max(len(name) for name in VERBS)
    rows = "\n".join(f"  {name:<{width}}  {verb.help}" for name, verb in VERBS.items())
    return (
        "usage: worldmodel VERB [options]\n\n"
        "Record an agent in a real game, learn the world from its pixels and actions, step that world.\n\n"
        f"{rows}\n\n"
        "worldmodel VERB --help     the options of one verb, with an example\n"
        "worldmodel VERB --config FILE     run a saved config again (flags after it override)\n"
        "worldmodel VERB --preset NAME     begin from a named config\n"
        "worldmodel --version"
    )


def _load(entry: str) -> Any:
    module, name = entry.split(":")
    return getattr(importlib.import_module(module), name)


def _take(arguments: list[str], flag: str) -> tuple[list[str], str | None]:
    """Remove `flag VALUE` or `flag=VALUE` from the arguments."""
    rest, value, i = [], None, 0
    while i < len(arguments):
        if arguments[i] == flag:
            if i + 1 == len(arguments):
                raise UserError(f"{flag} wants a value.")
            value, i = arguments[i + 1], i + 2
        elif arguments[i].startswith(flag + "="):
            value, i = arguments[i][len(flag) + 1 :], i + 1
        else:
            rest.append(arguments[i])
            i += 1
    return rest, value


def parse(arguments: list[str]) -> tuple[str, Any]:
    """Resolve a command line to a verb and its config.

    Args:
        arguments: without the program's name.

    Returns:
        The verb's name and an instance of its config dataclass.

    Raises:
        UserError: unknown verb, preset, or a bad config file. Bad flags end the process with code 2.
    """
    words = [a for a in arguments[:2] if not a.startswith("-")]
    name = next((n for n in (" ".join(words), words[0] if words else "") if n in VERBS), None)
    if name is None:
        groups = {n for n in VERBS if words and n.startswith(words[0] + " ")}
        if groups and (len(words) == 1):
            raise UserError(f"'worldmodel {words[0]}' needs one more word: {', '.join(sorted(groups))}.")
        raise unknown_name("verb", " ".join(words) or " ".join(arguments[:1]), groups or VERBS)
    rest = arguments[len(name.split()) :]
    config_class = _load(VERBS[name].config)
    rest, saved = _take(rest, "--config")
    presets: dict[str, Any] = getattr(config_class, "PRESETS", {})
    preset = None
    if presets:
        rest, preset = _take(rest, "--preset")
    default = None
    if saved is not None:
        from worldmodel.common.run_info import from_json_data, load_run_info

        info = load_run_info(Path(saved))
        if info["verb"] != name:
            raise UserError(f"{saved} was saved by 'worldmodel {info['verb']}', not by 'worldmodel {name}'.")
        default = from_json_data(info["config"], config_class, saved)
    elif preset is not None:
        if preset not in presets:
            raise unknown_name("preset", preset, presets)
        default = presets[preset]
    elif hasattr(config_class, "defaults"):
        default = config_class.defaults(rest)

    description = config_class.__doc__
    if presets:
        description += "\n\nPresets (--preset NAME): " + ", ".join(presets)
    config = _configure(config_class, f"worldmodel {name}", description, rest, default)
    if preset is not None and any(f.name == "preset" for f in dataclasses.fields(config)):
        config = dataclasses.replace(config, preset=preset)
    return name, config


class _Held(io.StringIO):
    """Takes what is said on stderr, and is as colourful."""

    def isatty(self) -> bool:
        return sys.__stderr__ is not None and sys.__stderr__.isatty()


def _configure(config_class: Any, prog: str, description: str, arguments: list[str], default: Any) -> Any:
    """An instance of a config dataclass from flags.

    Raises:
        UserError: a config refuses its own values: the sentence alone. tyro, which catches it, would frame it.
    """
    import tyro

    held, arguments_of_tyro = _Held(), {} if default is None else {"default": default}
    try:
        with contextlib.redirect_stderr(held):
            return tyro.cli(
                config_class,
                prog=prog,
                description=description,
                args=arguments,
                config=(tyro.conf.AvoidSubcommands,),  # which of two configs it is, the preset decides
                **arguments_of_tyro,
            )
    except SystemExit as end:
        cause: BaseException | None = end
        while cause is not None and not isinstance(cause, UserError):
            cause = cause.__context__
        if cause is not None:
            raise UserError(str(cause)) from None
        raise
    finally:
        if not isinstance(sys.exception(), UserError):
            sys.stderr.write(held.getvalue())


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def main(arguments: list[str] | None = None) -> None:
    """Run the command and exit: 0 done, 2 the user's mistake in one sentence, 130 interrupted."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        raise SystemExit(0)
    if arguments[0] == "--version":
        from worldmodel.common.version import VERSION

        print(VERSION)
        raise SystemExit(0)
    signal.signal(signal.SIGTERM, _terminate)
    # torch's threads must sleep, not spin, while they wait: beside one other busy process, spinning made a step of
    # two threads 27 times slower. Read when torch is loaded, so before any verb.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        name, config = parse(arguments)
        _load(VERBS[name].function)(config)
    except UserError as error:
        print(f"worldmodel: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except OSError as error:
        if error.errno is None or error.filename is None:
            raise
        print(f"worldmodel: {error.filename}: {os.strerror(error.errno)}.", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("worldmodel: interrupted; what was finished is saved, the same command goes on.", file=sys.stderr)
        raise SystemExit(130) from None
