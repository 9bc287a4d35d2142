"""A file is whole or as it was, whatever fails."""

import errno
import resource
from contextlib import contextmanager

import pytest

from sartor.errors import BadInput, SartorError
from sartor.export import atomic_path, atomic_write
from sartor.export import files as files_module
from sartor.export.files import check_writable


def test_text_and_bytes_arrive_and_folders_are_made(tmp_path):
    path = tmp_path / "a" / "b" / "file.json"
    atomic_write(path, "größe")
    assert path.read_text(encoding="utf-8") == "größe"
    atomic_write(path, b"\x00\x01")
    assert path.read_bytes() == b"\x00\x01"
    assert list(path.parent.iterdir()) == [path]


def test_who_reads_the_old_file_goes_on_reading_it(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("before")
    with open(path) as reader:
        atomic_write(path, "after")
        assert reader.read() == "before"
    assert path.read_text() == "after"


@pytest.mark.parametrize("existed", [True, False])
def test_when_the_block_raises_the_file_is_as_it_was(tmp_path, existed):
    path = tmp_path / "file.bin"
    if existed:
        path.write_text("before")
    with pytest.raises(ZeroDivisionError), atomic_path(path) as temporary:
        assert temporary.suffix == ".bin" and temporary.parent == tmp_path
        temporary.write_text("half")
        raise ZeroDivisionError
    assert [p.read_text() for p in tmp_path.iterdir()] == (["before"] if existed else [])


@contextmanager
def largest_file(size):
    """No file of this process may grow beyond it: a disk that is full half-way, for real."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_write_that_stops_half_way_leaves_nothing(tmp_path):
    path = tmp_path / "file.bin"
    path.write_text("before")
    with largest_file(1000), pytest.raises(SartorError, match=r"cannot write .*file\.bin"):
        atomic_write(path, b"x" * 100_000)
    assert [p.read_text() for p in tmp_path.iterdir()] == ["before"]


def test_a_full_disk_is_said_in_a_sentence(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files_module.os, "fsync", full)
    with pytest.raises(SartorError, match="the disk is full"):
        atomic_write(tmp_path / "file.bin", b"x")
    assert not list(tmp_path.iterdir())


def test_places_that_cannot_be_written_are_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for act in (lambda p: atomic_write(p, "x"), check_writable):
        with pytest.raises(SartorError, match="a file, not a folder"):
            act(tmp_path / "file" / "inside.txt")
        with pytest.raises(BadInput, match="folder"):
            act(tmp_path)
    check_writable(tmp_path / "new.txt")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
