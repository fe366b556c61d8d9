# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The protocols: what a runtime implements and what generation code may rely on.

They are structural types (``typing.Protocol``): a class with the right methods is a model, a cache or
a tokenizer, so a runtime's package needs neither a base class nor an import of ours. A type checker finds
a member that is missing or has another signature; ``isinstance``, which works with the ``Supports*``
protocols, looks for the members' names only.

Each method states its **Contract** as numbered MUSTs. They are cited as "Class.method.number", for
example ``Model.forward.5``, by the specification pages and by the conformance checks. A published
protocol never gains a method; a new ability is a ``Supports*`` protocol and a capability name.

Shapes: B rows of a batch, S tokens of a step, V vocabulary, N sequences, C capacity, Hkv key/value
heads, D head size. Positions and lengths count tokens from zero.

Unless its own docstring says otherwise, each member has these labels:

Since: 1
Stability: preview
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from typing import Any, Protocol, Self, TypeAlias, Unpack, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from typing_extensions import TypeVar

from genai_iface.config import GenerationConfig, GenerationOverrides
from genai_iface.results import Chunk, FinishReason, GenerationResult
from genai_iface.types import BackendInfo, Device, LogitsMode, ModelSpec, UpdateMode

__all__ = [
    "Backend",
    "Generator",
    "KVCache",
    "Message",
    "Model",
    "Pipeline",
    "Prompt",
    "SupportsCheckpoint",
    "SupportsFork",
    "SupportsGenerator",
    "SupportsInspect",
    "SupportsSave",
    "Tokenizer",
]

Message: TypeAlias = Mapping[str, Any]
"""One turn of a conversation: at least "role" and "content", as chat templates expect them."""

Prompt: TypeAlias = str | Sequence[str] | Sequence[Message] | Sequence[int] | Sequence[Sequence[int]]
"""A text, several texts, one conversation, one list of token ids, or several of them."""


class KVCache(Protocol):
    """The keys and values of B rows, each with a length of its own.

    A cache belongs to the model that made it. It is not thread safe; two caches never share
    anything that a caller could notice.
    """

    @property
    def batch_size(self) -> int:
        """B, the number of rows.

        Contract:
            1. MUST equal ``len(lengths)``; only ``reorder`` changes it.
        """
        ...

    @property
    def capacity(self) -> int:
        """C, the most tokens that a row may ever hold.

        For a model with circular layers this bounds the sequence, not the window: such a layer
        keeps its last tokens only and ``lengths`` goes on counting.

        Contract:
            1. MUST NOT change while the cache lives, whatever the buffers behind it do.
        """
        ...

    @property
    def lengths(self) -> NDArray[np.int64]:
        """The number of tokens in each row.

        Returns:
            int64 (B,), 0 <= lengths[b] <= capacity.

        Contract:
            1. MUST be a snapshot: writing to it has no effect on the cache, and later steps have
               no effect on it.
        """
        ...

    @property
    def nbytes(self) -> int:
        """The size in bytes of the buffers that this cache holds now, slack included.

        Contract:
            1. MUST be at least ``bytes_per_token`` times the longest row of a linear cache.
            2. MUST be 0 after ``close``.
        """
        ...

    @property
    def bytes_per_token(self) -> int:
        """The size in bytes of one token of one row, over all layers.

        Contract:
            1. MUST be the sum over ``ModelSpec.cache.layers``: heads times both head sizes times the
               bytes of the dtype.
        """
        ...

    @property
    def update_mode(self) -> UpdateMode:
        """Whether steps change the buffers "in_place", or give new ones, "copied".

        Contract:
            1. MUST report what was observed, not what was intended: "in_place" only if the address
               of every buffer stayed the same over the last step and the new tokens are in it.
               Moving to a larger buffer between steps is growth, not a copy in this sense.
            2. Before the first step it MAY report the intended mode.
        """
        ...

    def can_rewind_to(self, lengths: ArrayLike, /) -> bool:
        """Whether ``rewind_to(lengths)`` would succeed.

        Args:
            lengths: int64 (B,) or a scalar for all rows.

        Raises:
            InvalidInputError: As ``rewind_to``.

        Contract:
            1. MUST agree with ``rewind_to`` and change nothing.
        """
        ...

    def rewind_to(self, lengths: ArrayLike, /) -> None:
        """Shortens rows: forgets their last tokens.

        Args:
            lengths: New lengths, int64 (B,) or a scalar for all rows; 0 <= new <= old.

        Raises:
            InvalidInputError: Wrong shape, negative, or longer than the row is.
            CacheRewindError: A circular layer of W positions has overwritten tokens that the shorter row needs.
                A row of length n needs its tokens max(0, n - W) .. n - 1, so a row of length 0 needs none. Or the
                model keeps states, and that of the shorter row is gone; the message lists the lengths that can be
                reached.

        Contract:
            1. After it, any continuation MUST give what it would have given had the forgotten
               tokens never been appended.
            2. On an error nothing MUST have changed.
            3. MUST be refused if any circular layer has overwritten what the shorter row needs, not only the first.
        """
        ...

    def reorder(self, indices: ArrayLike, /) -> None:
        """Makes row i what row ``indices[i]`` was: beam search, selection, duplication.

        Args:
            indices: int64 (B',), each in 0..B-1; duplicates are legal and B' may differ from B.

        Raises:
            InvalidInputError: Wrong shape, empty, or out of range.

        Contract:
            1. Afterwards ``batch_size`` MUST be B' and rows MUST be independent of each other,
               copies of one old row included.
            2. Contents MUST be moved bit by bit.
            3. On an error nothing MUST have changed.
        """
        ...

    def reset(self, rows: ArrayLike | None = None, /) -> None:
        """Empties rows, so that they can take new sequences.

        Args:
            rows: int64 (K,) row indices, or None for all.

        Raises:
            InvalidInputError: An index is out of range.

        Contract:
            1. A reset row MUST behave like a row of a new cache; the others MUST be unchanged.
            2. It MUST succeed on any open cache, a wrapped circular one included.
            3. On an error nothing MUST have changed.
        """
        ...

    def close(self) -> None:
        """Frees the buffers. A second call does nothing.

        Contract:
            1. A later ``forward`` with this cache MUST raise InvalidInputError.
            2. A second call MUST do nothing.
            3. Every method but ``close`` MUST raise InvalidInputError, those of ``Supports*`` protocols too.
            4. Properties MUST stay readable.
        """
        ...


