# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Begin a training run with the weights of a model folder that the export wrote."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnx.numpy_helper
import torch
from tokenizers import Tokenizer

from tools.train_embedded.batches import with_chat_tokens
from tools.train_embedded.model import Config, Decoder
from tools.train_embedded.quantize import BLOCK, Quantized


@dataclass(frozen=True)
class Earlier:
    """What an earlier run left: its network, its tokenizer, and how many tokens it has visited."""

    model: Decoder
    tokenizer: Tokenizer
    visits: int


def visits_of(provenance: str) -> int:
    """Return the token visits that a ``PROVENANCE.md`` states: those in all where it says so.

    Raises:
        ValueError: the text states none.
    """
    found = re.search(r"(\d+) token visits in all", provenance) or re.search(r"(\d+) token visits", provenance)
    if found is None:
        raise ValueError("PROVENANCE.md states no number of token visits; start from a folder that the export wrote")
    return int(found.group(1))


def _weights(path: Path) -> dict[str, npt.NDArray[np.float32]]:
    """Return the weights of an exported graph as float32, matrices as (out, in)."""
    arrays = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(str(path)).graph.initializer}
    out = {}
    for name, array in arrays.items():
        if f"{name}.scale" in arrays:
            out[name] = np.ascontiguousarray(Quantized(array, arrays[f"{name}.scale"], BLOCK).dequantized().T)
        elif name.endswith("norm.weight"):
            out[name] = array.astype(np.float32)
    return out


def start_from(folder: Path, seed: int = 24) -> Earlier:
    """Read a model folder; rows that its table lacks begin near the mean of the others.

    Args:
        folder: a folder that the export wrote, with its ``PROVENANCE.md``.
        seed: of the small noise on new rows.

    Returns:
        The network, with a row for each token of the tokenizer, and what belongs to it.
    """
    sizes = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    tokenizer = with_chat_tokens(Tokenizer.from_file(str(folder / "tokenizer.json")))
    config = Config(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=sizes["hidden_size"], layers=sizes["num_hidden_layers"],
        heads=sizes["num_attention_heads"], kv_heads=sizes["num_key_value_heads"], head_dim=sizes["head_dim"],
        ffn_size=sizes["intermediate_size"], rope_theta=sizes["rope_theta"], epsilon=sizes["rms_norm_eps"],
    )  # fmt: skip
    model = Decoder(config)
    weights = _weights(folder / "model.onnx")
    table = weights["embedding.weight"]
    noise = np.random.default_rng(seed).normal(0, 0.02, (model.config.vocab_size - len(table), table.shape[1]))
    weights["embedding.weight"] = np.concatenate([table, (table.mean(axis=0) + noise).astype(np.float32)])
    model.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in weights.items()})
    return Earlier(model, tokenizer, visits_of((folder / "PROVENANCE.md").read_text(encoding="utf-8")))
