"""What differs by the backend that Keras runs on: one module each, with the same names."""

import keras

from rnnprop_tf import environment

if keras.backend.backend() == "tensorflow":
    from rnnprop_tf.backends.tensorflow import BackendOptimizer, forward, repeated_step, temporary_bytes
elif keras.backend.backend() == "jax":
    from rnnprop_tf.backends.jax import BackendOptimizer, forward, repeated_step, temporary_bytes  # type: ignore
elif keras.backend.backend() == "torch":
    from rnnprop_tf.backends.torch import BackendOptimizer, forward, repeated_step, temporary_bytes  # type: ignore
else:
    environment.check()  # Refuses it.

__all__ = ["BackendOptimizer", "forward", "repeated_step", "temporary_bytes"]
