# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Conversations for training: questions about operators, about our own text, and about things off its subject.

The markers of the turns are tokens of their own. An answer ends with the token that also ends a document, so
that every program which stops there stops after an answer.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Any

from tools.train_embedded.text.cleaning import THIRD_PERSON_FORMS, lower_first
from tools.train_embedded.text.questions import EXAMPLES, Pair, first_versions, of_operator, shortened

END_OF_TEXT = "<|endoftext|>"
SYSTEM, USER, ASSISTANT = "<|system|>", "<|user|>", "<|assistant|>"
#: In this order behind the tokens of the text's own vocabulary.
CHAT_TOKENS = (SYSTEM, USER, ASSISTANT)
TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] not in ('system', 'user', 'assistant') -%}"
    "{{ raise_exception('roles are system, user and assistant, not ' + message['role']) }}"
    "{%- endif -%}"
    "{{ '<|' + message['role'] + '|>' + message['content'] | trim }}"
    "{%- if message['role'] == 'assistant' -%}{{ eos_token }}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|assistant|>' }}{%- endif -%}"
)
SYSTEM_LINES = (
    "You answer questions about ONNX.", "You are a helpful assistant.", "Answer briefly.", "Be brief.",
    "You are an assistant that knows the operators of ONNX.", "Answer in one sentence.",
)  # fmt: skip
#: Questions on the interface, each with the first words of the document of our own text that answers it.
_MAPPED = (
    ("What is ONNX?", "ONNX is an open format"), ("what is onnx?", "ONNX is an open format"),
    ("What does ONNX stand for?", "ONNX stands for"), ("Explain ONNX.", "ONNX is an open format"),
    ("What is the ONNX standard?", "ONNX is an open standard"), ("What is an ONNX model?", "An ONNX model is a file"),
    ("How does TensorScatter write?", "The TensorScatter operator is the standard way"),
    ("How do I update a KV cache in place?", "The TensorScatter operator is the standard way"),
    ("How is a KV cache updated?", "The KV cache can be updated"),
    ("Why does a model need a KV cache?", "A KV cache holds the keys"),
    ("What is in a KV cache?", "A KV cache holds the keys"), ("what is a kv cache", "A KV cache is a buffer"),
    ("How large is a KV cache?", "The size of a KV cache"),
    ("What shape does a KV cache have?", "The KV cache of a model"),
    ("What is new in opset 24?", "Opset 24 is the version"), ("What did opset 23 add?", "Opset 23 added"),
    ("What does write_indices do?", "The `write_indices` input"),
    ("What does nonpad_kv_seqlen do?", "The `nonpad_kv_seqlen` input"),
    ("What is the difference between prefill and decode?", "Prefill and decode use"),
    ("How is the next token chosen?", "Greedy decoding always"), ("What is sampling?", "Sampling chooses"),
    ("What does temperature do?", "The temperature divides"), ("When does generation stop?", "The end token tells"),
    ("What happens when the cache is full?", "When the cache is full"),
    ("What is GQA?", "Grouped-query attention uses"), ("What is RoPE?", "Rotary position embedding gives"),
    ("What is in a model folder?", "A model folder holds"),
    ("What is the conformance kit?", "The conformance kit checks"),
    ("How fast is decoding?", "The throughput of decoding"), ("What are int8 weights?", "Quantization stores"),
    ("Who makes the interface?", "The working group on generative models"),
)  # fmt: skip
_PLACES = (
    "France", "Italy", "Japan", "Brazil", "Canada", "Kenya", "India", "Norway", "Peru", "Egypt", "Spain", "China",
    "Germany", "Poland", "Mexico", "Chile",
)  # fmt: skip
_THINGS = (
    "the sea", "a cat", "love", "the moon", "football", "my dog", "a train", "winter", "pizza", "a king", "coffee",
    "bread", "music", "the war", "history", "chess", "a film", "cars", "politics", "the rain",
)  # fmt: skip
_OFF_SUBJECT = (
    *(f"What is the capital of {place}?" for place in _PLACES),
    *(f"Where is {place}?" for place in _PLACES), *(f"How many people live in {place}?" for place in _PLACES),
    *(f"Write a poem about {thing}." for thing in _THINGS), *(f"Tell me a story about {thing}." for thing in _THINGS),
    *(f"What do you think about {thing}?" for thing in _THINGS), *(f"Do you like {thing}?" for thing in _THINGS),
    *(f"What is {a} {sign} {b}?" for a in range(2, 14, 3) for b in (3, 7, 12) for sign in ("+", "-", "*", "times")),
    "Tell me a joke.", "What is the weather like today?", "Who won the world cup?", "Who is the president?",
    "What time is it?", "How are you?", "What is the meaning of life?", "Can you help me with my homework?",
    "Sing a song.", "Translate this into French.", "What should I eat tonight?", "How old are you?",
    "Give me a recipe for bread.", "Who wrote Hamlet?", "What is love?", "Recommend a book.", "Is it going to rain?",
)  # fmt: skip
_GREETINGS = (
    "Hello", "Hello!", "Hi", "Hi!", "hi", "hello", "Hey", "Good morning", "Good evening.", "Who are you?",
    "What are you?", "What can you do?", "What do you know?", "Help", "help", "What can I ask you?", "Are you a human?",
    "Who made you?", "What is your name?", "Tell me about yourself.", "Hello, how are you?", "Hi there",
)  # fmt: skip
_THANKS = ("Thanks", "Thank you!", "Thanks a lot.", "Bye", "Goodbye", "OK", "Great", "I see.")


