# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""``TextGenerationPipeline``: prompt in, text out, over any backend."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from os import PathLike
from typing import Any, Self, TypeAlias
from weakref import WeakSet

from genai_iface.capabilities import Capability
from genai_iface.config import GenerationConfig
from genai_iface.errors import InvalidInputError
from genai_iface.generation.async_chunks import iterate_in_thread
from genai_iface.generation.beam_call import beam_chunks, found_beams, open_search
from genai_iface.generation.cached_rows import DEFAULT_PREFILL_CHUNK_SIZE, CachedRows
from genai_iface.generation.call import Call, RunningTurn, capacity_for, context_of, split_options, with_seeds
from genai_iface.generation.chat import ChatSession
from genai_iface.generation.chunks import ChunkSource
from genai_iface.generation.collect import collect
from genai_iface.generation.constraints import Constraint, check_constraint
from genai_iface.generation.generator import ModelGenerator
from genai_iface.generation.generator_call import open_generator
from genai_iface.generation.metrics import Stopwatch
from genai_iface.generation.own_process import OwnProcess
from genai_iface.generation.plan import one_per_sequence
from genai_iface.generation.prefix import save_prefix
from genai_iface.generation.processors import LogitsHook
from genai_iface.generation.prompts import encode_prompt, is_conversation
from genai_iface.generation.room import check_call_fits, check_memory_limit, check_rows_fit
from genai_iface.generation.scheduler import Scheduler
from genai_iface.generation.scoring import as_score, perplexity, score_tokens, split_continuation
from genai_iface.generation.speculation import Speculation
from genai_iface.generation.stopping import StopHook
from genai_iface.generation.streamer import ChunkHook, Streamer, TextHook, streaming_to
from genai_iface.generation.supported import check_supported, check_together
from genai_iface.protocols import Backend, Model, Prompt, Tokenizer
from genai_iface.registry import load_model
from genai_iface.results import Chunk, GenerationResult, Score

__all__ = ["TextGenerationPipeline"]

PrefillProgress: TypeAlias = Callable[[int, int], None]
"""Told how many prompt tokens are done, and of how many."""

Configs: TypeAlias = GenerationConfig | Sequence[GenerationConfig] | None
"""One configuration for all prompts, or one for each."""


