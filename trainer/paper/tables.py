"""The paper's tables from the runs, in Markdown, beside its printed numbers. Reads results only."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from trainer.evaluation.results import Results
from trainer.evaluation.summary import Summary, reported, summary, verdict
from trainer.paper import experiments
from trainer.paper.experiments import (
    ACTIVATIONS,
    ADAM_DEFAULT,
    BASE,
    BEYOND,
    COMPARED_WITH,
    DEFAULT,
    DM,
    KERAS_MODEL_BASELINES,
    KERAS_MODEL_RUNS,
    LEARNED,
    LONG_RUN_CNN_BASELINES,
    NO_CONVEX,
    NO_SCALING,
    OTHER_OPTIMIZEES,
    OTHER_OPTIMIZEES_STEPS,
    OURS,
    RELU,
    REPLICATE_SEEDS,
    REPLICATED,
    RNNPROP,
    SETTLING,
    SINES,
    TABLE_4_ITERATIONS,
    TRADITIONAL,
    at_iteration,
    long_run_baselines,
    replicate,
)
from trainer.problems.catalog import PAPER_TASKS

PAPER_TABLE_2: Mapping[str, Mapping[str, float]] = {
    "mnist-nn-sigmoid-100": {"adam": 0.31, DM: 0.24, RNNPROP: 0.29},
    "mnist-nn-relu-100": {"adam": 0.28, DM: 1.05, RNNPROP: 0.27},
    "mnist-nn-elu-100": {"adam": 0.26, DM: 13.51, RNNPROP: 0.24},
    "mnist-nn-tanh-100": {"adam": 0.31, DM: 0.50, RNNPROP: 0.28},
}
PAPER_TABLE_3: Mapping[str, Mapping[str, float]] = {
    "sin_lstm": {"adam": 0.62, "adagrad": 0.54, DM: 26.43, RNNPROP: 0.55},
    "sin_lstm-x2": {"adam": 0.44, "adagrad": 0.65, DM: 5.06, RNNPROP: 0.28},
    "sin_lstm-no001": {"adam": 0.39, "adagrad": 0.50, DM: 22.04, RNNPROP: 0.36},
}
PAPER_TABLE_4: Mapping[str, Mapping[int, Sequence[float]]] = {
    BASE: {5_000: (0.31, 0.33, 0.33), 10_000: (0.31, 0.31, 0.32), 15_000: (0.31, 0.30, 0.33)},
    RELU: {5_000: (0.28, 0.30, 0.31), 10_000: (0.28, 0.29, 0.31), 15_000: (0.28, 0.27, 0.32)},
}
"""By task and iterations: Adam, RNNprop, RNNprop without the convex part."""

STEPS = {name: task.steps for name, task in PAPER_TASKS.items()}

NEAR = 1.1
"""Up to this ratio a mean counts as near that of a tuned Adam."""

ABOVE = 1.05
"""A run ends above its start from this ratio on: the start is one batch's loss, the end a mean over many."""


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def number(value: float) -> str:
    """Four digits, so that small and large losses both can be read."""
    return f"{value:.4g}"


def cell(found: Summary | None, rate: bool = False, printed: float | None = None) -> str:
    """Mean, interval and median, the learning rate if asked for, the paper's number in brackets."""
    if found is None:
        return "not run"
    mean, low, high = found.interval
    text = f"{number(mean)} [{number(low)}, {number(high)}], {number(found.median)}"
    text += f" at {found.rate:.3g}" if rate else ""
    return text if printed is None else f"{text} (paper {printed})"


def table2(results: Results) -> str:
    """Activations of the base MLP."""
    return _with_printed_numbers(results, ACTIVATIONS, ("adam", DM, RNNPROP), PAPER_TABLE_2)


def table3(results: Results) -> str:
    """The sine LSTM."""
    return _with_printed_numbers(results, SINES, ("adam", "adagrad", DM, RNNPROP), PAPER_TABLE_3)


