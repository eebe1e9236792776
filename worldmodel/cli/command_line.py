"""The command `worldmodel`: from the words of a command line to a verb's config and function.

`worldmodel --help` imports this module and the table of verbs, nothing heavy. A row of the table names the function
that does the work.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import io
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from worldmodel.cli.failures import failure_sentence
from worldmodel.cli.verbs import FORMER_VERBS, VERBS, usage
from worldmodel.common.entries import load_entry
from worldmodel.common.errors import UserError, unknown_name


def parse(arguments: list[str]) -> tuple[str, Any]:
    """Resolve a command line to a verb and its config.

    Args:
        arguments: without the program's name.

    Returns:
        The verb's name and an instance of its config dataclass.

    Raises:
        UserError: unknown verb, preset, or a bad config file. Bad flags end the process with code 2.
    """
    name, rest = _split_verb(arguments)
    config_class = load_entry(VERBS[name].config)
    rest, saved = _pop_flag(rest, "--config")
    presets: dict[str, Any] = getattr(config_class, "PRESETS", {})
    preset = None
    if presets:
        rest, preset = _pop_flag(rest, "--preset")
    default = None
    if saved is not None:
        default = _load_saved_config(Path(os.path.expanduser(saved)), name, config_class)
    elif preset is not None:
        if preset not in presets:
            raise unknown_name("preset", preset, presets)
        default = presets[preset]
    elif hasattr(config_class, "defaults"):
        default = config_class.defaults(rest)

    description = inspect.cleandoc(config_class.__doc__)
    if presets:
        description += "\n\nPresets (--preset NAME): " + ", ".join(presets)
    config = _parse_flags(config_class, f"worldmodel {name}", description, rest, default)
    if preset is not None and any(f.name == "preset" for f in dataclasses.fields(config)):
        config = dataclasses.replace(config, preset=preset)
    return name, expand_home(config)


def expand_home(value: Any) -> Any:
    """A config with "~" expanded in all its paths, as a shell does for words that begin with it.

    Shells leave `--out=~/x` and `"~/x"` as they are, and so are paths in saved configs.

    Args:
        value: a config dataclass, or the value of a field. Besides paths, text that begins with "~/" is expanded: a
            policy may be named by a file.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.init}
        changed = {name: new for name, old in fields.items() if (new := expand_home(old)) != old}
        return dataclasses.replace(value, **changed) if changed else value
    if isinstance(value, tuple):
        return tuple(expand_home(item) for item in value)
    if isinstance(value, Path):
        return Path(os.path.expanduser(value))
    if isinstance(value, str) and value.startswith("~/"):
        return os.path.expanduser(value)
    return value


def _split_verb(arguments: list[str]) -> tuple[str, list[str]]:
    """The verb, of one word or two, and the arguments after it."""
    words = [a for a in arguments[:2] if not a.startswith("-")]
    words = FORMER_VERBS.get(" ".join(words), " ".join(words)).split()
    name = next((n for n in (" ".join(words), words[0] if words else "") if n in VERBS), None)
    if name is None:
        group = {n for n in VERBS if words and n.startswith(words[0] + " ")}
        if group and len(words) == 1:
            raise UserError(f"'worldmodel {words[0]}' needs one more word: {', '.join(sorted(group))}.")
        raise unknown_name("verb", " ".join(words) or " ".join(arguments[:1]), group or VERBS)
    return name, arguments[len(name.split()) :]


def _pop_flag(arguments: list[str], flag: str) -> tuple[list[str], str | None]:
    """Remove `flag VALUE` or `flag=VALUE` from the arguments; the last value counts."""
    rest, value, i = [], None, 0
    while i < len(arguments):
        if arguments[i] == flag:
            if i + 1 == len(arguments):
                raise UserError(f"{flag} needs a value.")
            value, i = arguments[i + 1], i + 2
        elif arguments[i].startswith(flag + "="):
            value, i = arguments[i][len(flag) + 1 :], i + 1
        else:
            rest.append(arguments[i])
            i += 1
    return rest, value


def _load_saved_config(path: Path, verb: str, config_class: Any) -> Any:
    """The config in a run.json that the same verb saved; fields of earlier versions get their present names."""
    from worldmodel.common.run_info import config_from_json, load_run_info

    info = load_run_info(path)
    if FORMER_VERBS.get(info["verb"], info["verb"]) != verb:
        raise UserError(f"{path} was saved by 'worldmodel {info['verb']}', not by 'worldmodel {verb}'.")
    renamed: dict[str, str] = getattr(config_class, "RENAMED_FIELDS", {})
    values = {renamed.get(name, name): value for name, value in info["config"].items()}
    return config_from_json(values, config_class, str(path))


class _CapturedStderr(io.StringIO):
    """Captures what is written to stderr; it is a terminal if stderr is one, so that colours stay."""

    def isatty(self) -> bool:
        return sys.__stderr__ is not None and sys.__stderr__.isatty()


def _parse_flags(config_class: Any, prog: str, description: str, arguments: list[str], default: Any) -> Any:
    """An instance of a config dataclass from flags.

    Raises:
        UserError: a config refuses its own values. tyro catches this error and prints it in a frame; here its
            sentence is raised alone.
    """
    import tyro

    captured, default_of_tyro = _CapturedStderr(), {} if default is None else {"default": default}
    try:
        with contextlib.redirect_stderr(captured):
            return tyro.cli(
                config_class,
                prog=prog,
                description=description,
                args=arguments,
                config=(tyro.conf.AvoidSubcommands,),  # of a union of configs, the preset chooses one
                **default_of_tyro,
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
            sys.stderr.write(captured.getvalue())


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def main(arguments: list[str] | None = None) -> None:
    """Run the command and exit.

    Exit codes: 0 done; 2 a mistake of the user's or a failure of the system, in one sentence; 130 interrupted.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        raise SystemExit(0)
    if arguments[0] == "--version":
        from worldmodel.common.version import VERSION

        print(VERSION)
        raise SystemExit(0)
    signal.signal(signal.SIGTERM, _terminate)
    # torch's threads must sleep, not spin, while they wait: with one other busy process, spinning made a step of
    # two threads 27 times slower. Read when torch is loaded, so set before any verb.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        name, config = parse(arguments)
        load_entry(VERBS[name].function)(config)
    except UserError as error:
        print(f"worldmodel: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except BrokenPipeError:  # the reader of the output has ended, such as `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python fails again when it flushes at exit
        raise SystemExit(128 + 13) from None  # as if SIGPIPE had ended it
    except Exception as error:
        sentence = failure_sentence(error)
        if sentence is None:
            raise
        print(f"worldmodel: {sentence}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("worldmodel: interrupted; finished work is saved, and the same command continues.", file=sys.stderr)
        raise SystemExit(130) from None
