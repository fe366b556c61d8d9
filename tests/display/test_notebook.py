# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The example notebook runs from top to bottom in a kernel of its own, and shows what it promises."""

from __future__ import annotations

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
    # Warnings of libraries would be here.
    assert [output for output in outputs if output.output_type == "stream" and output.name == "stderr"] == []
    assert all(cell.get("outputs") == [] for cell in nbformat.read(NOTEBOOK, as_version=4).cells if "outputs" in cell)
