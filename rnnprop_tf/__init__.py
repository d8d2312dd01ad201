"""RNNprop, a learned optimizer for Keras."""

from rnnprop_tf.optimizer import DMOptimizer, RNNprop
from rnnprop_tf.pretrained import list_pretrained

__all__ = ["DMOptimizer", "RNNprop", "list_pretrained"]
