# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""mobius-onnx scales the attention of Gemma 3 by the size of a head, and not by query_pre_attn_scalar.

Needs mobius-onnx, onnxruntime, torch, transformers. Run: ORT_DISABLE_TELEMETRY=1 python mobius_gemma3_scale.py
"""

import tempfile
from pathlib import Path

import mobius
import numpy as np
import onnxruntime as ort
import torch
import transformers

SIZES = {"vocab_size": 128, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
SIZES |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128}


def exported(config, room):
    """A tiny random network, and the graph that mobius makes of its checkpoint."""
    torch.manual_seed(0)
    network = transformers.AutoModelForCausalLM.from_config(config).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.08) if parameter.ndim > 1 else None
    network.save_pretrained(room / "checkpoint")
    mobius.build(str(room / "checkpoint"), dtype="f32").save(str(room / "graph"), progress_bar=False)
    return network, ort.InferenceSession(next((room / "graph").rglob("*.onnx")))


def logits_of(session, ids):
    """The graph's logits for a prompt, with an empty cache."""
    feeds = {}
    for value in session.get_inputs():
        name, batch = value.name, [dim if isinstance(dim, int) else 0 for dim in value.shape]
        batch[0] = 1
        feeds[name] = np.zeros(batch, np.float32)
        if name == "input_ids":
            feeds[name] = ids
        elif "position" in name:
            feeds[name] = np.arange(ids.shape[1])[None]
        elif "mask" in name:
            feeds[name] = np.ones_like(ids)
    return session.run(None, feeds)[0][0]


def torch_logits(network, ids):
    with torch.no_grad():
        return network(torch.from_numpy(ids), use_cache=False).logits[0].numpy()


ids = np.random.default_rng(0).integers(3, 128, (1, 8))
config = transformers.Gemma3TextConfig(query_pre_attn_scalar=256, head_dim=16, **SIZES)
with tempfile.TemporaryDirectory() as folder:
    network, session = exported(config, Path(folder))
    got = logits_of(session, ids)
    apart = float(np.abs(got - torch_logits(network, ids)).max())
    for layer in network.model.layers:
        layer.self_attn.scaling = config.head_dim**-0.5
    other = float(np.abs(got - torch_logits(network, ids)).max())
print(f"away from torch: {apart:.1g}; from torch with 1 / sqrt(head_dim) as the scale: {other:.0e}")
print("reproduced" if apart > 1e-2 and other < 1e-4 else "not reproduced")
