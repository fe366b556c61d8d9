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


@pytest.mark.parametrize("module", ["genai_iface", "genai_iface.generation"])
def test_importing_loads_no_runtime_and_no_library(module: str) -> None:
    assert loads_no_library(module)


def loads_no_library(module: str) -> bool:
    # asyncio may be there before: another distribution's .pth file can import it at start-up.
    code = f"import sys; before = set(sys.modules); import {module}; print(*sorted(set(sys.modules) - before))"
    loaded = set(python("-c", code).stdout.split())
    assert module in loaded
    return loaded.isdisjoint(HEAVY)


def test_third_party_modules_are_numpy_and_typing_extensions_only() -> None:
    code = """
import sys, numpy
before = set(sys.modules)
import genai_iface
names = {name.partition(".")[0] for name in set(sys.modules) - before}
print(*sorted(names - set(sys.stdlib_module_names)))
"""
    assert set(python("-c", code).stdout.split()) <= {"genai_iface", "numpy", "typing_extensions"}


def test_what_takes_time_is_loaded_when_it_is_used() -> None:
    """How long the import takes is measured by benchmarks.import_time; this holds what keeps it short."""
    code = """
import sys, numpy
before = set(sys.modules)
import genai_iface
print(*sorted(set(sys.modules) - before))
"""
    loaded = set(python("-c", code).stdout.split())
    assert "genai_iface.protocols" in loaded
    assert loaded.isdisjoint(
        {"genai_iface.pipeline", "genai_iface.generation", "importlib.metadata", "hashlib", "shutil"}
    )
    assert len(loaded) <= 40


def test_the_pipeline_is_a_name_of_the_package() -> None:
    code = "import genai_iface; assert 'TextGenerationPipeline' in dir(genai_iface); genai_iface.TextGenerationPipeline"
    python("-c", code)
    with pytest.raises(subprocess.CalledProcessError):
        python("-c", "from genai_iface import NoSuchName")
