"""The Dockerfile builds images that serve, as far as a machine without docker can tell."""

from __future__ import annotations

import json
import os
import subprocess

import pytest
import requests

from tests.conftest import ROOT, SAMPLES, free_port, is_there, wait_until
from tests.deploy.dockerfile import Builder

pytestmark = pytest.mark.slow

# As `docker run --read-only --tmpfs /tmp` makes it; there is no /dev/shm either.
READ_ONLY = "mount --rbind . /mnt && cd /mnt && mount -o remount,bind,ro . && mount -t tmpfs tmp tmp"
CAPTIONS = json.loads((SAMPLES[0].parent / "captions.json").read_text())


def _index_in_reach() -> str:
    index = "https://download.pytorch.org/whl/cpu"
    try:
        requests.head(index, timeout=10)
    except requests.RequestException:
        return ""
    return index


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    """Without a hub: the embedded model. Torch is from PyTorch's index if it is reached, else from pip's own."""
    if subprocess.run(["unshare", "--mount", "mount", "--bind", "/", "/mnt"], capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount file systems")
    index = os.environ.get("TORCH_INDEX_URL", _index_in_reach())
    folder = tmp_path_factory.mktemp("images")
    folder.parent.chmod(0o755)
    return Builder(ROOT / "Dockerfile", folder, MODEL_ID="models/blip-emoji", TORCH_INDEX_URL=index)


@pytest.mark.parametrize("engine", ["int8", "torch"])
def test_an_image_serves_without_a_disk_to_write_to(builder: Builder, engine: str) -> None:
    image = builder.build(ENGINE=engine)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    container = image.run(image.command, mounts=READ_ONLY, PORT=str(port))

    def ready() -> bool:
        assert container.poll() is None
        return is_there(f"{url}/readyz")

    try:
        wait_until(ready)
        assert requests.get(f"{url}/readyz", timeout=10).json()["model"] == "models/blip-emoji"
        headers = {"Content-Type": "image/jpeg"}
        answer = requests.post(f"{url}/local-caption", data=SAMPLES[0].read_bytes(), headers=headers, timeout=60)
        assert answer.json() == {"output": CAPTIONS[SAMPLES[0].name]}
        image.finish(image.healthcheck, PORT=str(port))
        installed = {
            each["metadata"]["name"] for each in json.loads((image.root / "sbom.json").read_text())["installed"]
        }
        assert ("torch" in installed) == (engine == "torch")
    finally:
        container.terminate()
        assert container.wait(60) == 0
