# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""``genai-iface bench``: how fast a backend runs a folder."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from genai_iface.cli.arguments import add_source_arguments, named_source, parse_options, positive, source_of
from genai_iface.cli.json_output import add_json_argument, print_json
from genai_iface.cli.progress import Progress
from genai_iface.cli.text import printable
from genai_iface.config import GenerationConfig
from genai_iface.errors import InvalidInputError
from genai_iface.generation.generator import ModelGenerator
from genai_iface.protocols import Model
from genai_iface.registry import load_model
from genai_iface.results import PerfMetrics

__all__ = ["add_parser", "measure", "run"]


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "bench",
        help="measure the speed of a backend",
        description="Runs random prompts through the generation loop, greedily and past every end token, and prints "
        "medians. With --compare, two backends take turns, so that a change of the machine's speed meets both.",
        epilog="example: genai-iface bench my-model --backend ort --compare numpy --prompt-tokens 512",
    )
    add_source_arguments(parser)
    parser.add_argument("--backend", default="numpy", metavar="NAME", help="the backend to measure (default: numpy)")
    parser.add_argument("--compare", metavar="NAME", help="another backend to measure in the same run")
    parser.add_argument("--device", metavar="D", help="device of the measured backend")
    parser.add_argument(
        "--option", action="append", default=[], metavar="KEY=VALUE", help="an option of the measured backend"
    )
    parser.add_argument("--prompt-tokens", type=positive, default=128, metavar="N", help="tokens of each prompt")
    parser.add_argument("--new-tokens", type=positive, default=64, metavar="N", help="tokens to generate, at least 2")
    parser.add_argument("--batch-size", type=positive, default=1, metavar="B", help="sequences at once")
    parser.add_argument("--repeats", type=positive, default=5, metavar="N", help="measured runs, after one that is not")
    add_json_argument(parser)
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Runs the command.

    Raises:
        InvalidInputError: There is nothing to measure.
    """
    if arguments.new_tokens < 2:
        raise InvalidInputError("--new-tokens is 1: the first token is the prompt's work", remedy="Give 2 or more.")
    if arguments.compare == arguments.backend:
        raise InvalidInputError(f"--compare names {arguments.backend!r} again", remedy="Name another backend.")
    folder = source_of(arguments, named_source(arguments))
    progress = Progress()
    with progress.loading():
        models: dict[str, Model[Any]] = {
            arguments.backend: load_model(
                folder, backend=arguments.backend, device=arguments.device, options=parse_options(arguments.option)
            )
        }
        if arguments.compare is not None:
            models[arguments.compare] = load_model(folder, backend=arguments.compare)
    notes = {name: [str(note) for note in getattr(model, "notes", ())] for name, model in models.items()}
    try:
        results = measure(
            models,
            prompt_tokens=arguments.prompt_tokens,
            new_tokens=arguments.new_tokens,
            batch_size=arguments.batch_size,
            repeats=arguments.repeats,
            progress=lambda done, total: progress.show("measuring, runs", done, total),
        )
    finally:
        progress.stop()
        for model in models.values():
            model.close()
    if arguments.json:
        described = {"folder": str(folder), "settings": _settings(arguments), "backends": results, "load_notes": notes}
        print_json("bench", described)
    else:
        _print_table(results)
        # What was done to the graph explains the figures; without it "slow" has no reason.
        for name, lines in notes.items():
            for line in lines:
                print(f"{name}: {printable(line)}")
    return 0


def measure(
    models: Mapping[str, Model[Any]],
    /,
    *,
    prompt_tokens: int,
    new_tokens: int,
    batch_size: int,
    repeats: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, dict[str, float]]:
    """Measures models in turn.

    Args:
        models: Loaded models by name.
        prompt_tokens: Tokens of each prompt.
        new_tokens: Tokens to generate.
        batch_size: Sequences at once.
        repeats: Measured runs of each model; one more comes first and is not counted.
        progress: Told before each run how many are done, and of how many.

    Returns:
        Medians by name: prefill and decode tokens per second, seconds to the first token and per
        token, bytes of the cache.
    """
    runs: dict[str, list[PerfMetrics]] = {name: [] for name in models}
    for repeat in range(repeats + 1):
        for index, (name, model) in enumerate(models.items()):
            progress(repeat * len(models) + index, (repeats + 1) * len(models))
            metrics = _run_once(model, prompt_tokens, new_tokens, batch_size)
            if repeat:
                runs[name].append(metrics)
    return {name: _medians(metrics) for name, metrics in runs.items()}


def _run_once(model: Model[Any], prompt_tokens: int, new_tokens: int, batch_size: int) -> PerfMetrics:
    prompts = np.random.default_rng(0).integers(0, model.spec.vocab_size, (batch_size, prompt_tokens)).tolist()
    generator = ModelGenerator(
        model,
        GenerationConfig(max_new_tokens=new_tokens, ignore_eos=True),
        num_sequences=batch_size,
        capacity=prompt_tokens + new_tokens,
    )
    try:
        generator.append_tokens(prompts)
        while not generator.is_done():
            generator.generate_next_token()
        return generator.metrics
    finally:
        generator.close()


def _medians(runs: Sequence[PerfMetrics]) -> dict[str, float]:
    names = (
        "prefill_tokens_per_second",
        "decode_tokens_per_second",
        "time_to_first_token",
        "time_per_output_token",
        "cache_bytes",
    )
    return {name: statistics.median(getattr(metrics, name) for metrics in runs) for name in names}


def _settings(arguments: argparse.Namespace) -> dict[str, int]:
    return {name: getattr(arguments, name) for name in ("prompt_tokens", "new_tokens", "batch_size", "repeats")}


def _print_table(results: Mapping[str, Mapping[str, float]]) -> None:
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    rows = {
        "prefill, tokens/s": ("prefill_tokens_per_second", 1.0, 1),
        "decode, tokens/s": ("decode_tokens_per_second", 1.0, 1),
        "time to first token, ms": ("time_to_first_token", 1e3, 1),
        "time per output token, ms": ("time_per_output_token", 1e3, 2),
        "cache, MB": ("cache_bytes", 1e-6, 2),
    }
    names = list(results)
    table = Table("median", *names, *([f"{names[0]} / {names[1]}"] if len(names) > 1 else []))
    for label, (key, factor, digits) in rows.items():
        values = [results[name][key] for name in names]
        cells = [f"{value * factor:.{digits}f}" for value in values]
        if len(values) > 1:
            cells.append(f"{values[0] / values[1]:.2f}" if values[1] else "-")
        table.add_row(label, *cells)
    Console().print(table)
