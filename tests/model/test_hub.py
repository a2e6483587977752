"""Why a model cannot be had: one sentence for each cause, that says what, from where and what to do."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

from captioning.model.hub import ModelLoadError, download, find_folder
from captioning.settings import Settings
from model_loader import load_engine
from tests.conftest import ROOT, Service

JSON, HTML = "application/json", "text/html"
Answer = tuple[int, str, bytes]
LOGIN_PAGE = b"<!doctype html><title>Welcome to the hotel</title>"


@contextmanager
def odd_hub(answer: Answer, headers: dict[str, str] | None = None) -> Iterator[str]:
    """Answer every request with the same; give the address."""
    status, content_type, body = answer
    all_headers = {"Content-Type": content_type, "Content-Length": str(len(body)), **(headers or {})}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            for name, value in all_headers.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def use_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Ask another hub in this process, with an empty cache."""

    def use(endpoint: str) -> None:
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))

    return use


def refusal(model_id: str = "someone/blip", revision: str | None = "v9") -> str:
    with pytest.raises(ModelLoadError) as caught:
        download(model_id, revision)
    sentence = caught.value.message
    assert "\n" not in sentence
    assert sentence.endswith(".")
    return sentence


@pytest.mark.parametrize(
    ("answer", "headers", "reason", "advice"),
    [
        ((200, HTML, LOGIN_PAGE), {}, "does not answer as a hub does", "check HF_ENDPOINT, and whether a proxy"),
        ((200, JSON, b""), {}, "does not answer as a hub does", "HF_ENDPOINT"),
        ((200, JSON, b"[]"), {}, "does not answer as a hub does", "HF_ENDPOINT"),
        ((200, JSON, b"null"), {}, "does not answer as a hub does", "HF_ENDPOINT"),
        ((200, JSON, b"{}"), {}, "does not answer as a hub does", "HF_ENDPOINT"),
        ((200, JSON, b'{"id": "a", "siblings": [{}]}'), {}, "does not answer as a hub does", "HF_ENDPOINT"),
        ((200, JSON, b'{"id": "a", "siblings": "none"}'), {}, "does not answer as a hub does", "HF_ENDPOINT"),
        ((200, JSON, b"\xff\xfe\x00"), {}, "does not answer as a hub does", "HF_ENDPOINT"),
        ((200, JSON, b"[" * 100_000), {}, "does not answer as a hub does", "HF_ENDPOINT"),
        ((200, JSON, b'{"id": "a", "siblings": []}'), {}, "none of its weights", "check MODEL_ID"),
        ((401, JSON, b"{}"), {}, "(401)", "HF_TOKEN"),
        ((401, JSON, b"{}"), {"X-Error-Code": "RepoNotFound"}, "knows no such model", "check MODEL_ID"),
        ((403, JSON, b"{}"), {}, "does not let this account read it", "HF_TOKEN"),
        ((403, JSON, b"{}"), {"X-Error-Code": "GatedRepo"}, "does not let this account read it", "terms"),
        ((404, HTML, LOGIN_PAGE), {}, "knows no such model (404)", "check MODEL_ID"),
        ((404, JSON, b"{}"), {"X-Error-Code": "RepoNotFound"}, "knows no such model (404)", "check MODEL_ID"),
        ((404, JSON, b"{}"), {"X-Error-Code": "RevisionNotFound"}, "no revision v9", "check MODEL_REVISION"),
        ((407, HTML, b""), {}, "proxy", "HTTPS_PROXY"),
        ((429, JSON, b"{}"), {}, "(429)", "wait some minutes"),
        ((500, HTML, LOGIN_PAGE), {}, "answers 500", "try again later"),
        ((503, HTML, LOGIN_PAGE), {}, "answers 503", "try again later"),
        ((302, HTML, b""), {"Location": "http://127.0.0.1:9/login"}, "cannot be reached", "access to the hub"),
        ((302, HTML, b""), {"Location": "/"}, "does not answer as a hub does", "HF_ENDPOINT"),
    ],
)
def test_an_answer_of_the_hub_is_worded_with_what_to_do(
    use_hub: Callable[[str], None], answer: Answer, headers: dict[str, str], reason: str, advice: str
) -> None:
    with odd_hub(answer, headers) as endpoint:
        use_hub(endpoint)
        sentence = refusal()
    assert sentence.startswith("The model someone/blip is no folder here and could not be downloaded: the hub at ")
    assert endpoint in sentence
    assert reason in sentence
    assert advice in sentence


