# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The page of parameters names every field of the configuration, with what the code says of it."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path
from typing import Any

import pytest

from genai_iface import GenerationConfig
from genai_iface.config import ALIASES, legal_values

DOCS = Path(__file__).parents[2] / "docs"
FIELDS = [field.name for field in dataclasses.fields(GenerationConfig)]


@pytest.fixture(scope="module")
def table() -> Any:
    pytest.importorskip("mkdocs", reason="mkdocs is not installed; pip install '.[docs]'")
    spec = importlib.util.spec_from_file_location("parameter_table", DOCS / "parameter_table.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_field_is_in_one_group_and_described(table: Any) -> None:
    grouped = [name for names in table.GROUPS.values() for name in names]
    assert sorted(grouped) == sorted(FIELDS)
    assert sorted(table.descriptions()) == sorted(FIELDS)
    assert all(meaning.endswith(".") for meaning in table.descriptions().values())
    assert set(table.ELSEWHERE) <= set(FIELDS)


def test_the_page_has_a_row_for_each_field_and_no_marker_left(table: Any) -> None:
    page = (DOCS / "parameters.md").read_text(encoding="utf-8")
    rendered = table.on_page_markdown(page, None, None, None)
    assert "<!-- parameters" not in rendered
    rows = [line for line in rendered.splitlines() if line.startswith("| `")]
    for name in FIELDS:
        (row,) = [row for row in rows if row.startswith(f"| `{name}` |")]
        assert legal_values(name) in row
        assert row.count(" | ") == 4
    for alias, name in ALIASES.items():
        (row,) = [row for row in rows if row.startswith(f"| `{name}` |")]
        assert f"`{alias}`" in row
