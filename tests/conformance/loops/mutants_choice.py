# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Loops that choose another token than they should, or tell something else about it."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from genai_iface import GenerationConfig
from genai_iface.conformance._sampling_reference import law, uniform
from tests.conformance.loops.mutants_stop import NEW_LOOP_MUTANTS, loop
from tests.conformance.plain_pipeline import PlainPipeline

__all__ = ["NEW_LOOP_MUTANTS"]


class Processors(PlainPipeline):
    """With other arguments for its processors."""

    def tokens_seen(self, tokens: list[int], num_new: int) -> list[int]:
        return tokens

    def other(self, settings: Any, tokens: list[int], num_new: int) -> Any:
        return settings

    def processed(self, logits, tokens, num_new, stops, settings):
        seen = self.tokens_seen(tokens, num_new)
        return super().processed(logits, seen, min(num_new, len(seen)), stops, self.other(settings, tokens, num_new))


# N-grams, bad words, penalties.


@loop("n-grams are looked for in the output alone", "L4.processors.ngram_over_border")
class NgramsOfOutput(Processors):
    def processed(self, logits, tokens, num_new, stops, settings):
        scores = super().processed(
            logits, tokens, num_new, stops, dataclasses.replace(settings, no_repeat_ngram_size=0)
        )
        said = tokens[len(tokens) - num_new :]
        size = settings.no_repeat_ngram_size
        for at in range(len(said) - size + 1 if size else 0):
            if said[at : at + size - 1] == said[len(said) - size + 1 :]:
                scores[said[at + size - 1]] = -np.inf
        return scores


@loop("n-grams are looked for in the prompt alone", "L4.processors.ngram_of_output")
class NgramsOfPrompt(PlainPipeline):
    def processed(self, logits, tokens, num_new, stops, settings):
        scores = super().processed(
            logits, tokens, num_new, stops, dataclasses.replace(settings, no_repeat_ngram_size=0)
        )
        size, prompt = settings.no_repeat_ngram_size, tokens[: len(tokens) - num_new]
        for at in range(len(prompt) - size + 1 if size else 0):
            if prompt[at : at + size - 1] == tokens[len(tokens) - size + 1 :]:
                scores[prompt[at + size - 1]] = -np.inf
        return scores


@loop("n-grams are one token longer than asked for", "L4.processors.ngram_of_output")
class NgramsTooLong(Processors):
    def other(self, settings, tokens, num_new):
        size = settings.no_repeat_ngram_size
        return dataclasses.replace(settings, no_repeat_ngram_size=size and size + 1)


@loop("n-grams are one token shorter than asked for", "L4.processors.ngram_of_output")
class NgramsTooShort(Processors):
    def other(self, settings, tokens, num_new):
        return dataclasses.replace(settings, no_repeat_ngram_size=max(0, settings.no_repeat_ngram_size - 1))


@loop("bad words are looked for in the output alone", "L4.processors.bad_word_over_border")
class BadWordsOfOutput(Processors):
    def other(self, settings, tokens, num_new):
        words = tuple(word for word in settings.bad_words_ids if len(word) - 1 <= num_new)
        return dataclasses.replace(settings, bad_words_ids=words)


@loop("every token of a bad word is banned", "L4.processors.bad_word_over_border")
class BadTokens(Processors):
    def other(self, settings, tokens, num_new):
        words = tuple((token,) for word in settings.bad_words_ids for token in word)
        return dataclasses.replace(settings, bad_words_ids=words)


@loop("the last token of a bad word is banned everywhere", "L4.processors.bad_word_over_border")
class LastBadToken(Processors):
    def other(self, settings, tokens, num_new):
        return dataclasses.replace(settings, bad_words_ids=tuple((word[-1],) for word in settings.bad_words_ids))


