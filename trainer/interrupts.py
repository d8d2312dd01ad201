"""Ctrl-C, and the SIGTERM of a scheduler, put off to a place where nothing is lost."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def put_off() -> Iterator[Callable[[], bool]]:
    """Within, a first signal only makes the yielded function return True; a second one acts as ever."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # where Python allows no handlers
        yield lambda: False
        return

    def note(number: int, _: FrameType | None) -> None:
        received.append(number)
        restore()
        # Not `print`, which the signal may have interrupted.
        os.write(2, b"\nFinishing this episode and saving. Once more stops at once.\n")

    ordinary = {number: signal.signal(number, note) for number in SIGNALS}

    def restore() -> None:
        for number, handler in ordinary.items():
            signal.signal(number, handler)

    try:
        yield lambda: bool(received)
    finally:
        restore()
