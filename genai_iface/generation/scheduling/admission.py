# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What a scheduler takes in: models that it can batch, and requests that fit a slot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from genai_iface.capabilities import Capability
from genai_iface.errors import InvalidInputError, UnsupportedCapabilityError
from genai_iface.generation._request import GenerationRequest
from genai_iface.generation._running import RunningSequence
from genai_iface.generation._token_ids import as_ids
from genai_iface.generation.sampling.sampler import make_sampler
from genai_iface.protocols import Model, Tokenizer

__all__ = ["check_batches", "open_sequence"]


def check_batches(model: Model[Any]) -> None:
    """Refuses models whose rows cannot take different steps at once.

    Raises:
        UnsupportedCapabilityError: A capability is missing, or the cache wraps around.
    """
    for capability in (Capability.BATCH, Capability.RAGGED, Capability.CHUNKED_PREFILL):
        if capability not in model.capabilities:
            raise UnsupportedCapabilityError(
                f"Continuous batching needs the capability {str(capability)!r}, which this model does not declare",
                capability=capability,
                remedy="Use generate(), which runs its sequences one after the other then.",
            )
    if model.spec.cache.is_circular:
        raise UnsupportedCapabilityError(
            "Continuous batching pads the rows of a step, and in a cache that wraps around the padding would overwrite "
            "the oldest tokens",
            capability=Capability.RAGGED,
            remedy="Use generate(), which gives each sequence a cache of its own.",
        )


def open_sequence(
    request: GenerationRequest,
    model: Model[Any],
    tokenizer: Tokenizer,
    *,
    room: int,
    index: int = 0,
    skip_special_tokens: bool = True,
) -> RunningSequence:
    """The sequence of a request, ready to run. Its time begins now.

    Args:
        request: What was asked.
        model: Will run it.
        tokenizer: Text from tokens.
        room: Tokens that a slot holds.
        index: Which of several sequences of one prompt it is, for its draws.
        skip_special_tokens: Whether special tokens are left out of the text.

    Raises:
        InvalidInputError: It is for several sequences, or needs more tokens than a slot holds.
        UnsupportedCapabilityError: It asks for beam search, a saved prompt or speculation.
    """
    _check_alone(request)
    (config,), (prompt,) = request.configs, request.prompts
    sequence = RunningSequence(
        make_sampler(
            config,
            request.hooks,
            vocab_size=model.spec.vocab_size,
            seed=config.seed or 0,
            tokenizer=tokenizer,
        ),
        index=index,
        capacity=_tokens_for(request, room),
        tokenizer=tokenizer if skip_special_tokens else cast("Tokenizer", _AllTokens(tokenizer)),
        continues_text=request.continues_text or config.echo,
        stopping_criteria=request.hooks.stopping_criteria,
    )
    sequence.start_clock()
    sequence.append_input(as_ids(prompt, model.spec.vocab_size))
    return sequence


def _check_alone(request: GenerationRequest) -> None:
    for name, value in (("prefix", request.hooks.prefix), ("speculation", request.hooks.speculation)):
        if value is not None:
            raise UnsupportedCapabilityError(
                f"A request of a scheduler cannot have {name}", remedy="Use generate() for it."
            )
    if request.num_sequences > 1:
        raise InvalidInputError(
            f"A request is for one sequence, this one is for {request.num_sequences}", remedy="Submit one for each."
        )
    if request.configs[0].num_beams > 1:
        raise UnsupportedCapabilityError(
            "A scheduler does not search beams", remedy="Use generate() for it, or num_beams=1."
        )


def _tokens_for(request: GenerationRequest, room: int) -> int:
    """The tokens that a request may have; without a limit of its own it may fill a slot.

    Raises:
        InvalidInputError: It asks for more than a slot holds.
    """
    size = len(request.prompts[0])
    if request.capacity <= room or (not request.is_bounded and size < room):
        return min(request.capacity, room)
    num_new = max(request.capacity - size, 0)
    raise InvalidInputError(
        f"The request needs {size} tokens for its prompt and {num_new} new ones, {size + num_new} in "
        f"all, and a slot holds {room}",
        remedy="Ask for fewer new tokens, shorten the prompt, or make the scheduler with a larger capacity.",
    )


class _AllTokens:
    """A tokenizer whose texts show special tokens, for formats that are written with them."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def decode(self, token_ids: Sequence[int], /, *, skip_special_tokens: bool = False) -> str:
        return self._tokenizer.decode(token_ids, skip_special_tokens=False)