@loop("bad words of one token alone count", "L4.processors.bad_word_over_border")
class ShortBadWords(Processors):
    def other(self, settings, tokens, num_new):
        return dataclasses.replace(settings, bad_words_ids=tuple(w for w in settings.bad_words_ids if len(w) == 1))


@loop("of bad words with one beginning the last counts", "L4.processors.several_bad_words")
class OneWordEach(Processors):
    def other(self, settings, tokens, num_new):
        kept = {word[:-1]: word for word in settings.bad_words_ids}
        return dataclasses.replace(settings, bad_words_ids=tuple(kept.values()))


@loop("a bad word longer than the sequence is cut to it", "L4.processors.several_bad_words")
class LongWordsCut(Processors):
    def other(self, settings, tokens, num_new):
        words = tuple(word[-2:] if len(word) > len(tokens) + 1 else word for word in settings.bad_words_ids)
        return dataclasses.replace(settings, bad_words_ids=words)


@loop("an end token that is a bad word never comes", "L4.processors.bad_word_may_end")
class NeverEnds(PlainPipeline):
    def processed(self, logits, tokens, num_new, stops, settings):
        scores = super().processed(logits, tokens, num_new, stops, settings)
        for word in settings.bad_words_ids:
            if len(word) == 1:
                scores[word[0]] = -np.inf
        return scores


@loop("the presence penalty counts the prompt", "L4.processors.presence")
class PresenceOfPrompt(PlainPipeline):
    def processed(self, logits, tokens, num_new, stops, settings):
        scores = super().processed(logits, tokens, num_new, stops, settings)
        for token in set(tokens[: len(tokens) - num_new]) - set(tokens[len(tokens) - num_new :]):
            scores[token] -= settings.presence_penalty
        return scores


@loop("the presence penalty is taken each time that a token occurred", "L4.processors.presence")
class PresenceEachTime(Processors):
    def other(self, settings, tokens, num_new):
        both = settings.presence_penalty + settings.frequency_penalty
        return dataclasses.replace(settings, presence_penalty=0.0, frequency_penalty=both)


@loop("the frequency penalty counts the prompt", "L4.processors.frequency")
class FrequencyOfPrompt(PlainPipeline):
    def processed(self, logits, tokens, num_new, stops, settings):
        scores = super().processed(logits, tokens, num_new, stops, settings)
        for token in tokens[: len(tokens) - num_new]:
            scores[token] -= settings.frequency_penalty
        return scores


@loop("the frequency penalty is taken once", "L4.processors.frequency")
class FrequencyOnce(Processors):
    def other(self, settings, tokens, num_new):
        both = settings.presence_penalty + settings.frequency_penalty
        return dataclasses.replace(settings, frequency_penalty=0.0, presence_penalty=both)


@loop("the repetition penalty leaves out the prompt", "L4.processors.repetition")
class RepetitionOfOutput(PlainPipeline):
    def processed(self, logits, tokens, num_new, stops, settings):
        scores = super().processed(logits, tokens, num_new, stops, dataclasses.replace(settings, repetition_penalty=1))
        for token in set(tokens[len(tokens) - num_new :]):
            scores[token] *= settings.repetition_penalty if scores[token] < 0 else 1 / settings.repetition_penalty
        return scores


@loop("the repetition penalty is taken each time that a token occurred", "L4.processors.repetition")
class RepetitionEachTime(PlainPipeline):
    def processed(self, logits, tokens, num_new, stops, settings):
        scores = super().processed(logits, tokens, num_new, stops, dataclasses.replace(settings, repetition_penalty=1))
        for token in tokens:
            scores[token] *= settings.repetition_penalty if scores[token] < 0 else 1 / settings.repetition_penalty
        return scores


@loop("biases come after the penalties", "L4.processors.order")
class BiasLast(PlainPipeline):
    def processed(self, logits, tokens, num_new, stops, settings):
        scores = super().processed(logits, tokens, num_new, stops, dataclasses.replace(settings, logit_bias={}))
        for token, bias in settings.logit_bias.items():
            scores[token] += bias
        return scores


