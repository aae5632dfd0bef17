"""A hook of mkdocs: files of the repository that pages link to become part of the site.

So a link such as `../benchmarks/results/cpu/regimes.png` works in the repository and on the site,
where that file lies under `repository/`. Of Markdown files pages are made.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File

ALSO = ("CHANGELOG.md", "CONTRIBUTING.md")  # pages of the navigation
LINK = re.compile(r"\]\((?![a-z]+:|#|/)([^)#\s]+)(#[^)]*)?\)")


def on_files(files, config):
    """Adds what pages link to, and what those link to."""
    docs = Path(config.docs_dir)
    found = {docs.parent / name for name in ALSO}
    pages = [Path(file.abs_src_path) for file in files.documentation_pages()] + sorted(found)
    while pages:
        page = pages.pop()
        for match in LINK.finditer(page.read_text()):
            path = (page.parent / match[1]).resolve()
            if path.is_file() and not path.is_relative_to(docs) and path not in found:
                found.add(path)
                pages += [path] if path.suffix == ".md" else []
    for path in sorted(found):
        files.append(File.generated(config, _uri(path, docs), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Links of a page, which are those of its place in the repository, as those of the site."""
    if page.file.abs_src_path is None:  # a page of the reference
        return markdown
    docs = Path(config.docs_dir)
    here = Path(page.file.abs_src_path).parent

    def on_site(match):
        path = (here / match[1]).resolve()
        if not path.is_file():
            return match[0]  # mkdocs will tell
        link = posixpath.relpath(_uri(path, docs), posixpath.dirname(page.file.src_uri))
        return f"]({link}{match[2] or ''})"

    return LINK.sub(on_site, markdown)


def _uri(path, docs):
    if path.is_relative_to(docs):
        return path.relative_to(docs).as_posix()
    return f"repository/{path.relative_to(docs.parent).as_posix()}"