def _with_printed_numbers(
    results: Results,
    tasks: Sequence[str],
    optimizers: Sequence[str],
    printed: Mapping[str, Mapping[str, float]],
) -> str:
    rows = []
    for task in tasks:
        found = {name: summary(results, task, STEPS[task], name) for name in optimizers}
        cells = [cell(one, name in TRADITIONAL, printed[task][name]) for name, one in found.items()]
        rows.append([task, *cells])
    return markdown(["task", *optimizers], rows)


def table4(results: Results) -> str:
    """With and without the convex part, by iterations of meta-training."""
    rows = []
    for task in (BASE, RELU):
        for iterations in TABLE_4_ITERATIONS:
            names = ("adam", at_iteration(RNNPROP, iterations), at_iteration(NO_CONVEX, iterations))
            found = [summary(results, task, STEPS[task], name) for name in names]
            printed = PAPER_TABLE_4[task][iterations]
            cells = [cell(one, False, value) for one, value in zip(found, printed, strict=True)]
            rows.append([task, f"{iterations:,}", *cells])
    return markdown(["task", "iterations", "adam", "RNNprop", "without the convex part"], rows)


def best_traditional(results: Results, task: str, steps: int) -> tuple[str, Summary] | None:
    """The one of the lowest mean final loss, NaN the highest; None where not all were run."""
    names = TRADITIONAL if steps == STEPS[task] else long_run_baselines(task)
    found = {name: summary(results, task, steps, name) for name in names}
    there = {name: one for name, one in found.items() if one is not None}
    if len(there) < len(names):
        return None
    best = min(there, key=lambda name: (math.isnan(there[name].mean), there[name].mean))
    return best, there[best]


def scorecard(
    results: Results, optimizer: str = RNNPROP, places: Iterable[tuple[str, int]] = tuple(STEPS.items())
) -> str:
    """An optimizer against the best traditional one, each tuned for the task; by default the 22 tasks."""
    rows: list[list[str]] = []
    ratios: list[float] = []
    verdicts: list[str] = []
    for task, steps in places:
        ours, best = summary(results, task, steps, optimizer), best_traditional(results, task, steps)
        rival = "not run" if best is None else f"{best[0]}: {cell(best[1], rate=True)}"
        if ours is None or best is None:
            rows.append([task, f"{steps:,}", cell(ours), rival, "", ""])
            continue
        _, theirs = best
        ratios.append(ours.mean / theirs.mean)
        verdicts.append(verdict(ours, theirs))
        rows.append([task, f"{steps:,}", cell(ours), rival, f"{ratios[-1]:.3f}", verdicts[-1]])
    table = markdown(["task", "steps", optimizer, "best traditional", "ratio", ""], rows)
    return f"{table}\n\n{_count(ratios, verdicts)}" if any(map(math.isfinite, ratios)) else table


def other_optimizees(results: Results) -> str:
    """The optimizees run for longer in place of those that the paper does not name."""
    return scorecard(results, RNNPROP, [(task, OTHER_OPTIMIZEES_STEPS) for task in OTHER_OPTIMIZEES])


def _tally(verdicts: Sequence[str]) -> str:
    return ", ".join(f"{verdicts.count(one)} {one}" for one in ("won", "tied", "lost"))


def _count(ratios: Sequence[float], verdicts: Sequence[str]) -> str:
    finite = [ratio for ratio in ratios if math.isfinite(ratio) and ratio > 0]
    mean, worst = math.exp(np.mean(np.log(finite))), max(finite)
    text = f"{_tally(verdicts)}. Ratios: geometric mean {mean:.3f}, worst {worst:.3f}"
    others = len(ratios) - len(finite)
    return f"{text}; {others} not finite." if others else f"{text}."


