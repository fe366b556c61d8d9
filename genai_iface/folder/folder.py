# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""``open_folder`` and ``ModelFolder``: a folder that was checked, and its signature."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import cached_property
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import Any

import onnx
import onnx_ir as ir

from genai_iface.config import GenerationConfig, stored_end_tokens
from genai_iface.errors import InvalidInputError
from genai_iface.folder._collector import collector_paused
from genai_iface.folder._files import find_inside, open_root, read_json
from genai_iface.folder._load import read_model
from genai_iface.folder.tokenizer import FolderTokenizer
from genai_iface.graph.derive import derive_signature
from genai_iface.graph.signature import GraphSignature
from genai_iface.types import ModelSpec

__all__ = ["ModelFolder", "open_folder", "open_texts"]

_NO_LIMIT = 2**31 - 1
_CONTEXT_FIELDS = (
    "max_position_embeddings",
    "n_positions",
    "n_ctx",
    "max_sequence_length",
    "max_seq_len",
    "seq_length",
)


def open_folder(path: str | PathLike[str], /) -> ModelFolder:
    """Checks a model folder and derives the signature of its graph.

    Args:
        path: A folder in Hugging Face's form with a ``model.onnx`` in it.

    Raises:
        InvalidInputError: A file is missing, broken, or leads out of the folder.
        UnsupportedModelError: The graph follows no known pattern.
    """
    root = open_root(path)
    with collector_paused():
        model, files = read_model(root)
        signature = derive_signature(model)
    config = read_json(root, "config.json") or {}
    folder = ModelFolder(root, signature, config, files)
    folder.check()
    return folder


def open_texts(path: str | PathLike[str], /) -> tuple[FolderTokenizer, GenerationConfig]:
    """Opens what a folder says about texts, for a runtime that reads the model itself, in whatever form it has.

    Args:
        path: A folder with a ``tokenizer.json`` in it.

    Returns:
        The tokenizer, and the folder's generation config as ``ModelFolder.generation_config`` gives it.

    Raises:
        InvalidInputError: A file is missing or broken, or leads out of the folder.
    """
    root = open_root(path)
    tokenizer = FolderTokenizer(root)
    return tokenizer, _generation_config(root, read_json(root, "config.json") or {}, lambda: tokenizer)


class ModelFolder:
    """A model folder that was checked. Read-only; the tokenizer and the weights are read on first use.

    Attributes:
        path: The folder's real path.
        signature: How to drive the graph.
        config: config.json, empty if there is none.
    """

    def __init__(
        self, path: Path, signature: GraphSignature, config: Mapping[str, Any], files: tuple[Path, ...]
    ) -> None:
        self._path = path
        self._signature = signature
        self._config = MappingProxyType(dict(config))
        self._files = files

    @property
    def path(self) -> Path:
        """The folder's real path."""
        return self._path

    @property
    def signature(self) -> GraphSignature:
        """How to drive the graph."""
        return self._signature

    @property
    def config(self) -> Mapping[str, Any]:
        """config.json, empty if there is none."""
        return self._config

    @property
    def files(self) -> tuple[Path, ...]:
        """model.onnx and the files of its external data."""
        return self._files

    @cached_property
    def context_length(self) -> int | None:
        """The most tokens of a sequence, by config.json and by the graph's position tables; None if unbounded."""
        limits = [self._signature.max_positions] if self._signature.max_positions is not None else []
        for name in _CONTEXT_FIELDS:
            value = self._config_integer(name)
            if value is not None:
                limits.append(value)
        return min(limits, default=None)

    @cached_property
    def spec(self) -> ModelSpec:
        """What the model is, independent of the runtime."""
        return ModelSpec(self._signature.vocab_size, self.context_length, self._signature.cache)

    @cached_property
    def generation_config(self) -> GenerationConfig:
        """generation_config.json; its end-of-sequence token else from config.json, else from the tokenizer.

        Raises:
            InvalidInputError: The file is broken or holds an illegal value.
        """
        return _generation_config(self._path, self._config, lambda: self.tokenizer)

    @cached_property
    def tokenizer(self) -> FolderTokenizer:
        """The folder's tokenizer.

        It may have ids that the logits lack (the tokens of images, in a model of text): such an id is an error once
        somebody passes it to the model.

        Raises:
            InvalidInputError: tokenizer.json is missing or broken.
        """
        return FolderTokenizer(self._path, num_ids=self._signature.vocab_size)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over model.onnx and its external data, in hexadecimal; the key of saved caches."""
        total = hashlib.sha256()
        for path in self._files:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256")
            total.update(f"{path.relative_to(self._path).as_posix()}\0{digest.hexdigest()}\n".encode())
        return total.hexdigest()

    def load_ir(self, *, inline: bool = True) -> ir.Model:
        """A fresh copy of the graph in ONNX IR, which the caller may change.

        Args:
            inline: Replace calls of local functions by their bodies.

        Returns:
            The model. External weights are mapped on first use, from inside the folder only.

        Raises:
            InvalidInputError: The file was changed or broken since the folder was opened.
        """
        return read_model(self._path, inline=inline)[0]

    def load_onnx(self) -> onnx.ModelProto:
        """The graph with all weights inside, local functions inlined.

        Raises:
            InvalidInputError: The file was changed or broken since the folder was opened.
        """
        model = self.load_ir()
        ir.external_data.load_to_model(model)
        return ir.to_proto(model)

    def check(self) -> None:
        """Compares the files with each other.

        Raises:
            InvalidInputError: config.json contradicts the graph.
        """
        vocabulary = self._config_integer("vocab_size")
        if vocabulary is not None and vocabulary > self._signature.vocab_size:
            raise InvalidInputError(
                f"config.json says vocab_size={vocabulary}, but the logits {self._signature.logits!r} have only "
                f"{self._signature.vocab_size} columns",
                remedy="Take config.json from the checkpoint that the model was exported from.",
            )
        _ = self.context_length

    def _config_integer(self, name: str) -> int | None:
        """A positive integer of config.json or of its text_config, None where it is not set."""
        text = self._config.get("text_config")
        value = self._config.get(name)
        if value is None and isinstance(text, Mapping):
            value = text.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InvalidInputError(
                f"config.json in {str(self._path)!r} has {name}={repr(value)[:80]}, expected a positive integer",
                remedy="Repair that field or remove it.",
            )
        # Some checkpoints say "no limit" by a number without meaning.
        return min(value, _NO_LIMIT)

    def __repr__(self) -> str:
        cache = self._signature.cache
        return f"ModelFolder({str(self._path)!r}, {cache.style} cache, {len(cache.layers)} layers)"


def _generation_config(
    root: Path, config: Mapping[str, Any], tokenizer: Callable[[], FolderTokenizer]
) -> GenerationConfig:
    path = find_inside(root, "generation_config.json")
    given = GenerationConfig() if path is None else GenerationConfig.from_file(path)
    if given.eos_token_id is not None:
        return given
    ends = stored_end_tokens(config.get("eos_token_id"))
    if ends is None and find_inside(root, "tokenizer.json") is not None:
        ends = tokenizer().eos_token_id
    return given if ends is None else given.replace(eos_token_id=ends)
