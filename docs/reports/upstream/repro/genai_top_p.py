# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime GenAI: top_p without top_k lets through tokens outside of the nucleus. See ../21-genai-top-p.md."""

import json
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime_genai as og
from onnx import TensorProto, helper, numpy_helper

VOCAB, DRAWS, TOP_P = 200, 400, 0.6
# Falling evenly from the first token to the last.
PROBABILITIES = np.arange(VOCAB, 0, -1) / np.arange(VOCAB, 0, -1).sum()
NUCLEUS = int(np.argmax(PROBABILITIES.cumsum() >= TOP_P)) + 1


def write_model(folder):
    past, present = ["batch", 1, "past", 4], ["batch", 1, "total", 4]
    constants = {"table": np.tile(np.log(PROBABILITIES), (VOCAB, 1)), "new": np.zeros((VOCAB, 4))}
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["logits"]),
        helper.make_node("Gather", ["new", "input_ids"], ["flat"]),
        helper.make_node("Unsqueeze", ["flat", "one"], ["tail"]),
    ]
    values = [("past_key_values.0.key", "present.0.key"), ("past_key_values.0.value", "present.0.value")]
    nodes += [helper.make_node("Concat", [name, "tail"], [out], axis=2) for name, out in values]
    inputs = [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "sequence"])]
    inputs += [helper.make_tensor_value_info(name, TensorProto.FLOAT, past) for name, _ in values]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "sequence", VOCAB])]
    outputs += [helper.make_tensor_value_info(name, TensorProto.FLOAT, present) for _, name in values]
    weights = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in constants.items()]
    weights.append(numpy_helper.from_array(np.array([1]), "one"))
    graph = helper.make_graph(nodes, "constant", inputs, outputs, weights)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), folder / "model.onnx"
    )
    decoder = {"filename": "model.onnx", "head_size": 4, "hidden_size": 4, "num_attention_heads": 1}
    decoder |= {"num_hidden_layers": 1, "num_key_value_heads": 1, "session_options": {"provider_options": []}}
    kinds = {"past_key_names": "past_key_values.%d.key", "past_value_names": "past_key_values.%d.value"}
    decoder["inputs"] = {"input_ids": "input_ids", **kinds}
    kinds = {"present_key_names": "present.%d.key", "present_value_names": "present.%d.value"}
    decoder["outputs"] = {"logits": "logits", **kinds}
    model = {"type": "llama", "context_length": 16, "vocab_size": VOCAB, "eos_token_id": 199, "pad_token_id": 199}
    config = {"model": {**model, "decoder": decoder}, "search": {"max_length": 16}}
    (folder / "genai_config.json").write_text(json.dumps(config))


def num_outside(model, top_k):
    drawn = Counter()
    for seed in range(DRAWS):
        parameters = og.GeneratorParams(model)
        options = {"do_sample": True, "top_k": top_k, "top_p": TOP_P, "temperature": 1.0, "random_seed": seed}
        parameters.set_search_options(max_length=8, **options)
        generator = og.Generator(model, parameters)
        generator.append_tokens(np.array([[5]], np.int32))
        generator.generate_next_token()
        drawn[int(generator.get_next_tokens()[0])] += 1
    return sum(count for token, count in drawn.items() if token >= NUCLEUS)


with tempfile.TemporaryDirectory() as path:
    write_model(Path(path))
    model = og.Model(path)
    found = {top_k: num_outside(model, top_k) for top_k in (0, VOCAB)}
    del model
print(f"draws outside of the nucleus of {NUCLEUS} tokens, of {DRAWS}, by top_k:", found)
print("reproduced" if found[0] > 0 == found[VOCAB] else "not reproduced")
