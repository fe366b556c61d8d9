# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""From a model folder to a quantized one: weights stream through memory, nothing half-written is left."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.serde import SerdeError

from genai_iface.display import notebook_part
from genai_iface.errors import GenAIError, InvalidInputError, OutputError
from genai_iface.folder import ModelFolder, open_folder
from genai_iface.folder._files import find_inside
from genai_iface.folder._load import MODEL_FILE
from genai_iface.transform._model_writer import copy_companions, new_folder
from genai_iface.transform.quantize._cache import CacheRange, KVScales, QuantizeCache
from genai_iface.transform.quantize._source import MatrixReport
from genai_iface.transform.quantize._weights import QuantizeWeights
from genai_iface.transform.rewrite import Note, Rewrite

__all__ = ["SHARE", "QuantizeReport", "check_target", "quantize_folder"]

SHARE = 0.25
"""Of the weights that would get 4 bits, what gets 8 for its sensitivity where a calibration has measured that.

On SmolLM2 135M none cost 15 % of perplexity and this 7 %, in a file still smaller than one with a head of its own."""

_DATA_FILE = "model.onnx.data"
# Shape inference reads what lies in the file, so small constants stay there.
_SMALL = 1024
# Weights of other runtimes that a checkpoint's folder may hold.
_OTHER_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx", ".data", ".onnx_data")
_WRITE_REMEDY = "Choose a writable folder with enough space for the quantized weights."


@dataclass(frozen=True, slots=True)
class QuantizeReport:
    """What was made.

    Attributes:
        path: The new folder.
        notes: What each rewrite did and what it left.
        nbytes_before: Bytes of the model's files, weights included.
        nbytes_after: Bytes of the new model's files, weights included.
        matrices: What rounding cost each matrix.
    """

    path: Path
    notes: tuple[Note, ...]
    nbytes_before: int
    nbytes_after: int
    matrices: tuple[MatrixReport, ...] = ()


