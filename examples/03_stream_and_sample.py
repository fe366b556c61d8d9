# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Text as it comes, drawn at random with a seed, ended by a stop string, and what it cost.

python examples/03_stream_and_sample.py
"""

from genai_iface import GenerationConfig, TextGenerationPipeline

PROMPT = "The Add operator"

with TextGenerationPipeline() as pipe:
    for chunk in pipe.stream(PROMPT, max_new_tokens=24):
        print(chunk.text, end="", flush=True)
    print(f"\n[{chunk.finish_reason}]")

    # Equal seeds give equal texts, whatever else is in the batch.
    config = GenerationConfig(max_new_tokens=16, temperature=0.8, top_p=0.95, seed=7)
    alone = pipe.generate(PROMPT, config)
    batch = pipe.generate([PROMPT, "A tensor"], config)
    print("alone:   ", repr(alone.text))
    print("in batch:", repr(batch.text))

    result = pipe.generate(PROMPT, max_new_tokens=64, stop_strings=["."])
    print("to the first full stop:", repr(result.text), result.finish_reasons)

    metrics = batch.perf_metrics
    print(f"{metrics.num_prompt_tokens} prompt tokens, {metrics.num_generated_tokens} generated")
    print(f"{metrics.decode_tokens_per_second:.0f} tokens/s, first token after {metrics.time_to_first_token:.3f} s")
