"""RNNprop, a learned optimizer for Keras."""
