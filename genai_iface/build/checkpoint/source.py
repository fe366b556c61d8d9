# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What is built from: a Hugging Face checkpoint folder, an adapter with its base, or a GGUF file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from os import PathLike
from pathlib import Path
from typing import Any

from genai_iface.build.checkpoint.adapter import ADAPTER_CONFIG, Adapter, base_of, read_adapter
from genai_iface.build.checkpoint.configuration import read_configuration
from genai_iface.build.checkpoint.weight_files import find_weights, has_weights
from genai_iface.errors import InvalidInputError
from genai_iface.folder import find_inside, open_root
from genai_iface.folder.resolve import as_checkpoint

__all__ = ["Checkpoint", "open_checkpoint"]

# An adapter of an adapter of an adapter is somebody's loop.
_MOST_ADAPTERS = 16


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where the weights are.

    Attributes:
        folder: The real path of the folder.
        gguf: Name of the GGUF file in it, None for safetensors.
        adapters: What is merged into the network, in this order.
    """

    folder: Path
    gguf: str | None = None
    adapters: tuple[Adapter, ...] = ()

    @property
    def name(self) -> str:
        """The name for people: the file's, or the folder's."""
        return self.gguf or self.folder.name

    @property
    def gguf_option(self) -> dict[str, str]:
        """What Transformers has to be told of a GGUF file."""
        return {} if self.gguf is None else {"gguf_file": self.gguf}

    def config(self) -> Any:
        """Its Transformers configuration.

        Raises:
            InvalidInputError: config.json or the GGUF file is not understood.
            UnsupportedModelError: Its model type is not known, or needs code of its own, which is never run.
        """
        return read_configuration(self)


def open_checkpoint(path: str | PathLike[str], adapters: Sequence[str | PathLike[str]] = ()) -> Checkpoint:
    """Finds out what a path holds.

    Args:
        path: A checkpoint folder, the folder of an adapter, a GGUF file, or the id of a repository.
        adapters: Folders or ids of adapters to merge, in this order; an adapter in the folder itself comes before them.

    Raises:
        InvalidInputError: It is none of these, something of it is missing, or peft is not installed for an adapter.
    """
    more = tuple(_adapter(folder) for folder in adapters)
    checkpoint = _open(Path(as_checkpoint(path)), more)
    absent = [name for name in ("accelerate", "peft") if find_spec(name) is None]
    if checkpoint.adapters and absent:
        adapter = checkpoint.adapters[0]
        beside = " beside the weights" if adapter.folder == checkpoint.folder else ""
        raise InvalidInputError(
            f"Merging the adapter {adapter.folder.name!r} ({ADAPTER_CONFIG}{beside}) into {checkpoint.name!r} needs "
            f"{' and '.join(absent)}, which is not installed",
            remedy="pip install 'genai-iface[lora]'"
            + (f", or remove {ADAPTER_CONFIG} and its weights to build without the adapter." if beside else ""),
        )
    return checkpoint


def _open(source: Path, adapters: tuple[Adapter, ...]) -> Checkpoint:
    if source.is_file():
        return _open_gguf(source, adapters)
    if not source.exists():
        raise InvalidInputError(
            f"There is no {str(source)!r}",
            remedy="Give a Hugging Face folder, a GGUF file, or the id ORG/NAME of a repository.",
        )
    root = open_root(source)
    own = read_adapter(root)
    if own is not None:
        adapters = (own, *adapters)
        if len(adapters) > _MOST_ADAPTERS or any(adapter.folder == root for adapter in adapters[1:]):
            raise InvalidInputError(
                f"The adapters of {root.name!r} name each other as their base", remedy="Give the base and --adapter."
            )
        if find_inside(root, "config.json") is None or not has_weights(root):
            return _open(base_of(own), adapters)
    if find_inside(root, "config.json") is None:
        raise InvalidInputError(
            f"There is no config.json in {str(source)!r}", remedy="Give a Hugging Face checkpoint folder."
        )
    find_weights(root)
    return Checkpoint(root, adapters=adapters)


def _open_gguf(source: Path, adapters: tuple[Adapter, ...]) -> Checkpoint:
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
    from genai_iface.build.gguf import check_whole

    file = source.resolve()
    check_whole(file)
    if find_inside(file.parent, ADAPTER_CONFIG) is not None:
        raise InvalidInputError(
            f"An adapter ({ADAPTER_CONFIG}) lies beside the GGUF file {file.name!r}, and it is not clear whether it is "
            "meant",
            remedy="Move one of them to another folder; --adapter DIR merges the adapter.",
        )
    return Checkpoint(file.parent, file.name, adapters)


def _adapter(folder: str | PathLike[str]) -> Adapter:
    root = open_root(as_checkpoint(folder))
    adapter = read_adapter(root)
    if adapter is None:
        raise InvalidInputError(
            f"There is no {ADAPTER_CONFIG} in {str(folder)!r}", remedy="Give the folder that peft saved the adapter to."
        )
    return adapter
