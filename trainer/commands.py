"""Command line of all commands: a wrong one ends in one line that says what is allowed."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from absl import app, flags


def run(main: Callable[[list[str]], None], may_be_empty: Collection[str] = ()) -> None:
    """Parses the command line and calls `main`; for `may_be_empty` see `parse`."""
    app.run(main, flags_parser=lambda argv: parse(argv, may_be_empty))


def parse(argv: list[str], may_be_empty: Collection[str] = ()) -> list[str]:
    """Sets the flags. Returns the program's name, in a list.

    Args:
        argv: the program's name and its arguments.
        may_be_empty: flags of text for which `--name=` is an answer: the setting is unset.

    Raises:
        SystemExit: a flag is unknown, missing, empty or of another type, or a word is no flag.
    """
    try:
        name, *rest = flags.FLAGS(argv)
    except (flags.Error, ValueError) as error:  # absl raises the latter for --noresume=1
        raise SystemExit(_one_line(error)) from None
    if rest:
        raise SystemExit(f"Expected flags only, as in --name=value. Received: {' '.join(rest)}")
    for flag in (flags.FLAGS[name] for name in flags.FLAGS if name not in may_be_empty):
        if flag.present and flag.value in ("", []) and flag.default != flag.value:
            raise SystemExit(_nothing(flag))
    return [name]


def _one_line(error: Exception) -> str:
    if not isinstance(error, flags.IllegalFlagValueError):
        return f"{str(error).rstrip('.')}. --help lists the flags.".replace("\n", " ")
    # absl writes "flag --name=value: reason".
    name, _, value = str(error).removeprefix("flag --").partition("=")
    flag = flags.FLAGS[name]
    if error.__context__ is None:  # not of its parser: it is required and not there
        return _nothing(flag)
    received = value.removesuffix(f": {error.__context__}")
    return f"{name}: expected {_allowed(flag)}. Received: {received!r}"


def _nothing(flag: flags.Flag[Any]) -> str:
    return f"{flag.name}: expected {flag.help}. Received: nothing"


def _allowed(flag: flags.Flag[Any]) -> str:
    if isinstance(flag, flags.EnumFlag):
        return f"one of {', '.join(flag.parser.enum_values)}"
    if flag.boolean:
        return "true or false"
    return flag.parser.syntactic_help
