# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0

"""The rules of the house: walls between packages, the shape of contracts, and texts that match the code."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import genai_iface
from genai_iface.capabilities import Capability
from tests.house.sources import ROOT, imports, name_of, parsed, python_files
from tests.marks import BACKENDS

CODE_FOLDERS = ("genai_iface", "backends", "benchmarks", "docs", "examples", "tests", "tools")

# What each part may import besides the standard library and genai_iface. The longest prefix counts.
# ("google" is protobuf, whose errors onnx lets through.)
ALLOWED_IMPORTS = {
    "genai_iface": {"numpy", "typing_extensions"},
    "genai_iface/build": {
        "huggingface_hub",
        "gguf",
        "ml_dtypes",
        "mobius",
        "numpy",
        "onnx",
        "onnx_ir",
        "onnxscript",
        "onnxruntime",
        "peft",
        "safetensors",
        "tokenizers",
        "torch",
        "transformers",
    },
    "genai_iface/cli": {"numpy", "onnx", "onnx_ir", "rich"},
    "genai_iface/conformance": {"jsonschema", "numpy", "pytest"},  # both where they are used
    "genai_iface/conformance/forms": {"gguf", "numpy"},
    "genai_iface/generation/constraints": {"llguidance", "numpy"},
    "genai_iface/folder": {
        "google",
        "huggingface_hub",
        "jinja2",
        "ml_dtypes",
        "numpy",
        "onnx",
        "onnx_ir",
        "safetensors",
        "tokenizers",
    },
    "genai_iface/serving": {
        "fastapi",
        "numpy",
        "prometheus_client",
        "pyarrow",
        "pydantic",
        "ray",
        "starlette",
        "uvicorn",
    },
    "genai_iface/integrations": {"numpy", "onnx", "onnx_ir", "torch", "transformers"},
    "genai_iface/graph": {"ml_dtypes", "numpy", "onnx", "onnx_ir"},
    "genai_iface/transform": {"ml_dtypes", "numpy", "onnx", "onnx_ir"},
    "backends/numpy": {"ml_dtypes", "numpy", "onnx", "onnx_ir", "typing_extensions"},
    "backends/ort": {"ml_dtypes", "numpy", "onnx", "onnx_ir", "onnxruntime", "typing_extensions"},
    "backends/openvino_genai": {"numpy", "openvino", "openvino_genai"},
    "backends/ort_genai": {"numpy", "onnxruntime_genai"},
    "backends/transformers": {"numpy", "safetensors", "torch", "transformers"},
}

# Parts of genai_iface that load more than the interface; the rest may import them only inside a function.
HEAVY_PARTS = tuple(f"genai_iface.{part}" for part in ("build", "cli", "folder", "graph", "integrations", "transform"))

MAX_LINES = 500
LONG_FILES = {
    "genai_iface/pipeline.py": "one class with one public surface",
    "genai_iface/protocols.py": "the contracts are one document and are cited by number",
    "tests/conformance/mutants.py": "one list of one-bug runtimes, a few lines each",
    "tests/generation/test_generator.py": "every rule of the decode loop, on one fake model",
    "tests/test_pipeline.py": "every rule of one class with one public surface",
}

PARTS = [path for path in ALLOWED_IMPORTS if (ROOT / path).is_dir()]


def files_of_part(part: str) -> list[Path]:
    inner = [other for other in ALLOWED_IMPORTS if other.startswith(part + "/")]
    return [path for path in python_files(part) if not name_of(path).startswith(tuple(f"{name}/" for name in inner))]


@pytest.mark.parametrize("part", PARTS)
def test_imports_stay_within_the_walls(part: str) -> None:
    own = {path.name for path in (ROOT / part).iterdir() if path.is_dir()} if part.startswith("backends/") else set()
    allowed = {"genai_iface", *ALLOWED_IMPORTS[part], *own, *sys.stdlib_module_names}
    files = files_of_part(part)
    assert files
    bad = [
        f"{name_of(path)}: {module}"
        for path in files
        for module, _ in imports(parsed(path))
        if module.partition(".")[0] not in allowed
    ]
    assert not bad


def test_the_interface_loads_its_heavy_parts_lazily() -> None:
    bad = [
        f"{name_of(path)}: {module}"
        for path in files_of_part("genai_iface")
        for module, name in imports(parsed(path), lazy=False)
        if f"{module}.{name}.".startswith(tuple(f"{part}." for part in HEAVY_PARTS))
        and name_of(path) != "genai_iface/__main__.py"
    ]
    assert not bad


def test_every_backend_has_a_wall() -> None:
    folders = {f"backends/{path.parents[1].name}" for path in (ROOT / "backends").glob("*/*/__init__.py")}
    assert folders
    assert folders <= ALLOWED_IMPORTS.keys()


def test_no_module_imports_a_private_name_of_another() -> None:
    bad = [
        f"{name_of(path)}: {name} of {module}"
        for folder in ("genai_iface", "backends", "examples", "benchmarks")
        for path in python_files(folder)
        for module, name in imports(parsed(path))
        if module.startswith("genai_iface") and (name or "").startswith("_") and not (name or "").startswith("__")
    ]
    assert not bad


@pytest.mark.skipif(shutil.which("ruff") is None, reason="ruff is not installed; pip install '.[dev]'")
def test_the_linter_sees_a_wall_being_broken() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    banned = settings["tool"]["ruff"]["lint"]["flake8-tidy-imports"]["banned-api"]
    probe = "".join(f"import {module}\n" for module in banned)
    command = ["ruff", "check", "--select", "TID251", "--output-format", "concise", "--stdin-filename"]
    for file, expected in (("genai_iface/probe.py", len(banned)), ("genai_iface/folder/probe.py", 0)):
        run = subprocess.run([*command, file, "-"], input=probe, cwd=ROOT, capture_output=True, text=True, check=False)
        assert run.stdout.count("TID251") == expected, run.stdout + run.stderr


@pytest.mark.parametrize("folder", CODE_FOLDERS)
def test_every_source_file_names_its_licence(folder: str) -> None:
    # REUSE-IgnoreStart
    lines = [
        "# SPDX-FileCopyrightText: The ONNX generative-AI interface authors",
        "# SPDX-License-Identifier: Apache-2.0",
    ]
    # REUSE-IgnoreEnd
    bad = []
    for path in python_files(folder):
        head = path.read_text(encoding="utf-8").splitlines()[:3]
        if lines not in (head[:2], head[1:]):  # the second after a shebang
            bad.append(name_of(path))
    assert not bad


def test_files_are_short_or_have_a_reason() -> None:
    long = {
        name_of(path)
        for folder in CODE_FOLDERS
        for path in python_files(folder)
        if len(path.read_text(encoding="utf-8").splitlines()) > MAX_LINES
    }
    assert long == LONG_FILES.keys()


def protocol_docstrings() -> list[tuple[str, str]]:
    """(Class or Class.method, docstring) of everything that protocols.py publishes."""
    found = []
    for node in parsed(ROOT / "genai_iface/protocols.py").body:
        if not isinstance(node, ast.ClassDef):
            continue
        found.append((node.name, ast.get_docstring(node) or ""))
        methods = [method for method in node.body if isinstance(method, ast.FunctionDef)]
        found += [(f"{node.name}.{method.name}", ast.get_docstring(method) or "") for method in methods]
    return found


@pytest.mark.parametrize("text", [pytest.param(text, id=name) for name, text in protocol_docstrings()])
def test_contracts_have_their_shape(text: str) -> None:
    before, _, contract = text.partition("\nContract:\n")
    assert "MUST" not in before, "a MUST outside of the Contract"
    numbers = [int(number) for number in re.findall(r"^ {4}(\d+)\. ", contract, re.MULTILINE)]
    assert numbers == list(range(1, len(numbers) + 1))
    assert bool(numbers) == ("\nContract:\n" in text)


def between(text: str, marker: str) -> str:
    """What stands between <!-- marker --> and <!-- /marker -->."""
    match = re.search(rf"<!-- {marker} -->\n(.*?)<!-- /{marker} -->", text, re.DOTALL)
    assert match, f"no marker {marker}"
    return match[1]


def test_the_readme_tree_matches_the_folders() -> None:
    tree = between((ROOT / "README.md").read_text(encoding="utf-8"), "tree")
    named, parent = set(), ""
    for indent, name in re.findall(r"^( *)([\w-]+)/", tree, re.MULTILINE):
        parent = parent if indent else name
        named.add(f"{parent}/{name}" if indent else name)
    real = {folder.name for folder in ROOT.iterdir() if folder.is_dir() and folder.name in {*CODE_FOLDERS, *named}}
    real |= {
        name_of(folder)
        for parent in ("genai_iface", "backends")
        for folder in (ROOT / parent).iterdir()
        if folder.is_dir() and any(folder.rglob("*.py"))
    }
    assert named == real


@pytest.mark.parametrize("column", BACKENDS)
def test_the_readme_table_matches_what_backends_declare(column: str) -> None:
    table = between((ROOT / "README.md").read_text(encoding="utf-8"), "capabilities")
    header, _, *rows = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in table.splitlines()]
    said = {row[0] for row in rows if row[header.index(column)] == "yes"}
    assert {row[0] for row in rows} == {str(name) for name in Capability}
    assert said == {str(name) for name in genai_iface.load_backend(column).info().capabilities}


def test_every_page_is_in_the_navigation() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    listed = re.findall(r"^ +- (?:[^:\n]+: )?(\S+\.md)$", text, re.MULTILINE)
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    pages = {page for page in pages if not re.match(r"reports/[^/]+/(?!index\.md)", page)}  # single runs
    generated = {"changelog.md", "contributing.md", "security.md", "reference/command-line.md"}
    assert set(listed) == {*pages, *generated}


def test_the_changelog_knows_the_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = text.split("\n## ")[1]
    assert newest.startswith(genai_iface.__version__)
    assert newest.index("### Interface") < newest.index("### Implementation")
