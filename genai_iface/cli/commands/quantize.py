# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""``genai-iface quantize FOLDER OUT``: weights and cache in fewer bits, with standard operators."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from genai_iface.cli.arguments import SOURCE, add_source_options, parse_options, positive, read_text
from genai_iface.cli.json_output import add_json_argument, print_json
from genai_iface.cli.progress import Progress
from genai_iface.errors import InvalidInputError
from genai_iface.registry import load_model

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from genai_iface.folder import ModelFolder
    from genai_iface.transform.quantize import MatrixReport
    from genai_iface.transform.quantize._cache import CacheRange

__all__ = ["add_parser", "run"]

_EXAMPLE = """\
examples:
  genai-iface quantize ./my-model ./my-model-int4 --weights int4 --int8 lm_head
  genai-iface quantize ./my-model ./my-model-int8 --weights int8 --kv-cache int8 --eval held-out.txt
"""
_CALIBRATION_TOKENS = 2048
_NONE = "none"


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Adds the subcommand and returns its parser."""
    parser = commands.add_parser(
        "quantize",
        help="make a model folder with weights or cache in fewer bits",
        description="Writes a copy of a model folder whose matrices are blocked integers (DequantizeLinear before "
        "MatMul) and whose cache may be int8 (QuantizeLinear before TensorScatter, DequantizeLinear after it).",
        epilog=_EXAMPLE,
    )
    parser.add_argument("source", metavar="SOURCE", help=SOURCE)
    add_source_options(parser)
    parser.add_argument("out", metavar="OUT", help="the folder to make")
    weights = parser.add_argument_group("weights")
    weights.add_argument("--weights", choices=("int4", "int8"), help="bits of the matrices")
    weights.add_argument(
        "--block-size", type=int, default=32, metavar="N", help="rows that share a scale: 16, 32, ... 256 (default: 32)"
    )
    weights.add_argument("--asymmetric", action="store_true", help="unsigned integers with a zero point for each block")
    weights.add_argument(
        "--exclude",
        action="append",
        default=[],
        metavar="PATTERN",
        help="leave these matrices as they are: a shell pattern on names of weights and MatMul nodes, or lm_head, "
        "or embedding; may be repeated",
    )
    weights.add_argument(
        "--int8",
        action="append",
        default=[],
        metavar="PATTERN",
        help="with --weights int4: 8 bits for these; may be repeated",
    )
    weights.add_argument(
        "--embedding", choices=("int8", "float"), default="int8", help="the token table (default: int8)"
    )
    weights.add_argument(
        "--allow-requantize", action="store_true", help="round again what is quantized already; loses quality twice"
    )
    weights.add_argument(
        "--nearest", action="store_true", help="round to nearest, without search and calibration: fast, and worse"
    )
    weights.add_argument(
        "--int8-share",
        type=_share,
        default=None,
        metavar="PART",
        help="with --weights int4: of the weights, what may get 8 bits because 4 cost most there (default: 0.25)",
    )
    weights.add_argument(
        "--separate-head",
        action="store_true",
        help="a token table that is the LM head too gets integers of its own for each (default: 8 bits for both)",
    )
    cache = parser.add_argument_group("cache")
    cache.add_argument("--kv-cache", choices=("int8",), help="element type of keys and values")
    cache.add_argument(
        "--kv-scales",
        choices=("auto", "head", "channel"),
        default="auto",
        help="what shares a scale (default: auto, what gives a tensor the smaller steps)",
    )
    check = parser.add_argument_group("calibration and evaluation")
    check.add_argument(
        "--calibration",
        metavar="FILE",
        help="text to run through the model: it shows what matrices are multiplied with, and how large keys and values "
        'get. "none" calibrates no weights. (default: documentation that every installation has; for the cache of a '
        "folder without a tokenizer random ids)",
    )
    check.add_argument(
        "--calibration-tokens",
        type=positive,
        default=_CALIBRATION_TOKENS,
        metavar="N",
        help=f"tokens of it to run (default: {_CALIBRATION_TOKENS})",
    )
    check.add_argument(
        "--report", action="store_true", help="print what each matrix lost, and the perplexity before and after"
    )
    check.add_argument("--eval", metavar="FILE", help="print the perplexity of this text before and after")
    check.add_argument("--backend", default="numpy", metavar="NAME", help="what runs the model (default: numpy)")
    check.add_argument("--device", metavar="D", help='one of the devices of "genai-iface devices"')
    check.add_argument(
        "--option", action="append", default=[], metavar="KEY=VALUE", help="an option of the backend; may be repeated"
    )
    add_json_argument(parser)
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Runs the subcommand.

    Raises:
        GenAIError: An argument is not legal, or the model cannot be quantized.
    """
    from genai_iface.folder import open_folder  # noqa: PLC0415 - onnx loads slowly, --help must not
    from genai_iface.transform.quantize._folder import SHARE, check_target, quantize_folder  # noqa: PLC0415

    if arguments.weights is None and arguments.kv_cache is None:
        raise InvalidInputError(
            "Neither --weights nor --kv-cache is given", remedy="For example: --weights int4, or --kv-cache int8."
        )
    folder = open_folder(arguments.source, variant=arguments.variant, revision=arguments.revision)
    check_target(arguments.out, folder.path)
    text = _evaluation(arguments)
    progress = Progress()
    try:
        before = None if text is None else _perplexity(arguments, folder.source, text, progress)
        ranges = None if arguments.kv_cache is None else _ranges(arguments, progress)
        report = quantize_folder(
            folder.source,
            arguments.out,
            bits=None if arguments.weights is None else (4 if arguments.weights == "int4" else 8),
            block_size=arguments.block_size,
            symmetric=not arguments.asymmetric,
            exclude=arguments.exclude,
            eight_bits=arguments.int8,
            embedding=arguments.embedding == "int8",
            requantize=arguments.allow_requantize,
            search=not arguments.nearest,
            moments=_moments(arguments, folder, progress),
            share=SHARE if arguments.int8_share is None else arguments.int8_share,
            shared_head=not arguments.separate_head,
            cache_ranges=ranges,
            kv_scales=arguments.kv_scales,
            progress=lambda done, total: progress.show("writing tensors", done, total),
        )
        after = None if text is None else _perplexity(arguments, report.path, text, progress)
    finally:
        progress.stop()
    if arguments.json:
        found = asdict(report) | {"path": str(report.path), "perplexity_before": before, "perplexity_after": after}
        print_json("quantize", found)
        return 0
    if arguments.report:
        _print_matrices(report.matrices)
    for note in report.notes:
        print(f"{note.rewrite}: {note.reason}")
    print(
        f"size: {_megabytes(report.nbytes_before)} -> {_megabytes(report.nbytes_after)} "
        f"({report.nbytes_before / report.nbytes_after:.2f} to 1)"
    )
    if before is not None:
        text_name = arguments.eval or "the ONNX operators"
        print(f"perplexity of {text_name} on {arguments.backend}: {before:.3f} -> {after:.3f}")
    print(f"written to {report.path}")
    return 0


