# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""transformers.js: top_p is taken and not used. See ../25-transformers-js-top-p.md."""

import json
import os
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

VOCAB, DRAWS, TOP_P = 200, 400, 0.6
# Falling evenly from the first token to the last.
PROBABILITIES = np.arange(VOCAB, 0, -1) / np.arange(VOCAB, 0, -1).sum()
NUCLEUS = int(np.argmax(PROBABILITIES.cumsum() >= TOP_P)) + 1

SCRIPT = """
const { AutoModelForCausalLM, Tensor, env } = require("@huggingface/transformers");
const [root, draws, topP, nucleus] = process.argv.slice(1);
(async () => {
  env.allowRemoteModels = false;
  env.localModelPath = root;
  const options = { local_files_only: true, dtype: "fp32", device: "cpu", subfolder: "" };
  const model = await AutoModelForCausalLM.from_pretrained("model", options);
  const ids = (values) => new Tensor("int64", BigInt64Array.from(values, BigInt), [1, values.length]);
  const count = async (settings) => {
    let outside = 0;
    for (let draw = 0; draw < Number(draws); draw++) {
      const given = { inputs: ids([5]), attention_mask: ids([1]), do_sample: true, max_new_tokens: 1, ...settings };
      const said = await model.generate(given);
      if (Number(said.data[1]) >= Number(nucleus)) outside += 1;
    }
    return outside;
  };
  console.log(env.version, await count({ top_k: 0, top_p: Number(topP) }), await count({ top_k: Number(nucleus) }));
})();
"""


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
    config = {"model_type": "llama", "hidden_size": 4, "num_attention_heads": 1, "num_key_value_heads": 1}
    config |= {"num_hidden_layers": 1, "vocab_size": VOCAB, "max_position_embeddings": 16, "eos_token_id": VOCAB - 1}
    (folder / "config.json").write_text(json.dumps(config))


with tempfile.TemporaryDirectory() as path:
    model = Path(path) / "model"
    model.mkdir()
    write_model(model)
    # NODE_PATH names the folder node_modules that @huggingface/transformers is in.
    command = ["node", "-e", SCRIPT, path, str(DRAWS), str(TOP_P), str(NUCLEUS)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ)
    version, with_top_p, with_top_k = done.stdout.split()
print(f"transformers.js {version}: draws outside of the nucleus of {NUCLEUS} tokens, of {DRAWS}:")
print(f"top_p {TOP_P}: {with_top_p}; top_k {NUCLEUS}: {with_top_k}")
print("reproduced" if int(with_top_p) > 0 == int(with_top_k) else "not reproduced")
