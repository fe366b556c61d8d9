# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""One folder on two backends: the same text, at another speed.

python examples/04_swap_the_backend.py [FOLDER]
"""

import sys

from genai_iface import TextGenerationPipeline

FOLDER = sys.argv[1] if len(sys.argv) > 1 else None  # None: the model that comes with the package
PROMPT = "The Attention operator"

texts = []
for backend in ("numpy", "ort"):
    with TextGenerationPipeline(FOLDER, backend=backend) as pipe:
        pipe.generate(PROMPT, max_new_tokens=2)  # a backend may set things up in its first steps
        result = pipe.generate(PROMPT, max_new_tokens=48)
    texts.append(result.text)
    print(f"{backend}: {result.perf_metrics.decode_tokens_per_second:.0f} tokens/s")

print("equal texts:", texts[0] == texts[1])
print(PROMPT + texts[0])
