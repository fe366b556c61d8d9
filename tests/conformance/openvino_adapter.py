# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The tutorial's runtime with single operators, for level 1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import openvino

from examples.new_runtime.openvino_runtime import OpenVinoAdapter


class OpenVinoOperators(OpenVinoAdapter):
    """OpenVINO on single nodes."""

    def run_node(self, model: bytes, inputs: Mapping[str, Any], /) -> list[np.ndarray]:
        core = openvino.Core()
        network = core.compile_model(core.read_model(model), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        results = network.create_infer_request().infer(dict(inputs))
        return [results[output].copy() for output in network.outputs]