class TextGenerationPipeline:
    """Generates text with a model folder on a backend. Implements the protocol ``Pipeline``.

    Calls from several threads are served step by step in turn, or side by side if the model declares
    the capability "threads".

    Args:
        folder: The model folder; None for the model that comes with the package.
        backend: A registered name, or a backend object.
        device: An identifier from the backend's ``devices()``; None for its default.
        options: The backend's own settings by name.
        prefill_chunk_size: Most prompt tokens per sequence in one step. ``cancel`` and ``max_time``
            are noticed between steps.
        on_prefill: Told after each step of a prompt how many tokens are done, and of how many.
        memory_limit: Most bytes that the cache of a call, a conversation or a scheduler may take; one that would need
            more is refused before it is made. None for what the system has available, where that is known.

    Raises:
        GenAIError: The folder or the backend cannot be loaded.
    """

    def __init__(
        self,
        folder: str | PathLike[str] | None = None,
        *,
        backend: str | Backend = "numpy",
        device: str | None = None,
        options: Mapping[str, Any] | None = None,
        prefill_chunk_size: int = DEFAULT_PREFILL_CHUNK_SIZE,
        on_prefill: PrefillProgress | None = None,
        memory_limit: int | None = None,
    ) -> None:
        # Reading a folder needs libraries that importing the interface must not load.
        from genai_iface.folder import open_folder  # noqa: PLC0415
        from genai_iface.models import default_folder  # noqa: PLC0415

        path = default_folder() if folder is None else folder
        opened = open_folder(path)
        model = load_model(path, backend=backend, device=device, options=options)
        self._set_up(model, opened.tokenizer, opened.generation_config, prefill_chunk_size, on_prefill, memory_limit)

    @classmethod
    def from_parts(
        cls,
        model: Model[Any],
        tokenizer: Tokenizer,
        generation_config: GenerationConfig | None = None,
        *,
        prefill_chunk_size: int = DEFAULT_PREFILL_CHUNK_SIZE,
        on_prefill: PrefillProgress | None = None,
        memory_limit: int | None = None,
    ) -> Self:
        """Makes a pipeline from a model and a tokenizer that are loaded already.

        Closing the pipeline closes the model.
        """
        pipeline = cls.__new__(cls)
        pipeline._set_up(model, tokenizer, generation_config, prefill_chunk_size, on_prefill, memory_limit)
        return pipeline

    def _set_up(
        self,
        model: Model[Any],
        tokenizer: Tokenizer,
        generation_config: GenerationConfig | None,
        prefill_chunk_size: int,
        on_prefill: PrefillProgress | None,
        memory_limit: int | None,
    ) -> None:
        check_memory_limit(memory_limit)
        self._process = OwnProcess("pipeline")
        self._memory_limit = memory_limit
        self._model = model
        self._tokenizer = tokenizer
        self._generation_config = generation_config or GenerationConfig()
        self._prefill_chunk_size = prefill_chunk_size
        self._on_prefill = on_prefill
        self._running: set[Call] = set()
        self._is_closed = False
        self._sessions: WeakSet[ChatSession] = WeakSet()
        self._schedulers: WeakSet[Scheduler] = WeakSet()
        self._model_lock = nullcontext() if Capability.THREADS in model.capabilities else threading.RLock()

    @property
    def model(self) -> Model[Any]:
        """The loaded model."""
        return self._model

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer."""
        return self._tokenizer

    @property
    def generation_config(self) -> GenerationConfig:
        """The defaults that a call's ``config`` and overrides replace; at first those of the folder."""
        return self._generation_config

    @generation_config.setter
    def generation_config(self, config: GenerationConfig) -> None:
        self._generation_config = config

    def generate(
        self,
        prompt: Prompt,
        config: Configs = None,
        *,
        on_chunk: ChunkHook | None = None,
        streamer: Streamer | TextHook | None = None,
        logits_processors: Sequence[LogitsHook] = (),
        stopping_criteria: Sequence[StopHook] = (),
        constraint: Constraint | None = None,
        prefix: str | PathLike[str] | None = None,
        speculation: Speculation | None = None,
        **overrides: Any,
    ) -> GenerationResult:
        """Generates until every sequence is done.

        Args:
            prompt: A text, a list of texts, a conversation (a list of messages), a list of token ids, or
                a list of such lists.
            config: Replaces ``generation_config`` for this call: one, or a list with one for each prompt.
            on_chunk: Called with each piece as it comes.
            streamer: Has ``write(text)`` and ``end()``, or is a function of the text; for one sequence. Where the
                text goes while it comes; True from ``write`` ends the generation.
            logits_processors: Functions on (tokens (T,), scores (V,)) that return new scores, or change
                them in place and return None. They run after all other processors.
            stopping_criteria: Functions on (tokens (T,), generated text); True ends the sequence.
            constraint: A rule of your own for the output; ``json_schema``, ``regex`` and ``lark_grammar`` are fields
                of the configuration.
            prefix: A file of ``save_prefix``; what a prompt shares with it from the beginning does not run.
            speculation: How to guess tokens, ``PromptLookup()`` or ``DraftModel(model)``; the output is the same.
            **overrides: Single fields of ``GenerationConfig``, over either.

        Returns:
            Texts, tokens and finish reasons in prompt order. After ``cancel`` it holds what there is.

        Raises:
            InvalidInputError: A prompt is empty or a parameter is not legal.
            UnsupportedCapabilityError: A parameter asks for what cannot be done.
            CacheOverflowError: A prompt is longer than the model's context.
            InsufficientMemoryError: The cache would need more memory than there is.
        """
        options = {
            **overrides,
            "logits_processors": logits_processors,
            "stopping_criteria": stopping_criteria,
            "constraint": constraint,
            "prefix": prefix,
            "speculation": speculation,
        }
        run = self._prepare(prompt, config, options)
        with streaming_to(streamer, run, on_chunk) as take, closing(self._chunks(run)) as chunks:
            return collect(run, chunks, take)

    __call__ = generate

    def stream(self, prompt: Prompt, config: Configs = None, **options: Any) -> Iterator[Chunk]:
        """Generates and yields text as it comes. Arguments and errors as ``generate``.

        The prompt is encoded and the parameters are checked at once; the work begins with the first
        chunk. Closing the iterator, or dropping it, frees its cache.
        """
        return self._chunks(self._prepare(prompt, config, options))

    def astream(self, prompt: Prompt, config: Configs = None, **options: Any) -> AsyncIterator[Chunk]:
        """As ``stream``, for asyncio: the steps run in a worker thread.

        Closing the iterator, or cancelling the task that reads it, cancels the generation.
        """
        run = self._prepare(prompt, config, options)
        return iterate_in_thread(self._chunks(run), run.cancel)

    def chat(
        self,
        *,
        system: str | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        template_kwargs: Mapping[str, Any] | None = None,
        capacity: int | None = None,
        **overrides: Any,
    ) -> ChatSession:
        """Starts a conversation that keeps its cache from turn to turn.

        Args:
            system: The system message.
            tools: What the chat template is told about tools.
            template_kwargs: Further variables of the template.
            capacity: Most tokens of the conversation; None for the model's context.
            **overrides: Fields of ``GenerationConfig`` for all its answers.

        Raises:
            InvalidInputError: Nothing bounds the conversation.
        """
        self._check_open()
        most = capacity or context_of(self._model.spec)
        if most is None:
            raise InvalidInputError("The model has no context length", remedy="Give capacity.")

        def open_rows() -> CachedRows[Any]:
            if Capability.GROWTH not in self._model.capabilities:
                check_rows_fit(self._model, 1, most, self._memory_limit)
            return CachedRows(self._model, 1, most, self._prefill_chunk_size)

        session = ChatSession(
            self._tokenizer,
            lambda ids, rows, cached, more: self._turn(ids, rows, cached, {**overrides, **more}),
            open_rows,
            system=system,
            tools=tools,
            template_kwargs=template_kwargs,
        )
        self._sessions.add(session)
        return session

    def scheduler(
        self, *, slots: int = 8, token_budget: int = 256, capacity: int | None = None, thread: bool = True
    ) -> Scheduler:
        """Starts to serve many requests at once, which join and leave one batch at any step.

        Args:
            slots: Requests that run at once; others wait for their turn.
            token_budget: Most tokens of one step, over all slots; at least ``slots``.
            capacity: Most tokens of one request, prompt included; None for the model's context.
            thread: Whether a thread of its own runs the steps; otherwise whoever waits for a request does.

        Raises:
            UnsupportedCapabilityError: The model takes no ragged steps, or its cache wraps around.
            InvalidInputError: A value is out of range.
        """
        self._check_open()
        scheduler = Scheduler(
            self._model,
            self._tokenizer,
            self._prepare,
            eos_token_ids=self._eos_token_ids,
            model_lock=self._model_lock,
            slots=slots,
            token_budget=token_budget,
            capacity=capacity,
            thread=thread,
            memory_limit=self._memory_limit,
        )
        self._schedulers.add(scheduler)
        return scheduler

    def _turn(
        self, token_ids: list[int], rows: CachedRows[Any], cached: list[int], overrides: Mapping[str, Any]
    ) -> RunningTurn:
        run = self._prepare(token_ids, None, overrides)
        run.borrow(rows)
        with self._model_lock:
            run.num_reused_tokens = sum(rows.keep_common(cached, run.prompts))
        return RunningTurn(run, self._chunks(run))

    def save_prefix(self, prompt: str | Sequence[int], path: str | PathLike[str], /) -> None:
        """Runs a prompt and keeps its cache on disk, for calls of ``generate`` with ``prefix``.

        Args:
            prompt: A text or token ids.
            path: The file, in safetensors format; replaced if it is a regular file.

        Raises:
            UnsupportedCapabilityError: The model cannot save caches.
            InvalidInputError: The prompt is empty, or there cannot be a file of that name, or something else than a
                regular file has it.
            OutputError: The file cannot be written.
        """
        self._check_open()
        (ids,) = encode_prompt(self._tokenizer, prompt)
        with self._model_lock:
            self._check_open()
            save_prefix(self._model, ids, path, chunk_size=self._prefill_chunk_size)

    def score(self, prompt: str, continuation: str, /) -> Score:
        """How likely a continuation of a prompt is, under the model's own logits.

        Both are tokenized as one text; a token that reaches over the border counts for the continuation.

        Raises:
            InvalidInputError: The prompt gives no token.
            CacheOverflowError: Together they are longer than the model's context.
        """
        self._check_open()
        tokens, start = split_continuation(self._tokenizer, prompt, continuation)
        with self._model_lock:
            self._check_open()
            entries = score_tokens(self._model, tokens, start, num_top=1, chunk_size=self._prefill_chunk_size)
        return as_score(entries)

    def perplexity(self, text: str, /, *, stride: int | None = None) -> float:
        """The exponential of the mean negative log-probability of a text's tokens, all but the first.

        A text beyond the model's context is scored in windows of that length.

        Args:
            text: The text; at least two tokens.
            stride: How many tokens further each window begins; None for half a window.

        Raises:
            InvalidInputError: The text is too short, or the stride is not legal.
        """
        self._check_open()
        tokens = self._tokenizer.encode(text)
        with self._model_lock:
            self._check_open()
            window = context_of(self._model.spec)
            return perplexity(self._model, tokens, window=window, stride=stride, chunk_size=self._prefill_chunk_size)

    def cancel(self) -> None:
        """Ends every running call with what it has, reason "cancelled". May be called from any thread."""
        for run in list(self._running):
            run.cancel()
        for scheduler in list(self._schedulers):
            scheduler.cancel()

    def close(self) -> None:
        """Ends every running call and frees the model and all caches. A second call does nothing."""
        if self._is_closed or self._process.is_other:
            return
        self._is_closed = True
        self.cancel()
        for run in list(self._running):
            run.close()
        for session in list(self._sessions):
            session.close()
        for scheduler in list(self._schedulers):
            scheduler.close()
        self._model.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # Parts of a call

    def _prepare(self, prompt: Prompt, config: Configs, options: Mapping[str, Any]) -> Call:
        overrides, extras = split_options(options)
        self._check_open()
        stopwatch = Stopwatch()
        encoded = encode_prompt(self._tokenizer, prompt)
        given = one_per_sequence(config or self._generation_config, len(encoded))
        replaced = [one.replace(**overrides) for one in given]
        for one in replaced:
            check_supported(one)
            check_constraint(one, self._tokenizer, self._model.spec.vocab_size)
        check_together(replaced, extras)
        seeded, seed = with_seeds(replaced)
        pairs = [(ids, one) for ids, one in zip(encoded, seeded, strict=True) for _ in range(one.num_return_sequences)]
        prompts, configs = [ids for ids, _ in pairs], [one for _, one in pairs]
        call = Call(
            prompts=prompts,
            configs=configs,
            seed=seed,
            capacity=capacity_for(self._model.spec, prompts, configs),
            continues_text=not is_conversation(prompt),
            stopwatch=stopwatch,
            **extras,
        )
        check_call_fits(self._model, call, self._memory_limit)
        return call

    def _chunks(self, run: Call) -> Generator[Chunk, None, None]:
        """Runs the steps of a call and yields what they give."""
        self._check_open()
        if run.configs[0].num_beams > 1:
            yield from self._beam_chunks(run)
            return
        sources: list[ChunkSource] = []
        self._running.add(run)
        try:
            while not sources or not all(source.has_ended for source in sources):
                generator = self._step(run)
                # Asking for the reasons ends what was interrupted.
                reasons = generator.finish_reasons
                if not sources:
                    sources = [ChunkSource(generator.running[at], self._tokenizer, at) for at in range(len(reasons))]
                for chunk in [source.take() for source in sources]:
                    if chunk is not None:
                        yield chunk
        finally:
            self._running.discard(run)
            run.close()

    def _step(self, run: Call) -> ModelGenerator[Any]:
        self._process.check()
        with run.lock, self._model_lock:
            self._check_open()
            generator = run.generator
            if generator is None:
                generator = run.generator = open_generator(
                    run,
                    self._model,
                    self._tokenizer,
                    eos_token_ids=self._eos_token_ids(),
                    prefill_chunk_size=self._prefill_chunk_size,
                    on_prefill=self._on_prefill,
                )
                if run.is_cancelled:
                    generator.cancel()
                if generator.is_done():
                    if not run.is_cancelled:
                        generator.run_prompts()
                    return generator
            generator.generate_next_token()
            return generator

    def _beam_chunks(self, run: Call) -> Generator[Chunk, None, None]:
        """Searches beams and yields one chunk for each sequence at the end."""
        self._running.add(run)
        try:
            is_running = True
            while is_running:
                self._process.check()
                with run.lock, self._model_lock:
                    self._check_open()
                    if run.search is None:
                        run.search = open_search(
                            run,
                            self._model,
                            self._tokenizer,
                            eos_token_ids=self._eos_token_ids(),
                            prefill_chunk_size=self._prefill_chunk_size,
                            on_prefill=self._on_prefill,
                        )
                        if run.is_cancelled:
                            run.search.cancel()
                    is_running = run.search.step()
            found = found_beams(run)
            run.beam_scores = [hypothesis.score for hypothesis in found]
        finally:
            self._running.discard(run)
            run.close()
        yield from beam_chunks(run, found, self._tokenizer)

    def _eos_token_ids(self) -> tuple[int, ...]:
        eos = self._generation_config.eos_token_ids
        if not eos and self._tokenizer.eos_token_id is not None:
            eos = (self._tokenizer.eos_token_id,)
        return eos

    def _check_open(self) -> None:
        self._process.check()
        if self._is_closed:
            raise InvalidInputError("The pipeline is closed", remedy="Make a new one.")