# Draws.


@loop("typical_p is ignored", "L4.sampling.typical_p")
class NoTypical(PlainPipeline):
    def law(self, logits, tokens, settings):
        return law(logits, tokens, dataclasses.replace(settings, typical_p=1.0))


@loop("typical_p takes the likeliest tokens, as top_p does", "L4.sampling.typical_p")
class TypicalAsTopP(PlainPipeline):
    def law(self, logits, tokens, settings):
        return law(logits, tokens, dataclasses.replace(settings, typical_p=1.0, top_p=settings.typical_p))


@loop("typical_p comes before top-k", "L4.sampling.typical_after_top_k")
class TypicalFirst(PlainPipeline):
    def law(self, logits, tokens, settings):
        first = law(logits, tokens, dataclasses.replace(settings, top_k=0))
        kept = np.flatnonzero(first > 0)
        best = kept[np.argsort(-first[kept], kind="stable")][: settings.top_k or None]
        result = np.zeros_like(first)
        result[best] = first[best] / first[best].sum()
        return result


@loop("the upper half of a seed is lost", "L4.sampling.large_seed")
class SeedOf32Bits(PlainPipeline):
    def uniform(self, seed, index, position):
        return uniform(seed % 2**32, index, position)


@loop("the highest bit of a seed is lost", "L4.sampling.large_seed")
class SeedOf63Bits(PlainPipeline):
    def uniform(self, seed, index, position):
        return uniform(seed % 2**63, index, position)


@loop("the seed 0 is taken for none", "L4.sampling.large_seed")
class NoSeedZero(PlainPipeline):
    def uniform(self, seed, index, position):
        return uniform(seed or 1, index, position)


@loop("without a seed the seed is always the same", "L4.sampling.seedless_differ")
class SameSeedless(PlainPipeline):
    def generate(self, prompt, config=None, **overrides):
        merged = self.merged(config, overrides)
        return super().generate(prompt, merged if merged.seed is not None else merged.replace(seed=5))


@loop("a random number belongs to the output's place, not the sequence's", "L4.sampling.sequence")
class PlaceInOutput(PlainPipeline):
    def sequence(self, prompt, config, seed, index):
        self.num_prompt = len(prompt)
        return super().sequence(prompt, config, seed, index)

    def uniform(self, seed, index, position):
        return uniform(seed, index, position - self.num_prompt)


@loop("sequences are numbered within their prompt", "L4.sampling.sequence")
class NumberedWithin(PlainPipeline):
    def prepare(self, prompt, config, overrides):
        config, prompts = super().prepare(prompt, config, overrides)
        self.each = config.num_return_sequences
        return config, prompts

    def uniform(self, seed, index, position):
        return uniform(seed, index % self.each, position)


@loop("a temperature alone is greedy", "L4.sampling.asked_for")
class GreedyUnlessAsked(PlainPipeline):
    def choose(self, logits, tokens, num_new, stops, config, seed, index):
        asked = config if config.do_sample or config.seed is not None else config.replace(do_sample=False)
        return super().choose(logits, tokens, num_new, stops, asked, seed, index)

    def merged(self, config, overrides):
        # Overrides that ask for draws set do_sample; this loop looks at what was said.
        merged = super().merged(config, overrides)
        return merged.replace(do_sample=overrides.get("do_sample"))


# What is told.


@loop("log-probabilities are those of the biased logits", "L4.sampling.logprobs_are_raw")
class BiasedLogprobs(PlainPipeline):
    def choose(self, logits, tokens, num_new, stops, config, seed, index):
        for token, bias in config.logit_bias.items():
            logits[token] += bias
        plain = config.replace(logit_bias={})
        return super().choose(logits, tokens, num_new, stops, plain, seed, index)


