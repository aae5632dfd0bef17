"""A run's settings as a YAML file, and the checks that values from outside need."""

from __future__ import annotations

import dataclasses
import difflib
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from fastrpn.files import write_atomically
from fastrpn.models.typed import checked
from fastrpn.training.config import TrainConfig
from fastrpn.training.presets import with_preset
from fastrpn.training.provenance import git_state, versions

__all__ = ["config_from_dict", "read_config_file", "write_config_file"]

_PROVENANCE = ("versions", "git")  # said by a written file, ignored when it is read


def write_config_file(path: str | Path, config: TrainConfig) -> Path:
    """Writes every setting, then ``versions`` and ``git``; `read_config_file` takes it back."""
    content = {
        **{name: _as_list(value) for name, value in config.as_dict().items()},
        "versions": versions(),
        "git": git_state(),
    }
    return write_atomically(path, yaml.safe_dump(content, sort_keys=False).encode())


def read_config_file(path: str | Path) -> dict[str, Any]:
    """The settings in a YAML file: a mapping from fields of TrainConfig to values.

    Raises:
        ValueError: no such file, not YAML, not a mapping, or an unknown name.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"config {path}: cannot be read ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"config {path}: must be a mapping of settings, got {content!r}")
    values = {name: value for name, value in content.items() if name not in _PROVENANCE}
    _check_names(values, f"config {path}: ")
    return values


def config_from_dict(values: Mapping[str, Any]) -> TrainConfig:
    """Checked settings; the preset's and else the defaults for those that are not given.

    Numbers may be strings, because YAML reads ``1e-3`` as one; one value stands for a list of it.

    Raises:
        ValueError: an unknown or missing name, or a value of the wrong type; the message names it.
    """
    _check_names(values)
    hints = typing.get_type_hints(TrainConfig)
    values = {name: checked(name, value, hints[name]) for name, value in values.items()}
    values = with_preset(values)
    for setting in dataclasses.fields(TrainConfig):
        required = setting.default is setting.default_factory is dataclasses.MISSING
        if required and setting.name not in values:
            raise ValueError(
                f"{setting.name} is missing: give --{setting.name}, or name it in the config file"
            )
    return TrainConfig(**values)


def _check_names(values: Mapping[str, Any], where: str = "") -> None:
    known = [setting.name for setting in dataclasses.fields(TrainConfig)]
    for name in values:
        if name not in known:
            nearest = difflib.get_close_matches(str(name), known, n=1, cutoff=0.0)[0]
            raise ValueError(f"{where}unknown setting {name!r}, did you mean {nearest!r}?")


def _as_list(value: Any) -> Any:
    """YAML knows no tuples."""
    if isinstance(value, dict):
        return {key: _as_list(item) for key, item in value.items()}
    return [_as_list(item) for item in value] if isinstance(value, list | tuple) else value
