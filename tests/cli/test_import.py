# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""``genai-iface --help`` is quick: the command line loads no library before a command runs."""

from __future__ import annotations

import pytest

from tests.marks import needs_toolbox
from tests.test_import import loads_no_library


@pytest.mark.parametrize("module", ["genai_iface.cli.main", pytest.param("genai_iface.build", marks=needs_toolbox)])
def test_importing_loads_no_runtime_and_no_library(module: str) -> None:
    assert loads_no_library(module)
