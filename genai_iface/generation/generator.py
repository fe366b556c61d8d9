# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The decode loop: the SDK's own ``Generator`` over any ``Model``. It exists once, for all backends."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Generic, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genai_iface.config import GenerationConfig
from genai_iface.errors import CacheOverflowError, InvalidInputError, UnsupportedCapabilityError
from genai_iface.generation.cached_rows import DEFAULT_PREFILL_CHUNK_SIZE, CachedRows
from genai_iface.generation.constraints import Constraint
from genai_iface.generation.metrics import Stopwatch
from genai_iface.generation.plan import SequencePlan, new_seed, one_per_sequence
from genai_iface.generation.running import RunningSequence
from genai_iface.generation.sampling.processors import LogitsHook
from genai_iface.generation.speculation.speculator import Speculation, Speculator
from genai_iface.generation.text.stopping import StopHook
from genai_iface.generation.token_ids import as_ids, as_rows
from genai_iface.protocols import CacheT, Model, Tokenizer
from genai_iface.results import FinishReason, PerfMetrics, TokenLogprob

__all__ = ["ModelGenerator"]


class ModelGenerator(Generic[CacheT]):
    """Generates N sequences with one model, token by token.

    Implements the protocol ``Generator``. Limits count from the last ``append_tokens``: each turn may
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
        logits_processors: The caller's functions on (tokens, scores), after the built-in processors.
        stopping_criteria: The caller's functions on (tokens, text); one that says True ends the sequence.
        constraint: The caller's rule for the output of each turn.
        drops_finished: Whether a sequence that has ended may lose its part of the cache, so that it costs
            nothing while others go on. If it goes on later, all of it runs again.
        rows: Caches that hold the beginning of what will be appended; None for new ones. ``close`` frees
            them too.
        num_reused_tokens: How many tokens they hold, for the measurements.
        speculation: How to guess tokens. The tokens stay the same, but those that were guessed well come
            without a step of their own; a sequence whose guesses are used up gets no token in a call in
            which others still have some.
        prefill_chunk_size: Most tokens per sequence in one step.
        on_prefill: Told after each step of a prompt how many tokens are done, and of how many.
        stopwatch: Measures from when it was made; None for a new one.

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
        logits_processors: Sequence[LogitsHook] = (),
        stopping_criteria: Sequence[StopHook] = (),
        constraint: Constraint | None = None,
        drops_finished: bool = False,
        rows: CachedRows[CacheT] | None = None,
        num_reused_tokens: int = 0,
        speculation: Speculation | None = None,
        prefill_chunk_size: int = DEFAULT_PREFILL_CHUNK_SIZE,
        on_prefill: Callable[[int, int], None] | None = None,
        stopwatch: Stopwatch | None = None,
    ) -> None:
        for name, value in (("num_sequences", num_sequences), ("prefill_chunk_size", prefill_chunk_size)):
            if value < 1:
                raise InvalidInputError(f"{name}={value} is not legal", remedy="Legal: an integer of at least 1.")
        configs = one_per_sequence(config, num_sequences)
        if any(one.num_beams > 1 for one in configs):
            raise UnsupportedCapabilityError(
                "num_beams above 1 is not supported token by token", remedy="Use a pipeline, or BeamSearch."
            )
        if tokenizer is None and any(one.stop_strings for one in configs):
            raise InvalidInputError(
                "stop_strings need text, and there is no tokenizer", remedy="Give one, or use stop_token_ids."
            )
        self._vocab_size = model.spec.vocab_size
        given = [one.seed if seed is None else seed for one in configs]
        fresh = new_seed() if None in given else None
        self.seed = cast("int", given[0] if fresh is None else fresh)
        plans = [
            SequencePlan(
                one,
                vocab_size=self._vocab_size,
                eos_token_ids=eos_token_ids,
                seed=self.seed if own is None else own,
                logits_processors=logits_processors,
                constraint=constraint,
                tokenizer=tokenizer,
            )
            for one, own in zip(configs, given, strict=True)
        ]
        self._on_prefill = on_prefill
        self._next_tokens: list[int | None] = [None] * num_sequences
        self._override: NDArray[np.float32] | None = None
        self._is_cancelled = False
        self._num_prompt_tokens = 0
        self._stopwatch = stopwatch or Stopwatch()
        self._num_reused_tokens = num_reused_tokens
        self._rows = rows or CachedRows(model, num_sequences, capacity, prefill_chunk_size, drops_idle=drops_finished)
        self._running = [
            RunningSequence(
                plan,
                index=index,
                capacity=self._rows.capacity,
                tokenizer=tokenizer,
                continues_text=continues_text,
                stopping_criteria=stopping_criteria,
            )
            for index, plan in enumerate(plans)
        ]
        self._sequences = [running.state for running in self._running]
        self._speculator: Speculator | None = None
        if speculation is not None:
            drafter = None
            try:
                drafter = speculation.start(model, num_sequences, self._rows.capacity)
                self._speculator = Speculator(model, self._rows, self._sequences, drafter, self._draw)
            except BaseException:
                # Nobody else can free what was made here; rows that were given are the caller's.
                if drafter is not None:
                    drafter.close()
                if rows is None:
                    self._rows.close()
                raise

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
            cache_bytes=self._rows.nbytes,
            num_reused_tokens=self._num_reused_tokens,
        )

    @property
    def running(self) -> list[RunningSequence]:
        """The sequences themselves."""
        return self._running

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
        return self._running[index].prompt_logprobs()

    def token_count(self, index: int = 0, /) -> int:
        """The length of one sequence."""
        return len(self._sequences[index])

    def take_text(self, index: int, /) -> str:
        """The text of one sequence that was not taken yet: whole characters, nothing of a stop string.

        Needs a tokenizer. All of a sequence's text can be taken once it has ended.
        """
        return self._running[index].take_text()

    # Changes

    def append_tokens(self, token_ids: Sequence[int] | Sequence[Sequence[int]], /) -> None:
        """Appends input tokens; they run with the next step. See ``Generator.append_tokens``."""
        rows = as_rows(token_ids, len(self._sequences))
        arrays = [as_ids(row, self._vocab_size) for row in rows]
        for index, (sequence, new) in enumerate(zip(self._sequences, arrays, strict=True)):
            if len(sequence) + len(new) > self._rows.capacity:
                raise CacheOverflowError(index, len(sequence) + len(new), self._rows.capacity)
        self.settle()
        self._is_cancelled = False
        self._override = None
        for running, new in zip(self._running, arrays, strict=True):
            running.start_clock()
            if len(new):
                running.append_input(new)
                self._num_prompt_tokens += len(new)

    def generate_next_token(self) -> None:
        """Chooses and appends one token for every sequence that is not done.

        If ``cancel`` or ``max_time`` interrupts it, the sequences end and no token is chosen.

        Raises:
            InvalidInputError: Nothing was appended yet, or all sequences are done.
            GenAIError: As ``Model.forward``.
        """
        started = time.perf_counter()
        self._next_tokens = [None] * len(self._sequences)
        if all(sequence.finish_reason for sequence in self._sequences):
            raise InvalidInputError("All sequences are done", remedy="Append tokens or rewind first.")
        if not self._run_pending():
            self._stopwatch.add(time.perf_counter() - started, 0)
            return
        for index, sequence in enumerate(self._sequences):
            # With speculation, those without logits wait for the ones that need no step.
            if sequence.finish_reason is None and sequence.logits is not None:
                self._choose(index)
        self._override = None
        num_tokens = sum(token is not None for token in self._next_tokens)
        self._stopwatch.add(time.perf_counter() - started, num_tokens)
        self._end_if_interrupted()

    def run_prompts(self) -> None:
        """Computes the prompts' log-probabilities for sequences that end before their first new token."""
        wanted = [running.wants_prompt_logprobs for running in self._running]
        if any(wanted):
            self._rows.run(self._sequences, wanted, is_interrupted=lambda: self._is_cancelled, observe=self._observe)

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
        self.settle()
        self._is_cancelled = False
        self._override = None
        for index, (sequence, wanted) in enumerate(zip(self._sequences, lengths, strict=True)):
            if wanted < len(sequence):
                sequence.truncate(wanted)
                self._running[index].new_text()
            elif sequence.finish_reason == "cancelled":
                sequence.finish_reason = None
                self._running[index].new_text()
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
        logits = np.zeros((len(self._sequences), self._vocab_size), dtype=np.float32)
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
        expected = (len(self._sequences), self._vocab_size)
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

    def settle(self) -> None:
        """Forgets all drafts: the cache holds nothing but the sequences' own tokens."""
        if self._speculator is not None:
            self._speculator.drop()

    def close_drafter(self) -> None:
        """Frees what the drafter holds, and leaves the caches."""
        if self._speculator is not None:
            self._speculator.close()

    def close(self) -> None:
        """Frees the caches. A second call does nothing."""
        self.close_drafter()
        self._rows.close()

    # Parts of a step

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
        if self._speculator is not None:
            return self._run_drafts(self._speculator, active)
        observe = self._observe if any(running.wants_prompt_logprobs for running in self._running) else None
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
        limits = [running.length_limit - len(running.state) - 1 for running in self._running]
        found: list[dict[int, NDArray[np.float32]]] = [{} for _ in self._sequences]

        def observe(index: int, start: int, logits: NDArray[np.float32]) -> None:
            self._observe(index, start, logits)
            found[index].update(enumerate(logits, start=start))

        watches = all(sequence.num_new for sequence in going) or any(
            running.wants_prompt_logprobs for running in self._running
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
        self._running[index].observe(start, logits)

    def _choose(self, index: int) -> None:
        running = self._running[index]
        # _run_pending has set the logits of every sequence that goes on.
        logits = cast("NDArray[np.float32]", running.state.logits) if self._override is None else self._override[index]
        token = running.choose(logits)
        if self._speculator is not None:
            self._speculator.chosen(index, token)
        self._next_tokens[index] = token
        running.settle(token)

    def _draw(self, index: int, logits: NDArray[np.float32], tokens: NDArray[np.int64], num_new: int) -> int:
        return self._running[index].draw(logits, tokens, num_new)

    def _is_interrupted(self) -> bool:
        return self._is_cancelled or any(
            running.state.finish_reason is None and running.is_late for running in self._running
        )

    def _end_if_interrupted(self) -> bool:
        """Ends what was cancelled or is out of time; True if that leaves nothing that goes on."""
        if not self._is_interrupted():
            return False
        for running in self._running:
            if running.state.finish_reason is None and (self._is_cancelled or running.is_late):
                running.end("cancelled" if self._is_cancelled else "time")
        return all(sequence.finish_reason for sequence in self._sequences)
