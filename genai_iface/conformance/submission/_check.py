# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What can be checked of a submission without the runtime: that it is whole, and that its verdict follows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from genai_iface.capabilities import LEVEL_PROFILES, Capability
from genai_iface.conformance._formats import as_badge, as_junit
from genai_iface.conformance._golden import kit_digest, manifest_digest
from genai_iface.conformance._report import SCHEMA, as_html, as_markdown, verdict_in_words
from genai_iface.conformance._results import ConformanceResult, LevelVerdict, Outcome, judge
from genai_iface.conformance.registry import Check, all_checks
from genai_iface.conformance.submission._write import read_json
from genai_iface.errors import InvalidInputError

__all__ = ["SUBMISSION_SCHEMA", "check_submission"]

SUBMISSION_SCHEMA = Path(__file__).parent / "submission.schema.json"
"""The JSON Schema of submission.json."""


def check_submission(folder: str | PathLike[str], /) -> list[str]:
    """What is wrong with a submission, one line each; nothing if it holds.

    The schemas of both files, the hashes of report and kit, that every check of the kit is there once, that no outcome
    contradicts what the backend declares, that every verdict follows from the outcomes, and that the other files of the
    report say the same.

    Args:
        folder: Holds ``report.json`` and ``submission.json``.

    Raises:
        InvalidInputError: One of them is missing or no JSON object, or the validator of schemas is not installed.
    """
    place = Path(folder)
    report, submission = read_json(place / "report.json"), read_json(place / "submission.json")
    faults = [*_schema_faults(report, SCHEMA, "report.json")]
    faults += _schema_faults(submission, SUBMISSION_SCHEMA, "submission.json")
    if faults:
        return faults
    faults += _hash_faults(place, report, submission)
    if faults:
        # With another kit there are other checks.
        return faults
    by_id = {item.id: item for item in all_checks(level=report["level"]) if report["profile"] in item.profiles}
    faults += _list_faults(report, by_id)
    if not faults:
        declared = frozenset(report["backend"]["capabilities"])
        faults += [fault for item in report["checks"] for fault in _outcome_faults(item, by_id[item["id"]], declared)]
        faults += _verdict_faults(report, by_id, declared)
        faults += _file_faults(place, report)
    return faults


def _schema_faults(data: Mapping[str, Any], schema: Path, name: str) -> Iterator[str]:
    try:
        import jsonschema  # noqa: PLC0415 - who checks no submissions does not need it
    except ImportError as error:
        raise InvalidInputError(
            "Submissions cannot be checked: jsonschema is not installed", remedy='pip install "genai-iface[submission]"'
        ) from error
    validator = jsonschema.Draft202012Validator(json.loads(schema.read_text(encoding="utf-8")))
    for fault in validator.iter_errors(data):
        yield f"{name}: {fault.json_path}: {fault.message[:200]}"


def _hash_faults(place: Path, report: Mapping[str, Any], submission: Mapping[str, Any]) -> Iterator[str]:
    if submission["report_sha256"] != hashlib.sha256((place / "report.json").read_bytes()).hexdigest():
        yield "report.json was changed after it was submitted"
    if report.get("kit") != submission["kit"]:
        yield "report.json and submission.json name different kits"
    elif submission["kit"]["sha256"] != kit_digest():
        version, digest = submission["kit"]["version"], submission["kit"]["sha256"][:12]
        yield f"another kit made it, {version} ({digest}...); this is {kit_digest()[:12]}...: check it with that one"
    if report["golden_sha256"] != manifest_digest():
        yield "the golden models were others"
    if report["seed"] != submission["seed"]:
        yield f"report.json says seed {report['seed']}, submission.json {submission['seed']}"
    runtime = report["backend"]["runtime"]
    if submission["versions"].get(runtime) != report["backend"]["runtime_version"]:
        yield f"submission.json does not say the version of {runtime} that the report says"


