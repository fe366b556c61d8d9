# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""OpenVINO GenAI: the text of a stop token stays in the output. See ../26-openvino-genai-stop-token.md."""

import json
import tempfile
from pathlib import Path

import numpy as np
import onnx
import openvino
import openvino.opset13 as operators
import openvino_genai
import openvino_tokenizers
from onnx import TensorProto, helper, numpy_helper
from openvino._offline_transformations import apply_make_stateful_transformation
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

# Token a is followed by b, b by c, and so on; "<end>" is an end token that never comes.
LETTERS = "abcdefgh"
VOCAB, END = len(LETTERS) + 1, len(LETTERS)


def write_graph(path):
    names = [("past_key_values.0.key", "present.0.key"), ("past_key_values.0.value", "present.0.value")]
    following = np.roll(np.eye(VOCAB), 1, axis=1)[:END]
    table = np.concatenate((following, following[:1])).astype(np.float32) * 20
    weights = [numpy_helper.from_array(table, "table"), numpy_helper.from_array(np.array([1]), "one")]
    weights.append(numpy_helper.from_array(np.zeros((VOCAB, 4), np.float32), "new"))
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["logits"]),
        helper.make_node("Gather", ["new", "input_ids"], ["flat"]),
        helper.make_node("Unsqueeze", ["flat", "one"], ["tail"]),
    ]
    nodes += [helper.make_node("Concat", [past, "tail"], [present], axis=2) for past, present in names]
    inputs = [helper.make_tensor_value_info("input_ids", TensorProto.INT64, [1, "sequence"])]
    inputs += [helper.make_tensor_value_info(past, TensorProto.FLOAT, [1, 1, "past", 4]) for past, _ in names]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, "sequence", VOCAB])]
    outputs += [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, "total", 4]) for _, name in names]
    graph = helper.make_graph(nodes, "letters", inputs, outputs, weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    return dict(names)


def write_model(folder):
    names = write_graph(folder / "model.onnx")
    graph = openvino.Core().read_model(folder / "model.onnx")
    # Inputs that its loop gives every model.
    for name, kind, rank in (("attention_mask", np.int64, 2), ("beam_idx", np.int32, 1)):
        parameter = operators.parameter([-1] * rank, kind, name=name)
        parameter.output(0).get_tensor().set_names({name})
        graph.add_parameters([parameter])
    apply_make_stateful_transformation(graph, names)
    openvino.save_model(graph, folder / "openvino_model.xml", compress_to_fp16=False)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": VOCAB, "eos_token_id": END}))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": END}))
    tokenizer = Tokenizer(models.BPE({letter: number for number, letter in enumerate(LETTERS)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<end>"])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")
    parts = openvino_tokenizers.convert_tokenizer(fast, with_detokenizer=True)
    for part, name in zip(parts, ("openvino_tokenizer.xml", "openvino_detokenizer.xml"), strict=True):
        openvino.save_model(part, folder / name)


with tempfile.TemporaryDirectory() as path:
    write_model(Path(path))
    pipeline = openvino_genai.LLMPipeline(path, "CPU")
    settings = {"max_new_tokens": 6, "do_sample": False, "apply_chat_template": False}
    texts = {}
    for name, stop in (("stop_token_ids", {"stop_token_ids": {3}}), ("stop_strings", {"stop_strings": {"d"}})):
        texts[name] = str(pipeline.generate("a", **settings, **stop))
    del pipeline
print(f"openvino-genai {openvino_genai.__version__}:", texts)
print("reproduced" if texts == {"stop_token_ids": "bcd", "stop_strings": "bc"} else "not reproduced")
