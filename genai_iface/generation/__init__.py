# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Generation over the protocols: the loop, sampling, stopping and streaming, for every backend."""

from genai_iface.generation.constraints import Constraint, TokenConstraint
from genai_iface.generation.engine import Engine
from genai_iface.generation.generator import ModelGenerator
from genai_iface.generation.hooks import (
    ChunkHook,
    GenerationHooks,
    LogitsHook,
    PrefillHook,
    StopHook,
    Streamer,
    TextHook,
)
from genai_iface.generation.sampling.sampler import Sampler
from genai_iface.generation.scheduling.request import ScheduledRequest
from genai_iface.generation.scheduling.scheduler import Scheduler
from genai_iface.generation.speculation.speculator import Drafter, DraftModel, DraftRequest, PromptLookup, Speculation
from genai_iface.generation.text.stopping import StopStrings
from genai_iface.generation.text.stream import Detokenizer, TextStream

__all__ = [
    "ChunkHook",
    "Constraint",
    "Detokenizer",
    "DraftModel",
    "DraftRequest",
    "Drafter",
    "Engine",
    "GenerationHooks",
    "LogitsHook",
    "ModelGenerator",
    "PrefillHook",
    "PromptLookup",
    "Sampler",
    "ScheduledRequest",
    "Scheduler",
    "Speculation",
    "StopHook",
    "StopStrings",
    "Streamer",
    "TextHook",
    "TextStream",
    "TokenConstraint",
]
