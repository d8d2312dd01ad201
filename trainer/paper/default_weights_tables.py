"""Tables of the default weights on the paper's tasks and on longer runs, in Markdown. Reads results only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from trainer.evaluation.markdown import MEAN, mean, median
from trainer.evaluation.results import Results
from trainer.evaluation.summary import reported
from trainer.paper.experiments import (
    BEYOND,
    COMPARED_WITH,
    DEFAULT,
    LARGE,
    LONG_RUN_CNN_BASELINES,
    OTHER_SEEDS,
    OURS,
    SETTLING,
    SMALL,
)
from trainer.paper.tables import matrix, relative, scorecard

ABOVE = 1.05
"""A run ends above its start from this ratio on: the start is one batch's loss, the end a mean over many."""


def default_weights(results: Results) -> str:
    """The default weights, and those before them, on the 22 tasks and on longer runs."""
    tasks_and_steps = list(dict.fromkeys((block.task, block.steps) for block in BEYOND["default-weights"]))
    names = (*OURS, *COMPARED_WITH)
    parts = (
        f"### {DEFAULT} against the best traditional optimizer",
        "Traditional optimizers are tuned for each task. On the long runs of the CNN they are "
        f"{', '.join(LONG_RUN_CNN_BASELINES)} alone.",
        *_judged(results, DEFAULT, tasks_and_steps),
        relative(results, DEFAULT, LARGE, tasks_and_steps),
        f"### {LARGE} against the best traditional optimizer",
        "A network of the paper's size under the paper's rule.",
        *_judged(results, LARGE, tasks_and_steps),
        f"### {SETTLING} against the best traditional optimizer",
        f"The network of {LARGE} under the rule whose steps become smaller once gradients have.",
        *_judged(results, SETTLING, tasks_and_steps),
        f"### {SMALL} against the best traditional optimizer",
        f"The network of {DEFAULT} under the paper's rule.",
        *_judged(results, SMALL, tasks_and_steps),
        relative(results, SMALL, LARGE, tasks_and_steps),
        "### All beside other optimizers that are not tuned",
        matrix(results, tasks_and_steps, names, MEAN, mean),
        matrix(results, tasks_and_steps, names, "median final loss", median),
    )
    return "\n\n".join(parts)


def other_seeds(results: Results) -> str:
    """The default weights from other seeds of meta-training, on the 22 tasks."""
    tasks_and_steps = [(block.task, block.steps) for block in BEYOND["default-weights-seeds"]]
    parts = [f"Trained as {DEFAULT} was, which was chosen among the three seeds by other tasks."]
    for name in OTHER_SEEDS:
        parts += (
            f"### {name} against the best traditional optimizer",
            scorecard(results, name, tasks_and_steps),
            relative(results, name, DEFAULT, tasks_and_steps),
        )
    return "\n\n".join(parts)


def _judged(results: Results, optimizer: str, tasks_and_steps: Sequence[tuple[str, int]]) -> tuple[str, str]:
    return (
        scorecard(results, optimizer, tasks_and_steps),
        _above_the_start(results, optimizer, tasks_and_steps),
    )


def _above_the_start(results: Results, optimizer: str, tasks_and_steps: Iterable[tuple[str, int]]) -> str:
    """Counts of runs that ended well above the loss of their first batch."""
    above, runs = [], 0
    for task, steps in tasks_and_steps:
        if not (rows := reported(results, task, steps, optimizer)):
            continue
        starts = results.curves(rows)["loss"][:, 0]
        ends = [row.final_loss for row in rows]
        count = sum(not end <= ABOVE * start for end, start in zip(ends, starts, strict=True))
        above += [f"{count} of {task} ({steps:,} steps)"] if count else []
        runs += len(rows)
    share, listed = f"{ABOVE - 1:.0%}", ", ".join(above) or "none"
    return f"Runs of {optimizer} that ended more than {share} above their first loss, of {runs:,}: {listed}."
