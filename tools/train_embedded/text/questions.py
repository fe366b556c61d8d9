# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Questions and answers about the operators of ONNX, made by rule from their schemas.

An answer is one to three sentences of the schema's own text, and it always names the operator.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import onnx.defs

from tools.train_embedded.text import onnx_docs
from tools.train_embedded.text.cleaning import ascii_text, inline, lower_first, with_subject

#: Names of operators in examples of what to ask; all of them are in the training text.
EXAMPLES = ("Softmax", "TensorScatter", "MatMul", "Gather", "Attention", "Conv", "Relu", "Reshape")
LONGEST = 260
_VERBS = (
    "takes", "consumes", "produces", "computes", "performs", "applies", "returns", "rearranges", "calculates",
    "concatenates", "splits", "casts", "retrieves", "accepts", "carries", "reinterprets", "outputs", "generates",
    "rescales", "converts", "determines", "maps", "finds", "gives", "measures", "uses", "can", "is",
)  # fmt: skip
_WHAT = (
    "What does {name} do?", "What does the {name} operator do?", "What is {name}?", "What is {name} for?",
    "Explain {name}.", "Explain the {name} operator.", "Tell me about {name}.", "What is the {name} operator?",
    "How does {name} work?", "Describe {name}.", "What is the purpose of {name}?", "{name}",
    "What does {name} do in ONNX?", "What does {name} compute?", "Can you explain what {name} does?",
    "what does {lower} do", "what is {lower}?", "explain {lower}", "What is the ONNX operator {name}?",
)  # fmt: skip
_INPUTS = (
    "Which inputs does {name} take?", "What are the inputs of {name}?", "How many inputs does {name} have?",
    "What inputs does the {name} operator need?", "Inputs of {name}?",
)  # fmt: skip
_OUTPUTS = ("What does {name} return?", "What are the outputs of {name}?", "Which outputs does {name} have?")
_ATTRIBUTES = (
    "What attributes does {name} have?", "Which attributes does {name} take?", "Attributes of {name}?",
    "What options does the {name} operator have?",
)  # fmt: skip
_VERSIONS = (
    "When was {name} added?", "Since when does ONNX have {name}?", "Which opset added {name}?",
    "In which version was {name} introduced?", "How old is {name}?",
)  # fmt: skip
_DOMAIN = ("Which domain is {name} in?", "Is {name} in the default domain?")
_FUNCTION = ("Is {name} a function?", "Can {name} be expanded into other operators?")


@dataclass(frozen=True)
class Pair:
    """One question and its answer."""

    question: str
    answer: str


def sentences(text: str) -> list[str]:
    """Split a paragraph into sentences; abbreviations do not end one."""
    marked = re.sub(r"\b(e\.g|i\.e|etc|cf|vs)\.", lambda m: m.group(0).replace(".", "\1"), text)
    parts = re.split(r"(?<=[.!?])\s+(?=[A-Z`'\"(])", marked)
    return [part.replace("\1", ".").strip() for part in parts if part.strip()]


def shortened(text: str, longest: int = LONGEST) -> str:
    """Return the first sentences that fit, at least one; a sentence that is too long ends at a comma."""
    out = ""
    for sentence in sentences(text):
        if out and len(out) + 1 + len(sentence) > longest:
            break
        out = f"{out} {sentence}".strip()
    if len(out) > 1.4 * longest:
        cut = out.rfind(", ", 60, longest)
        out = out[: cut if cut > 0 else out.rfind(" ", 0, longest)] + "."
    return out if out[-1:] in ".!?" else out.rstrip(":;, ") + "."


def purpose(schema: Any) -> str:
    """Return what an operator does, as sentences that begin with "The NAME operator"."""
    name, the = schema.name, f"The {schema.name} operator"
    body = [p for p in onnx_docs.described(schema) if not p.startswith("- ")]
    if not body:
        raw = inline(ascii_text(schema.doc or "").split("\n\n")[0])
        body = [raw] if len(raw) > 20 and raw.count("|") == 0 else []
    if not body:
        return f"{the} is part of {onnx_docs.domain(schema.domain)}."
    text = re.sub(r"\s*\((?:Tensor)?<[\w ]+>\)|\s*\(Tensor<\w+>\)", "", body[0])
    text = re.sub(r"^The (?:[\w-]+ ){0,4}operator\. It ", "It ", text)
    verbs = "|".join(_VERBS)
    # "Absolute takes one input", "The convolution operator consumes ...", "It computes": the subject is the operator
    match = re.match(
        rf"(?:It|This|{re.escape(name)}|The (?:[\w-]+ ){{0,4}}(?:operator|operation|function)|[A-Z][\w-]*(?: [a-z-]+)?)"
        rf"(?: operator| operation| function)? ((?:{verbs})\b.*)",
        text,
    )
    bare = re.match(rf"({'|'.join(v.capitalize() for v in _VERBS)})\b.*", text)
    subject = None if text.startswith(f"{name} operator ") else with_subject(the, name, text)
    named = re.match(rf"{re.escape(name)} operator (\w+s .*)", text)
    if subject is not None:
        out = subject
    elif named:
        out = f"{the} {named.group(1)}"
    elif match:
        out = f"{the} {match.group(1)}"
    elif bare:
        out = f"{the} {text[0].lower()}{text[1:]}"
    elif re.match(r"(?:A|The|This is) ", text):
        out = f"{the} is {lower_first(text.removeprefix('This is '))}"
    else:
        out = f"{the}, in the words of the standard: {lower_first(text)}"
    return shortened(out)


