# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""How each sequence of a batch is generated: its configuration, and what follows from it."""

from __future__ import annotations

import os
from collections.abc import Sequence

from numpy.typing import ArrayLike

from genai_iface.config import GenerationConfig
from genai_iface.errors import InvalidInputError
from genai_iface.generation.constraints import Constraint, ConstraintProcessor, constraint_of
from genai_iface.generation.sampling.processors import LogitsHook
from genai_iface.generation.sampling.sampler import Sampler
from genai_iface.generation.supported import check_supported
from genai_iface.generation.text.stopping import StopStrings
from genai_iface.protocols import Tokenizer

__all__ = ["SequencePlan", "new_seed", "one_per_sequence"]


class SequencePlan:
    """What one configuration means for a sequence.

    Args:
        config: The configuration.
        vocab_size: V.
        eos_token_ids: What ends a sequence if the configuration itself names nothing.
        seed: Of the draws.
        logits_processors: The caller's own processors.
        constraint: The caller's own rule for the output.
        tokenizer: For the rules that the configuration itself names.

    Attributes:
        config: The configuration.
        stop_ids: Tokens that end the sequence.
        stop_strings: Texts that end it.
        sampler: Chooses its tokens.

    Raises:
        UnsupportedCapabilityError: The configuration asks for what the loop cannot do.
        InvalidInputError: It names a token that the model lacks.
    """

    def __init__(
        self,
        config: GenerationConfig,
        /,
        *,
        vocab_size: int,
        eos_token_ids: Sequence[int],
        seed: int,
        logits_processors: Sequence[LogitsHook] = (),
        constraint: Constraint | None = None,
        tokenizer: Tokenizer | None = None,
    ) -> None:
        check_supported(config)
        self.config = config
        ends = () if config.ignore_eos else config.eos_token_ids or tuple(eos_token_ids)
        self.stop_ids = frozenset((*ends, *config.stop_token_ids))
        self.stop_strings = StopStrings(config.stop_strings, include=config.include_stop_str_in_output)
        rule = _rule(config, constraint)
        self._follower: ConstraintProcessor | None = None
        if rule is not None:
            state = rule.start(tokenizer, vocab_size)
            self._follower = ConstraintProcessor(state, stop_ids=self.stop_ids, vocab_size=vocab_size)
        self.sampler = Sampler(
            config,
            vocab_size=vocab_size,
            stop_ids=sorted(self.stop_ids),
            seed=seed,
            constraint=self._follower,
            hooks=logits_processors,
        )

    def is_over(self, new_tokens: ArrayLike, /) -> bool:
        """Whether the constraint, if there is one, lets nothing follow these tokens of the turn."""
        return self._follower is not None and self._follower.is_over(new_tokens)


def _rule(config: GenerationConfig, constraint: Constraint | None) -> Constraint | None:
    own = constraint_of(config)
    if own is not None and constraint is not None:
        raise InvalidInputError(f"{own.kind} and constraint are both given", remedy="Give one of them.")
    return own or constraint


def one_per_sequence(
    config: GenerationConfig | Sequence[GenerationConfig] | None, num_sequences: int
) -> list[GenerationConfig]:
    """The configuration of each sequence.

    Raises:
        InvalidInputError: It is a list of another length.
    """
    if config is None or isinstance(config, GenerationConfig):
        return [config or GenerationConfig()] * num_sequences
    if len(config) != num_sequences:
        raise InvalidInputError(
            f"{len(config)} configurations for {num_sequences} sequences", remedy="Give one for each, or one for all."
        )
    return list(config)


def new_seed() -> int:
    """A seed that nobody can foretell, from 0 to 2**63 - 1 so that every JSON reader keeps it."""
    return int.from_bytes(os.urandom(8)) >> 1
