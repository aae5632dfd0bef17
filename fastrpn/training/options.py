"""Command-line options made from the fields of TrainConfig: one definition of every setting."""

import argparse
import dataclasses
import types
import typing

import yaml

from fastrpn.training.config import TrainConfig
from fastrpn.training.config_file import config_from_dict, read_config_file


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds an option for every field, and `--config` for a file that holds such settings.

    A truth value becomes `--name` and `--no-name`, a tuple or list takes several values, a dict
    takes KEY=VALUE pairs with values in YAML.
    """
    parser.add_argument(
        "--config", metavar="YAML", help="settings, as in a run's config.yaml; options override it"
    )
    hints = typing.get_type_hints(TrainConfig)
    for setting in dataclasses.fields(TrainConfig):
        required = (
            setting.default is dataclasses.MISSING
            and setting.default_factory is dataclasses.MISSING
        )
        parser.add_argument(
            f"--{setting.name.replace('_', '-')}",
            default=argparse.SUPPRESS,
            help="required" if required else f"default: {_default(setting)}",
            **_how_to_parse(hints[setting.name]),
        )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = typing.cast(str, TrainConfig.__doc__).partition("Attributes:")[2]


def config_from(options: argparse.Namespace) -> TrainConfig:
    """The settings that were given, then the config file's, then defaults."""
    names = {setting.name for setting in dataclasses.fields(TrainConfig)}
    given = {name: value for name, value in vars(options).items() if name in names}
    for name in ("model_options", "rpn_stage", "box_stage"):
        given.update({name: dict(given[name])} if name in given else {})  # pairs
    of_file = read_config_file(options.config) if options.config else {}
    return config_from_dict({**of_file, **given})


def _default(setting: dataclasses.Field) -> object:
    if setting.default is not dataclasses.MISSING:
        return setting.default
    return setting.default_factory()


def _how_to_parse(hint: object) -> dict[str, object]:
    """argparse's keywords for a type hint."""
    if isinstance(hint, types.UnionType):  # T | None
        hint = next(member for member in typing.get_args(hint) if member is not type(None))
    if hint is bool:
        return {"action": argparse.BooleanOptionalAction}
    origin = typing.get_origin(hint)
    if origin is dict:
        return {"nargs": "+", "type": _pair, "metavar": "KEY=VALUE"}
    if origin in (tuple, list):
        return {"nargs": "*", "type": typing.get_args(hint)[0]}
    return {"type": hint}


def _pair(text: str) -> tuple[str, object]:
    key, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    return key, yaml.safe_load(value)
