# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""A checkpoint exported by Transformers' own exporter, in this SDK's loop. Needs the extra "build".

python examples/06_transformers_export.py CHECKPOINT [BACKEND]
"""

import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.exporters import OnnxConfig, OnnxExporter

from genai_iface import TextGenerationPipeline

checkpoint = sys.argv[1]
backend = sys.argv[2] if len(sys.argv) > 2 else "numpy"

network = AutoModelForCausalLM.from_pretrained(checkpoint).eval()
tokenizer = AutoTokenizer.from_pretrained(checkpoint)

# Two rows, one of them padded: the graph then takes batches and a mask.
ids, mask = torch.tensor([[5, 6, 7], [0, 8, 9]]), torch.tensor([[1, 1, 1], [0, 1, 1]])
exported = OnnxExporter().export_for_generation(
    network, {"input_ids": ids, "attention_mask": mask}, OnnxConfig(dynamic=True), multi_token_decode=True
)

with TextGenerationPipeline.from_exported(exported, tokenizer=tokenizer, backend=backend) as pipe:
    result = pipe.generate(["An operator", "A tensor of any"], max_new_tokens=12, ignore_eos=True)
    print(result.token_ids)
    print("".join(chunk.text for chunk in pipe.stream("An operator", max_new_tokens=12)))
