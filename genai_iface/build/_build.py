# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""From a checkpoint to a model folder: methods in their order, each result verified, the folder moved whole."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, TypeAlias

import onnx_ir as ir

from genai_iface._tolerance import LOGIT_TOLERANCES
from genai_iface.build._folder_files import write_folder_files
from genai_iface.build._model_file import load_saved, mark_model, save_model
from genai_iface.build._own_integers import OwnIntegers
from genai_iface.build._reasons import in_our_words, said_by
from genai_iface.build._reference import SHORTEST_PROMPT, reference_of
from genai_iface.build._stages import Stage, Stages
from genai_iface.build._verify import Comparison, Reference, compare
from genai_iface.build.checkpoint import (
    Checkpoint,
    LoadedNetwork,
    load_network,
    open_checkpoint,
    quiet_transformers,
)
from genai_iface.build.checkpoint.quiet import BROKEN
from genai_iface.build.methods.convert import export_and_convert
from genai_iface.build.methods.eager import export_eager
from genai_iface.build.methods.export import export_standard
from genai_iface.build.methods.mobius import build_with_mobius
from genai_iface.build.methods.names import name_weights
from genai_iface.build.methods.rotary_context import longest_exact_context
from genai_iface.build.methods.transformers_export import export_with_transformers
from genai_iface.build.states.installed import keeps_states
from genai_iface.build.states.other_ways import contradiction, other_way, refusal
from genai_iface.display import notebook_bar
from genai_iface.errors import BackendNotFoundError, GenAIError, InvalidInputError, UnsupportedModelError
from genai_iface.folder import find_inside, open_root
from genai_iface.graph import derive_signature
from genai_iface.registry import load_model
from genai_iface.transform import CacheShapes
from genai_iface.transform._model_writer import new_folder
from genai_iface.transform.fuse._widen_bfloat16 import WidenBfloat16
from genai_iface.transform.quantize._weights import QuantizeWeights
from genai_iface.types import CacheLayout, DType

__all__ = ["METHODS", "Attempt", "BuildOptions", "BuildResult", "Method", "build"]

Method: TypeAlias = Literal["export", "mobius", "convert", "eager", "transformers"]
"""How a checkpoint becomes a graph."""

METHODS: tuple[Method, ...] = ("export", "mobius", "convert", "eager")
"""What "auto" takes, in this order. "transformers" is a plain export too, and no way where "convert" is none.

Of a network that keeps states only the first: the others write keys and values.
"""

_BITS: dict[str, Literal[4, 8]] = {"int4": 4, "int8": 8}
_EXACT = {"session_options": {"session.qdq_matmulnbits_accuracy_level": "1"}}
# Differences that are as large to this part come from one cause.
_SAME = 1e-2
# A result that is further from torch than so many tolerances is wrong, not inexact.
_NEARLY = 10


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """How to build.

    Attributes:
        via: A method, or "auto" for the first whose result verifies.
        dtype: Of weights, activations and cache.
        layout: "bnsh": caches (B, Hkv, C, D); "bsh": (B, C, Hkv * D).
        context: Tokens that a sequence may have; the checkpoint's own limit if None.
        quantize: Weights as "int8" or "int4" in blocks, None to leave them.
        block_size: Rows of a matrix that share a scale.
        unverified: Keep a result that differs from torch; it is marked in the file.
        verify_on: Name of the backend that runs the result to compare it with torch.
        adapters: Folders of adapters (LoRA and its kin) to merge, in this order; needs the extra "lora".
        tokenizer: Folder to take the tokenizer's files from instead of the checkpoint.
        dequantize: Floats from a quantized checkpoint, where its own integers would be kept.
        text_only: The decoder of text alone, of a network that has others (for images, sounds) beside it.
    """

    via: Method | Literal["auto"] = "auto"
    dtype: DType = "float32"
    layout: CacheLayout = "bnsh"
    context: int | None = None
    quantize: Literal["int4", "int8"] | None = None
    block_size: int = 32
    unverified: bool = False
    verify_on: str = "numpy"
    adapters: tuple[str | PathLike[str], ...] = ()
    tokenizer: str | PathLike[str] | None = None
    dequantize: bool = False
    text_only: bool = False


@dataclass(frozen=True, slots=True)
class Attempt:
    """One method that was tried.

    Attributes:
        method: The method that was tried.
        comparison: How far its result is from torch; None if there was no result that runs.
        problem: Why it was not chosen; empty for the one that was.
    """

    method: Method
    comparison: Comparison | None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class BuildResult:
    """What was built.

    Attributes:
        folder: Where it is.
        attempts: The methods in the order in which they were tried; the last one gave the folder.
        verified: Whether it computes what torch computes.
        files: Names of the files beside model.onnx.
        reference: What torch computes, to compare other backends with.
        quantized: How far the quantized model is from torch; None if nothing was quantized.
        own_integers: How far the model is from torch since it has the integers of a quantized checkpoint; None if
            the checkpoint has floats.
        notes: What else there is to know.
    """

    folder: Path
    attempts: tuple[Attempt, ...]
    verified: bool
    files: tuple[str, ...]
    reference: Reference = field(repr=False)
    quantized: Comparison | None = None
    own_integers: Comparison | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def method(self) -> Method:
        """The method that was chosen."""
        return self.attempts[-1].method


