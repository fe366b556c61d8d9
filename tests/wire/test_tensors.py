# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Tensors in safetensors files, and tensors that lie about themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genai_iface.conformance.wire import decode_tensor, encode_tensor


def test_a_tensor_of_a_file(tmp_path: Path) -> None:
    numpy_files = pytest.importorskip("safetensors.numpy")
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array([-1], np.int64)}
    numpy_files.save_file(arrays, tmp_path / "x.safetensors")
    for name, array in arrays.items():
        assert np.array_equal(decode_tensor({"file": "x.safetensors", "name": name}, tmp_path), array)
    (tmp_path / "inner").mkdir()
    for file, name in (("x.safetensors", "c"), ("y.safetensors", "a"), ("../x.safetensors", "a")):
        with pytest.raises(ValueError, match=r"cannot be read|is not in the folder"):
            decode_tensor({"file": file, "name": name}, tmp_path / "inner" if ".." in file else tmp_path)
    with pytest.raises(ValueError, match="no folder"):
        decode_tensor({"file": "x.safetensors", "name": "a"})


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [3]},
        {"shape": [-2]},
        {"shape": ["2"]},
        {"dtype": "object"},
        {"dtype": "O"},
        {"data": "?"},
        {"data": 3},
    ],
    ids=str,
)
def test_lies_are_noticed(change: dict[str, Any]) -> None:
    good = encode_tensor(np.zeros(2, np.float32))
    assert decode_tensor(good).tolist() == [0, 0]
    with pytest.raises(ValueError):
        decode_tensor(good | change)


def test_what_has_no_form() -> None:
    for array in (np.array(["a"]), np.array([None]), np.array([1j])):
        with pytest.raises(TypeError, match="no form"):
            encode_tensor(array)
