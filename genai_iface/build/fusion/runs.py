# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What the checker and ONNX Runtime say to a graph, and how far it is from torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

__all__ = ["TOLERANCE", "Outcome", "outcome", "read_arrays"]

# Largest difference of logits from torch's, relative to the largest logit.
TOLERANCE = {"float32": 1e-4, "float16": 3e-2}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a graph.

    Attributes:
        checker: None, or what onnx.checker with shape inference rejects.
        runtime: None, or what stopped ONNX Runtime.
        error: Largest difference of the logits from torch's, relative to the largest logit; None if it did not run.
    """

    checker: str | None
    runtime: str | None
    error: float | None

    def agrees(self, dtype: str) -> bool:
        """Whether the graph is valid, runs, and gives torch's logits."""
        return self.checker is None and self.error is not None and self.error <= TOLERANCE[dtype]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def read_arrays(path: Any) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    """Inputs and torch's outputs of a case."""
    with np.load(path) as stored:
        inputs = {name.removeprefix("input."): stored[name] for name in stored.files if name.startswith("input.")}
        outputs = {name.removeprefix("output."): stored[name] for name in stored.files if name.startswith("output.")}
    return inputs, outputs


def outcome(model: ir.Model, inputs: Mapping[str, NDArray[Any]], logits: NDArray[Any]) -> Outcome:
    """Checks a graph and runs it.

    Args:
        model: The graph to check and run.
        inputs: What it takes, by name; names that it doesn't have are left out.
        logits: What torch gives.
    """
    import onnx

    proto = ir.to_proto(model)
    checker = None
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        checker = _line(error)
    try:
        got = _run(proto.SerializeToString(), inputs)
    except Exception as error:  # noqa: BLE001 - the runtime's error classes have no common base; each is a result
        return Outcome(checker, _line(error), None)
    scale = float(np.abs(logits).max())
    difference = np.abs(got.astype(np.float32) - logits)
    worst = float(difference.max()) if np.isfinite(difference).all() else float("inf")
    return Outcome(checker, None, float(f"{worst / scale:.2g}"))


def _run(model: bytes, inputs: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = {value.name for value in session.get_inputs()}
    result: NDArray[Any] = session.run(["logits"], {name: array for name, array in inputs.items() if name in names})[0]
    return result


def _line(error: BaseException) -> str:
    """A message in one line, without the build machine's paths."""
    words = [word for word in " ".join(str(error).split()).split(" ") if not word.startswith("/")]
    return " ".join(words)[:300]
