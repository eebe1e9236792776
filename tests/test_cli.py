"""The command: quick help, verbs, presets, saved configs, one sentence and exit code 2 for a mistake."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from worldmodel.cli import command_line as cli
from worldmodel.cli import demo
from worldmodel.collect import record
from worldmodel.collect.collect_arguments import parse_mix, parse_shard
from worldmodel.collect.collect_command import shard_path
from worldmodel.collect.collect_config import Collect
from worldmodel.collect.env_options import EnvOptions, parse_env_args
from worldmodel.collect.learner_config import LearnerConfig
from worldmodel.common import run_info as runinfo
from worldmodel.common.errors import UserError
from worldmodel.world.hub import shipped_worlds


def run(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "worldmodel", *arguments], capture_output=True, text=True, cwd=cwd, timeout=120
    )


def test_help_is_quick_and_loads_no_torch() -> None:
    code = (
        "import sys; sys.argv=['worldmodel','--help']\n"
        "from worldmodel.cli.command_line import main\n"
        "try: main()\n"
        "except SystemExit as e: assert e.code == 0\n"
        "assert not {'torch', 'vizdoom', 'stable_baselines3', 'h5py'} & set(sys.modules)"
    )
    best = 9.0  # seconds of processor time, which other processes do not lengthen
    for _ in range(3):
        before = os.times()
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        after = os.times()
        seconds = after.children_user + after.children_system - before.children_user - before.children_system
        best = min(best, seconds)
        assert result.returncode == 0, result.stderr
    assert "worldmodel VERB --help" in result.stdout
    assert best < 1.0, f"--help took {best:.2f} s at best"


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_has_a_config_with_an_example_and_a_function(verb: str) -> None:
    config_class = cli.load_entry(cli.VERBS[verb].config)
    assert f"worldmodel {verb}" in config_class.__doc__, "its docstring shows an example"
    assert callable(cli.load_entry(cli.VERBS[verb].function))
    for example in examples(verb):
        name, config = cli.parse(shlex.split(example)[1:])
        assert name == verb
        assert isinstance(config, config_class)


def examples(verb: str) -> list[str]:
    """The examples in the help of a verb."""
    lines = (line.strip() for line in cli.load_entry(cli.VERBS[verb].config).__doc__.splitlines())
    return [line for line in lines if line.startswith(f"worldmodel {verb}")]


# What a verb makes at --out, and what it reads, by the name of the field.
MAKES = {
    "collect": "dataset",
    "data seal": "dataset",
    "data convert": "dataset",
    "data merge": "dataset",
    "train policy": "policy",
    "train clone": "policy",
    "improve policy": "policy",
    "train world": "world",
    "train tokenizer": "tokenizer",
    "train prior": "world",
    "train clip": "clip model",
    "train border": "world",
}
READS = {"data": "dataset", "files": "dataset", "file": "dataset", "tokenizer": "tokenizer", "world": "world"}
READS |= {
    "model": "clip model",
    "real": "dataset",
    "fake": "dataset",
    "directory": "world",
    "folder": "part files",
    "policies": "policy",
    "policy": "policy",
    "starts_from": "dataset",
    "more_worlds": "world",
    "second_world": "world",
}


def paths_made(name: str, config: Any) -> set[tuple[str, str]]:
    """(kind, path) of what a command makes."""
    if name == "demo":
        return {("dataset", f"{config.out}/cover.h5"), ("world", f"{config.out}/world")}
    if name == "loop":
        files = (("dataset", "data.h5"), ("world", "world"), ("policy", "policy"))
        return {(kind, f"{config.out}/round-{n + 1}/{file}") for kind, file in files for n in range(config.rounds)}
    if name not in MAKES:
        return set()
    if getattr(config, "shard", ""):
        return {("dataset", str(shard_path(config.out, parse_shard(config.shard, {}))))}
    made = {(MAKES[name], str(getattr(config, "destination", None) or config.out))}
    if name == "collect":  # with --shard 0/2 and 1/2, and when it is stopped
        made |= {("dataset", str(config.out).replace(".h5", f".{i}-of-2.h5")) for i in range(2)}
        made.add(("part files", f"{config.out}.parts"))
    return made


def paths_read(config: Any) -> set[tuple[str, str]]:
    """(kind, path) of what a command reads; policies with a slash are directories.

    Clips in arrays and in a folder called videos are the reader's own.
    """
    read = set()
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        for item in value if isinstance(value, tuple) else (value,):
            if field.name in ("real", "fake") and item.suffix != ".h5":
                kind = "world" if str(item) in shipped_worlds() else "clip model"
                read |= {(kind, str(item))} if item.suffix != ".npy" and item.name != "videos" else set()
            elif str(item).startswith("lookahead:"):
                policy, _, world = str(item).removeprefix("lookahead:").rpartition(":")
                read |= {("policy", policy), ("world", world)}
            elif field.name in READS and (isinstance(item, Path) or (isinstance(item, str) and "/" in item)):
                read.add((READS[field.name], str(item)))
    return read


def test_the_examples_read_only_what_other_examples_make() -> None:
    commands = [cli.parse(shlex.split(example)[1:]) for verb in cli.VERBS for example in examples(verb)]
    assert len(commands) >= len(cli.VERBS)
    made = set().union(*(paths_made(name, config) for name, config in commands))
    for name, config in commands:
        assert paths_read(config) <= made, f"worldmodel {name} --help"
    assert any(name == "eval world" and paths_read(config) for name, config in commands)


DOCS = Path(__file__).parent.parent
PAGES = ["README.md", *sorted(str(p.relative_to(DOCS)) for p in (DOCS / "docs" / "guides").glob("*.md"))]


@pytest.mark.parametrize("page", [*PAGES, "docs/getting_started.md"])
def test_the_commands_of_a_page_read_only_what_earlier_ones_make(page: str) -> None:
    made = {("world", name) for name in shipped_worlds()}
    for block in re.findall(r"```bash\n(.*?)```", (DOCS / page).read_text(), re.S):
        for line in block.splitlines():
            if line.startswith("worldmodel "):
                name, config = cli.parse(shlex.split(line, comments=True)[1:])
                assert paths_read(config) <= made, line
                made |= paths_made(name, config)
    if page == "README.md":
        assert {"dataset", "world", "policy"} <= {kind for kind, _ in made}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["colect"], ["unknown verb 'colect'", "Did you mean 'collect'"]),
        (["data"], ["needs one more word", "data verify"]),
        (["data", "verfy"], ["Did you mean 'data verify'"]),
        (["collect", "--env", "toi", "--out", "x.h5"], ["unknown environment 'toi'", "Did you mean 'toy'"]),
        (
            ["collect", "--env", "toy", "--policy", "randm", "--out", "x.h5"],
            ["unknown policy 'randm'", "'random'"],
        ),
        (["collect", "--preset", "papr", "--out", "x.h5"], ["unknown preset 'papr'"]),
        (["collect", "--env", "toy", "--out", "x.txt"], ["ends in .h5"]),
        (["collect", "--env", "toy", "--out", "x.h5", "--episodes", "0"], ["at least 1"]),
        (["collect", "--env", "toy", "--out", "x.h5", "--mix", "random=2"], ["NAME=SHARE"]),
        (["collect", "--env", "toy", "--out", "x.h5", "--env-args", "hud"], ["env_args 'hud'", "NAME=VALUE"]),
        (["collect", "--env", "toy", "--out", "x.h5", "--env-args", "hud=true"], ["argument 'hud'"]),
        (["collect", "--env", "toy", "--out", "x.h5", "--env-args", "size=3"], ["use --size"]),
        (["eval", "policy", "random", "--env", "toy", "--env-args", "a=ture"], ["a=ture", "JSON or Python value"]),
        (["train", "policy", "--env", "toy", "--out", "x", "--env-args", "a=1,a=2"], ["sets 'a' twice"]),
        (["collect", "--env", "toy", "--out", "x.h5", "--policy", "no.zip"], ["no policy file"]),
        (["collect", "--env", "toy", "--out", "x.h5", "--shard", "4/4"], ["0 <= i < n"]),
        (["collect", "--env", "toy", "--out", "x.h5", "--policy", "ppo", "--shard", "0/2"], ["does not train"]),
        (["data", "info", "missing.h5"], ["missing.h5"]),
        (["data", "verify", "missing.h5"], ["missing.h5"]),
        (["collect", "--config", "missing.json"], ["no saved config"]),
        (["train", "world", "--data", "x", "--out", "y", "--train-prior.validations", "-1"], ["validations=-1"]),
        (["train", "prior", "--tokenizer", "t", "--data", "x", "--out", "y", "--num-starts", "0"], ["num_starts=0"]),
        (["sample", "--world", "w", "--num", "0", "--out", "x.png"], ["num"]),
        (["demo", "--out", "d", "--test-episodes", "1"], ["--test-episodes 1", "at least 2"]),
        (["demo", "--out", "d", "--policy-minutes", "0"], ["--policy-minutes 0", "above 0"]),
        (["demo", "--out", "d", "--env", "toy"], ["--policy-world", "not of --env toy"]),
        (["demo", "--out", "d", "--world-preset", "tinny"], ["unknown preset 'tinny'", "Did you mean 'tiny'"]),
        (["envs", "--config"], ["--config needs a value"]),
    ],
)
def test_a_users_mistake_is_one_sentence_and_exit_code_2(
    arguments: list[str],
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit_:
        cli.main(arguments)
    message = capsys.readouterr().err
    assert exit_.value.code == 2
    for word in words:
        assert word in message
    assert "Traceback" not in message
    assert message.count("\n") == 1
    assert list(tmp_path.iterdir()) == [], "nothing half-written"


def flags_of(config_class: Any, prefix: str = "--") -> set[str]:
    """The flags of a config dataclass; those of a nested one have a prefix."""
    flags = set()
    for field in dataclasses.fields(config_class):
        flags.add(prefix + field.name.replace("_", "-"))
        if dataclasses.is_dataclass(field.default_factory):
            flags |= flags_of(field.default_factory, f"{prefix}{field.name.replace('_', '-')}.")
    return flags


@pytest.mark.parametrize("module", sorted({verb.function.split(":")[0] for verb in cli.VERBS.values()}))
def test_errors_name_flags_of_their_own_verb(module: str) -> None:
    configs = [cli.load_entry(verb.config) for verb in cli.VERBS.values() if verb.function.startswith(module + ":")]
    flags = {"--config", "--preset"}.union(*(flags_of(config) for config in configs))
    source = Path(importlib.import_module(module).__file__ or "").read_text()
    raised = [ast.unparse(node) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Raise)]
    # a whole command for another verb is quoted, as 'worldmodel train policy --out DIR'
    sentences = [re.sub(r"'worldmodel [^']*'", "", text) for text in raised]
    named = {flag.rstrip(".") for text in sentences for flag in re.findall(r"--[a-z][a-z.-]*", text)}
    assert named <= flags


def test_flags_presets_and_environment_defaults_resolve() -> None:
    _, config = cli.parse(["collect", "--env", "doom/take-cover", "--out", "x.h5", "--size", "32", "48"])
    assert config.learner.hold == 4, "the measured settings of the environment"
    assert config.env_options.size == (32, 48)
    _, config = cli.parse(["collect", "--env", "toy", "--out", "x.h5", "--learner.frame-stack", "7"])
    assert config.learner.frame_stack == 7
    _, config = cli.parse(["collect", "--preset", "paper-health-gathering-supreme", "--out", "x.h5", "--seed", "3"])
    assert (config.episodes, config.env_options.max_steps, config.seed) == (1000, 100, 3)


def test_a_saved_config_runs_again(tmp_path: Path) -> None:
    config = Collect(
        Path("a.h5"), "toy", "random", episodes=3, env_options=EnvOptions(crop=(0, 32, 0, 64)), learner=LearnerConfig()
    )
    saved = tmp_path / "a.run.json"
    runinfo.save_run_info(saved, "collect", config)
    info = json.loads(saved.read_text())
    assert {"command", "code_version", "packages", "config", "verb"} <= set(info)
    name, again = cli.parse(["collect", "--config", str(saved)])
    assert (name, again) == ("collect", config)
    _, changed = cli.parse(["collect", "--config", str(saved), "--seed", "9"])
    assert changed.seed == 9
    assert runinfo.run_difference(info, config) is None
    assert runinfo.run_difference(info, changed) == "seed is 9, was 0"
    info["config"]["sede"] = 1
    saved.write_text(json.dumps(info))
    with pytest.raises(UserError, match="sede"):
        cli.parse(["collect", "--config", str(saved)])
    info["config"].pop("sede")
    info["config"]["episodes"] = "3"
    saved.write_text(json.dumps(info))
    with pytest.raises(UserError, match="episodes"):
        cli.parse(["collect", "--config", str(saved)])


def test_saved_configs_of_earlier_versions_are_read(tmp_path: Path) -> None:
    """`screen` with `hud` became `env_options` with `env_args`."""
    for hud, env_args in ((False, ""), (True, "hud=true")):
        config = Collect(Path("a.h5"), "toy", env_options=EnvOptions(crop=(0, 32, 0, 64), env_args=env_args))
        saved = tmp_path / "a.run.json"
        runinfo.save_run_info(saved, "collect", config)
        info = json.loads(saved.read_text())
        options = info["config"].pop("env_options")
        options.pop("env_args")
        info["config"]["screen"] = {**options, "hud": hud}
        saved.write_text(json.dumps(info))
        assert cli.parse(["collect", "--config", str(saved)]) == ("collect", config)
        runinfo.check_same_run(saved, tmp_path / "a.h5", config)


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("", {}),
        ("hud=true, skill=3,", {"hud": True, "skill": 3}),
        ("hud=True,size_factor=0.5,name=None", {"hud": True, "size_factor": 0.5, "name": None}),
        ("""name="a,b=c",box=[1, 2],crop=(0, 1),table={"x": 1, "y": [2]}""",
         {"name": "a,b=c", "box": [1, 2], "crop": (0, 1), "table": {"x": 1, "y": [2]}}),
        ("name='x'", {"name": "x"}),
    ],
)  # fmt: skip
def test_env_args_are_json_or_python_values(text: str, arguments: dict[str, object]) -> None:
    assert parse_env_args(text) == arguments


@pytest.mark.parametrize("text", ["x", "=1", "1a=2", "a=", "a=b", "a=[1", "a=1,a=1", "a.b=1", 'a="x'])
def test_malformed_env_args_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="env_args"):
        parse_env_args(text)


def test_the_home_directory_is_expanded_in_every_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    home = tmp_path
    _, config = cli.parse(["train", "world", "--data", "~/a.h5", "b.h5", "--out=~/w", "--init-from", "~/v"])
    assert (config.data, config.out, config.init_from) == ((home / "a.h5", Path("b.h5")), home / "w", home / "v")
    assert cli.parse(["data", "info", "~/a.h5", "~"])[1].files == (home / "a.h5", home)
    assert cli.parse(["demo", "--out", "~/d"])[1].out == home / "d"
    _, config = cli.parse(["eval", "policy", "~/p", "random", "periodic:32"])
    assert config.policies == (str(home / "p"), "random", "periodic:32"), "a policy may be a file"
    assert cli.parse(["collect", "--out", "a~b.h5"])[1].out == Path("a~b.h5")
    unknown = "~no-such-user/x.h5"
    assert cli.parse(["collect", "--out", unknown])[1].out == Path(unknown)
    runinfo.save_run_info(tmp_path / "a.run.json", "collect", Collect(Path("~/a.h5"), "toy"))
    assert cli.parse(["collect", "--config", "~/a.run.json"])[1].out == home / "a.h5"
    record("toy", "random", tmp_path / "t.h5", episodes=3, progress=False)
    cli.main(["data", "preview", "~/t.h5", "--out=~/new/sheet"])
    assert (home / "new" / "sheet" / "episodes.gif").exists()
    assert not (tmp_path / "~").exists()


def test_a_demo_of_an_earlier_version_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its run.json has the fields judge_clips and judge_rows."""
    config = demo.Demo(tmp_path / "d", eval_clips=7, eval_rows=3)
    runinfo.save_run_info(config.out / "run.json", "demo", config)
    text = (config.out / "run.json").read_text().replace('"eval_clips"', '"judge_clips"')
    (config.out / "run.json").write_text(text.replace('"eval_rows"', '"judge_rows"'))
    assert cli.parse(["demo", "--config", str(config.out / "run.json")]) == ("demo", config)
    finished: list[str] = []
    stage = demo.Stage("record", "", config.out / "cover.h5", lambda: finished.append("record"))
    monkeypatch.setattr(demo, "stages", lambda _: [stage])
    monkeypatch.setattr("worldmodel.cli.demo_page.write_report", lambda *_: finished.append("report"))
    demo.demo(config)
    assert finished == ["record", "report"]
    assert json.loads((config.out / "run.json").read_text())["config"]["eval_clips"] == 7
    with pytest.raises(UserError, match="eval_clips is 8, was 7"):
        demo.demo(dataclasses.replace(config, eval_clips=8))


def test_mix_and_shard() -> None:
    assert parse_mix("random=0.2, periodic:40=0.3") == {"random": 0.2, "periodic:40": 0.3}
    for bad in ("random", "random=x", "=0.2", "random=0.6,sticky=0.6", "random=0.1,random=0.1", "random=nan"):
        with pytest.raises(UserError):
            parse_mix(bad)
    assert parse_shard("", {"RANK": "1", "WORLD_SIZE": "4"}) == (1, 4)
    assert parse_shard("2/3", {"RANK": "1", "WORLD_SIZE": "4"}) == (2, 3)
    for bad in ("3/3", "a/2", "1", "-1/2"):
        with pytest.raises(UserError):
            parse_shard(bad, {})


def test_python_m_and_version() -> None:
    assert run("--version").stdout.strip() == "0.1.0"
    result = run("nonsense")
    assert result.returncode == 2
    assert "unknown verb" in result.stderr
