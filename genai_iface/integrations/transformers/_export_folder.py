# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What Transformers' exporters made, in memory or in a folder, opened as any model folder."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from os import PathLike
from pathlib import Path
from typing import Protocol

from genai_iface.folder import ModelFolder, open_folder, open_with_texts

__all__ = ["Exported", "open_export"]


class Exported(Protocol):
    """What is used of an ``ExportedModel`` or a tokenizer of Transformers."""

    def save_pretrained(self, save_directory: str | PathLike[str]) -> object:
        """Writes its files into a folder."""


@contextmanager
def open_export(
    source: str | PathLike[str] | Exported, /, *, tokenizer: str | PathLike[str] | Exported | None = None
) -> Iterator[ModelFolder]:
    """Opens what Transformers exported, for as long as the block runs.

    A folder is read where it lies. Objects are saved first, to temporary folders that go with the block.

    Args:
        source: A folder with ``export.json``, as ``open_folder`` takes it, or an ``ExportedModel``.
        tokenizer: Where the tokenizer is if not in that folder: a folder with tokenizer.json, or a fast tokenizer of
            Transformers. Chat templates come from there too.

    Yields:
        The opened folder. ``source`` of it is what backends load.

    Raises:
        InvalidInputError: A file is missing or broken.
        UnsupportedModelError: The export is for another runtime, or is not one decoder of text.
    """
    with ExitStack() as stack:
        folder = _saved(source, stack)
        yield open_folder(folder) if tokenizer is None else open_with_texts(folder, _saved(tokenizer, stack))


def _saved(given: str | PathLike[str] | Exported, stack: ExitStack) -> str | PathLike[str]:
    """The folder that was given, or one that holds the object."""
    if isinstance(given, (str, PathLike)):
        return given
    made = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="genai-iface-")))
    given.save_pretrained(made)
    return made
