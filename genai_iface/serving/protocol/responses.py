# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What /v1/responses takes: text and function tools, nothing that is kept from request to request."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from genai_iface.serving.protocol.chat import ChatMessage
from genai_iface.serving.protocol.errors import invalid
from genai_iface.serving.protocol.fields import Request, Strict, parsed_schema
from genai_iface.serving.protocol.tools import CalledFunction, Function, Name, ToolCallSent

__all__ = ["ResponseRequest"]


class _Part(Strict):
    type: Literal["input_text", "output_text", "text"]
    text: str
    annotations: list[Any] | None = None
    logprobs: list[Any] | None = None


class _Message(Strict):
    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[_Part]
    id: str | None = None
    status: str | None = None
    phase: str | None = None


class _FunctionCall(Strict):
    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str
    id: str | None = None
    status: str | None = None


class _FunctionOutput(Strict):
    type: Literal["function_call_output"]
    call_id: str
    output: str | list[_Part]
    id: str | None = None
    status: str | None = None


class _ReasoningText(Strict):
    type: Literal["reasoning_text", "summary_text"]
    text: str


class _Reasoning(Strict):
    type: Literal["reasoning"]
    id: str | None = None
    summary: list[_ReasoningText] = Field(default_factory=list)
    content: list[_ReasoningText] | None = None
    encrypted_content: None = None
    status: str | None = None


class _Tool(Function):
    type: Literal["function"]


class _Choice(Strict):
    type: Literal["function"]
    name: Name


class _Text(Strict):
    type: Literal["text"]


class _JsonObject(Strict):
    type: Literal["json_object"]


class _JsonSchema(Strict):
    type: Literal["json_schema"]
    name: Annotated[str, Field(min_length=1, max_length=64)]
    schema_: dict[str, Any] = Field(alias="schema")
    description: str | None = None
    strict: bool | None = None


class _TextSettings(Strict):
    format: Annotated[_Text | _JsonObject | _JsonSchema, Field(discriminator="type")] | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class _ReasoningSettings(Strict):
    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None


class ResponseRequest(Request):
    """A conversation to answer."""

    input: (
        str
        | Annotated[
            list[_Message | _FunctionCall | _FunctionOutput | _Reasoning], Field(min_length=1, max_length=16384)
        ]
    )
    instructions: str | None = None
    max_output_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    tools: Annotated[list[_Tool], Field(max_length=128)] | None = None
    tool_choice: Literal["auto", "none", "required"] | _Choice | None = None
    parallel_tool_calls: bool | None = None
    text: _TextSettings | None = None
    reasoning: _ReasoningSettings | None = None
    store: bool | None = None
    background: Literal[False] | None = None
    truncation: Literal["disabled"] | None = None
    include: list[Literal["reasoning.encrypted_content"]] | None = None

    def messages(self) -> list[dict[str, Any]]:
        """The conversation as chat templates read it."""
        head = [] if self.instructions is None else [ChatMessage(role="system", content=self.instructions)]
        given = self.input
        found = [ChatMessage(role="user", content=given)] if isinstance(given, str) else _joined(given)
        return [message.for_template() for message in (*head, *found)]

    @property
    def functions(self) -> list[Function]:
        """The tools."""
        return [
            Function(name=tool.name, description=tool.description, parameters=tool.parameters)
            for tool in self.tools or ()
        ]

    def overrides(self) -> dict[str, Any]:
        """Fields of ``GenerationConfig``.

        Raises:
            ApiError: There are two rules for the output.
        """
        given = self.base_overrides()
        if self.max_output_tokens is not None:
            given["max_new_tokens"] = self.max_output_tokens
        form = None if self.text is None else self.text.format
        if isinstance(form, _JsonObject | _JsonSchema):
            if given.keys() & {"json_schema", "regex", "lark_grammar"}:
                raise invalid("text.format", "There are two rules for the output. Give one of them.")
            is_any = isinstance(form, _JsonObject)
            given["json_schema"] = {"type": "object"} if is_any else parsed_schema(form.schema_, "text.format.schema")
        return given


def _joined(items: list[_Message | _FunctionCall | _FunctionOutput | _Reasoning]) -> list[ChatMessage]:
    """Messages from items; reasoning and calls that follow each other are one message of the assistant."""
    messages: list[ChatMessage] = []
    for item in items:
        if isinstance(item, _Message):
            messages.append(ChatMessage(role=item.role, content=_text(item.content)))
        elif isinstance(item, _FunctionOutput):
            messages.append(ChatMessage(role="tool", content=_text(item.output), tool_call_id=item.call_id))
        else:
            if not messages or messages[-1].role != "assistant":
                messages.append(ChatMessage(role="assistant"))
            last = messages[-1]
            if isinstance(item, _FunctionCall):
                function = CalledFunction(name=item.name, arguments=item.arguments)
                last.tool_calls = [
                    *(last.tool_calls or ()),
                    ToolCallSent(id=item.call_id, type="function", function=function),
                ]
            else:
                text = "".join(part.text for part in item.content or ())
                last.reasoning_content = (last.reasoning_content or "") + text
    return messages


def _text(content: str | list[_Part]) -> str:
    return content if isinstance(content, str) else "".join(part.text for part in content)
