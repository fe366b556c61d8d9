# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Takes one of several variants: the one that is asked for, or the fullest one that runs here."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from genai_iface.errors import InvalidInputError, UnsupportedModelError
from genai_iface.folder.resolve._describe import describe_variants, look_at
from genai_iface.folder.resolve._export import EXPORT_MANIFEST, refuse_other_format
from genai_iface.folder.resolve._listing import Listing
from genai_iface.folder.resolve._names import PRECISIONS
from genai_iface.folder.resolve._variants import Variant

__all__ = ["choose", "refuse_empty"]


def choose(listing: Listing, variants: Sequence[Variant], wanted: str | None) -> Variant:
    """The variant to open.

    Of several that a name fits, or of all without a name: those for a processor come first, then the fullest precision,
    then the usual names, then the one nearest to the top.

    Args:
        listing: Where they are.
        variants: From ``find_variants``.
        wanted: The name of one, None for the best.

    Raises:
        InvalidInputError: None has that name, or nothing decides between several; the message lists them.
        UnsupportedModelError: It is something that cannot be run here; the message says what.
    """
    found = [variant for variant in variants if wanted is None or variant.answers_to(wanted)]
    if not found:
        if not variants:
            refuse_empty(listing)
        raise InvalidInputError(
            f"{listing.name} has no variant {wanted!r}; it has:\n{describe_variants(listing, variants)}",
            remedy="Choose one of them.",
        )
    possible = [variant for variant in found if variant.refusal is None]
    refusal = found[0].refusal
    if not possible and refusal is not None:
        raise UnsupportedModelError(
            f"{found[0].file!r} of {listing.name} is {refusal.what}, which is not supported", remedy=refusal.remedy
        )
    for judge in (lambda variant: variant.elsewhere, _by_fullness(listing, possible), _by_kind, _by_depth):
        best = min(map(judge, possible))
        possible = [variant for variant in possible if judge(variant) == best]
        if len(possible) == 1:
            return possible[0]
    raise InvalidInputError(
        f"{listing.name} has several models, and nothing says which one to take:\n"
        f"{describe_variants(listing, possible)}",
        remedy='Name one: variant="..." or --variant.',
    )


def refuse_empty(listing: Listing) -> None:
    """Says what there is where no ONNX model is.

    Raises:
        InvalidInputError: Always, but for what is refused by name.
        UnsupportedModelError: It is a model in another form.
    """
    if EXPORT_MANIFEST in listing.sizes:
        refuse_other_format(listing.read_json(EXPORT_MANIFEST) or {}, listing.name)
    endings = {name.rpartition(".")[2].lower() for name in listing.sizes}
    if "xml" in endings and any(name.endswith("model.xml") for name in listing.sizes):
        raise UnsupportedModelError(
            f"{listing.name} holds a model in OpenVINO's form (.xml and .bin), which is not read",
            remedy="Take the ONNX model or the checkpoint that it was made from; a checkpoint is built by: "
            "genai-iface build CHECKPOINT OUT.",
        )
    if endings & {"safetensors", "gguf"}:
        raise InvalidInputError(
            f"{listing.name} is a checkpoint, there is no ONNX model in it",
            remedy=f"Build a folder from it: genai-iface build {listing.name} OUT.",
        )
    raise InvalidInputError(
        f"There is no model.onnx, nor any other .onnx file, in {listing.name!r} or two levels below",
        remedy="Give the folder that holds the model.",
    )


def _by_kind(variant: Variant) -> int:
    return variant.kind


def _by_depth(variant: Variant) -> int:
    return variant.file.count("/")


def _by_fullness(listing: Listing, variants: Sequence[Variant]) -> Callable[[Variant], int]:
    """How full the weights are, 0 for float32: by name, or by a look into the files if a name says nothing."""
    if len({variant.precision for variant in variants}) == 1 and variants[0].precision is not None:
        return lambda variant: 0
    words: dict[str, int] = {}
    for variant in variants:
        word = variant.precision or look_at(listing, variant).precision
        words[variant.file] = len(PRECISIONS) if word is None else PRECISIONS.index(word)
    return lambda variant: words[variant.file]
