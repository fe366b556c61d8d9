# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What every process of the sweep would do again before its first export, done once in the one they come from."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch.onnx._internal.exporter import _registration

import tools.sweep_decoders.case  # noqa: F401 - so that it is loaded
from genai_iface.build._families import tiny_model
from genai_iface.build.methods.export import export_standard

__all__ = ["warm_up"]


def warm_up() -> None:
    """Exports a tiny network, and lets the exporter keep its table of operators from one export to the next."""
    torch.set_num_threads(1)  # a process with threads cannot be copied
    table = _registration.ONNXRegistry.from_torchlib.__func__

    @functools.cache
    def kept(kind: Any, opset_version: int) -> Any:
        return table(kind, opset_version)

    def from_torchlib(kind: Any, opset_version: int = _registration._constants.TORCHLIB_OPSET) -> Any:
        return kept(kind, opset_version)

    _registration.ONNXRegistry.from_torchlib = classmethod(from_torchlib)
    export_standard(tiny_model("llama", attn_implementation="eager"))
