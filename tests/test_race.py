"""Races: when they arrive at the target, who runs how long, what the tables say."""

import keras
import numpy as np
import pytest

from trainer.evaluation import schedule, tasks
from trainer.evaluation.arrival import NOT_ARRIVED, TARGET, arrivals
from trainer.evaluation.block import LONGEST, LOOKS, Block
from trainer.evaluation.fit_runner import COLUMNS, FitRunner
from trainer.evaluation.results import TUNING_SEED, Cell, Results
from trainer.evaluation.runner import Run, Runner
from trainer.evaluation.tasks import check_task, task
from trainer.keras_models.catalog import KERAS_MODELS
from trainer.paper import experiments, races_tables

FAST = "keras-friedman"
BLOCK = Block(FAST, 200, experiments.KERAS_MODEL_OPTIMIZERS, runs=1, tuning_runs=1, races=2)


def add(results, optimizer, times, *losses, seconds_a_step=0.5, block=BLOCK):
    """Races over so many T steps, one for each seed, whose losses are given at their ends and halves."""
    steps = times * block.steps
    points = times * LOOKS
    made = np.linspace(steps / points, steps, points)
    curves = []
    for half, end in losses:
        loss = np.where(made < steps / 2, 9.0, np.where(made < steps, half, end))
        seconds = made * seconds_a_step
        seconds[-1] += 100.0  # a pause, which the median leaves out
        curves.append(dict(zip(COLUMNS, (made, loss, loss, loss, seconds), strict=True)))
    cell = Cell(block.race, optimizer, "", 0.01, steps)
    ends = [end for _, end in losses]
    results.add(cell, range(len(losses)), ends, [1.0] * len(losses), curves)


def test_a_race_arrives_at_the_first_loss_that_is_not_above_the_target_of_its_seed(tmp_path):
    results = Results(str(tmp_path))
    add(results, TARGET, 1, (3.0, 1.0), (3.0, 2.0))
    add(results, "adam", 2, (1.5, 0.5), (1.5, 0.5), seconds_a_step=0.25)
    found = arrivals(results, BLOCK, "adam")
    assert [one.steps for one in found.values()] == [2.0, 1.0]  # 1.5 is above 1, not above 2
    assert [one.seconds for one in found.values()] == [2.0 * 200 * 0.25, 200 * 0.25]
    assert [one.steps for one in arrivals(results, BLOCK, TARGET).values()] == [1.0, 1.0]
    add(results, "schedule-free", 2, (1.5, np.nan), (3.0, 2.5))
    late = arrivals(results, BLOCK, "schedule-free")
    assert {(one.steps, one.arrived) for one in late.values()} == {(NOT_ARRIVED, False)}
    # A cosine's longer race counts where its shorter one does not arrive.
    add(results, "muon-cosine", 1, (3.0, 1.1), (2.0, 1.1))
    add(results, "muon-cosine", 2, (1.1, 0.9), (0.1, 0.1))
    assert [one.steps for one in arrivals(results, BLOCK, "muon-cosine").values()] == [2.0, 0.5]
    assert arrivals(results, BLOCK, "adam-default") == {}


def test_tables_count_and_average_races(tmp_path):
    results = Results(str(tmp_path))
    for name, halves in ((FAST, 1.0), ("keras-cancer", 9.0), ("keras-wine", 9.0)):
        block = BLOCK._replace(task=name)
        add(results, TARGET, 1, (3.0, 1.0), block=block)
        add(results, "adam", 2, (halves, 1.0), seconds_a_step=0.25, block=block)
        add(results, "adam-default", 2, (9.0, 9.0), block=block)
    text = races_tables.steps_to_target(results)

    def row(text, title, name):
        part = text.split(title)[1].split("\n\n")[1]
        [line] = [line for line in part.splitlines() if line.startswith(f"| {name} |")]
        return line.strip("| ").split(" | ")[1:]

    title = "Over the 15 models above, T = 200:"
    models, steps, seconds, late, races = row(text, title, "adam")
    assert (models, late, races) == ("2", "0", "2")
    assert steps.startswith("1.414 [1, 2]")
    assert seconds.startswith("0.7071 [0.5, 1]")
    assert row(text, title, "adam-default")[1:] == ["3 [3, 3]", "3 [3, 3]", "2", "2"]
    assert row(text, title, "muon-cosine")[1] == "not run"
    assert "T = 2,000" not in text
    by_model = row(text, "of each model", "keras-cancer")
    assert dict(zip(experiments.KERAS_MODEL_OPTIMIZERS, by_model[1:], strict=True))["adam"] == "2"
    held_back = races_tables.steps_to_target_held_back(results)
    assert row(held_back, "Over the models held back, T = 200:", "adam")[0] == "1"
    assert row(held_back, "Over all models, T = 200:", "adam")[1].startswith("1.587 ")


