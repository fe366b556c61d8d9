# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The tokenizer of a folder: ``tokenizer.json`` and the Hugging Face files around it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from operator import index
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

import tokenizers

from genai_iface.display import Displayed
from genai_iface.errors import InvalidInputError
from genai_iface.folder._added_tokens import configured_tokens, named_tokens, read_settings
from genai_iface.folder._files import MAX_TOKENIZER_BYTES, open_root, read_inside, read_json
from genai_iface.folder._tokenizer_limits import check_character_maps, check_growth
from genai_iface.folder.template.named import NamedTemplates
from genai_iface.protocols import Message

__all__ = ["FolderTokenizer"]

T = TypeVar("T")

_REASONING = ("reasoning_content", "thinking", "reasoning")
_REPAIR = "Take the tokenizer's files from the checkpoint that the model was exported from."


class FolderTokenizer(Displayed):
    """Implements ``genai_iface.Tokenizer`` over ``tokenizer.json``.

    What stands around a text is what tokenizer.json's post-processor puts there; tokens are added, and their flags
    changed, by the files beside it, as Transformers 5 does.

    Args:
        path: The model folder.
        num_ids: How many ids the model's logits have, which may be more than there are tokens; None for the
            ``vocab_size`` of config.json.

    Raises:
        InvalidInputError: A file is missing or broken, or leads out of the folder.
    """

    def __init__(self, path: str | PathLike[str], /, *, num_ids: int | None = None) -> None:
        self._root = open_root(path)
        content = read_inside(self._root, "tokenizer.json", limit=MAX_TOKENIZER_BYTES)
        if content is None:
            raise InvalidInputError(
                f"There is no tokenizer.json in {str(self._root)!r}",
                remedy="Copy it from the checkpoint, or give and take token ids instead of text.",
            )
        data = content
        check_character_maps(data)
        self._tokenizer: tokenizers.Tokenizer = _rust(
            lambda: tokenizers.Tokenizer.from_buffer(data),
            what=f"{str(self._root / 'tokenizer.json')!r} is not a tokenizer",
            remedy=_REPAIR,
        )
        check_growth(self._tokenizer)
        # What was saved for training batches would cut prompts short, or fill them up.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        settings = read_settings(self._root)
        added = configured_tokens(self._root, settings, self._tokenizer)
        _rust(
            lambda: self._tokenizer.add_tokens(added),
            what=f"The tokenizer refuses the added tokens of {str(self._root)!r}",
            remedy=_REPAIR,
        )
        self._tokenizer.encode_special_tokens = settings.get("split_special_tokens") is True
        self._named = named_tokens(settings)
        self._templates = NamedTemplates(self._root, settings)
        template = settings.get("response_template")
        self._response_template = template if isinstance(template, dict) else None
        self._num_ids = max(self.vocab_size, _configured_ids(self._root) if num_ids is None else num_ids)

    def display_facts(self) -> Mapping[str, object]:
        """What a console and a notebook show."""
        return {"folder": self._root.name, "vocabulary": self.vocab_size, "end token": self.eos_token_id}

    @property
    def vocab_size(self) -> int:
        """One more than the highest id, added tokens included; there may be ids without a token."""
        return self.max_token_id + 1

    @cached_property
    def max_token_id(self) -> int:
        """The highest id."""
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)

    @cached_property
    def bos_token_id(self) -> int | None:
        """The id that begins a sequence, if there is one."""
        return self._id_of("bos_token")

    @cached_property
    def eos_token_id(self) -> int | None:
        """The id that ends a sequence, if there is one."""
        return self._id_of("eos_token")

    @property
    def has_chat_template(self) -> bool:
        """Whether the folder has a chat template."""
        return bool(self._templates.names)

    @property
    def chat_templates(self) -> tuple[str, ...]:
        """The names of the folder's chat templates, such as "default" and "tool_use"."""
        return self._templates.names

    def chat_template_text(self, name: str = "default", /) -> str:
        """The text of one of the folder's chat templates, empty if there is none of that name."""
        return self._templates.text_of(name)

    @property
    def response_template(self) -> dict[str, Any] | None:
        """How the model writes reasoning and calls, as Transformers 5 reads it; None where the folder is silent."""
        return self._response_template

    def encode(self, text: str, /, *, add_special_tokens: bool = True) -> list[int]:
        """Turns a text into token ids.

        Args:
            text: Any text without lone surrogates.
            add_special_tokens: Let the tokenizer add what its model expects, such as the first token.

        Raises:
            InvalidInputError: The text is not a str or cannot be encoded.
        """
        if not isinstance(text, str):
            raise InvalidInputError(
                f"encode() got a {type(text).__name__}, expected str", remedy="Pass one text; decode bytes first."
            )
        ids: list[int] = _rust(
            lambda: self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids,
            what=f"The tokenizer cannot encode {text[:40]!r}",
            remedy=f"Pass text without lone surrogates. {_REPAIR}",
        )
        return ids

    def decode(self, token_ids: Sequence[int], /, *, skip_special_tokens: bool = True) -> str:
        """Turns token ids into text; bytes that form no character become U+FFFD.

        Args:
            token_ids: Integers from 0; what the model's logits have and the tokenizer has not adds nothing.
            skip_special_tokens: Leave special tokens out of the text.

        Raises:
            InvalidInputError: An id is out of range or no integer.
        """
        try:
            ids = [index(token) for token in token_ids]
        except TypeError as error:
            raise InvalidInputError(
                f"decode() got something else than integers: {error}", remedy="Pass one flat sequence of ids."
            ) from error
        wrong = next((token for token in ids if not 0 <= token < self._num_ids), None)
        if wrong is not None:
            raise InvalidInputError(
                f"The token id {wrong} is out of range, legal are 0..{self._num_ids - 1}",
                remedy="Pass ids that this folder's model and tokenizer gave.",
            )
        return _rust(
            lambda: str(self._tokenizer.decode(ids, skip_special_tokens=skip_special_tokens)),
            what=f"The tokenizer cannot decode {ids[:8]}",
            remedy=_REPAIR,
        )

    def to_json(self) -> str:
        """The tokenizer as the text of a ``tokenizer.json``, with the tokens that other files of the folder add."""
        return str(self._tokenizer.to_str())

    def apply_chat_template(
        self,
        messages: Sequence[Message],
        /,
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        chat_template: str | None = None,
        **template_kwargs: Any,
    ) -> str:
        """Renders a conversation with a template of the folder, sandboxed and in a process of its own.

        Args:
            messages: Turns with "role" and "content".
            add_generation_prompt: End with the beginning of the assistant's turn.
            tools: Descriptions of functions that the model may call.
            chat_template: The name of one of the folder's templates, or a template itself. None: "tool_use" if tools
                are given and there is one of that name, else "default".
            template_kwargs: Further variables of the template, such as ``documents``.

        Raises:
            UnsupportedCapabilityError: The folder has no chat template, or no process can be started here.
            InvalidInputError: The template refused the messages, is broken, did something forbidden, or went over a
                limit of time, memory or length.
        """
        template = self._templates.choose(chat_template, has_tools=tools is not None)
        for part in (*messages, *(tools or ())):
            if not isinstance(part, Mapping):
                raise InvalidInputError(
                    f"A message or tool is a {type(part).__name__}",
                    remedy='Messages are mappings such as {"role": "user", "content": "..."}, tools are JSON schemas.',
                )
        if not messages:
            raise InvalidInputError("An empty conversation cannot be rendered", remedy="Pass at least one message.")
        special = {key: text for key in self._named if (text := self._text_of(key)) is not None}
        variables: dict[str, Any] = {"documents": None, **special, **template_kwargs}
        variables |= {"messages": list(map(_as_templates_read_it, messages)), "tools": tools}
        variables["add_generation_prompt"] = add_generation_prompt
        return template.render(variables)

    def close(self) -> None:
        """Ends the process that renders the chat template, if one runs; a later conversation starts it again."""
        self._templates.close()

    def _text_of(self, name: str) -> str | None:
        """A special token, written as a text or as an object with its content."""
        value = self._named.get(name)
        if isinstance(value, Mapping):
            value = value.get("content")
        if value is None or isinstance(value, str):
            return value
        raise InvalidInputError(
            f"{name} in tokenizer_config.json of {str(self._root)!r} is {str(value)[:40]}, expected a text",
            remedy=_REPAIR,
        )

    def _id_of(self, name: str) -> int | None:
        text = self._text_of(name)
        return None if text is None else self._tokenizer.token_to_id(text)


def _as_templates_read_it(message: Message) -> Message:
    """A message without fields that are None, and its reasoning under the usual names; as in Transformers."""
    given = {name: value for name, value in message.items() if value is not None}
    reasoning = next((given[name] for name in _REASONING if name in given), None)
    return given if reasoning is None else {"thinking": reasoning, **given, "reasoning_content": reasoning}


def _rust(action: Callable[[], T], *, what: str, remedy: str) -> T:
    """Calls into tokenizers, whose Rust code raises bare Exception, or panics, at what it does not like."""
    try:
        return action()
    except BaseException as error:
        # A panic arrives as pyo3_runtime.PanicException: outside Exception, and exported by no module.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise InvalidInputError(f"{what}: {str(error)[:300]}", remedy=remedy) from error


def _configured_ids(root: Path) -> int:
    """``vocab_size`` of config.json, 0 where it says none; whether it is legal is not the tokenizer's business."""
    config = read_json(root, "config.json") or {}
    text = config.get("text_config")
    sizes = [part.get("vocab_size") for part in (config, text) if isinstance(part, Mapping)]
    return max((size for size in sizes if isinstance(size, int)), default=0)
