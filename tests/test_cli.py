"""The command: quick help, verbs, presets, saved configs, one sentence and exit code 2 for a mistake."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from worldmodel.cli import command_line as cli
from worldmodel.collect.collect_config import Collect, LearnerConfig, parse_mix, parse_shard
from worldmodel.collect.env_options import EnvOptions, parse_env_args
from worldmodel.common import run_info as runinfo
from worldmodel.common.errors import UserError


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
    best = 9.0
    for _ in range(3):
        begun = time.perf_counter()
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        best = min(best, time.perf_counter() - begun)
        assert result.returncode == 0, result.stderr
    assert "worldmodel VERB --help" in result.stdout
    assert best < 1.0, f"--help took {best:.2f} s at best"


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_has_a_config_with_an_example_and_a_function(verb: str) -> None:
    config_class = cli._load(cli.VERBS[verb].config)
    assert f"worldmodel {verb}" in config_class.__doc__, "its docstring shows an example"
    assert callable(cli._load(cli.VERBS[verb].function))
    example = next(
        line.strip() for line in config_class.__doc__.splitlines() if line.strip().startswith(f"worldmodel {verb}")
    )
    name, config = cli.parse(example.split()[1:] if "'" not in example else __import__("shlex").split(example)[1:])
    assert name == verb
    assert isinstance(config, config_class)


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
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(
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
