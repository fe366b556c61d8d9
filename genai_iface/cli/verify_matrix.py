# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""``genai-iface verify CHECKPOINT --matrix``: every producer of graphs on every runtime, compared with torch."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from genai_iface.cli.arguments import named_source, positive
from genai_iface.cli.json_output import print_json
from genai_iface.cli.progress import Progress
from genai_iface.errors import BackendNotFoundError, GenAIError, InvalidInputError
from genai_iface.registry import list_backends

if TYPE_CHECKING:
    from genai_iface.build.matrix.judge import Cell
    from genai_iface.build.matrix.run import Row

__all__ = ["add_matrix_arguments", "run_matrix_of"]

_NEEDED = ("torch", "transformers", "onnxscript")
_ORDER = ("numpy", "ort", "ort-genai", "openvino-genai", "transformers")


def add_matrix_arguments(parser: argparse.ArgumentParser, /) -> None:
    """Adds what the matrix is told."""
    group = parser.add_argument_group("matrix")
    group.add_argument("--matrix", action="store_true", help="compare all producers and runtimes of one checkpoint")
    group.add_argument(
        "--producers",
        nargs="+",
        metavar="NAME",
        help="what makes graphs (default: all that are installed): 'build export', 'transformers exporter', 'mobius', "
        "'genai builder', 'convert to concat', ...",
    )
    group.add_argument(
        "--runtimes",
        nargs="+",
        metavar="NAME",
        help="registered backends, NAME=module:attribute of an adapter, or NAME=command:PROGRAM on the wire (default: "
        "all backends that are installed)",
    )
    group.add_argument("--work", metavar="DIR", help="keep graphs, logs and rows there, and go on from what is there")
    group.add_argument(
        "--seconds", type=positive, default=600, metavar="N", help="processor time of one process (default: 600)"
    )
    group.add_argument(
        "--gigabytes", type=positive, default=16, metavar="N", help="memory of one process (default: 16)"
    )


def run_matrix_of(arguments: argparse.Namespace, /) -> int:
    """Runs the matrix of a checkpoint.

    Returns:
        0 if whatever ran gives torch's tokens and logits, otherwise 1.

    Raises:
        GenAIError: The checkpoint is broken, torch computes nothing of it, or a name is unknown.
    """
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise BackendNotFoundError(
            f"The matrix needs {', '.join(missing)}, which is not installed", remedy="pip install 'genai-iface[parity]'"
        )
    source = named_source(arguments)
    if source is None:
        raise InvalidInputError(
            "The matrix starts from a checkpoint, and none is named", remedy="Name a Hugging Face folder."
        )
    from genai_iface.build.checkpoint import open_checkpoint  # noqa: PLC0415 - loads torch
    from genai_iface.build.matrix.apart import Limits  # noqa: PLC0415
    from genai_iface.build.matrix.producers import check_producers, installed_producers  # noqa: PLC0415
    from genai_iface.build.matrix.run import run_matrix  # noqa: PLC0415
    from genai_iface.build.matrix.runtimes import as_runtime  # noqa: PLC0415

    checkpoint = open_checkpoint(source)
    if checkpoint.gguf is not None or checkpoint.adapters:
        raise InvalidInputError(
            f"{checkpoint.name!r} is not a plain checkpoint, which all tools read",
            remedy="Save the network with save_pretrained first.",
        )
    producers = arguments.producers or installed_producers()
    check_producers(producers)
    runtimes = [as_runtime(text) for text in arguments.runtimes or _installed_backends()]
    progress, rows = Progress(), []
    with ExitStack() as stack:
        work = arguments.work or stack.enter_context(tempfile.TemporaryDirectory(prefix="genai-iface-matrix-"))
        Path(work).mkdir(parents=True, exist_ok=True)
        stack.callback(progress.stop)
        for row in run_matrix(
            checkpoint.folder.name,
            checkpoint.folder,
            Path(work),
            producers=producers,
            runtimes=runtimes,
            limits=Limits(arguments.seconds, arguments.gigabytes),
            progress=progress.working,
        ):
            rows.append(row)
            if not arguments.json:
                progress.stop()
                _print(row)
    agrees = not any(cell.is_wrong for row in rows for cell in row.cells)
    if arguments.json:
        print_json("verify", {"agrees": agrees, "rows": [row.as_dict() for row in rows]})
    else:
        print("verdict: whatever ran agrees with torch" if agrees else "verdict: they differ")
    return 0 if agrees else 1


def _installed_backends() -> Sequence[str]:
    """The registered backends that load, in the order of the table."""
    from genai_iface.registry import load_backend  # noqa: PLC0415

    found = []
    for name in sorted(list_backends(), key=lambda name: (_ORDER.index(name) if name in _ORDER else len(_ORDER), name)):
        try:
            load_backend(name)
        except GenAIError:
            continue
        found.append(name)
    return found


def _print(row: Row) -> None:
    """A producer, and what became of it on each runtime that takes its form."""
    if row.problem:
        print(f"{row.producer}: no graph: {row.problem}")
        return
    who = "" if row.fault.who == "nobody" else f"; at fault: {row.fault.who} ({row.fault.reason})"
    print(f"{row.producer} ({row.form}){who}")
    for cell in row.cells:
        print(f"    {cell.runtime}: {_said(cell)}")


def _said(cell: Cell) -> str:
    if not cell.ran:
        return f"{cell.verdict}: {cell.reason}"
    away = "shows no logits" if cell.difference is None else f"largest difference {cell.difference:.0e}"
    if cell.verdict == "equal":
        return f"equal, {cell.compared} tokens, {cell.reason or away}"
    where = f"row {cell.row}, token {(cell.step or 0) + 1}"
    if cell.verdict == "inexact":
        return f"torch's tokens, but logits differ from {where} on, {away}"
    return f"{cell.verdict} at {where}: {cell.token} instead of {cell.expected}, margin {cell.margin:.0e}, {away}"
