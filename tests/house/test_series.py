# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The review as a series: every file has its step, no step needs a later one, and the page shows what there is."""

from __future__ import annotations

import hashlib
import tomllib
from pathlib import Path

import pytest

from tests.house.sources import ROOT
from tools.pr_series.closure import import_faults
from tools.pr_series.manifest import MAX_FILES, SeriesError, read_series
from tools.pr_series.page import PAGE, rows_of, shown_rows
from tools.pr_series.trees import write_hashes, write_tree

MANIFEST = """
[[step]]
title = "nouns"
files = ["docs/**"]
[[step]]
title = "code"
files = ["genai_iface/**"]
later = ["genai_iface.loop"]
[[step]]
title = "loop"
files = ["genai_iface/loop/**"]
[toolbox]
files = ["tools/**"]
[whole]
files = ["*"]
[generated]
files = ["docs/made/**"]
"""
FILES = ["README.md", "docs/a.md", "docs/made/b.json", "genai_iface/a.py", "genai_iface/loop/b.py", "tools/t.py"]


@pytest.fixture(scope="module")
def needs_git() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git repository: what is tracked is unknown")


@pytest.mark.usefixtures("needs_git")
def test_every_file_has_its_step_and_no_step_needs_a_later_one() -> None:
    series = read_series()
    assert import_faults(series) == []
    assert all(0 < len(series.written(step)) <= MAX_FILES for step in series.steps)


@pytest.mark.usefixtures("needs_git")
def test_the_page_shows_the_series() -> None:
    """To a tenth: `python -m tools.pr_series --page` writes it anew."""
    shown, real = shown_rows(PAGE.read_text(encoding="utf-8")), rows_of(read_series())
    assert [(row.name, row.what) for row in shown] == [(row.name, row.what) for row in real]
    for said, counted in zip(shown, real, strict=True):
        for kind in ("files", "lines", "generated"):
            assert getattr(said, kind) == pytest.approx(getattr(counted, kind), rel=0.1, abs=2), (said.name, kind)


def test_the_longest_pattern_decides() -> None:
    series = read_series(FILES, manifest=MANIFEST)
    assert series.files["code"] == ("genai_iface/a.py",)
    assert series.files["loop"] == ("genai_iface/loop/b.py",)
    assert series.written(series.steps[0]) == ["docs/a.md"]
    assert series.up_to(2) == ["docs/a.md", "docs/made/b.json", "genai_iface/a.py"]


@pytest.mark.parametrize(
    ("files", "manifest", "fault"),
    [
        ([*FILES, "more/x.py"], MANIFEST, "more/x.py: in no step"),
        (FILES, MANIFEST.replace('["tools/**"]', '["tools/**", "more/*"]'), "more/*: no file is like this"),
        (FILES, MANIFEST.replace('["tools/**"]', '["tools/**", "docs/**"]'), "docs/a.md: in Toolbox and nouns"),
        (FILES, MANIFEST.replace("docs/made", "docs/none"), "docs/none/**: no file is like this"),
        ([*FILES, *(f"docs/{n}.md" for n in range(MAX_FILES))], MANIFEST, "step 1 has 121 files"),
    ],
)
def test_what_does_not_fit_is_refused(files: list[str], manifest: str, fault: str) -> None:
    with pytest.raises(SeriesError) as caught:
        read_series(files, manifest=manifest)
    assert any(line.startswith(fault) for line in caught.value.args), caught.value.args


@pytest.mark.parametrize(
    ("code", "is_fault"),
    [
        ("from genai_iface.loop.b import x", True),
        ("import genai_iface.loop.b", True),
        ("import tools.t", True),
        ("def f():\n    from genai_iface.loop import b", False),
        ("def f():\n    import tools.t", True),
        ("if TYPE_CHECKING:\n    from genai_iface.loop.b import x", False),
        ("import numpy", False),
    ],
)
def test_an_import_against_the_series_is_found(code: str, is_fault: bool, tmp_path: Path) -> None:
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(code if name == "genai_iface/a.py" else "")
    assert bool(import_faults(read_series(FILES, manifest=MANIFEST), tmp_path)) == is_fault


@pytest.mark.usefixtures("needs_git")
@pytest.mark.parametrize("number", [1, 2, 3, 4, 5])
def test_a_tree_has_what_it_says(number: int, tmp_path: Path) -> None:
    series = read_series()
    step = series.steps[number - 1]
    tree = write_tree(series, step, tmp_path)
    there = [path.relative_to(tree).as_posix() for path in tree.rglob("*") if path.is_file()]
    assert sorted(there) == series.up_to(number)
    count = write_hashes(series, step, tmp_path)
    lines = (tmp_path / f"step-{number}.sha256").read_text(encoding="utf-8").splitlines()
    assert len(lines) == count == len(series.files[step.title]) - len(series.written(step))
    for line in lines:
        digest, _, path = line.partition("  ")
        assert hashlib.sha256((ROOT / path).read_bytes()).hexdigest() == digest
    if number == 1:
        assert not (tree / "pyproject.toml").exists()
        return
    cut = tomllib.loads((tree / "pyproject.toml").read_text(encoding="utf-8"))
    project, tool = cut["project"], cut["tool"]
    assert ("scripts" in project) == (number == 5)
    assert set(project["entry-points"]["genai_iface.backends"]) == ({"numpy", "ort"} if number == 5 else {"numpy"})
    assert set(project["optional-dependencies"]) == set(step.extras)
    paths = [*tool["hatch"]["build"]["targets"]["wheel"]["packages"], *tool["mypy"]["files"]]
    assert paths
    assert all((tree / path).exists() for path in [*paths, *tool["pytest"]["ini_options"]["pythonpath"]])
    assert any(text.startswith("rich") for text in project["dependencies"]) == (number == 5)
