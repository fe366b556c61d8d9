# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime GenAI's builder ends with a KeyError for SmolLM3, whose every fourth layer has no rotary embedding.

Needs onnxruntime-genai, tokenizers, torch, transformers. Run: ORT_DISABLE_TELEMETRY=1 python genai_smollm3.py
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, models

VOCAB = 128
TOKENS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2}


def last_words(num_layers, folder):
    """What the builder says at last of a tiny random SmolLM3; empty if it succeeds."""
    source, built = folder / "checkpoint", folder / "built"
    torch.manual_seed(0)
    config = transformers.SmolLM3Config(
        vocab_size=VOCAB, num_hidden_layers=num_layers, max_position_embeddings=128, **TOKENS, **SIZES
    )
    print(f"{num_layers} layers, with rotary embedding: {config.no_rope_layers}")
    transformers.SmolLM3ForCausalLM(config).save_pretrained(source)
    tokenizer = Tokenizer(models.WordLevel({f"w{number}": number for number in range(VOCAB)}, unk_token="w0"))
    names = dict.fromkeys(("bos_token", "eos_token", "pad_token"), "w0")
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(source)
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-m", "tiny", "-i", str(source)]
    command += ["-o", str(built), "-p", "fp32", "-e", "cpu", "-c", str(folder / "cache")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stderr.strip().splitlines()[-1] if done.returncode else ""


found = {}
for count in (3, 4):
    with tempfile.TemporaryDirectory() as room:
        found[count] = last_words(count, Path(room))
    print(f"{count} layers: {found[count] or 'built'}")
print("reproduced" if found == {3: "", 4: "KeyError: 'position_ids'"} else "not reproduced")
