"""A page in one file: Markdown and pictures as HTML that loads nothing from elsewhere."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from tempfile import TemporaryDirectory

import matplotlib
from markdown_it import MarkdownIt
from markdown_it.token import Token

SKELETON = Path(__file__).with_name("page.html")
NUMBER = re.compile(r"[-–]?[\d.,]*\d[\d.,e-]*( ± \d+%)?( ?[×%]| ms| MB)?|–|out of memory")
VERDICTS = {"aim": "good", "must": "fair", "below": "bad", "no": "bad",
            "slower": "bad", "faster": "good"}  # fmt: skip


@dataclass
class Section:
    """A part of the page.

    Attributes:
        title: its heading.
        text: Markdown.
        pictures: SVG elements, shown after the text.
        is_folded: whether the reader opens it.
    """

    title: str
    text: str = ""
    pictures: list[str] = field(default_factory=list)
    is_folded: bool = False

    @property
    def name(self) -> str:
        """The anchor."""
        return re.sub(r"\W+", "-", self.title.lower()).strip("-")

    def html(self) -> str:
        figure = f'<figure role="img" aria-label="{escaped(self.title)}">'
        figures = "\n".join(f"{figure}{picture}</figure>" for picture in self.pictures)
        body = f"{html_of(self.text)}\n{figures}"
        if self.is_folded:
            body = f"<details><summary>Show</summary>\n{body}</details>"
        return f'<section id="{self.name}">\n<h2>{escaped(self.title)}</h2>\n{body}</section>'


def page(title: str, sections: list[Section]) -> str:
    """The whole document."""
    links = "\n".join(f'<a href="#{part.name}">{escaped(part.title)}</a>' for part in sections)
    body = "\n".join(section.html() for section in sections)
    return Template(SKELETON.read_text()).substitute(title=escaped(title), links=links, body=body)


def html_of(markdown: str) -> str:
    """Markdown with tables; a number's cell is aligned to the right, a verdict's has a colour.

    HTML inside of the Markdown is shown as text: result files may come from strangers.
    """
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    parser.renderer.rules["table_open"] = lambda *_: '<div class="wide"><table>\n'
    parser.renderer.rules["table_close"] = lambda *_: "</table></div>\n"
    tokens = parser.parse(markdown)
    mark_cells(tokens)
    return str(parser.renderer.render(tokens, parser.options, {}))


def mark_cells(tokens: list[Token]) -> None:
    """Gives cells their classes: those of a column that holds numbers alone, and verdicts."""
    columns: list[list[tuple[Token, str]]] = []
    for token, inside in zip(tokens, [*tokens[1:], *tokens[-1:]], strict=True):
        if token.type == "table_open":
            columns = []
        elif token.type == "tr_open":
            column = 0
        elif token.type == "th_open":
            columns.append([(token, "")])
        elif token.type == "td_open":
            content = inside.content.strip("*")
            columns[column].append((token, content))
            column += 1
            if content in VERDICTS:
                token.attrJoin("class", VERDICTS[content])
        elif token.type == "table_close":
            for cells in columns:
                contents = [content for _, content in cells if content]
                if contents and all(map(NUMBER.fullmatch, contents)):
                    for cell, _ in cells:
                        cell.attrJoin("class", "number")


def svg(draw: Callable[[Path], list[Path]]) -> dict[str, str]:
    """SVG elements by file name, of a function that writes SVG files into the folder it is given.

    Their text stays text, in the reader's font.
    """
    style = {"svg.fonttype": "none", "svg.hashsalt": "fastrpn", "font.family": "sans-serif"}
    with TemporaryDirectory() as folder, matplotlib.rc_context(style):
        return {path.stem: element(path.read_text()) for path in draw(Path(folder))}


def element(text: str) -> str:
    """The element without the head and the metadata of the file, which name addresses."""
    return re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)


def escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
