# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""``GenerationConfig``: every parameter of generation, flat and spelled as in Hugging Face."""

from __future__ import annotations

import dataclasses
import json
import math
import operator
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from types import MappingProxyType
from typing import Any, Literal, TypedDict

from genai_iface._json_object import MAX_CONFIG_BYTES, parse_object
from genai_iface.errors import InvalidInputError, did_you_mean

__all__ = ["DEFAULT_MAX_NEW_TOKENS", "GenerationConfig", "GenerationOverrides"]

DEFAULT_MAX_NEW_TOKENS = 256
"""Most new tokens of a call to a pipeline, or of a command, that names no length and whose model names none."""

ALIASES: Mapping[str, str] = MappingProxyType(
    {
        "max_tokens": "max_new_tokens",
        "stop": "stop_strings",
        "rng_seed": "seed",
        "random_seed": "seed",
        "grammar": "lark_grammar",
    }
)
"""Other spellings of fields, which ``replace`` and ``from_dict`` understand."""

# A folder of a stranger gives these numbers too, and what they ask for is made before the cache is judged.
_LARGEST = 2**63 - 1
_MOST_ROWS = 4096
_MOST_BAD_TOKENS = 65_536
_LONGEST_STOP = 4096
_MOST: Mapping[str, int] = MappingProxyType(
    {
        "bad_words_ids": 16_384,
        "eos_token_id": 4096,
        "logit_bias": 1_048_576,
        "stop_strings": 1024,
        "stop_token_ids": 65_536,
    }
)
_MOST_SHOWN = 200

# A value other than the one here asks for sampling, unless do_sample says otherwise.
_SAMPLING = MappingProxyType(
    {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "typical_p": 1.0, "seed": None}
)


