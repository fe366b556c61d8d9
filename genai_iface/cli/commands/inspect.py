# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""``genai-iface inspect SOURCE``: which models there are, what was derived from one, and why."""

from __future__ import annotations

import argparse
import dataclasses
from itertools import groupby
from typing import TYPE_CHECKING, Any

from genai_iface.cli.arguments import SOURCE, add_source_options, parse_options
from genai_iface.cli.json_output import add_json_argument, print_json
from genai_iface.cli.text import printable
from genai_iface.errors import GenAIError
from genai_iface.registry import load_model

if TYPE_CHECKING:
    from genai_iface.folder import ModelFolder
    from genai_iface.graph import GraphSignature, StateTensor
    from genai_iface.types import LayerCacheSpec

__all__ = ["add_parser", "describe", "run"]

# Names of chat templates that need no mention: none, or the one that has no name of its own.
_USUAL: tuple[list[str], ...] = ([], ["default"])

_EXAMPLE = """\
example:
  genai-iface inspect ./my-model
  genai-iface inspect ORG/NAME                  # its variants; nothing large is downloaded
  genai-iface inspect ORG/NAME --variant q4f16
  genai-iface inspect ./my-model --json | jq .cache.style
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Adds the subcommand and returns its parser."""
    parser = commands.add_parser(
        "inspect",
        help="list the models of a source, show what a graph says about itself",
        description="Lists the models of a folder or repository with size, dtype and cache style; opens one, derives "
        "the signature of its graph, and prints it with the reasons. Of a repository of the hub it only lists, unless "
        "a variant is named.",
        epilog=_EXAMPLE,
    )
    parser.add_argument("source", metavar="SOURCE", help=SOURCE)
    add_source_options(parser)
    add_json_argument(parser, "print one JSON object instead of tables")
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
    from genai_iface.folder.resolve import is_id  # noqa: PLC0415

    source, variant, revision = arguments.source, arguments.variant, arguments.revision
    # To look into a repository must not mean to download its largest model.
    lists_only = variant is None and is_id(source) and ":" not in source
    variants = _variants(source, revision) if variant is None else []
    if lists_only:
        print_json("inspect", {"variants": variants}) if arguments.json else _print_variants(variants)
        return 0
    folder = open_folder(source, variant=variant, revision=revision)
    notes = None
    if arguments.backend is not None:
        notes = _load_notes(folder, arguments.backend, parse_options(arguments.option))
    if arguments.json:
        described = describe(folder) | ({"variants": variants} if len(variants) > 1 else {})
        described |= {} if notes is None else {"load_notes": notes}
        print_json("inspect", described)
        return 0
    if len(variants) > 1:
        _print_variants(variants)
        print()
    _print_tables(folder)
    if folder.notes:
        print("\nopened:")
        print("\n".join(f"  {printable(note)}" for note in folder.notes))
    if notes is not None:
        print(f"\nloaded by {arguments.backend}:")
        print("\n".join(f"  {printable(note)}" for note in notes) or "  the graph runs as it is")
    return 0


def _variants(source: str, revision: str | None) -> list[dict[str, Any]]:
    """All models of a source, as ``--json`` prints them; without a look into them where there is only one."""
    from genai_iface.folder.resolve import describe_models  # noqa: PLC0415

    return [dataclasses.asdict(model) for model in describe_models(source, revision=revision)]


def _print_variants(variants: list[dict[str, Any]]) -> None:
    rows = [("variant", "size", "dtype", "cache", "file")]
    for item in variants:
        size = f"{item['size'] / 2**20:.1f} MiB"
        cache = item["problem"] or item["cache"] or "unknown until it is downloaded"
        rows.append((item["name"], size, item["dtype"] or "unknown", cache, item["file"]))
    widths = [max(len(printable(row[column])) for row in rows) for column in range(4)]
    for row in rows:
        cells = [printable(cell).ljust(width) for cell, width in zip(row, (*widths, 0), strict=True)]
        print("  ".join(cells).rstrip())


