# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The shortest program: the embedded model on the reference backend, from prompt to text.

python examples/01_generate.py
"""

from genai_iface import TextGenerationPipeline

with TextGenerationPipeline() as pipe:
    print(pipe.generate("The TensorScatter operator", max_new_tokens=40).text)
