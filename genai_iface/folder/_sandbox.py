# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""A Jinja sandbox that bounds work, not only access.

Jinja's own sandbox hides Python's internals and forbids changing arguments, but a template may still
loop for hours or build terabytes. Here every loop step, call, filter, operator and literal goes through
a meter: steps, characters and time of one rendering are bounded, and what would be huge is refused
before it is made.
"""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

__all__ = ["BoundedEnvironment", "LimitError", "Meter", "metered"]

_MAX_SECONDS = 5.0
_MAX_STEPS = 300_000
_MAX_TEXT = 2**26
_MAX_ITEMS = 100_000
_MAX_NUMBER = 10_000
_MAX_BITS = 2**12


class LimitError(SecurityError):
    """The template went over a limit."""


class Meter:
    """Counts the work of one rendering.

    Attributes:
        steps: Loop steps, calls and operations so far.
        characters: Characters made so far, intermediate texts included.
    """

    def __init__(self) -> None:
        self.steps = 0
        self.characters = 0
        self._end = time.monotonic() + _MAX_SECONDS

    def step(self, count: int = 1) -> bool:
        """Counts steps. Always True, so that it can stand in a condition."""
        self.steps += count
        if self.steps > _MAX_STEPS:
            raise LimitError(f"more than {_MAX_STEPS} steps")
        if time.monotonic() > self._end:
            raise LimitError(f"more than {_MAX_SECONDS:g} seconds")
        return True

    def text(self, length: int) -> None:
        """Counts characters, before or after they are made."""
        self.characters += length
        if self.characters > _MAX_TEXT:
            raise LimitError(f"more than {_MAX_TEXT} characters")

    def result(self, value: Any) -> Any:
        """Counts what an operation gave, and passes it on."""
        self.step()
        if isinstance(value, (str, bytes)):
            self.text(len(value))
        elif isinstance(value, (list, tuple, dict)):
            self._items(value)
        return value

    def _items(self, value: Any) -> None:
        """Refuses containers that hold too much, also where they hold the same container many times."""
        pending, count = [value], 0
        while pending:
            current = pending.pop()
            if isinstance(current, (list, tuple)):
                pending.extend(current)
            elif isinstance(current, dict):
                pending.extend(current.values())
            count += 1
            if len(pending) + count > _MAX_ITEMS:
                raise LimitError(f"a list or mapping of more than {_MAX_ITEMS} items")
        self.steps += count // 16


_METER: ContextVar[Meter] = ContextVar("genai_iface_template_meter")


@contextmanager
def metered() -> Iterator[Meter]:
    """A meter for the compilation or rendering inside."""
    meter = Meter()
    token = _METER.set(meter)
    try:
        yield meter
    finally:
        _METER.reset(token)


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """The sandbox; use it inside ``metered()`` only."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.finalize = _count_output
        del self.globals["lipsum"]
        self.globals["dict"] = _Dict()
        self.globals["namespace"] = _Namespace
        for name in ("urlize", "random", "xmlattr"):
            del self.filters[name]
        for name, function in list(self.filters.items()):
            self.add_filter(name, function)

    def add_filter(self, name: str, function: Callable[..., Any]) -> None:
        """Registers a filter, bounded."""
        before = _FILTER_CHECKS.get(name)

        @functools.wraps(function)
        def bounded(*args: Any, **kwargs: Any) -> Any:
            if before is not None:
                # Filters that want the environment or the context get it as their first argument.
                before(args[1:] if hasattr(function, "jinja_pass_arg") else args, kwargs)
            return _METER.get().result(function(*args, **kwargs))

        self.filters[name] = bounded

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        _instrument(tree)
        return tree

    def call_binop(self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any) -> Any:
        """Operators that can make something large."""
        if operator == "*":
            _check_product(left, right)
        elif operator == "**":
            _check_power(left, right)
        elif operator == "%" and isinstance(left, (str, bytes)):
            _check_pattern(left)
        elif operator == "+":
            _METER.get().text(sum(len(side) for side in (left, right) if isinstance(side, (str, bytes))))
        return _METER.get().result(super().call_binop(context, operator, left, right))

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805 - Jinja's own spelling
        """Calls of functions, methods and macros."""
        owner = getattr(__obj, "__self__", None)
        if isinstance(owner, (str, bytes)):
            _check_method(owner, getattr(__obj, "__name__", ""), args)
        return _METER.get().result(super().call(__context, __obj, *args, **kwargs))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """``str.format``, which Jinja replaces by a safe one; widths are checked here."""
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None

        @functools.wraps(wrapped)
        def checked(*args: Any, **kwargs: Any) -> str:
            _check_pattern(value.__self__)
            return wrapped(*args, **kwargs)

        return checked

    # Called from instrumented templates.

    def bounded_tick(self, characters: int) -> bool:
        """One step of a loop or macro that holds so much literal text."""
        meter = _METER.get()
        meter.text(characters)
        return meter.step()

    def bounded_join(self, *parts: Any) -> str:
        """The operator ``~``."""
        for part in parts:
            _METER.get().result(part)
        return "".join(map(str, parts))

    def bounded_container(self, value: Any) -> Any:
        """A list, tuple or dictionary literal."""
        return _METER.get().result(value)


