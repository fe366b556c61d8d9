# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Render the ONNX operator schemas as documentation English, several phrasings for each operator."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Any

import onnx
import onnx.defs

from tools.train_embedded.text.cleaning import inline, lower_first, paragraphs, with_subject

#: Operators that the corpus always keeps: the interface is about them, and first questions too.
NEVER_HELD_OUT = frozenset({"TensorScatter", "Attention", "RMSNormalization", "RotaryEmbedding", "Softmax"})
HELD_OUT_ONE_IN = 10

_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
_DOMAINS = {
    "": "the default ONNX domain",
    "ai.onnx.ml": "the ai.onnx.ml domain, which holds classical machine learning",
    "ai.onnx.preview": "the ai.onnx.preview domain, whose operators may still change",
    "ai.onnx.preview.training": "the ai.onnx.preview.training domain",
}


def is_held_out(name: str) -> bool:
    """Tell whether an operator is kept out of training, by a rule that depends on its name alone."""
    if name in NEVER_HELD_OUT:
        return False
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") % HELD_OUT_ONE_IN == 0


def number(count: int, noun: str) -> str:
    """Return a count in words with its noun, as in "two inputs"."""
    word = _NUMBERS[count] if count < len(_NUMBERS) else str(count)
    return f"{word} {noun}" if count == 1 else f"{word} {noun}s"


def join(words: Sequence[str], last: str = "and") -> str:
    """Join words with commas and a last "and"."""
    if len(words) <= 1:
        return "".join(words)
    return ", ".join(words[:-1]) + f" {last} " + words[-1]


def _sentence(text: str) -> str:
    text = text.strip()
    if not text:
        return text
    text = text[0].upper() + text[1:]
    return text if text[-1] in ".!?:" else text + "."


def _types(names: Sequence[str]) -> str:
    plain = sorted({re.sub(r"^tensor\((.*)\)$", r"\1", name) for name in names})
    if any("(" in name for name in plain):
        return ""
    return join(plain)


def _default(attribute: Any) -> str:
    value = attribute.default_value
    if not value.name:
        return ""
    got = onnx.helper.get_attribute_value(value)
    if isinstance(got, bytes):
        got = got.decode()
        return f"`{got}`" if got else ""
    return f"{got:g}" if isinstance(got, float) else str(got) if isinstance(got, int) else ""


def _description(text: str) -> str:
    return _sentence(inline(re.sub(r"^\(Optional\)\s*", "", text.strip(), flags=re.IGNORECASE)))


class _Operator:
    """One operator schema, with the pieces that the renderings share."""

    def __init__(self, schema: Any) -> None:
        self.schema = schema
        self.name: str = schema.name
        self.body = paragraphs(schema.doc or "")
        self.attributes = [schema.attributes[key] for key in sorted(schema.attributes)]

    def opening(self, subject: str) -> list[str]:
        """Return the description with ``subject`` at its start."""
        if not self.body:
            return [f"{subject} is part of {_DOMAINS[self.schema.domain]}."]
        first = with_subject(subject, self.name, self.body[0])
        if first is None:
            first = f"{subject} is defined as follows. {self.body[0]}"
        return [_sentence(first), *self.body[1:]]

    def formals(self, values: Sequence[Any], kind: str, style: int) -> list[str]:
        """Return one paragraph for each input or output."""
        out = []
        for index, value in enumerate(values):
            order = _ORDINALS[index] if index < len(_ORDINALS) else "next"
            optional = "optional " if value.option == onnx.defs.OpSchema.FormalParameterOption.Optional else ""
            variadic = value.option == onnx.defs.OpSchema.FormalParameterOption.Variadic
            text = _description(value.description)
            if style == 0:
                which = "only" if len(values) == 1 else order
                lead = f"The {which} {kind}, `{value.name}`, is {'optional' if optional else 'required'}."
                if variadic:
                    lead = f"The {kind} `{value.name}` is variadic: it may be given any number of times."
                if kind == "output":
                    lead = f"The {order} output is called `{value.name}`."
                out.append(f"{lead} {text}".strip())
            elif style == 1:
                out.append(f"- `{value.name}` ({optional}{kind}): {text}".rstrip(": "))
            else:
                out.append(
                    f"The {optional}{kind} `{value.name}` of {self.name}: {lower_first(text)}"
                    if text
                    else f"The {optional}{kind} `{value.name}` of {self.name}."
                )
        return out

    def counts(self, subject: str) -> str:
        """Return one sentence on the inputs, the outputs and the attributes."""
        optional = [i.name for i in self.schema.inputs if i.option == onnx.defs.OpSchema.FormalParameterOption.Optional]
        required = [i.name for i in self.schema.inputs if i.name not in optional]
        parts = f"{subject} takes {number(len(required), 'required input')}"
        if required:
            parts += f", {join([f'`{name}`' for name in required])},"
        if optional:
            parts += f" and {number(len(optional), 'optional input')}, {join([f'`{name}`' for name in optional])},"
        outputs = [f"`{o.name}`" for o in self.schema.outputs]
        parts += f" and produces {number(len(outputs), 'output')}, {join(outputs)}."
        if self.attributes:
            names = [f"`{a.name}`" for a in self.attributes]
            parts += f" Its behavior is controlled by {number(len(names), 'attribute')}: {join(names)}."
        else:
            parts += " It has no attributes."
        return parts

    def attribute_lines(self, style: int) -> list[str]:
        """Return one paragraph for each attribute."""
        out = []
        for attribute in self.attributes:
            kind = str(attribute.type).rsplit(".", 1)[-1].lower()
            default = _default(attribute)
            text = _description(attribute.description)
            if style == 0:
                told = "default" in text.lower()
                tail = f" The default value is {default}." if default and not told else ""
                tail = " It must be given." if attribute.required else tail
                article = "an" if kind[0] in "aeio" else "a"
                what = f"{article} {kind} attribute" if not kind.endswith("s") else f"a list of {kind}"
                out.append(f"The attribute `{attribute.name}` is {what}. {text}{tail}")
            elif style == 1:
                out.append(f"- `{attribute.name}` ({kind}{', default ' + default if default else ''}): {text}")
            else:
                out.append(f"The `{attribute.name}` attribute of the {self.name} operator: {lower_first(text)}")
        return out

    def type_lines(self) -> list[str]:
        """Return one sentence for each type constraint."""
        out = []
        for constraint in self.schema.type_constraints:
            names = _types(constraint.allowed_type_strs)
            text = _description(constraint.description)
            if names:
                out.append(f"The type `{constraint.type_param_str}` may be {names.replace(' and ', ' or ')}. {text}")
            elif text:
                out.append(f"For the type `{constraint.type_param_str}`: {lower_first(text)}")
        return out

    def version(self) -> str:
        """Return one or two sentences on the domain, the version and the function body."""
        text = f"{self.name} belongs to {_DOMAINS[self.schema.domain]}. "
        text += (
            f"Its current definition has been available since version {self.schema.since_version} of the operator set."
        )
        if self.schema.has_function or self.schema.has_context_dependent_function:
            text += (
                " The operator is also defined as a function: a runtime that has no kernel for it can expand it into"
                " more primitive operators."
            )
        if self.schema.deprecated:
            text += " The operator is deprecated."
        return text


