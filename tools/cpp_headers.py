# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Writes a C++17 header from the protocols: Model, KVCache and Generator, with their clauses as comments.

    python -m tools.cpp_headers OUT.hpp

An appendix to question 6 of RFC 0001: what the working group's headers would say if they followed the same contracts.
Everything in it comes from ``genai_iface``: classes and clauses from the protocols, structures from the data
classes, exceptions from the errors. Only the two array types, which C++ lacks, are written here.
"""

from __future__ import annotations

import argparse
import ast
import textwrap
from collections.abc import Iterator
from pathlib import Path

from tools.spec.clauses import Method, methods

__all__ = ["PROTOCOLS", "header"]

PACKAGE = Path(__file__).parents[1] / "genai_iface"
PROTOCOLS = ("KVCache", "Model", "Generator")
_STRUCTURES = ("Device", "LayerCacheSpec", "StateSpec", "CacheSpec", "ModelSpec")
_ENUMERATIONS = ("CacheStyle", "CacheLayout", "CacheMode", "DType", "StateKind", "LogitsMode", "UpdateMode")

# What a Python annotation is in C++.
_TYPES = {
    "int": "std::int64_t",
    "bool": "bool",
    "str": "std::string",
    "None": "void",
    "ArrayLike": "const IntArray&",
    "NDArray[np.int64]": "std::vector<std::int64_t>",
    "NDArray[np.float32]": "FloatArray",
    "frozenset[str]": "std::set<std::string>",
    "Mapping[str, str]": "std::map<std::string, std::string>",
    "Sequence[int] | Sequence[Sequence[int]]": "const std::vector<std::vector<std::int64_t>>&",
    "int | Sequence[int]": "const std::vector<std::int64_t>&",
    "CacheT": "KVCache&",
}
# Of one member alone.
_PARTICULAR = {
    ("Generator", "set_logits", "logits"): "const FloatArray&",
    ("Model", "create_cache", ""): "std::unique_ptr<KVCache>",
}
_LINE = 72
_KEYWORDS = frozenset({"default", "delete", "new", "register", "switch", "this", "union"})

_HEAD = """\
// SPDX-FileCopyrightText: The ONNX generative-AI interface authors
// SPDX-License-Identifier: Apache-2.0
//
// Written by python -m tools.cpp_headers from the protocols of genai_iface; preview.
// Ids such as "Model.forward.5" are those of the specification and of the conformance checks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace genai_iface {

/// A dense array of integers that the callee reads and never writes to; row-major.
struct IntArray {
  const std::int64_t* data = nullptr;
  std::vector<std::size_t> shape;
};

/// A dense array of float32 that its holder owns; row-major.
struct FloatArray {
  std::vector<float> data;
  std::vector<std::size_t> shape;
};
"""


def main() -> None:
    """Writes the header."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.parse_args().out.write_text(header(), encoding="utf-8")


def header() -> str:
    """The header as text.

    Raises:
        ValueError: A protocol has an annotation for which there is no C++ type yet.
    """
    types = _parsed("types.py")
    parts = [_HEAD]
    parts += _enumerations(types, _ENUMERATIONS)
    parts += _enumerations(_parsed("results.py"), ("FinishReason",))
    parts += [_structure(node) for node in _classes(types, _STRUCTURES)]
    parts += list(_errors())
    parts += [_protocol(node) for node in _classes(_parsed("protocols.py"), PROTOCOLS)]
    return "\n".join([*parts, "}  // namespace genai_iface\n"])


def _parsed(name: str) -> ast.Module:
    return ast.parse((PACKAGE / name).read_text(encoding="utf-8"))


def _classes(tree: ast.Module, names: tuple[str, ...]) -> Iterator[ast.ClassDef]:
    """The classes of these names, in the order of the file."""
    return (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name in names)


def _enumerations(tree: ast.Module, names: tuple[str, ...]) -> list[str]:
    found = []
    for node in tree.body:
        if not isinstance(node, ast.AnnAssign) or ast.unparse(node.target) not in names or node.value is None:
            continue
        literals = [leaf.value for leaf in ast.walk(node.value) if isinstance(leaf, ast.Constant)]
        found.append(f"enum class {ast.unparse(node.target)} {{ {', '.join(_name(str(one)) for one in literals)} }};\n")
    return found


def _structure(node: ast.ClassDef) -> str:
    fields = (field for field in node.body if isinstance(field, ast.AnnAssign))
    members = [f"  {_value_type(ast.unparse(field.annotation))} {ast.unparse(field.target)}{{}};" for field in fields]
    return "\n".join([*_comment(_prose(node), ""), f"struct {node.name} {{", *members, "};\n"])