def _load_notes(folder: ModelFolder, backend: str, options: dict[str, Any]) -> list[str]:
    """What a backend did to the graph at load; empty if it says nothing of that kind."""
    model = load_model(folder.source, backend=backend, options=options)
    try:
        return [str(note) for note in getattr(model, "notes", ())]
    finally:
        model.close()


def describe(folder: ModelFolder) -> dict[str, Any]:
    """What ``--json`` prints."""
    signature, cache = folder.signature, folder.signature.cache
    return {
        "path": str(folder.path),
        "file": folder.model_path.name,
        "notes": list(folder.notes),
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
            "bytes_per_row": cache.bytes_per_row,
            "states": [
                {name: getattr(state, name) for name in (*state.__slots__, "bytes_per_row")}
                | {"past": tensor.past, "present": tensor.present, "is_counted": tensor.is_counted}
                for state, tensor in zip(cache.states, signature.state_tensors, strict=True)
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
            made.add_row(*(Text(printable(str(cell))) for cell in row))
        console.print(made)
        console.print()

    signature, cache = folder.signature, folder.signature.cache
    tokenizer = _tokenizer_facts(folder)
    words = tokenizer.get("error") or (f"{tokenizer['vocab_size']} ids, {_templates_in_words(tokenizer)}")
    capacity = "grows" if cache.style == "concat" else cache.fixed_capacity or "free"
    rows: list[tuple[object, ...]] = [
        ("model", folder.model_path),
        ("opset", signature.opset),
        (
            "cache",
            f"{cache.style}, {cache.layout}, {len(cache.layers)} layers, {cache.bytes_per_token} bytes per token",
        ),
        *([("states", f"{len(cache.states)}, {cache.bytes_per_row} bytes per row")] if cache.states else []),
        ("capacity", capacity),
        ("vocabulary", signature.vocab_size),
        ("context length", folder.context_length or "unbounded"),
        ("end of sequence", ", ".join(map(str, folder.generation_config.eos_token_ids)) or "none"),
        ("tokenizer", words),
    ]
    show(table("property", "value"), rows)
    show(table("layers", "kv heads", "key size", "value size", "dtype", "mode", "capacity"), _layer_rows(cache.layers))
    if cache.states:
        show(table("states", "kind", "shape of a row", "dtype", "layer", "padding"), _state_rows(signature))
    dtypes = {name: signature.input_dtypes[role] for role, name in signature.inputs.items()}
    dtypes[signature.logits] = signature.logits_dtype
    for tensor in signature.cache_tensors:
        dtypes[tensor.past] = dtypes[tensor.present] = cache.layers[tensor.layer].dtype
    for state in signature.state_tensors:
        dtypes[state.past] = dtypes[state.present] = cache.states[state.state].dtype
    later = {name for tensor in signature.cache_tensors if tensor.layer for name in (tensor.past, tensor.present)}
    later |= {name for layer, state in _later_states(signature) if layer for name in (state.past, state.present)}
    reasons = [
        (item.role, item.subject, dtypes.get(item.subject, ""), item.reason)
        for item in signature.evidence
        if item.subject not in later
    ]
    show(table("role", "graph name", "dtype", "why"), list(reasons))
    if later:
        number = max(len(cache.layers) - 1, 0) + len({layer for layer, _ in _later_states(signature) if layer})
        more = "1 more layer follows" if number == 1 else f"{number} more layers follow"
        console.print(f"{more} the same pattern; --json lists them all.")


def _later_states(signature: GraphSignature) -> list[tuple[int, StateTensor]]:
    """Each state with 0 if it is of the first layer that keeps any."""
    return [(signature.cache.states[tensor.state].layer, tensor) for tensor in signature.state_tensors]


def _state_rows(signature: GraphSignature) -> list[tuple[object, ...]]:
    """One row for each state."""
    pairs = zip(signature.cache.states, signature.state_tensors, strict=True)
    return [
        (
            index,
            state.kind,
            " x ".join(map(str, state.shape)),
            state.dtype,
            state.layer,
            "leaves it alone" if tensor.is_counted else "never runs",
        )
        for index, (state, tensor) in enumerate(pairs)
    ]


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
