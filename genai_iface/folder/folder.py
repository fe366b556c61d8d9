# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""``open_folder`` and ``ModelFolder``: a folder that was checked, and its signature."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import Any

import onnx
import onnx_ir as ir

from genai_iface.config import GenerationConfig
from genai_iface.errors import InvalidInputError
from genai_iface.folder._collector import collector_paused
from genai_iface.folder._files import open_root
from genai_iface.folder._load import ReadModel, read_model
from genai_iface.folder.adjust import adjust_graph, disagreements
from genai_iface.folder.resolve import Located, locate
from genai_iface.folder.resolve._side_files import SideFiles
from genai_iface.folder.tokenizer import FolderTokenizer
from genai_iface.graph.derive import derive_signature
from genai_iface.graph.signature import GraphSignature
from genai_iface.types import ModelSpec

__all__ = ["ModelFolder", "open_folder", "open_texts", "open_with_texts"]

_NO_LIMIT = 2**31 - 1
_CONTEXT_FIELDS = (
    "max_position_embeddings",
    "n_positions",
    "n_ctx",
    "max_sequence_length",
    "max_seq_len",
    "seq_length",
)


def open_folder(
    source: str | PathLike[str], /, *, variant: str | None = None, revision: str | None = None
) -> ModelFolder:
    """Finds a model, checks its files and derives the signature of its graph.

    Args:
        source: A folder, a ``.onnx`` file, or an id ``ORG/NAME[:VARIANT]`` of the Hugging Face Hub, which is downloaded
            if it is not in the local cache. A ``Path`` is never taken for an id.
        variant: Which of several models to take, as ``genai-iface inspect`` names them; None for the fullest precision.
        revision: A branch, tag or commit of the repository.

    Raises:
        InvalidInputError: There is no such model, a file is missing, broken, or leads out of the folder.
        UnsupportedModelError: The graph follows no known pattern, or is in a form that is not read.
    """
    return _open_located(locate(source, variant=variant, revision=revision))


def open_with_texts(source: str | PathLike[str], texts: str | PathLike[str], /) -> ModelFolder:
    """As ``open_folder``, with the tokenizer of another folder, even if there is one beside the model.

    Args:
        source: As for ``open_folder``.
        texts: A folder with ``tokenizer.json`` in it. Configurations that the model lacks are read from there too.

    Raises:
        GenAIError: As ``open_folder``.
    """
    located, root = locate(source), open_root(texts)
    return _open_located(replace(located, levels=(*located.levels, root)), texts=root)


def _open_located(located: Located, *, texts: Path | None = None) -> ModelFolder:
    side = SideFiles(located.levels, texts=texts)
    with collector_paused():
        read = read_model(located.folder, located.file)
        changes = adjust_graph(read.model, side)
        signature = derive_signature(read.model)
        disputed = disagreements(read.model, side)
    folder = ModelFolder(located, signature, side, read, changes, disputed)
    folder.check()
    return folder


def open_texts(
    source: str | PathLike[str], /, *, variant: str | None = None, revision: str | None = None
) -> tuple[FolderTokenizer, GenerationConfig]:
    """Opens what a folder says about texts, for a runtime that reads the model itself, in whatever form it has.

    Args:
        source: A folder with a ``tokenizer.json`` in it, or what ``open_folder`` takes.
        variant: As for ``open_folder``.
        revision: As for ``open_folder``.

    Returns:
        The tokenizer, and the folder's generation config as ``ModelFolder.generation_config`` gives it.

    Raises:
        InvalidInputError: A file is missing or broken, or leads out of the folder.
    """
    is_plain = variant is None and revision is None and Path(source).is_dir()
    side = SideFiles((open_root(source),) if is_plain else locate(source, variant=variant, revision=revision).levels)
    tokenizer = FolderTokenizer(side.home_of("tokenizer.json"))
    return tokenizer, side.generation_config(lambda: tokenizer)


