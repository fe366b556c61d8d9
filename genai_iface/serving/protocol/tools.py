# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Tools, the choice among them, and the grammar that makes sure that one is called."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from genai_iface.serving.protocol.errors import invalid
from genai_iface.serving.protocol.fields import Strict, parsed_schema

__all__ = ["Function", "Tool", "ToolCallSent", "ToolChoice", "forced_schema", "schema_of_format", "tool_schemas"]

# White space without end would be legal JSON, and some models never stop writing it.
_LAYOUT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]


class Function(Strict):
    """A function that the model may call."""

    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Strict):
    """A tool; only functions are."""

    type: Literal["function"]
    function: Function


class _Named(Strict):
    name: Name


class ToolChoice(Strict):
    """One function that is to be called."""

    type: Literal["function"]
    function: _Named


class CalledFunction(Strict):
    """A call in a message of the assistant."""

    name: str
    arguments: str


class ToolCallSent(Strict):
    """A call in a message of the assistant."""

    id: str
    type: Literal["function"]
    function: CalledFunction


class _Schema(Strict):
    name: Annotated[str, Field(min_length=1, max_length=64)]
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    description: str | None = None
    strict: bool | None = None


class TextFormat(Strict):
    """Any text."""

    type: Literal["text"]


class JsonObjectFormat(Strict):
    """A JSON object."""

    type: Literal["json_object"]


class JsonSchemaFormat(Strict):
    """JSON that a schema allows."""

    type: Literal["json_schema"]
    json_schema: _Schema


ResponseFormat = Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")]


def schema_of_format(form: TextFormat | JsonObjectFormat | JsonSchemaFormat | None, param: str) -> Any:
    """The JSON schema of a ``response_format``, None for any text."""
    if isinstance(form, JsonObjectFormat):
        return {"type": "object"}
    if isinstance(form, JsonSchemaFormat):
        schema = form.json_schema.schema_
        return {"type": "object"} if schema is None else parsed_schema(schema, f"{param}.json_schema.schema")
    return None


def tool_schemas(functions: list[Function]) -> list[dict[str, Any]]:
    """The tools as chat templates read them.

    Raises:
        ApiError: Two have one name, or a schema is not JSON.
    """
    names = [function.name for function in functions]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise invalid("tools", f"Two tools have the name {twice!r}. Give each a name of its own.")
    shown = []
    for at, function in enumerate(functions):
        parameters = function.parameters or {"type": "object", "properties": {}}
        parsed_schema(parameters, f"tools.{at}.function.parameters")
        described = {"name": function.name, "description": function.description or "", "parameters": parameters}
        shown.append({"type": "function", "function": described})
    return shown


def forced_schema(
    choice: str, name: str | None, tools: list[dict[str, Any]], *, parallel: bool
) -> dict[str, Any] | None:
    """The schema of an output that calls a tool for certain, None where it may be anything.

    Args:
        choice: "auto", "none", "required" or "function".
        name: Of the function, if one is demanded.
        tools: What there is.
        parallel: Whether there may be several calls.

    Raises:
        ApiError: No such tool, or none at all.
    """
    if choice in ("auto", "none"):
        return None
    known = {tool["function"]["name"]: tool["function"]["parameters"] for tool in tools}
    if not known:
        raise invalid("tool_choice", "tool_choice demands a call, and there are no tools. Give tools.")
    if name is not None and name not in known:
        raise invalid("tool_choice", f"tool_choice names {name!r}, which is not among the tools {sorted(known)}.")
    wanted = {name: known[name]} if name is not None else known
    calls = [
        {
            "type": "object",
            "properties": {"name": {"const": called}, "arguments": parameters},
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for called, parameters in wanted.items()
    ]
    schema = {"type": "array", "items": {"anyOf": calls}, "minItems": 1, "x-guidance": _LAYOUT}
    return schema if parallel and name is None else {**schema, "maxItems": 1}
