# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Loops that end where they should not, do not end where they should, or show what ended them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from tests.conformance.mutants import Mutant
from tests.conformance.plain_pipeline import PlainPipeline, PlainStack

__all__ = ["NEW_LOOP_MUTANTS", "loop"]

NEW_LOOP_MUTANTS: list[Mutant] = []


def loop(bug: str, check: str) -> Callable[[type[PlainPipeline]], type[PlainPipeline]]:
    """Registers a pipeline with a bug."""

    def register(kind: type[PlainPipeline]) -> type[PlainPipeline]:
        NEW_LOOP_MUTANTS.append(Mutant(kind.__name__, bug, check, lambda: PlainStack(kind, kind.__name__)))
        return kind

    return register


# Stop strings.


@loop("a stop string counts only where a token ends with it", "L4.stop.string_inside_token")
class StopAtTokenEnd(PlainPipeline):
    def find_stop(self, text, config):
        ends = [stop for stop in config.stop_strings if text.endswith(stop)]
        return super().find_stop(text, config) if ends else None


@loop("of several stop strings in one token the first listed wins", "L4.stop.string_inside_token")
class FirstListedInToken(PlainPipeline):
    def find_stop(self, text, config):
        return next((text.find(stop) for stop in config.stop_strings if stop in text), None)


@loop("of several stop strings in one token the one that begins first wins", "L4.stop.string_inside_token")
class FirstBegunInToken(PlainPipeline):
    def find_stop(self, text, config):
        return min((text.find(stop) for stop in config.stop_strings if stop in text), default=None)


@loop("of stop strings that end together the shortest wins", "L4.stop.longest_of_one_end")
class ShortestOfOneEnd(PlainPipeline):
    def find_stop(self, text, config):
        found = [(text.find(stop) + len(stop), -text.find(stop)) for stop in config.stop_strings if stop in text]
        return -min(found)[1] if found else None


@loop("a stop string is looked for in the last two tokens", "L4.stop.string_over_long_tokens")
class LastTwoTokens(PlainPipeline):
    def visible_text(self, prompt, new, stops, config):
        self.last = self.tokenizer.decode(new[-2:]) if len(new) > 2 else None
        return super().visible_text(prompt, new, stops, config)

    def find_stop(self, text, config):
        at = super().find_stop(text, config)
        is_near = at is None or self.last is None or any(stop in self.last for stop in config.stop_strings)
        return at if is_near else None


@loop("text that begins a stop string is held back from its token's start only", "L4.stop.string_over_long_tokens")
class StreamsInsideToken(PlainPipeline):
    def stable(self, text, config):
        held = super().stable(text, config)
        return held if len(text) - len(held) < 6 else text[: len(held) + 5]


@loop("a special token cuts a stop string in two", "L4.stop.string_over_special_token")
class SpecialTokenCuts(PlainPipeline):
    def visible_text(self, prompt, new, stops, config):
        after = next((at + 1 for at in reversed(range(len(new))) if new[at] > 255), 0)
        self.since = self.tokenizer.decode(new[after:])
        return super().visible_text(prompt, new, stops, config)

    def find_stop(self, text, config):
        return super().find_stop(text, config) if any(stop in self.since for stop in config.stop_strings) else None


@loop("a stop string ends every sequence of the call", "L4.stop.string_in_batch")
class StopsAll(PlainPipeline):
    def prepare(self, prompt, config, overrides):
        self.met = False
        return super().prepare(prompt, config, overrides)

    def find_stop(self, text, config):
        at = 0 if self.met else super().find_stop(text, config)
        self.met = self.met or at is not None
        return at


@loop("the tokens of a stop string are dropped with it", "L4.stop.longest_of_one_end")
class DropsStopTokens(PlainPipeline):
    def find_stop(self, text, config):
        self.is_string = super().find_stop(text, config) is not None
        return super().find_stop(text, config)

    def reported(self, tokens, reason):
        return tuple(tokens[:-1]) if reason == "stop" and self.is_string else tuple(tokens)


# Stop tokens.


