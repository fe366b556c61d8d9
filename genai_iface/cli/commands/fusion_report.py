# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""``genai-iface fusion-report``: which fusions of the torch exporter fire on which decoder families."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genai_iface.cli.json_output import add_json_argument, print_json
from genai_iface.errors import InvalidInputError

if TYPE_CHECKING:
    pass

__all__ = ["add_parser", "run"]

_EXAMPLE = """\
example:
  genai-iface fusion-report --families llama,gemma3 --out my-report
  genai-iface fusion-report --all --jobs 4        (every family: about half an hour on two cores)

The report is OUT/report.md and OUT/report.json. Exports are kept in the cache folder, so that a report that
was stopped goes on where it was; they are made again when a package has another version.
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Adds the subcommand and returns its parser."""
    parser = commands.add_parser(
        "fusion-report",
        help="report which fusions of the torch exporter fire, family by family",
        description="Exports tiny random checkpoints of decoder families through torch's dynamo exporter, counts "
        "RMSNormalization, RotaryEmbedding and Attention against what the torch model runs, and says for each miss "
        'which condition of which rule rejected it. Needs the extra "build".',
        epilog=_EXAMPLE,
    )
    parser.add_argument("--families", metavar="A,B", help="names of families, as --list prints them")
    parser.add_argument("--opsets", metavar="N,M", default="23,24", help="opsets to ask for (default: %(default)s)")
    parser.add_argument(
        "--dtypes", metavar="T,U", default="float32,float16", help="element types (default: %(default)s)"
    )
    parser.add_argument("--out", metavar="DIR", default="fusion-report", help="where the report goes (%(default)s)")
    parser.add_argument("--cache", metavar="DIR", help="where exports are kept (default: a folder in the user's cache)")
    parser.add_argument("--jobs", metavar="N", type=int, default=1, help="exports at a time (default: %(default)s)")
    parser.add_argument("--list", action="store_true", help="print the names of the families and stop")
    parser.add_argument(
        "--all", action="store_true", help="every family: about half an hour on two cores with --jobs 4"
    )
    add_json_argument(parser)
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Runs the subcommand.

    Raises:
        InvalidInputError: An unknown family, opset or type, or a package is missing.
    """
    if arguments.list:
        return _list_families(as_json=arguments.json)
    names, opsets, dtypes = _chosen(arguments)
    from genai_iface.build.fusion.analyse import analyse  # noqa: PLC0415
    from genai_iface.build.fusion.cases import cases_of, versions  # noqa: PLC0415
    from genai_iface.build.fusion.report import write_report  # noqa: PLC0415
    from genai_iface.build.fusion.sweep import run_exports, stored  # noqa: PLC0415

    cache = Path(arguments.cache) if arguments.cache else _default_cache()
    cases = [case for name in names for case in cases_of(name, opsets=opsets, dtypes=dtypes)]
    print(
        f"{len(cases)} exports of {len(names)} families, about {max(1, len(cases) * 6 // arguments.jobs // 60)} min; "
        "--families limits them, and what was exported before is kept",
        file=sys.stderr,
    )
    with _bar("exporting", len(cases)) as advance:
        run_exports(cases, cache, jobs=arguments.jobs, done=lambda case, _: advance(case.name))
    rows: list[dict[str, Any]] = []
    with _bar("reading", len(cases)) as advance:
        for case in cases:
            rows.append(analyse(case, stored(case, cache) or {}, cache))
            advance(case.name)
    paths = write_report(rows, versions(), Path(arguments.out))
    findings = _findings(rows)
    if arguments.json:
        counts = {kind: sorted(families) for kind, families in findings.items()}
        print_json(
            "fusion-report", {"exports": len(cases), "findings": counts, "written": [str(path) for path in paths]}
        )
        return 0
    print(f"{len(cases)} exports")
    for kind, families in findings.items():
        print(f"  {kind:22} {len(families)} families")
    print(f"written: {', '.join(map(str, paths))}")
    return 0


def _list_families(*, as_json: bool) -> int:
    from genai_iface.build._families import FAMILIES  # noqa: PLC0415 - only this command needs it

    if as_json:
        print_json("fusion-report", {"families": {name: list(one.notes) for name, one in FAMILIES.items()}})
        return 0
    for family in FAMILIES.values():
        print(f"{family.name:16} {'; '.join(family.notes)}")
    return 0


def _chosen(arguments: argparse.Namespace) -> tuple[list[str], list[int], list[str]]:
    """The families, opsets and element types.

    Raises:
        InvalidInputError: None was chosen, one is not known, or a package is missing.
    """
    from genai_iface.build._families import FAMILIES, family_of  # noqa: PLC0415

    if arguments.families is None and not arguments.all:
        raise InvalidInputError(
            f"Neither --families nor --all is given, and all means {len(FAMILIES)} families in every opset and type",
            remedy="Name families (--list shows them), or give --all: about half an hour on two cores with --jobs 4.",
        )
    names = arguments.families.split(",") if arguments.families else list(FAMILIES)
    for name in names:
        family_of(name)
    opsets, dtypes = _numbers(arguments.opsets), arguments.dtypes.split(",")
    unknown = sorted(set(dtypes) - {"float32", "float16"})
    if unknown:
        raise InvalidInputError(f"--dtypes has {', '.join(unknown)}", remedy="use float32, float16 or both")
    if arguments.jobs < 1:
        raise InvalidInputError(f"--jobs is {arguments.jobs}", remedy="use 1 or more")
    missing = [package for package in ("torch", "transformers", "onnxscript", "onnxruntime") if not find_spec(package)]
    if missing:
        raise InvalidInputError(f"the report needs {', '.join(missing)}", remedy="pip install 'genai-iface[build,ort]'")
    return names, opsets, dtypes


def _numbers(text: str) -> list[int]:
    parts = text.split(",")
    if not all(part.isdecimal() and 18 <= int(part) <= 40 for part in parts):
        raise InvalidInputError(f"--opsets is {text!r}", remedy="give opsets from 18 on, as in 23,24")
    return [int(part) for part in parts]


def _default_cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "genai-iface" / "fusion-report"


def _findings(rows: Sequence[dict[str, Any]]) -> dict[str, set[str]]:
    """The families of each kind of finding."""
    counts: dict[str, set[str]] = {}
    for row in rows:
        for finding in row["findings"]:
            counts.setdefault(finding["kind"], set()).add(row["family"])
    return counts


@contextmanager
def _bar(what: str, total: int) -> Iterator[Callable[[str], None]]:
    """A bar on stderr where somebody looks, otherwise a line for each step."""
    done = 0
    if not sys.stderr.isatty():

        def tell(name: str) -> None:
            nonlocal done
            done += 1
            print(f"{what} {done}/{total} {name}", file=sys.stderr, flush=True)

        yield tell
        return
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    columns = (
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[name]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=total, name="")
        yield lambda name: progress.update(task, advance=1, name=name)
