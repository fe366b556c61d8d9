# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Blocks and tokenizers of GGUF files that people publish."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tools.real_models.packages import find

gguf = pytest.importorskip("gguf")
pytest.importorskip("tokenizers")
pytestmark = pytest.mark.real


def model(name: str) -> Path:
    path = find(name)
    if path is None:
        pytest.skip(f"python -m tools.real_models {name} fetches it")
    return path


@pytest.mark.parametrize("name", ["smollm2", "gemma3"])
def test_blocks_are_exact_or_near(name: str) -> None:
    from genai_iface.build.gguf import blocks, check_whole

    path = model(name)
    check_whole(path)
    seen: dict[str, int] = {}
    for tensor in gguf.GGUFReader(path).tensors:
        kind = tensor.tensor_type
        seen[kind.name] = seen.get(kind.name, 0) + 1
        if seen[kind.name] > 2 or kind not in {**blocks.EXACT, **blocks.AFFINE}:
            continue
        data = tensor.data[:2048]
        values = gguf.dequantize(data, kind)
        is_exact = kind in blocks.EXACT
        parts = (blocks.own_parts if is_exact else blocks.nearest_bytes)(data, kind, tensor.name)
        repeat = values.shape[1] // parts.scales.shape[1]
        points = 0 if parts.zero_points is None else parts.zero_points.astype(np.float32).repeat(repeat, axis=1)
        found = (parts.integers - points) * parts.scales.repeat(repeat, axis=1)
        if is_exact:
            assert np.array_equal(found.astype(np.float32), values), tensor.name
        else:
            assert np.square(found - values).sum() < 0.0025**2 * np.square(values).sum(), tensor.name
    assert {"smollm2": {"Q8_0", "Q4_1"}, "gemma3": {"Q5_0", "Q8_0", "Q6_K", "Q4_K"}}[name] <= set(seen)


def test_smollm2_splits_digits() -> None:
    from genai_iface.build.gguf import split_rule
    from genai_iface.build.gguf.pre_tokenizers import KNOWN

    assert split_rule(model("smollm2")) == KNOWN["smollm"]
    assert split_rule(model("gemma3")) is None  # sentence pieces
