# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Pipelines and rules for the tests of constrained output."""

from __future__ import annotations

from typing import Any

import pytest

from genai_iface import TextGenerationPipeline
from tests.fakes import FakeModel
from tests.generation.text.tokenizers_for_tests import byte_level, metaspace

KINDS = {"byte_level": byte_level(), "metaspace": metaspace()}
kinds = pytest.mark.parametrize("kind", KINDS)

# Ids that the model has and the tokenizer does not.
PADDING = 21

# Without blanks between the parts, of which a random model would write endless ones.
TIGHT = {"x-guidance": {"whitespace_flexible": False}}
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "age": {"type": "integer", "minimum": 0, "maximum": 130},
        "tags": {"type": "array", "items": {"enum": ["a", "b", "é"]}, "maxItems": 3},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
    **TIGHT,
}
NESTED = 'start: "(" start ")" | "x"'


def pipeline_of(tokenizer: Any, **options: Any) -> TextGenerationPipeline:
    model = FakeModel(tokenizer.vocab_size + PADDING, context_length=2000, **options)
    return TextGenerationPipeline.from_parts(model, tokenizer)


def pipeline(kind: str, **options: Any) -> TextGenerationPipeline:
    return pipeline_of(KINDS[kind], **options)
