"""An extension of griffe: the docstrings' cross-references, in Sphinx's notation, as code."""

import re

import griffe

ROLE = re.compile(r":[a-z]+:`~?(?:[\w.]*\.)?(\w+)`")


class PlainReferences(griffe.Extension):
    """`:class:`~fastrpn.models.FasterRCNN`` becomes `FasterRCNN`."""

    def on_object(self, *, obj, **_):
        if obj.docstring:
            text = ROLE.sub(r"`\1`", obj.docstring.value)
            text = re.sub(r'"(__\w+__)"', r"`\1`", text)  # else bold
            text = re.sub(r"^(\s*)Example::$", r"\1For example:", text, flags=re.M)
            obj.docstring.value = re.sub(r"^(\s*)Example:$", r"\1Examples:", text, flags=re.M)
