# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Loops with one bug each; see ``mutants.py``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from genai_iface.conformance._sampling_reference import law, uniform
from tests.conformance import mutants_runtime  # noqa: F401 - registers its mutants
from tests.conformance.mutants import MUTANTS, Mutant
from tests.conformance.plain_pipeline import PlainPipeline, PlainStack
from tests.states.mutants_levels import STATE_MUTANTS

__all__ = ["ALL_MUTANTS", "LOOP_MUTANTS"]

LOOP_MUTANTS: list[Mutant] = []


def loop(bug: str, check: str) -> Callable[[type[PlainPipeline]], type[PlainPipeline]]:
    """Registers a pipeline with a bug."""

    def register(kind: type[PlainPipeline]) -> type[PlainPipeline]:
        LOOP_MUTANTS.append(Mutant(kind.__name__, bug, check, lambda: PlainStack(kind, kind.__name__)))
        return kind

    return register


@loop("the end-of-sequence token is reported twice", "L4.stop.eos_once")
class EosTwice(PlainPipeline):
    def reported(self, tokens, reason):
        return (*tokens, tokens[-1]) if reason == "stop" and tokens[-1:] == [257] else tuple(tokens)


@loop("the end-of-sequence token's text is shown", "L4.stop.eos")
class EosShown(PlainPipeline):
    def visible_text(self, prompt, new, stops, config):
        return self.tokenizer.decode(new, skip_special_tokens=False)


@loop("the stop string stays in the text", "L4.stop.string")
class StopStringLeaks(PlainPipeline):
    def find_stop(self, text, config):
        return super().find_stop(text, dataclasses.replace(config, include_stop_str_in_output=True))


@loop("the beginning of a stop string is streamed", "L4.stream.stop_string_never_leaks")
class StopStringStreams(PlainPipeline):
    def stable(self, text, config):
        return text.rstrip("\ufffd")


@loop("a stop string is looked for in each token alone", "L4.stop.string_across_tokens")
class StopWithinToken(PlainPipeline):
    def find_stop(self, text, config):
        ends = [text.rfind(stop) for stop in config.stop_strings if len(stop) == 1 and stop in text]
        return min(ends, default=None)


@loop("a stop string in the prompt stops", "L4.stop.prompt_is_not_searched")
class SearchesPrompt(PlainPipeline):
    def sequence(self, prompt, config, seed, index):
        self.prompt_text = self.tokenizer.decode(prompt)
        return super().sequence(prompt, config, seed, index)

    def find_stop(self, text, config):
        return 0 if super().find_stop(self.prompt_text, config) is not None else super().find_stop(text, config)


@loop("of several stop strings the first in the list wins", "L4.stop.first_of_several")
class FirstListedStop(PlainPipeline):
    def find_stop(self, text, config):
        for stop in config.stop_strings[:2]:
            if stop in text:
                return text.find(stop)
        return None


@loop("text is held back to the end", "L4.stream.as_it_comes")
class HoldsAll(PlainPipeline):
    def stable(self, text, config):
        return ""


@loop("half a character is streamed", "L4.stream.whole_characters")
class HalfCharacters(PlainPipeline):
    def stable(self, text, config):
        return text


@loop("bytes that form no character are dropped at the end", "L4.stream.cut_character")
class DropsBytes(PlainPipeline):
    def visible_text(self, prompt, new, stops, config):
        return super().visible_text(prompt, new, stops, config).replace("\ufffd", "")


@loop("every chunk carries a finish_reason", "L4.stream.one_finish_reason")
class ReasonEverywhere(PlainPipeline):
    def stream(self, prompt, config=None, **overrides):
        for chunk in super().stream(prompt, config, **overrides):
            yield dataclasses.replace(chunk, finish_reason=chunk.finish_reason or "length")


@loop("max_new_tokens gives one token more", "L4.stop.max_new_tokens")
class OneTooMany(PlainPipeline):
    def limit(self, config, num_prompt):
        return super().limit(config, num_prompt) + (config.max_new_tokens is not None)


@loop("max_length leaves out the prompt", "L4.stop.max_length")
class MaxLengthOfOutput(PlainPipeline):
    def limit(self, config, num_prompt):
        longer = None if config.max_length is None else config.max_length + num_prompt
        return super().limit(dataclasses.replace(config, max_length=longer), num_prompt)


@loop("min_new_tokens is ignored", "L4.stop.min_new_tokens")
class NoMinimum(PlainPipeline):
    def choose(self, logits, tokens, num_new, *rest):
        return super().choose(logits, tokens, 10**6, *rest)


