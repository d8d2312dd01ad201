"""The report: the runs that its tables and figures need, and the pages that are made from them.

FOLDER/runs/TASK/...                  all runs, see `trainer.evaluation.results`
FOLDER/weights/NAME/                  weights that do not ship
FOLDER/PAGE/RESULTS.md, *.png         a page and its figures
FOLDER/PAGE/NOTES.md                  what people have to say of a page's runs; becomes a part of it
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from matplotlib.figure import Figure

from trainer import files
from trainer.evaluation import markdown, schedule
from trainer.evaluation.results import TUNING_SEED, Results, Row
from trainer.evaluation.summary import TIE, reported
from trainer.paper import (
    default_weights_tables,
    keras_models_tables,
    learned_update,
    plots,
    races_tables,
    tables,
)
from trainer.paper.claims import CLAIMS, COMPARABLE, FAILURE, UNTRAINED, check
from trainer.paper.experiments import (
    BASE,
    EXPERIMENTS,
    OURS,
    PAPER,
    RNNPROP,
    STEPS_TO_TARGET,
    STEPS_TO_TARGET_HELD_BACK,
    blocks,
)

RUNS = "runs"
WEIGHTS = "weights"
PAPER_PAGE = "paper"
DEFAULT_WEIGHTS_PAGE = "default-weights"
KERAS_MODELS_PAGE = "keras-models"
DOCUMENT = "RESULTS.md"
NOTES = "NOTES.md"
LEARNED_UPDATE = os.path.join(PAPER_PAGE, "learned-update.npz")


class Section(NamedTuple):
    """An experiment's part of a page."""

    title: str
    table: Callable[[Results], str] | None = None
    figure: Callable[[Results], Figure] | None = None


SECTIONS: Mapping[str, Section] = {
    "table2": Section("Table 2: activations", tables.table2),
    "table3": Section("Table 3: sine LSTM", tables.table3),
    "table4": Section("Table 4: with and without the convex part", tables.table4),
    "figure2": Section("Figure 2: the base MLP for 2,000 and 10,000 steps", None, plots.figure2),
    "figure3": Section("Figure 3: final loss by learning rate", None, plots.figure3),
    "figure4": Section("Figure 4: ReLU", None, plots.figure4),
    "figure5": Section("Figure 5: five hidden layers", None, plots.figure5),
    "figure6": Section("Figure 6: depth", None, plots.figure6),
    "figure7": Section("Figure 7: convolutional networks", None, plots.figure7),
    "figure8": Section("Figure 8: sine LSTM", None, plots.figure8),
    "figure9": Section("Figure 9: the controls", None, plots.figure9),
    "longer": Section("Other MLPs for 2,000 steps", tables.other_optimizees),
    "scorecard": Section("The 22 tasks", tables.the_22_tasks),
    "replicates": Section("Three meta-training seeds", tables.replicates),
    "default-weights": Section(
        f"{', '.join(OURS)} on the 22 tasks and on longer runs", default_weights_tables.default_weights
    ),
    "default-weights-seeds": Section(
        "The default weights from other seeds of meta-training", default_weights_tables.other_seeds
    ),
    "keras-models": Section(
        "Keras models by which weights are chosen",
        keras_models_tables.validation_models,
        plots.validation_models,
    ),
    "keras-models-test": Section(
        "Keras models looked at once", keras_models_tables.test_models, plots.test_models
    ),
    "keras-models-held-back": Section(
        "Keras models looked at once, when all else was decided",
        keras_models_tables.models_held_back,
        plots.models_held_back,
    ),
    STEPS_TO_TARGET: Section("Steps to target", races_tables.steps_to_target),
    STEPS_TO_TARGET_HELD_BACK: Section(
        "Steps to target, the models held back", races_tables.steps_to_target_held_back
    ),
}
"""Sections of the pages, by experiment."""


class Page(NamedTuple):
    """A document and its figures, in a folder of their own."""

    folder: str
    title: str
    experiments: tuple[str, ...]
    optimizers: tuple[str, ...] = ()
    """Optimizers that the page is about: an experiment without runs of one is left out. Empty: of any."""


