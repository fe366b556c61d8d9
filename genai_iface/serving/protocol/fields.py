# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The parameters that requests share: OpenAI's, and further ones by the names that vLLM gives them."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator

from genai_iface.serving.protocol.errors import invalid

__all__ = ["Request", "Sampling", "StreamOptions", "Strict", "stop_list"]

_SEED_BITS = 64
TokenId: TypeAlias = Annotated[int, Field(ge=0, lt=2**31)]
Metadata: TypeAlias = dict[str, str]

# Characters that mean something in the syntax of Rust's regular expressions.
_SPECIAL = frozenset("\\.+*?()|[]{}^$#&-~")


class Strict(BaseModel):
    """A part of a request: no unknown fields, and no values that are guessed at."""

    model_config = ConfigDict(extra="forbid", strict=True)


class StreamOptions(Strict):
    """What a stream has besides the answer."""

    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None


class StructuredOutputs(Strict):
    """At most one rule for the whole output."""

    # "json" is what vLLM calls it; the name is taken on a model of pydantic.
    json_: str | dict[str, Any] | None = Field(None, alias="json")
    regex: str | None = None
    choice: Annotated[list[str], Field(min_length=1, max_length=1024)] | None = None
    grammar: str | None = None


class Request(Strict):
    """What every request may have. Fields without an effect here are taken and left alone."""

    model: str
    stream: bool | None = None
    user: str | None = None
    metadata: Metadata | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**64)] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    service_tier: Literal["auto", "default"] | None = None

    # Beyond OpenAI's.
    top_k: Annotated[int, Field(ge=-1, lt=2**31)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=1e6)] | None = None
    min_tokens: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    stop_token_ids: Annotated[list[TokenId], Field(max_length=1024)] | None = None
    ignore_eos: bool | None = None
    include_stop_str_in_output: bool | None = None
    skip_special_tokens: bool | None = None
    priority: Annotated[int, Field(ge=-(2**31), lt=2**31)] = 0
    structured_outputs: StructuredOutputs | None = None
    guided_json: str | dict[str, Any] | None = None
    guided_regex: str | None = None
    guided_choice: Annotated[list[str], Field(min_length=1, max_length=1024)] | None = None
    guided_grammar: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _refuse_surrogates(cls, data: Any) -> Any:
        """Lone surrogates are no text: neither a tokenizer nor an answer can hold them.

        Raises:
            ApiError: There is one.
        """
        try:
            for name, value in data.items() if isinstance(data, dict) else ():
                json.dumps([name, value], ensure_ascii=False).encode()
        except (ValueError, RecursionError, TypeError) as error:
            shown = name.encode("ascii", "replace").decode()
            fault = f"{shown} holds a lone surrogate, or is nested too deeply. Send text, and flatter values."
            raise invalid(shown, fault) from error
        return data

    def base_overrides(self) -> dict[str, Any]:
        """Fields of ``GenerationConfig``; what was not sent is left to the model's defaults.

        Raises:
            ApiError: Two rules for the output.
        """
        given: dict[str, Any] = {
            "temperature": self.temperature,
            "top_p": self.top_p,
            # OpenAI's seeds have a sign.
            "seed": None if self.seed is None else self.seed % 2**_SEED_BITS,
            "top_k": None if self.top_k is None else max(self.top_k, 0),
            "min_p": self.min_p,
            "repetition_penalty": self.repetition_penalty,
            "min_new_tokens": self.min_tokens,
            "stop_token_ids": self.stop_token_ids,
            "ignore_eos": self.ignore_eos,
            "include_stop_str_in_output": self.include_stop_str_in_output,
            **self._rule(),
        }
        return {name: value for name, value in given.items() if value is not None}

    def rule_names(self) -> dict[str, str]:
        """For the field of ``GenerationConfig`` that a rule becomes, the name that the request gave it."""
        return {"regex" if kind == "choice" else kind: param for param, kind, _ in self._rules()}

    def _rules(self) -> list[tuple[str, str, Any]]:
        """(Name in the request, kind, value) of each rule that was sent."""
        rules = self.structured_outputs or StructuredOutputs()
        return [
            (param, kind, value)
            for param, kind, value in (
                ("structured_outputs.json", "json_schema", rules.json_),
                ("structured_outputs.regex", "regex", rules.regex),
                ("structured_outputs.choice", "choice", rules.choice),
                ("structured_outputs.grammar", "lark_grammar", rules.grammar),
                ("guided_json", "json_schema", self.guided_json),
                ("guided_regex", "regex", self.guided_regex),
                ("guided_choice", "choice", self.guided_choice),
                ("guided_grammar", "lark_grammar", self.guided_grammar),
            )
            if value is not None
        ]

    def _rule(self) -> dict[str, Any]:
        found = self._rules()
        if len(found) > 1:
            raise invalid(found[1][0], f"{found[0][0]} and {found[1][0]} are both given. Give one of them.")
        for param, kind, value in found:
            if value == "" or (isinstance(value, list) and "" in value):
                raise invalid(param, f"{param} is empty. Give at least one character.")
            if kind == "json_schema":
                return {"json_schema": parsed_schema(value, param)}
            if kind == "choice" and isinstance(value, list):
                return {"regex": "|".join("".join(map(_escaped, text)) for text in value)}
            return {kind: value}
        return {}


class Sampling(Request):
    """What completions and chats have, and responses have not."""

    n: Annotated[int, Field(ge=1, le=128)] | None = None
    stop: str | Annotated[list[str], Field(max_length=64)] | None = None
    stream_options: StreamOptions | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None

    def overrides(self) -> dict[str, Any]:
        """As ``base_overrides``, with the further fields."""
        given = {
            **self.base_overrides(),
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
            "logit_bias": self._biases(),
            "stop_strings": stop_list(self.stop),
        }
        if self.stream_options is not None and not self.stream:
            raise invalid("stream_options", "stream_options goes with stream=true. Leave it out, or stream.")
        return {name: value for name, value in given.items() if value is not None}

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with the usage."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    def _biases(self) -> dict[int, float] | None:
        if self.logit_bias is None:
            return None
        wrong = next((key for key in self.logit_bias if not (key.isascii() and key.isdigit() and len(key) < 10)), None)
        if wrong is not None:
            raise invalid("logit_bias", f"logit_bias has the key {wrong[:40]!r}. Keys are token ids.")
        return {int(key): value for key, value in self.logit_bias.items()}


def stop_list(stop: str | list[str] | None) -> list[str] | None:
    """Stop strings as a list.

    Raises:
        ApiError: One is empty, or too long.
    """
    if stop is None:
        return None
    texts = [stop] if isinstance(stop, str) else stop
    if not all(0 < len(text) <= 4096 for text in texts):
        raise invalid("stop", "A stop string is empty or longer than 4096 characters. Give one with 1 to 4096.")
    return texts


def parsed_schema(value: str | dict[str, Any], param: str) -> dict[str, Any] | bool:
    """A JSON schema, given as an object or as text.

    Raises:
        ApiError: It is none, or cannot be written as JSON.
    """
    try:
        schema = json.loads(value) if isinstance(value, str) else value
        json.dumps(schema, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise invalid(param, f"{param} is not JSON: {error}. Give a JSON schema.") from error
    if not isinstance(schema, dict | bool):
        raise invalid(param, f"{param} is not a JSON schema. Give an object.")
    return schema


def _escaped(character: str) -> str:
    return f"\\{character}" if character in _SPECIAL else character
