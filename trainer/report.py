"""The paper's tables and figures.

    python -m trainer.report --out=results/paper                        # all of them: hours
    python -m trainer.report --out=results/quick --quick                # the same with two runs each
    python -m trainer.report --out=results/paper --experiments=table2   # one
    python -m trainer.report --out=results/paper --nocompute            # draw from the files that are there

Two steps: runs are computed into the folder's files, those that are there are not made again, so an
interrupted computation goes on where it stopped; then RESULTS.md and the pictures are made from the files.
Weights that do not ship are looked for in FOLDER/weights, then in --weights: those of Table 4, the
replicates, and the peer's (`python -m trainer.convert --weights=vita_rnnprop_cl_il.npz
--out=FOLDER/weights/vita-rnnprop-cl-il`). A FOLDER/NOTES.md becomes a part of RESULTS.md.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from absl import flags

from trainer import commands, files
from trainer.evaluation import plots, response, schedule, tables
from trainer.evaluation.claims import CLAIMS, COMPARABLE, FAILURE, UNTRAINED, check
from trainer.evaluation.experiments import (
    BASE,
    DEFAULT,
    EXPERIMENTS,
    LONGER,
    LONGER_STEPS,
    PAPER,
    RNNPROP,
    SETTLING,
    blocks,
)
from trainer.evaluation.results import TUNING_SEED, Results
from trainer.evaluation.summary import reported

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
    "workloads": "Keras models by which weights are chosen",
    "workloads-test": "Keras models looked at once",
}
TABLES = {
    "table2": tables.table2,
    "table3": tables.table3,
    "table4": tables.table4,
    "longer": lambda results: tables.scorecard(results, RNNPROP, [(task, LONGER_STEPS) for task in LONGER]),
    "scorecard": lambda results: f"{tables.scorecard(results)}\n\n{tables.everything(results)}",
    "replicates": tables.replicates,
    "default": tables.default,
    "workloads": lambda results: tables.workloads(results, "workloads"),
    "workloads-test": lambda results: tables.workloads(results, "workloads-test"),
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
    entrants = schedule.find(wanted, places)
    if absent := sorted(set(wanted) - set(entrants)):
        print(f"Left out, as neither shipped nor in {' or '.join(places)}: {', '.join(absent)}")
    results = Results(folder, adding=True)
    hours = schedule.cost(todo, entrants, results) / 3600
    tasks = len({(block.task, block.steps) for block in todo})
    print(f"{tasks} tasks, about {hours:.1f} core-hours to compute, {jobs} at once.", flush=True)
    schedule.run(todo, entrants, results, data_dir, jobs)
    if RNNPROP in entrants and any(block.task == BASE for block in todo):
        weights = entrants[RNNPROP].weights
        assert weights is not None  # a learned one
        response.write(weights, BASE, os.path.join(folder, RESPONSE), data_dir)


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
    f"{tables.TIE:.0%}, or the 95 % bootstrap interval of the difference, in pairs of equal seeds, holds 0. "
    "The best traditional optimizer is the one of the lowest mean of the reported runs, which favours it. "
    f"*Comparable* is a loss up to {COMPARABLE} times the best traditional one's; an optimizer *fails* above "
    f"{FAILURE} times that, or where a classifier's loss stays above {UNTRAINED} (equal answers have ln 10 = "
    "2.303). Ratios are those of means. A claim of several tasks that holds on some *holds in part*."
)
_LEARNED_UPDATE = (
    f"The direction of `{RNNPROP}` by m~ and g~, in the state of a first step (where only the two points "
    f"with dots can occur) and, as a mean over coordinates, in those after {response.STEPS_OF_USE} steps of "
    "the base MLP; beside it those of Adam and RMSprop. A computation that includes the base MLP for 100 "
    "steps writes the file, as that of `--experiments=table2` does."
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


def main(_: list[str]) -> None:
    folder = os.path.expanduser(FLAGS.out)
    names = [name for one in FLAGS.experiments for name in (PAPER if one == "paper" else [one])]
    try:
        if unknown := sorted(set(names) - set(EXPERIMENTS)):
            raise ValueError(
                f"No experiment named {unknown}. Expected paper, or among {', '.join(EXPERIMENTS)}."
            )
        if FLAGS.compute:
            compute(names, FLAGS.optimizers, FLAGS.quick, folder, FLAGS.weights, FLAGS.data_dir, FLAGS.jobs)
        draw(folder)
    except (ValueError, RuntimeError, OSError) as error:
        raise SystemExit(str(error)) from error
    except KeyboardInterrupt:
        raise SystemExit("Interrupted. The same command goes on from there.") from None


FLAGS = flags.FLAGS
if __name__ == "__main__":
    flags.DEFINE_list(
        "experiments", ["paper"], f"paper for all of the paper's, or some of {', '.join(EXPERIMENTS)}"
    )
    flags.DEFINE_list("optimizers", [], "compute the runs of these alone, such as adam,sgd; by default all")
    flags.DEFINE_bool("compute", True, "make the runs that are missing; --nocompute only draws")
    flags.DEFINE_bool("quick", False, "two runs of each and a coarse tuning, to see it all in minutes")
    flags.DEFINE_integer("jobs", os.cpu_count() or 1, "tasks computed at once", lower_bound=1)
    flags.DEFINE_string("out", None, "folder of the runs, the tables and the figures", required=True)
    flags.DEFINE_string(
        "weights", os.path.join("results", "paper", WEIGHTS), "folder of weights that do not ship"
    )
    flags.DEFINE_string("data_dir", None, "TFDS's folder; by default TFDS_DATA_DIR, or TFDS's own")
    commands.run(main)
