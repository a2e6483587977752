"""`flask caption` as it is used: a process, its output, its exit code."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from fcntl import ioctl
from pathlib import Path

import pytest
from click.testing import CliRunner

from captioning.cli.command import caption_command
from captioning.settings import Settings
from model_loader import load_engine
from tests.conftest import EMOJI_MODEL, ROOT, SAMPLES, Service

CAPTIONS: dict[str, str] = json.loads((EMOJI_MODEL / "samples" / "captions.json").read_text())

Caption = Callable[..., "subprocess.CompletedProcess[bytes]"]
Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start(int8_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Start the command in an empty folder; with the int8 engine, which loads in no time, unless told otherwise."""
    monkeypatch.chdir(tmp_path)

    def start(*arguments: str | Path, **options: object) -> subprocess.Popen[bytes]:
        environment = {name: str(options.pop(name)) for name in list(options) if name.isupper()}
        return subprocess.Popen(  # type: ignore[call-overload, no-any-return]
            [sys.executable, "-m", "flask", "--app", str(ROOT / "wsgi.py"), "caption", *map(str, arguments)],
            env={**os.environ, "ENGINE": "int8", "MODEL_ID": str(int8_folder), **environment},
            **{"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
        )

    return start


@pytest.fixture
def caption(start: Start) -> Caption:
    """Run the command to its end."""

    def caption(*arguments: str | Path, given: bytes = b"", **environment: str) -> subprocess.CompletedProcess[bytes]:
        with start(*arguments, **environment) as process:
            output, errors = process.communicate(given, timeout=120)
        return subprocess.CompletedProcess(process.args, process.returncode, output, errors)

    return caption


def plain(*paths: str | Path) -> bytes:
    return "".join(f"{path}\t{CAPTIONS[Path(path).name]}\n" for path in paths).encode()


def copy_samples(folder: Path, *names: str) -> None:
    for path, name in zip(SAMPLES, names, strict=False):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(path.read_bytes())


def test_the_captions_are_the_services(service: Service, caption: Caption) -> None:
    ran = caption(*SAMPLES, "--jsonl", "--num-beams", "2", "--prompt", " a photo of", **service.model)
    assert (ran.returncode, ran.stderr) == (0, b"")
    options = {"numBeams": "2", "prompt": "a photo of"}
    for path, line in zip(SAMPLES, ran.stdout.splitlines(), strict=True):
        answer = service.upload(path.read_bytes(), params=options).json()
        assert json.loads(line) == {"source": str(path), **answer}


def test_a_line_each_in_the_order_of_the_arguments_and_each_once(caption: Caption) -> None:
    first, second, *others = SAMPLES
    ran = caption(second, first, second, SAMPLES[0].parent)
    assert ran.stdout == plain(second, first, *others)
    assert (ran.returncode, ran.stderr) == (0, b"")


def test_what_fails_is_said_and_the_rest_is_done(caption: Caption, image_server: str, tmp_path: Path) -> None:
    (tmp_path / "cut.jpg").write_bytes(SAMPLES[0].read_bytes()[:9000])
    (tmp_path / "notes.txt").write_text("eggs")
    os.mkfifo(tmp_path / "pipe")
    expected = {
        f"{image_server}/samples/one-1.jpg": None,
        "cut.jpg": "corrupt_image",
        "notes.txt": "unsupported_image",
        "pipe": "unsupported_image",
        str(SAMPLES[0]): "image_too_large",
        "nowhere.jpg": "image_not_found",
        f"{image_server}/status/404": "image_not_found",
        f"{image_server}/status/503": "image_fetch_failed",
        "ftp://example.com/a.jpg": "invalid_image_url",
        str(EMOJI_MODEL / "samples" / "one-2.jpg"): None,
    }
    allowed = {"FETCH_ALLOW_PRIVATE_ADDRESSES": "true", "FETCH_ALLOWED_PORTS": "*", "MAX_IMAGE_BYTES": "40000"}
    ran = caption("--csv", *expected, **allowed)
    assert ran.returncode == 1
    rows = {row["source"]: row for row in csv.DictReader(io.StringIO(ran.stdout.decode()))}
    assert {source: row["code"] or None for source, row in rows.items()} == expected
    for source, row in rows.items():
        assert (row["output"] == "") == (row["error"] != "")
        assert row["output"] in ("", CAPTIONS.get(Path(source).name))
    said = [f"{source}: {row['error']}" for source, row in rows.items() if row["error"]]
    assert ran.stderr.decode().splitlines() == [*said, "8 of 10 failed."]


def test_urls_lead_nowhere_that_the_service_would_not_go(caption: Caption, image_server: str) -> None:
    url = f"{image_server}/samples/one-1.jpg"
    ran = caption("--jsonl", url, FETCH_ALLOWED_PORTS="*")
    assert ran.returncode == 1
    assert json.loads(ran.stdout)["code"] == "address_not_allowed"


def test_folders_and_names_of_all_kinds(caption: Caption, tmp_path: Path) -> None:
    nasty = [b"in/a\tb.jpg", b"in/line\nend.jpg", b"in/\xe9.jpg", "in/é\\.jpg".encode()]
    copy_samples(tmp_path, *map(os.fsdecode, nasty), "in/below.jpg")
    (tmp_path / "in" / "deeper").mkdir()
    (tmp_path / "in" / "below.jpg").rename(tmp_path / "in" / "deeper" / "below.jpg")
    (tmp_path / "in" / "deeper" / "up").symlink_to(tmp_path / "in")

    ran = caption("in")
    assert (ran.returncode, ran.stderr) == (0, b"")
    assert [line.split(b"\t")[0] for line in ran.stdout.splitlines()] == [
        rb"in/a\tb.jpg",
        rb"in/line\nend.jpg",
        "in/é\\\\.jpg".encode(),
        rb"in/\udce9.jpg",
    ]
    for form in ("--jsonl", "--csv"):
        ran = caption("in", "--recursive", form, "--output", f"out{form}")
        assert (ran.returncode, ran.stdout, ran.stderr) == (0, b"", b"")
        ran = caption("in", "--recursive", form, "--output", f"out{form}", "--resume")
        assert (ran.returncode, ran.stderr) == (0, b"There is nothing left to caption.\n")
    records = [json.loads(line) for line in Path("out--jsonl").read_text().splitlines()]
    assert sorted(os.fsencode(record["source"]) for record in records) == sorted([*nasty, b"in/deeper/below.jpg"])


def test_an_empty_folder_is_no_failure(caption: Caption, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("eggs")
    ran = caption(".")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, b"", b"There are no pictures to caption.\n")


def test_names_come_from_standard_input(caption: Caption) -> None:
    first, second, third = SAMPLES[:3]
    ran = caption("-", third, given=f"{first}\r\n\n{second}".encode())
    assert ran.stdout == plain(first, second, third)
    ran = caption("-0", "-", given=f"{second}\0{first}\0".encode())
    assert ran.stdout == plain(second, first)


def test_ctrl_c_keeps_what_is_done_and_resume_does_the_rest(start: Start, caption: Caption, tmp_path: Path) -> None:
    names = [f"{number:03}.jpg" for number in range(600)]
    for number, name in enumerate(names):
        (tmp_path / name).write_bytes(SAMPLES[number % len(SAMPLES)].read_bytes())
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    output = tmp_path / "out.jsonl"
    arguments = ("broken.jpg", ".", "--jsonl", "--output", output, "--resume")
    with start(*arguments) as process:
        while not output.exists() or output.read_bytes().count(b"\n") < 20:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    done = output.read_text().splitlines()
    assert 20 <= len(done) < 601
    broken, interrupted = errors.decode().splitlines()
    assert broken.startswith("broken.jpg: ")
    assert re.fullmatch(r"Interrupted after \d+ of 601; the same command with --resume goes on\.", interrupted)

    output.write_bytes(output.read_bytes()[:-7])  # as a crash may leave it
    copy_samples(tmp_path, "broken.jpg")
    ran = caption(*arguments)
    assert (ran.returncode, ran.stderr) == (0, b"")
    records = [json.loads(line) for line in output.read_text().splitlines()]
    assert [record["source"] for record in records if "error" in record] == ["broken.jpg"]
    captioned = {record["source"]: record["output"] for record in records if "output" in record}
    assert len(records) == len(captioned) + 1
    assert captioned.keys() == {"broken.jpg", *(f"./{name}" for name in names)}
    assert all(captioned[f"./{name}"] == CAPTIONS[SAMPLES[n % 12].name] for n, name in enumerate(names))


def test_progress_is_shown_on_a_terminal(start: Start) -> None:
    terminal, its_end = pty.openpty()
    ioctl(its_end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    with start(*SAMPLES, "nowhere.jpg", stderr=its_end) as process:
        os.close(its_end)
        shown = b""
        while piece := _read(terminal):
            shown += piece
        output, _ = process.communicate(timeout=60)
    os.close(terminal)
    assert output == plain(*SAMPLES)
    assert process.returncode == 1
    first, *lines = shown.decode().splitlines()
    assert first.startswith("Loading ")
    assert any(re.search(r"100%\|.+\| 13/13 \[\d\d:\d\d<00:00, [ \d.]+ ?pictures/s\]", line) for line in lines)
    assert "nowhere.jpg: This cannot be read: No such file or directory." in lines
    assert lines[-1] == "1 of 13 failed."


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # Linux's end of file, once nobody has the other end open
        return b""


def test_a_reader_that_leaves_ends_it_quietly(start: Start, tmp_path: Path) -> None:
    for number in range(300):
        (tmp_path / f"{number}.jpg").write_bytes(SAMPLES[0].read_bytes())
    with start(".") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith(b"./0.jpg\t")
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=60) == 1


def test_without_a_model_it_says_so_in_one_sentence(caption: Caption) -> None:
    for environment in ({"ENGINE": "torch", "MODEL_ID": "./nowhere"}, {"MODEL_ID": str(EMOJI_MODEL)}):
        ran = caption(SAMPLES[0], **environment)
        assert (ran.returncode, ran.stdout) == (3, b"")
        assert re.fullmatch(rb"[^\n]+\.\n", ran.stderr), ran.stderr
        assert environment["MODEL_ID"].encode() in ran.stderr


def test_a_bad_setting_is_named(caption: Caption) -> None:
    ran = caption(SAMPLES[0], NUM_BEAMS="many")
    assert ran.returncode == 1
    assert re.fullmatch(rb"Bad settings\. NUM_BEAMS: [^\n]+\.\n", ran.stderr), ran.stderr


def test_a_misspelt_setting_is_named_and_the_rest_is_done(caption: Caption) -> None:
    ran = caption(SAMPLES[0], MAX_IMAGE_BYTE="1")
    assert (ran.returncode, ran.stdout) == (0, plain(SAMPLES[0]))
    assert (
        ran.stderr == b"MAX_IMAGE_BYTE is not a setting of this service and has no effect. Is MAX_IMAGE_BYTES meant?\n"
    )


def test_wrong_usage_is_refused_before_anything_is_done(
    int8_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command = caption_command(Settings(engine="int8", model_id=str(int8_folder)), load_engine)
    (tmp_path / "precious.txt").write_text("eggs")
    wrong: dict[tuple[str, ...], str] = {
        (): "Missing argument",
        ("a.jpg", "--jsonl", "--csv"): "exclude each other",
        ("a.jpg", "--resume"): "needs --output",
        ("a.jpg", "--output", "precious.txt"): "exists",
        ("a.jpg", "--output", "precious.txt", "--resume"): "does not hold",
        ("a.jpg", "--output", "no/such/folder.txt"): "cannot be written: No such file or directory",
        ("a.jpg", "--output", "."): "cannot be written: Is a directory",
        ("a.jpg", "--num-beams", "6"): "--num-beams",
        ("a.jpg", "--max-new-tokens", "100"): "has room for at most",
        ("a.jpg", "--prompt", "a very long prompt " * 50): "prompt is too long",
    }
    for arguments, sentence in wrong.items():
        ran = CliRunner().invoke(command, arguments)
        assert ran.exit_code == 2, arguments
        assert ran.stdout == ""
        assert sentence in " ".join(ran.stderr.split())
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]
    assert (tmp_path / "precious.txt").read_text() == "eggs"
