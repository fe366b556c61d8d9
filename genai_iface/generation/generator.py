# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The decode loop: the SDK's own ``Generator`` over any ``Model``. It exists once, for all backends."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Generic, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genai_iface.config import GenerationConfig
from genai_iface.errors import CacheOverflowError, InvalidInputError
from genai_iface.generation._request import one_per_sequence
from genai_iface.generation._running import RunningSequence
from genai_iface.generation._stopwatch import Stopwatch
from genai_iface.generation._supported import check_token_by_token
from genai_iface.generation._token_ids import as_ids, as_rows
from genai_iface.generation.hooks import GenerationHooks, PrefillHook
from genai_iface.generation.rows.cached_rows import DEFAULT_PREFILL_CHUNK_SIZE, CachedRows
from genai_iface.generation.rows.prefix import open_with_prefix
from genai_iface.generation.sampling.sampler import make_sampler, new_seed
from genai_iface.generation.speculation.speculator import Speculator
from genai_iface.protocols import CacheT, Model, Tokenizer
from genai_iface.results import Chunk, FinishReason, PerfMetrics, TokenLogprob

__all__ = ["ModelGenerator"]


class ModelGenerator(Generic[CacheT]):
    """Generates N sequences with one model, token by token.

    Implements the protocols ``Generator`` and ``Engine``. Limits count from the last ``append_tokens``: each turn may
    have max_new_tokens of its own. It is not thread safe, apart from ``cancel``.

    Args:
        model: The model that computes the logits.
        config: How to generate, for all sequences or one for each; ``num_return_sequences`` is the
            caller's business.
        num_sequences: N, the sequences that are generated together.
        capacity: Tokens that a sequence may have; None for the most that the model allows.
        eos_token_ids: What ends a sequence if the configuration itself names nothing.
        tokenizer: Makes text for ``take_text`` and stop strings; without it there is neither.
        continues_text: Whether the text goes on where the appended text ends (a prompt), with the
            space that this may need, or begins anew (a reply).
        seed: Of the draws, over ``config.seed``; None for a new one where that has none.
        hooks: The caller's own functions and rules. With speculation the tokens stay the same, but those that
            were guessed well come without a step of their own; a sequence whose guesses are used up gets no token
            in a call in which others still have some. ``streamer`` and ``on_chunk`` belong to whoever reads ``step``.
        drops_finished: Whether a sequence that has ended may lose its part of the cache, so that it costs
            nothing while others go on. If it goes on later, all of it runs again.
        rows: The caches, if they shall outlive the generator: ``close`` leaves them open. None for caches of its
            own.
        prefill_chunk_size: Most tokens per sequence in one step.
        on_prefill: Told after each step of a prompt how many tokens are done, and of how many.
        started: When the call began, by ``time.perf_counter``; None for now.

    Attributes:
        seed: The seed that is used where none was given; the first sequence's if all have one.

    Raises:
        UnsupportedCapabilityError: The configuration asks for beam search.
        InvalidInputError: The configuration does not fit the model, or an argument is out of range.
    """

    def __init__(
        self,
        model: Model[CacheT],
        config: GenerationConfig | Sequence[GenerationConfig] | None = None,
        *,
        num_sequences: int = 1,
        capacity: int | None = None,
        eos_token_ids: Sequence[int] = (),
        tokenizer: Tokenizer | None = None,
        continues_text: bool = True,
        seed: int | None = None,
        hooks: GenerationHooks | None = None,
        drops_finished: bool = False,
        rows: CachedRows[CacheT] | None = None,
        prefill_chunk_size: int = DEFAULT_PREFILL_CHUNK_SIZE,
        on_prefill: PrefillHook | None = None,
        started: float | None = None,
    ) -> None:
        _check_counts(num_sequences=num_sequences, prefill_chunk_size=prefill_chunk_size)
        configs = one_per_sequence(config, num_sequences)
        check_token_by_token(configs, has_text=tokenizer is not None)
        given = [one.seed if seed is None else seed for one in configs]
        fresh = new_seed() if None in given else None
        self.seed = cast("int", given[0] if fresh is None else fresh)
        self._model = model
        self._hooks = hooks or GenerationHooks()
        samplers = [
            make_sampler(
                one,
                self._hooks,
                vocab_size=model.spec.vocab_size,
                eos_token_ids=eos_token_ids,
                seed=self.seed if own is None else own,
                tokenizer=tokenizer,
            )
            for one, own in zip(configs, given, strict=True)
        ]
        self._on_prefill = on_prefill
        self._next_tokens: list[int | None] = [None] * num_sequences
        self._override: NDArray[np.float32] | None = None
        self._is_cancelled = False
        self._num_prompt_tokens = 0
        self._num_reused_tokens = 0
        self._stopwatch = Stopwatch(started)
        self._has_begun = False
        self._speculator: Speculator | None = None
        self._keeps_rows = rows is not None
        self._rows = rows or CachedRows(model, num_sequences, capacity, prefill_chunk_size, drops_idle=drops_finished)
        self._cache_bytes: int | None = None
        self._sequences = [
            RunningSequence(
                sampler,
                index=index,
                capacity=self._rows.capacity,
                tokenizer=tokenizer,
                continues_text=continues_text,
                stopping_criteria=self._hooks.stopping_criteria,
            )
            for index, sampler in enumerate(samplers)
        ]

    # State

    @property
    def finish_reasons(self) -> tuple[FinishReason | None, ...]:
        """Why each sequence ended; None while it goes on."""
        self._end_if_interrupted()
        return tuple(sequence.finish_reason for sequence in self._sequences)

    @property
    def metrics(self) -> PerfMetrics:
        """Measurements since this generator was made."""
        speculator = self._speculator
        return self._stopwatch.metrics(
            num_drafted_tokens=speculator.num_drafted if speculator else 0,
            num_accepted_tokens=speculator.num_accepted if speculator else 0,
            num_prompt_tokens=self._num_prompt_tokens,
            cache_bytes=self._rows.nbytes if self._cache_bytes is None else self._cache_bytes,
            num_reused_tokens=self._num_reused_tokens,
        )

    @property
    def has_ended(self) -> bool:
        """Whether every sequence has given its last chunk."""
        return all(sequence.has_given_all for sequence in self._sequences)

    def is_done(self) -> bool:
        """Whether every sequence has ended."""
        return all(reason is not None for reason in self.finish_reasons)

    def get_next_tokens(self) -> list[int | None]:
        """The tokens chosen by the last ``generate_next_token``; None for a sequence that was done."""
        return list(self._next_tokens)

    def get_sequence(self, index: int, /) -> list[int]:
        """All tokens of one sequence, the appended ones included."""
        return cast("list[int]", self._sequences[index].tokens.tolist())

    def get_logprobs(self, index: int, start: int = 0, /) -> list[TokenLogprob]:
        """One entry per token generated in this turn, from the given one on; empty unless the configuration asks."""
        return self._sequences[index].logprobs[start:]

    def get_prompt_logprobs(self, index: int, /) -> list[TokenLogprob]:
        """One entry per token of the first turn's prompt, if the configuration asks for ``echo`` and ``logprobs``.

        NaN for the first token, which follows nothing, and for what has not run because it was interrupted.
        """
        return self._sequences[index].whole_prompt_logprobs()

    def token_count(self, index: int = 0, /) -> int:
        """The length of one sequence."""
        return len(self._sequences[index])

    def take_text(self, index: int, /) -> str:
        """The text of one sequence that was not taken yet: whole characters, nothing of a stop string.

        Needs a tokenizer. All of a sequence's text can be taken once it has ended.
        """
        return self._sequences[index].take_text()

    # Changes

    def append_tokens(self, token_ids: Sequence[int] | Sequence[Sequence[int]], /) -> None:
        """Appends input tokens; they run with the next step. See ``Generator.append_tokens``."""
        rows = as_rows(token_ids, len(self._sequences))
        arrays = [as_ids(row, self._model.spec.vocab_size) for row in rows]
        for index, (sequence, new) in enumerate(zip(self._sequences, arrays, strict=True)):
            if len(sequence) + len(new) > self._rows.capacity:
                raise CacheOverflowError(index, len(sequence) + len(new), self._rows.capacity)
        self._drop_drafts()
        self._is_cancelled = False
        self._override = None
        for sequence, new in zip(self._sequences, arrays, strict=True):
            sequence.start_clock()
            if len(new):
                sequence.append_input(new)
                self._num_prompt_tokens += len(new)

    def generate_next_token(self) -> None:
        """Chooses and appends one token for every sequence that is not done.

        If ``cancel`` or ``max_time`` interrupts it, the sequences end and no token is chosen.

        Raises:
            InvalidInputError: Nothing was appended yet, or all sequences are done.
            GenAIError: As ``Model.forward``.
        """
        self._next_tokens = [None] * len(self._sequences)
        if all(sequence.is_done for sequence in self._sequences):
            raise InvalidInputError("All sequences are done", remedy="Append tokens or rewind first.")
        if not self._is_cancelled:
            # Making the caches is not part of the prompt's time.
            self._begin()
        started = time.perf_counter()
        # What was drafted and accepted has its logits already.
        has_run = self._speculator is None or all(
            sequence.logits is None for sequence in self._sequences if sequence.finish_reason is None
        )
        if not self._run_pending():
            self._stopwatch.add(time.perf_counter() - started, 0)
            return
        for index, sequence in enumerate(self._sequences):
            # With speculation, those without logits wait for the ones that need no step.
            if sequence.finish_reason is None and sequence.logits is not None:
                self._choose(index)
        self._override = None
        num_tokens = sum(token is not None for token in self._next_tokens)
        self._stopwatch.add(time.perf_counter() - started, num_tokens, has_run=has_run)
        self._end_if_interrupted()

    def step(self) -> list[Chunk]:
        """Takes one step, and gives the text that it completes. See ``Engine.step``."""
        if not self._has_begun and not self._is_cancelled:
            for sequence in self._sequences:
                sequence.start_clock()
        if not self.is_done():
            self.generate_next_token()
        elif not self._is_cancelled:
            self._run_prompts()
        self._end_if_interrupted()
        return [chunk for sequence in self._sequences if (chunk := sequence.take_chunk()) is not None]

    def rewind_to(self, length: int | Sequence[int], /) -> None:
        """Shortens sequences; they may go on from there.

        The cache is kept as far as it can go back; where it cannot, the tokens run again.

        Raises:
            InvalidInputError: A length is negative or beyond the sequence, or their number is not N.
        """
        lengths = [length] * len(self._sequences) if isinstance(length, int) else list(length)
        if len(lengths) != len(self._sequences):
            raise InvalidInputError(
                f"{len(lengths)} lengths for {len(self._sequences)} sequences", remedy="Give one per sequence."
            )
        for index, (sequence, wanted) in enumerate(zip(self._sequences, lengths, strict=True)):
            if not 0 <= wanted <= len(sequence):
                raise InvalidInputError(
                    f"Sequence {index} has {len(sequence)} tokens and cannot be rewound to {wanted}",
                    remedy=f"Use a length from 0 to {len(sequence)}.",
                )
        self._drop_drafts()
        self._is_cancelled = False
        self._override = None
        for sequence, wanted in zip(self._sequences, lengths, strict=True):
            if wanted < len(sequence):
                sequence.truncate(wanted)
                sequence.new_text()
            elif sequence.finish_reason == "cancelled":
                sequence.finish_reason = None
                sequence.new_text()
        self._rows.rewind(self._sequences)

    def get_logits(self) -> NDArray[np.float32]:
        """The logits from which the next token will be chosen, before any processor.

        Returns:
            float32 (N, V), a copy; rows of sequences that are done hold zeros.

        Raises:
            InvalidInputError: Nothing was appended yet, or all sequences are done.
        """
        if not self._run_pending():
            raise InvalidInputError("All sequences have ended", remedy="Append tokens or rewind first.")
        if self._override is not None:
            return self._override.copy()
        logits = np.zeros((len(self._sequences), self._model.spec.vocab_size), dtype=np.float32)
        for row, sequence in zip(logits, self._sequences, strict=True):
            if sequence.logits is not None:
                row[:] = sequence.logits
        return logits

    def set_logits(self, logits: ArrayLike, /) -> None:
        """Replaces those logits for the next choice only.

        Args:
            logits: float32 (N, V).

        Raises:
            InvalidInputError: The shape is another one.
        """
        array = np.array(logits, dtype=np.float32)
        expected = (len(self._sequences), self._model.spec.vocab_size)
        if array.shape != expected:
            raise InvalidInputError(
                f"The logits have the shape {array.shape}", remedy=f"Expected: {expected}, sequences by tokens."
            )
        self._override = array

    def cancel(self) -> None:
        """Ends all sequences with the reason "cancelled". May be called from any thread.

        A running step ends first. ``append_tokens`` and ``rewind_to`` make a new start.
        """
        self._is_cancelled = True

    def close(self) -> None:
        """Frees the caches that are its own, and the drafter. A second call does nothing."""
        if self._cache_bytes is not None:
            return
        self._cache_bytes = self._rows.nbytes
        try:
            if self._keeps_rows and self._has_begun:
                self._drop_drafts()
                self._rows.ran = self.get_sequence(0)
        finally:
            if self._speculator is not None:
                self._speculator.close()
            if not self._keeps_rows:
                self._rows.close()

    # Parts of a step

    def _begin(self) -> None:
        """Before the first step: caches that begin with what ran before, and a drafter."""
        if self._has_begun:
            return
        if self._hooks.prefix is not None:
            open_with_prefix(self._rows, self._model, self._hooks.prefix)
        self._rows.open()
        self._num_reused_tokens = self._rows.keep_common([sequence.tokens for sequence in self._sequences])
        if self._hooks.speculation is not None:
            self._speculator = Speculator(self._model, self._rows, self._sequences, self._hooks.speculation, self._draw)
        self._has_begun = True

    def _run_prompts(self) -> None:
        """Computes the prompts' log-probabilities for sequences that end before their first new token."""
        wanted = [sequence.wants_prompt_logprobs for sequence in self._sequences]
        if any(wanted):
            self._rows.run(self._sequences, wanted, is_interrupted=lambda: self._is_cancelled, observe=self._observe)

    def _drop_drafts(self) -> None:
        """Forgets all drafts: the cache holds nothing but the sequences' own tokens."""
        if self._speculator is not None:
            self._speculator.drop()

    def _run_pending(self) -> bool:
        """Brings the logits of all active sequences up to date; False if the sequences ended instead."""
        if self._end_if_interrupted():
            return False
        active = [sequence.finish_reason is None for sequence in self._sequences]
        if not any(active):
            raise InvalidInputError("All sequences are done", remedy="Append tokens or rewind first.")
        for index, sequence in enumerate(self._sequences):
            if active[index] and not len(sequence):
                raise InvalidInputError(
                    f"Sequence {index} has no tokens",
                    remedy="Append at least one token, for example the BOS token.",
                )
        self._begin()
        if self._speculator is not None:
            return self._run_drafts(self._speculator, active)
        observe = self._observe if any(sequence.wants_prompt_logprobs for sequence in self._sequences) else None
        while not self._rows.run(
            self._sequences,
            active,
            is_interrupted=self._is_interrupted,
            on_progress=self._on_prefill,
            observe=observe,
        ):
            # Sequences may have limits of their own; the others go on.
            if self._end_if_interrupted():
                return False
            active = [sequence.finish_reason is None for sequence in self._sequences]
        return True

    def _run_drafts(self, speculator: Speculator, active: Sequence[bool]) -> bool:
        """As ``_run_pending``, if no sequence has logits from an earlier step."""
        going = [sequence for sequence, is_active in zip(self._sequences, active, strict=True) if is_active]
        if any(sequence.logits is not None for sequence in going):
            return True
        # The token after the last draft must have room too.
        limits = [sequence.room - 1 for sequence in self._sequences]
        found: list[dict[int, NDArray[np.float32]]] = [{} for _ in self._sequences]

        def observe(index: int, start: int, logits: NDArray[np.float32]) -> None:
            self._observe(index, start, logits)
            found[index].update(enumerate(logits, start=start))

        watches = all(sequence.num_new for sequence in going) or any(
            sequence.wants_prompt_logprobs for sequence in self._sequences
        )
        lengths = speculator.draft(active, limits if watches else [0] * len(limits))
        try:
            is_complete = self._rows.run(
                self._sequences,
                active,
                is_interrupted=self._is_interrupted,
                on_progress=self._on_prefill,
                observe=observe if watches else None,
            )
        finally:
            speculator.settle(lengths, found)
        return is_complete or not self._end_if_interrupted()

    def _observe(self, index: int, start: int, logits: NDArray[np.float32]) -> None:
        self._sequences[index].observe(start, logits)

    def _choose(self, index: int) -> None:
        sequence = self._sequences[index]
        # _run_pending has set the logits of every sequence that goes on.
        logits = cast("NDArray[np.float32]", sequence.logits) if self._override is None else self._override[index]
        token = sequence.choose(logits)
        if self._speculator is not None:
            self._speculator.chosen(index, token)
        self._next_tokens[index] = token
        sequence.settle(token)

    def _draw(self, index: int, logits: NDArray[np.float32], tokens: NDArray[np.int64], num_new: int) -> int:
        return self._sequences[index].draw(logits, tokens, num_new)

    def _is_interrupted(self) -> bool:
        return self._is_cancelled or any(not sequence.is_done and sequence.is_late for sequence in self._sequences)

    def _end_if_interrupted(self) -> bool:
        """Ends what was cancelled or is out of time; True if that leaves nothing that goes on."""
        if not self._is_interrupted():
            return False
        for sequence in self._sequences:
            sequence.interrupt(is_cancelled=self._is_cancelled)
        return all(sequence.is_done for sequence in self._sequences)


def _check_counts(**counts: int) -> None:
    for name, value in counts.items():
        if value < 1:
            raise InvalidInputError(f"{name}={value} is not legal", remedy="Legal: an integer of at least 1.")
