# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The folders of the corpus: who writes models like this, and what is in them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.layouts import files
from tests.layouts.decoder import Form, PublishedDecoder, with_clear_tokens
from tests.layouts.files import beside, genai_config, into_cache, save, write_json

__all__ = ["LAYOUTS", "PROMPT", "REFUSED", "STEPS", "Layout", "Refused"]

PROMPT = [72, 101, 108, 108, 111, 32]
STEPS = 8

# Rounding of activations moves logits by this much of the largest one; a margin of half of it could be lost.
_EXACT, _ROUNDED = 0.02, 0.05

JS = Form()
FUSED = Form(attention="grouped", rotary="contrib", norm="skip", kept_logits=True)
BUILDER = Form(attention="grouped", rotary="inside", norm="skip", packed=True, position_ids=False, opset=21)
STANDARD = Form(
    attention="scatter", rotary="standard", norm="standard", opset=24, position_ids=False, attention_mask=False
)
EXPORTED = Form(attention="attention", rotary="standard", norm="standard", opset=23)


@dataclass(frozen=True)
class Layout:
    """One folder.

    Attributes:
        name: A name of our own.
        maker: Who writes such folders.
        form: What the graph is like.
        write: Writes it into an empty folder, and returns what a user names.
        margin: How far apart the two likeliest tokens of each step are at least.
    """

    name: str
    maker: str
    form: Form
    write: Callable[[Path, PublishedDecoder], Path]
    margin: float = _EXACT

    def decoder(self) -> PublishedDecoder:
        """The decoder, its tokens clear of rounding."""
        return with_clear_tokens(self.form, PROMPT, STEPS, margin=self.margin)


@dataclass(frozen=True)
class Refused:
    """A folder that is refused by name.

    Attributes:
        name: A name of our own.
        maker: Who writes such folders.
        write: Writes it into an empty folder.
        message: What the error says.
    """

    name: str
    maker: str
    write: Callable[[Path], None]
    message: str


Writer = Callable[[Path, PublishedDecoder], Path]


def nested(file: str, *, data: tuple[str, ...] = (), others: tuple[str, ...] = (), **config: Any) -> Writer:
    """Configurations at the top, the graph below; other files of the repository are there too."""

    def write(folder: Path, decoder: PublishedDecoder) -> Path:
        beside(folder, **config)
        save(decoder.model, folder / file, data=data)
        for other in others:
            save(decoder.model, folder / other)
        return folder

    return write


def built(file: str = "model.onnx", *, below: str = "", top: bool = False, **config: Any) -> Writer:
    """A folder of ONNX Runtime GenAI's builder, perhaps below another."""

    def write(folder: Path, decoder: PublishedDecoder) -> Path:
        place = folder / below
        genai_config(place, file, **config)
        save(decoder.model, place / file, data=(f"{file}.data",))
        return folder if top or not below else place

    return write


def transformersjs() -> list[Layout]:
    integer = replace(JS, weights="integer", table="row")
    nbits = replace(FUSED, weights="nbits4", table="block")
    half = replace(FUSED, dtype="float16")
    rows: list[tuple[str, Form, Writer, float]] = [
        ("js", JS, nested("onnx/model.onnx"), _EXACT),
        ("js-data", JS, nested("onnx/model.onnx", data=("model.onnx_data",)), _EXACT),
        ("js-data-2", FUSED, nested("onnx/model.onnx", data=("model.onnx_data", "model.onnx_data_1")), _EXACT),
        ("js-fp16", half, nested("onnx/model_fp16.onnx", data=("model_fp16.onnx_data",)), _ROUNDED),
        ("js-int8", integer, nested("onnx/model_int8.onnx"), _ROUNDED),
        ("js-uint8", integer, nested("onnx/model_uint8.onnx"), _ROUNDED),
        ("js-quantized", integer, nested("onnx/model_quantized.onnx"), _ROUNDED),
        ("js-bnb4", replace(JS, weights="bnb4"), nested("onnx/model_bnb4.onnx"), _EXACT),
        ("js-q4", nbits, nested("onnx/model_q4.onnx", data=("model_q4.onnx_data",)), _EXACT),
        ("js-q4f16", replace(nbits, dtype="float16"), nested("onnx/model_q4f16.onnx"), _ROUNDED),
        ("js-q8", replace(FUSED, weights="nbits8"), nested("onnx/model_q8.onnx"), _EXACT),
        ("js-kept-logits", FUSED, nested("onnx/model.onnx"), _EXACT),
        ("js-multi-head", replace(FUSED, attention="multi-head"), nested("onnx/model.onnx"), _EXACT),
        ("js-all", FUSED, nested("onnx/model.onnx", others=("onnx/model_q4.onnx", "onnx/model_fp16.onnx")), _EXACT),
        ("js-window", replace(FUSED, window=4), nested("onnx/model.onnx", sliding_window=4), _EXACT),
        (
            "js-window-in-config",
            replace(FUSED, window=4, window_in_graph=False),
            nested("onnx/model.onnx", sliding_window=4, layer_types=["sliding_attention"] * 2),
            _EXACT,
        ),
    ]
    return [Layout(name, "transformers.js", form, write, margin) for name, form, write, margin in rows]


