# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""mobius-onnx rotates the two halves of a head of Cohere, which rotates pairs of neighbors.

Needs mobius-onnx, onnxruntime, torch, transformers. Run: ORT_DISABLE_TELEMETRY=1 python mobius_cohere_rotary.py
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


def halves(q, k, cos, sin, *_, **__):
    """Llama's rotation, with the angles of Cohere."""
    one, two = (torch.cat((table[..., ::2], table[..., ::2]), -1) for table in (cos, sin))
    return transformers.models.llama.modeling_llama.apply_rotary_pos_emb(q, k, one, two)


ids = np.random.default_rng(0).integers(3, 128, (1, 8))
with tempfile.TemporaryDirectory() as folder:
    network, session = exported(transformers.CohereConfig(**SIZES), Path(folder))
    got = logits_of(session, ids)
    apart = float(np.abs(got - torch_logits(network, ids)).max())
    transformers.models.cohere.modeling_cohere.apply_rotary_pos_emb = halves
    other = float(np.abs(got - torch_logits(network, ids)).max())
print(f"away from torch: {apart:.1g}; from torch with rotated halves: {other:.0e}")
print("reproduced" if apart > 1e-3 and other < 1e-4 else "not reproduced")
