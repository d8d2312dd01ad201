"""Runs the blocks of experiments, several tasks at once, with an estimate of what is left."""

from __future__ import annotations

import itertools
import os
import threading
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

from tqdm import tqdm

from rnnprop_tf import pretrained
from trainer.evaluation import baselines
from trainer.evaluation.arrival import TARGET
from trainer.evaluation.block import LONGEST, LOOKS, Block
from trainer.evaluation.competitors import AVERAGED, Competitor, competitor, learned
from trainer.evaluation.evaluation import Evaluation
from trainer.evaluation.race import done_at_t, race
from trainer.evaluation.results import TUNING_SEED, Results
from trainer.evaluation.summary import summary
from trainer.keras_models.catalog import HELD_BACK, KERAS_MODELS

MILLISECONDS_A_STEP: Mapping[str, tuple[float, float]] = {
    **dict.fromkeys(("sin_lstm", "sin_lstm-x2", "sin_lstm-no001"), (3.0, 1.5)),
    "vgg-mnist-fc1-conv2-pool1-100": (50.0, 40.0),
    "vgg-mnist-fc2-conv4-pool2-100": (120.0, 80.0),
    "vgg-cifar-fc1-conv2-pool1-100": (75.0, 60.0),
    "vgg-cifar-fc2-conv4-pool2-100": (160.0, 110.0),
    **dict.fromkeys(KERAS_MODELS, (6.0, 3.0)),
    **dict.fromkeys(HELD_BACK, (25.0, 5.0)),
}
"""Milliseconds of a step with a learned and with a traditional optimizer, by task, final loss included, where
two tasks run at once on two cores of an AMD EPYC. Only for the estimate of what is left."""

MLP_MILLISECONDS_A_STEP = (4.0, 0.6)
"""The same of every other task."""

SECONDS_TO_COMPILE = 5.0
"""Seconds of compilation for an optimizer and a task."""

SECONDS_A_LOOK = 0.05
"""Seconds of a measurement in a race."""


BAR = "{percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} core-seconds [{elapsed}<{remaining}]"


class StoppedError(Exception):
    """The runs were asked to stop."""


def find(names: Sequence[str], folders: Sequence[str]) -> dict[str, Competitor]:
    """The optimizers of these names that are there: weights ship, or lie in one of these folders.

    Weights may be named with `AVERAGED` at the end.
    """
    found = {}
    for name in dict.fromkeys(names):
        weights = name.removesuffix(AVERAGED)
        beside = [path for folder in folders if os.path.isdir(path := os.path.join(folder, weights))]
        if name in baselines.OPTIMIZERS:
            found[name] = competitor(name)
        elif weights in pretrained.list_pretrained():
            found[name] = learned(name, weights)
        elif beside:
            found[name] = learned(name, beside[0])
    return found


def cost(blocks: Iterable[Block], competitors: Mapping[str, Competitor], results: Results) -> float:
    """About how many seconds of one core the runs of these blocks take that the results lack.

    What several of them run alike is counted once.
    """
    largest: dict[tuple[str, int, str], Block] = {}
    for block in blocks:
        for name in filter(competitors.__contains__, block.optimizers):
            key = block.task, block.steps, name
            largest[key] = max(block, largest.get(key, block), key=lambda one: (one.runs, one.races))
    return sum(
        _cost(name, block, competitors[name], results) + _race_cost(block, competitors[name], results)
        for (_, _, name), block in largest.items()
    )


def _cost(name: str, block: Block, one: Competitor, results: Results) -> float:
    """What one optimizer's missing runs take, in seconds."""
    cells = [row for row in results.rows if row[:2] == (block.task, name) and row.steps == block.steps]
    tuned = one.rate is not None or any(row.seed in range(block.runs) for row in cells)
    digest = one.cell(block.task, 0.0, block.steps).weights
    runs = block.runs - sum(row.seed in range(block.runs) and row.weights == digest for row in cells)
    if not tuned:
        grid, strides = _search(name, block, results)
        rates = len(grid[:: strides[0]]) + 2 * (len(strides) - 1)
        runs += max(rates * block.tuning_runs - len(cells), 0)
    if runs <= 0:
        return 0.0
    learned_ms, traditional_ms = MILLISECONDS_A_STEP.get(block.task, MLP_MILLISECONDS_A_STEP)
    return runs * block.steps * (learned_ms if one.weights else traditional_ms) / 1_000 + SECONDS_TO_COMPILE


