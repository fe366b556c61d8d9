# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What a scheduler takes in: models that it can batch, and requests that fit a slot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from genai_iface.capabilities import Capability
from genai_iface.errors import InvalidInputError, UnsupportedCapabilityError
from genai_iface.generation.call import Call
from genai_iface.generation.plan import SequencePlan, new_seed
from genai_iface.generation.running import RunningSequence
from genai_iface.generation.scheduling.job import Job
from genai_iface.generation.text.chunks import ChunkSource
from genai_iface.generation.token_ids import as_ids
from genai_iface.protocols import Model, Tokenizer

__all__ = ["check_batches", "open_job"]


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


def open_job(call: Call, model: Model[Any], tokenizer: Tokenizer, *, eos_token_ids: Sequence[int], room: int) -> Job:
    """A request as a sequence that is ready to run. Its time begins now.

    Args:
        call: What was asked.
        model: Will run it.
        tokenizer: Text from tokens.
        eos_token_ids: What ends it if its configuration names nothing.
        room: Tokens that a slot holds.

    Raises:
        InvalidInputError: It is for several sequences, or needs more tokens than a slot holds.
        UnsupportedCapabilityError: It asks for beam search.
    """
    if len(call.prompts) > 1:
        raise InvalidInputError(
            f"A request is for one sequence, this one is for {len(call.prompts)}", remedy="Submit one for each."
        )
    (config,), (prompt,) = call.configs, call.prompts
    if config.num_beams > 1:
        raise UnsupportedCapabilityError(
            "A scheduler does not search beams", remedy="Use generate() for it, or num_beams=1."
        )
    plan = SequencePlan(
        config,
        vocab_size=model.spec.vocab_size,
        eos_token_ids=eos_token_ids,
        seed=new_seed() if config.seed is None else config.seed,
        logits_processors=call.logits_processors,
        constraint=call.constraint,
        tokenizer=tokenizer,
    )
    running = RunningSequence(
        plan,
        index=0,
        capacity=_tokens_for(call, room),
        tokenizer=tokenizer,
        continues_text=call.continues_text or config.echo,
        stopping_criteria=call.stopping_criteria,
    )
    running.start_clock()
    running.append_input(as_ids(prompt, model.spec.vocab_size))
    return Job(call, running, ChunkSource(running, tokenizer))


def _tokens_for(call: Call, room: int) -> int:
    """The tokens that a request may have; without a limit of its own it may fill a slot.

    Raises:
        InvalidInputError: It asks for more than a slot holds.
    """
    (config,), (prompt,) = call.configs, call.prompts
    is_bounded = config.max_new_tokens is not None or config.max_length is not None
    if call.capacity <= room or (not is_bounded and len(prompt) < room):
        return min(call.capacity, room)
    num_new = max(call.capacity - len(prompt), 0)
    raise InvalidInputError(
        f"The request needs {len(prompt)} tokens for its prompt and {num_new} new ones, {len(prompt) + num_new} in "
        f"all, and a slot holds {room}",
        remedy="Ask for fewer new tokens, shorten the prompt, or make the scheduler with a larger capacity.",
    )