def everything(results: Results) -> str:
    """Final losses of all optimizers on all tasks."""
    names = LEARNED + TRADITIONAL
    rows = []
    for task, steps in STEPS.items():
        found = [summary(results, task, steps, name) for name in names]
        rows.append([task, *("" if one is None else cell(one) for one in found)])
    return markdown(["task", *names], rows)


def replicates(results: Results) -> str:
    """Final losses of three meta-training seeds at the smaller budget, and the spread between seeds."""
    tasks = [*((task, 100) for task in ACTIVATIONS), (RELU, experiments.FIGURE_9_STEPS)]
    rows = []
    for task, steps in tasks:
        adam = summary(results, task, steps, "adam")
        row = [f"{task}, {steps:,} steps", "" if adam is None else number(adam.mean)]
        for name in REPLICATED:
            row.append(_spread([summary(results, task, steps, replicate(name, k)) for k in REPLICATE_SEEDS]))
        rows.append(row)
    preface = "Over meta-training seeds: mean ± standard deviation (each one's mean final loss)."
    pairs = "; ".join(f"{rival}: {_pairs(results, tasks, rival)}" for rival in ("adam", DM, NO_SCALING))
    return (
        f"{preface}\n\n{markdown(['task', 'adam', *REPLICATED], rows)}\n\n"
        f"{RNNPROP} against, by seed and task: {pairs}."
    )


def _pairs(results: Results, tasks: Iterable[tuple[str, int]], rival: str) -> str:
    """How often RNNprop won, tied and lost against Adam or another of the same meta-training seed."""
    verdicts = []
    for task, steps in tasks:
        for seed in REPLICATE_SEEDS:
            name = rival if rival in TRADITIONAL else replicate(rival, seed)
            ours = summary(results, task, steps, replicate(RNNPROP, seed))
            theirs = summary(results, task, steps, name)
            if ours is not None and theirs is not None:
                verdicts.append(verdict(ours, theirs))
    return _tally(verdicts)


def _spread(found: Sequence[Summary | None]) -> str:
    """Mean and standard deviation over meta-training seeds, and each one's mean final loss."""
    each = ", ".join("not run" if one is None else number(one.mean) for one in found)
    means = [one.mean for one in found if one is not None]
    if len(means) < len(found):
        return each
    return f"{number(float(np.mean(means)))} ± {number(float(np.std(means, ddof=1)))} ({each})"


def default(results: Results) -> str:
    """Ours on the 22 tasks and on longer runs."""
    places = list(dict.fromkeys((block.task, block.steps) for block in BEYOND["default"]))
    names = (*OURS, *COMPARED_WITH)
    rows = [
        [f"{task}, {steps:,}", *(cell(summary(results, task, steps, name)) for name in names)]
        for task, steps in places
    ]
    parts = (
        *_judged(results, DEFAULT, places),
        f"The same network under the rule whose steps become smaller once gradients have, {SETTLING}:",
        *_judged(results, SETTLING, places),
        f"On the CNN's long runs the traditional ones are {', '.join(LONG_RUN_CNN_BASELINES)} alone.",
        "Both beside others:",
        markdown(["task, steps", *names], rows),
    )
    return "\n\n".join(parts)


def _judged(results: Results, optimizer: str, places: Sequence[tuple[str, int]]) -> tuple[str, str]:
    return scorecard(results, optimizer, places), _above_the_start(results, optimizer, places)


def _above_the_start(results: Results, optimizer: str, places: Iterable[tuple[str, int]]) -> str:
    """How many runs ended well above the loss of their first batch."""
    above, runs = [], 0
    for task, steps in places:
        if not (rows := reported(results, task, steps, optimizer)):
            continue
        starts = results.curves(rows)["loss"][:, 0]
        ends = [row.final_loss for row in rows]
        count = sum(not end <= ABOVE * start for end, start in zip(ends, starts, strict=True))
        above += [f"{count} of {task} ({steps:,} steps)"] if count else []
        runs += len(rows)
    share, listed = f"{ABOVE - 1:.0%}", ", ".join(above) or "none"
    return f"Of {runs:,} runs of {optimizer} these ended more than {share} above their first loss: {listed}."


