# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The backend: what it is, where it runs, how it loads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from genai_iface.capabilities import Capability
from genai_iface.errors import InvalidInputError
from genai_iface.folder import open_folder
from genai_iface.types import BackendInfo, Device
from genai_iface_numpy.evaluator import Evaluator
from genai_iface_numpy.model import NumpyModel

__all__ = ["NumpyBackend"]

_VERSION = "0.1.0"
_CPU = Device("cpu", "cpu", {"numpy": np.__version__})


class NumpyBackend:
    """The reference: readable, exact, the oracle of the others. Implements ``Backend``."""

    def info(self) -> BackendInfo:
        """What the backend is and can do."""
        return BackendInfo(
            name="numpy",
            version=_VERSION,
            runtime="onnx.reference",
            runtime_version=onnx.__version__,
            interface_versions=frozenset({1}),
            capabilities=frozenset(Capability) - {Capability.GENERATOR},
            dtypes=frozenset({"float32", "float16", "bfloat16", "int8"}),
        )

    def devices(self) -> Sequence[Device]:
        """The processor."""
        return [_CPU]

    def load(
        self,
        folder: str | PathLike[str],
        /,
        *,
        device: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> NumpyModel:
        """Loads a model folder. There are no options."""
        if device not in (None, _CPU.identifier):
            raise InvalidInputError(
                f"The numpy backend has no device {device!r}", remedy='Use "cpu", or another backend.'
            )
        if options:
            raise InvalidInputError(
                f"The numpy backend has no option {sorted(options)[0]!r}", remedy="It takes no options."
            )
        return NumpyModel(open_folder(folder), device=_CPU)

    def run_node(self, model: bytes, inputs: Mapping[str, NDArray[Any]], /) -> list[NDArray[Any]]:
        """Runs a serialized model of one node, for level 1 of the conformance kit."""
        graph = ir.from_proto(onnx.load_from_string(model))
        names = [str(output.name) for output in graph.graph.outputs]
        # TensorScatter writes in place.
        return Evaluator(graph, keep=names).run({name: array.copy() for name, array in inputs.items()}, names)
