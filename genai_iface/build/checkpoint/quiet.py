# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Transformers without its own talk, and what it raises for broken files."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers.utils import logging

__all__ = ["BROKEN", "quiet_transformers", "shortened"]

BROKEN: tuple[type[Exception], ...] = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    MemoryError,
    NameError,
    OSError,
    RuntimeError,
    SafetensorError,
    StrictDataclassError,
    TypeError,
    ValueError,
    struct.error,
)
"""What Transformers, safetensors, peft and gguf raise for files whose parts contradict each other."""


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Without Transformers' own bars and tables; what matters in them is an error here."""
    verbosity, has_bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if has_bar:
            logging.enable_progress_bar()


def shortened(error: BaseException) -> str:
    """An error of another package in one line."""
    return " ".join(str(error).split())[:300] or type(error).__name__
