# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""genai_config.json, with which ONNX Runtime GenAI opens a graph with growing tensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["write_genai_config"]


def write_genai_config(folder: Path, target: Path, /) -> None:
    """Writes genai_config.json for the graph of a folder of the form "concat"."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    past, present = "past_key_values.%d", "present.%d"
    model: dict[str, Any] = {
        "type": config["model_type"],
        "context_length": config["max_position_embeddings"],
        "vocab_size": config["vocab_size"],
        # Where the folder names no end, there is none.
        "eos_token_id": config.get("eos_token_id", []),
        "pad_token_id": config.get("eos_token_id", 0),
        "bos_token_id": config.get("bos_token_id", 0),
        "decoder": {
            "session_options": {"provider_options": []},
            "filename": "model.onnx",
            "head_size": config["head_dim"],
            "hidden_size": config["hidden_size"],
            "num_attention_heads": config["num_attention_heads"],
            "num_hidden_layers": config["num_hidden_layers"],
            "num_key_value_heads": config["num_key_value_heads"],
            "inputs": {
                "input_ids": "input_ids",
                "past_key_names": f"{past}.key",
                "past_value_names": f"{past}.value",
            },
            "outputs": {
                "logits": "logits",
                "present_key_names": f"{present}.key",
                "present_value_names": f"{present}.value",
            },
        },
    }
    search = {"max_length": config["max_position_embeddings"], "past_present_share_buffer": False}
    text = json.dumps({"model": model, "search": search}, indent=1)
    (target / "genai_config.json").write_text(text + "\n", encoding="utf-8")