def build(
    source: str | PathLike[str],
    out: str | PathLike[str],
    options: BuildOptions | None = None,
    *,
    progress: Callable[[str], None] | None = None,
) -> BuildResult:
    """Builds a model folder from a checkpoint.

    Args:
        source: A Hugging Face checkpoint folder, the folder of an adapter whose base is on this machine, or a GGUF
            file.
        out: The folder to make; it must not exist, or be empty. It appears whole or not at all.
        options: Method, type, layout, context length and quantization; the defaults if None.
        progress: Called with a line that says which stage this is, what is being done, and about how long the rest
            takes. None for a line in the cell where this runs in a notebook, and for nothing elsewhere.

    Raises:
        InvalidInputError: The source is broken, or the target exists.
        UnsupportedModelError: No method leads to a verified model; the message says why for each.
    """
    options = options or BuildOptions()
    if options.quantize is not None:
        # Refuses a block size before anything is built.
        QuantizeWeights(_BITS[options.quantize], block_size=options.block_size)
    target = Path(os.path.realpath(out))
    bar = notebook_bar(patience=0.0) if progress is None else None
    stages = Stages(progress or (bar.working if bar is not None else lambda _: None), _plan(options))
    with (
        new_folder(target) as work,
        quiet_transformers(),
        warnings.catch_warnings(),
        contextlib.ExitStack() as reading,
    ):
        # What Transformers means to change some day is no news for who builds a model.
        warnings.simplefilter("ignore", FutureWarning)
        checkpoint = open_checkpoint(source, options.adapters)
        if checkpoint.gguf is not None:
            from genai_iface.build.gguf import parsed_once

            reading.enter_context(parsed_once())
        tokenizer = _tokenizer(checkpoint, options)
        stages.begin("load", f"loading {checkpoint.name}")
        loaded = load_network(checkpoint, options.dtype, text_only=options.text_only)
        network, notes = loaded.network, list(loaded.notes)
        context = _context(network, options)
        stages.begin("decode", "decoding with torch, to compare with")
        reference = reference_of(network, context, stages.part)
        files = write_folder_files(checkpoint, network, work, context=context, tokenizer=tokenizer)
        has_integers = loaded.quantization is not None and not options.dequantize
        job = _Job(checkpoint, loaded, reference, options, context, work, stages)
        # The job lets the network go as soon as there is a file of it.
        del loaded, network
        attempts = job.first_good()
        chosen = attempts[-1]
        verified = chosen.comparison is not None and chosen.comparison.agrees(options.dtype)
        own_integers = job.own_integers(notes) if has_integers else None
        quantized = job.quantize(notes) if options.quantize is not None else None
        mark_model(work, chosen.method, chosen.comparison, verified=verified, quantized=quantized)
    if bar is not None:
        bar.finish(f"built {target.name}")
    if "tokenizer.json" not in files:
        notes.append("the checkpoint has no tokenizer.json; the model takes ids only")
    return BuildResult(target, attempts, verified, tuple(files), reference, quantized, own_integers, tuple(notes))


