# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Random walks over model and cache, held against an oracle that keeps whole sequences.

A walk is a program of operations drawn from a seed. When it fails it is made as short as it can be and printed as
Python; ``open_fresh`` is what such a print starts with, and ``draw_tokens`` gives its longer prompts.
"""

from genai_iface.conformance.walk._machine import open_fresh
from genai_iface.conformance.walk._rows import draw_tokens

__all__ = ["draw_tokens", "open_fresh"]
