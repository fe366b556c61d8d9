# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Writes the tables of parameters.md from ``GenerationConfig`` itself: one row for each field."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Mapping

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

from genai_iface.config import ALIASES, GenerationConfig, legal_values

MARKER = re.compile(r"<!-- parameters: ([\w -]+) -->")

GROUPS: Mapping[str, tuple[str, ...]] = {
    "length": ("max_new_tokens", "max_length", "min_new_tokens", "max_time"),
    "drawing": ("do_sample", "temperature", "top_k", "top_p", "min_p", "typical_p", "seed"),
    "discouraging": (
        "repetition_penalty",
        "presence_penalty",
        "frequency_penalty",
        "no_repeat_ngram_size",
        "logit_bias",
        "bad_words_ids",
    ),
    "form": ("json_schema", "regex", "lark_grammar"),
    "ending": (
        "eos_token_id",
        "stop_token_ids",
        "stop_strings",
        "include_stop_str_in_output",
        "ignore_eos",
    ),
    "beams": ("num_beams", "num_beam_groups", "diversity_penalty", "length_penalty", "early_stopping"),
    "output": ("num_return_sequences", "logprobs", "echo"),
}

# What the same thing is called where it is not called the same. HF is Transformers, OG is ONNX Runtime GenAI.
ELSEWHERE: Mapping[str, str] = {
    "max_new_tokens": "vLLM `max_tokens`; llama.cpp `n_predict`",
    "min_new_tokens": "OG `min_length` (prompt included); vLLM `min_tokens`",
    "seed": "OG `random_seed`",
    "json_schema": 'OG `set_guidance("json_schema", ...)`; vLLM `structured_outputs.json`',
    "regex": 'OG `set_guidance("regex", ...)`; vLLM `structured_outputs.regex`',
    "lark_grammar": 'OG `set_guidance("lark_grammar", ...)`; vLLM `structured_outputs.grammar`',
    "stop_strings": "vLLM `stop`",
    "repetition_penalty": "llama.cpp `repeat_penalty`",
    "num_return_sequences": "vLLM `n`",
    "stop_token_ids": "HF: more values of `eos_token_id`",
    "logit_bias": "HF `sequence_bias`",
    "bad_words_ids": "vLLM `bad_words` (texts)",
}


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Replaces each marker by the table of its group."""
    return MARKER.sub(lambda match: table(match[1]), markdown)


def table(group: str) -> str:
    """The rows of one group of fields."""
    fields = {field.name: field for field in dataclasses.fields(GenerationConfig)}
    meanings = descriptions()
    default = GenerationConfig()
    lines = ["| Field | Default | Legal | Meaning | Also called |", "|---|---|---|---|---|"]
    for name in GROUPS[group]:
        own = [f"`{alias}`" for alias, target in ALIASES.items() if target == fields[name].name]
        names = "; ".join([*own, *([ELSEWHERE[name]] if name in ELSEWHERE else [])])
        value = getattr(default, name)
        shown = "`{}`" if name == "logit_bias" else f"`{value!r}`"
        cells = [f"`{name}`", shown, legal_values(name), meanings[name], names]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def descriptions() -> dict[str, str]:
    """What each field means, from the docstring of ``GenerationConfig``."""
    text = inspect.getdoc(GenerationConfig) or ""
    _, _, attributes = text.partition("Attributes:\n")
    found = re.findall(r"^ {4}(\w+): (.+?)(?=^ {4}\w+: |\Z)", attributes, re.MULTILINE | re.DOTALL)
    return {name: " ".join(meaning.split()) for name, meaning in found}