def keras_models(results: Results, experiment: str) -> str:
    """Ours on Keras models: training losses, and what the model was worth at the end."""
    preface = (
        "Keras's own initialisers, `fit`. Losses are those of the model as it predicts, on at most 2,000 "
        "examples evenly spaced. adam and adamw-cosine (weight decay 0.004, Keras's default) are tuned on "
        "the training loss of a run with another seed, adam-default is Adam at 0.001. Seconds depend on what "
        "else ran beside: compare them where the report ran with `--jobs=1`."
    )
    names = (*OURS, *KERAS_MODEL_BASELINES)
    by_block = {
        block: {name: summary(results, block.task, block.steps, name) for name in names}
        for block in BEYOND[experiment]
    }
    losses, ends = [], []
    for block, found in by_block.items():
        if not any(found.values()):
            continue
        place = f"{block.task}, {block.steps:,}"
        ratios = (_ratio(found[name], found["adam"]) for name in OURS)
        shown = ["" if ratio is None else f"{ratio:.3f}" for ratio in ratios]
        losses.append(
            [
                place,
                *(cell(one, rate=name in KERAS_MODEL_BASELINES[1:]) for name, one in found.items()),
                *shown,
            ]
        )
        ends.append([place, *(_end(results, block, name) for name in names)])
    titles = ("Training loss", "Validation loss, accuracy where there is one, seconds of training")
    parts = (
        markdown(["model, steps", *names, *more], rows)
        for rows, more in ((losses, [f"{name} / adam" for name in OURS]), (ends, []))
    )
    sections = (f"{title}:\n\n{part}" for title, part in zip(titles, parts, strict=True))
    return "\n\n".join([preface, _near_rivals(by_block), *sections])


def _ratio(ours: Summary | None, theirs: Summary | None) -> float | None:
    """Of the mean final losses, where both were run."""
    return None if ours is None or theirs is None else ours.mean / theirs.mean


def _near_rivals(by_block: Mapping[experiments.Block, Mapping[str, Summary | None]]) -> str:
    """By number of steps: on how many Keras models ours end below Adam as it comes, and near tuned ones."""
    lines = []
    for name in OURS:
        for steps in KERAS_MODEL_RUNS:
            counts = []
            for rival, most in zip(KERAS_MODEL_BASELINES, (1.0, NEAR, NEAR), strict=True):
                pairs = [(one[name], one[rival]) for block, one in by_block.items() if block.steps == steps]
                good = [_within(ours, theirs, most) for ours, theirs in pairs if ours and theirs]
                counts.append(f"{sum(good)} of {len(good)}")
            lines.append([name, f"{steps:,}", *counts])
    near = [f"at most {NEAR:g} times {rival}, tuned" for rival in KERAS_MODEL_BASELINES[1:]]
    return markdown(["", "steps", f"at most {ADAM_DEFAULT}", *near], lines)


def _within(ours: Summary, theirs: Summary, most: float) -> bool:
    """Whether the mean is at most so many times the other's, one that is not finite being the worst."""
    return math.isfinite(ours.mean) and not ours.mean > most * theirs.mean


def _end(results: Results, block: experiments.Block, name: str) -> str:
    """Validation loss, accuracy and seconds at the end of a Keras model's runs, means."""
    rows = reported(results, block.task, block.steps, name)
    if not rows:
        return "not run"
    curves = results.curves(rows)
    loss, accuracy, seconds = (
        curves[name][:, -1].mean() for name in ("validation_loss", "validation_accuracy", "seconds")
    )
    measured = [number(loss), *([] if math.isnan(accuracy) else [f"{accuracy:.3f}"]), f"{seconds:.1f} s"]
    return ", ".join(measured)
