# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The C++ header is what the protocols say, compiles under C++17, and can be implemented."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tools.cpp_headers import PROTOCOLS, header
from tools.spec.clauses import methods

ROOT = Path(__file__).parents[2]


def test_the_header_in_the_documents_is_the_one_that_the_protocols_give() -> None:
    written = (ROOT / "docs" / "rfc" / "interface.hpp").read_text(encoding="utf-8")
    assert written == header(), "run: python -m tools.cpp_headers docs/rfc/interface.hpp"


def test_every_clause_and_every_member_is_in_it() -> None:
    # Comments are wrapped, so white space says nothing.
    text = " ".join(header().replace("///", " ").split())
    for name, method in methods().items():
        if method.protocol not in PROTOCOLS:
            continue
        assert f" {method.name}(" in text, name
        for number, clause in enumerate(method.contract, start=1):
            assert f"{name}.{number}: {' '.join(clause.split())}" in text


@pytest.mark.slow
def test_a_stub_compiles_against_it_and_runs(tmp_path: Path) -> None:
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler is installed; apt-get install g++")
    (tmp_path / "interface.hpp").write_text(header(), encoding="utf-8")
    source = Path(__file__).with_name("cpp_header_stub.cpp")
    options = ["-std=c++17", "-pedantic", "-Wall", "-Wextra", "-Werror", f"-I{tmp_path}"]
    subprocess.run([compiler, *options, "-o", str(tmp_path / "stub"), str(source)], check=True)
    done = subprocess.run([str(tmp_path / "stub")], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["3 1", "The row is full 3", "5 6 7 8 "]
