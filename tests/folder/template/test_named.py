# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Several chat templates in one folder: where they lie, which one is chosen, and where they travel."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from genai_iface import InvalidInputError, TextGenerationPipeline, UnsupportedCapabilityError
from genai_iface.folder import FolderTokenizer
from genai_iface.transform._model_writer import copy_companions
from tests.model_files import write_tokenizer_files

ASK = [{"role": "user", "content": "hé"}]
TOOLS: list[dict[str, Any]] = [{"type": "function"}]
MORE = "additional_chat_templates"
AS_LIST = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools {{ tools|length }}"}]


def in_files(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("plain")
    (folder / MORE).mkdir()
    (folder / MORE / "tool_use.jinja").write_text("tools {{ tools|length }}")
    (folder / MORE / "rag.jinja").write_text("rag {{ documents|length }}")
    (folder / MORE / "notes.txt").write_text("not a template")


def in_config(folder: Path) -> None:
    rag = {"name": "rag", "template": "rag {{ documents|length }}"}
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": [*AS_LIST, rag]}))


def in_legacy_file(folder: Path) -> None:
    rag = {"rag": "rag {{ documents|length }}"}
    templates = {entry["name"]: entry["template"] for entry in AS_LIST} | rag
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": templates}))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_tokenizer_files(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    return tmp_path


@pytest.mark.parametrize("place", [in_files, in_config, in_legacy_file])
def test_one_is_chosen(place: Any, folder: Path) -> None:
    place(folder)
    tokenizer = FolderTokenizer(folder)
    assert tokenizer.has_chat_template
    assert sorted(tokenizer.chat_templates) == ["default", "rag", "tool_use"]
    assert tokenizer.apply_chat_template(ASK) == "plain"
    assert tokenizer.apply_chat_template(ASK, tools=TOOLS) == "tools 1"
    assert tokenizer.apply_chat_template(ASK, tools=TOOLS, chat_template="default") == "plain"
    assert tokenizer.apply_chat_template(ASK, documents=[1, 2], chat_template="rag") == "rag 2"
    literal = "{{ messages[0].content }}{{ chat_template is defined }}"
    assert tokenizer.apply_chat_template(ASK, chat_template=literal) == "héFalse"
    with pytest.raises(InvalidInputError, match="There is no chat template 'toll_use'") as caught:
        tokenizer.apply_chat_template(ASK, chat_template="toll_use")
    assert "default, rag, tool_use" in str(caught.value.remedy)
    tokenizer.close()


def test_files_count_first_and_the_legacy_file_last(folder: Path) -> None:
    in_legacy_file(folder)
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "of the configuration"}))
    assert FolderTokenizer(folder).apply_chat_template(ASK) == "of the configuration"
    in_files(folder)
    assert FolderTokenizer(folder).apply_chat_template(ASK) == "plain"


def test_a_folder_without_any_takes_one_that_is_given(folder: Path) -> None:
    tokenizer = FolderTokenizer(folder)
    assert (tokenizer.has_chat_template, tokenizer.chat_templates) == (False, ())
    with pytest.raises(UnsupportedCapabilityError, match="has no chat template"):
        tokenizer.apply_chat_template(ASK)
    assert tokenizer.apply_chat_template(ASK, chat_template="<{{ messages|length }}>") == "<1>"


def test_processes_of_given_templates_do_not_pile_up(folder: Path) -> None:
    tokenizer = FolderTokenizer(folder)
    for number in range(7):
        assert tokenizer.apply_chat_template(ASK, chat_template=f"{{{{ {number} }}}}") == str(number)
    assert len(tokenizer._templates._literals) == 4
    tokenizer.close()


@pytest.mark.parametrize(
    ("source", "message"),
    [("{{ ''.__class__.__mro__[1] }}", "forbidden"), ("{% if %}", "broken at line 1"), ("{" * 2**21, "has")],
)
def test_a_given_template_is_a_strangers_too(source: str, message: str, folder: Path) -> None:
    with pytest.raises(InvalidInputError, match=message):
        FolderTokenizer(folder).apply_chat_template(ASK, chat_template=source)


def test_broken_files(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    in_files(folder)
    (folder / MORE / "rag.jinja").write_bytes(b"\xff")
    with pytest.raises(InvalidInputError, match=r"rag\.jinja' is not UTF-8"):
        FolderTokenizer(folder).apply_chat_template(ASK)
    (folder / MORE / "rag.jinja").unlink()
    (folder / MORE / "rag.jinja").symlink_to("/etc/hostname")
    with pytest.raises(InvalidInputError, match="link"):
        FolderTokenizer(folder).apply_chat_template(ASK)
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (folder / MORE).rename(elsewhere / "moved")
    (folder / MORE).symlink_to(elsewhere / "moved")
    with pytest.raises(InvalidInputError, match="link that leaves"):
        FolderTokenizer(folder).apply_chat_template(ASK)


def test_more_files_than_any_model_has(folder: Path) -> None:
    in_files(folder)
    for number in range(300):
        (folder / MORE / f"{number}.jinja").write_text("x")
    with pytest.raises(InvalidInputError, match="at most 256"):
        FolderTokenizer(folder).apply_chat_template(ASK)


def test_they_travel_with_a_converted_model(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    in_files(folder)
    made = tmp_path_factory.mktemp("made")
    assert {"chat_template.jinja", f"{MORE}/tool_use.jinja", f"{MORE}/rag.jinja"} <= {*copy_companions(folder, made)}
    assert FolderTokenizer(made).apply_chat_template(ASK, tools=TOOLS) == "tools 1"


def test_a_pipeline_hands_the_choice_on() -> None:
    with TextGenerationPipeline() as pipe:
        template = "The operator {{ messages[0].content }}"
        plain = pipe.generate("The operator TensorScatter", max_new_tokens=4)
        messages = [{"role": "user", "content": "TensorScatter"}]
        result = pipe.generate(messages, chat_template=template, max_new_tokens=4)
        assert result.token_ids == plain.token_ids
        assert result.perf_metrics.num_prompt_tokens <= plain.perf_metrics.num_prompt_tokens
        streamed = [*pipe.stream(messages, chat_template=template, max_new_tokens=4)]
        assert [token for chunk in streamed for token in chunk.token_ids] == plain.token_ids[0]
        with pipe.chat(chat_template=template, max_new_tokens=4) as session:
            assert session.send("TensorScatter") == result.text
        with pytest.raises(InvalidInputError, match="There is no chat template 'tool_use'"):
            pipe.generate(messages, chat_template="tool_use")
        with pytest.raises(InvalidInputError, match="chat_template goes with a conversation"):
            pipe.generate("text", chat_template=template)
