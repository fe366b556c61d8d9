# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""``genai-iface conformance``: runs the conformance kit on a backend or an adapter."""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

from genai_iface.errors import InvalidInputError

if TYPE_CHECKING:
    from genai_iface.conformance import Adapter, ConformanceResult, Outcome

__all__ = ["add_parser", "run"]

# 2 is every command's code for a usage error.
_EXIT_CODES = {"conforms": 0, "known_deviations": 3, "does_not_reach": 1, "no_verdict": 1}
_SHOWN = {"failed": "FAILED", "deviation": "deviation"}


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "conformance",
        help="check a runtime against the interface",
        description="Runs the conformance kit and gives a verdict per level. Exit code: 0 if the runtime conforms "
        "at the level, 3 if it does but for known deviations, 1 if it does not reach it or there is no verdict, 2 "
        "for a usage error.",
    )
    parser.add_argument("adapter", nargs="?", help="a registered backend, or module:attribute of an adapter")
    parser.add_argument(
        "--command",
        dest="harness",
        metavar="COMMAND",
        help="check a program that speaks the wire protocol: 'node harness.mjs'",
    )
    parser.add_argument(
        "--url",
        metavar="URL",
        help="check an OpenAI-compatible server that serves the golden model 'text': http://127.0.0.1:8000",
    )
    parser.add_argument("--model", metavar="NAME", help="the name under which that server serves it")
    parser.add_argument(
        "--time-limit", type=float, default=60.0, metavar="S", help="most seconds for one reply of it (default: 60)"
    )
    parser.add_argument("--level", type=int, default=4, help="the level to reach, 0 to 4 (default: 4)")
    parser.add_argument(
        "--dtype",
        default="float32",
        choices=("float32", "float16", "bfloat16"),
        help="element type of the golden models (default: float32)",
    )
    parser.add_argument("--deviations", metavar="FILE", help="JSON list of known deviations")
    parser.add_argument("--report", metavar="DIR", help="write report.json, report.md and report.html there")
    parser.add_argument("--only", metavar="ID", action="append", default=[], help="run this check alone (repeatable)")
    parser.add_argument(
        "--tolerance-factor", type=float, default=1.0, metavar="F", help="tighten tolerances: above 0, at most 1"
    )
    parser.add_argument(
        "--seed",
        type=int,
        metavar="N",
        help="of the models and programs that are made for the run (default: a new one)",
    )
    parser.add_argument("--list", action="store_true", help="list the checks and run nothing")
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Runs the command."""
    # The kit is not needed for --help.
    from genai_iface import conformance as kit  # noqa: PLC0415
    from genai_iface.conformance._report import check_report_folder  # noqa: PLC0415
    from genai_iface.conformance.wire import WireAdapter  # noqa: PLC0415

    if arguments.list:
        for item in kit.all_checks(level=arguments.level):
            needs = f" [{', '.join(sorted(item.requires))}]" if item.requires else ""
            print(f"{item.id}  {item.title}{needs}")
        return 0
    adapter = _find_adapter(arguments)
    if arguments.report is not None:
        check_report_folder(arguments.report)
    known = kit.read_deviations(arguments.deviations, dtype=arguments.dtype) if arguments.deviations else None
    with ExitStack() as stack:
        if isinstance(adapter, WireAdapter):
            stack.callback(adapter.close)
        result = kit.run_checks(
            adapter,
            level=arguments.level,
            dtype=arguments.dtype,
            only=arguments.only,
            deviations=known,
            factor=arguments.tolerance_factor,
            seed=arguments.seed,
            on_outcome=_print_outcome,
        )
    _print_verdict(result)
    if arguments.report is not None:
        for path in kit.write_report(result, arguments.report):
            print(f"wrote {path}", file=sys.stderr)
    return _EXIT_CODES[result.verdict]


def _find_adapter(arguments: argparse.Namespace) -> Adapter:
    targets = (arguments.adapter, arguments.harness, arguments.url)
    if sum(target is not None for target in targets) != 1:
        raise InvalidInputError(
            "One target is needed: a backend, module:attribute, --command COMMAND, or --url URL",
            remedy="Or give --list.",
        )
    if arguments.url is not None:
        from genai_iface.conformance.text import UrlAdapter  # noqa: PLC0415 - not for --help

        return UrlAdapter(arguments.url, arguments.model or "", time_limit=arguments.time_limit)
    if arguments.harness is not None:
        from genai_iface.conformance.wire import WireAdapter  # noqa: PLC0415 - not for --help

        return WireAdapter(arguments.harness, time_limit=arguments.time_limit)
    from genai_iface.conformance import load_adapter  # noqa: PLC0415

    return load_adapter(arguments.adapter)


def _print_outcome(outcome: Outcome) -> None:
    if outcome.status not in _SHOWN:
        return
    print(f"{_SHOWN[outcome.status]} {outcome.check.id}: {outcome.message}")
    for name, value in outcome.numbers.items():
        print(f"    {name}: {value}")


def _print_verdict(result: ConformanceResult) -> None:
    from genai_iface.conformance._report import WORDS, as_json, claim_in_words  # noqa: PLC0415

    for level in result.levels:
        counts = ", ".join(f"{number} {status.replace('_', ' ')}" for status, number in level.counts.items())
        print(f"level {level.level}: {WORDS[level.verdict]} ({counts})")
        if level.missing:
            print(f"    not declared, but asked for at this level: {', '.join(level.missing)}")
    print(f"seed {result.seed}")
    print(claim_in_words(as_json(result)))
