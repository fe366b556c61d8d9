# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What the pipeline is made of: a model, a cache, steps of unequal rows, and a rewind.

python examples/02_step_by_step.py [FOLDER] [BACKEND]
"""

import sys

import numpy as np

from genai_iface import load_model
from genai_iface.models import default_folder

folder = sys.argv[1] if len(sys.argv) > 1 else default_folder()
backend = sys.argv[2] if len(sys.argv) > 2 else "numpy"
model = load_model(folder, backend=backend)

# Two rows, five tokens and three; what stands behind a row's count is never looked at.
cache = model.create_cache(batch_size=2, capacity=64)
ids = np.array([[11, 12, 13, 14, 15], [21, 22, 23, 0, 0]])
logits = model.forward(ids, cache, counts=np.array([5, 3]))
print("prefill: lengths", cache.lengths, "logits", logits.shape)

chosen = logits[:, -1].argmax(-1)[:, None]
first = model.forward(chosen, cache)
print("decode:  lengths", cache.lengths, "update mode", cache.update_mode, "bytes", cache.nbytes)

# Forget that token and append it again: the cache is as if it had never been there.
cache.rewind_to(np.array([5, 3]))
print("rewind:  lengths", cache.lengths)
again = model.forward(chosen, cache)
print("again:   lengths", cache.lengths, "same logits", np.array_equal(first, again))
