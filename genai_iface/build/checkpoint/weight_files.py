# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Which safetensors files of a folder hold its weights, and their tensors by name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import safe_open

from genai_iface.build.checkpoint.quiet import BROKEN, shortened
from genai_iface.errors import InvalidInputError
from genai_iface.folder import find_inside, read_json

__all__ = ["INDEX", "SINGLE", "Tensors", "find_weights", "has_weights", "open_tensors"]

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"

_SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_FLOATS = {"F16": "float16", "BF16": "bfloat16", "F32": "float32"}
_SHOWN = 3


class Tensors:
    """The tensors of some files, read when they are asked for.

    Attributes:
        num_bytes: Size of the files.
        notes: What there is to know of the choice of files.

    Args:
        paths: The files. Of a name that two of them have the last one counts, as in Transformers.

    Raises:
        InvalidInputError: A file is not safetensors.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.num_bytes = sum(path.stat().st_size for path in paths)
        self._files: dict[str, Any] = {}
        self.notes: tuple[str, ...] = ()
        for path in paths:
            try:
                file: Any = safe_open(path, framework="pt", device="cpu")
                names = list(file.keys())
            except BROKEN as error:
                raise InvalidInputError(
                    f"{path.name!r} in {str(path.parent)!r} is not a whole safetensors file: {shortened(error)}",
                    remedy="Copy the checkpoint again.",
                ) from error
            self._files.update(dict.fromkeys(names, file))

    @property
    def names(self) -> tuple[str, ...]:
        """All names, in the files' order."""
        return tuple(self._files)

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def slice(self, name: str) -> Any:
        """A tensor that is read when it is indexed, as Transformers takes them."""
        return self._files[name].get_slice(name)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape that the header says."""
        return tuple(self.slice(name).get_shape())

    def dtype(self, name: str) -> str:
        """The type that the header says, such as "F16" or "I32"."""
        return str(self.slice(name).get_dtype())

    def float_type(self, name: str) -> str:
        """The type of a float tensor, as NumPy names it.

        Raises:
            InvalidInputError: It is of another type.
        """
        found = self.dtype(name)
        if found not in _FLOATS:
            raise InvalidInputError(
                f"{name} is of the type {found}, expected {', '.join(_FLOATS)}", remedy="Copy the checkpoint again."
            )
        return _FLOATS[found]

    def read(self, name: str) -> Any:
        """The torch tensor."""
        return self._files[name].get_tensor(name)


def open_tensors(root: Path) -> Tensors:
    """The tensors of a checkpoint folder.

    Raises:
        InvalidInputError: As ``find_weights``; or a file is broken, or lacks what the index says of it.
    """
    names, placed, notes = find_weights(root)
    tensors = Tensors([path for path in (find_inside(root, name) for name in names) if path is not None])
    absent = sorted(name for name in placed if name not in tensors)
    if absent:
        raise InvalidInputError(
            f"{INDEX} of {root.name!r} names {len(absent)} tensors that its files do not hold, among them "
            f"{absent[0]!r} in {placed[absent[0]]!r}",
            remedy="Copy the checkpoint again: index and files are not of one save.",
        )
    tensors.notes = notes
    return tensors


def has_weights(root: Path) -> bool:
    """Whether a folder holds weights of a network, and not of an adapter only."""
    return (root / INDEX).exists() or bool(_weight_names(root))


def find_weights(root: Path) -> tuple[tuple[str, ...], Mapping[str, str], tuple[str, ...]]:
    """The names of the files with the weights, the file of each tensor where an index says it, and notes.

    Where there is both a single file and an index of others, the single one is taken, as Transformers does it.

    Raises:
        InvalidInputError: There are none, some are missing, or it is not clear which are meant. The message says
            what there is instead.
    """
    placed = _index(root)
    files = tuple(dict.fromkeys(placed.values()))
    single = find_inside(root, SINGLE) is not None
    if not placed:
        if single:
            return (SINGLE,), {}, ()
        raise _without(root)
    absent = [name for name in files if find_inside(root, name) is None]
    if single and SINGLE not in files:
        missing = f" ({len(absent)} of them missing)" if absent else ""
        left = (
            f"the weights are those of {SINGLE}, as in Transformers; {INDEX} beside it names {len(files)} other files"
        )
        return (SINGLE,), {}, (f"{left}{missing}, which were not read: one of the two is left from an earlier save",)
    if absent:
        raise InvalidInputError(
            f"{len(absent)} of the {len(files)} files that {INDEX} of {root.name!r} names are missing: "
            f"{_listed(absent)}",
            remedy="Copy them there too.",
        )
    return files, placed, ()


def _index(root: Path) -> dict[str, str]:
    """File by tensor, empty if there is no index."""
    index = read_json(root, INDEX)
    if index is None:
        return {}
    placed = index.get("weight_map")
    if not isinstance(placed, Mapping) or not placed or not all(isinstance(name, str) for name in placed.values()):
        raise InvalidInputError(
            f"{INDEX} of {root.name!r} has no weight_map from tensors to files", remedy="Copy the checkpoint again."
        )
    for name in placed.values():
        if Path(name).suffix != ".safetensors":
            raise InvalidInputError(
                f"{INDEX} of {root.name!r} names {name[:80]!r}, which is no safetensors file",
                remedy="Save the checkpoint with safetensors; pickled weights are not read.",
            )
    return dict(placed)


def _without(root: Path) -> InvalidInputError:
    """The error for a folder without model.safetensors and without index: what there is instead."""
    name = repr(str(root))
    found = _weight_names(root)
    shards = [file for file in found if _SHARD.fullmatch(file)]
    pickles = sorted(path.name for pattern in _PICKLES for path in root.glob(pattern))
    ggufs = sorted(path.name for path in root.glob("*.gguf"))
    if shards:
        return InvalidInputError(
            f"{name} has {_listed(shards)}, but no {INDEX}, which says what is in which file",
            remedy=f"Copy {INDEX} there too.",
        )
    if found and all(file.startswith("consolidated") for file in found):
        return _consolidated(root, found)
    if found:
        return InvalidInputError(
            f"{name} has {_listed(found)}, but neither {SINGLE} nor {INDEX}",
            remedy=f"If that file is the whole network in Transformers' names, rename it to {SINGLE}.",
        )
    if pickles:
        return InvalidInputError(
            f"There are no weights that can be read in {name}: {_listed(pickles)} is a pickle, which may run code and "
            "is never opened",
            remedy="Take the repository's safetensors, or convert it where you trust it: load it with Transformers "
            "and save_pretrained it to a new folder.",
        )
    if ggufs:
        return InvalidInputError(
            f"There are no weights ({SINGLE}) in {name}, but {_listed(ggufs)}",
            remedy="Give the path of the GGUF file itself.",
        )
    return InvalidInputError(
        f"There are no weights ({SINGLE}) in {name}",
        remedy="Copy the checkpoint's safetensors files there; pickled weights are not read.",
    )


def _consolidated(root: Path, found: Sequence[str]) -> InvalidInputError:
    """Mistral's own form, or the usual one under that name."""
    paths = [path for path in (find_inside(root, name) for name in found) if path is not None]
    names = Tensors(paths).names
    is_usual = any(".self_attn." in name or name.startswith(("model.", "transformer.")) for name in names)
    what = f"There is only {_listed(found)} in {str(root)!r}, "
    if is_usual and len(found) == 1:
        return InvalidInputError(
            f"{what}whose tensors have Transformers' names ({names[0]}, ...), but not its file name",
            remedy=f"Rename it to {SINGLE}.",
        )
    return InvalidInputError(
        f"{what}which is the form of the model's authors ({names[0] if names else 'no tensors'}, ...) and not that "
        "of Transformers",
        remedy=f"Copy {SINGLE}, or {INDEX} with its files, from the same repository; if it has none, convert it with "
        "the script of that model in Transformers.",
    )


def _weight_names(root: Path) -> list[str]:
    """Safetensors files but those of adapters."""
    return sorted(path.name for path in root.glob("*.safetensors") if not path.name.startswith("adapter_"))


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"
