# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What ``build``, ``quantize`` and ``convert`` make of real architectures is what the ORT backend lowers, exactly."""

from __future__ import annotations

import dataclasses
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from genai_iface import load_model
from genai_iface.folder import open_folder
from genai_iface.transform.convert import convert_folder
from genai_iface.transform.quantize import quantize_folder

pytestmark = [
    pytest.mark.parity,
    pytest.mark.skipif(find_spec("transformers") is None, reason="needs the extra build"),
]

# Family: what the note on attention says after the number of layers.
FAMILIES = {
    "llama": "2 with the rotation inside, 2 from packed projections",
    "qwen2": "2 with the rotation inside, 2 from packed projections",
    "qwen3": "2 with the rotation inside, 0 from packed projections",
    "mistral": "2 with the rotation inside, 2 from packed projections, 2 with a window",
    "phi3": "2 with the rotation inside, 2 from packed projections",
    "gemma": "2 with the rotation inside, 2 from packed projections",
    "gemma2": "2 with the rotation inside, 2 from packed projections, 1 with a window, 2 with a soft cap",
    "gemma3": "2 with the rotation inside, 0 from packed projections, 1 with a window",
    "gemma4": "2 with the rotation inside, 0 from packed projections, 1 with a window",
    "granite": "2 with the rotation inside, 2 from packed projections",
    "olmo2": "2 with the rotation inside, 0 from packed projections",
    "olmo3": "2 with the rotation inside, 0 from packed projections, 1 with a window",
    "smollm3": "1 with the rotation inside, 2 from packed projections",
    "cohere2": "1 with the rotation inside, 2 from packed projections, 1 with a window",
    "exaone4": "1 with the rotation inside, 0 from packed projections, 1 with a window",
    "seed_oss": "2 with the rotation inside, 2 from packed projections",
}
QUICK = ("gemma2",)
HALF = ("llama", "gemma2", "gemma3", "mistral")
# Activations are not rounded to eight bits, so that levels differ by float rounding alone.
EXACT = {"num_threads": 1, "session_options": {"session.qdq_matmulnbits_accuracy_level": "1"}}
# Widths and real tokens of ragged steps; together longer than every family's window of 8.
STEPS = [(6, [6, 3, 1]), (1, [1, 1, 1]), (4, [2, 0, 4]), (1, [1, 0, 1]), (5, [5, 5, 5]), (3, [3, 0, 1])]


def _some(families: Any) -> list[Any]:
    return [family if family in QUICK else pytest.param(family, marks=pytest.mark.slow) for family in families]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Builds a family once."""
    from genai_iface.build import BuildOptions, build
    from genai_iface.build._families import family_of, make_checkpoint

    made: dict[tuple[str, str, int], Path] = {}

    def get(name: str, dtype: Any = "float32", layers: int = 2) -> Path:
        if (name, dtype, layers) not in made:
            place = tmp_path_factory.mktemp(name)
            family = family_of(name)
            family = dataclasses.replace(family, settings={**family.settings, "num_hidden_layers": layers})
            make_checkpoint(family, place / "checkpoint")
            build(place / "checkpoint", place / "model", BuildOptions(via="export", dtype=dtype, verify_on="ort"))
            made[name, dtype, layers] = place / "model"
        return made[name, dtype, layers]

    return get


def _logits(folder: Path, backend: str, options: dict[str, Any]) -> tuple[list[Any], str]:
    """Of each step each real row's last logits, and what was said about attention."""
    model = load_model(folder, backend=backend, options=options)
    cache = model.create_cache(batch_size=3, capacity=40)
    random = np.random.default_rng(0)
    found = []
    for width, counts in STEPS:
        ids = random.integers(0, model.spec.vocab_size, (3, width))
        found.append(model.forward(ids, cache, counts=np.array(counts))[np.array(counts) > 0])
    notes = [note for note in getattr(model, "notes", ()) if note.startswith("group-query-attention")]
    model.close()
    return found, "".join(notes)


def _check(folder: Path, wanted: str, tolerance: float = 1e-5) -> None:
    """Lowered, the folder computes what it computes as it is, on ONNX Runtime and on NumPy."""
    lowered, note = _logits(folder, "ort", EXACT)
    assert note == f"group-query-attention: applied (2 layers, {wanted})"
    for backend, options in (("ort", {**EXACT, "optimize": "none"}), ("numpy", {})):
        plain, _ = _logits(folder, backend, options)
        for one, other in zip(lowered, plain, strict=True):
            assert np.abs(one - other).max() <= tolerance * np.abs(other).max(), backend


@pytest.mark.parametrize("family", _some(FAMILIES))
def test_a_built_folder(family: str, built: Any) -> None:
    folder = built(family)
    _check(folder, FAMILIES[family])
    graph = onnx.load(folder / "model.onnx").graph
    pasts = {value.name for value in graph.input if "_cache." in value.name}
    for node in graph.node:
        if set(node.input) & pasts and node.op_type != "TensorScatter":
            # Only a mask asks for the capacity, which nothing but a cache has.
            limits = {each.name: each.i for each in node.attribute}
            assert (node.op_type, limits) == ("Shape", {"start": 2, "end": 3})
            assert "window" in FAMILIES[family]


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("family", _some(FAMILIES))
def test_a_quantized_folder(family: str, bits: Any, built: Any, tmp_path: Path) -> None:
    quantize_folder(built(family), tmp_path / "quantized", bits=bits, block_size=16)
    _check(tmp_path / "quantized", FAMILIES[family])


@pytest.mark.parametrize("family", _some(FAMILIES))
def test_a_folder_that_was_converted_there_and_back(family: str, built: Any, tmp_path: Path) -> None:
    """A window is another mask then: that of ``convert``, with causality left to the operator."""
    convert_folder(built(family), tmp_path / "concat", to="concat")
    convert_folder(tmp_path / "concat", tmp_path / "scatter", to="scatter")
    _, note = _logits(tmp_path / "scatter", "ort", EXACT)
    assert note.startswith("group-query-attention: applied (2 layers")
    windows = FAMILIES[family].count("window") and FAMILIES[family].partition("projections, ")[2].partition(" ")[0]
    assert (f"{windows} with a window" in note) is bool(windows)
    _check(tmp_path / "scatter", note.partition("2 layers, ")[2].removesuffix(")"))


@pytest.mark.slow
@pytest.mark.parametrize("family", HALF)
def test_a_folder_in_float16(family: str, built: Any) -> None:
    _check(built(family, "float16"), FAMILIES[family], tolerance=2e-2)


@pytest.mark.slow
def test_the_processor_has_no_kernel_for_bfloat16(built: Any) -> None:
    _, note = _logits(built("gemma2", "bfloat16"), "ort", EXACT)
    assert note == "group-query-attention: not applied (on cpu the kernel does not take bfloat16)"


@pytest.mark.slow
def test_a_deep_network_whose_exporter_asks_a_cache_for_the_batch_size(built: Any) -> None:
    """With many layers torch's exporter takes the batch size from some cache, as it does for SmolLM2."""
    folder = built("llama", layers=30)
    _, note = _logits(folder, "ort", EXACT)
    assert note.startswith("group-query-attention: applied (30 layers, 30 with the rotation inside, 30 from packed")
    readers = [node for node in open_folder(folder).load_ir().graph if node.op_type == "Shape"]
    assert {str(node.inputs[0].name) for node in readers} <= {"input_ids", "write_indices"}