def optimum() -> list[Layout]:
    def halves(folder: Path, decoder: PublishedDecoder) -> Path:
        beside(folder)
        save(files.without_past(decoder.model), folder / "decoder_model.onnx")
        save(files.with_past_width(decoder.model), folder / "decoder_with_past_model.onnx")
        return folder

    def whole(below: str, *, also_halves: bool, suffix: str = "") -> Writer:
        def write(folder: Path, decoder: PublishedDecoder) -> Path:
            beside(folder)
            place = folder / below
            save(files.merged(decoder.model), place / f"decoder_model_merged{suffix}.onnx")
            if also_halves:
                save(files.without_past(decoder.model), place / f"decoder_model{suffix}.onnx")
                save(files.with_past_width(decoder.model), place / f"decoder_with_past_model{suffix}.onnx")
            return folder

        return write

    integer = replace(JS, weights="integer", table="row", opset=14)
    rows = [
        ("optimum-halves", replace(JS, opset=14), halves, _EXACT),
        ("optimum-merged", replace(JS, opset=14), whole("", also_halves=True), _EXACT),
        ("optimum-merged-alone", replace(JS, position_ids=False), whole("", also_halves=False), _EXACT),
        ("optimum-merged-js", replace(JS, opset=14), whole("onnx", also_halves=True), _EXACT),
        ("optimum-merged-quantized", integer, whole("onnx", also_halves=True, suffix="_quantized"), _ROUNDED),
        ("optimum-model", JS, nested("model.onnx", data=("model.onnx_data",)), _EXACT),
        ("optimum-model-opset18", replace(JS, opset=17, norm="spelled"), nested("model.onnx"), _EXACT),
        ("optimum-sharded", JS, nested("model.onnx", data=tuple(f"model.onnx_data_{n}" for n in range(4))), _EXACT),
        ("optimum-ort-optimized", replace(FUSED, kept_logits=False), nested("model_optimized.onnx"), _EXACT),
        ("optimum-ort-quantized", integer, nested("model_quantized.onnx"), _ROUNDED),
    ]
    return [Layout(name, "Optimum", form, write, margin) for name, form, write, margin in rows]


def exporters() -> list[Layout]:
    def write(folder: Path, decoder: PublishedDecoder) -> Path:
        beside(folder)
        save(decoder.model, folder / "decode.onnx", data=("decode.onnx.data",))
        save(files.without_past(decoder.model), folder / "prefill.onnx", data=("prefill.onnx.data",))
        components = {name: {"file": f"{name}.onnx", "metadata": {}} for name in ("prefill", "decode")}
        write_json(folder / "export.json", {"schema_version": 1, "export_format": "onnx", "components": components})
        return folder

    def single(folder: Path, decoder: PublishedDecoder) -> Path:
        write(folder, decoder)
        save(files.with_past_width(decoder.model), folder / "decode.onnx")
        return folder

    named = replace(EXPORTED, names=("past_key_values.layers.{0}.{1}s", "present_key_values.layers.{0}.{1}s"))
    rows = [("exporters", named, write), ("exporters-one-token", named, single), ("exporters-opset20", JS, write)]
    return [Layout(name, "transformers.exporters", form, writer) for name, form, writer in rows]


def genai() -> list[Layout]:
    window = {"window_size": 4, "slide_key_value_cache": False, "slide_inputs": False, "layers": []}
    by_layer = {**window, "layers": [0, 1]}
    hidden = replace(BUILDER, window=4, window_in_graph=False)
    nbits = replace(BUILDER, weights="nbits4")
    place = "cpu_and_mobile/cpu-int4-rtn-block-32-acc-level-4"
    rows: list[tuple[str, Form, Writer, float]] = [
        ("genai-fp32", BUILDER, built(), _EXACT),
        ("genai-fp16", replace(BUILDER, dtype="float16"), built(), _ROUNDED),
        ("genai-int4", nbits, built(), _EXACT),
        ("genai-int4-table", replace(nbits, table="block"), built(), _EXACT),
        ("genai-int8", replace(BUILDER, weights="nbits8"), built(), _EXACT),
        ("genai-unpacked", replace(BUILDER, packed=False, norm="simplified"), built(), _EXACT),
        ("genai-file-name", nbits, built("phi3-mini-4k-instruct-cpu-int4-rtn-block-32.onnx"), _EXACT),
        ("genai-window", replace(BUILDER, window=4), built(window=by_layer), _EXACT),
        ("genai-window-config", hidden, built(window=window), _EXACT),
        ("genai-window-some-layers", hidden, built(window=by_layer), _EXACT),
        ("genai-window-buffer", replace(BUILDER, window=4, window_buffer=True), built(window=by_layer), _EXACT),
        ("genai-last-logits", replace(BUILDER, last_logits=True), built(), _EXACT),
        ("microsoft-nested", nbits, built(below=place), _EXACT),
        ("microsoft-nested-top", nbits, built(below=place, top=True), _EXACT),
        ("microsoft-v2", nbits, built(below="v2", top=True), _EXACT),
    ]
    return [Layout(name, "ONNX Runtime GenAI", form, write, margin) for name, form, write, margin in rows]


