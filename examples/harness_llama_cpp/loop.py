# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""One sequence in llama.cpp, through llama-cpp-python: its decode, its samplers, and the way back."""

from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np

from genai_iface import GenerationConfig, InvalidInputError
from genai_iface.backend_kit import check_honored, check_new_tokens, check_rewind, stop_ids

# What its samplers have a word for, and the ends of a sequence, which are watched here.
KNOWN = {"do_sample", "temperature", "top_k", "top_p", "min_p", "typical_p", "repetition_penalty", "seed", "logit_bias"}
KNOWN |= {"stop_token_ids", "eos_token_id", "ignore_eos"}
RANDOM = 2**32 - 1
FLOAT32 = 0  # of keys and values, as the interface has them; its default is float16


class Loop:
    """One sequence: a context of its own, and a chain of samplers."""

    def __init__(self, folder: Path, facts: dict[str, Any], config: GenerationConfig, capacity: int | None) -> None:
        check_honored(config, KNOWN, "llama.cpp")
        room = facts["max_position_embeddings"]
        self.capacity = room if capacity is None else min(capacity, room)
        # One place more, for the step that shows what comes after a full sequence.
        self.network = llama_cpp.Llama(
            str(folder / "model.gguf"), n_ctx=room + 1, type_k=FLOAT32, type_v=FLOAT32, n_threads=1, verbose=False
        )
        ends = facts.get("eos_token_id") or []
        self.stops = stop_ids(config, [ends] if isinstance(ends, int) else ends)
        self.size, self.config = facts["vocab_size"], config
        self.tokens: list[int] = []
        self.num_run = 0
        self.reason: str | None = None
        self.chain = self.samplers()

    def samplers(self) -> Any:
        asked, vocabulary = self.config, self.size
        chain = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
        biases = [llama_cpp.llama_logit_bias(int(token), bias) for token, bias in asked.logit_bias.items()]
        array = (llama_cpp.llama_logit_bias * len(biases))(*biases)
        links = [llama_cpp.llama_sampler_init_logit_bias(vocabulary, len(biases), array)]
        penalties = (vocabulary, self.capacity, asked.repetition_penalty, 0.0, 0.0)
        links.append(llama_cpp.llama_sampler_init_penalties(*penalties))
        if asked.samples:
            links.append(llama_cpp.llama_sampler_init_temp(asked.temperature))
            links.append(llama_cpp.llama_sampler_init_top_k(asked.top_k or 0))
            links.append(llama_cpp.llama_sampler_init_top_p(asked.top_p, 1))
            links.append(llama_cpp.llama_sampler_init_min_p(asked.min_p or 0.0, 1))
            links.append(llama_cpp.llama_sampler_init_typical(asked.typical_p or 1.0, 1))
            # Its seeds have 32 bits, and the last of them means none.
            seed = RANDOM if asked.seed is None else asked.seed % RANDOM
            links.append(llama_cpp.llama_sampler_init_dist(seed))
        else:
            links.append(llama_cpp.llama_sampler_init_greedy())
        for link in links:
            llama_cpp.llama_sampler_chain_add(chain, link)
        return chain

    def append(self, token_ids: Any) -> None:
        given = check_new_tokens(token_ids, held=len(self.tokens), vocab_size=self.size, capacity=self.capacity)
        self.reason = None
        self.hold(given)
        self.end_if_full()

    def hold(self, tokens: list[int]) -> None:
        self.tokens += tokens
        for token in tokens:
            llama_cpp.llama_sampler_accept(self.chain, token)

    def logits(self) -> Any:
        """The logits (V,) after all tokens, where the samplers read them."""
        if not self.tokens:
            raise InvalidInputError("there is nothing to go on from", remedy="Append tokens first.")
        if self.num_run < len(self.tokens):
            self.network.eval(self.tokens[self.num_run :])
            self.num_run = len(self.tokens)
        pointer = llama_cpp.llama_get_logits_ith(self.network.ctx, -1)
        return np.ctypeslib.as_array(pointer, shape=(self.size,))

    def step(self) -> int:
        if self.reason is not None:
            raise InvalidInputError("the sequence is done", remedy="Append tokens first.")
        self.logits()
        token = int(llama_cpp.llama_sampler_sample(self.chain, self.network.ctx, -1))  # the chain accepts it too
        self.tokens.append(token)
        if token in self.stops:
            self.reason = "stop"
        else:
            self.end_if_full()
        return token

    def rewind(self, length: int) -> None:
        kept = self.tokens[: check_rewind(length, held=len(self.tokens))]
        self.reason, self.tokens = None, []
        llama_cpp.llama_sampler_free(self.chain)
        self.chain = self.samplers()
        self.hold(kept)
        # The last token runs once more, for its logits.
        self.num_run = self.network.n_tokens = min(self.num_run, max(0, length - 1))

    def sequence(self, index: int) -> list[int]:
        if index != 0:
            raise InvalidInputError(f"there is no sequence {index}", remedy="A generator has one: 0.")
        return self.tokens

    def cancel(self) -> None:
        self.reason = "cancelled"

    def end_if_full(self) -> None:
        if len(self.tokens) >= self.capacity:
            self.reason = "length"
