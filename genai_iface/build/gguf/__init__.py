# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Internal: GGUF files, which hold quantized weights and a tokenizer; needs the extra "gguf"."""

from genai_iface.build.gguf.header import check_whole
from genai_iface.build.gguf.matrices import read_gguf
from genai_iface.build.gguf.reader import parsed_once
from genai_iface.build.gguf.tokenizer import split_rule, write_tokenizer

__all__ = ["check_whole", "parsed_once", "read_gguf", "split_rule", "write_tokenizer"]
