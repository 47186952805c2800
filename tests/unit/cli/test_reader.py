"""A reader or terminal that is gone ends a run silently; a disk that fails has the same error, and must not."""

from __future__ import annotations

import errno
import os
import pty
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pikaforge.cli import signals

GONE = [OSError(number, os.strerror(number)) for number in (errno.EIO, errno.EPIPE)]


def dead_pipe(_: Path) -> int:
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def dead_terminal(_: Path) -> int:
    terminal, end = pty.openpty()
    os.close(terminal)
    return end


def live_pipe(_: Path) -> int:
    reader, writer = os.pipe()
    os.dup(reader)
    return writer


def live_terminal(_: Path) -> int:
    return pty.openpty()[1]


def file(folder: Path) -> int:
    return os.open(folder / "output", os.O_WRONLY | os.O_CREAT)


@pytest.mark.parametrize("error", GONE, ids=str)
@pytest.mark.parametrize(
    ("stream", "gone"),
    [(dead_pipe, True), (dead_terminal, True), (live_pipe, False), (live_terminal, False), (file, False)],
)
def test_the_stream_says_whether_its_reader_is_gone(
    stream: Callable[[Path], int], gone: bool, error: OSError, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with os.fdopen(stream(tmp_path), "w") as opened:
        for name in ("stdout", "stderr"):
            with monkeypatch.context() as patch:
                patch.setattr(sys, name, opened)
                assert signals.reader_is_gone(error) is gone
                assert not signals.reader_is_gone(OSError(error.errno, "", "file"))
                assert not signals.reader_is_gone(OSError(errno.ENOSPC, ""))


def test_no_stream_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert not signals.reader_is_gone(GONE[0])