def _listed(values: Iterable[Any]) -> str:
    return onnx_docs.join([f"`{value.name}`" for value in values])


def inputs(schema: Any) -> str:
    """Return one sentence on the inputs of an operator."""
    optional = [i for i in schema.inputs if i.option == onnx.defs.OpSchema.FormalParameterOption.Optional]
    required = [i for i in schema.inputs if i.option != onnx.defs.OpSchema.FormalParameterOption.Optional]
    parts = [
        f"{onnx_docs.number(len(group), f'{kind} input')}, {_listed(group)}"
        for kind, group in (("required", required), ("optional", optional))
        if group
    ]
    return f"{schema.name} takes {' and '.join(parts)}." if parts else f"{schema.name} takes no inputs."


def outputs(schema: Any) -> str:
    """Return the outputs of an operator, with the description of the first one."""
    names = f"{schema.name} has {onnx_docs.number(len(schema.outputs), 'output')}, {_listed(schema.outputs)}."
    text = inline(schema.outputs[0].description or "") if schema.outputs else ""
    return f"{names} {shortened(text, 120)}" if 15 < len(text) < 160 and "\\" not in text else names


def attributes(schema: Any) -> str:
    """Return one sentence on the attributes of an operator."""
    found = [schema.attributes[key] for key in sorted(schema.attributes)]
    if not found:
        return f"{schema.name} has no attributes."
    return f"{schema.name} has {onnx_docs.number(len(found), 'attribute')}: {_listed(found)}."


def first_versions() -> dict[tuple[str, str], int]:
    """Return the version of the operator set in which each operator appeared."""
    first: dict[tuple[str, str], int] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        key = (schema.domain, schema.name)
        first[key] = min(first.get(key, schema.since_version), schema.since_version)
    return first


def age(schema: Any, first: int) -> str:
    """Return when an operator was added and when it last changed."""
    added = f"{schema.name} was added in version {first} of {onnx_docs.domain(schema.domain).split(',')[0]}."
    if first == schema.since_version:
        return f"{added} It has not changed since."
    return f"{added} Its current definition has been valid since version {schema.since_version}."


def _attribute_pairs(schema: Any) -> list[Pair]:
    out = []
    for key in sorted(schema.attributes)[:6]:
        text = shortened(inline(ascii_text(schema.attributes[key].description or "")), 180)
        if len(text) > 15 and "\\" not in text:
            answer = f"The `{key}` attribute of {schema.name}: {lower_first(text)}"
            out += [Pair(q, answer) for q in (f"What does the `{key}` attribute of {schema.name} do?",
                                              f"What is {key} in {schema.name}?")]  # fmt: skip
    return out


def _searches(schema: Any, what: str) -> list[Pair]:
    """Ask for an operator by what it does."""
    done = re.match(rf"The {re.escape(schema.name)} operator ((?!is |takes |can )[a-z]+s .+)", sentences(what)[0])
    if done is None:
        return []
    clause = re.split(r"[,.;:(]", done.group(1))[0].strip()
    if not 12 < len(clause) < 110:
        return []
    answer = f"Yes, {schema.name}. {what}"
    return [
        Pair(f"Is there an operator that {clause}?", answer),
        Pair(f"Does ONNX have an operator that {clause}?", answer),
        Pair(f"Which operator {clause}?", f"That is {schema.name}. {what}"),
    ]


def of_operator(schema: Any, first: int) -> list[Pair]:
    """Return the questions and answers on one operator."""
    what = purpose(schema)
    groups = ((_WHAT, what), (_INPUTS, inputs(schema)), (_OUTPUTS, outputs(schema)),
              (_ATTRIBUTES, attributes(schema)), (_VERSIONS, age(schema, first)),
              (_DOMAIN, f"{schema.name} belongs to {onnx_docs.domain(schema.domain)}."),
              (_FUNCTION, _function(schema)))  # fmt: skip
    pairs = [
        Pair(question.format(name=schema.name, lower=schema.name.lower()), answer)
        for questions, answer in groups
        for question in questions
    ]
    return pairs + _attribute_pairs(schema) + _searches(schema, what)


def _function(schema: Any) -> str:
    if schema.has_function or schema.has_context_dependent_function:
        return f"Yes. {schema.name} is also defined as a function, which a runtime can expand into other operators."
    return f"No. {schema.name} has no function body, so a runtime needs a kernel for it."