def _count_output(value: Any) -> Any:
    return _METER.get().result(value)


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


def _instrument(node: nodes.Node) -> None:
    """Puts the meter into loops, macros, joins and literals."""
    for name, value in node.iter_fields():
        if isinstance(value, list):
            setattr(node, name, [_replaced(item) if isinstance(item, nodes.Node) else item for item in value])
        elif isinstance(value, nodes.Node):
            setattr(node, name, _replaced(value))


def _replaced(node: nodes.Node) -> nodes.Node:
    _instrument(node)
    line = node.lineno
    if isinstance(node, (nodes.For, nodes.Macro, nodes.CallBlock)):
        literal = sum(len(data.data) for data in node.find_all(nodes.TemplateData))
        node.body.insert(0, nodes.ExprStmt(_call("bounded_tick", [nodes.Const(literal)], line), lineno=line))
        if isinstance(node, nodes.For) and node.test is not None:
            node.test = nodes.And(_call("bounded_tick", [nodes.Const(0)], line), node.test, lineno=line)
    elif isinstance(node, nodes.Concat):
        return _call("bounded_join", node.nodes, line)
    elif isinstance(node, (nodes.List, nodes.Dict)) or (isinstance(node, nodes.Tuple) and node.ctx == "load"):
        return _call("bounded_container", [node], line)
    return node


def _call(method: str, arguments: list[Any], line: int) -> nodes.Call:
    target = nodes.EnvironmentAttribute(method, lineno=line)
    return nodes.Call(target, arguments, [], None, None, lineno=line)


# What is refused before it is made.


def _check_product(left: Any, right: Any) -> None:
    for side, other in ((left, right), (right, left)):
        if isinstance(other, int) and isinstance(side, (str, bytes)):
            _METER.get().text(len(side) * max(other, 0))
        elif isinstance(other, int) and isinstance(side, (list, tuple)) and len(side) * max(other, 0) > _MAX_ITEMS:
            raise LimitError(f"a list of more than {_MAX_ITEMS} items")
    if isinstance(left, int) and isinstance(right, int) and left.bit_length() + right.bit_length() > _MAX_BITS:
        raise LimitError("a number of too many digits")


def _check_power(base: Any, exponent: Any) -> None:
    if isinstance(base, int) and isinstance(exponent, int) and base.bit_length() * abs(exponent) > _MAX_BITS:
        raise LimitError("a number of too many digits")


def _check_pattern(pattern: Any) -> None:
    """Widths in format strings: '%1000000000d', '%*d', '{:1000000000}', '{:{}}'."""
    text = pattern if isinstance(pattern, str) else pattern.decode("latin-1")
    if re.search(r"[0-9]{5}|%[^a-zA-Z%]*\*|\{[^{}]*\{", text):
        raise LimitError("a format with such a width")


def _check_numbers(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    for value in (*args[1:], *kwargs.values()):
        if isinstance(value, int) and abs(value) > _MAX_NUMBER:
            raise LimitError(f"an argument above {_MAX_NUMBER}")
        if isinstance(value, str) and len(value) > _MAX_NUMBER:
            raise LimitError(f"a filling text above {_MAX_NUMBER} characters")


def _check_indent(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    _check_numbers(args, kwargs)
    width = kwargs.get("width", args[1] if len(args) > 1 else 4)
    size = width if isinstance(width, int) else len(str(width))
    _METER.get().text((str(args[0]).count("\n") + 1) * max(size, 0))


def _check_replace(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    values = [*args, *(kwargs[name] for name in ("old", "new") if name in kwargs)]
    if len(values) > 2 and all(isinstance(value, str) for value in values[:3]):
        _METER.get().text((values[0].count(values[1])) * len(values[2]))


def _check_join(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    separator = kwargs.get("d", args[1] if len(args) > 1 else "")
    # A generator's length is unknown; range, messages and literals have at most so many items.
    count = len(args[0]) if hasattr(args[0], "__len__") else _MAX_ITEMS
    if len(str(separator)) > 64:
        _METER.get().text(count * len(str(separator)))


def _check_format(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    _check_pattern(str(args[0]))


_FILTER_CHECKS: Mapping[str, Callable[[tuple[Any, ...], Mapping[str, Any]], None]] = {
    **dict.fromkeys(("center", "batch", "slice", "tojson", "round", "wordwrap"), _check_numbers),
    "indent": _check_indent,
    "replace": _check_replace,
    "join": _check_join,
    "format": _check_format,
}


def _check_method(owner: Any, name: str, args: tuple[Any, ...]) -> None:
    if name in ("ljust", "rjust", "center", "zfill"):
        _METER.get().text(max((value for value in args if isinstance(value, int)), default=0))
    elif name == "expandtabs":
        _METER.get().text(len(owner) * max((value for value in args if isinstance(value, int)), default=8))
    elif name == "replace":
        _check_replace((owner, *args), {})
    elif name == "join" and args:
        _check_join((args[0], owner), {})
    elif name in ("translate", "maketrans"):
        raise LimitError(f"the method {name!r}, which templates do not need")
