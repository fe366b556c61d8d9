# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Adapters of the backends in this repository that show single operators too, for level 1.

genai-iface conformance tests.conformance.adapters:NumpyOperators
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from genai_iface.conformance import BackendAdapter


class NumpyOperators(BackendAdapter):
    """The NumPy backend and its evaluator."""

    def __init__(self) -> None:
        super().__init__("numpy")

    def run_node(self, model: bytes, inputs: Mapping[str, Any], /) -> list[np.ndarray]:
        from genai_iface_numpy.evaluator import Evaluator

        graph = ir.from_proto(onnx.load_from_string(model))
        names = [str(output.name) for output in graph.graph.outputs]
        # TensorScatter writes in place.
        return Evaluator(graph, keep=names).run({name: array.copy() for name, array in inputs.items()}, names)


class OrtOperators(BackendAdapter):
    """The ONNX Runtime backend and a plain session on the processor."""

    def __init__(self) -> None:
        super().__init__("ort")

    def run_node(self, model: bytes, inputs: Mapping[str, Any], /) -> list[np.ndarray]:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        return list(session.run(None, dict(inputs)))
