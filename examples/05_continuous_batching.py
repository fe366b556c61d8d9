# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Several readers at once: requests share the steps of one model, and each may stream, end early or be cancelled.

python examples/05_continuous_batching.py
"""

from genai_iface import TextGenerationPipeline

PROMPTS = ["The Add operator", "The TensorScatter operator", "A tensor", "The Softmax operator"]

with TextGenerationPipeline() as pipe:
    # Two slots for four requests: the last two wait until a slot gets free.
    with pipe.scheduler(slots=2, token_budget=32) as scheduler:
        requests = [scheduler.submit(prompt, max_new_tokens=12) for prompt in PROMPTS]
        long = scheduler.submit("The Attention operator", max_new_tokens=200)

        for chunk in requests[0]:
            print(chunk.text, end="", flush=True)
        print(f"\n[{requests[0].finish_reason}]")

        next(iter(long))  # it has begun
        long.cancel()
        results = [request.result() for request in requests]
        print("cancelled:", long.result().finish_reasons, len(long.result().token_ids[0]) < 200)

    # In company a request gives the tokens that it gives alone.
    alone = [pipe.generate(prompt, max_new_tokens=12) for prompt in PROMPTS]
    print("as alone:", [one.token_ids for one in results] == [one.token_ids for one in alone])