PAGES = (
    Page(PAPER_PAGE, "The paper's experiments", tuple(PAPER)),
    Page(
        DEFAULT_WEIGHTS_PAGE,
        "The default weights on the paper's tasks",
        ("default-weights", "default-weights-seeds"),
        OURS,
    ),
    Page(
        KERAS_MODELS_PAGE,
        "The default weights on Keras models",
        (
            "keras-models",
            "keras-models-test",
            "keras-models-held-back",
            STEPS_TO_TARGET,
            STEPS_TO_TARGET_HELD_BACK,
        ),
        OURS,
    ),
)


def compute(
    names: Sequence[str],
    optimizers: Sequence[str],
    quick: bool,
    folder: str,
    weights_dir: str,
    data_dir: str | None,
    jobs: int,
) -> None:
    """Makes the runs that are missing and says beforehand what they cost."""
    todo = blocks(names, quick)
    wanted = [name for block in todo for name in block.optimizers]
    if unknown := sorted(set(optimizers) - set(wanted)):
        raise ValueError(
            f"No optimizer {unknown} in these experiments. Expected some of {sorted(set(wanted))}."
        )
    wanted = [name for name in wanted if name in optimizers or not optimizers]
    folders = list(dict.fromkeys(map(os.path.normpath, (os.path.join(folder, WEIGHTS), weights_dir))))
    competitors = schedule.find(wanted, folders)
    if absent := sorted(set(wanted) - set(competitors)):
        print(f"Left out, as neither shipped nor in {' or '.join(folders)}: {', '.join(absent)}")
    results = Results(os.path.join(folder, RUNS), adding=True)
    hours = schedule.cost(todo, competitors, results) / 3600
    tasks = len({(block.task, block.steps) for block in todo})
    print(f"{tasks} tasks, about {hours:.1f} core-hours to compute, {jobs} at once.", flush=True)
    schedule.run(todo, competitors, results, data_dir, jobs)
    if RNNPROP in competitors and any(block.task == BASE for block in todo):
        weights = competitors[RNNPROP].weights
        assert weights is not None  # a learned one
        learned_update.write(weights, BASE, os.path.join(folder, LEARNED_UPDATE), data_dir)


def draw(folder: str) -> None:
    """Writes the pages that there are runs for, each with its figures, from the folder's files."""
    results = Results(os.path.join(folder, RUNS))
    if not results.rows:
        raise ValueError(f"No runs in {folder}/{RUNS}. Compute them first, without --nocompute.")
    for page in PAGES:
        if there := [name for name in page.experiments if _has_runs(name, page.optimizers, results)]:
            _write_page(folder, page, there, results)


def _write_page(folder: str, page: Page, experiments: Sequence[str], results: Results) -> None:
    parts = [f"# {page.title}", _preface({row for name in experiments for row in _rows(name, results)})]
    notes = os.path.join(folder, page.folder, NOTES)
    if os.path.exists(notes):
        parts.append(files.read(notes).decode().strip())
    if page.folder != KERAS_MODELS_PAGE:
        parts.append(_VERDICTS)

    def picture(name: str, title: str, figure: Figure) -> str:
        path = os.path.join(folder, page.folder, f"{name}.png")
        files.write_atomically(path, plots.png(figure))
        return f"![{title}]({name}.png)"

    if page.folder == PAPER_PAGE:
        parts += ["## Claims of the paper", _CLAIMS, *_claims(results)]
    if page.folder == DEFAULT_WEIGHTS_PAGE:
        title = "Loss by step of RNNprop and Adam, mean over runs"
        parts.append(picture("headline", title, plots.headline(results)))
    for name in experiments:
        title, table, figure = SECTIONS[name]
        parts.append(f"## {title}")
        if table:
            parts.append(table(results))
        if figure:
            parts.append(picture(name, title, figure(results)))
        parts.append(_made_from(name, results))
    learned = os.path.join(folder, LEARNED_UPDATE)
    if page.folder == PAPER_PAGE and os.path.exists(learned):
        shown = picture("learned-update", "The learned update", plots.learned_update(files.read(learned)))
        parts += ["## What was learned", _LEARNED_UPDATE, shown]
    document = os.path.join(folder, page.folder, DOCUMENT)
    files.write_atomically(document, "\n\n".join(parts).encode() + b"\n")
    print(f"Wrote {document}.")


