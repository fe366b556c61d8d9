# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""One way to run a generative ONNX model on any runtime.

This package holds the interface: protocols, data types, configuration, errors, and what needs
nothing but them. Runtimes come from backends, which are found by name. Importing it loads no
runtime and, beyond numpy, no third-party library.
"""

from typing import TYPE_CHECKING

from genai_iface.capabilities import LEVEL_PROFILES, Capability
from genai_iface.config import GenerationConfig
from genai_iface.errors import (
    BackendError,
    BackendNotFoundError,
    CacheOverflowError,
    CacheRewindError,
    GenAIError,
    InsufficientMemoryError,
    InterfaceVersionError,
    InvalidInputError,
    OutputError,
    UnsupportedCapabilityError,
    UnsupportedModelError,
)
from genai_iface.protocols import (
    Backend,
    Generator,
    KVCache,
    Message,
    Model,
    Pipeline,
    Prompt,
    SupportsFork,
    SupportsInspect,
    SupportsSave,
    Tokenizer,
)
from genai_iface.registry import list_backends, load_backend, load_model
from genai_iface.results import Chunk, FinishReason, GenerationResult, PerfMetrics, Score, TokenLogprob
from genai_iface.types import BackendInfo, CacheSpec, Device, LayerCacheSpec, ModelSpec
from genai_iface.version import INTERFACE_VERSION, SUPPORTED_INTERFACE_VERSIONS, negotiate_version

if TYPE_CHECKING:
    from genai_iface.memory import estimate_cache_bytes
    from genai_iface.pipeline import TextGenerationPipeline

__version__ = "0.1.0"

__all__ = [
    "INTERFACE_VERSION",
    "LEVEL_PROFILES",
    "SUPPORTED_INTERFACE_VERSIONS",
    "Backend",
    "BackendError",
    "BackendInfo",
    "BackendNotFoundError",
    "CacheOverflowError",
    "CacheRewindError",
    "CacheSpec",
    "Capability",
    "Chunk",
    "Device",
    "FinishReason",
    "GenAIError",
    "GenerationConfig",
    "GenerationResult",
    "Generator",
    "InsufficientMemoryError",
    "InterfaceVersionError",
    "InvalidInputError",
    "KVCache",
    "LayerCacheSpec",
    "Message",
    "Model",
    "ModelSpec",
    "OutputError",
    "PerfMetrics",
    "Pipeline",
    "Prompt",
    "Score",
    "SupportsFork",
    "SupportsInspect",
    "SupportsSave",
    "TextGenerationPipeline",
    "TokenLogprob",
    "Tokenizer",
    "UnsupportedCapabilityError",
    "UnsupportedModelError",
    "estimate_cache_bytes",
    "list_backends",
    "load_backend",
    "load_model",
    "negotiate_version",
]


def __getattr__(name: str) -> object:
    # The pipeline brings in all of generation; whoever implements a backend need not wait for it.
    if name == "TextGenerationPipeline":
        from genai_iface.pipeline import TextGenerationPipeline  # noqa: PLC0415

        return TextGenerationPipeline
    if name == "estimate_cache_bytes":
        from genai_iface.memory import estimate_cache_bytes  # noqa: PLC0415

        return estimate_cache_bytes
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