@pytest.mark.parametrize(
    ("endpoint", "reason", "advice"),
    [
        ("https://hub.invalid", "cannot be reached", "access to the hub"),
        ("http://127.0.0.1:9", "cannot be reached ([Errno 111] Connection refused)", "access to the hub"),
        ("http://user:s3cret@127.0.0.1:9", "cannot be reached", "access to the hub"),
        ("hub.example", "no such address", "check HF_ENDPOINT"),
        ("http://[::1", "no such address", "check HF_ENDPOINT"),
    ],
)
def test_a_hub_that_is_not_there_is_named(
    use_hub: Callable[[str], None], endpoint: str, reason: str, advice: str
) -> None:
    use_hub(endpoint)
    sentence = refusal()
    assert reason in sentence
    assert advice in sentence
    assert "s3cret" not in sentence


def test_a_hub_that_does_not_speak_tls_is_said_to_be_out_of_reach(use_hub: Callable[[str], None]) -> None:
    with odd_hub((200, HTML, LOGIN_PAGE)) as endpoint:
        use_hub(endpoint.replace("http:", "https:"))
        assert "cannot be reached ([SSL: " in refusal()


@pytest.mark.parametrize("model_id", ["some one/blip", "someone/..", "-a/b", "a" * 200 + "/b"])
def test_a_name_that_no_model_has_is_said_to_be_none(use_hub: Callable[[str], None], model_id: str) -> None:
    use_hub("http://127.0.0.1:9")
    assert "takes no such name" in refusal(model_id)


@pytest.mark.parametrize(
    ("model_id", "advice"),
    [
        ("./modles/blip-emoji", "is MODEL_ID=models/blip-emoji meant?"),
        ("./nowhere", "check MODEL_ID"),
        ("/nowhere", "check MODEL_ID"),
        ("~/blip", "a ~ is not expanded here"),
        ("blip", "owner/name"),
        ("blip-emoji", "owner/name"),
        ("a/b/c", "check MODEL_ID"),
        ("models/blip-emoji/config.json", "is a file, not a folder"),
    ],
)
def test_a_folder_that_is_not_there_is_named_without_asking_the_hub(
    monkeypatch: pytest.MonkeyPatch, model_id: str, advice: str
) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(ModelLoadError) as caught:
        find_folder(model_id)
    assert model_id.removeprefix("./").lstrip("~") in caught.value.message
    assert advice in caught.value.message


def test_a_misspelt_folder_that_might_be_a_hub_model_is_told_the_nearest(
    monkeypatch: pytest.MonkeyPatch, use_hub: Callable[[str], None]
) -> None:
    monkeypatch.chdir(ROOT)
    assert find_folder("models/blip-emoji") == Path("models/blip-emoji")
    with odd_hub((404, JSON, b"{}")) as endpoint:
        use_hub(endpoint)
        assert "set MODEL_ID=models/blip-emoji." in refusal("modles/blip-emoji")


def test_an_int8_model_that_was_not_exported_yet_is_not_looked_up() -> None:
    with pytest.raises(ModelLoadError, match=r"no folder build/no-such-int8 in /.*, and .*`make export` wrote"):
        load_engine(Settings(engine="int8", model_id="build/no-such-int8"))


COMMANDS = {
    "model_loader": ["-m", "model_loader"],
    "export": ["-m", "tools.export_int8", "--model", "someone/blip", "--out", "/nowhere"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_build_commands_end_with_that_sentence_alone(tmp_path: Path, command: str) -> None:
    with odd_hub((200, HTML, LOGIN_PAGE)) as endpoint:
        ran = subprocess.run(
            [sys.executable, *COMMANDS[command]],
            cwd=ROOT,
            env={
                **os.environ,
                "HF_ENDPOINT": endpoint,
                "HF_HOME": str(tmp_path),
                "MODEL_ID": "someone/blip",
                # What is exported comes from the hub, also where a build has the variables of the service to come.
                "ENGINE": "int8" if command == "export" else "torch",
            },
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert ran.returncode == 1
    assert ran.stderr.count("\n") == 1
    assert "the hub at http://127.0.0.1" in ran.stderr
    assert "does not answer as a hub does" in ran.stderr


def test_the_service_ends_with_that_sentence(start_service: Callable[..., Service], tmp_path: Path) -> None:
    with odd_hub((404, JSON, b"{}"), {"X-Error-Code": "RepoNotFound"}) as endpoint:
        service = start_service(HF_ENDPOINT=endpoint, HF_HOME=str(tmp_path), MODEL_ID="modles/blip-emoji")
        assert service.process.wait(timeout=60) == 3
    log = service.log.read_text()
    assert log.count("CRITICAL") == 1
    assert "if the folder models/blip-emoji is meant, set MODEL_ID=models/blip-emoji." in log
    assert "Traceback" not in log
