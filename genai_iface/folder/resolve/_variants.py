# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The models among the files of a folder or repository: each could be opened, or has a reason why not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from genai_iface.folder.resolve._export import EXPORT_MANIFEST, ExportedParts, exported_parts
from genai_iface.folder.resolve._listing import Listing
from genai_iface.folder.resolve._names import (
    data_size,
    is_for_another_device,
    is_part,
    precision_of,
    split_suffix,
    vision_parts,
)
from genai_iface.folder.resolve._package import package_variants, shared_folders

__all__ = ["Refusal", "Variant", "find_variants"]

GENAI_CONFIG = "genai_config.json"
# Of what one exporter writes side by side, what serves a whole generation comes first.
_DECODERS = ("model", "decoder_model_merged", "decoder_with_past_model", "decode", "decoder_model", "decoder")
_CPU_PROVIDERS = ("", "cpu", "cpuexecutionprovider")


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a file cannot be opened here.

    Attributes:
        what: What it is.
        remedy: What to do.
    """

    what: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Variant:
    """One model file among those of a folder or repository.

    Attributes:
        name: What ``variant`` calls it by.
        file: Its path below the source.
        size: Bytes, those of its external data included as far as names tell.
        precision: What its name says that weights are kept in, None if it says nothing.
        kind: 0 for a file that a configuration names, then as usual as the name is.
        elsewhere: Made for another device than the processor.
        companions: Folders below the source with more of its files, besides its own and those above.
        aliases: Other names.
        refusal: Why it cannot be opened.
    """

    name: str
    file: str
    size: int
    precision: str | None
    kind: int = 0
    elsewhere: bool = False
    companions: tuple[str, ...] = ()
    aliases: frozenset[str] = frozenset()
    refusal: Refusal | None = None

    @property
    def folder(self) -> str:
        """The folder of the file below the source, "" for the source itself."""
        return self.file.rpartition("/")[0]

    def answers_to(self, name: str) -> bool:
        """Whether a user may mean it by that name."""
        return name == self.name or name.lower() in self.aliases


def find_variants(listing: Listing) -> list[Variant]:
    """The models of a listing, in the order of their paths.

    Raises:
        InvalidInputError: A configuration beside a model is not a JSON object.
    """
    packaged = package_variants(listing)
    if packaged:
        shared = tuple(shared_folders(listing))
        found = []
        for item in packaged:
            for variant in _in_folder(listing, item.folder):
                is_elsewhere = item.provider.lower() not in _CPU_PROVIDERS
                aliases = variant.aliases | {item.name.lower(), f"{item.component}/{item.name}".lower()}
                found.append(
                    replace(
                        variant,
                        name=item.name,
                        elsewhere=is_elsewhere or variant.elsewhere,
                        companions=shared,
                        aliases=aliases,
                    )
                )
        return _with_own_names(found)
    folders = dict.fromkeys(name.rpartition("/")[0] for name in sorted(listing.sizes) if name.endswith(".onnx"))
    return _with_own_names([variant for folder in folders for variant in _in_folder(listing, folder)])


def _in_folder(listing: Listing, folder: str) -> list[Variant]:
    names = listing.names_in(folder)
    models = [name for name in names if name.endswith(".onnx")]
    prefix = f"{folder}/" if folder else ""
    if GENAI_CONFIG in names:
        return _named_by_genai(listing, folder, models)
    if EXPORT_MANIFEST in names:
        place = f"{listing.name}/{folder}" if folder else listing.name
        parts = exported_parts(listing.read_json(prefix + EXPORT_MANIFEST) or {}, models, place)
        if parts is not None:
            return _exported(listing, folder, parts)
    return list(_by_name(listing, folder, models))


def _named_by_genai(listing: Listing, folder: str, models: list[str]) -> list[Variant]:
    """The decoder that genai_config.json names; the other files are parts of it, or of nothing."""
    prefix = f"{folder}/" if folder else ""
    config = listing.read_json(prefix + GENAI_CONFIG) or {}
    model = config.get("model")
    model = model if isinstance(model, Mapping) else {}
    decoder = model.get("decoder")
    decoder = decoder if isinstance(decoder, Mapping) else {}
    file = decoder.get("filename")
    file = file if isinstance(file, str) and file in models else "model.onnx"
    if file not in models and not models:
        return []
    refusal = _genai_refusal(config, model, decoder)
    if file not in models and refusal is None:
        return list(_by_name(listing, folder, models))
    return [replace(_variant(listing, folder, file if file in models else models[0], kind=0), refusal=refusal)]


def _genai_refusal(config: Mapping[str, Any], model: Mapping[str, Any], decoder: Mapping[str, Any]) -> Refusal | None:
    """What a genai_config.json says that no single decoder graph can serve."""
    if decoder.get("pipeline"):
        return Refusal(
            "a pipeline of several graphs, as for QNN and other NPUs (model.decoder.pipeline in genai_config.json)",
            "Take the folder for cpu or cuda of the same model, or build one: genai-iface build CHECKPOINT OUT.",
        )
    parts = [name for name in ("vision", "speech", "embedding") if name in model]
    if parts:
        return Refusal(
            f"the decoder of a model with other inputs than text ({', '.join(parts)} in genai_config.json); it takes "
            "embeddings, not token ids",
            "Take the text-only model, or build its language model: genai-iface build CHECKPOINT OUT.",
        )
    if "encoder" in model:
        return Refusal(
            "an encoder and a decoder (model.encoder in genai_config.json)", "Take the model of a decoder alone."
        )
    return None


def _exported(listing: Listing, folder: str, parts: ExportedParts) -> list[Variant]:
    """What Transformers' exporters write: the graph that takes a cache can be opened."""
    embeds = Refusal(
        f"a part of a model with other inputs than text ({', '.join(parts.others[:3])} in {EXPORT_MANIFEST})",
        "Take the text-only model, or build its language model: genai-iface build CHECKPOINT OUT.",
    )
    prompts = Refusal(
        f"the graph for prompts of an export in parts (prefill in {EXPORT_MANIFEST}), which takes no cache",
        "Take the component decode; if there is none, export with export_for_generation.",
    )
    refusal = embeds if parts.others else None
    found = []
    if parts.continues is not None:
        found.append(replace(_variant(listing, folder, parts.continues, kind=0), refusal=refusal))
    if parts.begins is not None:
        found.append(replace(_variant(listing, folder, parts.begins, kind=0), refusal=refusal or prompts))
    return found


