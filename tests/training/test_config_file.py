"""Settings: one definition, read from a YAML file and the command line, written beside the run."""

import dataclasses
import subprocess

import pytest
import yaml

from fastrpn.cli import main
from fastrpn.training import TrainConfig
from fastrpn.training.config import read_config_file
from fastrpn.training.log import write_config_file


@pytest.fixture
def config():
    return TrainConfig(
        data="shapes",
        output="run",
        lr=1e-3,
        lr_steps=(0.5, 0.75),
        model_options={"min_size": 64, "box_negative_iou": (0.1, 0.5)},
        clip_grad_norm=None,
        accumulate=2,
    )


def test_a_written_config_reads_back(config, tmp_path, from_command_line):
    path = write_config_file(tmp_path / "config.yaml", config)
    again = read_config_file(path)
    options = {**config.model_options, "box_negative_iou": [0.1, 0.5]}  # YAML knows no tuples
    assert again == dataclasses.replace(config, model_options=options)
    assert from_command_line("--config", str(path)) == again


def test_it_says_what_the_run_was_made_with(config, tmp_path, monkeypatch):
    def git(*arguments):
        author = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *author, *arguments], cwd=tmp_path, check=True, capture_output=True)

    def said():
        return yaml.safe_load(write_config_file(tmp_path / "run.yaml", config).read_text())

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    content = said()
    assert {"fastrpn", "torch", "python"} <= set(content["versions"])
    assert content["git"] is None
    git("init")
    (tmp_path / ".gitignore").write_text("run.yaml\n")
    git("add", ".")
    git("commit", "-m", "all")
    commit = (tmp_path / ".git" / git_head(tmp_path)).read_text().strip()
    assert said()["git"] == {"commit": commit, "dirty": False}
    (tmp_path / "new.py").touch()
    assert said()["git"] == {"commit": commit, "dirty": True}


def git_head(folder):
    return (folder / ".git" / "HEAD").read_text().removeprefix("ref: ").strip()


def test_the_command_line_overrides_the_file(tmp_path, from_command_line):
    path = tmp_path / "run.yaml"
    path.write_text(
        "data: shapes\noutput: run\nlr: 1e-3\nbatch_size: 4\nclasses: [cat]\ntrain_set: trainval\n"
    )
    config = from_command_line("--config", str(path), "--lr", "0.5", "--no-progress")
    assert (config.lr, config.batch_size, config.progress) == (0.5, 4, False)
    assert (config.train_set, config.classes) == (("trainval",), ["cat"])
    assert from_command_line("--config", str(path)).lr == 1e-3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("batchsize: 4", r"run.yaml: unknown setting 'batchsize', did you mean 'batch_size'\?"),
        ("1: 4", "unknown setting 1"),
        ("learning_rate: 1", "unknown setting 'learning_rate'"),
        ("- 4", "must be a mapping"),
        ("a: [", "cannot be read"),
    ],
)
def test_a_bad_file_is_named(tmp_path, text, message):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_config_file(path)
    with pytest.raises(ValueError, match="none.yaml: cannot be read"):
        read_config_file(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lr": "fast"}, "lr must be float, got 'fast'"),
        ({"batch_size": 2.5}, "batch_size must be int, got 2.5"),
        ({"batch_size": None}, "batch_size must be int, got None"),
        ({"batch_size": True}, "batch_size must be int, got True"),
        ({"progress": "no"}, "progress must be bool, got 'no'"),
        ({"steps": "many"}, r"steps must be int \| None, got 'many'"),
        ({"lr_steps": [0.5, "x"]}, r"lr_steps\[1\] must be float, got 'x'"),
        ({"preset": ["paper"]}, r"preset must be str \| None, got \['paper'\]"),
        ({"clip_grad_norm": -1}, "clip_grad_norm must be positive, got -1.0"),
        (
            {"lr_steps": [60000]},
            r"lr_steps must be fractions of the run, .* got \(60000.0,\)",
        ),
        ({"precision": "fp8"}, "precision must be 'fp32' or 'bf16' or 'fp16', got 'fp8'"),
        ({"accumulate": 0}, "accumulate must be at least 1, got 0"),
    ],
)
def test_a_bad_value_is_named(values, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(data="shapes", output="run", **values)


def test_a_missing_setting_is_named(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--data", "shapes"])
    assert "output is missing: give --output" in capsys.readouterr().err
