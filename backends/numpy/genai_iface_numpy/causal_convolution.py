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

__all__ = ["CausalConvWithState", "ContribCausalConvWithState"]

_Array = NDArray[Any]

_PLAIN = {
    "dilation": (0, 1),
    "ndim": (0, 1),
    "channels_last": (0,),
    "state_update_capacity": (0,),
    "state_channels_last": (0,),
    "state_window": (0,),
    "state_length": (0,),
    "input_channel_offset": (0,),
    "input_channels": (0,),
}


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


class ContribCausalConvWithState(CausalConvWithState):
    """The operator of ONNX Runtime, as far as it is the standard one."""

    op_domain = "com.microsoft"

    def _run(self, *inputs: _Array | None, activation: str | None = None, **others: Any) -> tuple[_Array, _Array]:
        for name, value in others.items():
            if value is not None and value not in _PLAIN[name]:
                raise ValueError(f"{name}={value} is not what CausalConvWithState of the standard does")
        return super()._run(*inputs, activation=activation)
