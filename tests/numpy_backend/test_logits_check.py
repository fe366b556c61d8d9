# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Logits that no token can be chosen from are an error that names the node where it begins."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from genai_iface import load_model
from genai_iface.errors import BackendError
from genai_iface_numpy.logits_check import fault_of
from tests.models import write_folder


def folder_with(path: Path, name: str, change: object) -> Path:
    """A model folder in which the numbers of one weight are replaced."""
    folder = write_folder(path)
    model = onnx.load(folder / "model.onnx")
    (tensor,) = [tensor for tensor in model.graph.initializer if tensor.name == name]
    array = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array(np.full_like(array, change), name))
    onnx.save(model, folder / "model.onnx")
    return folder


def norm_names(path: Path) -> list[str]:
    model = onnx.load(write_folder(path) / "model.onnx")
    return [node.input[1] for node in model.graph.node if node.op_type == "RMSNormalization"]


@pytest.mark.parametrize(("number", "fault"), [(np.nan, "not finite"), (np.inf, "not finite"), (0.0, "all equal")])
def test_the_node_is_named(tmp_path: Path, number: float, fault: str) -> None:
    scale = norm_names(tmp_path / "names")[-1]
    model = load_model(folder_with(tmp_path / "bad", scale, number))
    cache = model.create_cache(batch_size=2, capacity=8)
    with pytest.raises(BackendError, match=f"The logits are {fault}; it begins at the RMSNormalization node"):
        model.forward([[1, 2, 3], [4, 5, 6]], cache)
    assert cache.lengths.tolist() == [0, 0]


def test_only_what_was_asked_for_is_judged(tmp_path: Path) -> None:
    scale = norm_names(tmp_path / "names")[-1]
    model = load_model(folder_with(tmp_path / "bad", scale, np.nan))
    cache = model.create_cache(capacity=8)
    model.forward([[1, 2, 3]], cache, logits="none")
    assert cache.lengths.tolist() == [3]


@pytest.mark.parametrize(
    ("logits", "fault"),
    [
        ([[0.0, 1.0]], None),
        ([[-np.inf, 1.0]], None),
        ([[0.0, 1.0], [np.nan, 1.0]], "not finite"),
        ([[np.inf, 1.0]], "not finite"),
        ([[-np.inf, -np.inf]], "not finite"),
        ([[0.0, 1.0], [3.0, 3.0]], "all equal"),
        ([[5.0]], None),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_faults(logits: list[list[float]], fault: str | None, dtype: type[np.floating]) -> None:
    found = fault_of(np.array(logits, dtype))
    assert (found and str(found)) == fault
