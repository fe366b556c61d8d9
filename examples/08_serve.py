# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""A server on the loopback, asked by OpenAI's client: an answer at once, a stream with its usage, and a fixed form.

python examples/08_serve.py [FOLDER [BACKEND]]
"""

import sys

import openai

from genai_iface import TextGenerationPipeline
from genai_iface.serving import Server, ServerSettings

source, backend = (*sys.argv[1:], None, None)[:2]
settings = ServerSettings(port=0, model_name="demo", slots=4)  # port 0 takes a free one

with (
    TextGenerationPipeline(source, backend=backend or "numpy") as pipe,
    Server(pipe, settings) as server,
    openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as client,
):
    whole = client.completions.create(model="demo", prompt="The Add operator", max_tokens=16, temperature=0)
    print("whole: ", repr(whole.choices[0].text))

    parts = []
    for chunk in client.completions.create(
        model="demo",
        prompt="The Add operator",
        max_tokens=16,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    ):
        parts += [choice.text for choice in chunk.choices]
        if chunk.usage is not None:  # the last event
            print("usage: ", chunk.usage.prompt_tokens, "+", chunk.usage.completion_tokens, "tokens")
    print("stream:", "".join(parts) == whole.choices[0].text)

    form = {"structured_outputs": {"choice": ["yes", "no"]}}
    answer = client.completions.create(model="demo", prompt="Is it so? ", max_tokens=8, extra_body=form)
    print("choice:", answer.choices[0].text)
