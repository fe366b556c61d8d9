# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The example on states runs as a reader would run it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.marks import BACKENDS
from tests.states.models import write_state_folder
from tests.test_examples import EXAMPLES, run


@pytest.mark.parametrize("backend", BACKENDS)
def test_states(tmp_path: Path, backend: str) -> None:
    folder = write_state_folder(tmp_path / "model", ("gated_delta", "attention"))
    lines = run(EXAMPLES / "07_states.py", folder, backend).splitlines()
    assert [line.split()[2] for line in lines[:2]] == ["conv", "recurrent"]
    assert re.fullmatch(r"[1-9]\d* bytes for each row, however long it is", lines[2])
    assert lines[3] == "lengths [11, 9]"
    assert lines[4].startswith("refused: ")
    assert lines[5] == "lengths [5, 3], the same again: True"
