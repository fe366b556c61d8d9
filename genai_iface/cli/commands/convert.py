# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""``genai-iface convert MODEL OUT``: another way of keeping the cache, by graph surgery."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from itertools import groupby
from typing import TYPE_CHECKING, Any

from genai_iface.cli.arguments import SOURCE, add_source_options, positive, source_of
from genai_iface.cli.json_output import add_json_argument, print_json
from genai_iface.cli.progress import Progress

if TYPE_CHECKING:
    from genai_iface.transform.convert._cache_surgery import Converted

__all__ = ["add_parser", "run"]

_EXAMPLE = """\
example:
  genai-iface convert ./exported ./my-model               # past/present tensors -> TensorScatter
  genai-iface convert ./genai-folder ./my-model --to standard   # contrib operators too, opset 24
  genai-iface convert ./my-model ./for-openvino --to concat
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Adds the subcommand and returns its parser."""
    parser = commands.add_parser(
        "convert",
        help="change how a model keeps its cache: past/present tensors, TensorScatter, ScatterND",
        description="Rewrites the graph of a model and writes it to a new folder with the tokenizer, template and "
        "configuration files beside it. The result is compared with the source before the folder appears.",
        epilog=_EXAMPLE,
    )
    parser.add_argument("source", metavar="SOURCE", help=SOURCE)
    parser.add_argument("out", metavar="OUT", help="the folder to write; it must not exist yet")
    add_source_options(parser)
    parser.add_argument(
        "--to",
        choices=("scatter", "standard", "concat", "scatter-nd"),
        default="scatter",
        help="TensorScatter (default); the same with contrib operators written in standard ones, packed weights with "
        "the same integers; past/present tensors that grow; or ScatterND",
    )
    parser.add_argument(
        "--primitive",
        action="store_true",
        help="spell out Attention, RotaryEmbedding and RMSNormalization in older operators (not with --to scatter)",
    )
    parser.add_argument(
        "--capacity", type=positive, metavar="N", help="fix the positions of the cache (--to scatter, standard)"
    )
    parser.add_argument(
        "--no-verify", dest="verify", action="store_false", help="do not compare the result's logits with the source's"
    )
    add_json_argument(parser)
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Runs the subcommand.

    Raises:
        GenAIError: The model cannot be read or converted, or the result computes something else.
    """
    from genai_iface.transform.convert.folder import convert_folder  # noqa: PLC0415 - onnx loads slowly

    progress = Progress()
    try:
        done = convert_folder(
            source_of(arguments, arguments.source),
            arguments.out,
            to=arguments.to,
            capacity=arguments.capacity,
            primitive=arguments.primitive,
            verify=arguments.verify,
            progress=progress.show,
        )
    finally:
        progress.stop()
    if arguments.json:
        print_json("convert", _as_json(done, arguments.out))
        return 0
    _print(done)
    print(f"written to {arguments.out}")
    return 0


def _as_json(done: Converted, out: str) -> dict[str, Any]:
    return {
        "path": out,
        "layers": [asdict(layer) for layer in done.layers],
        "nodes_before": done.nodes_before,
        "nodes_after": done.nodes_after,
        "removed_inputs": list(done.removed_inputs),
        "added_inputs": list(done.added_inputs),
        "difference": done.difference,
        "unverified": done.unverified,
    }


def _print(done: Converted) -> None:
    """What was found and done."""
    count = len(done.layers)
    print(f"{count} layer{'s' if count != 1 else ''}:")
    for (form, mask, readers), run_of in groupby(
        done.layers, key=lambda layer: (layer.form, layer.mask, layer.readers)
    ):
        indices = [layer.layer for layer in run_of]
        span = f"{indices[0]}-{indices[-1]}" if len(indices) > 1 else f"{indices[0]}"
        shared = f", read by {readers} attentions" if readers > 1 else ""
        print(f"  {span}: {form}, mask {mask}{shared}")
    print(f"nodes: {done.nodes_before} -> {done.nodes_after}")
    for word, names in (("removed", done.removed_inputs), ("added", done.added_inputs)):
        if names:
            print(f"{word} inputs: {', '.join(names)}")
    if done.difference is not None:
        print(f"largest difference of a logit: {done.difference:.1e} of the largest logit")
    elif done.unverified:
        print(f"not verified: {done.unverified}")
