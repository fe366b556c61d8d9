# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Gather the training text of the embedded model from installed packages, offline.

Every source has a licence that allows it: ONNX and ONNX IR (Apache-2.0), NumPy, PyTorch and Jinja
(BSD-3-Clause), Python's own documentation and docstrings (PSF-2.0), and a text of our own (Apache-2.0). The
output is one JSON line per document and a manifest with versions, byte counts and checksums.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import json
import platform
import re
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from pydoc_data import topics
from typing import Any

from tools.train_embedded.text import onnx_docs
from tools.train_embedded.text.cleaning import paragraphs, with_subject
from tools.train_embedded.text.conversations import conversations

#: The source that is made of conversations; the tokenizer and the held-out perplexity leave it out.
QUESTIONS = "questions and answers"
OWN_TEXT = Path(__file__).parent / "text" / "own_text.md"
STDLIB_PACKAGES = (
    "asyncio", "collections", "concurrent", "email", "http", "importlib", "json", "logging",
    "multiprocessing", "unittest", "urllib", "xml",
)  # fmt: skip
NUMPY_NAMESPACES = (
    "numpy", "numpy.linalg", "numpy.fft", "numpy.random", "numpy.polynomial.polynomial", "numpy.ma",
    "numpy.char", "numpy.lib.stride_tricks", "numpy.testing",
)  # fmt: skip
TORCH_NAMESPACES = (
    "torch", "torch.nn", "torch.nn.functional", "torch.nn.init", "torch.optim", "torch.optim.lr_scheduler",
    "torch.linalg", "torch.fft", "torch.special", "torch.utils.data", "torch.autograd", "torch.onnx",
)  # fmt: skip


@dataclass
class Source:
    """One group of documents and how often training should see it."""

    name: str
    version: str
    licence: str
    weight: float
    documents: list[str] = field(default_factory=list)
    held_out: list[str] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """Return what the manifest says about the source."""
        return {
            "source": self.name,
            "version": self.version,
            "licence": self.licence,
            "weight": self.weight,
            "documents": len(self.documents),
            "bytes": sum(len(text.encode()) for text in self.documents),
            "held_out_documents": len(self.held_out),
            "held_out_bytes": sum(len(text.encode()) for text in self.held_out),
            "sha256": hashlib.sha256("\0".join(self.documents).encode()).hexdigest(),
        }


def _document(title: str | None, kind: str, docstring: str, seen: set[str]) -> str | None:
    """Make a document from a docstring, without paragraphs that an earlier one already had."""
    body = paragraphs(docstring)
    if not body:
        return None
    if title is not None:
        first = with_subject(f"The {title} {kind}", title, body[0])
        body[0] = first if first is not None else f"{title}: {body[0]}" if body[0][0].isupper() else body[0]
    kept = [p for p in body if hashlib.sha1(p.encode()).hexdigest() not in seen]
    if not kept or kept[0] is not body[0] or sum(map(len, kept)) < 90:
        return None
    seen.update(hashlib.sha1(p.encode()).hexdigest() for p in kept)
    return "\n\n".join(kept).replace("\n\n- ", "\n- ")


def _kind(value: object) -> str:
    if inspect.ismodule(value):
        return "module"
    if inspect.isclass(value):
        return "class"
    return "function" if callable(value) else "object"


def _runtime_documents(namespaces: Iterable[str], methods_of: Iterable[str], seen: set[str]) -> Iterator[str]:
    """Yield documents for the public members of imported modules."""
    for namespace in namespaces:
        module = importlib.import_module(namespace)
        for name in sorted(dir(module)):
            value = getattr(module, name, None)
            if name.startswith("_") or inspect.ismodule(value) or not callable(value):
                continue
            text = _document(name, _kind(value), _without_signature(inspect.getdoc(value) or "", name), seen)
            if text:
                yield text
    for path in methods_of:
        namespace, _, cls_name = path.rpartition(".")
        cls = getattr(importlib.import_module(namespace), cls_name)
        for name in sorted(vars(cls)):
            doc = inspect.getdoc(getattr(cls, name, None)) if not name.startswith("_") else None
            text = _document(name, "method", _without_signature(doc or "", name), seen)
            if text:
                yield text


def _without_signature(doc: str, name: str) -> str:
    """Drop the leading signature lines that C functions carry in their docstrings."""
    lines = doc.splitlines()
    while lines and (
        not lines[0].strip() or re.match(rf"\s*(?:[\w.]*\.)?{re.escape(name)}\s*\(", lines[0]) or "->" in lines[0]
    ):
        lines.pop(0)
    return "\n".join(lines)


def _source_documents(files: Iterable[Path], seen: set[str]) -> Iterator[str]:
    """Yield documents for the public docstrings in source files, without importing them."""
    for path in files:
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        for node in ast.walk(tree):
            if not isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                continue
            title = None if isinstance(node, ast.Module) else node.name
            if title is not None and title.startswith("_"):
                continue
            kind = "class" if isinstance(node, ast.ClassDef) else "function"
            doc = ast.get_docstring(node)
            text = _document(title, kind, doc, seen) if doc else None
            if text:
                yield text


