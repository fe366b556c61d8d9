# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""A report in other programs' formats: JUnit XML, and the JSON that badge services read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree

__all__ = ["as_badge", "as_junit"]

_COLORS = {"conforms": "brightgreen", "known_deviations": "yellow", "does_not_reach": "red", "no_verdict": "lightgrey"}


def as_junit(data: Mapping[str, Any]) -> str:
    """The report as JUnit XML: a suite for each level, a case for each check.

    A known deviation is a skipped case: it must not turn a build red, nor count as passed.
    """
    top = ElementTree.Element("testsuites", name=f"conformance of {data['adapter']}, {data['dtype']}")
    for level in data["levels"]:
        cases = [item for item in data["checks"] if item["level"] == level["level"]]
        counts = level["counts"]
        suite = ElementTree.SubElement(
            top,
            "testsuite",
            name=f"level {level['level']}: {level['subject']}",
            tests=str(len(cases)),
            failures=str(counts["failed"]),
            skipped=str(len(cases) - counts["failed"] - counts["passed"]),
            time=f"{sum(item['seconds'] for item in cases):.3f}",
        )
        for item in cases:
            case = ElementTree.SubElement(
                suite, "testcase", classname=f"level{item['level']}", name=item["id"], time=f"{item['seconds']:.3f}"
            )
            message = _printable(item["message"])
            if item["status"] == "failed":
                numbers = "\n".join(f"{name}: {value}" for name, value in item["numbers"].items())
                ElementTree.SubElement(case, "failure", message=message).text = _printable(numbers)
            elif item["status"] != "passed":
                ElementTree.SubElement(case, "skipped", message=f"{item['status'].replace('_', ' ')}: {message}")
    ElementTree.indent(top)
    return ElementTree.tostring(top, encoding="unicode", xml_declaration=True) + "\n"


def as_badge(data: Mapping[str, Any], verdict: str) -> dict[str, Any]:
    """The verdict in the schema of shields.io's endpoint badges."""
    return {
        "schemaVersion": 1,
        "label": f"ONNX generative interface, {data['profile']}, {data['dtype']}",
        "message": verdict,
        "color": _COLORS[data["verdict"]],
        "isError": data["verdict"] == "does_not_reach",
    }


def _printable(text: str) -> str:
    # XML has no way to write most control characters.
    return "".join(char if char >= " " or char in "\t\n" else "\ufffd" for char in text)
