# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Transformers without its own talk, and what it raises for broken files."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import modeling_gguf_pytorch_utils
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
    # Reading GGUF has a bar of its own, which knows of no setting.
    bar = modeling_gguf_pytorch_utils.tqdm
    modeling_gguf_pytorch_utils.tqdm = _without_bar
    try:
        yield
    finally:
        modeling_gguf_pytorch_utils.tqdm = bar
        logging.set_verbosity(verbosity)
        if has_bar:
            logging.enable_progress_bar()


def _without_bar(items: Iterable[Any], **_: Any) -> Iterable[Any]:
    return items


def shortened(error: BaseException) -> str:
    """An error of another package in one line."""
    return " ".join(str(error).split())[:300] or type(error).__name__