class _Job:
    """One build: what all methods share."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        loaded: LoadedNetwork,
        reference: Reference,
        options: BuildOptions,
        context: int | None,
        folder: Path,
        stages: Stages,
    ) -> None:
        self._checkpoint = checkpoint
        self._network: Any = loaded.network
        self._quantization = loaded.quantization
        self._reference = reference
        self._options = options
        self._context = context
        self._folder = folder
        self._stages = stages

    def first_good(self) -> tuple[Attempt, ...]:
        """Tries methods until one gives a model that may stay, and leaves it in the folder.

        Raises:
            UnsupportedModelError: None does.
        """
        every = METHODS[:1] if keeps_states(self._network) else METHODS
        methods = every if self._options.via == "auto" else (self._options.via,)
        attempts: list[Attempt] = []
        for method in methods:
            try:
                comparison = self._take(method)
            except BackendNotFoundError:
                raise
            except GenAIError as error:
                attempts.append(Attempt(method, None, in_our_words(error.what)))
                continue
            except BROKEN as error:
                if isinstance(error, OSError) and error.errno is not None:
                    # The system's own: a full disk is no fault of the method.
                    raise
                # Other packages' ways through a network fail in ways of their own.
                attempts.append(Attempt(method, None, said_by(error)))
                continue
            if comparison.agrees(self._options.dtype):
                return (*attempts, Attempt(method, comparison))
            problem = f"differs from torch: {comparison}"
            if self._options.unverified:
                return (*attempts, Attempt(method, comparison, problem))
            attempts.append(Attempt(method, comparison, problem))
            if any(_is_same(comparison, attempt.comparison) for attempt in attempts[:-1]):
                # Two graphs that were made in different ways do not share a fault.
                break
        raise self._refusal(attempts)

    def _refusal(self, attempts: Sequence[Attempt]) -> UnsupportedModelError:
        """Why no method was good enough, and what can be done about it."""
        way = self._way_of_its_own()
        if way is not None:
            return way
        reasons = "".join(f"\n  {attempt.method}: {attempt.problem}" for attempt in attempts)
        found = [attempt.comparison for attempt in attempts if attempt.comparison is not None]
        nearest = min((comparison.difference for comparison in found), default=float("inf"))
        if any(_is_same(one, other) for one, other in itertools.combinations(found, 2)):
            other_backend = "ort" if self._options.verify_on == "numpy" else "numpy"
            remedy = f"Two methods give the same difference, so look at what ran them: try --verify-on {other_backend}."
        elif nearest <= _NEARLY * LOGIT_TOLERANCES[self._options.dtype]:
            remedy = "--unverified keeps a result that differs, and marks it."
        else:
            remedy = "Nothing was written."
        return UnsupportedModelError(
            f"No method leads from {self._checkpoint.name!r} to a standard model:{reasons}", remedy=remedy
        )

    def _way_of_its_own(self) -> UnsupportedModelError | None:
        """The refusal of a network that decodes otherwise than step by step, whatever the method."""
        options = self._options
        if options.dtype != "float32":
            return None  # rounding alone lets experts change places there
        network = self._network or load_network(self._checkpoint, options.dtype, text_only=options.text_only).network
        way = other_way(network) or contradiction(network, self._reference)
        return None if way is None else refusal(network, way)

    def quantize(self, notes: list[str]) -> Comparison:
        """Quantizes the weights and measures the difference again.

        Raises:
            UnsupportedModelError: There was nothing to quantize.
        """
        kind = self._options.quantize
        if kind is None:
            raise ValueError("nothing to quantize to")
        self._stages.begin("quantize", f"quantizing to {kind}")
        model = load_saved(self._folder)
        done = self._nearest(model, notes) if kind == "int8" and not self._options.dequantize else 0
        rewrite = QuantizeWeights(_BITS[kind], block_size=self._options.block_size, search=True)
        rewrite(model)
        if not rewrite.note.applied and not done:
            raise UnsupportedModelError(
                f"No matrix can be quantized: {rewrite.note.reason}", remedy="Choose another --block-size."
            )
        save_model(model, self._folder)
        return self._compared()

    def _nearest(self, model: ir.Model, notes: list[str]) -> int:
        """Bytes for matrices that are quantized in a way that no integers give exactly."""
        quantization = self._quantization
        if quantization is None or not quantization.approximate:
            return 0
        rewrite = OwnIntegers(quantization.approximate, self._options.dtype)
        rewrite(model)
        notes.append(
            f"{rewrite.note.count} matrices whose blocks have offsets as the nearest bytes: root mean square error "
            f"{rewrite.error:.2%} of the weights"
        )
        return rewrite.note.count

    def own_integers(self, notes: list[str]) -> Comparison:
        """Puts the integers of the checkpoint in the place of its dequantized weights, and compares with torch again.

        Raises:
            UnsupportedModelError: The result differs more than the float model may.
        """
        quantization = self._quantization
        if quantization is None:
            raise ValueError("the checkpoint has no integers")
        self._stages.begin("integers", f"taking the integers of {quantization.method}")
        model = load_saved(self._folder)
        rewrite = OwnIntegers(quantization.matrices, self._options.dtype)
        rewrite(model)
        notes.append(f"{rewrite.note.count} of {len(quantization.matrices)} matrices have the checkpoint's integers")
        if quantization.approximate and self._options.quantize is None:
            notes.append(
                f"{len(quantization.approximate)} matrices have offsets that no zero point gives, and stay floats; "
                "--quantize int8 takes the nearest bytes"
            )
        if rewrite.kept:
            notes.append(f"dequantized, for no product reads them as they are: {_some(rewrite.kept)}")
        save_model(model, self._folder)
        comparison = self._compared(exact=True)
        if not comparison.agrees(self._options.dtype) and not self._options.unverified:
            raise UnsupportedModelError(
                f"With the integers of {quantization.method!r} the model differs from torch: {comparison}",
                remedy="This is a fault of the conversion; please report it. --unverified keeps the result.",
            )
        return comparison

    def _with_mobius(self) -> ir.Model:
        """mobius-onnx reads files: what was merged or dequantized is saved for it first."""
        options = self._options
        settings: dict[str, Any] = {"dtype": options.dtype, "layout": options.layout, "context": self._context}
        if self._quantization is None and not self._checkpoint.adapters and not options.text_only:
            return build_with_mobius(self._checkpoint, **settings)
        with TemporaryDirectory(prefix=f"{self._folder.name}.", dir=self._folder.parent) as plain:
            with quiet_transformers():
                self._network.save_pretrained(plain)
            model = build_with_mobius(Checkpoint(Path(plain)), **settings)
            ir.external_data.load_to_model(model)
        return model

    def _take(self, method: Method) -> Comparison:
        """Builds the folder's model in one way."""
        if self._network is None:
            options = self._options
            self._network = load_network(self._checkpoint, options.dtype, text_only=options.text_only).network
        self._save(method)
        _let_go(self._network)
        self._network = None
        self._stages.begin("compare", f"comparing the result of {method} with torch")
        return self._compared()

    def _save(self, method: Method) -> None:
        options = self._options
        self._stages.begin("export", f"building by way of {method}")
        if method == "export":
            model = export_standard(self._network, layout=options.layout, context=self._context)
        elif method == "mobius":
            model = self._with_mobius()
        elif method == "eager":
            model = export_eager(self._network, layout=options.layout, context=self._context)
        elif method == "transformers":
            model = export_with_transformers(self._network, layout=options.layout, context=self._context)
        else:
            model = export_and_convert(self._network, layout=options.layout, context=self._context)
        # Exporters ask any tensor for a size, a cache too, which runtimes want to have for its operators alone.
        CacheShapes(derive_signature(model))(model)
        if options.dtype != "bfloat16":
            WidenBfloat16()(model)
        name_weights(model, self._network)
        save_model(model, self._folder)
        for value in model.graph.initializers.values():
            value.const_value = None

    def _compared(self, *, exact: bool = False) -> Comparison:
        """Against torch; with ``exact`` ONNX Runtime does not round what is multiplied with integers."""
        options = _EXACT if exact and self._options.verify_on == "ort" else None
        model = load_model(self._folder, backend=self._options.verify_on, options=options)
        try:
            return compare(model, self._reference, progress=self._stages.part)
        finally:
            model.close()


