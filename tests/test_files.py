"""Atomic writes: whatever happens, the old file or the new one, and nothing beside it."""

import itertools
import os
import signal
import time
from unittest import mock

import pytest
import tensorflow as tf

from trainer import files


def test_it_writes_replaces_and_makes_folders(tmp_path):
    path = str(tmp_path / "a" / "b" / "file")
    files.write_atomically(path, b"old")
    files.write_atomically(path, b"\x00new")
    assert files.read(path) == b"\x00new"
    assert os.listdir(tmp_path / "a" / "b") == ["file"]


def test_a_bare_file_name_is_in_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files.write_atomically("file", b"content")
    assert files.read("file") == b"content"


def test_other_file_systems_work():
    """TensorFlow's file system in memory stands for gs:// and the like."""
    path = "ram://folder/deeper/file"
    files.write_atomically(path, b"old")
    files.write_atomically(path, b"new")
    assert files.read(path) == b"new"
    assert tf.io.gfile.listdir("ram://folder/deeper") == ["file"]


STAGES = {
    "opening": ("tensorflow.io.gfile.GFile.__init__", OSError),
    "writing": ("tensorflow.io.gfile.GFile.write", OSError),
    "closing": ("tensorflow.io.gfile.GFile.close", tf.errors.ResourceExhaustedError(None, None, "disk full")),
    "flushing": ("os.fsync", OSError),
    "renaming": ("tensorflow.io.gfile.rename", tf.errors.PermissionDeniedError(None, None, "no")),
    "interrupt": ("os.fsync", KeyboardInterrupt),
}


@pytest.mark.parametrize("stage", STAGES)
def test_a_failure_at_any_stage_leaves_the_old_file_alone(tmp_path, stage):
    target, failure = STAGES[stage]
    path = str(tmp_path / "file")
    files.write_atomically(path, b"old")
    raised = KeyboardInterrupt if failure is KeyboardInterrupt else OSError
    with mock.patch(target, side_effect=failure) as failing, pytest.raises(raised):
        files.write_atomically(path, b"new")
    assert failing.called
    assert files.read(path) == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_full_disk_is_the_error_that_is_raised():
    """A disk that cannot even open the file beside leaves nothing to remove."""
    with pytest.raises(OSError, match="Cannot write /dev/null/file: /dev/null"):
        files.write_atomically("/dev/null/file", b"content")


def test_what_cannot_be_read_is_named(tmp_path):
    with pytest.raises(OSError, match=f"Cannot read {tmp_path}/nothing: "):
        files.read(f"{tmp_path}/nothing")


def test_a_kill_in_the_middle_leaves_a_whole_file(tmp_path):
    path = str(tmp_path / "file")
    writer = os.fork()
    if writer == 0:
        try:
            for k in itertools.count():
                files.write_atomically(path, bytes([k % 256]) * 3_000_000)
        finally:
            os._exit(1)
    try:
        deadline = time.monotonic() + 60
        while not os.path.exists(path):
            assert os.waitpid(writer, os.WNOHANG) == (0, 0)
            assert time.monotonic() < deadline
            time.sleep(0.01)
        for _ in range(50):  # a reader beside the writer sees whole files, too
            content = files.read(path)
            assert len(content) == 3_000_000
            assert len(set(content)) == 1
    finally:
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
    content = files.read(path)
    assert len(content) == 3_000_000
    assert len(set(content)) == 1
