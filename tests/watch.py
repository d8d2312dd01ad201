"""What the interpreter is asked to do while something runs: files opened, sockets made, code loaded."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_watching: list[list[tuple[str, tuple[Any, ...]]]] = []


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    for events in _watching:
        events.append((event, arguments))


sys.addaudithook(_hook)  # There is no removing it, hence the list.


@contextmanager
def audit_events() -> Iterator[list[tuple[str, tuple[Any, ...]]]]:
    """The audit events of the block, as (name, arguments). TensorFlow's own file access raises none."""
    events: list[tuple[str, tuple[Any, ...]]] = []
    _watching.append(events)
    try:
        yield events
    finally:
        _watching.remove(events)
