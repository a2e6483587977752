"""What JSON bodies are understood, what the others are told, and what parsing takes in memory."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import tracemalloc
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from captioning.errors import InvalidJson
from captioning.web.json_body import json_memory, parse_json
from tests.conftest import ROOT

A_MEGABYTE = "A" * 1_000_000
OBJECTS: dict[str, Any] = {
    "ASCII": {"imageUrl": A_MEGABYTE},
    "a wide prompt beside it": {"imageUrl": A_MEGABYTE, "prompt": "ö € 😀"},
    "Latin": {"imageUrl": A_MEGABYTE + "ö"},
    "Chinese": {"text": "图" * 300_000},
    "one wide character": {"text": A_MEGABYTE + "€"},
    "an emoji": {"text": A_MEGABYTE + "😀"},
    "slashes": {"text": "AAA/" * 250_000},
    "many": {str(number): [{"a": []}, "€"] for number in range(1_500)},
}


@pytest.mark.parametrize("ensure_ascii", [True, False], ids=["escaped", "raw"])
@pytest.mark.parametrize("value", OBJECTS.values(), ids=OBJECTS)
def test_no_more_memory_is_taken_than_is_charged(value: Any, ensure_ascii: bool) -> None:
    body = json.dumps(value, ensure_ascii=ensure_ascii).replace("/", "\\/").encode()
    tracemalloc.start()
    parsed = parse_json(body)
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert parsed == value
    assert taken <= json_memory(body) <= 10 * len(body) + 4_000_000


@pytest.mark.parametrize(
    "text",
    [b"A" * 9_000_000 + b"\\n", b"AAA\\/" * 1_800_000, b"A" * 9_000_000 + b"\\ud83d\\ude00"],
    ids=["an escape", "many escapes", "a wide escape"],
)
def test_the_parser_s_own_memory_is_charged_too(tmp_path: Path, text: bytes) -> None:
    """It is not Python's, so that only a process' peak shows it."""
    program = """
import re, sys
from captioning.web.json_body import json_memory, parse_json
body = open(sys.argv[1], "rb").read()
charged = json_memory(body)
def kilobytes(name):
    return int(re.search(name + r":\\s+(\\d+)", open("/proc/self/status").read())[1])
open("/proc/self/clear_refs", "w").write("5")  # forgets the peak so far (proc(5))
before = kilobytes("VmRSS")
parse_json(body)
print((kilobytes("VmHWM") - before) * 1024, charged)
"""
    path = tmp_path / "body.json"
    path.write_bytes(b'{"text": "%s"}' % text)
    ran = subprocess.run([sys.executable, "-c", program, path], cwd=ROOT, capture_output=True, text=True, timeout=60)
    taken, charged = map(int, ran.stdout.split())
    assert taken < charged + 1_000_000


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b'\xef\xbb\xbf{"a": 1}', {"a": 1}),
        (b' \r\n{"a": "\\u00f6 \\ud83d\\ude00"} ', {"a": "ö 😀"}),
        ('{"a": "ö"}'.encode(), {"a": "ö"}),
        (b'{"a": 1, "a": 2}', {"a": 2}),
        (b"{}", {}),
    ],
)
def test_json_is_understood(body: bytes, value: object) -> None:
    assert parse_json(body) == value


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"", "The body is empty"),
        (b" \r\n", "The body is empty"),
        ('{"imageUrl": "a"}'.encode("utf-16"), "The JSON is in UTF-16; send it in UTF-8"),
        ('{"imageUrl": "a"}'.encode("utf-16-be"), "The JSON is in UTF-16-BE; send it in UTF-8"),
        ('{"imageUrl": "a"}'.encode("utf-32"), "The JSON is in UTF-32; send it in UTF-8"),
        ('{"imageUrl": "a", "prompt": "ö"}'.encode("latin-1"), "not in UTF-8 .* send it in UTF-8"),
        (b"{'imageUrl': 'https://example.com/a.jpg'}", "JSON needs double quotes"),
        (b"{imageUrl: https://example.com/a.jpg}", "JSON needs double quotes"),
        (b"'{imageUrl:", "JSON needs double quotes"),
        ("{\u201cimageUrl\u201d: \u201cx\u201d}".encode(), "JSON needs double quotes"),
        (b"[object Object]", "turned into text"),
        (b"""'{"imageUrl": "https://example.com/a.jpg"}'""", "JSON needs double quotes"),
        (b'["https://example.com/a.jpg"]', "The JSON is a list; .* imageUrls to POST /local-captions"),
        (b'"{\\"imageUrl\\": \\"https://example.com/a.jpg\\"}"', "The JSON is a string, perhaps encoded twice"),
        (b"null", "The JSON is not an object"),
        (b'{"imageUrl": "https://example.com/a.jpg",}', "not valid JSON .* line 1 column"),
        (b'{"imageUrl": "https://example.com/a.jpg"', "not valid JSON .* line 1 column"),
        (b'{"prompt": "\\ud83d"}', "one half of an emoji"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF", "looks like image/jpeg; send it with -H 'Content-Type: image/jpeg'"),
        (b"\x89PNG\r\n\x1a\n", "looks like image/png; send it with -H 'Content-Type: image/png'"),
        (b"imageUrl=https://example.com/a.jpg", "-H 'Content-Type: application/x-www-form-urlencoded'"),
        (b"--x\r\nContent-Disposition: form-data", "let curl -F or FormData write"),
        (b"\x1f\x8b\x08\x00", "compressed with gzip"),
        (b"https://example.com/a.jpg", "send an object such as"),
        (b"[" * 9_000, "not valid JSON"),
        (b"[" + b"[]," * 50_000 + b"[]]", "more than 10,000 elements"),
    ],
)
def test_other_bodies_are_told_what_they_are(body: bytes, sentence: str) -> None:
    with pytest.raises(InvalidJson, match=sentence) as refusal:
        parse_json(body)
    assert refusal.value.message.isprintable()


@pytest.mark.parametrize(
    "unit", [b'\\"', b" ", b"\t ", b'"', b"'", b"\\", b"{", b"[", b":", b",", b"a", b"\xf0", b'""', b"\\u"]
)
@pytest.mark.parametrize("start", [b"", b'"', b"{", b"'"])
def test_no_body_takes_more_time_than_its_length(start: bytes, unit: bytes) -> None:
    """Four times the length takes four times as long, not sixteen times: the interpreter stands still meanwhile."""

    def seconds(size: int) -> float:
        body = start + unit * (size // len(unit)) + b"x"
        began = time.process_time()
        json_memory(body)
        with suppress(InvalidJson):
            parse_json(body)
        return time.process_time() - began

    short = min(seconds(50_000) for _ in range(3))
    assert min(seconds(200_000) for _ in range(3)) < 8 * short + 0.05
