# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Ask the embedded model about every operator, and count by rule how many answers are about it.

An answer counts when it names the operator and shares a content word with the operator's description in the
schema. That says that it is on its subject, and not that it is true.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from genai_iface import TextGenerationPipeline
from tools.train_embedded.text import onnx_docs
from tools.train_embedded.text.questions import purpose

#: The first is one of training's phrasings, the second is not.
PHRASINGS = ("What does {name} do?", "I would like to know what {name} is good for")
LONGEST = 120
BATCH = 16
_COMMON_WORDS = (
    "about above after also another been before being below both each either from given have into like more most must "
    "only other same should some such than that their them then there these this those used uses using value values "
    "when where which while will with operator operators standard words default onnx input inputs output outputs "
    "tensor tensors"
)
_COMMON = frozenset(_COMMON_WORDS.split())


def content_words(text: str) -> set[str]:
    """Return the words of a text that say something: four letters or more, and not in every description."""
    return {word for word in re.findall(r"[a-z]{4,}", text.lower()) if word not in _COMMON}


def is_about(answer: str, name: str, description: str) -> bool:
    """Tell whether an answer names an operator and shares a content word, other than the name, with its description."""
    if re.search(rf"\b{re.escape(name)}\b", answer) is None:
        return False
    return bool((content_words(answer) & content_words(description)) - {name.lower()})


def score_answers(folder: Path) -> list[dict[str, Any]]:
    """Ask about all operators that have a description.

    Returns:
        For each phrasing, seen and held-out operators apart: how many were asked about, how many answers are about
        the operator, how many ended by themselves, and how many repeat the answer that training would have given.
    """
    schemas = [schema for schema in onnx_docs.operators() if content_words(schema.doc or "")]
    out = []
    with TextGenerationPipeline(folder) as pipe:
        for phrasing in PHRASINGS:
            rows = []
            for batch in (schemas[at : at + BATCH] for at in range(0, len(schemas), BATCH)):
                asked = [{"role": "user", "content": phrasing.format(name=schema.name)} for schema in batch]
                texts = [pipe.tokenizer.apply_chat_template([message]) for message in asked]
                prompts = [pipe.tokenizer.encode(text, add_special_tokens=False) for text in texts]
                result = pipe.generate(prompts, max_new_tokens=LONGEST)
                for schema, text, reason in zip(batch, result.texts, result.finish_reasons, strict=True):
                    about = is_about(text, schema.name, schema.doc or "")
                    verbatim = text.strip() == purpose(schema)
                    rows.append((onnx_docs.is_held_out(schema.name), about, reason == "stop", verbatim))
            for held_out in (False, True):
                group = [row for row in rows if row[0] == held_out]
                out.append({
                    "question": phrasing, "held_out": held_out, "operators": len(group),
                    "about": sum(row[1] for row in group), "ended": sum(row[2] for row in group),
                    "verbatim": sum(row[3] for row in group),
                })  # fmt: skip
    return out
