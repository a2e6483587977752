"""The model's life: downloaded from a hub once and just as far as needed, loading, ready, failed."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from captioning.errors import ModelFailed, ModelLoading
from captioning.model.batcher import Batcher
from captioning.model.engine import Engine
from captioning.model.hub import ModelLoadError
from captioning.model.registry import name_and_revision
from captioning.settings import Settings
from model_loader import Captioner, load_engine, local_folder
from tests.conftest import EMOJI_MODEL, ROOT, SAMPLES, Service

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PICTURE = SAMPLES[0].read_bytes()
CAPTION = json.loads((SAMPLES[0].parent / "captions.json").read_text())[SAMPLES[0].name]


class Hub:
    """Speak as much of the Hugging Face hub's protocol as a download needs; note which files were asked for."""

    def __init__(self, files: dict[str, bytes]) -> None:
        hub = self
        self.downloaded: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                path, _, _ = self.path.partition("?")
                if re.fullmatch(rf"/api/models/someone/blip/revision/({COMMIT}|main)", path):
                    return self.answer(
                        {"id": "someone/blip", "sha": COMMIT, "siblings": [{"rfilename": n} for n in files]}
                    )
                if path == "/api/models/someone/blip":
                    return self.answer(
                        {"id": "someone/blip", "sha": COMMIT, "siblings": [{"rfilename": n} for n in files]}
                    )
                if path.startswith("/api/models/someone/blip/tree/"):
                    return self.answer(
                        [
                            {"type": "file", "path": n, "size": len(d), "oid": hashlib.sha1(d).hexdigest()}
                            for n, d in files.items()
                        ]
                    )
                name = path.removeprefix(f"/someone/blip/resolve/{COMMIT}/")
                if self.command == "GET":
                    hub.downloaded.append(name)
                return self.send(files[name]) if name in files else self.send(b"", 404)

            do_HEAD = do_GET

            def answer(self, value: object) -> None:
                self.send(json.dumps(value).encode())

            def send(self, body: bytes, status: int = 200) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
                self.send_header("X-Repo-Commit", COMMIT)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The embedded model as BLIP-base is published: pickled weights, beside a copy for TensorFlow."""
    folder = tmp_path_factory.mktemp("published")
    torch.save(load_file(EMOJI_MODEL / "model.safetensors"), folder / "pytorch_model.bin")
    files = {path.name: path.read_bytes() for path in EMOJI_MODEL.glob("*.json")}
    files["pytorch_model.bin"] = (folder / "pytorch_model.bin").read_bytes()
    files["tf_model.h5"] = b"a gigabyte"
    return files


@pytest.fixture
def hub(published: dict[str, bytes]) -> Iterator[Hub]:
    hub = Hub(published)
    yield hub
    hub.close()


def test_a_hub_model_is_downloaded_once_and_only_what_is_needed(
    start_service: Callable[..., Service], hub: Hub, tmp_path: Path
) -> None:
    environment = {
        "HF_HOME": str(tmp_path),
        "HF_ENDPOINT": hub.url,
        "MODEL_ID": "someone/blip",
        "MODEL_REVISION": COMMIT,
    }
    first = start_service(**environment).wait_until_ready()
    assert first.get("/readyz").json()["revision"] == COMMIT
    assert first.upload(PICTURE).json() == {"output": CAPTION}
    assert first.stop() == 0
    assert "pytorch_model.bin" in hub.downloaded
    assert "tf_model.h5" not in hub.downloaded
    hub.close()
    again = start_service(**environment).wait_until_ready()
    assert again.upload(PICTURE).json() == {"output": CAPTION}
    assert again.stop() == 0


def test_a_model_that_is_kept_in_a_folder_is_called_what_it_was_on_the_hub(hub: Hub, tmp_path: Path) -> None:
    """A float32 image said `/model`, and no revision."""
    hub_settings = {"HF_ENDPOINT": hub.url, "MODEL_ID": "someone/blip", "MODEL_REVISION": COMMIT}
    environment = {**os.environ, **hub_settings, "HF_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-m", "model_loader", str(tmp_path / "kept")]
    subprocess.run(command, cwd=ROOT, env=environment, timeout=120, check=True)
    kept = Settings(model_id=str(tmp_path / "kept"))
    assert name_and_revision(kept) == ("someone/blip", COMMIT)
    shutil.rmtree(tmp_path / "home")
    assert load_engine(kept)
    again = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert again.returncode == 1
    assert "cannot be kept there" in again.stderr
    assert "Traceback" not in again.stderr


def test_files_that_cannot_be_stored_are_said_to_be_that(hub: Hub, tmp_path: Path) -> None:
    """The same sentence as for a full disk: only the system's words differ."""
    (tmp_path / "home").write_text("a file where the folder should be")
    environment = {"HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": hub.url, "MODEL_ID": "someone/blip"}
    ran = subprocess.run(
        [sys.executable, "-m", "model_loader"],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 1
    assert "the files cannot be stored (Not a directory: " in ran.stderr
    assert "set HF_HOME to a folder that has room" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_weights_that_are_not_all_there_are_refused(tmp_path: Path) -> None:
    for path in EMOJI_MODEL.glob("*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = load_file(EMOJI_MODEL / "model.safetensors")
    del weights["text_decoder.cls.predictions.transform.dense.weight"]
    torch.save(weights, tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelLoadError, match="lacks 1 of BLIP's weights"):
        load_engine(Settings(model_id=str(tmp_path)))


@pytest.mark.parametrize("length", [0, 4, 1_000, 100_000])
def test_a_cut_file_of_weights_is_refused(tmp_path: Path, length: int) -> None:
    for path in EMOJI_MODEL.glob("*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    whole = (EMOJI_MODEL / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[:length])
    with pytest.raises(ModelLoadError, match="cannot be loaded: its weights are broken"):
        load_engine(Settings(model_id=str(tmp_path)))


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path) -> None:
    for path in EMOJI_MODEL.glob("*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    torch.save({"weight": Exploit(tmp_path / "ran")}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelLoadError):
        load_engine(Settings(model_id=str(tmp_path)))
    assert not (tmp_path / "ran").exists()


class Exploit:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("model_id", ["./nowhere", "/nowhere", "blip", "a/b/c"])
def test_a_name_that_can_only_be_a_folder_is_not_looked_up(model_id: str) -> None:
    with pytest.raises(ModelLoadError, match="There is no folder"):
        local_folder(Settings(model_id=model_id))


def test_a_captioner_goes_from_loading_to_ready_and_starts_once() -> None:
    loaded: list[int] = []
    may_load = threading.Event()

    def load() -> Engine:
        may_load.wait(10)
        loaded.append(1)
        return load_engine(Settings(model_id=str(EMOJI_MODEL)))

    captioner = Captioner(load, Batcher(max_batch_size=1))
    captioner.start()
    captioner.start()
    assert captioner.status == "loading"
    with pytest.raises(ModelLoading):
        captioner.engine()
    may_load.set()
    while captioner.status == "loading":
        threading.Event().wait(0.01)
    assert captioner.status == "ready"
    assert captioner.engine().preprocessor.size == (112, 112)
    assert loaded == [1]
    assert captioner.engine()


def test_a_captioner_that_cannot_load_says_so_and_calls_for_the_end() -> None:
    ended = threading.Event()

    def load() -> Engine:
        raise ModelLoadError("no such model")

    captioner = Captioner(load, Batcher(max_batch_size=1), on_failure=lambda served: ended.set())
    captioner.start()
    assert ended.wait(5)
    assert captioner.status == "failed"
    with pytest.raises(ModelFailed):
        captioner.engine()


def test_a_full_collection_does_not_look_through_the_model() -> None:
    """It would hold up every request for a tenth of a second to a whole one, now and then."""
    program = (
        "import gc, time; from app import create_app; captioner = create_app().extensions['captioner'];\n"
        "captioner.start()\n"
        "while captioner.status == 'loading': time.sleep(0.05)\n"
        "print(captioner.status, gc.isenabled(), len(gc.get_objects()) < gc.get_freeze_count() / 10)"
    )
    settings = {"MODEL_ID": str(EMOJI_MODEL), "ENGINE": "torch"}
    ran = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.stdout.split() == ["ready", "True", "True"], ran.stderr
