# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The folder's tokenizer beside AutoTokenizer, on the tokenizers and chat templates of real models."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest

from genai_iface import InvalidInputError
from genai_iface.folder import FolderTokenizer
from genai_iface.generation import Detokenizer
from tests.folder.template.test_template_families import ASK, CONVERSATIONS, OPTIONS, REFUSALS, SYSTEM, TOOLS
from tests.parity.real_tokenizers import HOSTILE, SMALL, TOKENIZERS, folder_of, texts_for

pytestmark = pytest.mark.parity

# tokenizer_class names a class that Transformers 5 builds anew, with another pre-tokenizer than tokenizer.json's:
# GPT-2's splits for GPT-4o, Metaspace (which puts nothing before a space) for a legacy Llama. The file counts here.
REBUILT = ("gpt4o", "llama2")
WITH_TEMPLATES = ("command_r_plus", "deepseek_v3", "gemini", "gemma3", "llama3_1", "mistral_nemo", "qwen2_5", "qwen3")

LONG_CHAT = [SYSTEM, *[{**ASK, "content": f"turn {turn} é\n"} if turn % 2 == 0 else
                       {"role": "assistant", "content": f"<think>\n{turn}\n</think>\n\nanswer {turn}"}
                       for turn in range(120)], ASK]  # fmt: skip
MORE_CONVERSATIONS = {"long": LONG_CHAT, "long without a system message": LONG_CHAT[1:]}
MORE_OPTIONS: dict[str, dict[str, Any]] = {
    "thinking": {"enable_thinking": True, "add_generation_prompt": True},
    "no thinking with tools": {"enable_thinking": False, "tools": TOOLS, "add_generation_prompt": True},
}


def named(names: tuple[str, ...]) -> Any:
    marks = {name: () if name in SMALL else (pytest.mark.slow,) for name in names}
    return pytest.mark.parametrize("name", [pytest.param(name, marks=marks[name]) for name in names])


def reference_of(name: str, folder: Path) -> Any:
    import transformers

    auto = transformers.AutoTokenizer.from_pretrained(folder)
    if name not in REBUILT:
        return auto
    plain = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    # Once the two agree the exception has to go.
    assert any(auto.encode(text) != plain.encode(text) for text in HOSTILE)
    return plain


def test_there_are_enough_of_them() -> None:
    assert len(TOKENIZERS) - len(REBUILT) >= 10
    assert len(HOSTILE) > 200


@named(TOKENIZERS)
def test_ids_and_texts(name: str) -> None:
    folder = folder_of(name)
    ours, theirs = FolderTokenizer(folder), reference_of(name, folder)
    texts = texts_for([str(token) for _, token in sorted(theirs.added_tokens_decoder.items())])
    for text in texts:
        for special in (True, False):
            ids = theirs.encode(text, add_special_tokens=special)
            assert ours.encode(text, add_special_tokens=special) == ids, text[:80]
        for skips in (True, False):
            expected = theirs.decode(ids, skip_special_tokens=skips)
            assert ours.decode(ids, skip_special_tokens=skips) == expected, text[:80]
        stream = Detokenizer(ours)
        streamed = "".join([stream.push(token)[0] for token in ids]) + stream.finish()
        assert streamed == ours.decode(ids), text[:80]
    assert (ours.bos_token_id, ours.eos_token_id) == (theirs.bos_token_id, theirs.eos_token_id)
    # Beyond the last token, as padded logits have it.
    padded = FolderTokenizer(folder, num_ids=ours.vocab_size + 64)
    assert padded.decode([ours.vocab_size + 3]) == theirs.decode([ours.vocab_size + 3]) == ""


@named(WITH_TEMPLATES)
def test_conversations(name: str) -> None:
    folder = folder_of(name)
    ours, theirs = FolderTokenizer(folder), reference_of(name, folder)
    rendered: set[str | None] = set()
    for conversation, messages in (CONVERSATIONS | MORE_CONVERSATIONS).items():
        for option, options in (OPTIONS | MORE_OPTIONS).items():
            given = {"add_generation_prompt": False, **options}
            expected = mine = None
            with contextlib.suppress(*REFUSALS):
                expected = theirs.apply_chat_template(messages, tokenize=False, **given)
            with contextlib.suppress(InvalidInputError):
                mine = ours.apply_chat_template(messages, **given)
            assert mine == expected, f"{conversation}, {option}"
            rendered.add(expected)
    ours.close()
    assert len(rendered - {None}) > 15


@named(("command_r_plus",))
def test_named_templates_as_files_and_in_the_configuration(name: str, tmp_path: Path) -> None:
    import transformers

    folder = folder_of(name)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    theirs.save_pretrained(tmp_path)
    assert (tmp_path / "additional_chat_templates" / "rag.jinja").is_file()
    assert "chat_template" not in json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    for place in (folder, tmp_path):
        ours = FolderTokenizer(place)
        assert sorted(ours.chat_templates) == ["default", "rag", "tool_use"]
        for options in OPTIONS.values():
            for chosen in (None, "default", "tool_use", "rag"):
                expected = mine = None
                with contextlib.suppress(*REFUSALS):
                    expected = theirs.apply_chat_template([ASK], tokenize=False, chat_template=chosen, **options)
                with contextlib.suppress(InvalidInputError):
                    mine = ours.apply_chat_template(
                        [ASK], chat_template=chosen, **{"add_generation_prompt": False, **options}
                    )
                assert mine == expected
        ours.close()
