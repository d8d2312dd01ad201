"""RNNprop, a learned optimizer for Keras."""

from rnnprop_tf.loss_scale import LossScaleOptimizer
from rnnprop_tf.optimizer import DMOptimizer, RNNprop
from rnnprop_tf.pretrained import list_pretrained
from rnnprop_tf.profile import profile

__all__ = ["DMOptimizer", "LossScaleOptimizer", "RNNprop", "list_pretrained", "profile"]
