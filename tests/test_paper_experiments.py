"""Which runs the paper's tables and figures need."""

from trainer.evaluation.results import TUNING_SEED
from trainer.paper import experiments, report
from trainer.paper.experiments import BASE, DM, EXPERIMENTS, RNNPROP, TRADITIONAL
from trainer.problems.catalog import PAPER_TASKS


def test_the_experiments_are_the_paper_s():
    tasks = {block.task for block in EXPERIMENTS["scorecard"]}
    assert tasks == set(PAPER_TASKS)
    for block in EXPERIMENTS["scorecard"]:
        assert set(TRADITIONAL) | {RNNPROP, DM} <= set(block.optimizers)
        least = {100: 20 if block.task.startswith("vgg") else 100, 2_000: 10, 10_000: 5}
        assert block.runs >= least[block.steps]
    for name, blocks in EXPERIMENTS.items():
        assert name in report.SECTIONS
        assert all(block.runs < TUNING_SEED for block in blocks)


def test_every_experiment_is_on_a_page_and_the_shared_runs_are_made_once():
    on_pages = [name for page in report.PAGES for name in page.experiments]
    assert sorted(on_pages) == sorted(EXPERIMENTS) == sorted(report.SECTIONS)
    assert all(section.table or section.figure for section in report.SECTIONS.values())
    found = experiments.blocks(EXPERIMENTS, quick=False)
    assert len(found) == len(set(found))
    assert {block.task for name in experiments.PAPER for block in EXPERIMENTS[name]} == set(PAPER_TASKS)
    assert len(experiments.blocks(["figure2", "figure3"], quick=False)) == 2
    assert {block.runs for block in experiments.blocks(EXPERIMENTS, quick=True)} == {2}
    quick = experiments.blocks(["keras-models", "default-weights", "figure9"], quick=True)
    lengths = {(block.task, block.steps) for block in quick}
    assert {steps for task, steps in lengths if task.startswith("keras-")} == {200}
    assert {steps for task, steps in lengths if task == BASE.replace("sigmoid", "relu")} == {100, 1_000}
