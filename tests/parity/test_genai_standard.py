# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0

"""Folders of ONNX Runtime GenAI's builder on the NumPy backend, and converted: its own logits, its own integers."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from genai_iface import load_model
from genai_iface.folder import open_folder
from genai_iface.transform.convert import convert_folder
from tests.parity.genai_folders import GENAI_FAMILIES, build_genai, genai_steps, write_checkpoint

pytestmark = [
    pytest.mark.parity,
    pytest.mark.skipif(find_spec("onnxruntime_genai") is None, reason="onnxruntime-genai is not installed"),
    pytest.mark.filterwarnings("ignore:.*in-place optimization.*"),
]

# The second prompt and its steps pass a window of 8 and the 32 positions of the short rotary table.
PROMPTS = ([64, 3, 30], [12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22])
STEPS = 30
FLOAT = [(family, "fp32", ()) for family in GENAI_FAMILIES if family != "llama-tied"]
QUANTIZED = [
    ("llama", "int4", ("accuracy_level=1",)),
    ("llama", "int4", ("accuracy_level=1", "block_size=16", "is_symmetric=false")),
    ("llama-tied", "int4", ("accuracy_level=1",)),
    ("qwen3", "int4", ("accuracy_level=1", "block_size=64")),
    ("llama", "int8", ("accuracy_level=1",)),
]


def folder_of(family: str, precision: str, options: tuple[str, ...], path: Path, *, provider: str = "cpu") -> Path:
    checkpoint, _ = write_checkpoint(family, path / "checkpoint")
    return build_genai(checkpoint, path / "built", precision, *options, provider=provider)


def assert_same(folder: Path, other: Path, backend: str, *, tolerance: float = 1e-5) -> None:
    """The other folder's greedy tokens and logits are those that ONNX Runtime GenAI has for the first."""
    model = load_model(other, backend=backend)
    for prompt in PROMPTS:
        cache = model.create_cache(capacity=64)
        ids = np.array([prompt])
        for wanted, token in genai_steps(folder, prompt, STEPS):
            got = model.forward(ids, cache)[0, 0]
            assert np.abs(got - wanted).max() < tolerance * np.abs(wanted).max()
            assert int(got.argmax()) == token
            ids = np.array([[token]])


@pytest.mark.parametrize(("family", "precision", "options"), [*FLOAT, *QUANTIZED])
def test_numpy_has_the_logits_of_onnxruntime_genai(
    family: str, precision: str, options: tuple[str, ...], tmp_path: Path
) -> None:
    folder = folder_of(family, precision, options, tmp_path)
    assert open_folder(folder).spec.cache.style == "shared"
    assert_same(folder, folder, "numpy")


@pytest.mark.parametrize(
    ("family", "precision", "options"),
    [("qwen3", "fp32", ()), ("gemma2", "fp32", ()), ("gpt-oss", "fp32", ()), ("phi3-longrope", "fp32", ()), *QUANTIZED],
)
def test_the_converted_folder_is_standard_and_the_same(
    family: str, precision: str, options: tuple[str, ...], tmp_path: Path
) -> None:
    folder = folder_of(family, precision, options, tmp_path)
    done = convert_folder(folder, tmp_path / "standard", to="standard")
    assert done.difference is not None
    # At load ONNX Runtime makes MatMulNBits of the blocks again, which rounds activations unless it is told not to.
    assert done.difference < (1e-5 if precision == "fp32" else 5e-2)
    proto = onnx.load(tmp_path / "standard" / "model.onnx", load_external_data=False)
    assert {item.domain: item.version for item in proto.opset_import}[""] == 24
    assert not [node for node in proto.graph.node if node.domain]
    assert open_folder(tmp_path / "standard").spec.cache.style == "scatter"
    assert_same(folder, tmp_path / "standard", "numpy")
    if precision == "int4":
        # Half a byte for each weight, one table where there was one: the data does not grow.
        sizes = [(path / "model.onnx.data").stat().st_size for path in (folder, tmp_path / "standard")]
        assert sizes[1] <= sizes[0]
        kinds = {tensor.data_type for tensor in proto.graph.initializer}
        symmetric = "is_symmetric=false" not in options
        assert (int(ir.DataType.INT4) if symmetric else int(ir.DataType.UINT4)) in kinds


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_half_precision_of_a_folder_for_cuda(family: str, tmp_path: Path) -> None:
    """Qwen 3 has its norms inside the operator there, which no processor runs: compared with the float32 folder."""
    checkpoint, _ = write_checkpoint(family, tmp_path / "checkpoint")
    half = build_genai(checkpoint, tmp_path / "half", "fp16", provider="cuda")
    wide = build_genai(checkpoint, tmp_path / "wide", "fp32")
    prompt = np.array([PROMPTS[1]])
    models = [load_model(folder, backend="numpy") for folder in (wide, half)]
    wanted, got = (model.forward(prompt, model.create_cache(capacity=16), logits="all") for model in models)
    assert np.abs(got - wanted).max() < 4e-3 * np.abs(wanted).max()
