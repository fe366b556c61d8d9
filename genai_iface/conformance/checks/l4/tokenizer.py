# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Level 4: text to tokens and back, where the pipeline shows its tokenizer."""

from __future__ import annotations

import shutil
import tempfile
from functools import partial
from pathlib import Path

from genai_iface.conformance._context import Context
from genai_iface.conformance._failure import NotApplicable, equal, expect, raises
from genai_iface.conformance.registry import check
from genai_iface.errors import InvalidInputError
from genai_iface.protocols import Tokenizer

__all__: list[str] = []

_TEXTS = ("", "plain", " leading", "two\n\nlines\t", "é\u00a0\u4f60\u597d \U0001f642", "<|eos|>".replace("|", "!"))


def _tokenizer(context: Context) -> Tokenizer:
    tokenizer: Tokenizer | None = getattr(context.pipeline(), "tokenizer", None)
    if tokenizer is None:
        raise NotApplicable("the pipeline has no attribute tokenizer")
    return tokenizer


@check("L4.tokenizer.round_trip", spec=["Tokenizer.encode.1"])
def round_trip(context: Context) -> None:
    """Encoding is deterministic, gives legal ids, and decoding gives the text back."""
    tokenizer = _tokenizer(context)
    for text in _TEXTS:
        ids = tokenizer.encode(text)
        equal(ids, tokenizer.encode(text), f"the ids of {text!r}, a second time")
        expect(all(0 <= token < tokenizer.vocab_size for token in ids), "an id is out of range", ids=ids)
        equal(ids, list(text.encode()), f"the ids of {text!r}")
        equal(tokenizer.decode(ids), text, "the text decoded again")


@check("L4.tokenizer.incomplete_bytes", spec=["Tokenizer.decode.1"])
def incomplete_bytes(context: Context) -> None:
    """Bytes that form no complete character become U+FFFD, never an error."""
    tokenizer = _tokenizer(context)
    for data in (b"\xf0", b"a\xf0\x9f", b"\xff", b"\xc3(", b"\x80\x80"):
        text = tokenizer.decode(list(data))
        equal(text, data.decode(errors="replace"), f"the text of {data!r}")


@check("L4.tokenizer.special_tokens", spec=["Tokenizer.decode.2"])
def special_tokens(context: Context) -> None:
    """Special tokens have their ids, and their text is left out unless asked for."""
    tokenizer = _tokenizer(context)
    equal((tokenizer.bos_token_id, tokenizer.eos_token_id), (256, 257), "(bos_token_id, eos_token_id)")
    equal(tokenizer.decode([72, 257]), "H", "text without its special token")
    equal(tokenizer.decode([72, 257], skip_special_tokens=False), "H<|eos|>", "text with its special token")


@check("L4.tokenizer.illegal_id", spec=["Tokenizer.decode.3"])
def illegal_id(context: Context) -> None:
    """An id that does not exist is refused."""
    tokenizer = _tokenizer(context)
    for token in (-1, 10**6):
        raises(InvalidInputError, lambda wrong=token: tokenizer.decode([wrong]), f"the id {token}")  # type: ignore[misc]


@check("L4.tokenizer.chat_template", spec=["Tokenizer.apply_chat_template.2"])
def chat_template(context: Context) -> None:
    """The folder's template renders a conversation."""
    tokenizer = _tokenizer(context)
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]
    expected = "<|start|>user\nhi<|end|>\n<|start|>assistant\nyes<|end|>\n"
    equal(tokenizer.apply_chat_template(turns, add_generation_prompt=False), expected, "the conversation")
    equal(tokenizer.apply_chat_template(turns), expected + "<|start|>assistant\n", "the conversation to be answered")


_ESCAPES = (
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{% set f = messages.__class__ %}{{ f.__base__ }}",
    "{{ cycler.__init__.__globals__.os.getcwd() }}",
)


@check("L4.tokenizer.sandbox", spec=["Tokenizer.apply_chat_template.1"])
def sandbox(context: Context) -> None:
    """A template that reaches for Python's insides is stopped."""
    _tokenizer(context)
    with tempfile.TemporaryDirectory() as path:
        for index, template in enumerate(_ESCAPES):
            folder = Path(path) / str(index)
            shutil.copytree(context.golden("text").folder, folder)
            (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
            tokenizer: Tokenizer = context.pipeline(folder).tokenizer  # type: ignore[attr-defined]
            render = partial(tokenizer.apply_chat_template, [{"role": "user", "content": "hi"}])
            raises(InvalidInputError, render, f"the template {template}")
