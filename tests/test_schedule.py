"""Several tasks at once: interrupted, resumed, side by side, no run made twice."""

import math
import threading

import pytest
from made_runs import TASK

from rnnprop_tf import network as coordinatewise
from rnnprop_tf import pretrained
from rnnprop_tf.network import Architecture
from rnnprop_tf.rule import DMRule, RNNpropRule
from trainer.evaluation import baselines, schedule
from trainer.evaluation.block import Block
from trainer.evaluation.evaluation import Evaluation
from trainer.evaluation.results import Results
from trainer.paper.experiments import DM, RNNPROP


@pytest.fixture
def folder(tmp_path):
    """Weights beside the results, small tasks in place of the paper's."""
    for name, rule in ((RNNPROP + "-5000", RNNpropRule()), (DM, DMRule())):
        architecture = Architecture(preprocess=(4,) if name != DM else (), lstm=(4,))
        network = coordinatewise.initial_weights(architecture, 0)
        pretrained.save(tmp_path / "weights" / name, network, rule)
    return str(tmp_path)


def test_an_interrupted_computation_goes_on(folder, monkeypatch):
    names = ("adam", DM, RNNPROP + "-5000", "no-such-weights")
    block = Block(TASK, 5, names, runs=2, tuning_runs=1, strides=(4,))
    competitors = schedule.find(names, [folder + "/elsewhere", folder + "/weights"])
    assert list(competitors) == list(names[:3])
    results = Results(folder, adding=True)
    whole = schedule.cost([block], competitors, results)
    assert whole > 0
    fewer = block._replace(optimizers=names[:2], runs=1)
    assert schedule.cost([fewer, block], competitors, results) == whole  # what both run is counted once

    made = []
    real_cell = Evaluation._cell

    def interrupted(self, cell, runner, seeds):
        if cell.optimizer == DM and not made:
            made.append(cell)
            raise KeyboardInterrupt
        return real_cell(self, cell, runner, seeds)

    monkeypatch.setattr(Evaluation, "_cell", interrupted)
    with pytest.raises(KeyboardInterrupt):
        schedule.run([block], competitors, results, None, jobs=2)
    before = list(results.rows)
    assert {row.optimizer for row in before} == {"adam"}
    assert schedule.cost([block], competitors, results) < whole
    schedule.run([block], competitors, results, None, jobs=2)
    assert results.rows[: len(before)] == before
    assert {row.optimizer for row in results.rows} == set(names[:3])
    assert schedule.cost([block], competitors, results) == 0
    after = list(results.rows)
    schedule.run([block], competitors, results, None, jobs=2)
    assert results.rows == after


def test_weights_are_found_with_their_averages_too(folder):
    name = RNNPROP + "-5000"
    names = (f"{name}:averaged", f"{pretrained.DEFAULT}:averaged", "no-such-weights:averaged")
    found = schedule.find(names, [folder + "/weights"])
    assert list(found) == list(names[:2])
    assert all(one.averaged and one.name == name for name, one in found.items())
    plain = schedule.find([name], [folder + "/weights"])[name]
    assert not plain.averaged
    assert plain.weights.config == found[names[0]].weights.config


def test_tasks_run_side_by_side_and_no_run_is_made_twice(folder, monkeypatch):
    """Two experiments may want the same runs."""
    together = threading.Barrier(2, timeout=60)

    class Fake:
        def __init__(self, results, task, steps, *_):
            self.place = results, task, steps
            together.wait()  # two tasks: both are under way

        def losses(self, competitor, seeds, *_):
            results, task, steps = self.place
            cell = competitor.cell(task, 0.1, steps)
            there = {row.seed for row in results.of(cell)}
            if missing := [seed for seed in seeds if seed not in there]:
                results.add(cell, missing, [0.5] * len(missing), [0.0] * len(missing))
            return 0.1, [0.5] * len(seeds)

    monkeypatch.setattr(schedule, "Evaluation", Fake)
    blocks = [Block(TASK, steps, names, 2, 1) for steps in (3, 4) for names in (("adam",), ("sgd", "adam"))]
    results = Results(folder)
    schedule.run(blocks, schedule.find(["adam", "sgd"], []), results, None, jobs=4)
    assert len(results.rows) == len(set(results.rows)) == 2 * 2 * 2


def test_longer_runs_are_tuned_around_the_best_rates_of_shorter_ones(folder, monkeypatch):
    blocks = [Block(TASK, 6, ("adam",), 1, 1, after=3), Block(TASK, 3, ("adam",), 1, 1)]
    best, tried = {3: 2.0**-2, 6: 2.0**-4.5}, {3: [], 6: []}

    def measured(self, cell, runner, seeds):
        tried[cell.steps].append(cell.learning_rate)
        losses = [abs(math.log(cell.learning_rate / best[cell.steps]))] * len(seeds)
        self._results.add(cell, seeds, losses, losses)
        return losses

    monkeypatch.setattr(Evaluation, "_cell", measured)
    results = Results(folder)
    schedule.run(blocks, schedule.find(["adam"], []), results, None, jobs=2)
    assert tried[3][0] == baselines.learning_rate(baselines.FIRST_GRID["adam"][0])
    assert tried[6][:3] == [2.0**-3, 2.0**-2, 2.0**-1]
    assert tried[3][-1] == best[3]
    assert tried[6][-1] == best[6]


def test_an_error_in_one_task_ends_the_others(folder, monkeypatch):
    blocks = [Block(TASK, steps, ("adam",), 2, 1) for steps in (3, 4)]
    results = Results(folder)

    def fail(self, cell, runner, seeds):
        raise OSError("disk full")

    monkeypatch.setattr(Evaluation, "_cell", fail)
    with pytest.raises(OSError, match="disk full"):
        schedule.run(blocks, schedule.find(["adam"], []), results, None, jobs=2)
