# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0

"""The clauses of the specification: each once, each held by something, every link leading somewhere."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from genai_iface import (
    GenerationConfig,
    InterfaceVersionError,
    Model,
    load_model,
    registry,
)
from genai_iface.conformance import all_checks
from genai_iface.conformance._coverage import UNTESTABLE
from genai_iface.generation import ModelGenerator
from tests.conformance.plain import PlainBackend
from tests.marks import needs_toolbox
from tests.models import write_folder
from tools.conformance_pages.__main__ import checks_page
from tools.spec.clauses import ROOT, all_clauses, spec_pages
from tools.spec.render import render_page
from tools.spec.tables import TABLES

CLAUSES = all_clauses()
PAGES = spec_pages()
RENDERED = {page: render_page(page, text) for page, text in PAGES.items()}


def test_every_check_names_a_clause_that_there_is() -> None:
    for item in all_checks():
        assert item.spec, f"{item.id} checks no clause"
        assert CLAUSES.keys() >= set(item.spec), item.id


@pytest.mark.parametrize("clause", CLAUSES.values(), ids=lambda clause: clause.id)
def test_every_clause_demands_something_and_is_held(clause) -> None:
    assert clause.keywords, "no MUST, SHOULD or MAY"
    assert clause.checks or clause.tests or clause.reason, "neither a check, nor a test, nor a reason"
    assert not (clause.reason and (clause.checks or clause.tests)), "a reason for what there is"


def test_reasons_are_about_clauses_that_there_are() -> None:
    assert UNTESTABLE.keys() <= CLAUSES.keys()


def test_numbers_have_no_gaps() -> None:
    numbers: dict[str, list[int]] = {}
    for name in CLAUSES:
        subject, _, number = name.rpartition(".")
        numbers.setdefault(subject, []).append(int(number))
    assert {subject: sorted(found) for subject, found in numbers.items()} == {
        subject: list(range(1, len(found) + 1)) for subject, found in numbers.items()
    }


@needs_toolbox
def test_the_tests_that_clauses_name_are_there() -> None:
    named = {test: clause.id for clause in CLAUSES.values() for test in clause.tests}
    for path in {test.partition("::")[0] for test in named}:
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        there = {f"{path}::{node.name}" for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert {test for test in named if test.startswith(f"{path}::")} <= there


def anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.+?)(?: \{.*\})?$", text, re.MULTILINE)
    given = re.findall(r"\{ #([\w.]+)", text)
    return {*given, *(re.sub(r"[^\w]+", "-", heading.lower()).strip("-") for heading in headings)}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_anchors(page: str) -> None:
    assert "Contract of" not in RENDERED[page]
    assert not re.search(r"^- Table ", RENDERED[page], re.MULTILINE)
    known = {other.removeprefix("spec/"): anchors(text) for other, text in RENDERED.items()}
    known["../conformance-checks.md"] = anchors(checks_page())
    known[""] = known[page.removeprefix("spec/")]
    for target, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", RENDERED[page]):
        if target in known:
            assert anchor in known[target], f"{target}#{anchor}"
        elif target != "../reference/protocols.md":
            text = (ROOT / "docs" / "spec" / target).resolve().read_text(encoding="utf-8")
            assert anchor in anchors(text), f"{target}#{anchor}"


def test_a_clause_is_shown_with_its_checks() -> None:
    cache = render_page("spec/cache.md", PAGES["spec/cache.md"])
    assert (
        "[KVCache.rewind_to.2](#KVCache.rewind_to.2){ #KVCache.rewind_to.2 .clause } On an error nothing MUST" in cache
    )
    assert "[`L2.rewind.refused`](../conformance-checks.md#L2.rewind.refused)" in cache
    assert "No check: a permission, not a duty" in cache
    assert "equal tokens on every backend, as [sampling](sampling.md) says." in RENDERED["spec/generator.md"]
    assert '<figure class="spec-picture">\n<svg' in cache


def test_a_page_that_names_what_there_is_not_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for text, message in (
        ("- Contract of [`KVCache.shrink`](../../genai_iface/protocols.py)\n", "KVCache.shrink"),
        ("- **Folder.1** MUST be one.\n\n- **Folder.1** MUST be two.\n", "Folder.1 stands twice"),
    ):
        monkeypatch.setattr("tools.spec.clauses.spec_pages", lambda text=text: {"spec/x.md": text})
        with pytest.raises(ValueError, match=message):
            all_clauses()


def test_the_tables_are_complete() -> None:
    assert set(re.findall(r"^- Table ([\w-]+),", "".join(PAGES.values()), re.MULTILINE)) == set(TABLES)
    assert "| `rewind` | ``KVCache.rewind_to`` to any shorter length, row by row. | 2 |" in TABLES["capabilities"]()
    assert TABLES["capabilities"]().count("\n") == 1 + 20
    assert "| 4 | generation | " in TABLES["levels"]()


# Clauses that no check holds, because the kit cannot see what they are about.


def generator(tmp_path: Path, **fields: object) -> ModelGenerator:
    model: Model = load_model(write_folder(tmp_path / "model"))
    return ModelGenerator(model, GenerationConfig(**fields))


def test_stop_goes_before_length(tmp_path: Path) -> None:
    """Stop.7."""
    first = generator(tmp_path, max_new_tokens=1)
    first.append_tokens([5, 6])
    first.generate_next_token()
    (token,) = first.get_next_tokens()
    assert first.finish_reasons == ("length",)
    second = generator(tmp_path, max_new_tokens=1, stop_token_ids=[token])
    second.append_tokens([5, 6])
    second.generate_next_token()
    assert second.finish_reasons == ("stop",)


def test_a_backend_of_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Version.3: before a model is loaded."""

    class Entry:
        name, value, extras, dist, module = "late", "x:y", (), None, "x"

        def load(self):
            return lambda: PlainBackend(info={"interface_versions": frozenset({99})})

    monkeypatch.setattr(registry, "_entry_points", lambda: (Entry(),))
    monkeypatch.setattr(PlainBackend, "load", lambda *_, **__: pytest.fail("a model was loaded"))
    with pytest.raises(InterfaceVersionError, match=r"\[99\]"):
        registry.load_model("nowhere", backend="late")
