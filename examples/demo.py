"""Start the service with the embedded model, caption its sample pictures over HTTP, and go on serving."""

from __future__ import annotations

import base64
import errno
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import requests

ROOT = Path(__file__).resolve().parent.parent
MODEL = "models/blip-emoji"
PORT = os.environ.get("PORT") or "8000"
HOST = os.environ.get("HOST") or "127.0.0.1"
URL = f"http://127.0.0.1:{PORT}"


def check_port() -> None:
    """End the demo in a sentence where its port is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", int(PORT)))
        except (OSError, ValueError, OverflowError) as error:
            taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
            other = "stop what listens there, or choose another one: PORT=8001 make demo"
            sys.exit(f"Port {PORT} is taken: {other}" if taken else f"PORT={PORT} cannot be used: {error}")


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
    quiet = {"LOG_LEVEL": "WARNING", "GUNICORN_CMD_ARGS": "--log-level warning"}
    environment = {**os.environ, **quiet, "MODEL_ID": MODEL, "HOST": HOST}
    check_port()
    print(f"Loading {MODEL} ...", flush=True)
    # In a group of its own, the server does not get Ctrl-C as well: it is stopped once, below.
    server = subprocess.Popen(
        [sys.executable, "-m", "gunicorn", "wsgi:app"], cwd=ROOT, env=environment, process_group=0
    )
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, lambda *_: sys.exit(0))
    try:
        wait_until_ready(server)
        print(f"\nThe sample pictures in {MODEL}/samples, captioned through POST {URL}/local-caption:\n")
        for picture in sorted((ROOT / MODEL / "samples").glob("*.jpg")):
            text, milliseconds = caption(picture)
            print(f"  {picture.name:<18} {text:<74} {milliseconds:4.0f} ms", flush=True)
        print(f"\nOpen {URL}/ in a browser; Ctrl-C ends the service. Or try it from another terminal:\n")
        print(
            f"  curl -s --data-binary @{MODEL}/samples/one-1.jpg -H 'Content-Type: image/jpeg' {URL}/local-caption\n",
            flush=True,
        )
        return server.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    sys.exit(main())
