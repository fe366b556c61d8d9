# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""``genai-iface build SOURCE OUT``: a model folder from a Hugging Face checkpoint or a GGUF file."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from genai_iface.cli.arguments import positive
from genai_iface.cli.json_output import add_json_argument, print_json
from genai_iface.cli.progress import Progress
from genai_iface.errors import BackendNotFoundError

if TYPE_CHECKING:
    from genai_iface.build._build import BuildResult
    from genai_iface.build._verify import Comparison

__all__ = ["add_parser", "run"]

_NEEDED = ("torch", "transformers", "onnxscript")

_EXAMPLE = """\
example:
  genai-iface build ./checkpoint ./my-model
  genai-iface build ORG/NAME ./my-model --revision main
  genai-iface build ./checkpoint ./my-model-int4 --quantize int4 --block-size 32
  genai-iface build ./model.gguf ./my-model --via mobius --dtype float16
  genai-iface build ./base ./my-model --adapter ./lora
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Adds the subcommand and returns its parser."""
    parser = commands.add_parser(
        "build",
        help="make a model folder from a checkpoint",
        description="Builds a standard model (opset 24: TensorScatter, and Attention with nonpad_kv_seqlen; opset 27 "
        "where states are kept) from a local checkpoint, and compares its logits and greedy tokens with torch before "
        'the folder appears. Needs the extra "build".',
        epilog=_EXAMPLE,
    )
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="a Hugging Face checkpoint folder, an adapter's, a GGUF file, or an id ORG/NAME of the hub",
    )
    parser.add_argument("--revision", metavar="REV", help="a branch, tag or commit of that repository")
    parser.add_argument("out", metavar="OUT", help="the folder to make; it must not exist, or be empty")
    parser.add_argument(
        "--adapter",
        action="append",
        default=[],
        metavar="DIR",
        help="an adapter (LoRA and its kin) to merge into the weights, with the extra 'lora'; repeat it for more",
    )
    parser.add_argument(
        "--via",
        choices=("auto", "export", "mobius", "convert", "eager", "transformers"),
        default="auto",
        help="the method: torch's exporter with the standard operators hooked in, mobius-onnx, a plain export that is "
        "converted, or torch's exporter with the network's own attention over whole buffers; auto takes these in this "
        "order until a result agrees with torch; or Transformers' own exporter, converted (default: auto)",
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "float16", "bfloat16"),
        default="float32",
        help="of weights, activations and cache (default: float32)",
    )
    parser.add_argument("--quantize", choices=("int8", "int4"), help="quantize weight matrices in blocks")
    parser.add_argument(
        "--block-size", type=positive, default=32, metavar="N", help="rows that share a scale (default: 32)"
    )
    parser.add_argument(
        "--dequantize",
        action="store_true",
        help="floats from a checkpoint that is quantized (GGUF, GPTQ, AWQ), instead of its own integers",
    )
    parser.add_argument(
        "--text-only",
        action="store_true",
        help="of a model with networks for images or sounds, build the decoder of text alone; config.json says so",
    )
    parser.add_argument(
        "--tokenizer", metavar="FOLDER", help="take tokenizer.json and its kin from here instead of the checkpoint"
    )
    parser.add_argument(
        "--layout",
        choices=("bnsh", "bsh"),
        default="bnsh",
        help="of the cache: (B, heads, capacity, size), or (B, capacity, heads * size) (default: bnsh)",
    )
    parser.add_argument(
        "--context",
        type=positive,
        metavar="N",
        help="most tokens of a sequence (default: the checkpoint's limit)",
    )
    parser.add_argument(
        "--verify-on",
        choices=("numpy", "ort"),
        default="numpy",
        help="the backend that runs the result to compare it with torch: the reference, or the faster one "
        "(default: numpy)",
    )
    parser.add_argument(
        "--unverified", action="store_true", help="keep a result that differs from torch; the file is marked"
    )
    add_json_argument(parser)
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Runs the subcommand.

    Raises:
        GenAIError: The source is broken, the target exists, or no method leads to a verified model.
    """
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise BackendNotFoundError(
            f"Building needs {', '.join(missing)}, which is not installed", remedy="pip install 'genai-iface[build]'"
        )
    from genai_iface.build._build import BuildOptions, build  # noqa: PLC0415 - loads torch
    from genai_iface.folder.resolve import as_checkpoint  # noqa: PLC0415

    options = BuildOptions(
        via=arguments.via,
        dtype=arguments.dtype,
        layout=arguments.layout,
        context=arguments.context,
        quantize=arguments.quantize,
        block_size=arguments.block_size,
        unverified=arguments.unverified,
        verify_on=arguments.verify_on,
        tokenizer=arguments.tokenizer,
        dequantize=arguments.dequantize,
        text_only=arguments.text_only,
        adapters=tuple(arguments.adapter),
    )
    progress = Progress()
    try:
        result = build(
            as_checkpoint(arguments.source, revision=arguments.revision),
            arguments.out,
            options,
            progress=progress.working,
        )
    finally:
        progress.stop()
    if arguments.json:
        print_json("build", _as_json(result))
    else:
        _print(result)
    return 0


def _as_json(result: BuildResult) -> dict[str, Any]:
    def numbers(comparison: Comparison | None) -> dict[str, Any] | None:
        return None if comparison is None else asdict(comparison)

    return {
        "folder": str(result.folder),
        "method": result.method,
        "verified": result.verified,
        "attempts": [
            {"method": attempt.method, "problem": attempt.problem, "comparison": numbers(attempt.comparison)}
            for attempt in result.attempts
        ],
        "files": list(result.files),
        "own_integers": numbers(result.own_integers),
        "quantized": numbers(result.quantized),
        "notes": list(result.notes),
    }


def _print(result: BuildResult) -> None:
    for attempt in result.attempts[:-1]:
        print(f"not {attempt.method}: {attempt.problem}")
    chosen = result.attempts[-1]
    print(f"{result.folder}: built by way of {chosen.method}")
    if result.verified:
        print(f"verified against torch: {chosen.comparison}")
    else:
        print(f"NOT verified, and marked so: {chosen.problem}", file=sys.stderr)
    if result.own_integers is not None:
        print(f"with the checkpoint's integers: {result.own_integers}")
    if result.quantized is not None:
        print(f"after quantization: {result.quantized}")
    for note in result.notes:
        print(f"note: {note}")
