# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Exported past/present models, converted, against torch; converted models on a runtime without TensorScatter."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from genai_iface import load_model
from genai_iface.models import default_folder
from genai_iface.transform.convert.folder import convert_folder
from tests.model_files import write_tokenizer_files
from tests.models import write_folder
from tests.parity.checkpoints import make_checkpoint
from tests.parity.concat_exports import export_apart
from tests.parity.convert_cases import CASES, QUICK, REFUSED, TOLERANCE, measure

pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("exported")
    export_apart(root, QUICK)
    return root


def check(case: str, exported: Path, out: Path) -> None:
    found = measure(case, exported, out)
    assert "refused" not in found, found["refused"]
    assert max(found["difference"].values()) <= TOLERANCE
    assert found["nodes"][1] < found["nodes"][0]


@pytest.mark.parametrize("case", QUICK)
def test_a_converted_export_equals_torch(case: str, exported: Path, tmp_path: Path) -> None:
    check(case, exported / case, tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in CASES if case not in QUICK])
def test_a_converted_export_of_another_family_equals_torch(case: str, tmp_path: Path) -> None:
    export_apart(tmp_path, [case])
    check(case, tmp_path / case, tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize("case", REFUSED)
def test_what_the_standard_cannot_express_is_refused(case: str, tmp_path: Path) -> None:
    export_apart(tmp_path, [case])
    assert REFUSED[case] in measure(case, tmp_path / case, tmp_path / "out")["refused"]


@pytest.mark.parametrize("precision", ["fp32", pytest.param("int4", marks=pytest.mark.slow)])
def test_a_model_of_the_genai_builder_becomes_standard(precision: str, tmp_path: Path) -> None:
    """GroupQueryAttention with rotation and packed projections inside, contrib norms, perhaps contrib products."""
    if find_spec("onnxruntime_genai") is None:
        pytest.skip("onnxruntime-genai is not installed; it has no build for every platform")
    make_checkpoint("llama", tmp_path / "checkpoint")
    write_tokenizer_files(tmp_path / "checkpoint")
    config = tmp_path / "checkpoint" / "tokenizer_config.json"
    values = json.loads(config.read_text()) | {"eos_token": "<|eos|>", "tokenizer_class": "PreTrainedTokenizerFast"}
    config.write_text(json.dumps(values))
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-p", precision, "-e", "cpu"]
    command += ["-i", str(tmp_path / "checkpoint"), "-o", str(tmp_path / "built"), "-c", str(tmp_path / "cache")]
    subprocess.run(command, check=True, capture_output=True, timeout=500)
    done = convert_folder(tmp_path / "built", tmp_path / "out")
    contrib = {node.op_type for node in done.model.graph if node.domain}
    assert contrib == (set() if precision == "fp32" else {"MatMulNBits"})
    assert not (tmp_path / "out" / "genai_config.json").exists()
    source, result = (load_model(tmp_path / name, backend="ort") for name in ("built", "out"))
    caches = [model.create_cache(batch_size=2, capacity=32) for model in (source, result)]
    ids, counts = np.array([[5, 6, 7, 8], [9, 10, 0, 0]]), np.array([4, 2])
    for _ in range(4):
        wanted, got = (
            model.forward(ids, cache, counts=counts) for model, cache in zip((source, result), caches, strict=True)
        )
        assert np.abs(wanted - got).max() <= 1e-5
        ids, counts = wanted[:, -1].argmax(-1)[:, None], None


@pytest.mark.parametrize("primitive", [False, True])
def test_openvino_runs_the_past_present_form(primitive: bool, tmp_path: Path) -> None:
    """OpenVINO has no TensorScatter; prompt and decode steps give the logits of the source."""
    if find_spec("openvino") is None:
        pytest.skip("openvino is not installed; pip install '.[parity]'")
    from examples.new_runtime.openvino_runtime import OpenVinoBackend

    # The embedded model gathers quantized rows, which OpenVINO takes in older operators only.
    source = default_folder() if primitive else write_folder(tmp_path / "source", style="scatter")
    convert_folder(source, tmp_path / "out", to="concat", primitive=primitive)
    reference, candidate = load_model(source), OpenVinoBackend().load(tmp_path / "out")
    caches = [model.create_cache(batch_size=2, capacity=32) for model in (reference, candidate)]
    ids, counts = np.array([[5, 6, 7, 8], [9, 10, 0, 0]]), np.array([4, 2])
    for _ in range(4):
        wanted, got = (
            model.forward(ids, cache, counts=counts)
            for model, cache in zip((reference, candidate), caches, strict=True)
        )
        assert np.abs(wanted - got).max() <= 1e-5 * max(1, np.abs(wanted).max())
        ids, counts = wanted[:, -1].argmax(-1)[:, None], None


def test_openvino_runs_scatter_nd_in_older_operators(tmp_path: Path) -> None:
    """One run of the whole buffer: the inputs are those of the source."""
    if find_spec("openvino") is None:
        pytest.skip("openvino is not installed; pip install '.[parity]'")
    import openvino

    from tests.transform.convert.drive import Drive, load, on_reference

    source = write_folder(tmp_path / "source", style="scatter")
    done = convert_folder(source, tmp_path / "out", to="scatter-nd", primitive=True)
    compiled = openvino.Core().compile_model(
        tmp_path / "out" / "model.onnx", "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )

    def run(feeds, outputs):
        results = compiled(dict(feeds))
        return [np.array(results[name]) for name in outputs]

    import onnx

    model, signature = load(onnx.load(source / "model.onnx"))
    one = Drive(on_reference(model), signature, batch_size=3)
    other = Drive(run, done.signature, batch_size=3)
    ids = np.random.default_rng(0).integers(0, 255, (3, 6))
    for counts in ([6, 3, 1], [2, 6, 4]):
        wanted, got = one.step(ids, counts), other.step(ids, counts)
        for row, count in enumerate(counts):
            assert np.abs(wanted[row, :count] - got[row, :count]).max() < 1e-5
