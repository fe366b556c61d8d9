# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The questions that the embedded model learned from: made by rule, about the operator, none on what is held out."""

from __future__ import annotations

import re

from genai_iface.models import default_folder
from tools.train_embedded.answers import is_about
from tools.train_embedded.text import onnx_docs
from tools.train_embedded.text.conversations import ASSISTANT, END_OF_TEXT, conversations, of_own_text, questions_of
from tools.train_embedded.text.questions import first_versions, of_operator, purpose, sentences, shortened

SCHEMAS = {schema.name: schema for schema in onnx_docs.operators()}
KEPT = [schema for schema in SCHEMAS.values() if not onnx_docs.is_held_out(schema.name)]


def test_every_answer_names_its_operator() -> None:
    first = first_versions()
    for schema in SCHEMAS.values():
        for pair in of_operator(schema, first[schema.domain, schema.name]):
            assert re.search(rf"\b{re.escape(schema.name)}\b", pair.answer), pair
            # The longest lists the 21 attributes of a tree ensemble.
            assert len(pair.answer) < 500, pair


def test_what_is_held_out_is_not_asked() -> None:
    texts = conversations(KEPT, ["ONNX is an open format for models."])
    asked = {question for text in texts for question in questions_of(text)}
    held_out = [name for name in SCHEMAS if onnx_docs.is_held_out(name)]
    assert len(held_out) > 10
    assert not [name for name in held_out if f"What does {name} do?" in asked]
    assert "What does Softmax do?" in asked
    assert all(text.count(END_OF_TEXT) == text.count(ASSISTANT) - 1 for text in texts)


def test_an_answer_is_what_the_schema_says() -> None:
    assert purpose(SCHEMAS["Softmax"]) == (
        "The Softmax operator computes the normalized exponential values for the given input."
    )
    assert purpose(SCHEMAS["Conv"]).startswith("The Conv operator consumes an input tensor and a filter")
    versions = first_versions()
    assert versions["", "TensorScatter"] == 24
    assert any("version 24" in pair.answer for pair in of_operator(SCHEMAS["TensorScatter"], 24))
    # Two tensors, and the schema's own names for them.
    assert any(
        pair.answer == "MatMul takes two required inputs, `A` and `B`." for pair in of_operator(SCHEMAS["MatMul"], 1)
    )


def test_our_own_text_is_asked_about_by_its_subjects() -> None:
    pairs = of_own_text(["A KV cache is a buffer that stores keys and values. It is long."])
    assert {"What is a KV cache?", "what is a kv cache"} <= {pair.question for pair in pairs}
    assert all(pair.answer == "A KV cache is a buffer that stores keys and values. It is long." for pair in pairs)


def test_sentences() -> None:
    assert sentences("Some values, e.g. Infinity, are kept. Others go.") == [
        "Some values, e.g. Infinity, are kept.",
        "Others go.",
    ]
    assert shortened("One. Two. " + "Three " * 30, 20) == "One. Two."


def test_when_an_answer_is_about_an_operator() -> None:
    doc = "The operator computes the normalized exponential values for the given input."
    assert is_about("The Softmax operator computes normalized scores.", "Softmax", doc)
    assert not is_about("The operator computes normalized scores.", "Softmax", doc)
    assert not is_about("The LogSoftmax operator computes normalized scores.", "Softmax", doc)
    assert not is_about("Softmax operator input.", "Softmax", doc)


def test_the_reader_is_told_that_softmax_was_moved() -> None:
    assert not onnx_docs.is_held_out("Softmax")
    assert "Softmax was held out of the first part" in " ".join(
        (default_folder() / "PROVENANCE.md").read_text().split()
    )
