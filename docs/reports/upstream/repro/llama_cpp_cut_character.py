# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""llama.cpp's server: a streamed completion drops a cut character. See ../27-llama-cpp-cut-character.md."""

import json
import tempfile
import urllib.request
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

import gguf
import numpy as np
import xllamacpp

TEXT = "a \N{SLIGHTLY SMILING FACE}!"
SIZE, VOCAB = 64, 257


def letters():
    """GPT-2's letters for the 256 bytes."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    names = {byte: chr(byte) for byte in printable} | {byte: chr(256 + at) for at, byte in enumerate(others)}
    return [names[byte] for byte in range(256)]


def write_model(path):
    """One layer that adds nothing; each byte of the text is followed by the next one."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(SIZE)
    writer.add_block_count(1)
    writer.add_feed_forward_length(32)
    writer.add_head_count(1)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(SIZE)
    writer.add_vocab_size(VOCAB)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([*letters(), "<end>"])
    writer.add_token_types([1] * 256 + [3])
    writer.add_token_merges(["<end> <end>"])
    writer.add_bos_token_id(256)
    writer.add_eos_token_id(256)
    writer.add_add_bos_token(False)
    embedding = np.random.default_rng(0).standard_normal((VOCAB, SIZE)).astype(np.float32)
    output = np.zeros_like(embedding)
    tokens = [*TEXT.encode(), 256]
    for token, following in pairwise(tokens):
        output[following] = embedding[token]
    square = np.zeros((SIZE, SIZE), np.float32)
    tensors = {"token_embd": embedding, "output": output, "output_norm": np.ones(SIZE, np.float32)}
    tensors |= {f"blk.0.attn_{name}": square for name in ("q", "k", "v", "output")}
    tensors |= {f"blk.0.{name}_norm": np.ones(SIZE, np.float32) for name in ("attn", "ffn")}
    tensors |= {f"blk.0.ffn_{name}": np.zeros((32, SIZE), np.float32) for name in ("gate", "up")}
    tensors["blk.0.ffn_down"] = np.zeros((SIZE, 32), np.float32)
    for name, values in tensors.items():
        writer.add_tensor(f"{name}.weight", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def complete(server, num_tokens, stream):
    asked = {"prompt": "a", "max_tokens": num_tokens, "temperature": 0, "stream": stream}
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(server.listening_address + "/v1/completions", json.dumps(asked).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as reply:
        said = reply.read().decode()
    pieces = [line[6:] for line in said.splitlines() if line.startswith("data: {")] if stream else [said]
    return "".join(json.loads(piece)["choices"][0]["text"] for piece in pieces)


with tempfile.TemporaryDirectory() as folder:
    write_model(Path(folder) / "model.gguf")
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(Path(folder) / "model.gguf")
    parameters.n_ctx, parameters.n_parallel, parameters.port = 64, 1, 0
    server = xllamacpp.Server(parameters)
    # Three tokens: the blank, and half of a character of four bytes.
    found = {stream: complete(server, 3, stream) for stream in (False, True)}
    del server
print(f"xllamacpp {version('xllamacpp')}, at once:", ascii(found[False]), "streamed:", ascii(found[True]))
print("reproduced" if found == {False: " \ufffd", True: " "} else "not reproduced")
