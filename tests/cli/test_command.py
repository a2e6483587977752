"""The command as it is used: a process, its output, its exit code."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import re
import resource
import signal
import struct
import subprocess
import sys
import termios
import time
from base64 import b64decode
from collections.abc import Callable
from fcntl import ioctl
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner
from PIL import Image
from pydantic.alias_generators import to_camel

from captioning.cli.command import caption_command
from captioning.settings import Settings
from captioning.web.fields import Options
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
    """With every option that the service has."""
    options = {"num-beams": "3", "prompt": "a photo of", "max-new-tokens": "12"}
    options |= {"no-repeat-ngram-size": "1", "repetition-penalty": "1.5", "candidates": "2"}
    arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
    ran = caption(*SAMPLES, "--jsonl", "--details", *arguments, **service.model)
    assert (ran.returncode, ran.stderr) == (0, b"")
    fields = {to_camel(name.replace("-", "_")): value for name, value in options.items()}
    assert fields.keys() | {"details"} == {field.alias for field in Options.model_fields.values()}
    for path, line in zip(SAMPLES, ran.stdout.splitlines(), strict=True):
        answer = service.upload(path.read_bytes(), params={**fields, "details": "true"}).json()
        answer["confidence"] = pytest.approx(answer["confidence"], rel=1e-3)  # a batch is summed in another order
        for candidate in answer["candidates"]:
            candidate["score"] = pytest.approx(candidate["score"], rel=1e-3)
        record = json.loads(line)
        made_with = record.pop("made_with")
        named = {"model": made_with["model"], "revision": made_with["revision"], "engine": made_with["engine"]}
        assert {**record, **named} == {"source": str(path), **answer}


def test_the_settings_options_hold_for_the_command_too(caption: Caption) -> None:
    ran = caption(SAMPLES[0], "--jsonl", NO_REPEAT_NGRAM_SIZE="1", REPETITION_PENALTY="1.5")
    made_with = json.loads(ran.stdout)["made_with"]
    assert (made_with["no_repeat_ngram_size"], made_with["repetition_penalty"]) == (1, 1.5)


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
    with open("out--csv", newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = list(csv.DictReader(file))
    for named in (records, rows):
        assert sorted(os.fsencode(record["source"]) for record in named) == sorted([*nasty, b"in/deeper/below.jpg"])


def test_an_empty_folder_is_no_failure(caption: Caption, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("eggs")
    ran = caption(".")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, b"", b"There are no pictures to caption.\n")


def test_names_come_from_standard_input(caption: Caption) -> None:
    first, second, third = SAMPLES[:3]
    ran = caption(third, "--from-list", "-", given=f"{first}\r\n\n{second}".encode())
    assert ran.stdout == plain(third, first, second)
    ran = caption("-0", "--from-list", "-", given=f"{second}\0{first}\0".encode())
    assert ran.stdout == plain(second, first)
    Path("list").write_text(f"{second}\n{third}\n")
    assert caption("--from-list", "list").stdout == plain(second, third)


def test_a_picture_comes_from_standard_input(caption: Caption) -> None:
    ran = caption("-", given=SAMPLES[0].read_bytes())
    assert (ran.returncode, ran.stdout) == (0, f"-\t{CAPTIONS[SAMPLES[0].name]}\n".encode())
    ran = caption("-", given=bytes(1100), MAX_IMAGE_BYTES="1024")
    assert (ran.returncode, ran.stdout) == (1, b"")
    assert ran.stderr.startswith(b"-: The image is over the limit")


def test_a_folder_of_folders_says_so(caption: Caption, tmp_path: Path) -> None:
    copy_samples(tmp_path, "in/deeper.jpg")
    ran = caption(".")
    assert (ran.returncode, ran.stdout) == (0, b"")
    assert b". holds no pictures but further folders; --recursive goes into them.\n" in ran.stderr


def test_resume_names_what_differs(caption: Caption, tmp_path: Path) -> None:
    copy_samples(tmp_path, "a.jpg", "b.jpg")
    for form in ("--csv", "--jsonl"):
        ran = caption("a.jpg", form, "-o", f"out{form}")
        assert ran.returncode == 0, ran.stderr
        before = Path(f"out{form}").read_bytes()
        ran = caption(".", form, "-o", f"out{form}", "--resume", "--num-beams", "2", "--prefix", "ohwx, ")
        assert ran.returncode == 2
        said = " ".join(ran.stderr.decode().split())
        assert "was made with num_beams 1, prefix ''" in said
        assert "this run has num_beams 2, prefix 'ohwx, '" in said
        assert Path(f"out{form}").read_bytes() == before


@pytest.mark.parametrize("begun", [None, b"", b"something else\n"], ids=["no file", "an empty one", "a foreign one"])
def test_a_dry_run_resumes_whatever_a_run_resumes(caption: Caption, tmp_path: Path, begun: bytes | None) -> None:
    copy_samples(tmp_path, "a.jpg")
    if begun is not None:
        Path("out.csv").write_bytes(begun)
    ran = caption("a.jpg", "--csv", "-o", "out.csv", "--resume", "--dry-run")
    if begun:
        assert (ran.returncode, ran.stdout) == (2, b"")
        assert b"does not hold what this command writes" in ran.stderr
    else:
        assert (ran.returncode, ran.stdout) == (0, b"a.jpg\n"), ran.stderr


def test_sidecars_hold_the_captions_and_those_that_exist_are_kept(caption: Caption, tmp_path: Path) -> None:
    copy_samples(tmp_path, "in/a.jpg", "in/b.v2.png", "in/c.webp")
    (tmp_path / "in" / "c.txt").write_text("my own words")
    ran = caption("in", "--sidecar", "txt", "--prefix", "ohwx, ", "--suffix", ".", "--dry-run")
    assert ran.stdout == b"in/a.jpg -> in/a.txt\nin/b.v2.png -> in/b.v2.txt\n"
    assert not (tmp_path / "in" / "a.txt").exists()
    ran = caption("in", "--sidecar", "txt", "--prefix", "ohwx, ", "--suffix", ".")
    assert (ran.returncode, ran.stderr) == (0, b"1 have a sidecar already; --force captions them anew.\n")
    texts = {path.name: path.read_text() for path in (tmp_path / "in").glob("*.txt")}
    first, second, third = (CAPTIONS[sample.name] for sample in SAMPLES[:3])
    assert texts == {"a.txt": f"ohwx, {first}.\n", "b.v2.txt": f"ohwx, {second}.\n", "c.txt": "my own words"}
    ran = caption("in", "--sidecar", "txt", "--force")
    assert (tmp_path / "in" / "c.txt").read_text() == third + "\n"
    assert {path.suffix for path in (tmp_path / "in").iterdir()} == {".jpg", ".png", ".webp", ".txt"}
    assert (tmp_path / "in" / "c.txt").stat().st_mode == (tmp_path / "in" / "a.jpg").stat().st_mode


def test_an_xmp_sidecar_is_read_as_xmp(caption: Caption, tmp_path: Path) -> None:
    copy_samples(tmp_path, "a.jpg")
    assert caption("a.jpg", "--sidecar", "xmp", "--prefix", "<b> & ]]> é ").returncode == 0
    description = "{http://purl.org/dc/elements/1.1/}description"
    [found] = ElementTree.parse(tmp_path / "a.xmp").getroot().iter(description)
    assert "".join(found.itertext()) == f"<b> & ]]> é {CAPTIONS[SAMPLES[0].name]}"


def test_the_page_shows_everything_and_escapes_it(caption: Caption, tmp_path: Path) -> None:
    copy_samples(tmp_path, '<script>alert(1)<&".jpg')
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    ran = caption(".", "--html", "report.html", "--prefix", "<b>")
    assert ran.returncode == 1
    page = (tmp_path / "report.html").read_text()
    assert page.count("<script>") == 1
    assert "./&lt;script&gt;alert(1)&lt;&amp;&#34;.jpg" in page
    assert f"&lt;b&gt;{CAPTIONS[SAMPLES[0].name]}" in page
    assert '<td class="error">' in page
    [thumbnail] = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    assert Image.open(io.BytesIO(b64decode(thumbnail))).size == (160, 160)
    assert page.rstrip().endswith("</html>")
    assert "{" + "rows}" not in page
    assert caption(".", "--html", "report.html").returncode == 2
    assert caption(".", "--html", "report.html", "--force").returncode == 1
    assert {path.suffix for path in tmp_path.iterdir()} == {".jpg", ".html"}


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (("--output", "out.jsonl", "--jsonl"), "out.jsonl"),
        (("--output", "out.csv", "--csv"), "out.csv"),
        (("--html", "report.html"), "report.html"),
        (("--prefix", "long " * 300, "--sidecar", "txt"), "./0.txt"),
    ],
)
def test_a_full_disk_is_a_sentence_and_leaves_nothing_half_written(
    start: Start, tmp_path: Path, arguments: tuple[str, ...], name: str
) -> None:
    copy_samples(tmp_path, *(f"{number}.jpg" for number in range(12)))
    before = {path.name for path in tmp_path.iterdir()}

    def limit() -> None:  # Python ignores the signal, so that write() fails as it does on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))

    with start(".", *arguments, preexec_fn=limit) as process:
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 4
    assert re.fullmatch(
        rf"{re.escape(name)} cannot be written: File too large\.( Stopped after \d+ of 12\.)?", errors.decode().strip()
    )
    for path in tmp_path.iterdir():
        if path.name not in before:
            assert path.read_bytes().endswith(b"\n")
            assert path.name in ("out.jsonl", "out.csv", "out.csv.made-with.json")


@pytest.mark.parametrize("arguments", [(), ("--csv",), ("--jsonl",)])
def test_standard_output_may_be_full(start: Start, arguments: tuple[str, ...]) -> None:
    with open("/dev/full", "wb") as full, start(SAMPLES[0], *arguments, stdout=full) as process:
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 4
    assert errors.startswith(b"Standard output cannot be written: No space left on device.")
    assert errors.count(b"\n") == 1


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


def test_a_reader_that_leaves_ends_it_in_a_sentence(start: Start, tmp_path: Path) -> None:
    for number in range(300):
        (tmp_path / f"{number}.jpg").write_bytes(SAMPLES[0].read_bytes())
    with start(".") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith(b"./0.jpg\t")
        process.stdout.close()
        errors = process.stderr.read().decode()
        assert process.wait(timeout=60) == 4
    assert re.fullmatch(r"Standard output was closed by its reader\. Stopped after \d+ of 300\.\n", errors)


def test_both_outputs_may_be_closed(start: Start, tmp_path: Path) -> None:
    copy_samples(tmp_path, "a.jpg")
    reader, writer = os.pipe()
    os.close(reader)
    with start("a.jpg", stdout=writer, stderr=writer) as process:
        os.close(writer)
        assert process.wait(timeout=60) == 4


def test_without_a_model_it_says_so_in_one_sentence(caption: Caption) -> None:
    for environment in ({"ENGINE": "torch", "MODEL_ID": "./nowhere"}, {"MODEL_ID": str(EMOJI_MODEL)}):
        ran = caption(SAMPLES[0], **environment)
        assert (ran.returncode, ran.stdout) == (3, b"")
        assert re.fullmatch(rb"[^\n]+\.\n", ran.stderr), ran.stderr
        assert environment["MODEL_ID"].removeprefix(".").encode() in ran.stderr


def test_a_bad_setting_is_named(caption: Caption) -> None:
    ran = caption(SAMPLES[0], NUM_BEAMS="many")
    assert ran.returncode == 1
    assert re.fullmatch(rb"Bad settings\. NUM_BEAMS: [^\n]+\.\n", ran.stderr), ran.stderr


def test_an_engine_that_there_is_not_is_wrong_usage(caption: Caption) -> None:
    ran = caption(SAMPLES[0], ENGINE="int4")
    assert (ran.returncode, ran.stdout) == (2, b"")
    assert ran.stderr.endswith(b"Error: Bad settings. ENGINE: must be torch or int8.\n")


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
    settings = Settings(engine="int8", model_id=str(int8_folder))
    command = caption_command(settings, load_engine)
    (tmp_path / "precious.txt").write_text("eggs")
    wrong: dict[tuple[str, ...], str] = {
        (): "Missing argument",
        ("-", "--from-list", "-"): "either a list or a picture",
        ("--from-list", "nowhere"): "nowhere cannot be read: No such file",
        ("https://example.com/a.jpg", "--sidecar", "txt"): "no place for a sidecar",
        ("-", "--sidecar", "txt"): "no place for a sidecar",
        ("a.jpg", "a.png", "--sidecar", "txt"): "would share a.txt",
        ("precious.txt", "--sidecar", "txt"): "overwritten by its own sidecar",
        ("a.jpg", "--html", "precious.txt"): "--force overwrites it",
        ("a.jpg", "--jsonl", "--csv"): "exclude each other",
        ("a.jpg", "--resume"): "needs --output",
        ("a.jpg", "--output", "precious.txt"): "exists",
        ("a.jpg", "--output", "precious.txt", "--resume"): "does not hold",
        ("a.jpg", "--output", "no/such/folder.txt"): "cannot be written: No such file or directory",
        ("a.jpg", "--output", "."): "cannot be written: Is a directory",
        ("a.jpg", "--num-beams", "6"): "--num-beams",
        ("a.jpg", "--repetition-penalty", "0"): "--repetition-penalty",
        ("a.jpg", "--details"): "need --jsonl",
        ("a.jpg", "--jsonl", "--candidates", "2"): "at most --num-beams, which is 1",
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
