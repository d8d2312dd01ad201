"""RNNprop, a learned optimizer for Keras."""

from rnnprop_tf import environment

environment.warn_of_untested_versions()  # Before the imports that another version may break.

from rnnprop_tf.batch_norm import recalibrate_batch_norm
from rnnprop_tf.callbacks import OptimizerMonitor, update_statistics
from rnnprop_tf.loss_scale import LossScaleOptimizer
from rnnprop_tf.optimizer import DMOptimizer, RNNprop
from rnnprop_tf.pretrained import list_pretrained
from rnnprop_tf.profile import profile

__version__ = "0.2.0"
"""The only place of the version: the package's metadata take it from here."""

__all__ = [
    "DMOptimizer",
    "LossScaleOptimizer",
    "OptimizerMonitor",
    "RNNprop",
    "list_pretrained",
    "profile",
    "recalibrate_batch_norm",
    "update_statistics",
]