def _list_faults(report: Mapping[str, Any], by_id: Mapping[str, Check]) -> Iterator[str]:
    ids = [item["id"] for item in report["checks"]]
    for name in sorted(by_id.keys() - set(ids)):
        yield f"{name}: its outcome is missing"
    for name in sorted({name for name in ids if name not in by_id or ids.count(name) > 1}):
        yield f"{name}: not a check of this level and profile, or there twice"
    for item in report["checks"]:
        known = by_id.get(item["id"])
        if known is not None and _facts(item) != _facts_of(known):
            yield f"{item['id']}: its level, title, needs, clauses or reason are not those of the kit"


def _facts(item: Mapping[str, Any]) -> tuple[Any, ...]:
    return (item["level"], item["title"], item["requires"], item["spec"], item["since"], item["core"])


def _facts_of(item: Check) -> tuple[Any, ...]:
    return (item.level, item.title, sorted(item.requires), list(item.spec), item.since, item.core)


def _outcome_faults(item: Mapping[str, Any], known: Check, declared: frozenset[str]) -> Iterator[str]:
    name, status = item["id"], item["status"]
    missing = known.requires - declared
    if status not in ("passed", "not_executed") and not item["message"]:
        yield f"{name}: {status.replace('_', ' ')} without a reason"
    if status == "deviation" and known.core:
        yield f"{name}: a core check cannot be a deviation"
    if status == "deviation" and not item["link"]:
        yield f"{name}: a deviation without a link"
    if status in ("passed", "deviation") and missing:
        yield f"{name}: {status}, but {', '.join(sorted(missing))} is not declared"
    if status == "not_applicable" and missing & frozenset(map(str, LEVEL_PROFILES[known.level])):
        yield f"{name}: not applicable, but its level asks for {', '.join(sorted(missing))}"


def _verdict_faults(report: Mapping[str, Any], by_id: Mapping[str, Check], declared: frozenset[str]) -> Iterator[str]:
    outcomes = tuple(
        Outcome(by_id[item["id"]], item["status"], item["message"], item["numbers"], item["seconds"], item["link"])
        for item in report["checks"]
    )
    levels: list[LevelVerdict] = []
    for data in report["levels"]:
        number = data["level"]
        here = [item for item in outcomes if item.check.level == number]
        level = judge(number, here, declared if report["profile"] == "step" else LEVEL_PROFILES[number])
        levels.append(level)
        counts = {status: count for status, count in data["counts"].items() if count}
        if (data["verdict"], counts) != (level.verdict, dict(level.counts)):
            yield f"level {number}: says {data['verdict']}, its outcomes say {level.verdict}"
        if data["missing_capabilities"] != list(level.missing):
            yield f"level {number}: its missing capabilities are not those that follow"
    if {item.check.level for item in outcomes} != {level.level for level in levels}:
        yield "the levels are not those of the checks"
    run = ConformanceResult(
        report["adapter"],
        report["backend"],
        report["dtype"],
        report["form"],
        report["level"],
        report["tolerance_factor"],
        outcomes,
        tuple(levels),
        report["seconds"],
        report["profile"],
        report["seed"],
    )
    if report["verdict"] != run.verdict:
        yield f"says {report['verdict']}, the levels say {run.verdict}"
    if report["capabilities"] != {"declared": run.declared[0], "known": len(Capability)}:
        yield "the number of declared capabilities is not that of the list"


def _file_faults(place: Path, report: Mapping[str, Any]) -> Iterator[str]:
    """The other files are made from the report; one that is there says what it says."""
    made = {
        "report.md": as_markdown(report),
        "report.html": as_html(report),
        "junit.xml": as_junit(report),
        "badge.json": json.dumps(as_badge(report, verdict_in_words(report)), indent=1) + "\n",
    }
    for name, text in made.items():
        path = place / name
        if path.is_file() and path.read_text(encoding="utf-8") != text:
            yield f"{name} is not what report.json gives"