def _by_name(listing: Listing, folder: str, models: list[str]) -> Iterator[Variant]:
    """What remains when parts, and halves of what stands there as a whole, are left out."""
    stems = {name.removesuffix(".onnx"): name for name in models}
    split = {stem: split_suffix(stem) for stem in stems}
    decoders = {(base, precision) for base, precision in split.values()}
    parts = vision_parts(stems)
    encoders = [stem for stem in stems if split[stem][0] == "encoder_model"]
    for stem, name in stems.items():
        base, precision = split[stem]
        if is_part(stem) and (len(stems) > 1 or base in ("encoder_model", "prefill")):
            continue
        if base == "decoder_with_past_model" and ("decoder_model_merged", precision) in decoders:
            continue
        if base == "decoder_model" and decoders & {
            (f"decoder{rest}", precision) for rest in ("_model_merged", "_with_past_model")
        }:
            continue
        variant = _variant(listing, folder, name, kind=1 + (_DECODERS.index(base) if base in _DECODERS else 9))
        if precision is None and any(other == base and kind for other, kind in split.values()):
            # Beside model_q4.onnx, model.onnx is the one that was not quantized.
            variant = replace(variant, precision="fp32", name="fp32", aliases=variant.aliases | {"fp32", "float32"})
        yield replace(variant, refusal=_refused_beside(base, parts, encoders))


def _refused_beside(base: str, parts: list[str], encoders: list[str]) -> Refusal | None:
    """What the files beside a decoder say about it."""
    if encoders and base.startswith("decoder"):
        return Refusal(
            f"the decoder of an encoder-decoder model ({encoders[0]}.onnx is beside it)",
            "Take the model of a decoder alone.",
        )
    if parts and base.startswith("decoder"):
        return Refusal(
            f"the decoder of a model with other inputs than text ({', '.join(parts[:3])} beside it); it takes "
            "embeddings, not token ids",
            "Take the text-only model, or build its language model: genai-iface build CHECKPOINT OUT.",
        )
    return None


def _variant(listing: Listing, folder: str, name: str, *, kind: int) -> Variant:
    prefix = f"{folder}/" if folder else ""
    path = prefix + name
    stem = name.removesuffix(".onnx")
    precision = precision_of(path)
    suffix = split_suffix(stem)[1]
    short = suffix or (folder.rpartition("/")[2] if stem == "model" and folder not in ("", "onnx") else stem)
    sizes = {other: listing.sizes[prefix + other] for other in listing.names_in(folder)}
    aliases = {path, path.removesuffix(".onnx"), name, stem, folder, folder.rpartition("/")[2], suffix or ""}
    return Variant(
        name=short,
        file=path,
        size=sizes[name] + data_size(name, sizes),
        precision=precision,
        kind=kind,
        elsewhere=is_for_another_device(path),
        aliases=frozenset(alias.lower() for alias in aliases if alias),
    )


def _with_own_names(variants: list[Variant]) -> list[Variant]:
    """Names that two variants share give way to paths."""
    names = [variant.name for variant in variants]
    return [
        replace(variant, name=variant.file.removesuffix(".onnx")) if names.count(variant.name) > 1 else variant
        for variant in variants
    ]
