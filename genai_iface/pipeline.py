# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""``TextGenerationPipeline``: prompt in, text out, over any backend."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from os import PathLike
from typing import TYPE_CHECKING, Any, Self, TypeAlias, Unpack
from weakref import WeakSet

from genai_iface.capabilities import Capability
from genai_iface.config import GenerationConfig, GenerationOverrides
from genai_iface.display import Displayed, ShownStream, count_tokens, model_facts, notebook_prefill
from genai_iface.generation._collect import collect
from genai_iface.generation._driver import Driver
from genai_iface.generation._engines import Engines, ModelEngines, StepSettings
from genai_iface.generation._request import GenerationRequest, context_of, make_request
from genai_iface.generation._scoring import as_score, perplexity, score_tokens, split_continuation
from genai_iface.generation.chat.session import ChatSession
from genai_iface.generation.constraints import Constraint
from genai_iface.generation.hooks import (
    ChunkHook,
    GenerationHooks,
    LogitsHook,
    PrefillHook,
    StopHook,
    Streamer,
    TextHook,
)
from genai_iface.generation.rows.cached_rows import DEFAULT_PREFILL_CHUNK_SIZE
from genai_iface.generation.rows.prefix import save_prefix
from genai_iface.generation.runtime.engines import RuntimeEngines
from genai_iface.generation.scheduling.scheduler import Scheduler
from genai_iface.generation.speculation.speculator import Speculation
from genai_iface.generation.text.async_chunks import iterate_in_thread
from genai_iface.generation.text.prompts import encode_prompt
from genai_iface.protocols import Backend, Model, Prompt, Tokenizer
from genai_iface.registry import load_backend
from genai_iface.results import Chunk, GenerationResult, Score

if TYPE_CHECKING:
    from genai_iface.folder import ModelFolder
    from genai_iface.integrations.transformers import Exported

__all__ = ["TextGenerationPipeline"]

Configs: TypeAlias = GenerationConfig | Sequence[GenerationConfig] | None
"""One configuration for all prompts, or one for each."""


