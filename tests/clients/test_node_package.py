"""clients/node as its users have it: packed, installed into an empty folder, type-checked, run against the service."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import EMOJI_MODEL, NODES, ROOT, SAMPLES, Service, required_program

PACKAGE = ROOT / "clients" / "node"
GATEWAY = ROOT / "examples" / "gateway"
TYPESCRIPT = "typescript@5.9.3"
CAPTIONS: dict[str, str] = json.loads((EMOJI_MODEL / "samples" / "captions.json").read_text())

# What a caller writes; each line after `@ts-expect-error` must be refused.
USE = """
import { readFile } from "node:fs/promises";
import { CaptionClient, CaptionError, type Caption, type ManyResult } from "smartscan-captions";

const [baseUrl, ...samples] = process.argv.slice(2);
const client = new CaptionClient({ baseUrl: new URL(baseUrl ?? ""), apiKey: "secret" });
const pictures: Uint8Array[] = await Promise.all(samples.map((sample) => readFile(sample)));
const [first, ...others] = pictures as [Uint8Array<ArrayBuffer>, ...Uint8Array<ArrayBuffer>[]];

const made: Caption = await client.caption(first, { signal: AbortSignal.timeout(60_000) });
const blob: string = (await client.caption(new Blob([first]))).output;
const many: string[] = [];
for await (const result of client.captionMany(others)) {
  const { index }: ManyResult = result;
  if (result.error === undefined) many[index] = result.output;
}
const errors: (string | number | null)[] = [];
try {
  await client.caption("ftp://example.com/a.png", { requestId: "42" });
} catch (error) {
  if (error instanceof CaptionError) errors.push(error.code, error.status, error.requestId, error.retryAfter);
}
console.log(JSON.stringify({ captions: [made.output, ...many], blob, errors }));

export async function wrong() {
  // @ts-expect-error a picture is no number
  await client.caption(7);
  // @ts-expect-error an option that there is not
  await client.caption("https://example.com/a.png", { maxTokens: 3 });
  // @ts-expect-error milliseconds are a number
  new CaptionClient({ baseUrl: "http://localhost", timeoutMs: "30" });
  // @ts-expect-error one picture is not many
  client.captionMany(new URL("https://example.com/a.png"));
}
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder in which the packed client and TypeScript were installed."""
    npm = required_program("npm")
    folder = tmp_path_factory.mktemp("project")
    pack = [npm, "pack", "--silent", "--pack-destination", str(folder)]
    packed = subprocess.run(pack, cwd=PACKAGE, capture_output=True, text=True, check=True).stdout.strip()
    (folder / "package.json").write_text('{"type": "module"}')
    install = [npm, "install", "--no-audit", "--no-fund", "--no-package-lock", f"./{packed}"]
    installed = subprocess.run(
        [*install, TYPESCRIPT, "@types/node@20"], cwd=folder, capture_output=True, text=True, timeout=180
    )
    assert installed.returncode == 0, installed.stderr
    return folder


@pytest.fixture(scope="module")
def guarded_service(start_service: Callable[..., Service], int8_folder: Path) -> Service:
    """A service that wants a key."""
    return start_service(ENGINE="int8", MODEL_ID=str(int8_folder), API_KEYS="secret").wait_until_ready()


def tsc(folder: Path, *arguments: str) -> None:
    command = [str(folder / "node_modules" / ".bin" / "tsc"), *arguments]
    checked = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("node", NODES, indirect=True)
def test_its_own_tests_pass(node: str) -> None:
    tests = sorted(map(str, (PACKAGE / "test").glob("*.test.js")))
    ran = subprocess.run(
        [node, "--test", "--test-reporter=tap", *tests], cwd=PACKAGE, capture_output=True, text=True, timeout=180
    )
    assert ran.returncode == 0, ran.stdout
    assert re.search(r"^# pass [1-9]\d+$", ran.stdout, re.MULTILINE)
    assert re.search(r"^# skipped 0$", ran.stdout, re.MULTILINE)


def test_the_package_holds_what_its_users_need_and_no_more(project: Path) -> None:
    installed = project / "node_modules" / "smartscan-captions"
    names = {str(path.relative_to(installed)) for path in installed.rglob("*") if path.is_file()}
    sources = {f"src/{path.name}" for path in (PACKAGE / "src").iterdir()}
    types = {source.replace("src/", "types/").replace(".js", ".d.ts") for source in sources}
    assert names == {"package.json", "README.md", "LICENSE", *sources, *types}
    assert (installed / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()


def test_its_types_are_made_from_its_source(project: Path, tmp_path: Path) -> None:
    tsc(project, "--project", str(PACKAGE), "--outDir", str(tmp_path))
    made = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert {path.name: path.read_text() for path in (PACKAGE / "types").iterdir()} == made


@pytest.fixture(scope="module")
def compiled(project: Path) -> Path:
    """The caller's code in JavaScript; type-checked with the types of a browser and with those of Node alone."""
    (project / "use.mts").write_text(USE)
    strict = ["--strict", "--exactOptionalPropertyTypes", "--target", "es2022", "--module", "nodenext"]
    tsc(project, *strict, "--noEmit", "--lib", "es2022,dom,dom.asynciterable", "use.mts")
    tsc(project, *strict, "--lib", "es2022", "use.mts")
    return project / "use.mjs"


@pytest.mark.parametrize("node", NODES, indirect=True)
def test_installed_and_type_checked_it_captions(compiled: Path, node: str, guarded_service: Service) -> None:
    command = [node, compiled.name, guarded_service.url, *map(str, SAMPLES)]
    ran = subprocess.run(command, cwd=compiled.parent, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    expected = [CAPTIONS[sample.name] for sample in SAMPLES]
    assert json.loads(ran.stdout) == {
        "captions": expected,
        "blob": expected[0],
        "errors": ["invalid_image_url", 400, "42", None],
    }


def test_it_is_installed_from_its_folder_too(tmp_path: Path) -> None:
    shutil.copytree(GATEWAY, tmp_path / "examples" / "gateway", ignore=shutil.ignore_patterns("node_modules"))
    shutil.copytree(PACKAGE, tmp_path / "clients" / "node")
    folder = tmp_path / "examples" / "gateway"
    before = (folder / "package-lock.json").read_text()
    npm = [required_program("npm"), "ci", "--offline", "--no-audit", "--no-fund"]
    subprocess.run(npm, cwd=folder, capture_output=True, text=True, check=True, timeout=60)
    assert (folder / "node_modules" / "smartscan-captions" / "src" / "index.js").is_file()
    assert (folder / "package-lock.json").read_text() == before
    assert "://" not in before