@loop("of several end tokens the first counts", "L4.stop.every_eos")
class FirstEos(PlainPipeline):
    def stops(self, config):
        return super().stops(config.replace(eos_token_id=config.eos_token_ids[:1]))


@loop("of several end tokens the last counts", "L4.stop.every_eos")
class LastEos(PlainPipeline):
    def stops(self, config):
        return super().stops(config.replace(eos_token_id=config.eos_token_ids[-1:]))


@loop("only the folder's end token counts", "L4.stop.every_eos")
class FolderEosOnly(PlainPipeline):
    def stops(self, config):
        return super().stops(config.replace(eos_token_id=self.generation_config.eos_token_id))


@loop("ignore_eos ignores stop tokens too", "L4.stop.ignore_eos_keeps_stop_tokens")
class IgnoresStopTokens(PlainPipeline):
    def stops(self, config):
        return set() if config.ignore_eos else super().stops(config)


@loop("ignore_eos takes the end token from the stop tokens", "L4.stop.ignore_eos_keeps_stop_tokens")
class IgnoresListedEos(PlainPipeline):
    def stops(self, config):
        return super().stops(config) - (set(config.eos_token_ids) if config.ignore_eos else set())


@loop("stop tokens replace the end tokens", "L4.stop.tokens_beside_eos")
class StopTokensReplace(PlainPipeline):
    def stops(self, config):
        return set(config.stop_token_ids) or super().stops(config)


@loop("a stop token's text is left out even if it is asked for", "L4.stop.token_included")
class NeverIncluded(PlainPipeline):
    def visible_text(self, prompt, new, stops, config):
        return super().visible_text(prompt, new, stops, config.replace(include_stop_str_in_output=False))


# Limits.


@loop("at the last token that is allowed the reason is the limit", "L4.stop.before_length")
class LengthFirst(PlainPipeline):
    def sequence(self, prompt, config, seed, index):
        limit, count = self.limit(config, len(prompt)), len(prompt)
        for chunk in super().sequence(prompt, config, seed, index):
            count += len(chunk.token_ids)
            is_full = chunk.finish_reason == "stop" and count >= limit
            yield dataclasses.replace(chunk, finish_reason="length") if is_full else chunk


@loop("of two limits the looser counts", "L4.stop.tighter_limit")
class LooserLimit(PlainPipeline):
    def limit(self, config, num_prompt):
        both = config.max_length and config.max_new_tokens is not None
        return max(config.max_length, num_prompt + config.max_new_tokens) if both else super().limit(config, num_prompt)


@loop("max_length is not looked at beside max_new_tokens", "L4.stop.tighter_limit")
class NewTokensOnly(PlainPipeline):
    def limit(self, config, num_prompt):
        both = config.max_length and config.max_new_tokens is not None
        return super().limit(config.replace(max_length=None) if both else config, num_prompt)


@loop("the minimum bans the end tokens and no stop token", "L4.processors.minimum_bans_all")
class MinimumBansEos(PlainPipeline):
    def processed(self, logits, tokens, num_new, stops, settings):
        banned = {token for token in stops if token > 255} if num_new < settings.min_new_tokens else stops
        return super().processed(logits, tokens, num_new, banned, settings)


@loop("the minimum holds for one token more", "L4.processors.minimum_bans_all")
class MinimumOneMore(PlainPipeline):
    def processed(self, logits, tokens, num_new, stops, settings):
        more = dataclasses.replace(settings, min_new_tokens=settings.min_new_tokens and settings.min_new_tokens + 1)
        return super().processed(logits, tokens, num_new, stops, more)


@loop("the minimum counts the prompt", "L4.processors.minimum_counts_output")
class MinimumCountsPrompt(PlainPipeline):
    def processed(self, logits, tokens, num_new, stops, settings):
        scores = super().processed(logits, tokens, num_new, stops, settings)
        if len(tokens) >= settings.min_new_tokens > num_new:
            scores[sorted(stops)] = np.asarray(logits)[sorted(stops)]
        return scores
