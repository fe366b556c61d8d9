# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What is built from: a Hugging Face checkpoint folder or a GGUF file, read by Transformers."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging

from genai_iface.build._config_sizes import check_layers, check_sizes
from genai_iface.errors import InvalidInputError, UnsupportedModelError
from genai_iface.folder import find_inside, open_root, refuse_own_code
from genai_iface.types import DType

__all__ = ["Checkpoint", "open_checkpoint", "quiet_transformers"]

# What Transformers, safetensors and gguf raise for files whose parts contradict each other.
_BROKEN: tuple[type[Exception], ...] = (
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


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where the weights are.

    Attributes:
        folder: The real path of the folder.
        gguf: Name of the GGUF file in it, None for safetensors.
    """

    folder: Path
    gguf: str | None = None

    @property
    def name(self) -> str:
        """The name for people: the file's, or the folder's."""
        return self.gguf or self.folder.name

    def config(self) -> Any:
        """Its Transformers configuration.

        Raises:
            InvalidInputError: config.json or the GGUF file is not understood.
            UnsupportedModelError: It needs code of its own, which is never run.
        """
        try:
            with quiet_transformers():
                return AutoConfig.from_pretrained(
                    self.folder, local_files_only=True, trust_remote_code=False, **self._gguf_option()
                )
        except _BROKEN as error:
            self._refuse_own_code()
            raise InvalidInputError(
                f"The configuration of {self.name!r} is not understood: {_short(error)}",
                remedy="Give a checkpoint whose model type Transformers knows without code of its own.",
            ) from error

    def load(self, dtype: DType) -> Any:
        """The network in evaluation mode, with its plain attention and its experts in a form that can be traced.

        Raises:
            InvalidInputError: Weights are missing or broken.
            UnsupportedModelError: It is not a decoder that Transformers knows.
        """
        config = self.config()
        files = [self.folder / self.gguf] if self.gguf is not None else self.folder.glob("*.safetensors")
        check_sizes(config, sum(file.stat().st_size for file in files), self.name)
        if self.gguf is not None:
            check_layers(config, self.folder / self.gguf)
        options = {"use_safetensors": True} if self.gguf is None else self._gguf_option()
        try:
            with quiet_transformers():
                network, loading = AutoModelForCausalLM.from_pretrained(
                    self.folder,
                    config=config,
                    dtype=getattr(torch, dtype),
                    attn_implementation="eager",
                    experts_implementation="batched_mm",
                    local_files_only=True,
                    trust_remote_code=False,
                    output_loading_info=True,
                    **options,
                )
        except ValueError as error:
            self._refuse_own_code()
            raise UnsupportedModelError(
                f"Transformers has no causal language model for {config.model_type!r}: {_short(error)}",
                remedy="Give the checkpoint of a decoder.",
            ) from error
        except _BROKEN as error:
            raise InvalidInputError(
                f"The weights of {self.name!r} cannot be loaded: {_short(error)}", remedy="Copy the checkpoint again."
            ) from error
        absent = sorted(loading["missing_keys"])
        if absent and self.gguf is None:
            raise InvalidInputError(
                f"The checkpoint {self.name!r} is missing {len(absent)} weights, among them {absent[0]}",
                remedy="Copy it again, with all of its safetensors files.",
            )
        return network.eval().requires_grad_(False)

    def _refuse_own_code(self) -> None:
        if self.gguf is None:
            refuse_own_code(self.folder)

    def _gguf_option(self) -> dict[str, str]:
        return {} if self.gguf is None else {"gguf_file": self.gguf}


def open_checkpoint(path: str | PathLike[str]) -> Checkpoint:
    """Finds out what a path holds.

    Raises:
        InvalidInputError: It is neither a checkpoint folder nor a GGUF file.
    """
    source = Path(path)
    if source.is_file():
        if source.suffix != ".gguf":
            raise InvalidInputError(
                f"{str(source)!r} is not a GGUF file", remedy="Give a folder with config.json, or a file NAME.gguf."
            )
        missing = [name for name in ("accelerate", "gguf") if find_spec(name) is None]
        if missing:
            raise InvalidInputError(
                f"Reading a GGUF file needs {' and '.join(missing)}, which is not installed",
                remedy="pip install 'genai-iface[gguf]'",
            )
        return Checkpoint(source.resolve().parent, source.name)
    if not source.exists():
        raise InvalidInputError(
            f"There is no {str(source)!r}",
            remedy="Give a local Hugging Face folder, or a GGUF file; nothing is downloaded.",
        )
    root = open_root(source)
    if find_inside(root, "config.json") is None:
        raise InvalidInputError(
            f"There is no config.json in {str(source)!r}", remedy="Give a Hugging Face checkpoint folder."
        )
    if not any(root.glob("*.safetensors")):
        raise InvalidInputError(
            f"There are no weights (model.safetensors) in {str(source)!r}",
            remedy="Copy the checkpoint's safetensors files there; pickled weights are not read.",
        )
    for file in (*root.glob("*.safetensors"), *root.glob("*.safetensors.index.json")):
        find_inside(root, file.name)  # raises if it is a link that leads out
    return Checkpoint(root)


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


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