def domain(name: str) -> str:
    """Return the name of an operator domain in words."""
    return _DOMAINS[name]


def described(schema: Any) -> list[str]:
    """Return the clean paragraphs of an operator's description."""
    return _Operator(schema).body


def render(schema: Any) -> list[str]:
    """Return the documents of one operator: the same facts in several phrasings and orders."""
    op = _Operator(schema)
    name, inputs, outputs = op.name, schema.inputs, schema.outputs
    the = f"The {name} operator"
    documents = [
        # the reference page, in full sentences
        [*op.opening(the), *op.formals(inputs, "input", 0), *op.formals(outputs, "output", 0), *op.attribute_lines(0),
         *op.type_lines(), op.version()],
        # an overview: what it takes first, then what it does
        [op.counts(the), *op.opening("It"), op.version()],
        # the page as lists
        [f"{name} is an ONNX operator. " + op.version(), *op.opening(f"In ONNX, {name}")[:3], "Inputs:",
         *op.formals(inputs, "input", 1), "Outputs:", *op.formals(outputs, "output", 1),
         *(["Attributes:", *op.attribute_lines(1)] if op.attributes else [])],
        # the description alone, then the parameters in other words
        [*op.opening(the), op.counts("The operator"), *op.formals(inputs, "input", 2),
         *op.formals(outputs, "output", 2), *op.attribute_lines(2)],
        # questions and answers
        [f"What does the {name} operator do in an ONNX graph?", *op.opening(the)[:4],
         f"What are the inputs of {name}?", op.counts(name), *op.formals(inputs, "input", 0)[:4],
         "Since when has it been available?", op.version()],
    ]  # fmt: skip
    return ["\n\n".join(p for p in document if p) for document in documents]


def operators() -> list[Any]:
    """Return the latest schema of every operator, in a fixed order."""
    return sorted(onnx.defs.get_all_schemas(), key=lambda s: (s.domain, s.name))


def opset_documents(schemas: Sequence[Any]) -> list[str]:
    """Return short documents on which operator is in which version of the operator set."""
    groups: dict[tuple[str, int], list[str]] = {}
    for schema in schemas:
        groups.setdefault((schema.domain, schema.since_version), []).append(schema.name)
    out = []
    for (domain, version), names in sorted(groups.items()):
        many = len(names) > 1
        out.append(
            f"Version {version} of {_DOMAINS[domain].split(',')[0]} holds the current definition of {join(names)}."
            f" {'These operators have' if many else 'This operator has'} not changed since then."
        )
    return out
