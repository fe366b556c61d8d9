# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""A model that keeps states, such as ``genai-iface build`` makes of LFM2 or Qwen3.5: what they cost, and going back.

python examples/07_states.py FOLDER [BACKEND]
"""

import sys

import numpy as np

from genai_iface import SupportsCheckpoint, load_model
from genai_iface.errors import CacheRewindError

model = load_model(sys.argv[1], backend=sys.argv[2] if len(sys.argv) > 2 else "numpy")
for state in model.spec.cache.states:
    print(f"layer {state.layer}: {state.kind} {state.shape} {state.dtype}")
print(f"{model.spec.cache.bytes_per_row} bytes for each row, however long it is")

cache = model.create_cache(batch_size=2, capacity=32)
assert isinstance(cache, SupportsCheckpoint)  # what not every cache can do is a protocol of its own


def continued(logits: np.ndarray, steps: int = 6) -> list[list[int]]:
    """Greedy tokens of both rows, step by step."""
    tokens = []
    for _ in range(steps):
        token = logits[:, -1].argmax(-1)
        tokens.append([int(each) for each in token])
        logits = model.forward(token[:, None], cache)
    return tokens


# Rows of different lengths: padding goes into no state.
logits = model.forward(np.array([[5, 6, 7, 8, 9], [10, 11, 12, 0, 0]]), cache, counts=[5, 3])
cache.checkpoint()  # the states of these lengths are kept; keys and values are there anyway
first = continued(logits)

print(f"lengths {cache.lengths.tolist()}")
try:
    cache.rewind_to([8, 6])
except CacheRewindError as error:
    print(f"refused: {error.what}")
cache.rewind_to([5, 3])
print(f"lengths {cache.lengths.tolist()}, the same again: {continued(logits) == first}")