@loop("log-probabilities are those after the temperature", "L4.sampling.logprobs_are_raw")
class TemperedLogprobs(PlainPipeline):
    def choose(self, logits, tokens, num_new, stops, config, seed, index):
        self.temperature = config.temperature or 1.0
        return super().choose(logits, tokens, num_new, stops, config, seed, index)

    def logprob(self, logits, token, num_top):
        return super().logprob(logits / self.temperature, token, num_top)


@loop("the alternatives are the tokens before the chosen one", "L4.sampling.logprobs_are_raw")
class LogprobsLag(PlainPipeline):
    held: Any = None

    def logprob(self, logits, token, num_top):
        now = super().logprob(logits, token, num_top)
        before, self.held = self.held or now, now
        return dataclasses.replace(now, top=before.top)


@loop("logprobs=0 gives one alternative", "L4.sampling.logprobs_of_stream")
class OneAlternative(PlainPipeline):
    def logprob(self, logits, token, num_top):
        return super().logprob(logits, token, max(1, num_top))


@loop("a chunk brings the log-probability of its last token alone", "L4.sampling.logprobs_of_stream")
class LastOfChunk(PlainPipeline):
    def stream(self, prompt, config=None, **overrides):
        for chunk in super().stream(prompt, config, **overrides):
            yield dataclasses.replace(chunk, logprobs=chunk.logprobs and chunk.logprobs[-1:])


# Configurations and measurements.


@loop("a config is merged with the defaults", "L4.pipeline.config_replaces")
class MergesConfig(PlainPipeline):
    def merged(self, config, overrides):
        plain = GenerationConfig()
        names = [field.name for field in dataclasses.fields(plain)]
        given = {
            name: getattr(config, name)
            for name in names
            if config is not None and getattr(config, name) != getattr(plain, name)
        }
        return self.generation_config.replace(**{**given, **overrides})


@loop("an override takes the place of all defaults", "L4.pipeline.overrides_keep_defaults")
class OverridesReplace(PlainPipeline):
    def merged(self, config, overrides):
        return super().merged(config or (GenerationConfig() if overrides else None), overrides)


@loop("the folder's defaults are not read", "L4.pipeline.overrides_keep_defaults")
class NoDefaults(PlainPipeline):
    def merged(self, config, overrides):
        return super().merged(config or GenerationConfig(max_new_tokens=4), overrides)


@loop("the overrides of a call stay", "L4.pipeline.calls_leave_no_trace")
class OverridesStay(PlainPipeline):
    def merged(self, config, overrides):
        merged = super().merged(config, overrides)
        self.generation_config = merged if config is None else self.generation_config
        return merged


@loop("the sequences of several prompts come in turns", "L4.pipeline.several_sequences")
class InTurns(PlainPipeline):
    def prepare(self, prompt, config, overrides):
        config, prompts = super().prepare(prompt, config, overrides)
        each = config.num_return_sequences
        return config, [row for start in range(each) for row in prompts[start::each]]


class Miscounts(PlainPipeline):
    """With other measurements."""

    def counted(self, metrics: Any, result: Any) -> Any:
        raise NotImplementedError

    def generate(self, prompt, config=None, **overrides):
        result = super().generate(prompt, config, **overrides)
        return dataclasses.replace(result, perf_metrics=self.counted(result.perf_metrics, result))


@loop("a prompt's tokens are counted once, however many sequences it has", "L4.pipeline.metrics_of_several")
class PromptCountedOnce(Miscounts):
    def counted(self, metrics, result):
        texts = len(set(result.texts))
        return dataclasses.replace(metrics, num_prompt_tokens=metrics.num_prompt_tokens * texts // len(result.texts))


@loop("the token that ends a sequence is not counted", "L4.pipeline.metrics_of_several")
class EndNotCounted(Miscounts):
    def counted(self, metrics, result):
        ended = sum(reason == "stop" for reason in result.finish_reasons)
        return dataclasses.replace(metrics, num_generated_tokens=metrics.num_generated_tokens - ended)
