# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Turns a page of the specification into what the site shows: anchors, links to checks, tables, inline pictures."""

from __future__ import annotations

import re
from collections.abc import Mapping

from tools.spec.clauses import CONTRACT, PAGE_CLAUSE, SPEC, Clause, Method, all_clauses, methods
from tools.spec.tables import TABLES

__all__ = ["check_link", "clause_link", "render_page"]

_CHECKS_PAGE = "conformance-checks.md"
_REFERENCE = "reference/protocols.md"
_PICTURE = re.compile(r"^!\[([^]]*)\]\((pictures/[\w-]+\.svg)\)$", re.MULTILINE)
_TABLE = re.compile(r"^- Table ([\w-]+), from \[[^]]+\]\([^)]+\)$", re.MULTILINE)
_SPEC_PAGE = re.compile(r"\bdocs/spec/([\w-]+)\.md\b")
_FIELD = re.compile(r"^ {4}(\S[^:]*): ", re.MULTILINE)


def render_page(page: str, markdown: str) -> str:
    """The markdown that MkDocs gets.

    Args:
        page: Relative to docs/, "spec/cache.md".
        markdown: The page as it is written.

    Raises:
        ValueError: As ``all_clauses``.
        OSError: A picture is missing.
    """
    clauses = all_clauses()
    text = CONTRACT.sub(lambda match: _method(methods()[f"{match[1]}.{match[2]}"], clauses), markdown)
    text = PAGE_CLAUSE.sub(lambda match: _clause(clauses[match[1]]) + "\n", text)
    text = _TABLE.sub(lambda match: TABLES[match[1]](), text)
    return _PICTURE.sub(_picture, text)


def clause_link(identifier: str, clauses: Mapping[str, Clause], *, base: str = "") -> str:
    """A link to a clause, from a page whose way to docs/ is ``base``."""
    return f"[`{identifier}`]({base}{clauses[identifier].page}#{identifier})"


def check_link(identifier: str, *, base: str = "../") -> str:
    """A link to a check, from a page whose way to docs/ is ``base``."""
    return f"[`{identifier}`]({base}{_CHECKS_PAGE}#{identifier})"


def _method(method: Method, clauses: Mapping[str, Clause]) -> str:
    name = f"{method.protocol}.{method.name}"
    reference = f"../{_REFERENCE}#genai_iface.protocols.{name}"
    lines = [f"### `{name}` {{ #{name} }}", "", "```python", method.signature, "```", "", method.summary, ""]
    if method.has_own_label:
        lines += [f"Since version {method.since}, {method.stability}.", ""]
    for section, text in method.sections.items():
        lines += [f"**{section}**{{ .spec-section }}", "", *_fields(text), ""]
    if method.contract:
        lines += ["**Contract**{ .spec-section }", ""]
    for number in range(1, len(method.contract) + 1):
        lines += [_clause(clauses[f"{name}.{number}"])]
    lines += ["", f"[Reference]({reference}){{ .spec-reference }}", ""]
    return "\n".join(lines)


def _fields(text: str) -> list[str]:
    """The fields of a docstring's section as a list; prose as it is."""
    parts = _FIELD.split("\n" + text)
    if len(parts) < 3 or parts[0].strip():
        return [" ".join(text.split())]
    return [f"- `{name}`: {' '.join(body.split())}" for name, body in zip(parts[1::2], parts[2::2], strict=True)]


def _clause(clause: Clause) -> str:
    anchor = f"[{clause.id}](#{clause.id}){{ #{clause.id} .clause }}"
    text = _SPEC_PAGE.sub(r"[\1](\1.md)", clause.text)
    body = "\n".join(f"    {line.strip()}" if line.strip() else "" for line in text.splitlines()).strip()
    return f"- {anchor} {body}\n\n    *{_held_by(clause)}*{{ .held-by }}\n"


def _held_by(clause: Clause) -> str:
    parts = []
    if clause.checks:
        parts.append("Checks: " + ", ".join(map(check_link, clause.checks)))
    if clause.tests:
        parts.append("Tests here: " + ", ".join(f"`{test}`" for test in clause.tests))
    if clause.reason:
        parts.append(f"No check: {clause.reason}")
    return ". ".join(parts) if parts else "No check"


def _picture(match: re.Match[str]) -> str:
    # Inline, so that it takes the page's colours in light and dark.
    picture = (SPEC / match[2]).read_text(encoding="utf-8")
    picture = re.sub(r"^(<\?xml[^>]*>|<!--.*?-->)\n", "", picture, flags=re.MULTILINE | re.DOTALL)
    return f'<figure class="spec-picture">\n{picture.strip()}\n<figcaption>{match[1]}</figcaption>\n</figure>'
