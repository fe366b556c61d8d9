# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Chat templates: Jinja as Transformers runs it, in a sandbox that also bounds time and memory."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.utils
import numpy as np

from genai_iface.errors import InvalidInputError
from genai_iface.folder._sandbox import BoundedEnvironment, LimitError, metered

__all__ = ["ChatTemplate"]

_MAX_SOURCE = 2**20
_MAX_TIME_FORMAT = 256


class ChatTemplate:
    """One compiled template.

    Args:
        source: The text of the Jinja template.
        where: The file it comes from, for messages.

    Raises:
        InvalidInputError: It is not a valid template, or too large.
    """

    def __init__(self, source: str, where: str) -> None:
        self._where = where
        if len(source) > _MAX_SOURCE:
            raise InvalidInputError(
                f"The chat template in {where!r} has {len(source)} characters, at most {_MAX_SOURCE} are read",
                remedy="Use the template of the checkpoint.",
            )
        environment = _environment()
        try:
            with metered():
                self._template = environment.from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise InvalidInputError(
                f"The chat template in {where!r} is broken at line {error.lineno}: {error.message}",
                remedy="Repair the template.",
            ) from error
        except (
            jinja2.TemplateError,
            SyntaxError,
            ValueError,
            ArithmeticError,
            TypeError,
            RecursionError,
            MemoryError,
        ) as error:
            raise InvalidInputError(
                f"The chat template in {where!r} cannot be compiled: {error}", remedy="Repair the template."
            ) from error

    def render(self, variables: Mapping[str, Any]) -> str:
        """Renders the template.

        Args:
            variables: What the template sees. Mappings, sequences, dataclasses and numbers of NumPy become plain
                data; any other object becomes a text that names its type, so that nothing of it can be called.

        Raises:
            InvalidInputError: The template refused its input, failed, or went over a limit.
        """
        pieces: list[str] = []
        try:
            with metered() as meter:
                for piece in self._template.generate(_plain(variables)):
                    meter.step()
                    meter.text(len(piece))
                    pieces.append(piece)
        except LimitError as error:
            raise InvalidInputError(
                f"The chat template in {self._where!r} was stopped: {error.message}",
                remedy="Use a template from a source that you trust, or a shorter conversation.",
            ) from error
        except jinja2.exceptions.SecurityError as error:
            raise InvalidInputError(
                f"The chat template in {self._where!r} did something forbidden: {error.message}",
                remedy="Use a template from a source that you trust.",
            ) from error
        except jinja2.TemplateError as error:
            raise InvalidInputError(
                f"The chat template in {self._where!r} refused the messages: {error.message}",
                remedy="Change the messages as it asks.",
            ) from error
        except (
            TypeError,
            ValueError,
            LookupError,
            AttributeError,
            ArithmeticError,
            RuntimeError,
            MemoryError,
        ) as error:
            # What Python's own operations raise inside a template.
            raise InvalidInputError(
                f"The chat template in {self._where!r} failed: {type(error).__name__}: {str(error)[:200]}",
                remedy="Check the messages' roles and contents, or repair the template.",
            ) from error
        return "".join(pieces)


def _environment() -> BoundedEnvironment:
    environment = BoundedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols, _GenerationBlock]
    )
    environment.add_filter("tojson", _tojson)
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


def _plain(value: Any) -> Any:
    """Plain data in place of richer objects, which may have methods that a template must not call."""
    if isinstance(value, Mapping):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, tuple):
        return tuple(map(_plain, value))
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, np.generic):
        return _plain(value.item())
    # Of a subclass, such as an enumeration, the value itself.
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return f"<{type(value).__name__}>"


class _GenerationBlock(jinja2.ext.Extension):
    """``{% generation %}`` marks the assistant's words for training; here it is just its content."""

    tags = {"generation"}  # noqa: RUF012 - Jinja's own class attribute

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        # What is set inside is not seen outside.
        return jinja2.nodes.Scope(body, lineno=line)


def _raise_exception(message: object = "") -> NoReturn:
    raise jinja2.TemplateError(str(message)[:1000])


def _strftime_now(pattern: str) -> str:
    if len(pattern) > _MAX_TIME_FORMAT:
        raise LimitError("a time format is too long")
    return datetime.now().strftime(pattern)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """As in Transformers; Jinja's own escapes HTML."""
    # A template may pass anything here.
    texts: list[Any] = [indent, *(separators or ())]
    if any(isinstance(text, str) and len(text) > 8 for text in texts):
        raise LimitError("tojson with such an indent or separators")
    if isinstance(indent, int) and indent > 8:
        raise LimitError("tojson with such an indent")
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