class GenerationOverrides(TypedDict, total=False):
    """The fields of ``GenerationConfig`` as keywords, for type checkers and editors; lists pass for tuples.

    A test holds the names against the dataclass and its aliases.
    """

    max_new_tokens: int | None
    max_tokens: int | None
    max_length: int | None
    min_new_tokens: int
    do_sample: bool | None
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    typical_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    no_repeat_ngram_size: int
    logit_bias: Mapping[int, float]
    bad_words_ids: Sequence[Sequence[int]]
    json_schema: str | Mapping[str, Any] | bool | None
    regex: str | None
    lark_grammar: str | None
    grammar: str | None
    stop_strings: str | Sequence[str]
    stop: str | Sequence[str]
    stop_token_ids: int | Sequence[int]
    include_stop_str_in_output: bool
    ignore_eos: bool
    eos_token_id: int | Sequence[int] | None
    num_beams: int
    num_beam_groups: int
    diversity_penalty: float
    length_penalty: float
    early_stopping: bool | Literal["never"]
    num_return_sequences: int
    logprobs: int | None
    echo: bool
    max_time: float | None
    seed: int | None
    rng_seed: int | None
    random_seed: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationConfig:
    """How to generate. Every field has a neutral default; unknown names are an error.

    Attributes:
        max_new_tokens: Most tokens to generate. Where neither this nor max_length is given, pipelines and the command
            line take ``DEFAULT_MAX_NEW_TOKENS``; a bare ``Generator`` goes on to the end of its cache.
        max_length: Most tokens of prompt and output together; with max_new_tokens, the tighter counts.
        min_new_tokens: No end-of-sequence token before so many generated ones.
        do_sample: Draw tokens (True) or take the likeliest (False). None: draw if temperature, top_k,
            top_p, min_p, typical_p or seed differs from its default.
        temperature: Divides the logits; above 0, or 0 for greedy decoding.
        top_k: Keep the k likeliest tokens; 0 keeps all.
        top_p: Keep the smallest set of likeliest tokens whose probabilities reach p, 0 < p <= 1.
        min_p: Drop tokens less likely than min_p times the likeliest, 0 <= min_p <= 1.
        typical_p: Keep the most typical tokens up to this mass, 0 < p <= 1.
        repetition_penalty: Divides positive and multiplies negative logits of tokens that occurred,
            the prompt included; above 0.
        presence_penalty: Subtracted once from the logit of every generated token, -2..2.
        frequency_penalty: Subtracted per occurrence from the logit of every generated token, -2..2.
        no_repeat_ngram_size: No n-gram of this size occurs twice; 0 is off.
        logit_bias: Added to single logits, by token id.
        bad_words_ids: Token sequences that must not be generated.
        json_schema: The output is JSON that this schema (a mapping, or its JSON) allows.
        regex: The whole output matches this regular expression, in the syntax of Rust's regex crate.
        lark_grammar: The output follows this grammar, in llguidance's variant of Lark. At most one of these three.
        stop_strings: Texts that end a sequence.
        stop_token_ids: Tokens that end a sequence, besides eos_token_id.
        include_stop_str_in_output: Leave the stop string in the text.
        ignore_eos: Go on after an end-of-sequence token.
        eos_token_id: The end-of-sequence token or tokens; None for the folder's, an empty list for none.
        num_beams: Beams of beam search; 1 is off.
        num_beam_groups: Groups of beams that are kept diverse.
        diversity_penalty: Subtracted where another group chose the same token; at least 0.
        length_penalty: Exponent of the length that beam scores are divided by.
        early_stopping: End beam search when num_beams candidates are done (True), when no better
            one is likely (False) or possible ("never").
        num_return_sequences: Sequences to return for each prompt.
        logprobs: Return log-probabilities of the token and this many alternatives; None for none.
        echo: Return the prompt as part of the output, with its log-probabilities if asked for.
        max_time: Most seconds of wall-clock time.
        seed: Seed of the random draws, 0 <= seed < 2**64; None for a new one each call.
    """

    max_new_tokens: int | None = None
    max_length: int | None = None
    min_new_tokens: int = 0
    do_sample: bool | None = None
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    no_repeat_ngram_size: int = 0
    logit_bias: Mapping[int, float] = dataclasses.field(default_factory=dict, hash=False)
    bad_words_ids: tuple[tuple[int, ...], ...] = ()
    json_schema: str | Mapping[str, Any] | bool | None = None
    regex: str | None = None
    lark_grammar: str | None = None
    stop_strings: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    eos_token_id: int | tuple[int, ...] | None = None
    num_beams: int = 1
    num_beam_groups: int = 1
    diversity_penalty: float = 0.0
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    num_return_sequences: int = 1
    logprobs: int | None = None
    echo: bool = False
    max_time: float | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        for name in _FIELDS:
            value = getattr(self, name)
            # Lists are judged by their length before they are gone through.
            if name in _MOST and isinstance(value, (Mapping, list, tuple)) and len(value) > _MOST[name]:
                raise InvalidInputError(
                    f"{name} has {len(value)} entries, at most {_MOST[name]} are legal", remedy="Give fewer."
                )
            try:
                object.__setattr__(self, name, _NORMALIZERS.get(name, _as_plain)(value))
            except (AttributeError, RecursionError, TypeError, ValueError) as error:
                raise _illegal(name, value) from error
        self.validate()

    def __reduce__(self) -> tuple[object, ...]:
        # A read-only mapping cannot be pickled as it is.
        values = {name: getattr(self, name) for name in _FIELDS}
        return _rebuild, ({**values, "logit_bias": dict(self.logit_bias)},)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], /) -> GenerationConfig:
        """Makes a configuration from names and values; aliases are understood.

        Raises:
            InvalidInputError: A name is unknown, given twice, or its value is not legal.
        """
        return cls().replace(**values)

    @classmethod
    def from_file(cls, path: str | PathLike[str], /) -> GenerationConfig:
        """Reads a Hugging Face ``generation_config.json``.

        Fields of other stacks (cache settings, assistant models, token ids of other tasks) have no
        meaning here and are passed over: the file is the model's, not the caller's. A field that is
        ours must be legal, but for what such files say in other ways: an ``eos_token_id`` below 0 is none, a ``top_p``
        of 0 leaves the likeliest token alone, and beside greedy decoding a ``typical_p`` of 0 and a ``top_k`` of -1
        are off.

        Raises:
            InvalidInputError: The file is missing, is not a JSON object, or a field is not legal.
        """
        name = fspath(path)
        try:
            with open(name, "rb") as file:
                values = parse_object(file.read(MAX_CONFIG_BYTES + 1))
        except (OSError, ValueError) as error:
            raise InvalidInputError(
                f"{name} cannot be read as JSON: {error}", remedy="Repair the file or remove it."
            ) from error
        # In these files null means "not set", and sampling fields stand beside "do_sample": false.
        known = {field for field in _FIELDS if values.get(field) is not None}
        given = {field: values[field] for field in sorted(known)}
        given.setdefault("do_sample", False)
        given = _as_stored(given)
        try:
            return cls.from_dict(given)
        except InvalidInputError as error:
            raise InvalidInputError(f"{name}: {error.what}", remedy=error.remedy) from error

    def replace(self, /, **overrides: Any) -> GenerationConfig:
        """A copy with other values; aliases are understood.

        Whoever asks for sampling does not want it ignored because the model's defaults are greedy: a
        temperature above 0, a seed, or a top_k, top_p, min_p or typical_p that is not neutral turns
        ``do_sample`` on, unless it is among the overrides itself.

        Raises:
            InvalidInputError: A name is unknown, given twice, or its value is not legal.
        """
        values: dict[str, Any] = {}
        for given, value in overrides.items():
            name = ALIASES.get(given, given)
            if name not in _FIELDS:
                near = did_you_mean(given, (*_FIELDS, *ALIASES))
                raise InvalidInputError(
                    f"{given!r} is not a generation parameter",
                    remedy=near or f"Legal names: {', '.join(sorted(_FIELDS))}.",
                )
            if name in values:
                raise InvalidInputError(f"{name!r} is given twice, once as {given!r}", remedy="Give it once.")
            values[name] = value
        changed = dataclasses.replace(self, **values)
        if "do_sample" in values or changed.samples or changed.temperature == 0:
            return changed
        asks = values.get("temperature") is not None or any(
            values.get(name, neutral) != neutral for name, neutral in _SAMPLING.items()
        )
        return dataclasses.replace(changed, do_sample=True) if asks else changed

    def to_dict(self) -> dict[str, Any]:
        """The fields that differ from their defaults, ready for JSON; ``from_dict`` reads them back."""
        values = {name: getattr(self, name) for name in _FIELDS if getattr(self, name) != getattr(_DEFAULT, name)}
        if "logit_bias" in values:
            values["logit_bias"] = dict(self.logit_bias)
        return values

    @property
    def samples(self) -> bool:
        """Whether tokens are drawn at random."""
        if self.temperature == 0:
            return False
        if self.do_sample is not None:
            return self.do_sample
        return any(getattr(self, name) != neutral for name, neutral in _SAMPLING.items())

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """``eos_token_id`` as a tuple."""
        if self.eos_token_id is None:
            return ()
        return self.eos_token_id if isinstance(self.eos_token_id, tuple) else (self.eos_token_id,)

    def validate(self) -> None:
        """Checks every field. Runs at construction too.

        Raises:
            InvalidInputError: Names the field, its value and the legal range.
        """
        for name, (legal, _) in _RANGES.items():
            value = getattr(self, name)
            if not legal(value):
                raise _illegal(name, value)
        if self.num_beams % self.num_beam_groups:
            raise InvalidInputError(
                f"num_beams={self.num_beams} is not a multiple of num_beam_groups={self.num_beam_groups}",
                remedy="Make every group equally large.",
            )
        constraints = [name for name in ("json_schema", "regex", "lark_grammar") if getattr(self, name) is not None]
        if len(constraints) > 1:
            raise InvalidInputError(f"{' and '.join(constraints)} are both given", remedy="Give one of them.")
        if self.num_beams > 1 and self.num_return_sequences > self.num_beams:
            raise InvalidInputError(
                f"num_return_sequences={self.num_return_sequences} is more than num_beams={self.num_beams}",
                remedy="Ask for at most num_beams sequences.",
            )


