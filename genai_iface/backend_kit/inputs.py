# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The values of a graph's inputs for one run, apart from the cache tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from genai_iface.backend_kit._planning import GraphRun, RunRules
from genai_iface.backend_kit.arguments import Step

if TYPE_CHECKING:
    from genai_iface.graph import GraphSignature, InputRole

__all__ = ["GraphInputs"]

_Int64 = NDArray[np.int64]


class GraphInputs:
    """Gives token ids, positions, write indices, valid lengths and masks, by what the signature asks for.

    Args:
        signature: Which input is what.
        context_length: The most tokens of a row, or None. Positions of padding stay below it.
    """

    def __init__(self, signature: GraphSignature, /, *, context_length: int | None) -> None:
        self._signature = signature
        self._context_length = context_length
        windows = {layer.capacity if layer.mode == "circular" else None for layer in signature.cache.layers}
        # With linear layers beside them, the graph itself must bound the valid length of circular ones.
        self._valid_limit = next(iter(windows)) if len(windows) == 1 else None
        self._smallest_window = min((window for window in windows if window is not None), default=None)

    @property
    def rules(self) -> RunRules:
        """What a run of this graph takes, by its signature; a runtime puts its own limits in with ``replace``."""
        # Only where positions are an input, and the only source of positions, can padding's be moved out of harm's way.
        moves_padding = "position_ids" in self._signature.inputs and self._signature.cache.style != "shared"
        return RunRules(
            window=self._smallest_window,
            max_positions=None if moves_padding else self._context_length,
            one_token=self._signature.one_token,
        )

    def valid_lengths(self, run: GraphRun[Any], /) -> _Int64:
        """The tokens that each row's buffer holds after the write, padding included: int64 (rows,)."""
        if self._signature.cache.style == "shared" and not run.starts.any():
            # A prompt: GroupQueryAttention takes its padding as such, if the total is the width.
            return np.maximum(run.counts, 1)
        return self._limited(run.starts + run.width)

    def by_role(
        self,
        step: Step,
        run: GraphRun[Any],
        /,
        *,
        valid: _Int64 | None = None,
        total: int | None = None,
        mask_width: int | None = None,
    ) -> dict[InputRole, NDArray[Any]]:
        """The values by role, for the roles that the graph has; integers are int64, a mask is bool.

        Args:
            step: The step as the caller asked for it, checked.
            run: The rows and columns of the step that this run computes.
            valid: int64 (rows,), in place of ``valid_lengths``.
            total: The value of total_sequence_length; None for the most that a row holds after the write.
            mask_width: Columns of attention_mask, for graphs that want one per position of their buffers; None for as
                many as the longest row holds.
        """
        valid = self.valid_lengths(run) if valid is None else self._limited(valid)
        values: dict[InputRole, NDArray[Any]] = {}
        for role in self._signature.inputs:
            if role == "input_ids":
                values[role] = step.input_ids[run.rows, run.columns]
            elif role == "position_ids":
                positions = run.starts[:, None] + np.arange(run.width)
                limit = self._context_length
                values[role] = positions if limit is None else np.minimum(positions, limit - 1)
            elif role == "write_indices":
                values[role] = run.starts
            elif role == "nonpad_kv_seqlen":
                values[role] = valid
            elif role == "seqlens_k":
                values[role] = valid - 1
            elif role == "total_sequence_length":
                values[role] = np.array(max(run.width, int(valid.max())) if total is None else total)
            else:
                width = int(valid.max()) if mask_width is None else mask_width
                values[role] = np.arange(width) < valid[:, None]
        return values

    def feeds(self, step: Step, run: GraphRun[Any], /, *, mask_width: int | None = None) -> dict[str, NDArray[Any]]:
        """The values by the names of the graph's inputs, in their element types. Arguments as ``by_role``."""
        signature = self._signature
        return {
            signature.inputs[role]: values.astype(signature.input_dtypes[role], copy=False)
            for role, values in self.by_role(step, run, mask_width=mask_width).items()
        }

    def _limited(self, valid: _Int64) -> _Int64:
        return valid if self._valid_limit is None else np.minimum(valid, self._valid_limit)