def _share(text: str) -> float:
    """A part between 0 and 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no part between 0 and 1")
    return value


def _evaluation(arguments: argparse.Namespace) -> str | None:
    """The text whose perplexity is wanted; a report has one in any case."""
    from genai_iface.transform.quantize.calibration import default_text  # noqa: PLC0415

    if arguments.eval is not None:
        return read_text(arguments.eval, "--eval")
    return default_text() if arguments.report else None


def _print_matrices(matrices: Sequence[MatrixReport]) -> None:
    width = max((len(line.name) for line in matrices), default=0)
    print(f"{'matrix':{width}}  bits  block  root mean square error")
    for line in matrices:
        print(f"{line.name:{width}}  {line.bits:4}  {line.block:5}  {line.error:.2%}")


def _moments(
    arguments: argparse.Namespace, folder: ModelFolder, progress: Progress
) -> Mapping[str, NDArray[np.float32]] | None:
    """What matrices are multiplied with; None where that is not wanted, or cannot be had, which is said."""
    from genai_iface.transform.quantize._moments import measure_moments, why_not  # noqa: PLC0415
    from genai_iface.transform.quantize.calibration import english_text, windows_of  # noqa: PLC0415

    if arguments.weights is None or arguments.nearest or arguments.asymmetric or arguments.calibration == _NONE:
        return None
    reason = why_not(folder)
    if reason is not None:
        print(f"not calibrated: {reason}; scales are found by search", file=sys.stderr)
        return None
    text = english_text() if arguments.calibration is None else read_text(arguments.calibration, "--calibration")
    return measure_moments(
        folder,
        windows_of(folder.tokenizer.encode(text), context=folder.context_length, most=arguments.calibration_tokens),
        progress=lambda done, total: progress.show("calibrating: texts", done, total),
    )


def _ranges(arguments: argparse.Namespace, progress: Progress) -> list[CacheRange]:
    """Runs the calibration text through the float model."""
    from genai_iface.folder import open_folder  # noqa: PLC0415
    from genai_iface.transform.quantize._cache import check_cache  # noqa: PLC0415
    from genai_iface.transform.quantize.calibration import (  # noqa: PLC0415
        calibrate,
        default_text,
        random_tokens,
        windows_of,
    )

    folder = open_folder(arguments.source, variant=arguments.variant, revision=arguments.revision)
    check_cache(folder.signature)
    most = arguments.calibration_tokens
    if arguments.calibration not in (None, _NONE):
        tokens = folder.tokenizer.encode(read_text(arguments.calibration, "--calibration"))
    elif folder.find("tokenizer.json") is not None:
        tokens = folder.tokenizer.encode(default_text())
    else:
        tokens = random_tokens(folder.spec.vocab_size, most)
    with progress.loading():
        model = load_model(
            folder.source,
            backend=arguments.backend,
            device=arguments.device,
            options=parse_options(arguments.option),
        )
    try:
        return calibrate(
            model,
            windows_of(tokens, context=folder.context_length, most=most),
            progress=lambda done, total: progress.show("calibrating: texts", done, total),
        )
    finally:
        model.close()


def _perplexity(arguments: argparse.Namespace, folder: Path, text: str, progress: Progress) -> float:
    from genai_iface.pipeline import TextGenerationPipeline  # noqa: PLC0415

    with progress.loading():
        pipe = TextGenerationPipeline(
            folder, backend=arguments.backend, device=arguments.device, options=parse_options(arguments.option)
        )
        with pipe:
            return pipe.perplexity(text)


def _megabytes(nbytes: int) -> str:
    return f"{nbytes / 1e6:.1f} MB"