def legal_values(name: str, /) -> str:
    """What a field of ``GenerationConfig`` may be, in words."""
    return _RANGES[name][1]


def _rebuild(values: Mapping[str, Any]) -> GenerationConfig:
    return GenerationConfig(**values)


def stored_end_tokens(value: Any, /) -> Any:
    """``eos_token_id`` of a model's file; an id below 0 says that there is none.

    Args:
        value: As it stands there; what is no id is returned as it is, for somebody else to refuse.
    """
    ids = value if isinstance(value, list) else [value]
    if not any(isinstance(token, int) and token < 0 for token in ids):
        return value
    return tuple(token for token in ids if not (isinstance(token, int) and token < 0))


def _as_stored(given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a model's file in our terms."""
    values = dict(given)
    if "eos_token_id" in values:
        values["eos_token_id"] = stored_end_tokens(values["eos_token_id"])
    if values.get("top_p") == 0 and not isinstance(values["top_p"], bool):
        # The smallest set that reaches it is the likeliest token, as for any probability so small.
        values["top_p"] = sys.float_info.min
    if values["do_sample"] is False:
        values = {
            name: value for name, value in values.items() if (name, value) not in (("typical_p", 0), ("top_k", -1))
        }
    return values


def _illegal(name: str, value: object) -> InvalidInputError:
    return InvalidInputError(f"{name}={_shown(value)} is not legal", remedy=f"Legal: {_RANGES[name][1]}.")


def _shown(value: object) -> str:
    """A value as a message gives it: whatever it is, and not all of a long one."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):
        # Nested without end, or an integer of thousands of digits.
        text = f"a {type(value).__name__} that cannot be printed"
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."


def _integer(low: int, high: float = _LARGEST, *, none: bool = False) -> Callable[[Any], bool]:
    def legal(value: Any) -> bool:
        if value is None:
            return none
        return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high

    return legal


def _number(low: float, high: float = math.inf, *, open_low: bool = False, none: bool = False) -> Callable[[Any], bool]:
    def legal(value: Any) -> bool:
        if value is None:
            return none
        # Comparing is exact for integers of any size, and false for NaN.
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= sys.float_info.max:
            return False
        return (low < value if open_low else low <= value) and value <= high

    return legal


def _token_ids(value: Any) -> bool:
    # Whether the model has such a token is said where its vocabulary is known.
    return isinstance(value, tuple) and all(map(_integer(0, math.inf), value))


def _boolean(value: Any) -> bool:
    return isinstance(value, bool)


def _text(value: Any) -> bool:
    return value is None or (isinstance(value, str) and bool(value))


# Per field: what is legal, and how to say it.
_RANGES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "max_new_tokens": (_integer(0, none=True), "an integer of at least 0, or None"),
    "max_length": (_integer(1, none=True), "an integer of at least 1, or None"),
    "min_new_tokens": (_integer(0), "an integer of at least 0"),
    "do_sample": (lambda value: value is None or isinstance(value, bool), "True, False or None"),
    "temperature": (_number(0), "a number of at least 0"),
    "top_k": (_integer(0), "an integer of at least 0"),
    "top_p": (_number(0, 1, open_low=True), "a number above 0 and at most 1"),
    "min_p": (_number(0, 1), "a number from 0 to 1"),
    "typical_p": (_number(0, 1, open_low=True), "a number above 0 and at most 1"),
    "repetition_penalty": (_number(0, open_low=True), "a number above 0"),
    "presence_penalty": (_number(-2, 2), "a number from -2 to 2"),
    "frequency_penalty": (_number(-2, 2), "a number from -2 to 2"),
    "no_repeat_ngram_size": (_integer(0), "an integer of at least 0"),
    "logit_bias": (
        lambda value: all(map(_integer(0, math.inf), value)) and all(map(_number(-math.inf), value.values())),
        "a mapping from token ids to finite numbers",
    ),
    "bad_words_ids": (
        lambda value: sum(map(len, value)) <= _MOST_BAD_TOKENS and all(word and _token_ids(word) for word in value),
        f"lists of at least one token id each, with at most {_MOST_BAD_TOKENS} ids in all",
    ),
    "json_schema": (_text, "a JSON schema as a mapping or as JSON, or None"),
    "regex": (_text, "a text of at least one character, or None"),
    "lark_grammar": (_text, "a text of at least one character, or None"),
    "stop_strings": (
        lambda value: all(isinstance(text, str) and 0 < len(text) <= _LONGEST_STOP for text in value),
        f"a string or a list of strings, none of them empty or longer than {_LONGEST_STOP} characters",
    ),
    "stop_token_ids": (_token_ids, "a list of token ids"),
    "include_stop_str_in_output": (_boolean, "True or False"),
    "ignore_eos": (_boolean, "True or False"),
    "eos_token_id": (
        lambda value: _integer(0, math.inf, none=True)(value) or _token_ids(value),
        "a token id, a list of token ids, or None",
    ),
    "num_beams": (_integer(1, _MOST_ROWS), f"an integer from 1 to {_MOST_ROWS}"),
    "num_beam_groups": (_integer(1, _MOST_ROWS), f"an integer from 1 to {_MOST_ROWS}"),
    "diversity_penalty": (_number(0), "a number of at least 0"),
    "length_penalty": (_number(-math.inf), "a finite number"),
    "early_stopping": (lambda value: isinstance(value, bool) or value == "never", 'True, False or "never"'),
    "num_return_sequences": (_integer(1, _MOST_ROWS), f"an integer from 1 to {_MOST_ROWS}"),
    "logprobs": (_integer(0, none=True), "an integer of at least 0, or None"),
    "echo": (_boolean, "True or False"),
    "max_time": (_number(0, open_low=True, none=True), "a number of seconds above 0, or None"),
    "seed": (
        _integer(0, 2**64 - 1, none=True),
        "an integer from 0 to 2**64 - 1, or None",
    ),
}


def _as_plain(value: Any) -> Any:
    """A number of NumPy's as one of Python's."""
    return value.item() if hasattr(value, "item") else value


def _as_id(value: Any) -> int:
    """A token id that is the key of a JSON object, hence perhaps a string."""
    return int(value) if isinstance(value, str) else operator.index(value)


def _as_ids(value: Any) -> tuple[Any, ...]:
    return tuple(map(_as_plain, () if value is None else value))


def _as_json(value: Any) -> str | None:
    """A JSON schema as text, which can be compared, hashed and written to a file."""
    if value is None:
        return None
    schema = json.loads(value) if isinstance(value, str) else value
    if not isinstance(schema, (Mapping, bool)):
        raise TypeError("a schema is a JSON object")
    return json.dumps(dict(schema) if isinstance(schema, Mapping) else schema, ensure_ascii=False)


# JSON gives lists where the fields hold tuples, and string keys where they hold token ids.
_NORMALIZERS: Mapping[str, Callable[[Any], Any]] = {
    "stop_strings": lambda value: (value,) if isinstance(value, str) else tuple(() if value is None else value),
    "stop_token_ids": _as_ids,
    "bad_words_ids": lambda value: tuple(map(_as_ids, () if value is None else value)),
    "json_schema": _as_json,
    "eos_token_id": lambda value: _as_ids(value) if isinstance(value, (list, tuple)) else _as_plain(value),
    "logit_bias": lambda value: MappingProxyType(
        {_as_id(token): _as_plain(bias) for token, bias in ({} if value is None else value).items()}
    ),
}

_FIELDS = tuple(field.name for field in dataclasses.fields(GenerationConfig))
_DEFAULT = GenerationConfig()
