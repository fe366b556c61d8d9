# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime GenAI: a Mistral of its own builder sees beyond its sliding window.

Needs numpy, onnx, onnxruntime-genai, tokenizers, torch, transformers.
Run: ORT_DISABLE_TELEMETRY=1 python genai_mistral_window.py
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime_genai as og
import torch
import transformers
from tokenizers import Tokenizer, models

VOCAB, WINDOW, TOKENS = 128, 8, 24
SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}


def write_checkpoint(folder):
    """A tiny random Mistral, whose greedy choices are clear, with a tokenizer that the builder reads."""
    torch.manual_seed(0)
    config = transformers.MistralConfig(
        vocab_size=VOCAB,
        sliding_window=WINDOW,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=128,
        **SIZES,
    )
    network = transformers.MistralForCausalLM(config).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.08) if parameter.ndim > 1 else None
    network.save_pretrained(folder)
    vocabulary = {f"w{number}": number for number in range(VOCAB)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="w0"))
    names = dict.fromkeys(("bos_token", "eos_token", "pad_token"), "w0")
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    return network


def logits_of(folder, ids):
    """What the runtime computes after each prefix."""
    model = og.Model(str(folder))
    found = []
    for count in range(1, len(ids) + 1):
        parameters = og.GeneratorParams(model)
        parameters.set_search_options(max_length=len(ids) + 1, do_sample=False)
        generator = og.Generator(model, parameters)
        generator.append_tokens(np.array([ids[:count]], np.int32))
        found.append(np.array(generator.get_logits(), np.float32).reshape(-1))
    return np.stack(found)


with tempfile.TemporaryDirectory() as room:
    source, built = Path(room) / "checkpoint", Path(room) / "built"
    network = write_checkpoint(source)
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-m", "tiny", "-i", str(source)]
    command += ["-o", str(built), "-p", "fp32", "-e", "cpu", "-c", str(Path(room) / "cache")]
    subprocess.run(command, check=True, capture_output=True)
    ids = np.random.default_rng(0).integers(3, VOCAB, TOKENS)
    got = logits_of(built, ids)
    graph = onnx.load(built / "model.onnx", load_external_data=False).graph
    said = json.loads((built / "genai_config.json").read_text())["model"]["decoder"].get("sliding_window")
    with torch.no_grad():
        expected = network(torch.from_numpy(ids)[None]).logits[0].numpy()
        network.config.sliding_window = None
        for layer in network.model.layers:
            layer.self_attn.sliding_window = None
        without = network(torch.from_numpy(ids)[None]).logits[0].numpy()

windows = {
    attribute.i
    for node in graph.node
    if node.op_type == "GroupQueryAttention"
    for attribute in node.attribute
    if attribute.name == "local_window_size"
}
print("local_window_size of the attention nodes:", windows or "absent")
print("sliding_window of genai_config.json:", said)
differs = [bool(np.abs(one - other).max() > 1e-3) for one, other in zip(got, expected, strict=True)]
unbounded = float(np.abs(got - without).max())
print(f"first position that differs from torch: {differs.index(True) if any(differs) else 'none'}, window {WINDOW}")
print(f"largest difference from torch without a window: {unbounded:.0e}")
print("reproduced" if any(differs) and not any(differs[:WINDOW]) and unbounded < 1e-4 else "not reproduced")