class TextGenerationPipeline(Displayed):
    """Generates text with a model folder on a backend. Implements the protocol ``Pipeline``.

    Calls from several threads are served step by step in turn, or side by side if the model declares
    the capability "threads".

    Args:
        folder: A folder that holds a model, a ``.onnx`` file, or an id ``ORG/NAME[:VARIANT]`` of the Hugging Face Hub,
            which is downloaded if it is not in the local cache; "onnx-prose" or None for the model that comes with the
            package.
        backend: A registered name, or a backend object.
        device: An identifier from the backend's ``devices()``; None for its default.
        options: The backend's own settings by name.
        variant: Which of several models to take, as ``genai-iface inspect`` names them; None for the fullest precision.
        revision: A branch, tag or commit of the repository.
        prefill_chunk_size: Most prompt tokens per sequence in one step. ``cancel`` and ``max_time``
            are noticed between steps.
        on_prefill: Told after each step of a prompt how many tokens are done, and of how many. None for a bar in
            the cell where this runs in a notebook, and for nothing elsewhere.
        memory_limit: Most bytes that the cache of a call, a conversation or a scheduler may take; one that would need
            more is refused before it is made. None for what the system has available, where that is known.

    Raises:
        GenAIError: The folder or the backend cannot be loaded.
    """

    _on_close: Callable[[], None] | None = None

    def __init__(
        self,
        folder: str | PathLike[str] | None = None,
        *,
        backend: str | Backend = "numpy",
        device: str | None = None,
        options: Mapping[str, Any] | None = None,
        variant: str | None = None,
        revision: str | None = None,
        prefill_chunk_size: int = DEFAULT_PREFILL_CHUNK_SIZE,
        on_prefill: PrefillHook | None = None,
        memory_limit: int | None = None,
    ) -> None:
        # Reading a folder needs libraries that importing the interface must not load.
        from genai_iface.folder import open_folder, open_texts  # noqa: PLC0415
        from genai_iface.folder.resolve import as_path  # noqa: PLC0415
        from genai_iface.models import default_folder  # noqa: PLC0415

        path = default_folder() if folder is None else as_path(folder, variant=variant, revision=revision)
        settings = _step_settings(prefill_chunk_size, on_prefill, memory_limit)
        chosen = load_backend(backend) if isinstance(backend, str) else backend
        if Capability.GENERATOR in chosen.info().capabilities:
            tokenizer, config = open_texts(path)
            runtime = RuntimeEngines(chosen, path, tokenizer, device=device, options=options)
            self._set_up(runtime, tokenizer, config, settings)
            self._on_close = tokenizer.close
            return
        self._load(open_folder(path), chosen, settings, device, options)

    @classmethod
    def from_parts(
        cls,
        model: Model[Any],
        tokenizer: Tokenizer,
        generation_config: GenerationConfig | None = None,
        *,
        prefill_chunk_size: int = DEFAULT_PREFILL_CHUNK_SIZE,
        on_prefill: PrefillHook | None = None,
        memory_limit: int | None = None,
    ) -> Self:
        """Makes a pipeline from a model and a tokenizer that are loaded already.

        Closing the pipeline closes the model.
        """
        settings = _step_settings(prefill_chunk_size, on_prefill, memory_limit)
        pipeline = cls.__new__(cls)
        engines = ModelEngines(model, tokenizer, settings)
        pipeline._set_up(engines, tokenizer, generation_config or GenerationConfig(), settings)
        return pipeline

    @classmethod
    def from_exported(
        cls,
        exported: str | PathLike[str] | Exported,
        *,
        tokenizer: str | PathLike[str] | Exported | None = None,
        backend: str | Backend = "numpy",
        device: str | None = None,
        options: Mapping[str, Any] | None = None,
        prefill_chunk_size: int = DEFAULT_PREFILL_CHUNK_SIZE,
        on_prefill: PrefillHook | None = None,
        memory_limit: int | None = None,
    ) -> Self:
        """Makes a pipeline from what Transformers' ``OnnxExporter`` exported for generation.

        A folder with its tokenizer in it opens without this, as any other: ``TextGenerationPipeline(folder)``.

        Args:
            exported: An ``ExportedModel``, or the folder that it was saved to.
            tokenizer: Where the tokenizer and its chat templates are, if not there: a folder, or a fast tokenizer of
                Transformers.
            backend: As for the class.
            device: As for the class.
            options: As for the class.
            prefill_chunk_size: As for the class.
            on_prefill: As for the class.
            memory_limit: As for the class.

        Raises:
            GenAIError: As for the class, or the export is for another runtime, or is not one decoder of text.
        """
        from genai_iface.integrations.transformers import open_export  # noqa: PLC0415 - reads graphs

        settings = _step_settings(prefill_chunk_size, on_prefill, memory_limit)
        chosen = load_backend(backend) if isinstance(backend, str) else backend
        with ExitStack() as stack:
            opened = stack.enter_context(open_export(exported, tokenizer=tokenizer))
            pipeline = cls.__new__(cls)
            pipeline._load(opened, chosen, settings, device, options)
            # A backend may read weights as long as it lives; what was saved for it goes with the pipeline.
            if pipeline._on_close is not None:
                stack.callback(pipeline._on_close)
            pipeline._on_close = stack.pop_all().close
        return pipeline

    def _load(
        self,
        opened: ModelFolder,
        backend: Backend,
        settings: StepSettings,
        device: str | None,
        options: Mapping[str, Any] | None,
    ) -> None:
        model = backend.load(opened.source, device=device, options=options)
        tokenizer = opened.tokenizer
        self._set_up(ModelEngines(model, tokenizer, settings), tokenizer, opened.generation_config, settings)
        self._on_close = tokenizer.close

    def _set_up(
        self, engines: Engines, tokenizer: Tokenizer, generation_config: GenerationConfig, settings: StepSettings
    ) -> None:
        self._engines = engines
        self._settings = settings
        self._tokenizer = tokenizer
        self._generation_config = generation_config
        is_threaded = Capability.THREADS in engines.capabilities
        self._model_lock: AbstractContextManager[object] = nullcontext() if is_threaded else threading.RLock()
        self._driver = Driver(self._model_lock)
        self._sessions: WeakSet[ChatSession] = WeakSet()
        self._schedulers: WeakSet[Scheduler] = WeakSet()

    def display_facts(self) -> Mapping[str, object]:
        """What a console and a notebook show."""
        # A runtime that owns the loop says nothing of its model.
        known = {} if self._engines.spec is None else model_facts(self._engines.need_model("repr()"))
        state = "closed" if self._driver.is_closed else "open"
        return {**known, "running calls": len(self._driver.running), "state": state}

    @property
    def model(self) -> Model:
        """The loaded model.

        Raises:
            UnsupportedCapabilityError: There is none: the backend's runtime owns the loop.
        """
        return self._engines.need_model("model")

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
        chat_template: str | None = None,
        **overrides: Unpack[GenerationOverrides],
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
            chat_template: For a conversation: the name of one of the folder's chat templates, or a template itself.
            **overrides: Single fields of ``GenerationConfig``, over either.

        Returns:
            Texts, tokens and finish reasons in prompt order. After ``cancel`` it holds what there is.

        Raises:
            InvalidInputError: A prompt is empty or a parameter is not legal.
            UnsupportedCapabilityError: A parameter asks for what cannot be done.
            CacheOverflowError: A prompt is longer than the model's context.
            InsufficientMemoryError: The cache would need more memory than there is.
        """
        hooks = GenerationHooks(
            logits_processors=logits_processors,
            stopping_criteria=stopping_criteria,
            constraint=constraint,
            prefix=prefix,
            speculation=speculation,
            streamer=streamer,
            on_chunk=on_chunk,
        )
        request = self._ask(prompt, config, hooks, overrides, chat_template)
        engine = self._engines.open_engine(request)
        with closing(self._driver.run(engine)) as chunks:
            is_shown = streamer is not None or on_chunk is not None
            counted = chunks if is_shown else count_tokens(chunks, request.most_new_tokens)
            return collect(request, engine, counted)

    __call__ = generate

    def stream(
        self,
        prompt: Prompt,
        config: Configs = None,
        *,
        logits_processors: Sequence[LogitsHook] = (),
        stopping_criteria: Sequence[StopHook] = (),
        constraint: Constraint | None = None,
        prefix: str | PathLike[str] | None = None,
        speculation: Speculation | None = None,
        chat_template: str | None = None,
        **overrides: Unpack[GenerationOverrides],
    ) -> ShownStream:
        """Generates and yields text as it comes. Arguments and errors as ``generate``.

        The prompt is encoded and the parameters are checked at once; the work begins with the first
        chunk. Closing the iterator, or dropping it, frees its cache. As the last line of a notebook's cell it prints
        the text while it comes.
        """
        hooks = GenerationHooks(
            logits_processors=logits_processors,
            stopping_criteria=stopping_criteria,
            constraint=constraint,
            prefix=prefix,
            speculation=speculation,
        )
        engine = self._engines.open_engine(self._ask(prompt, config, hooks, overrides, chat_template))
        return ShownStream(self._driver.run(engine))

    def astream(
        self,
        prompt: Prompt,
        config: Configs = None,
        *,
        logits_processors: Sequence[LogitsHook] = (),
        stopping_criteria: Sequence[StopHook] = (),
        constraint: Constraint | None = None,
        prefix: str | PathLike[str] | None = None,
        speculation: Speculation | None = None,
        chat_template: str | None = None,
        **overrides: Unpack[GenerationOverrides],
    ) -> AsyncIterator[Chunk]:
        """As ``stream``, for asyncio: the steps run in a worker thread.

        Closing the iterator, or cancelling the task that reads it, cancels the generation.
        """
        hooks = GenerationHooks(
            logits_processors=logits_processors,
            stopping_criteria=stopping_criteria,
            constraint=constraint,
            prefix=prefix,
            speculation=speculation,
        )
        engine = self._engines.open_engine(self._ask(prompt, config, hooks, overrides, chat_template))
        return iterate_in_thread(self._driver.run(engine), engine.cancel)

    def chat(
        self,
        *,
        system: str | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        chat_template: str | None = None,
        template_kwargs: Mapping[str, Any] | None = None,
        capacity: int | None = None,
        logits_processors: Sequence[LogitsHook] = (),
        stopping_criteria: Sequence[StopHook] = (),
        constraint: Constraint | None = None,
        speculation: Speculation | None = None,
        **overrides: Unpack[GenerationOverrides],
    ) -> ChatSession:
        """Starts a conversation that keeps its cache from turn to turn.

        Args:
            system: The system message.
            tools: What the chat template is told about tools.
            chat_template: The name of one of the folder's chat templates, or a template itself. None: "tool_use" if
                tools are given and there is one of that name, else "default".
            template_kwargs: Further variables of the template.
            capacity: Most tokens of the conversation; None for the model's context.
            logits_processors: As for ``generate``, for all its answers.
            stopping_criteria: As for ``generate``, for all its answers.
            constraint: As for ``generate``, for all its answers.
            speculation: As for ``generate``, for all its answers.
            **overrides: Fields of ``GenerationConfig`` for all its answers.

        Raises:
            InvalidInputError: Nothing bounds the conversation.
            UnsupportedCapabilityError: The folder has no chat template, and none is given.
            InsufficientMemoryError: Its cache would need more memory than there is.
        """
        self._driver.check_open()
        hooks = GenerationHooks(
            logits_processors=logits_processors,
            stopping_criteria=stopping_criteria,
            constraint=constraint,
            speculation=speculation,
        )

        def ask(token_ids: list[int], hooks: GenerationHooks, more: Mapping[str, Any]) -> GenerationRequest:
            return self._ask(token_ids, None, hooks, {**overrides, **more})

        session = ChatSession(
            self._tokenizer,
            self._engines.keep(capacity, ask),
            self._driver.run,
            hooks,
            system=system,
            tools=tools,
            chat_template=chat_template,
            template_kwargs=template_kwargs,
        )
        self._sessions.add(session)
        return session

    def scheduler(
        self,
        *,
        slots: int = 8,
        token_budget: int = 256,
        capacity: int | None = None,
        thread: bool = True,
        prefix_bytes: int = 0,
    ) -> Scheduler:
        """Starts to serve many requests at once, which join and leave one batch at any step.

        Args:
            slots: Requests that run at once; others wait for their turn.
            token_budget: Most tokens of one step, over all slots; at least ``slots``.
            capacity: Most tokens of one request, prompt included; None for the model's context.
            thread: Whether a thread of its own runs the steps; otherwise whoever waits for a request does.
            prefix_bytes: Most bytes of the cache that finished requests keep, so that a prompt which begins as one of
                theirs need not run from its beginning; 0 for none.

        Raises:
            UnsupportedCapabilityError: The model takes no ragged steps, or its cache wraps around.
            InvalidInputError: A value is out of range.
        """
        self._driver.check_open()
        scheduler = Scheduler(
            self._engines.need_model("scheduler()", Capability.RAGGED),
            self._tokenizer,
            self._ask,
            model_lock=self._model_lock,
            slots=slots,
            token_budget=token_budget,
            capacity=capacity,
            thread=thread,
            memory_limit=self._settings.memory_limit,
            prefix_bytes=prefix_bytes,
        )
        self._schedulers.add(scheduler)
        return scheduler

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
        self._driver.check_open()
        model = self._engines.need_model("save_prefix()", Capability.SAVE)
        (ids,) = encode_prompt(self._tokenizer, prompt).token_ids
        with self._model_lock:
            self._driver.check_open()
            save_prefix(model, ids, path, chunk_size=self._settings.prefill_chunk_size)

    def score(self, prompt: str, continuation: str, /) -> Score:
        """How likely a continuation of a prompt is, under the model's own logits.

        Both are tokenized as one text; a token that reaches over the border counts for the continuation.

        Raises:
            InvalidInputError: The prompt gives no token.
            CacheOverflowError: Together they are longer than the model's context.
        """
        self._driver.check_open()
        model = self._engines.need_model("score()", Capability.LOGITS_ALL)
        tokens, start = split_continuation(self._tokenizer, prompt, continuation)
        with self._model_lock:
            self._driver.check_open()
            return as_score(score_tokens(model, tokens, start, num_top=1, chunk_size=self._settings.prefill_chunk_size))

    def perplexity(self, text: str, /, *, stride: int | None = None) -> float:
        """The exponential of the mean negative log-probability of a text's tokens, all but the first.

        A text beyond the model's context is scored in windows of that length.

        Args:
            text: The text; at least two tokens.
            stride: How many tokens further each window begins; None for half a window.

        Raises:
            InvalidInputError: The text is too short, or the stride is not legal.
        """
        self._driver.check_open()
        model = self._engines.need_model("perplexity()", Capability.LOGITS_ALL)
        tokens = self._tokenizer.encode(text)
        with self._model_lock:
            self._driver.check_open()
            window = context_of(model.spec)
            return perplexity(model, tokens, window=window, stride=stride, chunk_size=self._settings.prefill_chunk_size)

    def cancel(self) -> None:
        """Ends every running call with what it has, reason "cancelled". May be called from any thread."""
        self._driver.cancel()
        for scheduler in list(self._schedulers):
            scheduler.cancel()

    def close(self) -> None:
        """Ends every running call and frees the model and all caches. A second call does nothing."""
        if not self._driver.close():
            return
        for session in list(self._sessions):
            session.close()
        for scheduler in list(self._schedulers):
            scheduler.close()
        self._engines.close()
        if self._on_close is not None:
            self._on_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # Parts of a call

    def _ask(
        self,
        prompt: Prompt,
        config: Configs,
        hooks: GenerationHooks,
        overrides: Mapping[str, Any],
        chat_template: str | None = None,
    ) -> GenerationRequest:
        """Encodes and checks what a caller asks for."""
        self._driver.check_open()
        eos = self._generation_config.eos_token_ids
        if self._generation_config.eos_token_id is None and self._tokenizer.eos_token_id is not None:
            eos = (self._tokenizer.eos_token_id,)
        return make_request(
            prompt,
            self._tokenizer,
            config or self._generation_config,
            hooks,
            overrides,
            eos_token_ids=eos,
            spec=self._engines.spec,
            chat_template=chat_template,
        )


def _step_settings(prefill_chunk_size: int, on_prefill: PrefillHook | None, memory_limit: int | None) -> StepSettings:
    """What a pipeline is made with; in a notebook somebody always hears of a long prompt."""
    return StepSettings(
        prefill_chunk_size=prefill_chunk_size,
        on_prefill=on_prefill or notebook_prefill(),
        memory_limit=memory_limit,
    )
