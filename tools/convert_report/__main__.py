# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Converts exported models of many families, compares them with torch, and writes docs/reports/convert.md and .json.

    python -m tools.convert_report [--exports DIR] [--case NAME ...]

Each family is a tiny random checkpoint. Exports are kept in DIR if it is given, and those that are there are used. With
--case only these cases run, and the report keeps what it has of the others.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import tempfile
from pathlib import Path
from typing import Any

from tests.parity.concat_exports import export_apart, split_case
from tests.parity.convert_cases import CASES, REFUSED, TOLERANCE, measure

REPORTS = Path(__file__).parents[2] / "docs" / "reports"
_PACKAGES = ("torch", "transformers", "onnx", "onnx-ir", "onnxscript", "onnxruntime")

_HEAD = """\
<!-- SPDX-FileCopyrightText: The ONNX generative-AI interface authors -->
<!-- SPDX-License-Identifier: Apache-2.0 -->
<!-- Written by python -m tools.convert_report -->

# Converted models

Tiny random checkpoints of {families} decoder families, exported with `torch.onnx.export(dynamo=True)` and past/present
tensors that grow, then converted by [`genai-iface convert`](../convert.md). Each converted model runs a ragged batch of
three prompts (11, 3 and 7 tokens) and six decode steps; the table gives the largest difference of a logit from
torch's, which runs every row alone and without a cache. At most {tolerance:.0e} is allowed. Windows are shorter than
the longest prompt.

At opset 23 the exporter writes `Attention`; below it, MatMul and Softmax ("eager" is another spelling of these).

| Family | Opset | Found | Masks by layer | Nodes | NumPy | ONNX Runtime |
|---|---|---|---|---|---|---|
"""


def main() -> int:
    """Writes the report; 1 if a case is off or was refused against expectation."""
    parser = argparse.ArgumentParser(description="Writes the report on converted models.")
    parser.add_argument("--exports", type=Path, metavar="DIR", help="keep exported models here, and use those there")
    parser.add_argument("--case", action="append", choices=(*CASES, *REFUSED), metavar="NAME", help="run only this one")
    arguments = parser.parse_args()
    record = REPORTS / "convert.json"
    kept = json.loads(record.read_text())["cases"] if arguments.case else []
    measured = {row["case"]: row for row in kept}
    with tempfile.TemporaryDirectory() as scratch:
        exports = arguments.exports or Path(scratch) / "exports"
        for case in arguments.case or (*CASES, *REFUSED):
            export_apart(exports, [case])
            measured[case] = row = measure(case, exports / case, Path(scratch) / case)
            print(case, row.get("difference") or row["refused"], flush=True)
    rows = [measured[case] for case in (*CASES, *REFUSED) if case in measured]
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    record.write_text(json.dumps({"versions": versions, "cases": rows}, indent=1) + "\n")
    (REPORTS / "convert.md").write_text(_page(rows, versions))
    return int(any(_is_bad(row) for row in rows))


def _is_bad(row: dict[str, Any]) -> bool:
    if "refused" in row:
        return row["case"] not in REFUSED
    return bool(max(row["difference"].values()) > TOLERANCE)


def _page(rows: list[dict[str, Any]], versions: dict[str, str]) -> str:
    done = [row for row in rows if "difference" in row]
    families = {split_case(row["case"])[0] for row in done}
    lines = [_HEAD.format(families=len(families), tolerance=TOLERANCE)]
    for row in done:
        family, opset, eager = split_case(row["case"])
        before, after = row["nodes"]
        numpy, ort = (f"{row['difference'][backend]:.1e}" for backend in ("numpy", "ort"))
        masks = ", ".join(dict.fromkeys(row["masks"]))
        lines.append(
            f"| {family} | {opset}{' eager' if eager else ''} | {row['form']} | {masks} | {before} → {after} "
            f"| {numpy} | {ort} |\n"
        )
    lines.append("\nRefused, with the reason that the command gives:\n\n")
    lines += [f"- {split_case(row['case'])[0]}: {row['refused']}.\n" for row in rows if "refused" in row]
    lines.append(f"\nVersions: {', '.join(f'{name} {version}' for name, version in versions.items())}.\n")
    return "".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
