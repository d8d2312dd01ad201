"""The estimator that a run's config asks for."""

from __future__ import annotations

import tensorflow as tf

from rnnprop_tf import pretrained
from trainer.config import MetaTrainConfig
from trainer.estimators.base import Estimator
from trainer.estimators.evolution import Evolution
from trainer.estimators.imitation import Imitation, LearnedTeacher
from trainer.estimators.replay import Replay
from trainer.estimators.tape import Tape


def estimator(config: MetaTrainConfig) -> Estimator:
    """Imitation where there is a teacher, evolution where there are pairs, else the meta-gradient, replayed
    or by a plain tape.

    Raises:
        ValueError: the teacher's weights cannot be read.
    """
    rule, alpha, objective = config.update_rule, config.alpha, config.objective
    if config.teacher:
        return Imitation(
            rule=rule,
            alpha=alpha,
            objective=objective,
            teacher=_teacher(config),
            warmup=config.teacher_warmup,
            sample=config.sample,
            teacher_share=config.teacher_share,
        )
    if config.evolution_pairs:
        return Evolution(
            rule=rule,
            alpha=alpha,
            objective=objective,
            pairs=config.evolution_pairs,
            deviation=config.evolution_deviation,
        )
    if config.plain_tape:
        return Tape(rule=rule, alpha=alpha, objective=objective)
    return Replay(rule=rule, alpha=alpha, objective=objective, sample=config.sample)


def _teacher(config: MetaTrainConfig) -> LearnedTeacher:
    found = pretrained.load(config.teacher)
    network = tf.nest.map_structure(tf.constant, found.network)
    return LearnedTeacher(
        rule=found.rule,
        network=network,
        scale=found.learning_rate / config.alpha,
        reads_pupil=found.rule == config.update_rule,
    )