class ModelFolder:
    """A model that was found and checked. Read-only; the tokenizer and the weights are read on first use.

    Args:
        located: Where its files are.
        signature: How to drive the graph.
        side: What stands beside the graph.
        read: The graph as it was read.
        changes: What was changed in it.
        disputed: Where it and the files beside it disagree.
    """

    def __init__(
        self,
        located: Located,
        signature: GraphSignature,
        side: SideFiles,
        read: ReadModel,
        changes: tuple[str, ...],
        disputed: tuple[str, ...] = (),
    ) -> None:
        self._located = located
        self._signature = signature
        self._side = side
        self._files = dict(read.files)
        self._weights = read.weights
        self._changes = changes
        self._disputed = disputed

    @property
    def path(self) -> Path:
        """The real path of the folder that holds the graph."""
        return self._located.folder

    @property
    def model_path(self) -> Path:
        """The file of the graph in that folder; in a cache it may be a link."""
        return self._located.folder / self._located.file

    @property
    def source(self) -> Path:
        """What names this model and no other for ``Backend.load`` and ``open_folder``: the folder, or the file."""
        return self._located.path

    @property
    def levels(self) -> tuple[Path, ...]:
        """The folders in which the other files are looked for, the nearest first; ``path`` is the first."""
        return self._located.levels

    @property
    def weights_folder(self) -> Path:
        """The folder that the names of external data in ``load_ir`` are relative to."""
        return self._weights

    @property
    def is_as_on_disk(self) -> bool:
        """Whether ``load_ir`` gives what ``model_path`` holds; else a runtime must take the graph from there."""
        return not self._changes and self._weights == self._located.folder

    @property
    def changes(self) -> tuple[str, ...]:
        """What ``load_ir`` changes in the graph of the file, exactly and each time in the same way; one line each."""
        return self._changes

    @property
    def notes(self) -> tuple[str, ...]:
        """What was decided and changed when the model was opened, and why; one line each."""
        return (*self._located.notes, *self._changes, *self._disputed, *self._side.notes)

    @property
    def signature(self) -> GraphSignature:
        """How to drive the graph."""
        return self._signature

    @property
    def config(self) -> Mapping[str, Any]:
        """config.json, or what genai_config.json says in its place; empty if there is neither."""
        return MappingProxyType(dict(self._side.config))

    @property
    def files(self) -> tuple[Path, ...]:
        """The model's file and the files of its external data."""
        return tuple(dict.fromkeys(self._files.values()))

    @property
    def file_names(self) -> tuple[str, ...]:
        """What ``files`` are called in the folder of the graph, in their order but for files of several names."""
        return tuple(self._files)

    def find(self, name: str) -> Path | None:
        """The real path of a file beside the model, in the nearest of ``levels`` that has it; None if none has.

        Raises:
            InvalidInputError: It leaves its folder, or is not a regular file.
        """
        return self._side.find(name)

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
        """generation_config.json; its end-of-sequence token else from genai_config.json, config.json or the tokenizer.

        Raises:
            InvalidInputError: The file is broken or holds an illegal value.
        """
        return self._side.generation_config(lambda: self.tokenizer)

    @cached_property
    def tokenizer(self) -> FolderTokenizer:
        """The folder's tokenizer.

        It may have ids that the logits lack (the tokens of images, in a model of text): such an id is an error once
        somebody passes it to the model.

        Raises:
            InvalidInputError: tokenizer.json is missing or broken.
        """
        return FolderTokenizer(self._side.home_of("tokenizer.json"), num_ids=self._signature.vocab_size)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the model's file and its external data, in hexadecimal; the key of saved caches."""
        total = hashlib.sha256()
        for name, path in self._files.items():
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256")
            total.update(f"{name}\0{digest.hexdigest()}\n".encode())
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
        read = read_model(self.path, self._located.file, inline=inline)
        adjust_graph(read.model, self._side)
        return read.model

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
                f"{self._side.config_name} says vocab_size={vocabulary}, but the logits {self._signature.logits!r} "
                f"have only {self._signature.vocab_size} columns",
                remedy="Take config.json from the checkpoint that the model was exported from.",
            )
        _ = self.context_length

    def _config_integer(self, name: str) -> int | None:
        """A positive integer of config.json or of its text_config, None where it is not set."""
        config = self._side.config
        text = config.get("text_config")
        value = config.get(name)
        if value is None and isinstance(text, Mapping):
            value = text.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InvalidInputError(
                f"{self._side.config_name} of {str(self.path)!r} has {name}={repr(value)[:80]}, "
                "expected a positive integer",
                remedy="Repair that field or remove it.",
            )
        # Some checkpoints say "no limit" by a number without meaning.
        return min(value, _NO_LIMIT)

    def __repr__(self) -> str:
        cache = self._signature.cache
        return f"ModelFolder({str(self.path)!r}, {cache.style} cache, {len(cache.layers)} layers)"
