"""The site builds without a warning and has what it should have."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fastrpn

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_every_page_is_there(site):
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")} - {"index"}
    assert len(pages) >= 15
    for name in [".", *pages, "repository/CHANGELOG", "repository/tests/cuda_on_cpu"]:
        assert "<h1" in (site / name / "index.html").read_text(), name


def test_what_the_package_offers_at_its_top_leads_to_its_description(site):
    page = (site / "api" / "fastrpn" / "index.html").read_text()
    links = re.findall(r'href="\.\./(\w+)/#([\w.]+)"', page)
    assert {anchor.rpartition(".")[2] for _, anchor in links} == set(fastrpn._NAMES)
    for name, anchor in links:
        assert f'id="{anchor}"' in (site / "api" / name / "index.html").read_text()


@pytest.mark.parametrize("package", ["ops", "models", "training", "data", "evaluation"])
def test_the_reference_has_every_public_name(site, package):
    tree = ast.parse((ROOT / "fastrpn" / package / "__init__.py").read_text())
    (names,) = (n.value for n in tree.body if getattr(n, "targets", None))
    page = (site / "api" / package / "index.html").read_text()
    headings = set(re.findall(r'<h2 id="fastrpn\.[\w.]*?\.(\w+)"', page))
    assert headings == {n for n in ast.literal_eval(names) if not n.isupper()}
    assert ":class:" not in page and ":func:" not in page


def test_every_picture_and_file_that_a_page_names_is_there(site):
    found = 0
    for page in site.rglob("*.html"):
        for link in re.findall(r'(?:src|href)="([^"#?]+)', page.read_text()):
            if page.name == "404.html" or re.match(r"[a-z]+:|/", link):
                continue
            assert (page.parent / link).exists(), f"{page}: {link}"
            found += link.endswith((".png", ".jpg"))
    assert found > 20


def test_nothing_is_fetched_from_elsewhere(site):
    for page in site.rglob("*.html"):
        text = page.read_text()
        assert not re.search(r'<(?:script|img|link)[^>]+(?:src|href)="https?:', text), page
