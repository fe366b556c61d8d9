# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The program that renders one chat template, in a process of its own; ``template_process`` starts it.

It needs the standard library and Jinja only, so that it starts quickly. Before it sees a template it gives up
what a template has no use for: memory, files, processes. Messages are a length in 8 bytes and that many bytes: a
request is ``marshal`` data, which keeps tuples and keys that are not text; an answer is a word, a newline and a text.
"""

from __future__ import annotations

import json
import marshal
import math
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any, BinaryIO, NoReturn

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

try:
    import resource
except ImportError:  # Windows has no such limits
    resource = None  # type: ignore[assignment]

__all__ = ["main", "make_environment"]

_MAX_MESSAGE = 1000

# Each operation that Jinja or Python import something for when it is first used: later no file can be opened.
_WARM_UP = r"""{% set text = "\u00e9\N{BULLET}"|wordwrap(1) %}{{ text|urlencode }}{{ text|pprint }}{{ text|urlize }}
{{ lipsum(1, false) }}{{ strftime_now("%c %Z") }}{{ [1, 2]|random }}{{ {1: [text]}|tojson(indent=1) }}
{{ "%s" % 1 }}{{ "{:,}".format(1) }}{{ 5.5|round }}{{ 1|filesizeformat }}{{ "<a>"|striptags }}{{ text.encode() }}"""


class _TooMuchTextError(Exception):
    """The output has more characters than the caller takes."""


def main() -> None:
    """Answers requests on standard input until it ends."""
    # What is left on these two belongs to the protocol.
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    environment = make_environment()
    _warm_up(environment)
    memory = int.from_bytes(source.read(8), "little")
    _give_up(memory)
    _write(sink, "ready", "")
    template: jinja2.Template | None = None
    while request := _read(source):
        code, variables, seconds, characters = _unpacked(request)
        del request
        _limit_seconds(seconds)
        kind, text = "", ""
        try:
            if template is None:
                kind = "invalid"
                template = environment.from_string(code)
            kind = "failed"
            text = _rendered(template, _unpacked(variables), characters)
            kind = "text"
        except jinja2.TemplateSyntaxError as error:
            kind, text = "syntax", f"{error.lineno}: {error.message}"
        except SecurityError as error:
            kind, text = "forbidden", str(error)
        except jinja2.TemplateError as error:
            kind, text = (kind, str(error)) if kind == "invalid" else ("refused", str(error))
        except MemoryError:
            kind, text = "stopped", "it needs more memory than it may have"
        except _TooMuchTextError:
            kind, text = "stopped", f"more than {characters} characters"
        except (
            TypeError,
            ValueError,
            LookupError,
            AttributeError,
            ArithmeticError,
            RuntimeError,
            SyntaxError,
            ImportError,
            OSError,
        ) as error:
            # What Python's own operations raise inside a template; anything else ends the process.
            text = f"{type(error).__name__}: {error}"
        del variables
        _write(sink, kind, text if kind == "text" else text[:_MAX_MESSAGE])


def make_environment() -> ImmutableSandboxedEnvironment:
    """Jinja as Transformers sets it up for chat templates."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols, _GenerationBlock]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    environment.globals["dict"] = _Dict()
    environment.globals["namespace"] = _Namespace
    return environment


def _rendered(template: jinja2.Template, variables: Mapping[str, Any], characters: int) -> str:
    pieces: list[str] = []
    for piece in template.generate(variables):
        characters -= len(piece)
        if characters < 0:
            raise _TooMuchTextError
        pieces.append(piece)
    return "".join(pieces)


def _read(source: BinaryIO) -> bytes:
    """The next request; empty at the end of the input."""
    size = source.read(8)
    return source.read(int.from_bytes(size, "little")) if len(size) == 8 else b""


def _unpacked(data: bytes) -> Any:
    return marshal.loads(data)  # noqa: S302 - from the program that started this one


def _write(sink: BinaryIO, kind: str, text: str) -> None:
    # Lone surrogates pass: a template may hold them, and the tokenizer decides about them.
    data = f"{kind}\n{text}".encode("utf-8", "surrogatepass")
    sink.write(len(data).to_bytes(8, "little"))
    sink.write(data)
    sink.flush()


def _warm_up(environment: jinja2.Environment) -> None:
    environment.from_string(_WARM_UP).render()
    with suppress(jinja2.UndefinedError):
        # Jinja loads what it shows errors with.
        environment.from_string("{{ [].nothing.nothing }}").render()


def _give_up(memory: int) -> None:
    """Limits of this process that it cannot raise again."""
    if resource is None:
        return
    size = 0
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            size = int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        pass  # not Linux
    _lower(resource.RLIMIT_AS, size + memory)
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_FSIZE, 0)
    _lower(resource.RLIMIT_NPROC, 0)
    # Standard input, output and error are open; nothing else can be, a socket neither.
    _lower(resource.RLIMIT_NOFILE, 3)


def _lower(which: int, value: int) -> None:
    _, hard = resource.getrlimit(which)
    limit = value if hard == resource.RLIM_INFINITY else min(value, hard)
    try:
        resource.setrlimit(which, (limit, limit))
    except (OSError, ValueError):
        # macOS refuses limits of memory; on Linux each of these must hold.
        if sys.platform == "linux":
            raise


def _limit_seconds(seconds: float) -> None:
    """So that the process ends by itself where the one that would end it is gone."""
    if resource is not None:
        _, hard = resource.getrlimit(resource.RLIMIT_CPU)
        used = math.ceil(time.process_time() + seconds) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (used if hard == resource.RLIM_INFINITY else min(used, hard), hard))


class _GenerationBlock(jinja2.ext.Extension):
    """``{% generation %}`` marks the assistant's words for training; here it is just its content."""

    tags = {"generation"}  # noqa: RUF012 - Jinja's own class attribute

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        # What is set inside is not seen outside.
        return jinja2.nodes.Scope(body, lineno=line)


class _Dict:
    """``dict`` in a template: what makes dictionaries, and not the type."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, keys: Any, value: Any = None, /) -> dict[Any, Any]:
        return dict.fromkeys(keys, value)


class _Namespace(Namespace):
    """``namespace`` in a template, for names without a leading underscore, as in Transformers."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        Namespace.__init__(*args, **kwargs)
        for name in dict(*args[1:], **kwargs):
            _check_name(name)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace cannot hold {name!r}")


def _raise_exception(message: object = "") -> NoReturn:
    raise jinja2.TemplateError(str(message)[:_MAX_MESSAGE])


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """As in Transformers; Jinja's own escapes HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
