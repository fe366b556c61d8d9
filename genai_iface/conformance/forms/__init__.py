# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Forms of the golden folders that are not kept but made: what a runtime with a model folder of its own reads.

write_form(GOLDEN / "text/concat-float32", "ort-genai", Path("text"))
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from genai_iface.conformance.forms._gguf import write_gguf
from genai_iface.conformance.forms._ort_genai import write_genai_config
from genai_iface.errors import InvalidInputError

__all__ = ["FORMS", "MADE_FORMS", "MadeForm", "write_form"]

_OF_TEXT = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


@dataclass(frozen=True, slots=True)
class MadeForm:
    """A form that is made of a kept one.

    Attributes:
        source: The kept form, "concat".
        write: Writes the runtime's own files, from a folder of the source form into another folder.
        files: Of the source folder, what is copied too, besides the tokenizer's files.
    """

    source: str
    write: Callable[[Path, Path], None]
    files: tuple[str, ...] = ()


MADE_FORMS: Mapping[str, MadeForm] = MappingProxyType(
    {
        "ort-genai": MadeForm("concat", write_genai_config, ("model.onnx",)),
        "gguf": MadeForm("checkpoint", write_gguf),
    }
)
"""By name: "ort-genai" has genai_config.json beside a graph with growing tensors, "gguf" has model.gguf."""

FORMS = ("scatter", "concat", "checkpoint", *MADE_FORMS)
"""Every form that a target may ask for."""


def write_form(folder: Path, form: str, target: Path, /) -> Path:
    """Makes a folder of a form of its own.

    Args:
        folder: A golden or fresh folder of the form's source form.
        form: A name of ``MADE_FORMS``.
        target: The folder to make; returned.

    Raises:
        InvalidInputError: There is no such form, or a package that writes it is not installed.
        NotApplicable: The form cannot hold this model.
    """
    if form not in MADE_FORMS:
        raise InvalidInputError(f"There is no form {form!r} to write", remedy=f"Forms: {', '.join(MADE_FORMS)}.")
    made = MADE_FORMS[form]
    target.mkdir(parents=True, exist_ok=True)
    for name in (*_OF_TEXT, *made.files):
        if (folder / name).is_file():
            shutil.copyfile(folder / name, target / name)
    made.write(folder, target)
    return target
