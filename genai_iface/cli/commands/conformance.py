# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""``genai-iface conformance``: runs the conformance kit on a backend or an adapter."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genai_iface.cli.json_output import add_json_argument, print_json
from genai_iface.cli.progress import Progress
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
    parser.add_argument(
        "adapter",
        nargs="?",
        help="a registered backend, or module:attribute of an adapter; or 'submit' or 'check-submission' before DIR",
    )
    parser.add_argument("folder", nargs="?", metavar="DIR", help="a folder that --report has written")
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
    parser.add_argument(
        "--export", metavar="DIR", help="write the checks of steps and rows as programs that need no Python, and stop"
    )
    parser.add_argument(
        "--quick", action="store_true", help="leave out walks, long rows and whole loops; gives no verdict"
    )
    parser.add_argument("--long", action="store_true", help="also walk over rows of up to 8192 tokens")
    parser.add_argument("--list", action="store_true", help="list the checks and run nothing")
    add_json_argument(parser)
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Runs the command."""
    # The kit is not needed for --help.
    from genai_iface import conformance as kit  # noqa: PLC0415
    from genai_iface.conformance._report import check_report_folder  # noqa: PLC0415
    from genai_iface.conformance.wire import HarnessError, WireAdapter  # noqa: PLC0415

    for asked, act in (
        (arguments.list, _list),
        (arguments.adapter in _ON_FOLDERS, _ON_FOLDERS.get(arguments.adapter, _list)),
        (arguments.export is not None, _export),
    ):
        if asked:
            return act(arguments)
    if arguments.folder is not None:
        raise InvalidInputError(
            f"{arguments.folder!r} is one argument too many", remedy="Give one target; --report takes a folder."
        )
    adapter = _find_adapter(arguments)
    if arguments.report is not None:
        check_report_folder(arguments.report)
    known = kit.read_deviations(arguments.deviations, dtype=arguments.dtype) if arguments.deviations else None
    shown = _Shown(len(arguments.only) or len(kit.all_checks(level=arguments.level)), quiet=arguments.json)
    with ExitStack() as stack:
        stack.callback(shown.progress.stop)
        if isinstance(adapter, WireAdapter):
            stack.callback(adapter.close)
        try:
            result = kit.run_checks(
                adapter,
                level=arguments.level,
                dtype=arguments.dtype,
                only=arguments.only,
                deviations=known,
                factor=arguments.tolerance_factor,
                seed=arguments.seed,
                quick=arguments.quick,
                long=arguments.long,
                on_outcome=shown.outcome,
            )
        except HarnessError as error:
            # In a check it is the check's finding; here it does not even say what it is.
            raise InvalidInputError(
                f"There is nothing to judge. {error}",
                remedy="Run the command by itself: it has to wait for a line of JSON, as docs/spec/wire.md says.",
            ) from error
    return _report(result, arguments)


def _report(result: ConformanceResult, arguments: argparse.Namespace) -> int:
    from genai_iface.conformance import write_report  # noqa: PLC0415 - not for --help

    if arguments.json:
        print_json("conformance", _as_json(result))
    else:
        _print_verdict(result)
    if arguments.report is not None:
        for path in write_report(result, arguments.report):
            print(f"wrote {path}", file=sys.stderr)
    if arguments.quick:
        counts = Counter(item.status for item in result.outcomes)
        if not arguments.json:
            print(f"quick: {counts['passed']} passed, {counts['failed']} failed, {counts['not_executed']} not executed")
        return int(counts["failed"] > 0)
    return _EXIT_CODES[result.verdict]


def _list(arguments: argparse.Namespace) -> int:
    from genai_iface.conformance import all_checks  # noqa: PLC0415 - not for --help

    found = all_checks(level=arguments.level)
    if arguments.json:
        listed = [
            {"id": item.id, "level": item.level, "title": item.title, "requires": sorted(item.requires)}
            for item in found
        ]
        print_json("conformance", {"checks": listed})
        return 0
    for item in found:
        needs = f" [{', '.join(sorted(item.requires))}]" if item.requires else ""
        print(f"{item.id}  {item.title}{needs}")
    return 0


def _export(arguments: argparse.Namespace) -> int:
    from genai_iface.conformance.export import export_programs  # noqa: PLC0415 - not for --help

    made = export_programs(arguments.export, seed=arguments.seed or 0, only=arguments.only)
    if arguments.json:
        print_json("conformance", {"exported": made, "folder": str(arguments.export)})
    else:
        print(", ".join(f"{number} {what}" for what, number in made.items()) + f" in {arguments.export}")
    return 0


def _submit(arguments: argparse.Namespace) -> int:
    from genai_iface.conformance.submission import write_submission  # noqa: PLC0415 - not for --help

    path = write_submission(_folder_of(arguments))
    print(f"wrote {path}", file=sys.stderr)
    if arguments.json:
        print_json("conformance", {"submission": str(path)})
    return 0


def _check_submission(arguments: argparse.Namespace) -> int:
    from genai_iface.conformance._report import claim_in_words  # noqa: PLC0415 - not for --help
    from genai_iface.conformance.submission import check_submission  # noqa: PLC0415

    folder = Path(_folder_of(arguments))
    faults = check_submission(folder)
    claim = ""
    if not faults:
        claim = claim_in_words(json.loads((folder / "report.json").read_text(encoding="utf-8")))
    if arguments.json:
        print_json("conformance", {"holds": not faults, "faults": list(faults), "claim": claim})
        return int(bool(faults))
    for fault in faults:
        print(f"FAULT {fault}")
    if not faults:
        print(f"the submission holds: {claim}")
    return int(bool(faults))


def _folder_of(arguments: argparse.Namespace) -> str:
    if not arguments.folder:
        raise InvalidInputError(
            f"{arguments.adapter} needs a folder", remedy=f"genai-iface conformance {arguments.adapter} DIR"
        )
    return str(arguments.folder)


_ON_FOLDERS = {"submit": _submit, "check-submission": _check_submission}


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

    # An installed command does not look where it is started, which is where a runtime is while it is being written.
    here = str(Path.cwd())
    if ":" in arguments.adapter and here not in sys.path:
        sys.path.append(here)
    return load_adapter(arguments.adapter)


class _Shown:
    """What is seen while checks run: failures, and on a terminal how far it is.

    Args:
        total: The checks that may run.
        quiet: Whether nothing is printed.
    """

    def __init__(self, total: int, *, quiet: bool) -> None:
        self.progress, self._done, self._total, self._quiet = Progress(), 0, total, quiet

    def outcome(self, outcome: Outcome) -> None:
        """Shows one."""
        self._done += 1
        if outcome.status in _SHOWN and not self._quiet:
            # The line of the progress must not stand among those that stay.
            self.progress.stop()
            _print_outcome(outcome)
        self.progress.show(f"level {outcome.check.level}, checks", self._done, self._total)


def _print_outcome(outcome: Outcome) -> None:
    print(f"{_SHOWN[outcome.status]} {outcome.check.id}: {outcome.message}")
    for name, value in outcome.numbers.items():
        print(f"    {name}: {value}")


def _as_json(result: ConformanceResult) -> dict[str, Any]:
    from genai_iface.conformance._report import as_json, claim_in_words  # noqa: PLC0415

    report = as_json(result)
    return {"verdict": result.verdict, "claim": claim_in_words(report), "report": report}


def _print_verdict(result: ConformanceResult) -> None:
    from genai_iface.conformance._report import WORDS, as_json, claim_in_words  # noqa: PLC0415

    for level in result.levels:
        counts = ", ".join(f"{number} {status.replace('_', ' ')}" for status, number in level.counts.items())
        print(f"level {level.level}: {WORDS[level.verdict]} ({counts})")
        if level.missing:
            print(f"    not declared, but asked for at this level: {', '.join(level.missing)}")
    print(f"seed {result.seed}")
    print(claim_in_words(as_json(result)))