def microsoft_devices(folder: Path, decoder: PublishedDecoder) -> Path:
    """One repository, a folder for each device."""
    for place in (
        "cpu_and_mobile/cpu-int4-rtn-block-32-acc-level-4",
        "cuda/cuda-int4-rtn-block-32",
        "directml/dml-fp16",
    ):
        built(below=place)(folder, decoder)
    return folder


def package(folder: Path, decoder: PublishedDecoder, *, variants: tuple[str, ...] = ("cpu", "cuda")) -> Path:
    """A model package of ONNX Runtime: one component, variants, and a tokenizer that they share."""
    shared = folder / "shared_assets" / f"sha256-{'a1' * 32}"
    providers = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
    for name in variants:
        built(below=f"decoder/{name}")(folder, decoder)
        for path in (folder / "decoder" / name).iterdir():
            if path.name.startswith(("tokenizer", "chat_template")):
                shared.mkdir(parents=True, exist_ok=True)
                path.replace(shared / path.name)
    bodies = {name: {"ep": providers[name], "device": "gpu" if name == "cuda" else name} for name in variants}
    write_json(folder / "decoder" / "component.json", {"component_name": "decoder", "variants": bodies})
    manifest = {"schema_version": "1.0", "package_name": "tiny", "components": {"decoder": "decoder"}}
    write_json(folder / "manifest.json", manifest)
    return folder


def inline_package(folder: Path, decoder: PublishedDecoder) -> Path:
    """The component stands in the manifest, its one variant in a folder of another name."""
    package(folder, decoder, variants=("cpu",))
    (folder / "decoder" / "component.json").unlink()
    variant = {"variant_directory": "decoder/cpu", "ep": "CPUExecutionProvider"}
    components = {"decoder": {"variants": {"x64": variant}}}
    write_json(folder / "manifest.json", {"schema_version": "1.0", "components": components})
    return folder


def first_package(folder: Path, decoder: PublishedDecoder) -> Path:
    """As the first drafts of the package had it: lists, metadata.json, configs/."""
    package(folder, decoder, variants=("cpu",))
    (folder / "shared_assets" / f"sha256-{'a1' * 32}").rename(folder / "configs")
    (folder / "shared_assets").rmdir()
    (folder / "decoder" / "component.json").rename(folder / "decoder" / "metadata.json")
    write_json(folder / "manifest.json", {"schema_version": 1, "components": ["decoder"]})
    return folder


def olive(folder: Path, decoder: PublishedDecoder) -> Path:
    """Olive's output: the model in a folder of its own, the pass's configuration beside it."""
    built(below="model")(folder, decoder)
    write_json(folder / "model_config.json", {"type": "ONNXModel", "config": {"model_path": "model"}})
    return folder


def cached(inner: Writer, repository: str) -> Writer:
    """The same, as huggingface_hub's cache keeps it."""

    def write(folder: Path, decoder: PublishedDecoder) -> Path:
        inner(folder / "made", decoder)
        return into_cache(folder / "made", folder / "hub", repository)

    return write


def tuned(folder: Path, decoder: PublishedDecoder) -> Path:
    """A fine-tune: the base's files, sharded data, the trainer's own files."""
    nested("onnx/model.onnx", data=("model.onnx_data", "model.onnx_data_1", "model.onnx_data_2"))(folder, decoder)
    write_json(folder / "trainer_state.json", {"epoch": 3.0})
    write_json(folder / "onnx" / "quantize_config.json", {"modes": ["fp32"]})
    return folder