def _errors() -> Iterator[str]:
    for node in _parsed("errors.py").body:
        if not isinstance(node, ast.ClassDef):
            continue
        comment = "\n".join(_comment(_prose(node), ""))
        base = ast.unparse(node.bases[0])
        if base == "Exception":
            yield (
                f"{comment}\nclass {node.name} : public std::runtime_error {{\n public:\n"
                f"  explicit {node.name}(const std::string& what, std::string remedy = {{}})\n"
                "      : std::runtime_error(what), remedy_(std::move(remedy)) {}\n"
                "  /// What to do about it.\n"
                "  const std::string& remedy() const noexcept { return remedy_; }\n\n"
                " private:\n  std::string remedy_;\n};\n"
            )
        else:
            yield f"{comment}\nclass {node.name} : public {base} {{\n public:\n  using {base}::{base};\n}};\n"


def _protocol(node: ast.ClassDef) -> str:
    lines = [*_comment(_prose(node), ""), f"class {node.name} {{", " public:", f"  virtual ~{node.name}() = default;"]
    for member in node.body:
        if isinstance(member, ast.FunctionDef):
            method = methods()[f"{node.name}.{member.name}"]
            lines += ["", *_comment(_told(method), "  "), f"  virtual {_declaration(node.name, member)} = 0;"]
    return "\n".join([*lines, "};\n"])


def _told(method: Method) -> str:
    """What a method's comment says: its summary, its errors, its clauses."""
    parts = [method.summary]
    if raises := method.sections.get("Raises"):
        parts.append("Throws:\n" + textwrap.indent(textwrap.dedent(raises), "  "))
    clauses = [f"  {method.protocol}.{method.name}.{i}: {text}" for i, text in enumerate(method.contract, start=1)]
    if clauses:
        parts.append("Contract:\n" + "\n".join(clauses))
    return "\n\n".join(parts)


def _declaration(protocol: str, member: ast.FunctionDef) -> str:
    gives = _PARTICULAR.get((protocol, member.name, "")) or _value_type(
        ast.unparse(member.returns or ast.Constant(None))
    )
    is_property = any(isinstance(item, ast.Name) and item.id == "property" for item in member.decorator_list)
    given = member.args
    positional = [*given.posonlyargs, *given.args]
    defaults = [None] * (len(positional) - len(given.defaults)) + given.defaults
    # Without self.
    pairs = [*[*zip(positional, defaults, strict=True)][1:], *zip(given.kwonlyargs, given.kw_defaults, strict=True)]
    written = [_argument(protocol, member.name, *pair) for pair in pairs]
    arguments = ", ".join(written)
    if len(arguments) > _LINE:
        arguments = "\n      " + ",\n      ".join(written)
    # What a protocol only asks, C++ can promise.
    is_const = is_property or member.name.startswith(("get_", "is_", "can_", "token_"))
    return f"{gives} {member.name}({arguments}){' const' if is_const else ''}"


def _argument(protocol: str, method: str, argument: ast.arg, default: ast.expr | None) -> str:
    annotation = ast.unparse(argument.annotation or ast.Constant(None))
    kind = _PARTICULAR.get((protocol, method, argument.arg)) or _parameter_type(annotation)
    return f"{kind} {argument.arg}" + ("" if default is None else f" = {_default(kind, default)}")


def _parameter_type(annotation: str) -> str:
    if annotation.endswith(" | None"):
        inner = _TYPES.get(annotation.removesuffix(" | None"), annotation.removesuffix(" | None"))
        # An absent array is a null pointer, for a reference cannot be absent.
        return f"{inner.removesuffix('&')}*" if inner.endswith("&") else f"std::optional<{inner}>"
    return _known(annotation)


def _value_type(annotation: str) -> str:
    if annotation.endswith(" | None"):
        return f"std::optional<{_known(annotation.removesuffix(' | None'))}>"
    for begin, end in (("tuple[", ", ...]"), ("list[", "]")):
        if annotation.startswith(begin) and annotation.endswith(end):
            return f"std::vector<{_value_type(annotation[len(begin) : -len(end)])}>"
    return _known(annotation)


def _known(annotation: str) -> str:
    if annotation in _TYPES:
        return _TYPES[annotation]
    if annotation in (*_STRUCTURES, *_ENUMERATIONS, "FinishReason"):
        return annotation
    raise ValueError(f"There is no C++ type for {annotation!r} yet; add it to _TYPES")


def _default(kind: str, default: ast.expr) -> str:
    value = ast.literal_eval(default)
    if value is None:
        return "nullptr" if kind.endswith("*") else "std::nullopt"
    return f"{kind}::{_name(value)}" if isinstance(value, str) else str(value).lower()


def _name(text: str) -> str:
    return f"{text}_" if text in _KEYWORDS else text


def _prose(node: ast.ClassDef) -> str:
    return (ast.get_docstring(node) or "").partition("\nAttributes:")[0].partition("\nArgs:")[0].strip()


def _comment(text: str, indent: str) -> list[str]:
    lines: list[str] = []
    for line in text.splitlines():
        hang = " " * (len(line) - len(line.lstrip()) + 2)
        lines += textwrap.wrap(line, 116 - len(indent), subsequent_indent=hang if line[:1] == " " else "") or [""]
    return [f"{indent}/// {line}".rstrip() for line in lines]


if __name__ == "__main__":
    main()
