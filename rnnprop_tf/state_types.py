"""How the LSTM's state is stored between steps; a step computes with it in float32.

- `"float32"`: as it is.
- `"bfloat16"`: rounded to the nearest number, to the even one between two.
- `"int8"`: h, which is in (-1, 1), in steps of 1 / 127; c as c / (1 + |c|) in steps of 1 / 128, which keeps
  small ones apart and has codes up to 127. NaN has none; the running means, which are float32, keep it.

What was stored and is not changed comes back bit for bit, as sleeping coordinates need. The running means
stay float32: one that forgets a thousandth a step would never move in the 8 bits of a bfloat16.
"""

from __future__ import annotations

from keras import ops
from keras.backend import standardize_dtype

from rnnprop_tf.network import LSTMState, Tensor

STATE_DTYPES = ("float32", "bfloat16", "int8")


def exact(lstm: tuple[LSTMState, ...], dtype: str) -> tuple[LSTMState, ...]:
    """The state to compute with.

    Args:
        lstm: as it is stored.
        dtype: `"float32"`, or a wider type.
    """
    return tuple(LSTMState(_exact_h(h, dtype), _exact_c(c, dtype)) for h, c in lstm)


def stored(lstm: tuple[LSTMState, ...], like: tuple[LSTMState, ...]) -> tuple[LSTMState, ...]:
    """The inverse of `exact`.

    Args:
        lstm: a state that was computed.
        like: one that is stored, for its types.
    """
    return tuple(
        LSTMState(_stored_h(new.h, _type(old.h)), _stored_c(new.c, _type(old.c)))
        for new, old in zip(lstm, like, strict=True)
    )


def converted(value: Tensor, part: str, dtype: str) -> Tensor:
    """One tensor of a stored state as it is in another type.

    Args:
        value: as it is stored.
        part: which it is, `"h"` or `"c"`.
        dtype: the other type.
    """
    exact_part, stored_part = {"h": (_exact_h, _stored_h), "c": (_exact_c, _stored_c)}[part]
    return stored_part(exact_part(value, "float32"), dtype)


def as_bits(tensor: Tensor) -> Tensor:
    """bfloat16 as uint16, other types as they are; `exact` and `stored` take either.

    On a CPU XLA makes float32 of bfloat16 for nearly every operation. So a loop that writes part of the state
    converts all of it in each turn: 3,113 nanoseconds a coordinate in place of 307.
    """
    return ops.view(tensor, "uint16") if _type(tensor) == "bfloat16" else tensor


def from_bits(tensor: Tensor, dtype: str) -> Tensor:
    """The inverse of `as_bits`, for a tensor that was of this type."""
    return tensor if _type(tensor) == standardize_dtype(dtype) else ops.view(tensor, dtype)


def _exact_h(h: Tensor, dtype: str) -> Tensor:
    return ops.cast(h, dtype) / 127.0 if _type(h) == "int8" else _widened(h, dtype)


def _stored_h(h: Tensor, dtype: str) -> Tensor:
    return ops.cast(ops.round(127.0 * h), dtype) if dtype == "int8" else _narrowed(h, dtype)


def _exact_c(c: Tensor, dtype: str) -> Tensor:
    if _type(c) != "int8":
        return _widened(c, dtype)
    code = ops.cast(c, dtype)
    return code / (128.0 - ops.abs(code))


def _stored_c(c: Tensor, dtype: str) -> Tensor:
    if dtype != "int8":
        return _narrowed(c, dtype)
    code = ops.round(128.0 * c / (1.0 + ops.abs(c)))
    return ops.cast(ops.clip(code, -127.0, 127.0), dtype)


def _widened(tensor: Tensor, dtype: str) -> Tensor:
    """`ops.cast`, of bfloat16's bits too."""
    if _type(tensor) != "uint16":
        return ops.cast(tensor, dtype)
    return ops.cast(ops.view(ops.left_shift(ops.cast(tensor, "uint32"), _bits(16)), "float32"), dtype)


def _narrowed(tensor: Tensor, dtype: str) -> Tensor:
    """The inverse of `_widened`, rounded to the nearest number, to the even one between two; NaN stays."""
    if dtype != "uint16":
        return ops.cast(tensor, dtype)
    bits = ops.view(ops.cast(tensor, "float32"), "uint32")
    odd = ops.bitwise_and(ops.right_shift(bits, _bits(16)), _bits(1))
    rounded = ops.right_shift(bits + odd + _bits(0x7FFF), _bits(16))
    return ops.cast(ops.where(ops.isnan(tensor), _bits(0x7FC0), rounded), "uint16")


def _type(tensor: Tensor) -> str:
    return standardize_dtype(tensor.dtype)


def _bits(number: int) -> Tensor:
    return ops.convert_to_tensor(number, "uint32")
