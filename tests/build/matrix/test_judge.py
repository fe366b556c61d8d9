# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The judge of the equivalence matrix, on cells that are made up."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from genai_iface.build.matrix.judge import Cell, StepSeen, cell_of, fault_of
from genai_iface.build.matrix.run import Row, read_rows

RIGHT = StepSeen(row=0, step=0, difference=1e-6, token=7, expected=7, margin=0.2)
NUMPY = Cell("numpy", "onnx.reference", "equal")
ORT = Cell("ort", "onnxruntime", "equal")
NODE = Cell("onnxruntime-node", "onnxruntime", "equal")
OPENVINO = Cell("openvino", "openvino", "equal")


def wrong(cell: Cell, **more: object) -> Cell:
    where = {"row": 1, "step": 3, "token": 5, "expected": 6, "margin": 0.1, "difference": 0.02}
    return replace(cell, verdict="differs", **{**where, **more})


def broken(cell: Cell) -> Cell:
    return replace(cell, verdict="refused", reason="no kernel")


@pytest.mark.parametrize(
    ("steps", "verdict", "place"),
    [
        ([RIGHT, replace(RIGHT, row=1)], "equal", (None, None)),
        # Logits that are no numbers are not right because argmax happens to give the token.
        ([RIGHT, replace(RIGHT, step=1, difference=float("nan"))], "inexact", (0, 1)),
        # Another token, and rounding cannot explain it.
        ([RIGHT, replace(RIGHT, step=2, token=3)], "differs", (0, 2)),
        ([RIGHT, replace(RIGHT, step=2, token=3, difference=0.3)], "differs", (0, 2)),
        # Rounding can: twice the difference reaches the margin, and the difference is legal.
        ([RIGHT, replace(RIGHT, step=2, token=3, difference=6e-5, margin=1e-4)], "near tie", (0, 2)),
        # The margin is small, but so large a difference is no rounding.
        ([RIGHT, replace(RIGHT, step=2, token=3, difference=2e-4, margin=1e-4)], "differs", (0, 2)),
        # A near tie does not hide what comes later.
        (
            [
                replace(RIGHT, step=1, token=3, difference=6e-5, margin=1e-4),
                replace(RIGHT, step=4, row=2, token=3),
            ],
            "differs",
            (2, 4),
        ),
        # Torch's tokens with other logits.
        ([RIGHT, replace(RIGHT, row=2, step=5, difference=3e-4)], "inexact", (2, 5)),
        ([replace(RIGHT, difference=float("inf"))], "inexact", (0, 0)),
        # No logits are shown: only the margin tells.
        ([replace(RIGHT, difference=None, token=3, margin=1e-4)], "near tie", (0, 0)),
        ([replace(RIGHT, difference=None, token=3, margin=1e-2)], "differs", (0, 0)),
        ([replace(RIGHT, difference=None)], "equal", (None, None)),
    ],
)
def test_a_cell_says_where_it_leaves_torch(
    steps: list[StepSeen], verdict: str, place: tuple[int | None, int | None]
) -> None:
    cell = cell_of("ort", "onnxruntime", reversed(steps))
    assert (cell.verdict, (cell.row, cell.step)) == (verdict, place)
    assert cell.compared == len(steps)


def test_the_difference_of_a_cell_is_that_up_to_the_first_other_token() -> None:
    later = replace(RIGHT, step=9, difference=0.9, token=1)
    cell = cell_of("ort", "onnxruntime", [RIGHT, later, replace(RIGHT, step=4, difference=0.3, token=2)])
    assert (cell.step, cell.difference) == (4, 0.3)
    lost = cell_of("ort", "onnxruntime", [replace(RIGHT, difference=float("inf"))])
    assert (lost.difference, lost.reason) == (None, "logits that are no numbers")
    json.dumps(lost.as_dict(), allow_nan=False)


@pytest.mark.parametrize(
    ("cells", "who", "said"),
    [
        ([NUMPY, ORT, OPENVINO], "nobody", ""),
        ([NUMPY, replace(ORT, verdict="near tie")], "nobody", "rounding decides between two tokens on ort"),
        # Different everywhere, in one way.
        ([wrong(NUMPY), wrong(ORT), wrong(OPENVINO, difference=0.0201)], "producer", "numpy, ort and openvino"),
        ([wrong(NUMPY), wrong(ORT, token=4)], "open", "in different ways"),
        ([wrong(NUMPY), wrong(ORT, difference=0.5)], "open", "in different ways"),
        # Two runtimes of one engine are one witness, on either side.
        ([wrong(ORT), wrong(NODE)], "open", "no other engine"),
        ([NUMPY, wrong(ORT), wrong(NODE)], "runtime", "wrong on ort and onnxruntime-node only"),
        ([NUMPY, ORT, wrong(OPENVINO)], "runtime", "wrong on openvino only"),
        ([wrong(NUMPY), ORT, wrong(OPENVINO)], "open", "wrong on numpy and openvino, right on ort"),
        # One build of an engine is wrong where another is right: it is that runtime.
        ([ORT, wrong(NODE)], "runtime", "wrong on onnxruntime-node only"),
        ([broken(NUMPY), broken(ORT)], "producer", "runs on no runtime: numpy: no kernel; ort: no kernel"),
        ([broken(ORT), broken(NODE)], "open", "only engine"),
        ([NUMPY, broken(OPENVINO)], "runtime", "does not run on openvino"),
        # What does not run says nothing about what is wrong.
        ([wrong(NUMPY), wrong(ORT), broken(OPENVINO)], "producer", "the same wrong result"),
        ([replace(ORT, verdict="not applicable")], "open", "no runtime takes this form"),
        ([replace(ORT, verdict="not applicable"), NUMPY], "nobody", ""),
    ],
)
def test_whose_fault_a_row_is(cells: list[Cell], who: str, said: str) -> None:
    fault = fault_of(cells)
    assert fault.who == who
    assert said in fault.reason
    assert bool(said) == bool(fault.reason)


def test_rows_are_read_again_and_a_line_that_was_cut_off_is_not(tmp_path: Path) -> None:
    row = Row("llama", "mobius", form="concat bnsh", cells=(wrong(ORT), NUMPY), fault=fault_of([wrong(ORT), NUMPY]))
    newer = replace(row, producer="build export", seconds=3.0)
    lines = [json.dumps(each.as_dict()) for each in (row, replace(newer, seconds=1.0), newer)]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines) + "\n" + lines[0][:40], encoding="utf-8")
    assert read_rows(tmp_path / "rows.jsonl") == {("llama", "mobius"): row, ("llama", "build export"): newer}
    assert read_rows(tmp_path / "none.jsonl") == {}