CacheT = TypeVar("CacheT", bound=KVCache, default=KVCache)


class Model(Protocol[CacheT]):
    """A loaded model that takes one kind of step.

    That step serves prefill, chunked prefill, decode, ragged batches, verification of drafted
    tokens and slot-based continuous batching.
    """

    @property
    def spec(self) -> ModelSpec:
        """What the model is: its vocabulary, its context length and its layers.

        Contract:
            1. MUST say what the folder says: vocabulary, context length, and for each attention layer its
               heads, head sizes and dtype.
        """
        ...

    @property
    def device(self) -> Device:
        """The device that it runs on.

        Contract:
            1. MUST be the device that ``load`` was asked for, the first of ``devices()`` if it was asked for
               none.
        """
        ...

    @property
    def capabilities(self) -> frozenset[str]:
        """What this model can do on this backend.

        Contract:
            1. MUST be a subset of the backend's ``info().capabilities``.
            2. What is declared MUST work; what is not declared MUST raise
               UnsupportedCapabilityError or work, never give a wrong answer.
        """
        ...

    def create_cache(self, *, batch_size: int = 1, capacity: int | None = None) -> CacheT:
        """Makes an empty cache.

        Args:
            batch_size: B, at least 1.
            capacity: C, at least 1; None for the most that the model allows.

        Returns:
            A cache whose lengths are all 0.

        Raises:
            InvalidInputError: A value is below 1, or the capacity is beyond what the graph's fixed
                buffers or ``spec.context_length`` allow.
            UnsupportedCapabilityError: ``batch_size > 1`` without the capability "batch".
            BackendError: Out of memory.

        Contract:
            1. Caches MUST be independent of each other.
            2. ``capacity`` MUST NOT change the results of later steps.
            3. The new cache MUST be empty: every length is 0.
        """
        ...

    def forward(
        self,
        input_ids: ArrayLike,
        cache: CacheT,
        /,
        *,
        counts: ArrayLike | None = None,
        logits: LogitsMode = "last",
    ) -> NDArray[np.float32]:
        """Appends tokens to the rows of a cache and returns logits.

        Args:
            input_ids: int64 (B, S), rows padded on the right; S at least 1.
            cache: A cache that this model made, with B rows.
            counts: int64 (B,), how many of the S tokens of each row are real, 0 <= counts[b] <= S.
                None means S for every row.
            logits: "last" for the logits of each row's last real token, "all" for those of every position,
                "none" for none.

        Returns:
            float32 (B, 1, V) for "last", (B, S, V) for "all", (B, 0, V) for "none". Rows whose count
            is 0 and positions from counts[b] on hold unspecified values.

        Raises:
            InvalidInputError: Wrong shape or type, a count or a real token id out of range, a closed
                cache or one of another model.
            CacheOverflowError: ``lengths[b] + counts[b] > capacity`` for some row.
            UnsupportedCapabilityError: The step needs a capability that the model does not declare.
            BackendError: The runtime failed.

        Contract:
            1. Row b's real tokens MUST take the positions lengths[b] .. lengths[b] + counts[b] - 1, and
               token s MUST attend to exactly the row's tokens at positions up to its own (within
               the layer's window, where it has one).
            2. Afterwards ``lengths[b]`` MUST have grown by exactly counts[b].
            3. A row whose count is 0 MUST keep its length and its visible content bit by bit, a
               full row included.
            4. What stands in input_ids beyond counts[b] MUST NOT influence anything, now or later;
               it need not be a legal token id.
            5. Overflow MUST be judged on lengths + counts alone and raised before anything changes.
               Room for padding is the backend's own business.
            6. Results MUST NOT depend on the other rows, on the order of rows, on capacity, or on
               how a sequence was split into steps, beyond rounding of the model's dtype.
            7. On InvalidInputError, CacheOverflowError and UnsupportedCapabilityError the cache MUST
               be unchanged; on BackendError its lengths MUST be.
            8. The returned array MUST belong to the caller: later steps do not change it. Arguments
               MUST NOT be written to.
        """
        ...

    def close(self) -> None:
        """Frees the model. Caches that it made can no longer be used. A second call does nothing.

        Contract:
            1. A later ``forward`` MUST raise InvalidInputError, and a second call MUST do nothing.
        """
        ...


