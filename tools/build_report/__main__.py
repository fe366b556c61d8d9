# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Builds every family by every method and writes docs/reports/families.md and .json.

    python -m tools.build_report --work DIR                 runs what DIR has no result of yet, then writes
    python -m tools.build_report --work DIR --family llama  one family
    python -m tools.build_report --work DIR --lowered --keep --write
                                                            what ONNX Runtime lowers of the models that DIR has
    python -m tools.build_report --work DIR --method export --keep --write
                                                            these cases anew, the others as the report has them

Checkpoints are tiny and random; nothing is downloaded. A full run takes about half an hour on two cores.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from genai_iface.build._build import METHODS, Method
from genai_iface.build._families import FAMILIES, STATE_FAMILIES
from genai_iface.types import DType
from tools.build_report.case import Outcome, lowered_by_ort, run_case
from tools.build_report.page import page

_REPORTS = Path(__file__).parents[2] / "docs" / "reports"
_VERSIONS = ("genai-iface", "torch", "transformers", "onnx", "onnxscript", "onnx-ir", "mobius-onnx", "onnxruntime")
_EVERY = {**FAMILIES, **STATE_FAMILIES}
# Half precision by the first method only: what differs between methods does not depend on the type.
_CASES: tuple[tuple[Method, DType], ...] = (*((method, "float32") for method in METHODS), ("export", "float16"))
# No other method writes states.
_STATE_CASES: tuple[tuple[Method, DType], ...] = (("export", "float32"), ("export", "float16"))


def main() -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="python -m tools.build_report", description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints, models and single results")
    parser.add_argument("--family", action="append", choices=sorted(_EVERY), help="only this; may be repeated")
    parser.add_argument("--method", action="append", choices=METHODS, help="only this; may be repeated")
    parser.add_argument("--dtype", action="append", choices=("float32", "float16", "bfloat16"), help="likewise")
    parser.add_argument("--write", action="store_true", help="write the report from the results there are")
    parser.add_argument("--keep", action="store_true", help="with --write: what was not run stays as it is reported")
    parser.add_argument("--lowered", action="store_true", help="build nothing: load the models there are")
    arguments = parser.parse_args()
    results = arguments.work / "results"
    results.mkdir(parents=True, exist_ok=True)
    for family in () if arguments.lowered else arguments.family or _EVERY:
        for method, dtype in _cases(family):
            if (arguments.method and method not in arguments.method) or (
                arguments.dtype and dtype not in arguments.dtype
            ):
                continue
            file = results / f"{family}.{method}.{dtype}.json"
            if file.exists():
                continue
            outcome = run_case(family, method, dtype, arguments.work)
            file.write_text(json.dumps(outcome.as_dict(), indent=1) + "\n", encoding="utf-8")
            print(outcome, flush=True)
    if arguments.write:
        outcomes = list(_outcomes(results, _reported() if arguments.keep else {}))
        if arguments.lowered:
            outcomes = [_looked_at_anew(outcome, arguments.work / "models") for outcome in outcomes]
        present = {name: version(name) for name in _VERSIONS}
        _write(outcomes, _reported_versions() if arguments.keep else present, present)
    return 0


def _cases(family: str) -> tuple[tuple[Method, DType], ...]:
    return _STATE_CASES if family in STATE_FAMILIES else _CASES


def _reported() -> dict[tuple[str, str, str], Outcome]:
    """The cases of the report as it is."""
    data = json.loads((_REPORTS / "families.json").read_text(encoding="utf-8"))
    found = [Outcome(**case) for case in data["cases"]]
    return {(outcome.family, outcome.method, outcome.dtype): outcome for outcome in found}


def _reported_versions() -> dict[str, str]:
    """Those that most cases were run with."""
    data = json.loads((_REPORTS / "families.json").read_text(encoding="utf-8"))
    return dict(data["versions"])


def _outcomes(results: Path, kept: Mapping[tuple[str, str, str], Outcome]) -> Iterator[Outcome]:
    for family in _EVERY:
        for method, dtype in _cases(family):
            file = results / f"{family}.{method}.{dtype}.json"
            if file.exists():
                yield Outcome(**json.loads(file.read_text(encoding="utf-8")))
            elif (family, method, dtype) in kept:
                yield kept[family, method, dtype]


def _looked_at_anew(outcome: Outcome, models: Path) -> Outcome:
    folder = models / f"{outcome.family}.{outcome.method}.{outcome.dtype}"
    return replace(outcome, lowered=lowered_by_ort(folder)) if folder.is_dir() else outcome


def _write(outcomes: list[Outcome], versions: Mapping[str, str], lowering: Mapping[str, str]) -> None:
    data = {
        "versions": versions,
        "lowering_versions": lowering,
        "cases": [outcome.as_dict() for outcome in outcomes],
    }
    (_REPORTS / "families.json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    (_REPORTS / "families.md").write_text(page(versions, outcomes, lowering), encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