class Falling(Runner):
    """In place of real runs: the loss falls by the step, slower by so much with Muon."""

    def __init__(self, model, make_optimizer, cosine, data_dir, every):
        slow = isinstance(make_optimizer(0.1), keras.optimizers.Muon)
        self.speed, self.every = Falling.muon_speed if slow else 1.0, every

    def run(self, steps, seed, learning_rate):
        every = self.every or steps // 10
        made = np.arange(every, steps + 1, every)
        loss = 1 / (self.speed * made)
        return Run(dict(zip(COLUMNS, (made, loss, loss, loss, made), strict=True)), float(loss[-1]))


@pytest.mark.parametrize("muon_speed", [0.8, 1.0])
def test_races_are_made_once_and_a_cosine_s_second_one_only_where_it_is_late(
    tmp_path, monkeypatch, muon_speed
):
    monkeypatch.setattr(Falling, "muon_speed", muon_speed, raising=False)
    monkeypatch.setattr(tasks, "FitRunner", Falling)
    names = ("adam-default", "muon-cosine", TARGET)
    block = Block(FAST, 200, names, runs=2, tuning_runs=1, strides=(8,), races=1)
    competitors = schedule.find(names, [])
    results = Results(str(tmp_path))
    # The same runs without races are cheaper, and both together no dearer.
    cheaper = schedule.cost([block._replace(races=0)], competitors, results)
    whole = schedule.cost([block, block._replace(races=0)], competitors, results)
    assert cheaper < whole == schedule.cost([block], competitors, results)
    schedule.run([block], competitors, results, None, jobs=1)
    assert schedule.cost([block], competitors, results) == 0
    made = {(row.optimizer, row.steps): row for row in results.rows if row.task == block.race}
    again = {("muon-cosine", 400)} if muon_speed < 1 else set()
    assert set(made) == {("adam-default", 400), ("muon-cosine", 200), (TARGET, 200)} | again
    found = {name: arrivals(results, block, name)[0].steps for name in names}
    assert found == {"adam-default": 1.0, "muon-cosine": 1 / muon_speed, TARGET: 1.0}
    # At the rate of the runs of T steps.
    for row in made.values():
        assert {row.learning_rate} == {
            one.learning_rate
            for one in results.rows
            if one[:2] == (FAST, row.optimizer) and one.seed < TUNING_SEED
        }
    before = list(results.rows)
    schedule.run([block], competitors, results, None, jobs=1)
    assert results.rows == before


def test_a_run_is_measured_as_often_as_is_asked_for():
    often = FitRunner(KERAS_MODELS[FAST], keras.optimizers.Adam, every=1).run(20, 0, 0.01)
    np.testing.assert_array_equal(often.curve["step"], np.arange(1, 21))
    seldom = FitRunner(KERAS_MODELS[FAST], keras.optimizers.Adam).run(20, 0, 0.01)
    np.testing.assert_allclose(often.curve["loss"][1::2], seldom.curve["loss"], rtol=1e-4)


def test_a_race_is_a_task_of_its_own():
    assert task(BLOCK.race).steps == LONGEST * BLOCK.steps
    check_task(BLOCK.race, ["muon-cosine"], BLOCK.steps)
    with pytest.raises(ValueError, match="steps: expected a multiple of 2 for Keras models"):
        check_task(BLOCK.race, [], 25)
    with pytest.raises(ValueError, match="expected a multiple of 100 steps for a race"):
        task(f"{FAST}-race-250")
    with pytest.raises(ValueError, match="No task named 'digits-nn-sigmoid-100-race-200'"):
        task("digits-nn-sigmoid-100-race-200")


def test_the_experiments_race_over_all_models():
    blocks = [
        block
        for name in (experiments.STEPS_TO_TARGET, experiments.STEPS_TO_TARGET_HELD_BACK)
        for block in experiments.BEYOND[name]
    ]
    assert len({block.task for block in blocks}) == 15 + 8
    assert {block.steps: block.races for block in blocks} == experiments.RACES
    assert all(TARGET in block.optimizers for block in blocks)
    quick = experiments.blocks([experiments.STEPS_TO_TARGET], quick=True)
    assert {(block.steps, block.races) for block in quick} == {(200, 2)}
