# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The chat templates of a folder by name, and which one a conversation gets."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from genai_iface._json_object import MAX_CONFIG_BYTES
from genai_iface.errors import InvalidInputError, UnsupportedCapabilityError
from genai_iface.folder._files import list_inside, read_inside, read_json
from genai_iface.folder.template.chat_template import ChatTemplate

__all__ = ["NamedTemplates"]

_FILE, _MORE, _LEGACY = "chat_template.jinja", "additional_chat_templates", "chat_template.json"
_SUFFIX = ".jinja"
# Each literal template has a process of its own.
_MOST_LITERALS = 4


class NamedTemplates:
    """The templates of a folder. They are read when one is first asked for.

    Template files count before the field ``chat_template`` of tokenizer_config.json, and that before
    chat_template.json.

    Args:
        root: The folder.
        settings: tokenizer_config.json.
    """

    def __init__(self, root: Path, settings: Mapping[str, Any]) -> None:
        self._root = root
        self._settings = settings
        self._made: dict[str, ChatTemplate] = {}
        self._literals: dict[str, ChatTemplate] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """The names, "default" among them where there is one.

        Raises:
            InvalidInputError: A file is broken, or leads out of the folder.
        """
        return tuple(self._sources)

    def choose(self, wanted: str | None, *, has_tools: bool) -> ChatTemplate:
        """The template for a conversation.

        Args:
            wanted: A name, or the text of a template; None for "tool_use" where there are tools and such a template,
                else "default".
            has_tools: Whether the conversation comes with tools.

        Raises:
            UnsupportedCapabilityError: The folder has no template.
            InvalidInputError: There is none of that name, or the files are broken.
        """
        if wanted is not None and wanted not in self._sources:
            return self._literal(str(wanted))
        if not self._sources:
            raise UnsupportedCapabilityError(
                f"The folder {str(self._root)!r} has no chat template",
                remedy=f"Add {_FILE}, pass chat_template, or pass the prompt as plain text.",
            )
        name = wanted or ("tool_use" if has_tools and "tool_use" in self._sources else "default")
        if name not in self._sources:
            raise InvalidInputError(
                f"{str(self._root)!r} has the chat templates {self._listed()}, but none is named 'default'",
                remedy="Choose one with chat_template, or name one of them 'default'.",
            )
        if name not in self._made:
            self._made[name] = ChatTemplate(*self._sources[name])
        return self._made[name]

    def text_of(self, name: str, /) -> str:
        """The text of a template by its name, empty if there is none of that name.

        Raises:
            InvalidInputError: A file is broken, or leads out of the folder.
        """
        return self._sources[name][0] if name in self._sources else ""

    def close(self) -> None:
        """Ends the processes that render; a later conversation starts them again."""
        for template in (*self._made.values(), *self._literals.values()):
            template.close()

    def _literal(self, source: str) -> ChatTemplate:
        if "{" not in source:
            raise InvalidInputError(
                f"There is no chat template {source[:80]!r} in {str(self._root)!r}",
                remedy=f"It has {self._listed()}; a text with Jinja's braces is taken for a template itself.",
            )
        found = self._literals.pop(source, None) or ChatTemplate(source, "chat_template")
        self._literals[source] = found
        if len(self._literals) > _MOST_LITERALS:
            self._literals.pop(next(iter(self._literals))).close()
        return found

    def _listed(self) -> str:
        return ", ".join(sorted(self._sources)) or "none"

    @cached_property
    def _sources(self) -> Mapping[str, tuple[str, str]]:
        """By name the text, and where it comes from."""
        files = {"default": _FILE}
        for name in list_inside(self._root, _MORE, _SUFFIX):
            files[name.removesuffix(_SUFFIX)] = f"{_MORE}/{name}"
        contents = {
            name: (data, f"{self._root}/{file}")
            for name, file in files.items()
            if (data := read_inside(self._root, file, limit=MAX_CONFIG_BYTES)) is not None
        }
        if contents:
            return {name: (_decoded(data, where), where) for name, (data, where) in contents.items()}
        where = f"{self._root}/tokenizer_config.json"
        named = _from_field(self._settings.get("chat_template"), where)
        if not named:
            where = f"{self._root}/{_LEGACY}"
            named = _from_field((read_json(self._root, _LEGACY) or {}).get("chat_template"), where)
        return {name: (source, where) for name, source in named.items()}


def _decoded(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{where!r} is not UTF-8: {error}", remedy="Save it as UTF-8.") from error


def _from_field(value: object, where: str) -> dict[str, str]:
    """``chat_template`` as text, as a list of objects with name and template, or as names to templates."""
    if value is None:
        return {}
    if isinstance(value, str):
        return {"default": value}
    entries = [{"name": name, "template": text} for name, text in value.items()] if isinstance(value, dict) else value
    named: dict[str, str] = {}
    for entry in entries if isinstance(entries, list) else [entries]:
        name = entry.get("name") if isinstance(entry, Mapping) else None
        source = entry.get("template") if isinstance(entry, Mapping) else None
        if not isinstance(name, str) or not isinstance(source, str):
            raise InvalidInputError(
                f"chat_template in {where!r} is neither a text nor a list of objects with name and template",
                remedy="Repair it, or put the template into chat_template.jinja.",
            )
        named[name] = source
    return named
