# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The report as JSON and as Markdown."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from genai_iface._new_files import new_file, writing_to
from genai_iface.build._families import FAMILIES
from genai_iface.build.fusion.findings import KINDS
from genai_iface.build.fusion.runs import TOLERANCE

__all__ = ["markdown", "write_report"]

Row = Mapping[str, Any]
_FUSED = ("RMSNormalization", "RotaryEmbedding")


def write_report(rows: Sequence[Row], versions: Mapping[str, str], folder: Path) -> tuple[Path, Path]:
    """Writes report.md and report.json.

    Args:
        rows: What :func:`analyse` gave, family by family.
        versions: Of the packages.
        folder: It is made.

    Returns:
        The two paths.
    """
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
    data = json.dumps({"versions": dict(versions), "kinds": KINDS, "rows": list(rows)}, indent=1) + "\n"
    paths = folder / "report.md", folder / "report.json"
    for path, text in zip(paths, (markdown(rows, versions, folder), data), strict=True):
        with new_file(path) as partial:
            partial.write_text(text, encoding="utf-8")
    return paths


def markdown(rows: Sequence[Row], versions: Mapping[str, str], folder: Path) -> str:
    """The report for people.

    Args:
        rows: The analysed cases, one row of the table each.
        versions: Of the packages.
        folder: Where it will be: reproductions that lie under it are linked.
    """
    families = list(dict.fromkeys(row["family"] for row in rows))
    good = sum(_good(row, "default") for row in rows)
    after = sum(_good(row, "after") for row in rows)
    parts = [
        # REUSE-IgnoreStart
        "<!--",
        "SPDX-FileCopyrightText: The ONNX generative-AI interface authors",
        "SPDX-License-Identifier: Apache-2.0",
        "-->",
        # REUSE-IgnoreEnd
        "# Fusion report",
        "",
        f"{len(rows)} exports of {len(families)} decoder families by torch's dynamo exporter with its default fusions,",
        "on " + ", ".join(f"{name} {number}" for name, number in versions.items()) + ".",
        "",
        f"Every norm and rotation fused, graph valid, logits as in torch: {good} exports by default, {after} after the",
        "rules of this project. In the tables, a count is what the graph has of what one torch forward ran;",
        "the arrow leads from the default fusions to ours.",
        "",
        "## Kinds of findings",
        "",
        *_kinds_table(rows, folder),
        "",
        "## RMSNormalization and RotaryEmbedding, by family",
        "",
        "Norms + rotations. A dash means that the family has neither; `x` that the graph does not run or is not valid.",
        "",
        *_matrix(rows, families),
        "",
        "## Other forms of the inputs",
        "",
        *_other_forms(rows),
        "",
        "## Attention and LayerNormalization",
        "",
        *_others_table(rows, families),
        "",
        "## Findings",
        "",
        *_details(rows, folder),
        "## Numbers",
        "",
        "Largest difference of the logits from torch's, relative to the largest logit, on ONNX Runtime's CPU provider, "
        f"3 rows of 11 tokens. Allowed: {TOLERANCE['float32']:g} in float32, {TOLERANCE['float16']:g} in float16.",
        "",
        *_numbers(rows),
        "",
    ]
    return "\n".join(parts)


def _table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> list[str]:
    return [
        "| " + " | ".join(header) + " |",
        "|" + "---|" * len(header),
        *("| " + " | ".join(line) + " |" for line in lines),
    ]


def _state(row: Row, which: str) -> Mapping[str, Any] | None:
    state: Mapping[str, Any] | None = row.get(which)
    return state


def _counts(row: Row, which: str) -> tuple[int, int]:
    """Fused of expected, norms and rotations together; more found than expected does not make up for others."""
    state, expected = _state(row, which), row["expected"]
    found = sum(min(state["found"][name], expected[name]) for name in _FUSED) if state and expected else 0
    return found, sum(expected[name] for name in _FUSED) if expected else 0


def _runs(row: Row, which: str) -> bool:
    """Whether a graph is valid, runs, and gives torch's logits."""
    state = _state(row, which)
    if state is None or state["checker"] is not None or state["error"] is None:
        return False
    return bool(state["error"] <= TOLERANCE[row["dtype"]])


def _good(row: Row, which: str) -> bool:
    found, expected = _counts(row, which)
    return found == expected and _runs(row, which)


def _cell(row: Row | None) -> str:
    if row is None:
        return ""
    if row["error"] is not None:
        return "export fails"
    if not _counts(row, "default")[1]:
        return "-"
    shown = []
    for which in ("default", "after"):
        found, expected = _counts(row, which)
        text = f"{found}/{expected}" + ("" if _runs(row, which) else " x")
        shown.append(text if _state(row, which) else "none")
    return " → ".join(shown)


