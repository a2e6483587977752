"""Start the service with the embedded model, caption its sample pictures over HTTP, and go on serving."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
import time
from pathlib import Path

import requests

ROOT = Path(__file__).resolve().parent.parent
MODEL = "models/blip-emoji"
URL = f"http://127.0.0.1:{os.environ.get('PORT') or 8000}"


def wait_until_ready(server: subprocess.Popen[bytes]) -> None:
    """Return once the model is warm; end the demo when the server ends first."""
    while server.poll() is None:
        try:
            if requests.get(f"{URL}/readyz", timeout=5).ok:
                return
        except requests.ConnectionError:
            pass
        time.sleep(0.2)
    sys.exit(server.returncode)


def caption(picture: Path) -> tuple[str, float]:
    """Caption a picture as any client would; return the caption and the milliseconds that it took."""
    data_url = "data:image/jpeg;base64," + base64.b64encode(picture.read_bytes()).decode()
    started = time.perf_counter()
    response = requests.post(f"{URL}/local-caption", json={"imageUrl": data_url}, timeout=60)
    response.raise_for_status()
    return response.json()["output"], (time.perf_counter() - started) * 1000


def main() -> int:
    """Run the demo."""
    environment = {**os.environ, "MODEL_ID": MODEL}
    server = subprocess.Popen([sys.executable, "-m", "gunicorn", "wsgi:app"], cwd=ROOT, env=environment)
    try:
        wait_until_ready(server)
        print(f"\nThe sample pictures in {MODEL}/samples, captioned through POST {URL}/local-caption:\n")
        for picture in sorted((ROOT / MODEL / "samples").glob("*.jpg")):
            text, milliseconds = caption(picture)
            print(f"  {picture.name:<18} {text:<72} {milliseconds:4.0f} ms")
        print(f"\nServing at {URL} until Ctrl-C. Try it with a picture of your own drawing:\n")
        print(f"  curl --data-binary @{MODEL}/samples/one-1.jpg -H 'Content-Type: image/jpeg' {URL}/local-caption\n")
        return server.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    sys.exit(main())
