# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Targets of the profile "text": prompts in, text out. ``UrlAdapter`` is one over an OpenAI-compatible endpoint."""

from genai_iface.conformance.text._endpoint import UrlAdapter
from genai_iface.conformance.text._result import Completion, TextResult
from genai_iface.conformance.text._target import TextPipeline, TextTarget

__all__ = ["Completion", "TextPipeline", "TextResult", "TextTarget", "UrlAdapter"]