def _matrix(rows: Sequence[Row], families: Sequence[str]) -> list[str]:
    plain = {(row["family"], row["opset"], row["dtype"]): row for row in rows if row["form"] == "plain"}
    columns = [
        column
        for column in dict.fromkeys((row["opset"], row["dtype"]) for row in rows if row["form"] == "plain")
        if sum((family, *column) in plain for family in families) * 2 > len(families)
    ]
    return _table(
        ["family", "notes", *(f"opset {opset}, {dtype}" for opset, dtype in columns)],
        [
            [family, "; ".join(FAMILIES[family].notes), *(_cell(plain.get((family, *column))) for column in columns)]
            for family in families
        ],
    )


def _other_forms(rows: Sequence[Row]) -> list[str]:
    usual = {row["opset"] for row in rows if row["form"] != "plain"} | {23, 24}
    chosen = [row for row in rows if row["form"] != "plain" or row["opset"] not in usual]
    return _table(
        ["family", "form", "opset", "norms + rotations", "findings"],
        [
            [
                row["family"],
                row["form"],
                f"{row['opset']}",
                _cell(row),
                ", ".join(dict.fromkeys(finding["kind"] for finding in row["findings"])),
            ]
            for row in chosen
        ],
    )


def _others_table(rows: Sequence[Row], families: Sequence[str]) -> list[str]:
    lines = []
    for family in families:
        for _, group in groupby(
            (row for row in rows if row["family"] == family and row["form"] == "plain" and row["opset"] == 23),
            key=lambda row: row["dtype"],
        ):
            row = next(group)
            if (state := _state(row, "default")) is not None:
                names = ("Attention", "LayerNormalization")
                counts = [f"{state['found'][name]}/{row['expected'][name]}" for name in names]
                lines.append([family, row["dtype"], *(count if count != "0/0" else "-" for count in counts)])
    return _table(["family", "dtype", "Attention", "LayerNormalization"], lines)


def _numbers(rows: Sequence[Row]) -> list[str]:
    def said(row: Row, which: str) -> str:
        state = _state(row, which)
        if state is None:
            return "none"
        if state["error"] is None:
            return "does not run"
        return ("not valid, " if state["checker"] else "") + f"{state['error']:.1e}"

    return _table(
        ["family", "opset", "dtype", "form", "default", "ours", "nodes"],
        [
            [
                row["family"],
                f"{row['opset']}",
                row["dtype"],
                row["form"],
                said(row, "default"),
                said(row, "after"),
                " → ".join(f"{state['nodes']}" for which in ("default", "after") if (state := _state(row, which))),
            ]
            for row in rows
            if row.get("default")
        ],
    )


def _by_kind(rows: Sequence[Row]) -> dict[str, list[tuple[Row, Mapping[str, Any]]]]:
    found: dict[str, list[tuple[Row, Mapping[str, Any]]]] = {kind: [] for kind in KINDS}
    for row in rows:
        for finding in row["findings"]:
            found[finding["kind"]].append((row, finding))
    return {kind: hits for kind, hits in found.items() if hits}


def _kinds_table(rows: Sequence[Row], folder: Path) -> list[str]:
    return _table(
        ["kind", "what it is", "exports", "families", "reproduction"],
        [
            [
                f"[{kind}](#{kind})",
                KINDS[kind],
                f"{len({id(row) for row, _ in hits})}",
                f"{len({row['family'] for row, _ in hits})}",
                _link(folder, kind),
            ]
            for kind, hits in _by_kind(rows).items()
        ],
    )


def _link(folder: Path, kind: str) -> str:
    path = folder / "repro" / f"{kind.replace('-', '_')}.py"
    return f"[{path.name}](repro/{path.name})" if path.is_file() else ""


def _details(rows: Sequence[Row], folder: Path) -> list[str]:
    lines = []
    for kind, hits in _by_kind(rows).items():
        row, finding = hits[0]
        families = dict.fromkeys(each["family"] for each, _ in hits)
        lines += [
            f"### {kind}",
            "",
            f"{KINDS[kind][0].upper()}{KINDS[kind][1:]}. Families: {', '.join(families)}.",
            "",
            f"First seen on {row['family']}, opset {row['opset']}, {row['dtype']}, {row['form']}:",
            f"{finding['evidence']}",
            "",
        ]
        miss = next((one for one in row["misses"] if one["kind"] == kind and one["rejection"]), None)
        if miss is not None:
            lines += [
                f"The first subgraph left as it was, in `{miss['module']}`, up to where the rule stopped:",
                "",
                "```text",
                *miss["rejection"]["nodes"],
                "```",
                "",
            ]
    return lines