def _plan(options: BuildOptions) -> list[Stage]:
    """The stages, if the first method is the right one. Integers of the checkpoint's own are found out later."""
    plan: list[Stage] = ["load", "decode", "export", "compare"]
    return plan if options.quantize is None else [*plan, "quantize"]


def _let_go(network: Any) -> None:
    """Gives the memory of the weights back: what has traced a network, and rules of onnxscript, remember them."""
    for tensor in (*network.parameters(), *network.buffers()):
        tensor.data = tensor.data.new_empty(0)


def _tokenizer(checkpoint: Checkpoint, options: BuildOptions) -> Path | None:
    """The folder of another tokenizer. Without one, a GGUF file has to say how its own splits text.

    Raises:
        InvalidInputError: The folder holds no tokenizer.
        UnsupportedModelError: The file's way is not known.
    """
    if options.tokenizer is not None:
        folder = open_root(options.tokenizer)
        if find_inside(folder, "tokenizer.json") is None:
            raise InvalidInputError(
                f"There is no tokenizer.json in {str(options.tokenizer)!r}",
                remedy="Give the folder of the model's own tokenizer.",
            )
        return folder
    if checkpoint.gguf is not None:
        from genai_iface.build.gguf import split_rule

        split_rule(checkpoint.folder / checkpoint.gguf)
    return None


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _is_same(one: Comparison, other: Comparison | None) -> bool:
    """Whether two results are as far from torch, in the same place."""
    if other is None or (one.row, one.step) != (other.row, other.step):
        return False
    return math.isclose(one.difference, other.difference, rel_tol=_SAME)


def _context(network: Any, options: BuildOptions) -> int | None:
    """The limit to write into config.json, None to leave what is there.

    Raises:
        InvalidInputError: The checkpoint does not hold as many positions.
    """
    limit = getattr(network.config.get_text_config(), "max_position_embeddings", None)
    if options.context is not None and limit is not None and options.context > limit:
        raise InvalidInputError(
            f"--context {options.context} is more than the {limit} positions of the checkpoint",
            remedy=f"Give at most {limit}.",
        )
    # Where Transformers changes frequencies with the length, the model is exact up to there.
    exact = longest_exact_context(network.config)
    if options.context is not None and exact is not None and exact < options.context <= exact + SHORTEST_PROMPT:
        raise InvalidInputError(
            f"--context {options.context} leaves no room to compare beyond {exact} positions, where frequencies change",
            remedy=f"Give at most {exact}, or more than {exact + SHORTEST_PROMPT}.",
        )
    return options.context if options.context is not None else exact
