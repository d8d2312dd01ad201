"""Tables of the default weights on Keras models, in Markdown. Reads results only."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from trainer.evaluation.block import Block
from trainer.evaluation.markdown import NOT_RUN, mean, median, number, rate, table
from trainer.evaluation.results import Results
from trainer.evaluation.summary import Summary, reported, summary, tuning
from trainer.paper.experiments import (
    ADAM_DEFAULT,
    BEYOND,
    DEFAULT,
    KERAS_MODEL_BASELINES,
    KERAS_MODEL_LEARNED,
    KERAS_MODEL_OPTIMIZERS,
    KERAS_MODEL_RUNS,
    LARGE,
    SMALL,
)
from trainer.paper.tables import relative

NEAR = 1.1
"""Up to this ratio a mean counts as near that of a tuned optimizer."""

SMALLEST = 1e-6
"""Losses below it count as that in ratios: what is left of them is rounding."""

NAMES, LEARNED = KERAS_MODEL_OPTIMIZERS, KERAS_MODEL_LEARNED
TUNED = KERAS_MODEL_BASELINES[1:]

PREFACE = (
    "Runs under `fit` of models with Keras's own initialisers. Losses are those of the model as it predicts, "
    "on at most 2,000 examples evenly spaced, at what `fit` would leave behind: those of :averaged, "
    "adamw-averaged and schedule-free at their averages, with the moving statistics of BatchNormalization "
    "as they are. adam-default is Adam at 0.001; the others (weight decay 0.004, Keras's default, but for "
    "adam) are tuned on the training loss of a run with another seed. Seconds depend on what else ran "
    "beside: compare them where the report ran with `--jobs=1`."
)


def validation_models(results: Results) -> str:
    """The Keras models by which weights are chosen."""
    return keras_models(results, "keras-models")


def test_models(results: Results) -> str:
    """The Keras models looked at once."""
    return keras_models(results, "keras-models-test")


def models_held_back(results: Results) -> str:
    """The Keras models looked at once, when all else was decided."""
    return keras_models(results, "keras-models-held-back")


def keras_models(results: Results, experiment: str) -> str:
    """The default weights on Keras models: training losses, and what the model was worth at the end."""
    every = {
        block: {name: summary(results, block.task, block.steps, name) for name in NAMES}
        for block in BEYOND[experiment]
    }
    found = {block: by_name for block, by_name in every.items() if any(by_name.values())}

    def losses(
        quantity: str, names: Sequence[str], shown: Callable[[Mapping[str, Summary | None], str], str]
    ) -> str:
        rows = [
            [*_model_and_steps(block), *(shown(one, name) for name in names)] for block, one in found.items()
        ]
        return _titled(quantity, names, rows)

    def ends(quantity: str, column: str, digits: Callable[[float], str]) -> str:
        rows = [
            [
                *_model_and_steps(block),
                *(_end(results, block, name, column, digits) for name in NAMES),
            ]
            for block in found
        ]
        return _titled(quantity, NAMES, [row for row in rows if set(row[2:]) - {"", NOT_RUN}])

    return "\n\n".join(
        (
            PREFACE,
            _near_baselines(every),
            _beside_the_best(results, every),
            losses("mean final training loss [95 % interval]", NAMES, lambda one, name: mean(one[name])),
            losses("ratio of the mean final training loss to tuned adam's", LEARNED, _ratio_to_adam),
            losses("median final training loss", NAMES, lambda one, name: median(one[name])),
            losses("tuned learning rate", TUNED, lambda one, name: rate(one[name])),
            *(
                relative(results, ours, LARGE, [(block.task, block.steps) for block in found])
                for ours in (DEFAULT, SMALL)
            ),
            ends("validation loss at the end, mean", "validation_loss", number),
            ends("validation accuracy at the end, mean", "validation_accuracy", "{:.3f}".format),
            ends("seconds of training, mean", "seconds", "{:.1f}".format),
        )
    )


def _model_and_steps(block: Block) -> list[str]:
    return [block.task, f"{block.steps:,}"]


def _titled(quantity: str, names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    title = f"{quantity[0].upper()}{quantity[1:]}, by optimizer:"
    return f"{title}\n\n{table(['model', 'steps', *names], rows)}"


def _ratio_to_adam(found: Mapping[str, Summary | None], name: str) -> str:
    ours, theirs = found[name], found["adam"]
    return NOT_RUN if ours is None or theirs is None else f"{ours.mean / theirs.mean:.3f}"


def _near_baselines(found: Mapping[Block, Mapping[str, Summary | None]]) -> str:
    """Counts of Keras models on which ours end below the untuned Adam, and near tuned optimizers."""
    near = f"models with at most {NEAR:g} times the loss of"
    columns: dict[str, tuple[tuple[str, ...], float]] = {
        f"models with at most the loss of {ADAM_DEFAULT}": ((ADAM_DEFAULT,), 1.0),
        **{f"{near} tuned {name}": ((name,), NEAR) for name in TUNED},
        f"{near} the best tuned one": (TUNED, NEAR),
    }
    rows = []
    for name in LEARNED:
        for steps in KERAS_MODEL_RUNS:
            models = [one for block, one in found.items() if block.steps == steps]
            counts = []
            for rivals, most in columns.values():
                pairs = [(one[name], [other for rival in rivals if (other := one[rival])]) for one in models]
                good = [_within(ours, theirs, most) for ours, theirs in pairs if ours and theirs]
                counts.append(f"{sum(good)} of {len(good)}")
            rows.append([name, f"{steps:,}", *counts])
    header = ["optimizer", "steps", *columns]
    return f"On how many models the mean final training loss is low:\n\n{table(header, rows)}"


def _beside_the_best(results: Results, found: Mapping[Block, Mapping[str, Summary | None]]) -> str:
    """Geometric means of ratios to the best tuned optimizer, of the tuned ones also at one rate for all."""
    tuned, at_one_rate = ({name: [f"{name}{at}"] for name in NAMES} for at in ("", " at one rate"))
    for steps in KERAS_MODEL_RUNS:
        models = {block: one for block, one in found.items() if block.steps == steps}
        best = {block: loss for block, one in models.items() if (loss := _best_tuned(one)) is not None}
        if len(best) < len(models):
            best = {}
        for name in NAMES:
            losses = {block: one.mean for block in best if (one := models[block][name])}
            tuned[name].append(_mean_ratio(losses, best))
        for name in TUNED:
            at_one_rate[name].append(_at_one_rate(results, name, best))
    rows = [*tuned.values(), *(at_one_rate[name] for name in TUNED)]
    header = ["optimizer", *(f"{steps:,} steps" for steps in KERAS_MODEL_RUNS)]
    return (
        "Geometric mean over the models of the ratio of the mean final training loss to that of the best "
        f"tuned optimizer; losses below {SMALLEST:g} count as that. At one rate: of those that tuning tried "
        "on all of the models, one run each, the rate of the lowest such mean, in brackets. It is chosen "
        f"afterwards, on these models.\n\n{table(header, rows)}"
    )


def _best_tuned(found: Mapping[str, Summary | None]) -> float | None:
    """The lowest mean final loss of the tuned optimizers on a model; None where not all are run."""
    means = [one.mean for name in TUNED if (one := found[name])]
    return min(means) if len(means) == len(TUNED) else None


def _mean_ratio(losses: Mapping[Block, float], best: Mapping[Block, float]) -> str:
    if not best or set(losses) != set(best):
        return NOT_RUN
    return f"{_geometric_mean_ratio(losses, best):.2f}"


def _geometric_mean_ratio(losses: Mapping[Block, float], best: Mapping[Block, float]) -> float:
    """NaN or infinity if a loss is."""
    ratios = [max(losses[block], SMALLEST) / max(best[block], SMALLEST) for block in best]
    return float(np.exp(np.mean(np.log(ratios))))


def _at_one_rate(results: Results, name: str, best: Mapping[Block, float]) -> str:
    """What the best single learning rate of those that tuning tried on all models leads to, and that rate."""
    tried = {block: tuning(results, block.task, block.steps, name) for block in best}
    common = set.intersection(*map(set, tried.values())) if tried else set()
    ratios = {
        one: _geometric_mean_ratio({block: tried[block][one] for block in best}, best) for one in common
    }
    finite = {one: ratio for one, ratio in ratios.items() if math.isfinite(ratio)}
    if not finite:
        return NOT_RUN
    chosen = min(finite, key=finite.__getitem__)
    return f"{finite[chosen]:.2f} ({chosen:.3g})"


def _within(ours: Summary, theirs: Sequence[Summary], most: float) -> bool:
    """Whether the mean is at most so many times the lowest of the others; one not finite is the worst."""
    return math.isfinite(ours.mean) and not any(ours.mean > most * one.mean for one in theirs)


def _end(results: Results, block: Block, name: str, column: str, digits: Callable[[float], str]) -> str:
    """A measurement at the end of a Keras model's runs, mean; empty where it has no meaning."""
    rows = reported(results, block.task, block.steps, name)
    if not rows:
        return NOT_RUN
    value = float(results.curves(rows)[column][:, -1].mean())
    return "" if math.isnan(value) else digits(value)