class Backend(Protocol):
    """A runtime behind the interface. Registered under the entry-point group "genai_iface.backends".

    The entry point names a class or function that is called without arguments.
    """

    def info(self) -> BackendInfo:
        """Says what the backend is and can do.

        Contract:
            1. MUST be true for the runtime that is installed, not for the best one there is.
            2. MUST load no model.
            3. MUST be a BackendInfo whose fields have their types, the same at every call.
        """
        ...

    def devices(self) -> Sequence[Device]:
        """Lists the devices that ``load`` accepts, the default first.

        Contract:
            1. MUST list only what the installed runtime can use on this machine.
        """
        ...

    def load(
        self,
        folder: str | PathLike[str],
        /,
        *,
        device: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Model[Any]:
        """Loads a model folder.

        Args:
            folder: The folder that holds ``model.onnx``.
            device: An identifier from ``devices()``; None for the first.
            options: The backend's own settings by name.

        Raises:
            InvalidInputError: A file is missing or broken, or an option or device is unknown.
            UnsupportedModelError: The graph cannot be driven.
            BackendError: The runtime refused the model.

        Contract:
            1. MUST NOT write into the folder, execute anything in it or read outside it.
            2. An option or a device that is not known MUST be refused, not ignored.
            3. A folder that is missing, holds no model or a broken one MUST be refused with an error of
               ``genai_iface.errors``.
            4. MUST take the folder as text and as a path object.
        """
        ...


class Tokenizer(Protocol):
    """Text to token ids and back."""

    @property
    def vocab_size(self) -> int:
        """One more than the highest id, added tokens included. There may be ids without a token."""
        ...

    @property
    def bos_token_id(self) -> int | None:
        """The id that begins a sequence, if there is one."""
        ...

    @property
    def eos_token_id(self) -> int | None:
        """The id that ends a sequence, if there is one."""
        ...

    def encode(self, text: str, /, *, add_special_tokens: bool = True) -> list[int]:
        """Turns a text into token ids.

        Args:
            text: Any text; one that spells a special token may become that token.
            add_special_tokens: Add what the folder's tokenizer puts around a text, such as the
                beginning-of-sequence token.

        Returns:
            The ids; none for an empty text to which nothing is added.

        Contract:
            1. MUST be deterministic and give ids in 0..vocab_size - 1.
        """
        ...

    def decode(self, token_ids: Sequence[int], /, *, skip_special_tokens: bool = True) -> str:
        """Turns token ids into text.

        Args:
            token_ids: Ids in 0..vocab_size - 1, or that the model's logits have beyond them.
            skip_special_tokens: Leave special tokens out of the text.

        Raises:
            InvalidInputError: An id is out of range.

        Contract:
            1. Bytes that form no complete character MUST become U+FFFD, never an error.
            2. Special tokens MUST be left out of the text, unless ``skip_special_tokens`` is False.
            3. A negative id, and one that neither the tokenizer nor the model's logits have, MUST raise
               InvalidInputError. One that only the logits have MUST add nothing to the text.
        """
        ...

    def apply_chat_template(
        self,
        messages: Sequence[Message],
        /,
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **template_kwargs: Any,
    ) -> str:
        """Renders a conversation into the text that the model was trained on.

        Args:
            messages: The turns, oldest first.
            add_generation_prompt: End with what begins the assistant's turn.
            tools: Descriptions of the functions that the model may call, as JSON schemas.
            **template_kwargs: Further variables of the template. ``chat_template`` is none: it is the name of one of
                the folder's templates, or a template itself.

        Raises:
            UnsupportedCapabilityError: The folder has no chat template.
            InvalidInputError: The template refused the messages or did something forbidden.

        Contract:
            1. Template code MUST run in a sandbox.
            2. MUST give what the folder's own template gives for these messages.
        """
        ...


class Generator(Protocol):
    """The generation of one group of N sequences, token by token.

    Mirrors the working group's C++ ``Generator{AppendInputTokens, GenerateNextToken, IsDone}``. The
    SDK's own runs over any ``Model``; a stack that owns its loop implements this protocol itself.
    """

    @property
    def finish_reasons(self) -> tuple[FinishReason | None, ...]:
        """Why each sequence ended; None while it goes on."""
        ...

    def append_tokens(self, token_ids: Sequence[int] | Sequence[Sequence[int]], /) -> None:
        """Appends input tokens: the prompt, or a user's next turn.

        Args:
            token_ids: One list for the only sequence, or one list per sequence (lists may be empty).

        Raises:
            InvalidInputError: The number of lists is not N, or an id is out of range.
            CacheOverflowError: A sequence would outgrow the cache.

        Contract:
            1. Sequences that had ended with "stop" MUST go on after it.
            2. On an error nothing MUST have been appended.
        """
        ...

    def generate_next_token(self) -> None:
        """Chooses and appends one token for every sequence that is not done.

        Raises:
            InvalidInputError: Nothing was appended yet, or all sequences are done.

        Contract:
            1. Equal logits MUST give equal tokens on every backend, as docs/spec/sampling.md says.
        """
        ...

    def is_done(self) -> bool:
        """Whether every sequence has ended."""
        ...

    def get_next_tokens(self) -> list[int | None]:
        """The tokens that the last ``generate_next_token`` chose, with None for a sequence that was done."""
        ...

    def get_sequence(self, index: int, /) -> list[int]:
        """All tokens of the sequence at ``index``, the appended ones included."""
        ...

    def token_count(self, index: int = 0, /) -> int:
        """The number of tokens of the sequence at ``index``."""
        ...

    def rewind_to(self, length: int | Sequence[int], /) -> None:
        """Shortens sequences; they may go on from there.

        Args:
            length: One length for all, or one per sequence.

        Raises:
            InvalidInputError: A length is negative or beyond the sequence.
            CacheRewindError: The cache cannot go back so far.

        Contract:
            1. What follows MUST be what would have followed had the tokens never been there.
        """
        ...

    def get_logits(self) -> NDArray[np.float32]:
        """The logits from which the next token will be chosen, before any processor.

        Returns:
            float32 (N, V); rows of sequences that are done hold unspecified values.

        Contract:
            1. MUST be those of the model after all tokens of the sequence, or those of ``set_logits``.
        """
        ...

    def set_logits(self, logits: ArrayLike, /) -> None:
        """Replaces those logits for the next choice only.

        Args:
            logits: float32 (N, V).

        Contract:
            1. MUST decide the next choice as if the model had given them, and no later one.
        """
        ...

    def cancel(self) -> None:
        """Ends all sequences with the reason "cancelled". May be called from any thread.

        Contract:
            1. MUST be noticed between the chunks of a prefill too.
        """
        ...


class Pipeline(Protocol):
    """Prompt in, text out."""

    @property
    def generation_config(self) -> GenerationConfig:
        """The defaults that a call's ``config`` and overrides replace."""
        ...

    def generate(
        self, prompt: Prompt, config: GenerationConfig | None = None, **overrides: Unpack[GenerationOverrides]
    ) -> GenerationResult:
        """Generates until every sequence is done.

        Args:
            prompt: One text, conversation or list of token ids, or several texts or lists; see ``Prompt``.
            config: Replaces ``generation_config`` for this call.
            **overrides: Single fields of ``GenerationConfig``, over either.

        Raises:
            InvalidInputError: A prompt is empty or a parameter is not legal.
            UnsupportedCapabilityError: A parameter asks for what this pipeline cannot do.
            CacheOverflowError: A prompt is longer than the model's context.

        Contract:
            1. Results MUST be in prompt order and independent of what else is in the call.
            2. Token ids MUST be taken as they are; a conversation MUST go through the chat template of the
               folder.
            3. ``config`` MUST replace the whole ``generation_config``, and ``overrides`` single fields of
               either.
            4. A parameter that is not known or not legal MUST be refused, with its name in the message.
            5. A prompt without any token, a token id that the model lacks, and a prompt beyond the context
               MUST be refused.
            6. ``perf_metrics`` MUST count prompt tokens and generated tokens exactly.
        """
        ...

    def stream(
        self, prompt: Prompt, config: GenerationConfig | None = None, **overrides: Unpack[GenerationOverrides]
    ) -> Iterator[Chunk]:
        """Generates and yields text as it comes. Arguments and errors as ``generate``.

        Contract:
            1. A chunk MUST NOT end within a character.
            2. Per sequence, the chunks' texts joined MUST equal the text that ``generate`` returns.
            3. Exactly the last chunk of a sequence MUST carry a finish_reason.
            4. Text that no later token can change MUST NOT be held back until the sequence ends.
            5. A stream that is closed before its end MUST NOT disturb other calls, earlier or later.
        """
        ...

    def close(self) -> None:
        """Frees the model and its caches. A second call does nothing.

        Contract:
            1. A later ``generate`` MUST raise an error of ``genai_iface.errors``, and a second call MUST do
               nothing.
        """
        ...


@runtime_checkable
class SupportsCheckpoint(Protocol):
    """A cache that can keep states of earlier lengths. Capability: "checkpoint".

    What a model with states knows of a row's tokens is in tensors that every token changes, so a row can go back only
    to lengths whose state is still there: its present one, 0, the one it had before the last step (the capability
    "rewind_step"), and those that were kept here. Keys and values are not copied.

    Since: 1
    Stability: preview
    """

    @property
    def bytes_per_row(self) -> int:
        """The size in bytes of the states of one row, which is what one checkpoint of one row costs.

        Contract:
            1. MUST equal ``ModelSpec.cache.bytes_per_row``.

        Since: 1
        Stability: preview
        """
        ...

    def checkpoint(self, rows: ArrayLike | None = None, /) -> None:
        """Keeps the states of rows at their present lengths.

        Args:
            rows: int64 (K,) row indices, or None for all.

        Raises:
            InvalidInputError: An index is out of range.
            BackendError: Out of memory.

        Contract:
            1. A row MUST then be able to go back to that length for as long as it is not shorter, however many steps
               follow, and its continuations MUST be what they would have been.
            2. No later step, rewind, reset, reorder or fork, of other rows either, MUST change what was kept.
            3. ``KVCache.nbytes`` MUST grow by at most ``bytes_per_row`` for each row.

        Since: 1
        Stability: preview
        """
        ...

    def checkpoints(self, row: int, /) -> tuple[int, ...]:
        """The lengths of a row that were kept and can be reached, in rising order.

        Raises:
            InvalidInputError: There is no such row.

        Contract:
            1. ``can_rewind_to`` MUST be true for each of them.
            2. A rewind MUST remove those beyond the new length, and ``reset`` all of a row; ``reorder`` and ``fork``
               MUST carry them along.

        Since: 1
        Stability: preview
        """
        ...

    def drop(self, row: int, length: int | None = None, /) -> None:
        """Forgets the checkpoint of a row at a length, or all of the row.

        Args:
            row: Index of the cache's row, 0..B-1.
            length: One of ``checkpoints(row)``, or None for all of them.

        Raises:
            InvalidInputError: There is no such row, or no checkpoint of that length.

        Contract:
            1. The row's length and content MUST be unchanged, and its other checkpoints too.
            2. Its memory MUST be free again: ``KVCache.nbytes`` shrinks by what it cost.

        Since: 1
        Stability: preview
        """
        ...


@runtime_checkable
class SupportsFork(Protocol):
    """A cache that can be copied. Capability: "fork"."""

    def fork(self) -> Self:
        """An independent copy with the same rows, lengths and capacity.

        Contract:
            1. Whatever is done to one afterwards MUST NOT show in the other.
        """
        ...


@runtime_checkable
class SupportsSave(Protocol[CacheT]):
    """A model whose caches can be kept on disk. Capability: "save"."""

    def save_cache(self, cache: CacheT, path: str | PathLike[str], /) -> None:
        """Writes the valid content of a cache to a safetensors file.

        Raises:
            InvalidInputError: The cache is closed or of another model.

        Contract:
            1. An interrupted call MUST NOT leave a half-written file under ``path``.
            2. After ``Model.close`` it MUST raise InvalidInputError and leave ``path`` as it is.
        """
        ...

    def load_cache(self, path: str | PathLike[str], /, *, capacity: int | None = None) -> CacheT:
        """Makes a cache from such a file.

        Args:
            path: A file that ``save_cache`` wrote.
            capacity: As for ``create_cache``; at least the longest row.

        Raises:
            InvalidInputError: The file is broken, or was made by a model with other weights, another
                dtype or another cache shape.

        Contract:
            1. It MUST continue exactly as the saved cache would have, also in another process.
            2. A file that is broken, or that a model with other weights made, MUST be refused.
        """
        ...


@runtime_checkable
class SupportsInspect(Protocol):
    """A cache whose content can be read. Capability: "inspect"."""

    def read(self, layer: int, row: int, /) -> tuple[NDArray[Any], NDArray[Any]]:
        """Copies the keys and values of one row of one layer.

        Args:
            layer: Index into ``ModelSpec.cache.layers``.
            row: Index of the cache's row, 0..B-1.

        Returns:
            Keys (Hkv, L, D) and values (Hkv, L, Dv) in the layer's dtype, oldest token first. L is the
            row's length, or the layer's window if that is shorter.

        Contract:
            1. MUST give the row's own tokens in that shape, order and dtype.
            2. MUST be copies: writing to them has no effect on the cache.
        """
        ...


@runtime_checkable
class SupportsGenerator(Protocol):
    """A backend whose runtime owns the loop. Capability: "generator".

    A pipeline drives such a backend by its generators and never loads a model: ``Backend.load`` may raise
    UnsupportedCapabilityError. Text, streaming, stop strings and limits are made above it; what needs the logits
    before a token is chosen cannot be asked for.

    Since: 1
    Stability: preview
    """

    def generator(
        self,
        folder: str | PathLike[str],
        /,
        *,
        config: GenerationConfig,
        capacity: int | None = None,
        device: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Generator:
        """Makes a generator for one sequence.

        Args:
            folder: A folder in whatever form the runtime reads.
            config: How tokens are chosen, and which of them end the sequence. What the caller watches itself is
                neutral: stop strings, limits of length and time, ``echo``, ``logprobs``, ``num_return_sequences``.
            capacity: Most tokens of the sequence, input tokens included; None for the model's context.
            device: An identifier from ``devices()``; None for the first.
            options: The backend's own settings by name.

        Raises:
            InvalidInputError: The folder is missing or broken, or an option or device is unknown.
            UnsupportedCapabilityError: A field of the configuration cannot be honored.
            BackendError: The runtime refused the model.

        Contract:
            1. The generator MUST hold one sequence without tokens, and be independent of every other generator.
            2. A field of ``config`` that is not neutral MUST be honored, or refused with
               UnsupportedCapabilityError and its name; it MUST NOT be ignored.
            3. The sequence MUST end with "length" before it outgrows ``capacity``.
            4. A folder SHOULD be loaded once, however many generators are made of it.

        Since: 1
        Stability: preview
        """
        ...