def _package_files(name: str) -> list[Path]:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise SystemExit(f"the package {name} is not installed")
    root = Path(spec.origin).parent
    skipped = {"test", "tests", "testing", "backend", "_vendored"}
    return [p for p in sorted(root.rglob("*.py")) if not skipped & set(p.relative_to(root).parts)]


def _topics() -> Iterator[str]:
    """Yield the chapters of Python's language reference, cut into documents of moderate size."""
    for name in sorted(topics.topics):
        body = paragraphs(topics.topics[name])
        chunk: list[str] = []
        for paragraph in body:
            chunk.append(paragraph)
            if sum(map(len, chunk)) > 2500 and not paragraph.startswith("- "):
                yield "\n\n".join(chunk).replace("\n\n- ", "\n- ")
                chunk = []
        if sum(map(len, chunk)) > 90:
            yield "\n\n".join(chunk).replace("\n\n- ", "\n- ")


def _own_documents() -> list[str]:
    """Return our own text: documents are separated by a line of three dashes."""
    text = re.sub(r"<!--.*?-->", "", OWN_TEXT.read_text(encoding="utf-8"), flags=re.DOTALL)
    documents = []
    for part in re.split(r"^---$", text, flags=re.MULTILINE):
        lines = [" ".join(block.split()) for block in part.strip().split("\n\n") if block.strip()]
        if lines:
            documents.append("\n\n".join(lines))
    return documents


def gather() -> list[Source]:
    """Collect every source, in a fixed order."""
    version = importlib.metadata.version
    sources: list[Source] = []

    schemas = onnx_docs.operators()
    operators = Source("onnx operator schemas", version("onnx"), "Apache-2.0", 2.0)
    for schema in schemas:
        held = onnx_docs.is_held_out(schema.name)
        (operators.held_out if held else operators.documents).extend(onnx_docs.render(schema))
    kept = [s for s in schemas if not onnx_docs.is_held_out(s.name)]
    operators.documents += onnx_docs.opset_documents(kept)
    sources.append(operators)

    own = Source("own text", "1", "Apache-2.0", 8.0, _own_documents())
    sources.append(own)

    seen: set[str] = set()
    held_files = {s.name.lower() for s in schemas if onnx_docs.is_held_out(s.name)}
    onnx_files = [p for p in _package_files("onnx") if p.stem.removeprefix("op_").replace("_", "") not in held_files]
    helpers = _source_documents(onnx_files, seen)
    sources.append(Source("onnx docstrings", version("onnx"), "Apache-2.0", 2.0, list(helpers)))
    ir_documents = _source_documents(_package_files("onnx_ir"), seen)
    sources.append(Source("onnx-ir docstrings", version("onnx-ir"), "Apache-2.0", 1.0, list(ir_documents)))
    arrays = _runtime_documents(NUMPY_NAMESPACES, ["numpy.ndarray", "numpy.random.Generator"], seen)
    sources.append(Source("numpy docstrings", version("numpy"), "BSD-3-Clause", 1.0, list(arrays)))
    python = platform.python_version()
    sources.append(Source("python topics", python, "PSF-2.0", 1.0, list(_topics())))
    stdlib = Path(sysconfig.get_path("stdlib"))
    files = sorted(stdlib.glob("*.py")) + [p for name in STDLIB_PACKAGES for p in sorted((stdlib / name).glob("*.py"))]
    sources.append(Source("python docstrings", python, "PSF-2.0", 1.0, list(_source_documents(files, seen))))
    tensors = _runtime_documents(TORCH_NAMESPACES, ["torch.Tensor"], seen)
    sources.append(Source("torch docstrings", version("torch").split("+")[0], "BSD-3-Clause", 1.0, list(tensors)))
    templates = _source_documents(_package_files("jinja2"), seen)
    sources.append(Source("jinja docstrings", version("jinja2"), "BSD-3-Clause", 1.0, list(templates)))
    unseen = [schema for schema in schemas if onnx_docs.is_held_out(schema.name)]
    talks = conversations(kept, own.documents)
    sources.append(Source(QUESTIONS, version("onnx"), "Apache-2.0", 0.85, talks, conversations(unseen, ())))
    return sources


def main() -> None:
    """Write ``corpus.jsonl`` and ``manifest.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for corpus.jsonl and manifest.json")
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    manifest = []
    with (out / "corpus.jsonl").open("w", encoding="utf-8") as stream:
        for source in gather():
            for split, documents in (("train", source.documents), ("held_out", source.held_out)):
                for text in documents:
                    row = {"source": source.name, "split": split, "weight": source.weight, "text": text}
                    stream.write(json.dumps(row) + "\n")
            manifest.append(source.summary())
    (out / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    for entry in manifest:
        print(
            f"{entry['source']:24s} {entry['version']:10s} {entry['documents']:6d} documents"
            f" {entry['bytes']:9d} bytes, held out {entry['held_out_bytes']}"
        )


if __name__ == "__main__":
    main()