def _has_runs(name: str, optimizers: Sequence[str], results: Results) -> bool:
    """Whether an experiment has runs of one of these optimizers; of any where none are named."""
    return any(not optimizers or row.optimizer in optimizers for row in _rows(name, results))


def _rows(name: str, results: Results) -> Iterator[Row]:
    """The runs that an experiment shows or tunes by."""
    wanted = {
        (*shown, optimizer)
        for block in EXPERIMENTS[name]
        for shown in block.shown
        for optimizer in block.optimizers
    }
    return (row for row in results.rows if (row.task, row.steps, row.optimizer) in wanted)


def _preface(rows: Iterable[Row]) -> str:
    rows = list(rows)
    hours = sum(row.seconds for row in rows) / 3600
    return (
        "Made by `python -m trainer.report`; each section names its own command. "
        "The final loss of an optimizee is the mean, over all batches met, at the final parameters (section "
        "5 of the paper); that of a Keras model is its training loss. Means over runs have their 95 % "
        "bootstrap intervals in brackets, which for ten runs or fewer are too narrow; no run is left out. "
        "Traditional "
        "optimizers are Keras's, the learning rate tuned for each task on the sqrt(2) grid (with `--quick`, "
        "on every fourth rate of it); for 10,000 steps beyond the paper's tasks the search begins around the "
        "rate that was best for 2,000. Reported runs have the seeds 0, 1, ..., tuning runs those from "
        f"{TUNING_SEED:,} on. {len(rows):,} runs, {hours:.1f} hours by the sum of their seconds."
    )


_VERDICTS = (
    f"Of two optimizers on a task one has *won* and the other *lost* unless they are *tied*: means within "
    f"{TIE:.0%}, or the 95 % bootstrap interval of the difference, in pairs of equal seeds, holds 0. "
    "The best traditional optimizer is the one of the lowest mean of the reported runs, which favours it."
)
_CLAIMS = (
    f"*Comparable* is a loss up to {COMPARABLE} times the best traditional one's; an optimizer *fails* above "
    f"{FAILURE} times that, or where a classifier's loss stays above {UNTRAINED} (equal answers have ln 10 = "
    "2.303). Ratios are those of means. A claim of several tasks that holds on some *holds in part*."
)
_LEARNED_UPDATE = (
    f"The direction of `{RNNPROP}` by m~ and g~, in the state of a first step (where only the two points "
    f"with dots can occur) and, as a mean over coordinates, in those after {learned_update.STEPS_OF_USE} "
    "steps of the base MLP; beside it those of Adam and RMSprop. A computation that includes the base MLP "
    "for 100 steps writes the file, as that of `--experiments=table2` does."
)


def _claims(results: Results) -> Iterator[str]:
    """The verdicts, then the numbers that they rest on."""
    found = [(claim, check(claim, results)) for claim in CLAIMS]
    rows = [
        [str(k), claim.section, claim.text, finding.verdict] for k, (claim, finding) in enumerate(found, 1)
    ]
    yield markdown.table(["claim number", "section of the paper", "claim", "verdict"], rows)
    yield "Mean final losses that these verdicts rest on, by claim number:"
    yield "\n".join(
        line
        for k, (_, finding) in enumerate(found, 1)
        for line in (f"{k}. {finding.verdict}:", *(f"    - {sentence}" for sentence in finding.evidence))
    )


def _made_from(name: str, results: Results) -> str:
    counts = {
        len(reported(results, *shown, optimizer))
        for block in EXPERIMENTS[name]
        for shown in block.shown
        for optimizer in block.optimizers
    }
    runs = " or ".join(map(str, sorted(counts - {0})))
    tuning = " or ".join(map(str, sorted({block.tuning_runs for block in EXPERIMENTS[name]})))
    tasks_and_steps = {shown for block in EXPERIMENTS[name] for shown in block.shown}
    seconds = sum(row.seconds for row in results.rows if (row.task, row.steps) in tasks_and_steps)
    return (
        f"`python -m trainer.report --experiments={name} --out=...`: {runs} runs of each optimizer on each "
        f"task; learning rates tuned on {tuning}; runs on these tasks took {seconds / 3600:.1f} hours in "
        "all, tuning included."
    )
