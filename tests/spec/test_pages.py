# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The pages of the specification as they are written, and clauses that the NumPy backend alone shows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from genai_iface import (
    INTERFACE_VERSION,
    BackendError,
    InterfaceVersionError,
    load_model,
    negotiate_version,
)
from tests.models import write_folder
from tools.spec.clauses import CONTRACT, PAGE_CLAUSE, members, methods, spec_pages

PAGES = spec_pages()


def test_every_member_of_the_protocols_is_shown_once() -> None:
    shown = [f"{protocol}.{name}" for text in PAGES.values() for protocol, name in CONTRACT.findall(text)]
    assert sorted(shown) == sorted(methods())


def test_the_page_names_the_interface_version() -> None:
    assert f"**interface version {INTERFACE_VERSION}**" in PAGES["spec/index.md"]


def test_a_runtimes_own_error_is_wrapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors.2 and Model.forward.7."""
    from genai_iface_numpy.evaluator import Evaluator

    model = load_model(write_folder(tmp_path / "model"))
    cache = model.create_cache(capacity=8)
    own = RuntimeError("the runtime's own")

    def fail(*_: object) -> None:
        raise own

    monkeypatch.setattr(Evaluator, "run", fail)
    with pytest.raises(BackendError) as caught:
        model.forward([[1, 2]], cache)
    assert caught.value.__cause__ is own
    assert cache.lengths.tolist() == [0]


def test_version_negotiation() -> None:
    """Version.1 to Version.3."""
    assert negotiate_version({1, 2}) == 1
    for offered, remedy in ((set(), "backend"), ({0}, "backend"), ({2}, "genai-iface")):
        with pytest.raises(InterfaceVersionError) as caught:
            negotiate_version(offered)
        assert str(sorted(offered)) in caught.value.what
        assert "[1]" in caught.value.what
        assert remedy in caught.value.remedy


def test_every_clause_is_read() -> None:
    """What looks like a clause is one: the pattern that finds them misses none."""
    for page, text in PAGES.items():
        assert len(PAGE_CLAUSE.findall(text)) == len(re.findall(r"^- \*\*[A-Z]\w*\.\d+", text, re.MULTILINE)), page


def test_members_have_the_labels_of_the_module_or_their_own() -> None:
    assert {method.stability for method in methods().values()} <= {"preview", "stable", "deprecated"}
    assert all(1 <= int(method.since) <= INTERFACE_VERSION for method in methods().values())
    source = '''"""A module.\n\nSince: 1\nStability: preview\n"""
class Old:
    """A class."""
    def first(self): """A member."""
    def second(self): """A member.\n\nStability: stable\n"""
class New:
    """A class.\n\nSince: 2\n"""
    def third(self): """A member."""
'''
    found = {name: (method.since, method.stability, method.has_own_label) for name, method in members(source).items()}
    assert found == {
        "Old.first": ("1", "preview", False),
        "Old.second": ("1", "stable", True),
        "New.third": ("2", "preview", True),
    }
    with pytest.raises(ValueError, match=r"Old.first has the labels \['Stability'\]"):
        members(source.replace("Since: 1", ""))
