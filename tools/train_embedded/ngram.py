# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""An interpolated 3-gram model over token ids: the baseline that the network has to beat."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

#: Candidate weights of the 3-gram, 2-gram, 1-gram and uniform parts; the best on held-out text is taken,
#: which favours the baseline.
_MIXTURES = (
    (0.7, 0.2, 0.09, 0.01), (0.6, 0.3, 0.09, 0.01), (0.5, 0.35, 0.14, 0.01), (0.4, 0.4, 0.19, 0.01),
    (0.3, 0.45, 0.24, 0.01),
)  # fmt: skip


def trigram_perplexity(
    documents: Iterable[Iterable[int]], weights: Iterable[float], held_out: Sequence[Sequence[int]], vocab_size: int
) -> float:
    """Return the perplexity per token of an interpolated 3-gram model on the held-out documents.

    Args:
        documents: training documents as token ids, without the separator.
        weights: how often each document counts, as in the network's training.
        held_out: documents to score, each ending with the separator; the first token is not scored.
        vocab_size: number of tokens.

    Returns:
        The lowest perplexity over a few fixed mixtures.
    """
    three: Counter[tuple[int, int, int]] = Counter()
    two: Counter[tuple[int, int]] = Counter()
    one: Counter[int] = Counter()
    context_two: Counter[tuple[int, int]] = Counter()
    context_one: Counter[int] = Counter()
    total = 0.0
    for document, weight in zip(documents, weights, strict=True):
        ids = [0, *(int(i) for i in document), 0]
        count = int(weight)
        for i in range(1, len(ids)):
            one[ids[i]] += count
            two[ids[i - 1], ids[i]] += count
            context_one[ids[i - 1]] += count
            total += count
            if i > 1:
                three[ids[i - 2], ids[i - 1], ids[i]] += count
                context_two[ids[i - 2], ids[i - 1]] += count
    losses = [0.0] * len(_MIXTURES)
    scored = 0
    for document in held_out:
        for i in range(1, len(document)):
            a, b, c = document[i - 2] if i > 1 else 0, document[i - 1], document[i]
            p3 = three[a, b, c] / context_two[a, b] if context_two[a, b] else 0.0
            p2 = two[b, c] / context_one[b] if context_one[b] else 0.0
            p1 = one[c] / total
            for m, (w3, w2, w1, w0) in enumerate(_MIXTURES):
                # an unseen context gives its share to the shorter one
                share = w3 if context_two[a, b] else 0.0
                low = w2 + (w3 - share)
                low_share = low if context_one[b] else 0.0
                p = share * p3 + low_share * p2 + (w1 + low - low_share) * p1 + w0 / vocab_size
                losses[m] -= math.log(p)
            scored += 1
    return math.exp(min(losses) / scored)
