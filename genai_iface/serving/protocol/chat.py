# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What /v1/chat/completions takes."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import Field

from genai_iface.serving.protocol.errors import invalid
from genai_iface.serving.protocol.fields import Sampling, Strict
from genai_iface.serving.protocol.tools import ResponseFormat, Tool, ToolCallSent, ToolChoice, schema_of_format

__all__ = ["ChatMessage", "ChatRequest", "TextPart"]

Role = Literal["system", "developer", "user", "assistant", "tool"]


class TextPart(Strict):
    """A part of a message."""

    type: Literal["text"]
    text: str


class ChatMessage(Strict):
    """One turn."""

    role: Role
    content: str | list[TextPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCallSent] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    refusal: str | None = None
    annotations: list[Any] | None = None

    def for_template(self) -> dict[str, Any]:
        """The message as chat templates read it: arguments of calls as objects, parts as one text."""
        content = self.content
        text = "".join(part.text for part in content) if isinstance(content, list) else content
        # Templates of open models know no "developer".
        message: dict[str, Any] = {"role": "system" if self.role == "developer" else self.role, "content": text or ""}
        for field in ("name", "tool_call_id", "reasoning_content"):
            if getattr(self, field) is not None:
                message[field] = getattr(self, field)
        if self.tool_calls:
            message["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.function.name, "arguments": _arguments(call.function.arguments)},
                }
                for call in self.tool_calls
            ]
        return message


class ChatRequest(Sampling):
    """A conversation to answer."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=16384)]
    max_completion_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    max_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    tools: Annotated[list[Tool], Field(max_length=128)] | None = None
    tool_choice: Literal["auto", "none", "required"] | ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    store: Literal[False] | None = None
    modalities: list[Literal["text"]] | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    def overrides(self) -> dict[str, Any]:
        """Fields of ``GenerationConfig``.

        Raises:
            ApiError: Fields contradict each other.
        """
        given = super().overrides()
        if self.max_completion_tokens is not None and self.max_tokens is not None:
            raise invalid("max_tokens", "max_tokens and max_completion_tokens are both given. Give the latter.")
        if self.top_logprobs is not None and not self.logprobs:
            raise invalid("top_logprobs", "top_logprobs goes with logprobs=true. Give both, or neither.")
        limit = self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens
        if limit is not None:
            given["max_new_tokens"] = limit
        if self.logprobs:
            given["logprobs"] = self.top_logprobs or 0
        schema = schema_of_format(self.response_format, "response_format")
        if schema is not None:
            if given.keys() & {"json_schema", "regex", "lark_grammar"}:
                raise invalid("response_format", "There are two rules for the output. Give one of them.")
            given["json_schema"] = schema
        return given

    def template_variables(self) -> dict[str, Any]:
        """Further variables of the chat template.

        Raises:
            ApiError: One would replace the conversation or choose a template.
        """
        variables = dict(self.chat_template_kwargs or {})
        wrong = variables.keys() & {"messages", "tools", "chat_template", "add_generation_prompt"}
        if wrong or not all(key.isidentifier() for key in variables):
            raise invalid(
                "chat_template_kwargs",
                "chat_template_kwargs are further variables of the template; messages, tools, chat_template and "
                "add_generation_prompt are none of them.",
            )
        if self.reasoning_effort is not None:
            variables.setdefault("reasoning_effort", self.reasoning_effort)
        return variables


def _arguments(text: str) -> Any:
    """The arguments as an object where they are one; templates write them as JSON themselves."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, dict) else text
