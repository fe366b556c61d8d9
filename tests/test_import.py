# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""``import genai_iface`` is light: no runtime, no parser, no event loop, and quick."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = [
    "asyncio",
    "genai_iface.folder",
    "genai_iface_numpy",
    "genai_iface_ort",
    "jinja2",
    "ml_dtypes",
    "onnx",
    "onnx_ir",
    "onnxruntime",
    "openvino",
    "rich",
    "tokenizers",
    "torch",
    "transformers",
]


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], check=True, capture_output=True, text=True)


@pytest.mark.parametrize("module", ["genai_iface", "genai_iface.generation", "genai_iface.cli.main"])
def test_importing_loads_no_runtime_and_no_library(module: str) -> None:
    # asyncio may be there before: another distribution's .pth file can import it at start-up.
    code = f"import sys; before = set(sys.modules); import {module}; print(*sorted(set(sys.modules) - before))"
    loaded = set(python("-c", code).stdout.split())
    assert module in loaded
    assert loaded.isdisjoint(HEAVY)


def test_third_party_modules_are_numpy_and_typing_extensions_only() -> None:
    code = """
import sys, numpy
before = set(sys.modules)
import genai_iface
names = {name.partition(".")[0] for name in set(sys.modules) - before}
print(*sorted(names - set(sys.stdlib_module_names)))
"""
    assert set(python("-c", code).stdout.split()) <= {"genai_iface", "numpy", "typing_extensions"}


def test_importing_takes_under_100_ms_beyond_numpy() -> None:
    code = """
import numpy, time
start = time.process_time()
import genai_iface
print(1000 * (time.process_time() - start))
"""
    # Processor time, and the best of several: what else the machine does must not count.
    assert min(float(python("-c", code).stdout) for _ in range(5)) < 100