def others() -> list[Layout]:
    rank3 = replace(STANDARD, layout="bsh", position_ids=True, names=("{1}_cache.{0}", "updated_{1}_cache.{0}"))
    concat = replace(EXPORTED, opset=24, attention_mask=True)
    nbits = replace(BUILDER, weights="nbits4")
    inside = nested("onnx/model_q4.onnx", data=("model_q4.onnx_data", "model_q4.onnx_data_1"))
    rows: list[tuple[str, str, Form, Writer, float]] = [
        ("microsoft-devices", "Microsoft", nbits, microsoft_devices, _EXACT),
        ("package", "ONNX Runtime packages", nbits, package, _EXACT),
        ("package-inline", "ONNX Runtime packages", BUILDER, inline_package, _EXACT),
        ("package-first-form", "ONNX Runtime packages", BUILDER, first_package, _EXACT),
        ("mobius-concat", "mobius", concat, nested("model.onnx", data=("model.onnx.data",)), _EXACT),
        ("mobius-static", "mobius", rank3, nested("model.onnx", data=("model.onnx.data",)), _EXACT),
        ("mobius-grouped", "mobius", replace(BUILDER, position_ids=True), nested("model.onnx"), _EXACT),
        ("ours", "genai-iface", STANDARD, nested("model.onnx", data=("model.onnx.data",)), _EXACT),
        ("ours-int4", "genai-iface", replace(STANDARD, weights="blocks"), nested("model.onnx"), _EXACT),
        ("ours-bfloat16", "genai-iface", replace(STANDARD, dtype="bfloat16"), nested("model.onnx"), _ROUNDED),
        ("olive", "Olive", nbits, olive, _EXACT),
        ("cache-js", "huggingface_hub", replace(FUSED, weights="nbits4"), cached(inside, "org--tiny"), _EXACT),
        ("cache-genai", "huggingface_hub", nbits, cached(built(), "org--built"), _EXACT),
        ("cache-package", "huggingface_hub", nbits, cached(package, "org--package"), _EXACT),
        ("tuned", "fine-tunes", FUSED, tuned, _EXACT),
        ("free-name", "by hand", JS, nested("my tiny model.onnx"), _EXACT),
    ]
    return [Layout(name, maker, form, write, margin) for name, maker, form, write, margin in rows]


LAYOUTS = [*transformersjs(), *optimum(), *exporters(), *genai(), *others()]


def _texts(contents: dict[str, str]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        beside(folder)
        for name, text in contents.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")

    return write


def _compiled(folder: Path) -> None:
    """A graph that a vendor's compiler has left one node of."""
    import onnx
    from onnx import TensorProto, helper

    node = helper.make_node(
        "EPContext", ["input_ids"], ["logits"], domain="com.microsoft", embed_mode=0, source="QNNExecutionProvider"
    )
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT32, [1, 64])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 64, 264])
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    genai_config(folder)
    onnx.save(
        helper.make_model(helper.make_graph([node], "ctx", [ids], [logits]), opset_imports=opsets),
        folder / "model.onnx",
    )


def _pipeline(folder: Path) -> None:
    stages = [{"context": {"filename": "context_ctx.onnx"}}, {"iterator": {"filename": "iterator_ctx.onnx"}}]
    genai_config(folder, decoder={"pipeline": stages})
    for name in ("context_ctx.onnx", "iterator_ctx.onnx", "embeddings.onnx", "lm_head.onnx"):
        (folder / name).write_bytes(b"")


def _pictures(folder: Path) -> None:
    genai_config(
        folder, "phi-3-v-128k-instruct-text.onnx", vision={"filename": "v.onnx"}, embedding={"filename": "e.onnx"}
    )
    for name in ("phi-3-v-128k-instruct-text.onnx", "v.onnx", "e.onnx"):
        (folder / name).write_bytes(b"")


REFUSED = [
    Refused("epcontext", "QNN and other NPUs", _compiled, "compiled for 'QNNExecutionProvider'"),
    Refused("npu-pipeline", "ONNX Runtime GenAI", _pipeline, "pipeline of several graphs"),
    Refused("genai-pictures", "ONNX Runtime GenAI", _pictures, "other inputs than text"),
    Refused(
        "js-pictures",
        "transformers.js",
        _texts({f"onnx/{n}_q4.onnx": "" for n in ("decoder_model_merged", "embed_tokens", "vision_encoder")}),
        "embeddings, not token ids",
    ),
    Refused(
        "encoder-decoder",
        "Optimum",
        _texts({f"onnx/{n}.onnx": "" for n in ("encoder_model", "decoder_model_merged", "decoder_with_past_model")}),
        "encoder-decoder",
    ),
    Refused(
        "openvino",
        "OpenVINO",
        _texts({"openvino_model.xml": "<net/>", "openvino_model.bin": "", "openvino_tokenizer.xml": "<net/>"}),
        "OpenVINO's form",
    ),
    Refused("checkpoint", "Transformers", _texts({"model.safetensors": ""}), "is a checkpoint"),
]
