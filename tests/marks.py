# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Marks, parameters and numbers of examples that several rooms of the tests share."""

from __future__ import annotations

from collections.abc import Container, Iterable
from importlib.util import find_spec

import pytest

needs_ort = pytest.mark.skipif(find_spec("onnxruntime") is None, reason="onnxruntime is not installed")

needs_toolbox = pytest.mark.skipif(
    find_spec("genai_iface.build") is None, reason="the toolbox (build, transform) is not part of this tree"
)

BACKENDS = ["numpy", pytest.param("ort", marks=needs_ort)]
"""For ``parametrize``: the backends that the README's test command installs."""


def slow_but(quick: Container[str], values: Iterable[str], /) -> list[object]:
    """For ``parametrize``: the values, all marked slow but those that are named."""
    return [value if value in quick else pytest.param(value, marks=pytest.mark.slow) for value in values]


def examples(many: int, few: int) -> int:
    """For Hypothesis: how many examples a property gets, many with pytest --slow, which .ci/run gives its file."""
    from hypothesis import settings

    return many if settings.get_current_profile_name() == "slow" else few
