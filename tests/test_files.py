"""Files appear whole or not at all, and are on the disk before they have their name."""

import os

import pytest

from fastrpn import files
from fastrpn.data import ProposalSet
from fastrpn.models.checkpoint import save_checkpoint


def test_a_file_is_replaced_or_left_alone(tmp_path):
    path = files.write_atomically(tmp_path / "new" / "a.txt", b"old")
    with pytest.raises(KeyError), files.replacing(path) as temporary:
        temporary.write_text("half")
        raise KeyError
    assert path.read_bytes() == b"old"
    assert files.write_atomically(path, b"new").read_bytes() == b"new"
    assert [file.name for file in path.parent.iterdir()] == ["a.txt"]
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    "write",
    [
        lambda path: files.write_atomically(path, b"content"),
        lambda path: save_checkpoint(path, {"step": 1}),
        lambda path: ProposalSet.collect("rpn", {}).save(path),
    ],
)
def test_the_order_is_write_flush_rename_flush(tmp_path, monkeypatch, write):
    events, fsync, rename = [], os.fsync, os.replace

    def noting_fsync(handle):
        is_file = os.path.isfile(f"/proc/self/fd/{handle}")
        events.append("file" if is_file and os.fstat(handle).st_size else "folder")
        fsync(handle)

    def noting_rename(*names):
        events.append("rename")
        rename(*names)

    monkeypatch.setattr(os, "fsync", noting_fsync)
    monkeypatch.setattr(os, "replace", noting_rename)
    write(tmp_path / "file.bin")
    assert events == ["file", "rename", "folder"]
