# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The tokenizer of a folder: ``tokenizer.json`` and the Hugging Face files around it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from operator import index
from os import PathLike
from typing import Any, TypeVar

import tokenizers

from genai_iface._json_object import MAX_CONFIG_BYTES
from genai_iface.errors import InvalidInputError, UnsupportedCapabilityError
from genai_iface.folder._files import MAX_TOKENIZER_BYTES, open_root, read_inside, read_json
from genai_iface.folder._template import ChatTemplate
from genai_iface.folder._tokenizer_limits import check_character_maps, check_growth
from genai_iface.protocols import Message

__all__ = ["FolderTokenizer"]

T = TypeVar("T")

_SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token")
_REASONING = ("reasoning_content", "thinking", "reasoning")
_REPAIR = "Take the tokenizer's files from the checkpoint that the model was exported from."


class FolderTokenizer:
    """Implements ``genai_iface.Tokenizer`` over ``tokenizer.json``.

    Args:
        path: The model folder.

    Raises:
        InvalidInputError: A file is missing or broken, or leads out of the folder.
    """

    def __init__(self, path: str | PathLike[str], /) -> None:
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
        self._config = dict(read_json(self._root, "tokenizer_config.json") or {})
        for name, value in (read_json(self._root, "special_tokens_map.json") or {}).items():
            self._config.setdefault(name, value)
        self._add_configured_tokens()

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
        """Whether ``apply_chat_template`` can work."""
        return bool(self._templates)

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
        bos = self.bos_token_id
        if add_special_tokens and self._config.get("add_bos_token") is True and bos is not None and ids[:1] != [bos]:
            ids = [bos, *ids]
        eos = self.eos_token_id
        if add_special_tokens and self._config.get("add_eos_token") is True and eos is not None and ids[-1:] != [eos]:
            ids = [*ids, eos]
        return ids

    def decode(self, token_ids: Sequence[int], /, *, skip_special_tokens: bool = True) -> str:
        """Turns token ids into text; bytes that form no character become U+FFFD.

        Args:
            token_ids: Integers in 0..max_token_id.
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
        wrong = next((token for token in ids if not 0 <= token <= self.max_token_id), None)
        if wrong is not None:
            raise InvalidInputError(
                f"The token id {wrong} is out of range, legal are 0..{self.max_token_id}",
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
        **template_kwargs: Any,
    ) -> str:
        """Renders a conversation with the folder's template, sandboxed and in a process of its own.

        Args:
            messages: Turns with "role" and "content".
            add_generation_prompt: End with the beginning of the assistant's turn.
            tools: Descriptions of functions that the model may call.
            template_kwargs: Further variables of the template, such as ``documents``.

        Raises:
            UnsupportedCapabilityError: The folder has no chat template, or no process can be started here.
            InvalidInputError: The template refused the messages, is broken, did something forbidden, or went over a
                limit of time, memory or length.
        """
        templates = self._templates
        if not templates:
            raise UnsupportedCapabilityError(
                f"The folder {str(self._root)!r} has no chat template",
                remedy="Add chat_template.jinja, or pass the prompt as plain text.",
            )
        for part in (*messages, *(tools or ())):
            if not isinstance(part, Mapping):
                raise InvalidInputError(
                    f"A message or tool is a {type(part).__name__}",
                    remedy='Messages are mappings such as {"role": "user", "content": "..."}, tools are JSON schemas.',
                )
        name = "tool_use" if tools is not None and "tool_use" in templates else "default"
        if name not in templates:
            raise InvalidInputError(
                f"tokenizer_config.json has the chat templates {', '.join(templates)}, but none is named 'default'",
                remedy="Name one of them 'default'.",
            )
        if not messages:
            raise InvalidInputError("An empty conversation cannot be rendered", remedy="Pass at least one message.")
        special = {key: text for key in self._special_names() if (text := self._text_of(key)) is not None}
        variables: dict[str, Any] = {"documents": None, **special, **template_kwargs}
        variables |= {"messages": list(map(_as_templates_read_it, messages)), "tools": tools}
        variables["add_generation_prompt"] = add_generation_prompt
        return templates[name].render(variables)

    def close(self) -> None:
        """Ends the process that renders the chat template, if one runs; a later conversation starts it again."""
        # Not by way of the property: what was never read has no process.
        for template in self.__dict__.get("_templates", {}).values():
            template.close()

    @cached_property
    def _templates(self) -> Mapping[str, ChatTemplate]:
        content = read_inside(self._root, "chat_template.jinja", limit=MAX_CONFIG_BYTES)
        where = f"{self._root}/chat_template.jinja"
        sources: dict[str, str] = {}
        if content is not None:
            more = read_inside(self._root, "additional_chat_templates/tool_use.jinja", limit=MAX_CONFIG_BYTES)
            for name, data in (("default", content), ("tool_use", more)):
                try:
                    sources |= {} if data is None else {name: data.decode("utf-8")}
                except UnicodeDecodeError as error:
                    raise InvalidInputError(f"{where!r} is not UTF-8: {error}", remedy="Save it as UTF-8.") from error
        else:
            where = f"{self._root}/tokenizer_config.json"
            sources = _named_templates(self._config.get("chat_template"), where)
        return {name: ChatTemplate(source, where) for name, source in sources.items()}

    def _special_names(self) -> list[str]:
        """The usual special tokens, and those that a model adds, such as image_token."""
        own = [name for name in self._config if name.endswith("_token") and isinstance(self._config[name], str)]
        return [*_SPECIAL, *own]

    def _text_of(self, name: str) -> str | None:
        """A special token, written as a text or as an object with its content."""
        value = self._config.get(name)
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

    def _add_configured_tokens(self) -> None:
        """Registers added_tokens_decoder's special tokens that tokenizer.json has but does not mark."""
        added = self._config.get("added_tokens_decoder")
        if added is None:
            return
        remedy = "Repair added_tokens_decoder in tokenizer_config.json: ids to objects with 'content'."
        if not isinstance(added, Mapping):
            raise InvalidInputError(f"added_tokens_decoder is a {type(added).__name__}", remedy=remedy)
        special = []
        for token_id, entry in added.items():
            content = entry.get("content") if isinstance(entry, Mapping) else None
            if not isinstance(content, str) or not content:
                raise InvalidInputError(f"added_tokens_decoder has {str(entry)[:40]} for {token_id!r}", remedy=remedy)
            # An id must not move: only tokens that exist already, under this very id.
            if entry.get("special") is True and str(self._tokenizer.token_to_id(content)) == str(token_id):
                special.append(tokenizers.AddedToken(content, special=True, normalized=False))
        _rust(
            lambda: self._tokenizer.add_special_tokens(special),
            what="The tokenizer refuses the tokens of added_tokens_decoder",
            remedy=remedy,
        )


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


def _named_templates(value: object, where: str) -> dict[str, str]:
    """``chat_template`` as text, or as a list of objects with name and template."""
    if value is None:
        return {}
    if isinstance(value, str):
        return {"default": value}
    named: dict[str, str] = {}
    for entry in value if isinstance(value, list) else [value]:
        name = entry.get("name") if isinstance(entry, Mapping) else None
        source = entry.get("template") if isinstance(entry, Mapping) else None
        if not isinstance(name, str) or not isinstance(source, str):
            raise InvalidInputError(
                f"chat_template in {where!r} is neither a text nor a list of objects with name and template",
                remedy="Repair it, or put the template into chat_template.jinja.",
            )
        named[name] = source
    return named
