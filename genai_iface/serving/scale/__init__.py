# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Internal: requests spread over many replicas, prompts over many workers."""

import os

# Read when Ray starts: it reports how it is used, unless somebody said otherwise before.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
