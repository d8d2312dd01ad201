"""Markdown tables of what runs say: one number with its interval a cell."""

from __future__ import annotations

from collections.abc import Sequence

from trainer.evaluation.summary import Interval, Summary

MEAN = "mean final loss [95 % interval]"
"""Header of the cells that `mean` writes."""
NOT_RUN = "not run"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def number(value: float) -> str:
    """Four digits, so that small and large losses both can be read."""
    return f"{value:.4g}"


def interval(found: Interval) -> str:
    """A mean and its interval, such as 0.31 [0.305, 0.315]."""
    mean, low, high = map(number, found)
    return f"{mean} [{low}, {high}]"


def mean(found: Summary | None) -> str:
    """The mean final loss with its interval, or that there are no runs."""
    return NOT_RUN if found is None else interval(found.interval)


def median(found: Summary | None) -> str:
    """The median final loss, or that there are no runs."""
    return NOT_RUN if found is None else number(found.median)


def rate(found: Summary | None) -> str:
    """The learning rate, or that there are no runs."""
    return NOT_RUN if found is None else f"{found.rate:.3g}"
