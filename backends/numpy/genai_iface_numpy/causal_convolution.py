# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""CausalConvWithState-27 on NumPy: each channel's own short filter over its last inputs.

With a kernel of K columns, output s sees the inputs s - K + 1 .. s. Those before the step are the state, (B, C, K - 1);
what the last K - 1 are after it, is the new one. The filter is computed in float32 and rounded once, the state is
moved and not computed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from onnx.reference.op_run import OpRun

__all__ = ["CausalConvWithState"]

_Array = NDArray[Any]


class CausalConvWithState(OpRun):
    """The operator for ``onnx.reference``."""

    def _run(
        self,
        inputs: _Array,
        weight: _Array,
        bias: _Array | None = None,
        past_state: _Array | None = None,
        *,
        activation: str | None = None,
    ) -> tuple[_Array, _Array]:
        if activation not in (None, "", "none", "silu", "swish"):
            raise ValueError(f"activation is {activation!r}, expected none, silu or swish")
        kernel = weight.shape[-1]
        shape = (*inputs.shape[:2], kernel - 1)
        past = np.zeros(shape, inputs.dtype) if past_state is None else past_state
        if past.shape != shape or weight.shape != (inputs.shape[1], 1, kernel):
            raise ValueError(
                f"input {inputs.shape}, weight {weight.shape} and past_state {past.shape} do not fit together"
            )
        joined = np.concatenate((past, inputs), axis=2)
        windows = sliding_window_view(joined.astype(np.float32), kernel, axis=2)
        output = np.einsum("bcsk,ck->bcs", windows, weight[:, 0].astype(np.float32))
        if bias is not None:
            output += bias.astype(np.float32)[:, None]
        if activation in ("silu", "swish"):
            output = output / (1 + np.exp(-output))
        return output.astype(inputs.dtype), joined[:, :, inputs.shape[2] :].copy()
