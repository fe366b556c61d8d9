# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""``genai-iface verify``: whether two backends compute the same, step by step."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict, dataclass
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genai_iface._tolerance import LOGIT_TOLERANCES, ROUNDED_ACTIVATIONS_TOLERANCE, relative_difference
from genai_iface.cli.arguments import (
    add_source_arguments,
    named_source,
    not_negative,
    parse_options,
    positive,
    source_of,
)
from genai_iface.cli.json_output import add_json_argument, print_json
from genai_iface.cli.progress import Progress
from genai_iface.cli.verify_matrix import add_matrix_arguments, run_matrix_of
from genai_iface.errors import InvalidInputError
from genai_iface.protocols import Model
from genai_iface.registry import load_model

__all__ = ["StepDifference", "add_parser", "compare", "run"]

_ACCURACY_LEVEL = "session.qdq_matmulnbits_accuracy_level"
_EXACT_OPTION = f'session_options={{"{_ACCURACY_LEVEL}": "1"}}'
_ROUNDED_ACTIVATIONS = "weights in int4 or int8, and ONNX Runtime rounds what they are multiplied with to int8 too"


@dataclass(frozen=True, slots=True)
class StepDifference:
    """How far two backends are apart after one step.

    Attributes:
        row: Row of the batch.
        step: 0 for the prompt, then one per decoded token.
        difference: Largest difference of a logit, divided by the largest magnitude in the reference.
        token: The likeliest token of the candidate.
        reference_token: The likeliest token of the reference.
        margin: Difference of the reference's two likeliest logits, divided likewise: what a difference
            must reach half of before the token can change.
    """

    row: int
    step: int
    difference: float
    token: int
    reference_token: int
    margin: float

    @property
    def diverges(self) -> bool:
        """Whether the two would choose different tokens."""
        return self.token != self.reference_token

    def is_near_tie(self, tolerance: float) -> bool:
        """Whether the reference's two likeliest tokens are so near that a legal difference can exchange them."""
        return self.difference <= tolerance and self.margin <= 2 * self.difference


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "verify",
        help="compare two backends step by step",
        description="Feeds both backends the same random prompts, a ragged batch, and then the tokens that the "
        "reference chooses. Compares the logits of every step and tells a near tie from a real difference. With "
        "--matrix, SOURCE is a checkpoint: every tool that makes graphs of it, times every runtime, beside torch.",
        epilog="example: genai-iface verify my-model --backend ort --against numpy --steps 32",
    )
    add_source_arguments(parser)
    parser.add_argument("--backend", metavar="NAME", help="the backend to judge; needed but for --matrix")
    parser.add_argument("--against", default="numpy", metavar="NAME", help="the reference (default: numpy)")
    parser.add_argument("--device", metavar="D", help="device of the judged backend")
    parser.add_argument("--option", action="append", default=[], metavar="KEY=VALUE", help="an option of that backend")
    parser.add_argument("--steps", type=positive, default=32, metavar="N", help="tokens to decode")
    parser.add_argument("--prompt-tokens", type=positive, default=16, metavar="N", help="tokens of the longest prompt")
    parser.add_argument("--batch-size", type=positive, default=3, metavar="B", help="prompts, of different lengths")
    parser.add_argument(
        "--tolerance", type=not_negative, metavar="T", help="largest legal difference, as a part of the largest logit"
    )
    add_matrix_arguments(parser)
    add_json_argument(parser)
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Runs the command.

    Returns:
        0 if all differences are within the tolerance and tokens differ at near ties only, otherwise 1.

    Raises:
        InvalidInputError: There is no backend to judge, or it is compared with itself.
    """
    if arguments.matrix:
        return run_matrix_of(arguments)
    if arguments.backend is None:
        raise InvalidInputError("verify judges a backend, and none is named", remedy="Add --backend NAME, or --matrix.")
    if (arguments.backend, arguments.device, arguments.option) == (arguments.against, None, []):
        raise InvalidInputError(
            f"--backend and --against are both {arguments.backend!r}, which agrees with itself",
            remedy="Name another reference, or a --device or --option of the backend to judge.",
        )
    folder = source_of(arguments, named_source(arguments))
    progress = Progress()
    with progress.loading():
        reference = load_model(folder, backend=arguments.against)
        candidate = load_model(
            folder, backend=arguments.backend, device=arguments.device, options=parse_options(arguments.option)
        )
    try:
        tolerance, reason = arguments.tolerance, ""
        if tolerance is None:
            dtypes = {layer.dtype for layer in reference.spec.cache.layers} or {"float32"}
            tolerance = max(LOGIT_TOLERANCES[dtype] for dtype in dtypes)
            if tolerance < ROUNDED_ACTIVATIONS_TOLERANCE and _rounds_activations(folder, arguments):
                tolerance, reason = ROUNDED_ACTIVATIONS_TOLERANCE, _ROUNDED_ACTIVATIONS
        steps = compare(
            candidate,
            reference,
            steps=arguments.steps,
            prompt_tokens=arguments.prompt_tokens,
            batch_size=arguments.batch_size,
            progress=lambda done, total: progress.show("comparing, steps", done, total),
        )
    finally:
        progress.stop()
        reference.close()
        candidate.close()
    worst = max(steps, key=lambda step: step.difference)
    diverging = [step for step in steps if step.diverges]
    agrees = worst.difference <= tolerance and all(step.is_near_tie(tolerance) for step in diverging)
    if arguments.json:
        verdict: dict[str, Any] = {
            "agrees": agrees,
            "tolerance": tolerance,
            "tolerance_reason": reason,
            "steps": [asdict(step) for step in steps],
        }
        print_json("verify", verdict)
        return 0 if agrees else 1
    print(f"{arguments.backend} against {arguments.against}: {len(steps)} comparisons")
    print(
        f"largest difference: {worst.difference:.2e} of the largest logit (row {worst.row}, step {worst.step}); ",
        end="",
    )
    print(f"tolerance {tolerance:.0e}{reason and ': ' + reason}")
    if diverging:
        first = diverging[0]
        kind = "a near tie" if first.is_near_tie(tolerance) else "not a near tie"
        print(
            f"first different token: row {first.row}, step {first.step}: {first.token} instead of "
            f"{first.reference_token}; margin {first.margin:.2e}, difference {first.difference:.2e}: {kind}"
        )
    else:
        print("all tokens are equal")
    print("verdict: they agree" if agrees else "verdict: they differ")
    if reason:
        print(f"to compare in full precision: --option '{_EXACT_OPTION}'")
    return 0 if agrees else 1


def compare(
    candidate: Model[Any],
    reference: Model[Any],
    /,
    *,
    steps: int,
    prompt_tokens: int,
    batch_size: int,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[StepDifference]:
    """Runs both models on the same tokens.

    Args:
        candidate: The model to judge.
        reference: The model whose greedy tokens both are fed.
        steps: Tokens to decode after the prompts.
        prompt_tokens: Tokens of the longest prompt; row b's is b tokens shorter, but not empty.
        batch_size: The rows of the batch.
        seed: Of the random prompts.
        progress: Told before each step how many are done, and of how many.

    Returns:
        One entry for each row and step, steps in order.
    """
    counts = np.maximum(prompt_tokens - np.arange(batch_size), 1)
    ids = np.random.default_rng(seed).integers(0, reference.spec.vocab_size, (batch_size, prompt_tokens))
    caches = [
        model.create_cache(batch_size=batch_size, capacity=prompt_tokens + steps) for model in (candidate, reference)
    ]
    found: list[StepDifference] = []
    try:
        for step in range(steps + 1):
            progress(step, steps + 1)
            given = counts if step == 0 else None
            got, expected = (
                model.forward(ids, cache, counts=given)[:, 0]
                for model, cache in zip((candidate, reference), caches, strict=True)
            )
            found += [_difference(row, step, got[row], expected[row]) for row in range(batch_size)]
            ids = expected.argmax(-1)[:, None]
    finally:
        for cache in caches:
            cache.close()
    return found


def _rounds_activations(folder: str | PathLike[str], arguments: argparse.Namespace) -> bool:
    """Whether one of the two backends multiplies quantized weights with rounded activations."""
    if "ort" not in (arguments.backend, arguments.against):
        return False
    settings = parse_options(arguments.option).get("session_options", {})
    is_exact = isinstance(settings, dict) and str(settings.get(_ACCURACY_LEVEL, "")) == "1"
    return not is_exact and _has_small_weights(folder)


def _has_small_weights(folder: str | PathLike[str]) -> bool:
    """Whether products have quantized weights."""
    import onnx  # noqa: PLC0415 - other commands should start without it

    from genai_iface.folder import open_folder  # noqa: PLC0415

    model = onnx.load(open_folder(folder).model_path, load_external_data=False)
    return any(node.op_type in ("DequantizeLinear", "MatMulNBits") for node in model.graph.node)


def _difference(row: int, step: int, got: NDArray[np.float32], expected: NDArray[np.float32]) -> StepDifference:
    scale = max(float(np.abs(expected).max()), 1e-30)
    second, first = np.partition(expected, -2)[-2:]
    return StepDifference(
        row=row,
        step=step,
        difference=relative_difference(got, expected),
        token=int(got.argmax()),
        reference_token=int(expected.argmax()),
        margin=float(first - second) / scale,
    )
