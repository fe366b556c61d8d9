# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The signature of what today's exporters write: mobius-onnx, Transformers' exporter, ONNX Runtime GenAI's builder."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from genai_iface.folder import ModelFolder, open_folder
from genai_iface.types import LayerCacheSpec
from tests.model_files import write_tokenizer_files
from tests.parity.checkpoints import CONTEXT, VOCAB_SIZE, build_folder, make_checkpoint

pytestmark = pytest.mark.parity

LAYER = {"num_kv_heads": 2, "key_head_dim": 16, "value_head_dim": 16, "dtype": "float32"}


def check(opened: ModelFolder, style: str, layout: str, roles: dict[str, str], **layer: Any) -> None:
    signature = opened.signature
    assert dict(signature.inputs) == roles
    assert (signature.cache.style, signature.cache.layout) == (style, layout)
    assert signature.cache.layers == (LayerCacheSpec(**{**LAYER, **layer}),) * 2
    assert signature.vocab_size == VOCAB_SIZE


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_mobius_static_cache(family: str, tmp_path: Path) -> None:
    make_checkpoint(family, tmp_path / "checkpoint")
    opened = open_folder(build_folder(tmp_path / "checkpoint", tmp_path / "onnx", static_cache=True))
    names = ("input_ids", "position_ids", "write_indices", "nonpad_kv_seqlen")
    check(opened, "scatter", "bsh", {name: name for name in names}, capacity=CONTEXT)
    assert opened.signature.cache_tensors[3].past == "value_cache.1"
    assert opened.signature.cache_tensors[3].present == "updated_value_cache.1"
    assert opened.signature.max_positions == 128


def test_mobius_growing_cache(tmp_path: Path) -> None:
    make_checkpoint("llama", tmp_path / "checkpoint")
    opened = open_folder(build_folder(tmp_path / "checkpoint", tmp_path / "onnx", static_cache=False))
    check(opened, "concat", "bnsh", {name: name for name in ("input_ids", "position_ids", "attention_mask")})


@pytest.mark.parametrize(("family", "opset"), [("llama", 23), ("llama", 20), ("gpt2", 20)])
def test_transformers_exporter(family: str, opset: int, tmp_path: Path) -> None:
    """Opset 23 has Attention; at opset 20 it is MatMul and Softmax, and repeat_kv stands before both."""
    # torch.onnx warns about its own internals, which depends on versions: not in this process.
    make_checkpoint("llama", tmp_path / "checkpoint")
    (tmp_path / "onnx").mkdir()
    arguments = [family, str(opset), str(tmp_path / "checkpoint"), str(tmp_path / "onnx" / "model.onnx")]
    subprocess.run([sys.executable, "-c", EXPORT, *arguments], check=True, capture_output=True, timeout=500)
    opened = open_folder(tmp_path / "onnx")
    heads = {"num_kv_heads": 4, "key_head_dim": 8, "value_head_dim": 8} if family == "gpt2" else {}
    check(opened, "concat", "bnsh", {n: n for n in ("input_ids", "position_ids", "attention_mask")}, **heads)
    assert opened.signature.max_positions == (48 if family == "gpt2" else None)
    readers = {node.op_type for node in opened.load_ir().graph}
    assert ("Attention" in readers) == (opset == 23)


EXPORT = f"""
import sys
import onnx_ir, torch, transformers
from transformers.exporters import OnnxConfig, OnnxExporter
family, opset, checkpoint, out = sys.argv[1:]
torch.manual_seed(0)
if family == "gpt2":
    config = transformers.GPT2Config(vocab_size={VOCAB_SIZE}, n_positions=48, n_embd=32, n_layer=2, n_head=4,
                                     bos_token_id=0, eos_token_id=1)
    model = transformers.GPT2LMHeadModel(config)
else:
    model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint)
ids = torch.randint(3, {VOCAB_SIZE}, (2, 5))
mask = torch.ones_like(ids)
mask[0, 0] = 0
config = OnnxConfig(dynamic=True, opset_version=int(opset))
parts = OnnxExporter().export_for_generation(
    model.eval(), {{"input_ids": ids, "attention_mask": mask}}, config, multi_token_decode=True
)
parts = parts.components if hasattr(parts, "components") else parts
decode = parts["decode"]
program = next((getattr(decode, n) for n in ("program", "exported_program") if hasattr(decode, n)), decode)
if hasattr(program, "save"):
    program.save(out)
else:
    onnx_ir.save(program, out)
"""


@pytest.mark.parametrize("precision", ["fp32", "int4"])
def test_onnxruntime_genai_builder(precision: str, tmp_path: Path) -> None:
    if importlib.util.find_spec("onnxruntime_genai") is None:
        pytest.skip("onnxruntime-genai is not installed; it has no build for every platform")
    make_checkpoint("llama", tmp_path / "checkpoint")
    write_tokenizer_files(tmp_path / "checkpoint")
    config = tmp_path / "checkpoint" / "tokenizer_config.json"
    values = json.loads(config.read_text()) | {"eos_token": "<|eos|>", "tokenizer_class": "PreTrainedTokenizerFast"}
    config.write_text(json.dumps(values))
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-p", precision, "-e", "cpu"]
    command += ["-i", str(tmp_path / "checkpoint"), "-o", str(tmp_path / "onnx"), "-c", str(tmp_path / "cache")]
    subprocess.run(command, check=True, capture_output=True, timeout=500)
    opened = open_folder(tmp_path / "onnx")
    check(opened, "shared", "bnsh", {name: name for name in ("input_ids", "attention_mask")})
    assert opened.signature.max_positions == 128
