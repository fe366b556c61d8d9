# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The example notebook runs from top to bottom in a kernel of its own, and shows what it promises."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

NOTEBOOK = Path(__file__).parents[2] / "examples" / "09_notebook.ipynb"


@pytest.mark.parity
@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path) -> None:
    reason = "not installed; pip install '.[parity]'"
    nbformat: Any = pytest.importorskip("nbformat", reason=f"nbformat is {reason}")
    nbclient: Any = pytest.importorskip("nbclient", reason=f"nbclient is {reason}")
    pytest.importorskip("ipykernel", reason=f"ipykernel is {reason}")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    # In an empty folder, as whoever downloads it.
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    tables = [output.data["text/html"] for output in outputs if "text/html" in output.get("data", {})]
    for name in ("TextGenerationPipeline", "GenerationResult", "NumpyCache"):
        assert name in "".join(tables)
    printed = [output.text for output in outputs if output.output_type == "stream" and output.name == "stdout"]
    assert len("".join(printed).split()) > 5
    # The conversation's answer was printed as the last line of its cell.
    asked = next(cell for cell in notebook.cells if "chat.stream(" in cell.source)
    assert "Softmax" in "".join(output.text for output in asked.outputs if output.output_type == "stream")
    # The kernel's own way of redrawing left the last picture of the bar.
    long = next(cell for cell in notebook.cells if "A KV cache holds" in cell.source and cell.cell_type == "code")
    bars = [output.data for output in long.outputs if output.output_type == "display_data"]
    text = re.fullmatch(r"reading the prompt: tokens: (\d+) of (\d+)", bars[0]["text/plain"])
    assert text is not None
    done, total = text.groups()
    assert done == total
    assert f'<progress value="{total}" max="{total}">' in bars[0]["text/html"]
    # Warnings of libraries would be here.
    assert [output for output in outputs if output.output_type == "stream" and output.name == "stderr"] == []
    assert all(cell.get("outputs") == [] for cell in nbformat.read(NOTEBOOK, as_version=4).cells if "outputs" in cell)
