# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Makes the pictures of the specification, and the numbers of its worked example, from real runs.

    python -m tools.spec.pictures  # writes docs/spec/pictures/*.svg and docs/spec/worked-example.json

Making them again gives the same bytes; a test compares.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from tools.spec.cache_states import draw_states
from tools.spec.clauses import SPEC
from tools.spec.example_pictures import draw_event, draw_sight
from tools.spec.state_example import tell as tell_states
from tools.spec.state_pictures import PICTURES, draw_call
from tools.spec.tables import NUMBERS
from tools.spec.worked_example import PAD, STORIES, as_plain, tell

__all__ = ["FOLDER", "make", "sight"]

FOLDER = SPEC / "pictures"


def sight(num_positions: int, width: int, nonpad: int) -> list[list[bool]]:
    """Which of ``num_positions`` keys each of ``width`` queries sees, as ``onnx.reference`` computes Attention.

    Equal scores give every key that is seen the same weight, and one-hot values show which they are.
    """
    kinds = {"q": TensorProto.FLOAT, "k": TensorProto.FLOAT, "v": TensorProto.FLOAT, "n": TensorProto.INT64}
    graph = helper.make_graph(
        [helper.make_node("Attention", ["q", "k", "v", "", "", "", "n"], ["y"], is_causal=1)],
        "sight",
        [helper.make_tensor_value_info(name, kind, None) for name, kind in kinds.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)])
    feeds = {
        "q": np.zeros((1, 1, width, 4), np.float32),
        "k": np.zeros((1, 1, num_positions, 4), np.float32),
        "v": np.eye(num_positions, dtype=np.float32)[None, None],
        "n": np.array([nonpad], np.int64),
    }
    (seen,) = ReferenceEvaluator(model).run(None, feeds)
    return [[bool(weight) for weight in row] for row in np.asarray(seen)[0, 0]]


def make() -> dict[Path, str]:
    """The text of every file."""
    files = {FOLDER / "cache-states.svg": draw_states()}
    numbers = {}
    for name in STORIES:
        events = tell(name)
        numbers[name] = as_plain(events)
        files |= {FOLDER / f"{event.name}.svg": draw_event(event, ring=name == "circular") for event in events}
    names = ["b0", "b1", "b2", PAD, PAD]
    panels = [("with lengths + S", 5, sight(5, 5, 5)), ("with lengths + counts: wrong", 3, sight(5, 5, 3))]
    files[FOLDER / "who-sees-what.svg"] = draw_sight(panels, names, names)
    calls = {told["call"]: told for told in tell_states()}
    files |= {FOLDER / f"{name}.svg": draw_call(calls[call]) for name, call in PICTURES.items()}
    files[NUMBERS] = json.dumps(numbers, indent=1) + "\n"
    return files


def main() -> None:
    """Writes the files, and removes pictures that there are no more."""
    files = make()
    FOLDER.mkdir(exist_ok=True)
    for path, text in files.items():
        new = path.with_suffix(".new")
        new.write_text(text, encoding="utf-8")
        new.replace(path)
    for path in FOLDER.glob("*.svg"):
        if path not in files:
            path.unlink()


if __name__ == "__main__":
    main()