@loop("max_time is ignored", "L4.stop.time")
class NoTime(PlainPipeline):
    def sequence(self, prompt, config, seed, index):
        return super().sequence(prompt, dataclasses.replace(config, max_time=None), seed, index)


@loop("the context's end is not noticed by one token", "L4.stop.context_full")
class StopsEarly(PlainPipeline):
    def limit(self, config, num_prompt):
        return min(super().limit(config, num_prompt), self.model.spec.context_length - 1)


@loop("results come in the order of their length", "L4.pipeline.prompt_order")
class ShortestFirst(PlainPipeline):
    def prepare(self, prompt, config, overrides):
        config, prompts = super().prepare(prompt, config, overrides)
        return config, sorted(prompts, key=len)


@loop("the temperature comes after top-p", "L4.sampling.top_p")
class TemperatureLast(PlainPipeline):
    def law(self, logits, tokens, settings):
        cold = law(logits, tokens, dataclasses.replace(settings, temperature=1.0))
        with np.errstate(divide="ignore"):
            scores = np.log(cold) / settings.temperature
        weights = np.exp(scores - scores.max())
        return weights / weights.sum()


@loop("top-p drops the token that reaches p", "L4.sampling.top_p")
class NucleusTooSmall(PlainPipeline):
    def law(self, logits, tokens, settings):
        return law(logits, tokens, dataclasses.replace(settings, top_p=max(settings.top_p - 0.1, 0.01)))


@loop("top-k keeps one token more", "L4.sampling.top_k")
class TopKPlusOne(PlainPipeline):
    def law(self, logits, tokens, settings):
        return law(logits, tokens, dataclasses.replace(settings, top_k=settings.top_k + 1 if settings.top_k else 0))


@loop("min-p is ignored", "L4.sampling.min_p")
class NoMinP(PlainPipeline):
    def law(self, logits, tokens, settings):
        return law(logits, tokens, dataclasses.replace(settings, min_p=0.0))


@loop("the repetition penalty divides negative logits too", "L4.sampling.repetition_penalty")
class PenaltyDivides(PlainPipeline):
    def processed(self, logits, tokens, num_new, stops, settings):
        plain = dataclasses.replace(settings, repetition_penalty=1.0)
        scores = super().processed(logits, tokens, num_new, stops, plain)
        scores[sorted(set(tokens))] /= settings.repetition_penalty
        return scores


@loop("the seed ignores the sequence's index", "L4.sampling.rows_differ")
class SeedIgnoresRow(PlainPipeline):
    def uniform(self, seed, index, position):
        return uniform(seed, 0, position)


@loop("the seed is ignored", "L4.sampling.same_seed")
class SeedIgnored(PlainPipeline):
    def uniform(self, seed, index, position):
        return float(np.random.default_rng().random())


@loop("draws follow one stream for the whole batch", "L4.sampling.batch_composition")
class OneStream(PlainPipeline):
    drawn = 0

    def generate(self, prompt, config=None, **overrides):
        self.drawn = 7 * len(prompt)
        return super().generate(prompt, config, **overrides)

    def uniform(self, seed, index, position):
        self.drawn += 1
        return uniform(seed, 0, self.drawn)


@loop("sampling is greedy", "L4.sampling.spread")
class NeverRandom(PlainPipeline):
    def law(self, logits, tokens, settings):
        only = np.zeros(len(logits))
        only[int(np.argmax(logits))] = 1
        return only


@loop("log-probabilities are those of the processed logits", "L4.sampling.logprobs")
class ProcessedLogprobs(PlainPipeline):
    def logprob(self, logits, token, num_top):
        return super().logprob(logits * 0.5, token, num_top)


@loop("an unknown parameter is ignored", "L4.errors.unknown_parameter")
class IgnoresUnknown(PlainPipeline):
    def prepare(self, prompt, config, overrides):
        known = {field.name for field in dataclasses.fields(self.generation_config)}
        return super().prepare(prompt, config, {name: value for name, value in overrides.items() if name in known})


@loop("a call's config is ignored", "L4.pipeline.config")
class IgnoresConfig(PlainPipeline):
    def prepare(self, prompt, config, overrides):
        return super().prepare(prompt, None, overrides)


@loop("a prompt that is too long is cut", "L4.errors.prompt_too_long")
class CutsPrompt(PlainPipeline):
    def prepare(self, prompt, config, overrides):
        return super().prepare(prompt[-60:] if isinstance(prompt, str) else prompt, config, overrides)


ALL_MUTANTS: tuple[Mutant, ...] = (*MUTANTS, *LOOP_MUTANTS, *STATE_MUTANTS)
