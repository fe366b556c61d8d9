# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""How objects show themselves: one line in a console, a small table in a notebook.

A class that inherits ``Displayed`` says its facts once, and both forms are made of them. Nothing here reads more than
the standard library, so that any class may use it.
"""

from __future__ import annotations

from genai_iface.display._displayed import (
    Displayed,
    as_html,
    as_text,
    cache_facts,
    in_bytes,
    model_facts,
    spec_facts,
)
from genai_iface.display._notebook import (
    NotebookBar,
    ShownStream,
    count_tokens,
    notebook_bar,
    notebook_part,
    notebook_prefill,
)

__all__ = [
    "Displayed",
    "NotebookBar",
    "ShownStream",
    "as_html",
    "as_text",
    "cache_facts",
    "count_tokens",
    "in_bytes",
    "model_facts",
    "notebook_bar",
    "notebook_part",
    "notebook_prefill",
    "spec_facts",
]