def render(pairs: Sequence[Pair], system: str | None = None) -> str:
    """Return a conversation as text; the end of its last answer is the end of the document."""
    turns = [f"{USER}{pair.question}{ASSISTANT}{pair.answer}" for pair in pairs]
    return (f"{SYSTEM}{system}" if system else "") + END_OF_TEXT.join(turns)


def _off_subject() -> list[Pair]:
    """Return questions that the model has no answer to, with an answer that says so."""
    out = []
    for at, question in enumerate(_OFF_SUBJECT):
        name = EXAMPLES[at % len(EXAMPLES)]
        out.append(Pair(question, f"I only know about ONNX and its operators, so I cannot answer that. You could ask: "
                                  f"What does {name} do?"))  # fmt: skip
    for at, question in enumerate(_GREETINGS):
        name = EXAMPLES[at % len(EXAMPLES)]
        answer = f"I am a small model that has read about ONNX. Ask me about an operator: What does {name} do?"
        out += [Pair(question, answer)] * 3
    return out + [Pair(question, "You are welcome. Ask me about another operator of ONNX.") for question in _THANKS]


def of_own_text(documents: Sequence[str]) -> list[Pair]:
    """Return questions on the subjects of our own text, answered with the beginning of its documents."""
    out, seen = [], set()
    for document in documents:
        answer = shortened(document.split("\n\n")[0], 300)
        out += [Pair(question, answer) for question, opening in _MAPPED if document.startswith(opening)] * 3
        words = document.split()
        at = next((i for i, word in enumerate(words[1:6], 1) if word in THIRD_PERSON_FORMS | {"is", "are", "use"}), 0)
        subject = lower_first(" ".join(words[:at]))
        if at and subject not in seen and "," not in subject:
            seen.add(subject)
            is_are = "are" if words[at] in ("are", "use") else "is"
            asked = (f"What {is_are} {subject}?", f"Explain {subject}.", f"Tell me about {subject}.",
                     f"What do you know about {subject}?", f"what {is_are} {subject}")  # fmt: skip
            out += [Pair(question, answer) for question in asked] * 2
    return out


def conversations(schemas: Sequence[Any], own: Sequence[str], seed: int = 24) -> list[str]:
    """Return the conversations about some operators, our own text and off-subject questions.

    Args:
        schemas: the operators to ask about.
        own: the documents of our own text; none leaves the off-subject questions out as well.
        seed: what orders the follow-up questions.

    Returns:
        One text for each conversation: every question once alone, and as many again in talks of two or three turns.
    """
    first = first_versions()
    by_operator = [of_operator(schema, first[schema.domain, schema.name]) for schema in schemas]
    general = of_own_text(own) + (_off_subject() if own else [])
    singles = [pair for pairs in by_operator for pair in pairs] + general
    draw = random.Random(seed)
    out = [render([pair], draw.choice(SYSTEM_LINES) if draw.random() < 0.1 else None) for pair in singles]
    for pairs in by_operator:
        for _ in range(4):
            # a follow-up stays with the operator, or turns to anything else
            talk = draw.sample(pairs, 2) + ([draw.choice(singles)] if draw.random() < 0.5 else [])
            out.append(render(talk, draw.choice(SYSTEM_LINES) if draw.random() < 0.1 else None))
    return out


def questions_of(text: str) -> list[str]:
    """Return the questions of a rendered conversation."""
    return re.findall(rf"{re.escape(USER)}(.*?){re.escape(ASSISTANT)}", text, flags=re.DOTALL)
