"""What an exported file says of itself, in every format the same."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from fastrpn._version import __version__
from fastrpn.deployment.program import DetectionProgram, InputSize

__all__ = ["Metadata"]

_KEY = "fastrpn"
_VERSION = 1


class Metadata(NamedTuple):
    """An exported model's description.

    It is stored as strings by name, each of them JSON but for "fastrpn", the version of this
    description: "classes" ("__background__" first; labels are indices into it), "score_threshold",
    "nms_threshold", "detections", "height", "width" and "batch" (null: any; no batch), "transform",
    "config" (all the model's rules), "fastrpn_version", "torch_version".
    """

    classes: list[str]
    size: InputSize
    transform: bool
    config: dict[str, Any]
    versions: dict[str, str]

    @classmethod
    def of(cls, program: DetectionProgram, classes: Sequence[str], size: InputSize) -> Metadata:
        """The description of a program that is about to be exported."""
        versions = {"fastrpn_version": __version__, "torch_version": torch.__version__}
        config = dataclasses.asdict(program.model.config)
        return cls(list(classes), size, program.transform, config, versions)

    @property
    def score_threshold(self) -> float:
        """Every detection has a greater score."""
        return self.config["box_score_threshold"]

    def strings(self) -> dict[str, str]:
        """As it is stored."""
        values = {
            "classes": self.classes,
            "score_threshold": self.score_threshold,
            "nms_threshold": self.config["box_nms_threshold"],
            "detections": self.config["detections_per_image"],
            **self.size._asdict(),
            "transform": self.transform,
            "config": self.config,
            **self.versions,
        }
        return {_KEY: str(_VERSION), **{name: json.dumps(values[name]) for name in values}}

    def json(self) -> str:
        """All of it in one string."""
        return json.dumps(self.strings())

    @classmethod
    def read(cls, strings: Mapping[str, str]) -> Metadata:
        """From what is stored. Raises ValueError if it is no description of ours."""
        if strings.get(_KEY) != str(_VERSION):
            raise ValueError("it was not exported by fastrpn, or by a newer one")
        values = {name: json.loads(text) for name, text in strings.items() if name in _NAMES}
        return cls(
            values["classes"],
            InputSize(values["height"], values["width"], values["batch"]),
            values["transform"],
            values["config"],
            {name: values[name] for name in ("fastrpn_version", "torch_version")},
        )


_NAMES = {"classes", "transform", "config", "fastrpn_version", "torch_version", *InputSize._fields}
