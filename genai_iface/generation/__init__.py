# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Generation over the protocols: the loop, sampling, stopping and streaming, for every backend."""

from genai_iface.generation.constraints import Constraint, TokenConstraint
from genai_iface.generation.generator import ModelGenerator
from genai_iface.generation.sampling import Sampler
from genai_iface.generation.scheduled_request import ScheduledRequest
from genai_iface.generation.scheduler import Scheduler
from genai_iface.generation.speculation import DraftModel, PromptLookup
from genai_iface.generation.stopping import StopStrings
from genai_iface.generation.streamer import Streamer
from genai_iface.generation.streaming import Detokenizer, TextStream

__all__ = [
    "Constraint",
    "Detokenizer",
    "DraftModel",
    "ModelGenerator",
    "PromptLookup",
    "Sampler",
    "ScheduledRequest",
    "Scheduler",
    "StopStrings",
    "Streamer",
    "TextStream",
    "TokenConstraint",
]
