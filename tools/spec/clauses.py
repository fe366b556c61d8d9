# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The numbered clauses of the specification, and what holds a runtime or this repository to each.

Since when a member exists and how stable it is, the module's docstring says for all, a class's for its members, a
member's for itself.

A clause is written once. Those of a method stand in its docstring in ``genai_iface/protocols.py``, under
"Contract"; a page shows them where it has a line of its own that says

    - Contract of [`KVCache.rewind_to`](../../genai_iface/protocols.py)

which is a link for those who read the page's source. All others stand in the pages of docs/spec themselves, as list
items:

    - **Folder.3** Text with a MUST, over any number of lines.
      <!-- tests: tests/folder/test_open.py::test_name, tests/folder/test_open.py::test_other -->

The checks of the conformance kit name the clauses that they check. Where none does, because the kit looks from outside
and without ONNX, ``tests:`` names tests of this repository, or ``reason:`` says why there are none.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

__all__ = ["CONTRACT", "PAGE_CLAUSE", "Clause", "Method", "all_clauses", "members", "methods", "spec_pages"]

ROOT = Path(__file__).parents[2]
SPEC = ROOT / "docs" / "spec"

CONTRACT = re.compile(r"^- Contract of \[`(\w+)\.(\w+)`\]\(\.\./\.\./genai_iface/protocols\.py\)$", re.MULTILINE)
PAGE_CLAUSE = re.compile(r"^- \*\*([A-Z][A-Za-z]+\.\d+)\*\* ((?:.+\n)(?:(?:  .*)?\n)*)", re.MULTILINE)
_HELD = re.compile(r"\s*<!-- (tests|reason): (.*?) -->", re.DOTALL)
_LINE = 88
_LABEL = re.compile(r"^(Since|Stability): (.+)$", re.MULTILINE)
_SECTION = re.compile(r"^(Args|Returns|Raises|Contract|Since|Stability):", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Clause:
    """One numbered statement.

    Attributes:
        id: "KVCache.rewind_to.2" or "Folder.3".
        text: Markdown, on one line or with lists.
        page: Relative to docs/, "spec/cache.md".
        checks: Ids of the conformance checks that name it.
        tests: Tests of this repository, "tests/folder/test_open.py::test_name".
        reason: Why neither is there.
    """

    id: str
    text: str
    page: str
    checks: tuple[str, ...] = ()
    tests: tuple[str, ...] = ()
    reason: str = ""

    @property
    def keywords(self) -> frozenset[str]:
        """Those of RFC 2119 that it uses."""
        return frozenset(re.findall(r"\b(MUST|SHOULD|MAY)\b", self.text))


@dataclass(frozen=True, slots=True)
class Method:
    """One member of a protocol, as its docstring says it.

    Attributes:
        protocol: The name of the protocol, "KVCache".
        name: The name of the member, "rewind_to".
        signature: The signature as Python writes it, without self.
        summary: The first line, and the prose after it.
        sections: "Args", "Returns", "Raises": text by name, as written.
        contract: The numbered statements, in order.
        since: The interface version that brought it, "1".
        stability: "preview", "stable" or "deprecated".
        has_own_label: Whether one of these two is said at the member or its class, not for the whole module.
    """

    protocol: str
    name: str
    signature: str
    summary: str
    sections: dict[str, str]
    contract: tuple[str, ...]
    since: str
    stability: str
    has_own_label: bool


def spec_pages() -> dict[str, str]:
    """The pages as they are written, by path relative to docs/."""
    return {f"spec/{path.name}": path.read_text(encoding="utf-8") for path in sorted(SPEC.glob("*.md"))}


@cache
def methods() -> dict[str, Method]:
    """Every member of every protocol, by "Class.member", in the order of the file."""
    return members((ROOT / "genai_iface" / "protocols.py").read_text(encoding="utf-8"))


def members(source: str) -> dict[str, Method]:
    """The same for the text of any module.

    Raises:
        ValueError: Neither a member nor its class nor the module says since when it exists, or how stable it is.
    """
    tree = ast.parse(source)
    found = {}
    for protocol in (node for node in tree.body if isinstance(node, ast.ClassDef)):
        for member in (node for node in protocol.body if isinstance(node, ast.FunctionDef)):
            found[f"{protocol.name}.{member.name}"] = _method(protocol, member, _labels(tree))
    return found


def all_clauses() -> dict[str, Clause]:
    """Every clause by id, page by page.

    Raises:
        ValueError: An id or a method occurs twice, or a page names a method that there is not.
    """
    # The text can be read, and the worked example told, without the kit.
    from genai_iface.conformance._coverage import UNTESTABLE, checks_by_contract  # noqa: PLC0415

    checks = checks_by_contract()
    found: dict[str, Clause] = {}
    for page, text in spec_pages().items():
        for clause in (*_contract_clauses(page, text), *_page_clauses(page, text)):
            if clause.id in found:
                raise ValueError(f"{clause.id} stands twice: in {found[clause.id].page} and in {page}")
            held = tuple(checks.get(clause.id, ()))
            reason = UNTESTABLE.get(clause.id, clause.reason)
            found[clause.id] = Clause(clause.id, clause.text, page, held, clause.tests, reason)
    return found


def _contract_clauses(page: str, text: str) -> Iterator[Clause]:
    for protocol, name in CONTRACT.findall(text):
        if f"{protocol}.{name}" not in methods():
            raise ValueError(f"{page} shows {protocol}.{name}, which genai_iface.protocols does not have")
        for number, statement in enumerate(methods()[f"{protocol}.{name}"].contract, start=1):
            yield Clause(f"{protocol}.{name}.{number}", statement, page)


def _page_clauses(page: str, text: str) -> Iterator[Clause]:
    for name, body in PAGE_CLAUSE.findall(text):
        held: dict[str, str] = {kind: " ".join(value.split()) for kind, value in _HELD.findall(body)}
        tests = tuple(test.strip() for test in held.get("tests", "").split(",") if test.strip())
        yield Clause(name, _HELD.sub("", body).rstrip(), page, tests=tests, reason=held.get("reason", ""))


def _labels(node: ast.Module | ast.ClassDef | ast.FunctionDef) -> dict[str, str]:
    return dict(_LABEL.findall(ast.get_docstring(node) or ""))


def _method(protocol: ast.ClassDef, node: ast.FunctionDef, defaults: dict[str, str]) -> Method:
    parts = _SECTION.split(ast.get_docstring(node) or "")
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    items = re.split(r"^ {4}\d+\. ", sections.pop("Contract", ""), flags=re.MULTILINE)[1:]
    kept = {name: sections[name].strip("\n") for name in ("Args", "Returns", "Raises") if name in sections}
    is_property = any(isinstance(item, ast.Name) and item.id == "property" for item in node.decorator_list)
    gives = f" -> {ast.unparse(node.returns)}" if node.returns is not None else ""
    signature = node.name + gives if is_property else _call(node.name, _arguments(node.args), gives)
    contract = tuple(" ".join(item.split()) for item in items)
    own = _labels(protocol) | _labels(node)
    labels = defaults | own
    if labels.keys() != {"Since", "Stability"}:
        raise ValueError(f"{protocol.name}.{node.name} has the labels {sorted(labels)}, expected Since and Stability")
    return Method(
        protocol=protocol.name,
        name=node.name,
        signature=signature,
        summary=parts[0].strip(),
        sections=kept,
        contract=contract,
        since=labels["Since"],
        stability=labels["Stability"],
        has_own_label=bool(own),
    )


def _call(name: str, arguments: list[str], gives: str) -> str:
    """On one line if it fits, else one line for each argument."""
    line = f"{name}({', '.join(arguments)}){gives}"
    if len(line) <= _LINE:
        return line
    return "\n".join([f"{name}(", *(f"    {argument}," for argument in arguments), f"){gives}"])


def _arguments(arguments: ast.arguments) -> list[str]:
    """The arguments without self, as the house writes them."""
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(positional) - len(arguments.defaults)) + arguments.defaults
    written = [_argument(name, default) for name, default in zip(positional, defaults, strict=True)][1:]
    if len(arguments.posonlyargs) > 1:
        written.insert(len(arguments.posonlyargs) - 1, "/")
    written += ["*"] if arguments.kwonlyargs else []
    written += [_argument(*pair) for pair in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)]
    return written + ([f"**{_argument(arguments.kwarg, None)}"] if arguments.kwarg else [])


def _argument(argument: ast.arg, default: ast.expr | None) -> str:
    kind = f": {ast.unparse(argument.annotation)}" if argument.annotation is not None else ""
    return f"{argument.arg}{kind}" + (f" = {ast.unparse(default)}" if default is not None else "")
