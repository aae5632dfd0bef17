"""Text, JSON and XML as people's tools write them: byte order marks, other encodings, NaN."""

from __future__ import annotations

import codecs
import json
import mmap
import re
from pathlib import Path
from typing import TypeVar
from xml.etree.ElementTree import Element, ParseError

import msgspec
from defusedxml import DefusedXmlException
from defusedxml import ElementTree as SafeElementTree

from fastrpn.errors import BadDataError

T = TypeVar("T")

Anything = list | str | float | int | bool | None  # JSON that is no object
_BOMS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
_MOST_XML = 100 * 2**20  # bytes; the annotation of one image is smaller by far
_MOST_UNUSUAL = 200 * 2**20  # bytes of JSON that only the slow reader might understand


def read_bytes(path: Path) -> bytes:
    """The content of a file. Raises BadDataError naming it."""
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise _cannot_read(path, error) from error


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that are not blank, without the space around them.

    Bytes that are no UTF-8 stay as file names keep them.
    """
    content = read_bytes(path)
    bom, encoding = _bom(content)
    text = content[len(bom) :].decode(encoding, "surrogateescape" if not bom else "replace")
    return [line.strip() for line in text.replace("\r", "\n").split("\n") if line.strip()]


def read_json(path: Path, kind: type[T], what: str) -> T:
    """Reads JSON as a type of msgspec; what the type does not name is never built in memory.

    Args:
        what: what the file should hold, for messages.

    Raises:
        BadDataError: missing, broken, or of another kind. The message names the file.
    """
    try:
        with path.open("rb") as file:
            if path.stat().st_size == 0:
                raise BadDataError(f"{path}: broken JSON (the file is empty)", "broken JSON")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return _decode_json(path, content, kind, what)
    except (OSError, ValueError) as error:
        if isinstance(error, BadDataError):
            raise
        raise _cannot_read(path, error) from error


def _decode_json(path: Path, content: mmap.mmap, kind: type[T], what: str) -> T:
    with memoryview(content) as view:
        try:
            return msgspec.json.decode(view, type=kind)
        except msgspec.ValidationError as error:
            raise BadDataError(f"{path}: no {what}, {error}", "broken annotation") from error
        except (msgspec.DecodeError, RecursionError) as error:
            first = error
    try:  # a byte order mark, NaN or Infinity, which Python's own writer makes
        if len(content) > _MOST_UNUSUAL:
            raise first
        bom, encoding = _bom(content[:4])
        text = content[len(bom) :].decode(encoding)
        return msgspec.convert(json.loads(text), type=kind)
    except msgspec.ValidationError as error:
        raise BadDataError(f"{path}: no {what}, {error}", "broken annotation") from error
    except (ValueError, RecursionError) as error:
        raise BadDataError(f"{path}: broken JSON ({error})", "broken JSON") from error


def read_xml(path: Path) -> Element:
    """The root of an XML file; entities and external references are refused.

    Raises:
        BadDataError: missing, broken or hostile. The message names the file.
    """
    content = read_bytes(path)
    if len(content) > _MOST_XML:
        raise BadDataError(f"{path}: {len(content)} bytes are no annotation", "broken XML")
    try:
        return _parse_xml(content)
    except (ParseError, DefusedXmlException, ValueError, LookupError, RecursionError) as error:
        raise BadDataError(f"{path}: broken XML ({error})", "broken XML") from error


def _parse_xml(content: bytes) -> Element:
    bom, _ = _bom(content)
    declared = _ENCODING.match(content)
    if bom or declared is None:
        return SafeElementTree.fromstring(content)
    # Python's codecs know more encodings (gb2312, shift_jis) than the XML parser.
    text = content.decode(declared[2].decode("ascii"))
    return SafeElementTree.fromstring(text.replace(declared[1].decode("ascii"), "", 1))


_ENCODING = re.compile(rb"""\s*<\?xml[^>]*?(\sencoding\s*=\s*["']([A-Za-z0-9._-]+)["'])""")


def _bom(content: bytes) -> tuple[bytes, str]:
    """The byte order mark and the encoding it stands for; UTF-8 if there is none."""
    for bom, encoding in _BOMS.items():
        if content.startswith(bom):
            return bom, encoding
    return b"", "utf-8"


def _cannot_read(path: Path, error: Exception) -> BadDataError:
    reason = getattr(error, "strerror", None) or error
    return BadDataError(f"{path}: cannot read the file ({reason})")
