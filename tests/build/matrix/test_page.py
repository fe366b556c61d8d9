# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The report of the equivalence matrix, from rows that are made up."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from genai_iface.build.matrix.judge import Cell, Fault, fault_of
from genai_iface.build.matrix.run import Row
from tools.equivalence.page import page, write_report

NUMPY = Cell("numpy", "onnx.reference", "equal", compared=99, difference=1e-6)
ORT = replace(NUMPY, runtime="ort", engine="onnxruntime")
WRONG = {"verdict": "differs", "row": 1, "step": 3, "token": 5, "expected": 6, "margin": 0.1, "difference": 0.02}


def row(name: str, producer: str, *cells: Cell) -> Row:
    return Row(name, producer, form="scatter bnsh", cells=cells, fault=fault_of(cells))


ROWS = [
    row("llama", "build export", NUMPY, ORT),
    row("llama", "mobius", replace(NUMPY, **WRONG), replace(ORT, **WRONG)),
    row("mistral", "mobius", NUMPY, replace(ORT, **WRONG)),
    row("mistral", "build export", NUMPY, replace(ORT, verdict="refused", reason="no kernel for *x*")),
    Row("mistral", "genai builder", problem="KeyError: 'rope_type'", fault=Fault("producer", "")),
    Row("mistral", "convert genai", problem="there is no folder of 'genai builder': ...", fault=Fault("producer", "")),
]


def test_the_page_says_what_the_rows_say(tmp_path: Path) -> None:
    write_report(ROWS, {"onnx": "1.0"}, tmp_path)
    assert [Row.of(each) for each in json.loads((tmp_path / "equivalence.json").read_text())["rows"]] == ROWS
    text = (tmp_path / "equivalence.md").read_text(encoding="utf-8")
    assert text == page(ROWS, {"onnx": "1.0"})
    assert "2 families, 4 graphs, 7 cells that ran: 4 equal, 0 near ties, 3 with other tokens" in text
    table = {line.split(" | ")[0]: line for line in text.splitlines() if line.startswith("| ")}
    assert table["| llama"].startswith("| llama |  | 2 |")
    assert "| **producer** |" in table["| llama"]
    assert "| 1 **runtime** onnxruntime |" in table["| mistral"]
    assert "| 1 -1 |" in table["| mistral"]
    assert table["| build export"].startswith("| build export | 2 of 2 | 2 of 2 | 1 of 2 |")
    # One line for runtimes that are wrong in one way; a reason in which Markdown sees no signs.
    assert "    - numpy, ort: row 1, token 4: 5 instead of 6, logits 2e-02 away; torch's margin 1e-01" in text
    assert "- build export on ort: no kernel for \\*x\\* (mistral)" in text
    assert "- genai builder: KeyError: 'rope\\_type' (mistral)" in text
    assert "there is no folder" not in text
    assert "build eager (all)" in text
    assert "genai builder (llama)" in text
