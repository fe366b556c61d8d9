# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Models by id, from a hub on the loopback address that speaks the paths of the real one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from genai_iface import InvalidInputError, TextGenerationPipeline, load_model
from genai_iface.cli.main import main
from genai_iface.folder import open_folder
from genai_iface.folder.resolve import describe_models
from tests.folder.resolve.small_hub import Repository, SmallHub, serving
from tests.folder.resolve.test_paths import as_published, greedy
from tests.models import write_folder

constants = pytest.importorskip("huggingface_hub.constants")

CONFIGS = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}


def content(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A repository as transformers.js wants it: several precisions, weights beside the graphs."""
    place = tmp_path_factory.mktemp("files")
    published = as_published(write_folder(place / "model", style="concat"), "model", "model_fp16", "model_q4")
    return content(published) | {"README.md": b"words", "onnx/model_q4.onnx_data_1": b"more", "pytorch_model.bin": b"x"}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A repository as Transformers' exporters save it."""
    files = content(write_folder(tmp_path_factory.mktemp("exported") / "model", style="concat"))
    graph = files.pop("model.onnx")
    parts = {name: {"file": f"{name}.onnx", "metadata": {}} for name in ("prefill", "decode")}
    manifest = {"schema_version": 1, "export_format": "onnx", "components": parts}
    return files | {"decode.onnx": graph, "prefill.onnx": graph, "export.json": json.dumps(manifest).encode()}


@pytest.fixture
def hub(
    files: dict[str, bytes], exported: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[SmallHub]:
    old = {name: data for name, data in files.items() if "_fp16" not in name}
    repositories = {
        "someone/tiny": Repository({"main": dict(files), "v1": old}),
        "someone/closed": Repository({"main": dict(files)}, gated="a-token"),
        "someone/holes": Repository({"main": dict(files)}, missing={"onnx/model.onnx_data"}),
        "someone/slow": Repository({"main": dict(files)}, breaks={"onnx/model.onnx_data": 1}),
        "someone/exported": Repository({"main": dict(exported)}),
        "someone/dead": Repository({"main": dict(files)}, breaks={"onnx/model.onnx_data": 99}),
    }
    with serving(repositories) as served:
        monkeypatch.setattr(constants, "ENDPOINT", served.url)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        template = served.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        # The client waits half a minute before it gives up.
        monkeypatch.setattr(
            "huggingface_hub.utils._http.time", SimpleNamespace(sleep=lambda seconds: None, time=time.time)
        )
        monkeypatch.setattr(
            "huggingface_hub.file_download.time", SimpleNamespace(sleep=lambda seconds: None, time=time.time)
        )
        # The pieces that a file is written in: what broke off within one is fetched again.
        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1024)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield served


def test_only_what_is_needed_is_fetched(hub: SmallHub) -> None:
    opened = open_folder("someone/tiny")
    assert opened.model_path.name == "model.onnx"
    assert set(hub.downloaded()) == CONFIGS | {"onnx/model.onnx", "onnx/model.onnx_data"}
    assert any("at commit" in note for note in opened.notes)
    asked = len(hub.downloaded())
    assert greedy("someone/tiny") == greedy(opened.source)
    assert len(hub.downloaded()) == asked  # from the cache


def test_a_variant_and_a_revision(hub: SmallHub) -> None:
    assert open_folder("someone/tiny:fp16").model_path.name == "model_fp16.onnx"
    assert open_folder("someone/tiny", variant="q4").model_path.name == "model_q4.onnx"
    assert "onnx/model.onnx_data" not in hub.downloaded()
    # What the graph does not name is not fetched, whatever it is called.
    assert "onnx/model_q4.onnx_data_1" not in hub.downloaded()
    with pytest.raises(InvalidInputError, match="no variant 'fp16'") as caught:
        open_folder("someone/tiny", variant="fp16", revision="v1")
    assert "q4  (onnx/model_q4.onnx: " in str(caught.value)
    assert load_model("someone/tiny", variant="q4", revision="v1").spec.vocab_size == 264


def test_the_variants_are_listed_without_weights(hub: SmallHub) -> None:
    models = describe_models("someone/tiny")
    assert [model.name for model in models] == ["fp32", "fp16", "q4"]
    assert {(model.dtype, model.cache, model.problem) for model in models} == {("float32", "concat", None)}
    assert all(model.size > 20_000 for model in models)
    assert not any("onnx_data" in name for name in hub.downloaded())


def test_of_an_export_the_graph_that_continues_is_fetched(hub: SmallHub, monkeypatch: pytest.MonkeyPatch) -> None:
    with TextGenerationPipeline("someone/exported") as pipe:
        wanted = pipe.generate("Hello", max_new_tokens=6, ignore_eos=True).token_ids
    assert set(hub.downloaded()) == CONFIGS | {"export.json", "decode.onnx"}
    # What was not fetched is no fault of the folder.
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with TextGenerationPipeline("someone/exported") as pipe:
        assert pipe.generate("Hello", max_new_tokens=6, ignore_eos=True).token_ids == wanted


def test_offline(hub: SmallHub, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = greedy("someone/tiny")
    asked = len(hub.requests)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert greedy("someone/tiny") == wanted
    assert len(hub.requests) == asked
    with pytest.raises(InvalidInputError, match=r"neither a folder here nor in the cache .* HF_HUB_OFFLINE is set"):
        open_folder("someone/closed")
    with pytest.raises(InvalidInputError, match="revision 'v1'"):
        open_folder("someone/tiny", revision="v1")
    for revision in ("../../..", "..", "refs/../../x"):
        with pytest.raises(InvalidInputError, match="neither"):
            open_folder("someone/tiny", revision=revision)


def test_a_hub_that_is_down(hub: SmallHub) -> None:
    wanted = greedy("someone/tiny")
    hub.is_down = True
    with TextGenerationPipeline("someone/tiny") as pipe:
        assert pipe.generate("Hello", max_new_tokens=6, ignore_eos=True).token_ids[0] == wanted
    with pytest.raises(InvalidInputError, match="neither a folder here nor in the cache"):
        open_folder("someone/closed")


def test_an_address_where_nobody_listens(hub: SmallHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(InvalidInputError, match=r"cannot be downloaded: http://127\.0\.0\.1:9 cannot be reached"):
        open_folder("someone/tiny")


def test_no_such_repository_revision_or_file(hub: SmallHub) -> None:
    with pytest.raises(InvalidInputError, match="no folder 'someone/nothing' here, and no repository of that name"):
        open_folder("someone/nothing")
    with pytest.raises(InvalidInputError, match="no revision 'v9'"):
        open_folder("someone/tiny", revision="v9")
    with pytest.raises(InvalidInputError, match="missing at the hub"):
        open_folder("someone/holes")
    assert open_folder("someone/holes:q4").model_path.name == "model_q4.onnx"


def test_a_gated_repository(hub: SmallHub, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidInputError, match="accepted its terms") as caught:
        open_folder("someone/closed")
    assert "HF_TOKEN" in caught.value.remedy
    monkeypatch.setenv("HF_TOKEN", "a-token")
    assert open_folder("someone/closed").model_path.name == "model.onnx"


def test_a_download_that_breaks_off_goes_on(hub: SmallHub, files: dict[str, bytes]) -> None:
    opened = open_folder("someone/slow")
    ranges = [given for method, path, given in hub.requests if method == "GET" and path.endswith("model.onnx_data")]
    half = len(files["onnx/model.onnx_data"]) // 2
    assert ranges[-1] == f"bytes={half}-"
    assert opened.files[1].read_bytes() == files["onnx/model.onnx_data"]


def test_a_path_comes_before_an_id(hub: SmallHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "someone" / "tiny", style="concat")
    monkeypatch.chdir(tmp_path)
    assert open_folder("someone/tiny").path == (tmp_path / "someone" / "tiny").resolve()
    assert hub.requests == []
    for path in (Path("someone/other"), "./someone/other", "someone/other/", "someone/model.onnx", "a/b/c", "other"):
        with pytest.raises(InvalidInputError, match="no such file or folder"):
            open_folder(path)
    assert hub.requests == []


def test_the_commands(hub: SmallHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "someone/tiny"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["variant", "fp32", "fp16", "q4"]
    assert all("MiB  float32  concat  onnx/model" in line for line in lines[1:])
    assert main(["inspect", "someone/tiny:q4", "--json"]) == 0
    described = json.loads(capsys.readouterr().out)
    assert described["file"] == "model_q4.onnx"
    assert described["cache"]["style"] == "concat"
    ask = ["--max-new-tokens", "3", "Hello"]
    assert main(["generate", "--model", "someone/tiny", "--variant", "fp16", "--revision", "main", *ask]) == 0
    assert main(["convert", "someone/tiny:q4", str(tmp_path / "scatter"), "--no-verify"]) == 0
    assert open_folder(tmp_path / "scatter").spec.cache.style == "scatter"
    assert main(["quantize", "someone/tiny:q4", str(tmp_path / "int8"), "--weights", "int8"]) == 0
    assert {path.name for path in (tmp_path / "int8").iterdir()} >= CONFIGS | {"model.onnx"}
    assert main(["generate", "--model", "someone/tiny", "--variant", "none", *ask]) == 2
    assert "has no variant 'none'" in capsys.readouterr().err


def command(hub: SmallHub, tmp_path: Path, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    names = ("HF_HUB_OFFLINE", "HF_TOKEN", "HF_HUB_CACHE")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), **more}
    return subprocess.run(
        [sys.executable, "-m", "genai_iface", *words], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_one_command(hub: SmallHub, tmp_path: Path) -> None:
    """What the environment says reaches the client, and a download says what it does."""
    done = command(hub, tmp_path, "generate", "--model", "someone/tiny:fp16", "--max-new-tokens", "3", "Hello")
    assert done.returncode == 0, done.stderr
    assert "Fetching" in done.stderr
    assert (tmp_path / "home" / "hub" / "models--someone--tiny").is_dir()
    listed = command(hub, tmp_path, "inspect", "someone/tiny", HF_HUB_DISABLE_PROGRESS_BARS="1")
    assert listed.returncode == 0, listed.stderr
    for words in (("fp32", "float32", "concat"), ("fp16", "concat"), ("q4", "concat")):
        assert any(all(word in line for word in words) for line in listed.stdout.splitlines()), listed.stdout
    refused = command(hub, tmp_path, "generate", "--model", "someone/closed", "Hello", HF_HUB_OFFLINE="1")
    assert refused.returncode == 2
    assert "HF_HUB_OFFLINE is set" in refused.stderr
