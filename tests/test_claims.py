"""The paper's claims hold on runs as the paper has them, and on no others."""

import numpy as np
import pytest
from made_runs import add, change, paper_like_runs

from trainer.evaluation.results import TUNING_SEED, Results
from trainer.paper import claims, experiments, tables
from trainer.paper.experiments import DM, RNNPROP, TRADITIONAL


@pytest.fixture
def paper_like(tmp_path):
    return paper_like_runs(tmp_path)


def test_claims_hold_on_runs_as_the_paper_has_them(paper_like):
    for claim in claims.CLAIMS:
        assert claims.check(claim, paper_like).verdict == claims.HOLDS, (
            claim,
            claims.check(claim, paper_like),
        )


def test_no_claim_holds_on_runs_that_are_the_other_way_round(paper_like):
    """Each claim can fail: learned and traditional optimizers swapped, RNNprop and DMoptimizer too."""
    swap = {RNNPROP: "adam", "adam": RNNPROP, DM: "momentum", "momentum": DM}
    swap |= {experiments.NO_SCALING: RNNPROP, experiments.DM_TRICKS: DM}
    for k in experiments.TABLE_4_ITERATIONS:
        pair = (f"{RNNPROP}-{k}", f"{experiments.NO_CONVEX}-{k}")
        swap |= dict(zip(pair, reversed(pair), strict=True))
    paper_like.rows = [
        row._replace(optimizer=swap.get(row.optimizer, row.optimizer)) for row in paper_like.rows
    ]
    for claim in claims.CLAIMS:
        assert claims.check(claim, paper_like).verdict != claims.HOLDS, claim


def test_a_claim_without_its_runs_is_not_judged(tmp_path):
    for claim in claims.CLAIMS:
        assert claims.check(claim, Results(str(tmp_path))).verdict == "not run"


def verdicts(text, results):
    return {claims.check(claim, results).verdict for claim in claims.CLAIMS if text in claim.text}


def test_an_untrained_classifier_failed_whatever_the_best_one_has(paper_like):
    for task in experiments.CNNS[:3]:
        change(paper_like, task, DM, 2.3)
        for name in TRADITIONAL:
            change(paper_like, task, name, 1.6)
    assert verdicts("fails on all CNNs", paper_like) == {claims.HOLDS}
    change(paper_like, experiments.CNNS[0], DM, 2.2)
    assert verdicts("fails on all CNNs", paper_like) == {claims.IN_PART}


def test_a_tie_with_a_lower_loss_does_not_speak_for_rnnprop(paper_like):
    task = experiments.CNNS[1]
    rows = [row for row in paper_like.rows if (row.task, row.optimizer) == (task, RNNPROP)]
    paper_like.rows = [row for row in paper_like.rows if row not in rows]
    paper_like.rows += [row._replace(final_loss=2.3 if row.seed == 0 else 0.45) for row in rows]
    assert verdicts("only the best traditional", paper_like) == {claims.IN_PART}


def test_longer_runs_of_other_optimizees_are_to_be_near_the_best(paper_like):
    change(paper_like, experiments.OTHER_OPTIMIZEES[1], RNNPROP, 0.3)  # after 100 and 2,000 steps
    assert verdicts("longer horizons", paper_like) == {claims.IN_PART}


def test_adam_is_not_the_best_traditional_where_another_is(paper_like):
    change(paper_like, experiments.DEPTHS[3], "rmsprop", 0.3)
    assert verdicts("Adam is the best", paper_like) == {claims.IN_PART}


def test_a_diverged_rnnprop_is_not_left_out_of_a_claim(paper_like):
    change(paper_like, experiments.DEPTHS[3], RNNPROP, np.nan)
    assert verdicts("RNNprop wins at every depth", paper_like) == {claims.IN_PART}


def test_a_diverging_dmoptimizer_rises(paper_like):
    long = "mnist-nn-sigmoid-10000"
    curve = np.interp(np.arange(10_000), [0, 400, 10_000], [2.3, 0.3, 30.0])
    curve[5_000:] = np.nan
    paper_like.rows = [row for row in paper_like.rows if (row.task, row.optimizer) != (long, DM)]
    add(paper_like, long, DM, [np.nan], curves=curve[None])
    assert verdicts("loss rises after about 400", paper_like) == {claims.HOLDS}


def test_a_narrow_interval_elsewhere_is_not_the_paper_s(paper_like):
    paper_like.rows = [
        row._replace(learning_rate=row.learning_rate / 20) if row.seed >= TUNING_SEED else row
        for row in paper_like.rows
    ]
    assert verdicts("narrow interval", paper_like) == {claims.IN_PART}


def test_random_scaling_is_not_the_most_effective_where_the_rule_does_more(paper_like):
    change(paper_like, experiments.RELU, experiments.NO_SCALING, 0.25)
    assert verdicts("Random Scaling", paper_like) == {claims.IN_PART}


def test_the_paper_s_sine_lstms_are_comparable(paper_like):
    for task, printed in tables.PAPER_TABLE_3.items():
        for name in (*TRADITIONAL, RNNPROP):
            change(paper_like, task, name, printed.get(name, 1.0))
    assert verdicts("on the sine LSTMs", paper_like) == {claims.HOLDS}
