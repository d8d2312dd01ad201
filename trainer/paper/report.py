"""The report: the runs that the tables and figures need, and the documents that are made from them."""

from __future__ import annotations

import os
from collections.abc import Sequence

from trainer import files
from trainer.evaluation import schedule
from trainer.evaluation.results import TUNING_SEED, Results
from trainer.evaluation.summary import TIE, reported
from trainer.paper import learned_update, plots, tables
from trainer.paper.claims import CLAIMS, COMPARABLE, FAILURE, UNTRAINED, check
from trainer.paper.experiments import (
    BASE,
    DEFAULT,
    EXPERIMENTS,
    RNNPROP,
    SETTLING,
    blocks,
)

WEIGHTS = "weights"
RESPONSE = "learned-update.npz"
DOCUMENT = "RESULTS.md"
NOTES = "NOTES.md"
"""What people have to say of the runs, such as the machine they were made on."""

TITLES = {
    "table2": "Table 2: activations",
    "table3": "Table 3: sine LSTM",
    "table4": "Table 4: with and without the convex part",
    "figure2": "Figure 2: the base MLP for 2,000 and 10,000 steps",
    "figure3": "Figure 3: final loss by learning rate",
    "figure4": "Figure 4: ReLU",
    "figure5": "Figure 5: five hidden layers",
    "figure6": "Figure 6: depth",
    "figure7": "Figure 7: convolutional networks",
    "figure8": "Figure 8: sine LSTM",
    "figure9": "Figure 9: the controls",
    "longer": "Other MLPs for 2,000 steps",
    "scorecard": "The 22 tasks",
    "replicates": "Three meta-training seeds",
    "default": f"The default weights, {DEFAULT}, and {SETTLING}, on the 22 tasks and on longer runs",
    "keras-models": "Keras models by which weights are chosen",
    "keras-models-test": "Keras models looked at once",
}
TABLES = {
    "table2": tables.table2,
    "table3": tables.table3,
    "table4": tables.table4,
    "longer": tables.other_optimizees,
    "scorecard": lambda results: f"{tables.scorecard(results)}\n\n{tables.everything(results)}",
    "replicates": tables.replicates,
    "default": tables.default,
    "keras-models": lambda results: tables.keras_models(results, "keras-models"),
    "keras-models-test": lambda results: tables.keras_models(results, "keras-models-test"),
}


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
    places = list(dict.fromkeys(map(os.path.normpath, (os.path.join(folder, WEIGHTS), weights_dir))))
    competitors = schedule.find(wanted, places)
    if absent := sorted(set(wanted) - set(competitors)):
        print(f"Left out, as neither shipped nor in {' or '.join(places)}: {', '.join(absent)}")
    results = Results(folder, adding=True)
    hours = schedule.cost(todo, competitors, results) / 3600
    tasks = len({(block.task, block.steps) for block in todo})
    print(f"{tasks} tasks, about {hours:.1f} core-hours to compute, {jobs} at once.", flush=True)
    schedule.run(todo, competitors, results, data_dir, jobs)
    if RNNPROP in competitors and any(block.task == BASE for block in todo):
        weights = competitors[RNNPROP].weights
        assert weights is not None  # a learned one
        learned_update.write(weights, BASE, os.path.join(folder, RESPONSE), data_dir)


def draw(folder: str) -> None:
    """Writes RESULTS.md and the pictures from the folder's files, of all experiments that have runs."""
    results = Results(folder)
    if not results.rows:
        raise ValueError(f"No runs in {folder}. Compute them first, without --nocompute.")
    parts = [_preface(results)]
    notes = os.path.join(folder, NOTES)
    if os.path.exists(notes):
        parts.append(files.read(notes).decode().strip())
    parts += ["## Claims of the paper", _RULES, _claims(results)]
    places = {(row.task, row.steps, row.optimizer) for row in results.rows}
    for name, made_from in EXPERIMENTS.items():
        if not any((b.task, b.steps, one) in places for b in made_from for one in b.optimizers):
            continue
        parts.append(f"## {TITLES[name]}")
        if name in TABLES:
            parts.append(TABLES[name](results))
        if name in plots.FIGURES:
            files.write_atomically(
                os.path.join(folder, f"{name}.png"), plots.png(plots.FIGURES[name](results))
            )
            parts.append(f"![{TITLES[name]}]({name}.png)")
        parts.append(_made_from(name, results))
    map_file = os.path.join(folder, RESPONSE)
    if os.path.exists(map_file):
        picture = plots.png(plots.learned_update(files.read(map_file)))
        files.write_atomically(os.path.join(folder, "learned-update.png"), picture)
        parts += ["## What was learned", _LEARNED_UPDATE, "![The learned update](learned-update.png)"]
    files.write_atomically(os.path.join(folder, DOCUMENT), "\n\n".join(parts).encode() + b"\n")
    print(f"Wrote {os.path.join(folder, DOCUMENT)}.")


def _preface(results: Results) -> str:
    hours = sum(row.seconds for row in results.rows) / 3600
    return (
        "# Results\n\n"
        "Made by `python -m trainer.report`; each section names its own command. Final loss: the mean, over "
        "all batches met, at the final parameters (section 5). Numbers are means over runs, with their 95 % "
        "bootstrap intervals in brackets, which for ten runs or fewer are too narrow, and medians; no run is "
        "left out. Traditional "
        "optimizers are Keras's, the learning rate tuned for each task on the sqrt(2) grid (with `--quick`, "
        "on every fourth rate of it); for 10,000 steps beyond the paper's tasks the search begins around the "
        "rate that was best for 2,000. Reported runs have the seeds 0, 1, ..., tuning runs those from "
        f"{TUNING_SEED:,} on. "
        f"{len(results.rows):,} runs in all, {hours:.1f} hours by the sum of their seconds."
    )


_RULES = (
    f"Of two optimizers on a task one has *won* and the other *lost* unless they are *tied*: means within "
    f"{TIE:.0%}, or the 95 % bootstrap interval of the difference, in pairs of equal seeds, holds 0. "
    "The best traditional optimizer is the one of the lowest mean of the reported runs, which favours it. "
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


def _claims(results: Results) -> str:
    found = [(claim, check(claim, results)) for claim in CLAIMS]
    rows = [[claim.section, claim.text, finding.verdict, finding.numbers] for claim, finding in found]
    return tables.markdown(["section", "claim", "", "numbers"], rows)


def _made_from(name: str, results: Results) -> str:
    counts = {
        len(reported(results, block.task, block.steps, optimizer))
        for block in EXPERIMENTS[name]
        for optimizer in block.optimizers
    }
    runs = " or ".join(f"{n} (seeds 0 to {n - 1})" for n in sorted(counts - {0}))
    tuning = " or ".join(map(str, sorted({block.tuning_runs for block in EXPERIMENTS[name]})))
    places = {(block.task, block.steps) for block in EXPERIMENTS[name]}
    hours = sum(row.seconds for row in results.rows if (row.task, row.steps) in places) / 3600
    return (
        f"`python -m trainer.report --experiments={name} --out=...`: {runs} runs of each optimizer; learning "
        f"rates tuned on {tuning} (seeds from {TUNING_SEED:,}); runs on these tasks took {hours:.1f} hours "
        "in all, tuning included."
    )