def _race_cost(block: Block, one: Competitor, results: Results) -> float:
    """What one optimizer's missing races take at most, in seconds."""
    found = 0.0
    for times in (1, LONGEST):
        steps = times * block.steps
        digest = one.cell(block.race, 0.0, steps).weights
        there = sum(
            row[:3] == (block.race, one.name, digest) and (row.steps, row.seed < block.races) == (steps, True)
            for row in results.rows
        )
        needed = one.name in baselines.COSINES
        if times == LONGEST:
            needed = one.name != TARGET and (
                not needed or found > 0 or not done_at_t(results, block, one.name)
            )
        if needed and (missing := block.races - there) > 0:
            learned_ms, traditional_ms = MILLISECONDS_A_STEP.get(block.task, MLP_MILLISECONDS_A_STEP)
            a_run = steps * (learned_ms if one.weights else traditional_ms) / 1_000
            found += missing * (a_run + times * LOOKS * SECONDS_A_LOOK) + SECONDS_TO_COMPILE
    return found


def _search(name: str, block: Block, results: Results) -> tuple[range, Sequence[int]]:
    """Grid and strides of `baselines.tune`, for an optimizer that is tuned."""
    before = summary(results, block.task, block.after, name)
    if before is None:
        return baselines.FIRST_GRID[name], block.strides
    return baselines.around(before.rate), baselines.STRIDES[1:]


def run(
    blocks: Sequence[Block],
    competitors: Mapping[str, Competitor],
    results: Results,
    data_dir: str | None,
    jobs: int,
) -> None:
    """Makes the runs that are missing, the longest tasks first.

    Args:
        blocks: what to run; optimizers that are not among the competitors are left out.
        competitors: from `find`.
        results: where to write.
        data_dir: TFDS's folder, its default where None.
        jobs: how many tasks run at once. Beyond the number of cores there is nothing to gain.

    Raises:
        KeyboardInterrupt: cells that were complete are written.
    """
    # Blocks of one task share optimizers: side by side, both would make the same runs. Some follow others.
    by_task: dict[tuple[str, int], list[Block]] = defaultdict(list)
    for block in sorted(blocks, key=lambda one: one.steps):
        by_task[block.task, block.after or block.steps].append(block)
    costs = {key: cost(shared, competitors, results) for key, shared in by_task.items()}
    stop = threading.Event()
    total = round(sum(costs.values()))
    with tqdm(total=total, bar_format=BAR, smoothing=0.01) as bar:

        def after_run(seconds: float) -> None:
            if stop.is_set():
                raise StoppedError
            bar.total = max(bar.total, bar.n + seconds)
            bar.update(seconds)

        def run_task(key: tuple[str, int]) -> None:
            for steps, alike in itertools.groupby(by_task[key], key=lambda one: one.steps):
                evaluation = Evaluation(results, key[0], steps, data_dir, after_run)
                for block in alike:
                    tuning_seeds = range(TUNING_SEED, TUNING_SEED + block.tuning_runs)
                    tuned = []
                    for name in filter(competitors.__contains__, block.optimizers):
                        one = competitors[name]
                        search = _search(name, block, results) if one.rate is None else ()
                        rate, _ = evaluation.losses(one, range(block.runs), tuning_seeds, *search)
                        tuned.append(one._replace(rate=rate))
                    if block.races:
                        race(results, block, tuned, data_dir, after_run)

        with ThreadPoolExecutor(jobs) as pool:
            todo = [pool.submit(run_task, key) for key in sorted(costs, key=costs.__getitem__, reverse=True)]
            try:
                for done in as_completed(todo):
                    done.result()
            except BaseException:
                stop.set()
                pool.shutdown(wait=True, cancel_futures=True)
                raise
