# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Writes the review as a series of trees.

python -m tools.pr_series --out DIR              # the trees, and the hashes of what is generated
python -m tools.pr_series --out DIR --check 2 3  # installs these steps in fresh environments and runs their tests
python -m tools.pr_series --page                 # the table of docs/working-groups.md

"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection
from pathlib import Path

from tools.pr_series.check import check_tree
from tools.pr_series.closure import import_faults
from tools.pr_series.manifest import Series, SeriesError, read_series
from tools.pr_series.page import as_table, rows_of, write_page
from tools.pr_series.trees import write_hashes, write_tree


def main() -> int:
    """Prints the table and what is written; 1 if the files do not fit the series or a step's tests fail."""
    parser = argparse.ArgumentParser(prog="python -m tools.pr_series", description="Write the review as a series.")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where the trees go; it must be new or empty")
    parser.add_argument("--check", type=int, nargs="*", metavar="N", help="install these steps and run their tests")
    parser.add_argument("--quick", action="store_true", help="of the tests, only those that are chosen for short runs")
    parser.add_argument("--page", action="store_true", help="write the table of docs/working-groups.md")
    arguments = parser.parse_args()
    try:
        series = read_series()
    except SeriesError as error:
        print("\n".join(error.args), file=sys.stderr)
        return 1
    if faults := import_faults(series):
        print("\n".join(faults), file=sys.stderr)
        return 1
    rows = rows_of(series)
    print(as_table(rows), end="")
    if arguments.page:
        write_page(rows)
    if arguments.out is None:
        if arguments.check is not None:
            parser.error("--check needs --out")
        return 0
    if arguments.out.exists() and any(arguments.out.iterdir()):
        parser.error(f"{arguments.out} holds something already")
    _write(series, arguments.out)
    return _check(series, arguments.out, arguments.check or (), quick=arguments.quick)


def _write(series: Series, out: Path) -> None:
    for step in series.steps:
        tree = write_tree(series, step, out)
        count = write_hashes(series, step, out)
        print(f"{tree}: step {step.number}, {step.title}; {count} generated files in {tree.name}.sha256")


def _check(series: Series, out: Path, numbers: Collection[int], *, quick: bool) -> int:
    """Runs the tests of these steps; the exit code of the first that fails, else 0."""
    for step in series.steps:
        if step.number in numbers:
            tests = series.quick.get(step.number, ()) if quick else ()
            if code := check_tree(out / f"step-{step.number}", step, tests):
                return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
