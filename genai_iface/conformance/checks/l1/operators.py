# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Level 1: single operators. Optional: a runtime that shows no operators is not judged by it."""

from __future__ import annotations

import numpy as np

from genai_iface.conformance._context import Context
from genai_iface.conformance._failure import NotApplicable, close, equal, same_bits
from genai_iface.conformance._golden import operator_case
from genai_iface.conformance.registry import CheckFunction, check

__all__ = ["CASES"]

CASES = {
    "attention.rank4": "Attention on rank-4 inputs with grouped heads",
    "attention.rank3": "Attention on rank-3 inputs with grouped heads",
    "attention.head_dim_256": "Attention with head size 256",
    "attention.multi_query": "Attention with one key/value head",
    "attention.scale": "Attention with a scale of its own",
    "attention.softcap": "Attention with softcap",
    "attention.causal": "Attention, causal without past: query i sees keys up to i",
    "attention.causal_past": "Attention, causal with past_key and past_value: present is past and new",
    "attention.causal_nonpad": "Attention, causal with nonpad_kv_seqlen: bottom-right, offset nonpad - S",
    "attention.nonpad": "Attention with nonpad_kv_seqlen per row",
    "attention.mask_bool": "Attention with a boolean mask",
    "attention.mask_float": "Attention with an additive mask",
    "attention.mask_all_hidden": "Attention: a query that sees no key gives 0",
    "tensor_scatter.per_row_indices": "TensorScatter with an index per row",
    "tensor_scatter.default_axis": "TensorScatter on its default axis",
    "tensor_scatter.rank3": "TensorScatter on a rank-3 cache",
    "tensor_scatter.no_indices": "TensorScatter without write_indices writes at 0",
    "tensor_scatter.last_slots": "TensorScatter into the last positions",
    "tensor_scatter.circular": "TensorScatter that wraps around",
    "rotary_embedding.rank4": "RotaryEmbedding on rank 4",
    "rotary_embedding.rank3": "RotaryEmbedding on rank 3",
    "rotary_embedding.partial": "RotaryEmbedding of a part of each head",
    "rotary_embedding.interleaved": "RotaryEmbedding, interleaved",
    "rotary_embedding.no_position_ids": "RotaryEmbedding with tables per token",
    "rms_normalization.last_axis": "RMSNormalization over the last axis",
    "rms_normalization.two_axes": "RMSNormalization over two axes",
    "rms_normalization.epsilon": "RMSNormalization with a large epsilon",
}
"""Titles by case; the check of a case is "L1." and its name."""

_CORE = {
    "attention.rank4": "Every decoder of opset 24 is made of it.",
    "attention.causal": "Every decoder of opset 24 is made of it.",
    "rotary_embedding.rank4": "Every decoder of opset 24 is made of it.",
    "rms_normalization.last_axis": "Every decoder of opset 24 is made of it.",
}


def _runner(name: str) -> CheckFunction:
    def run(context: Context) -> None:
        operators = context.operators
        if operators is None:
            raise NotApplicable("neither adapter nor backend has run_node(): the runtime does not show its operators")
        if context.dtype != "float32":
            raise NotApplicable("the operator cases are in float32")
        case = operator_case(name, factor=context.factor)
        outputs = operators.run_node(case.model, case.inputs)
        equal(len(outputs), len(case.outputs), "the number of outputs")
        for index, (got, expected) in enumerate(zip(outputs, case.outputs, strict=True)):
            what = f"output {index} of {name}"
            if case.tolerance:
                close(got, expected, case.tolerance * float(np.abs(expected).max()), what)
            else:
                same_bits(np.asarray(got), expected, what)

    return run


for _name, _title in CASES.items():
    check(f"L1.{_name}", spec=["Operator.1"], title=_title, core=_CORE.get(_name, ""))(_runner(_name))
