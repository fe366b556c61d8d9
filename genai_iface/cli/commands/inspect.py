# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""``genai-iface inspect FOLDER``: what was derived from a model folder, and why."""

from __future__ import annotations

import argparse
import json
from itertools import groupby
from typing import TYPE_CHECKING, Any

from genai_iface.cli.arguments import parse_options
from genai_iface.errors import GenAIError
from genai_iface.registry import load_model

if TYPE_CHECKING:
    from genai_iface.folder import ModelFolder
    from genai_iface.types import LayerCacheSpec

__all__ = ["add_parser", "describe", "run"]

# Names of chat templates that need no mention: none, or the one that has no name of its own.
_USUAL: tuple[list[str], ...] = ([], ["default"])

_EXAMPLE = """\
example:
  genai-iface inspect ./my-model
  genai-iface inspect ./my-model --json | jq .cache.style
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Adds the subcommand and returns its parser."""
    parser = commands.add_parser(
        "inspect",
        help="show what a model folder's graph says about itself",
        description="Opens a model folder, derives the signature of its graph, and prints it with the reasons.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", metavar="FOLDER", help="a folder with model.onnx in it")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    parser.add_argument("--backend", metavar="NAME", help="also load it there and show what was done to the graph")
    parser.add_argument(
        "--option", action="append", default=[], metavar="KEY=VALUE", help="an option of that backend; may be repeated"
    )
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Runs the subcommand.

    Raises:
        GenAIError: The folder is broken, or its graph is not understood.
    """
    from genai_iface.folder import open_folder  # noqa: PLC0415 - onnx loads slowly, --help must not

    folder = open_folder(arguments.folder)
    notes = None
    if arguments.backend is not None:
        notes = _load_notes(folder, arguments.backend, parse_options(arguments.option))
    if arguments.json:
        described = describe(folder) | ({} if notes is None else {"load_notes": notes})
        print(json.dumps(described, indent=2, ensure_ascii=False))
        return 0
    _print_tables(folder)
    if notes is not None:
        print(f"\nloaded by {arguments.backend}:")
        print("\n".join(f"  {_printable(note)}" for note in notes) or "  the graph runs as it is")
    return 0


def _load_notes(folder: ModelFolder, backend: str, options: dict[str, Any]) -> list[str]:
    """What a backend did to the graph at load; empty if it says nothing of that kind."""
    model = load_model(folder.path, backend=backend, options=options)
    try:
        return [str(note) for note in getattr(model, "notes", ())]
    finally:
        model.close()


def describe(folder: ModelFolder) -> dict[str, Any]:
    """What ``--json`` prints."""
    signature, cache = folder.signature, folder.signature.cache
    return {
        "path": str(folder.path),
        "opset": signature.opset,
        "inputs": {
            role: {"name": name, "dtype": signature.input_dtypes[role]} for role, name in signature.inputs.items()
        },
        "logits": {"name": signature.logits, "dtype": signature.logits_dtype},
        "vocab_size": signature.vocab_size,
        "context_length": folder.context_length,
        "max_positions": signature.max_positions,
        "cache": {
            "style": cache.style,
            "layout": cache.layout,
            "bytes_per_token": cache.bytes_per_token,
            "fixed_capacity": cache.fixed_capacity,
            "layers": [
                {name: getattr(layer, name) for name in (*layer.__slots__, "bytes_per_token")} for layer in cache.layers
            ],
            "tensors": [
                {"layer": tensor.layer, "kind": tensor.kind, "past": tensor.past, "present": tensor.present}
                for tensor in signature.cache_tensors
            ],
        },
        "eos_token_ids": list(folder.generation_config.eos_token_ids),
        "tokenizer": _tokenizer_facts(folder),
        "evidence": [
            {"subject": item.subject, "role": item.role, "reason": item.reason} for item in signature.evidence
        ],
    }


def _tokenizer_facts(folder: ModelFolder) -> dict[str, Any]:
    """Size and template of the tokenizer, or why there is none; a model can be driven with ids alone."""
    try:
        tokenizer = folder.tokenizer
        names = sorted(tokenizer.chat_templates)
        facts: dict[str, Any] = {"vocab_size": tokenizer.vocab_size, "chat_template": bool(names)}
        return facts if names in _USUAL else facts | {"chat_templates": names}
    except GenAIError as error:
        return {"error": str(error)}


def _print_tables(folder: ModelFolder) -> None:
    from rich.console import Console  # noqa: PLC0415 - only this output needs it
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=140)

    def table(*columns: str) -> Table:
        made = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", title_justify="left")
        for column in columns:
            made.add_column(column, overflow="fold")
        return made

    def show(made: Table, rows: list[tuple[object, ...]]) -> None:
        # Names come from a file: as Text they cannot be taken for markup.
        for row in rows:
            made.add_row(*(Text(_printable(str(cell))) for cell in row))
        console.print(made)
        console.print()

    signature, cache = folder.signature, folder.signature.cache
    tokenizer = _tokenizer_facts(folder)
    words = tokenizer.get("error") or (f"{tokenizer['vocab_size']} ids, {_templates_in_words(tokenizer)}")
    capacity = "grows" if cache.style == "concat" else cache.fixed_capacity or "free"
    rows: list[tuple[object, ...]] = [
        ("folder", folder.path),
        ("opset", signature.opset),
        (
            "cache",
            f"{cache.style}, {cache.layout}, {len(cache.layers)} layers, {cache.bytes_per_token} bytes per token",
        ),
        ("capacity", capacity),
        ("vocabulary", signature.vocab_size),
        ("context length", folder.context_length or "unbounded"),
        ("end of sequence", ", ".join(map(str, folder.generation_config.eos_token_ids)) or "none"),
        ("tokenizer", words),
    ]
    show(table("property", "value"), rows)
    show(table("layers", "kv heads", "key size", "value size", "dtype", "mode", "capacity"), _layer_rows(cache.layers))
    dtypes = {name: signature.input_dtypes[role] for role, name in signature.inputs.items()}
    dtypes[signature.logits] = signature.logits_dtype
    for tensor in signature.cache_tensors:
        dtypes[tensor.past] = dtypes[tensor.present] = cache.layers[tensor.layer].dtype
    later = {name for tensor in signature.cache_tensors if tensor.layer for name in (tensor.past, tensor.present)}
    reasons = [
        (item.role, item.subject, dtypes.get(item.subject, ""), item.reason)
        for item in signature.evidence
        if item.subject not in later
    ]
    show(table("role", "graph name", "dtype", "why"), list(reasons))
    if later:
        more = "1 more layer follows" if len(cache.layers) == 2 else f"{len(cache.layers) - 1} more layers follow"
        console.print(f"{more} the same pattern; --json lists them all.")


def _templates_in_words(facts: dict[str, Any]) -> str:
    if "chat_templates" in facts:
        return f"chat templates {', '.join(facts['chat_templates'])}"
    return f"{'with' if facts['chat_template'] else 'no'} chat template"


def _layer_rows(layers: tuple[LayerCacheSpec, ...]) -> list[tuple[object, ...]]:
    """One row for each run of equal layers."""
    rows: list[tuple[object, ...]] = []
    for layer, run_of in groupby(enumerate(layers), key=lambda pair: pair[1]):
        indices = [index for index, _ in run_of]
        span = f"{indices[0]}-{indices[-1]}" if len(indices) > 1 else f"{indices[0]}"
        sizes = (layer.num_kv_heads, layer.key_head_dim, layer.value_head_dim)
        rows.append((span, *sizes, layer.dtype, layer.mode, layer.capacity or "free"))
    return rows


def _printable(text: str) -> str:
    """Without control characters, which a terminal would obey."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