def quantize_folder(
    source: str | PathLike[str],
    target: str | PathLike[str],
    /,
    *,
    bits: Literal[4, 8] | None = 4,
    block_size: int = 32,
    symmetric: bool = True,
    exclude: Sequence[str] = (),
    eight_bits: Sequence[str] = (),
    embedding: bool = True,
    requantize: bool = False,
    search: bool = True,
    moments: Mapping[str, NDArray[np.float32]] | None = None,
    share: float = SHARE,
    shared_head: bool = True,
    cache_ranges: Sequence[CacheRange] | None = None,
    kv_scales: KVScales = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> QuantizeReport:
    """Quantizes the weights of a model folder, its cache, or both.

    One matrix at a time is in memory: it is read in slices, and its integers are written as soon as they
    are whole. The other files of the folder are copied; weights of other runtimes are not.

    Args:
        source: The model folder.
        target: The folder to make; it must not exist, or be empty.
        bits: Of the weights, None to leave them.
        block_size: Rows of K that share a scale.
        symmetric: Signed integers, or unsigned ones with zero points.
        exclude: Patterns for what stays as it is, as for ``QuantizeWeights``.
        eight_bits: Patterns for what gets 8 bits where ``bits`` is 4.
        embedding: Quantize the token table too, to 8 bits.
        requantize: Round again what is quantized already.
        search: Scales by search; otherwise the largest element of a block gives its scale.
        moments: From ``measure_moments`` of the source: rounding errors are made up for, and the most sensitive
            matrices get 8 bits.
        share: Of the weights of products that would get 4 bits, what may get 8 for its sensitivity.
        shared_head: A token table that is the LM head too gets 8 bits, and both share them.
        cache_ranges: From ``calibrate``: the cache becomes int8. None leaves it.
        kv_scales: The scales of an int8 cache, as ``QuantizeCache`` takes them.
        progress: Called with (tensors written, all tensors). None for a bar in the cell where this runs in a
            notebook, and for nothing elsewhere.

    Raises:
        InvalidInputError: An argument or the folder is not legal, there is nothing to quantize, or the
            target cannot be written.
        UnsupportedModelError: The graph is not understood, or its cache cannot become int8.
    """
    folder = open_folder(source)
    place = check_target(target, folder.path)
    rewrites: list[Rewrite] = []
    if bits is not None:
        rewrites.append(
            QuantizeWeights(
                bits,
                block_size=block_size,
                symmetric=symmetric,
                exclude=exclude,
                eight_bits=eight_bits,
                embedding=embedding,
                requantize=requantize,
                signature=folder.signature,
                search=search,
                moments=moments,
                share=share,
                shared_head=shared_head,
            )
        )
    if cache_ranges is not None:
        rewrites.append(QuantizeCache(folder.signature, cache_ranges, scales=kv_scales))
    if not rewrites:
        raise InvalidInputError("There is nothing to do", remedy="Pass bits, cache_ranges, or both.")
    # Runtimes map some local functions to kernels of their own, so they stay.
    model = folder.load_ir(inline=False)
    for rewrite in rewrites:
        rewrite(model)
        if not rewrite.note.applied:
            raise InvalidInputError(
                f"{str(folder.path)!r} has no weights to quantize: {rewrite.note.reason}",
                remedy="Take the float model; requantize (--allow-requantize) rounds quantized weights once more.",
            )
    notes = tuple(rewrite.note for rewrite in rewrites)
    model.metadata_props["genai_iface.quantize"] = "; ".join(note.reason for note in notes)
    try:
        with new_folder(place) as temporary:
            _write(
                model,
                temporary,
                is_external=len(folder.files) > 1,
                progress=progress or notebook_part("writing tensors"),
            )
            _copy_others(folder, temporary)
            onnx.checker.check_model(str(temporary / MODEL_FILE))
            made = open_folder(temporary)
            nbytes = sum(file.stat().st_size for file in made.files)
    except OSError as error:
        raise OutputError(
            f"The quantized model cannot be written to {str(place)!r}: {error}", remedy=_WRITE_REMEDY
        ) from error
    matrices = [line for rewrite in rewrites if isinstance(rewrite, QuantizeWeights) for line in rewrite.matrices]
    return QuantizeReport(place, notes, sum(file.stat().st_size for file in folder.files), nbytes, tuple(matrices))


def check_target(target: str | PathLike[str], source: Path, /) -> Path:
    """The path of the folder to make.

    Args:
        target: As the caller gave it.
        source: The real path of the folder that is read.

    Raises:
        InvalidInputError: Something is there, or it lies inside the source.
    """
    place = Path(os.path.realpath(target))
    if place.is_relative_to(source):
        raise InvalidInputError(
            f"{os.fspath(target)!r} is or lies in the model folder {str(source)!r}", remedy="Choose another folder."
        )
    if place.exists() and not (place.is_dir() and not any(place.iterdir())):
        raise InvalidInputError(f"{os.fspath(target)!r} exists already", remedy="Remove it, or choose another name.")
    return place


def _write(model: ir.Model, place: Path, *, is_external: bool, progress: Callable[[int, int], None] | None) -> None:
    """Writes the graph and its weights, in the form that the source had: one file, or two."""

    def report(_: Any, info: ir.external_data.CallbackInfo) -> None:
        if progress is not None:
            progress(info.index + 1, info.total)

    try:
        if is_external:
            ir.save(model, place / MODEL_FILE, external_data=_DATA_FILE, size_threshold_bytes=_SMALL, callback=report)
        else:
            ir.save(model, place / MODEL_FILE)
    except SerdeError as error:
        # A weight that cannot be rounded says so while it is written; ONNX IR wraps that.
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, GenAIError):
            cause = cause.__cause__
        if cause is None:
            raise
        raise cause from error


def _copy_others(folder: ModelFolder, place: Path) -> None:
    """Copies tokenizer, template, configuration and texts; links that leave the folder are left out."""
    mine = set(folder.file_names)
    for level in reversed(folder.levels[1:]):
        copy_companions(level, place)
    for entry in sorted(folder.path.rglob("*")):
        name = entry.relative_to(folder.path).as_posix()
        is_hidden = any(part[0] == "." for part in name.split("/"))
        if name in mine or is_hidden or entry.suffix.lower() in _OTHER_WEIGHTS or ".onnx" in entry.name.lower():
            continue
        try:
            real = find_inside(folder.path, name)
        except InvalidInputError:
            continue  # a folder, a pipe, or a link that leads out
        if real is not None:
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(real, place / name)
