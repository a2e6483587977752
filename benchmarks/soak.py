"""Let the service caption thousands of mixed pictures, and see whether its memory grows.

    make bench-soak    # with a full-size BLIP-base of random weights, made and exported first

    python -m benchmarks.soak --engine torch --model models/blip-emoji --out build/soak-torch.json
    python -m benchmarks.soak --model build/blip-emoji-int8 --out build/soak-int8.json --plot docs/memory.png

Requests differ in everything that shapes memory: the picture's format and size (up to 12 megapixels), whether it is
uploaded or fetched, the prompt, the length and the beams, how many are under way at once (1 to 16); one in six is an
error (broken pictures, 404, too large, not a picture, bad options). After every 50 requests all is quiet, and the
kernel's figures of the worker are read. Fails if the worker's own memory (RssAnon) grows more than 5% after the first
tenth, if an answer has an unexpected status, or if the worker was replaced.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from PIL import Image
from tqdm import tqdm

from benchmarks.http_client import Client, serve_bytes
from benchmarks.pictures import encoded, photo, picture
from benchmarks.server import ROOT, Server, gunicorn, memory

ROUND = 50
AT_ONCE = (16, 4, 1, 8, 2)  # requests under way, round by round
MIB = 2**20

SETTINGS = {
    "FETCH_ALLOW_PRIVATE_ADDRESSES": "true",
    "FETCH_ALLOWED_PORTS": "*",
    "REQUEST_TIMEOUT_S": "300",
    "LOG_LEVEL": "WARNING",
}

SIZES = [(64, 48), (320, 240), (640, 640), (1000, 750), (1920, 1080), (600, 2400), (2400, 1600), (4000, 3000)]

# Name of the format and how the picture is made and encoded.
FORMATS: list[tuple[str, Callable[[Image.Image], Image.Image], dict[str, object]]] = [
    ("JPEG", lambda image: image, {"quality": 85}),
    ("JPEG", lambda image: image, {"quality": 85, "progressive": True}),
    ("JPEG", lambda image: image.convert("CMYK"), {}),
    ("PNG", lambda image: image, {"compress_level": 1}),
    ("PNG", lambda image: image.convert("RGBA"), {"compress_level": 1}),
    ("PNG", lambda image: image.quantize(32), {}),
    ("WEBP", lambda image: image, {"quality": 80, "method": 0}),
    ("GIF", lambda image: image.quantize(64), {}),
    ("BMP", lambda image: image.resize((image.width // 2, image.height // 2)), {}),
    ("TIFF", lambda image: image, {"compression": "tiff_lzw"}),
    ("AVIF", lambda image: image, {"speed": 10, "quality": 60}),
]

PROMPTS = ["", "", "", "a picture of", "there is"]


@dataclass(frozen=True)
class Asked:
    """Hold one request and the status that its answer shall have."""

    body: bytes
    content_type: str
    status: int
    query: str = ""


@dataclass(frozen=True)
class Sample:
    """Hold the worker's memory after so many requests, in bytes."""

    requests: int
    rss: int
    anonymous: int
    peak: int


class Mixture:
    """Draw requests, the same ones each time."""

    def __init__(self, max_pixels: int) -> None:
        self._chance = random.Random(1)
        sizes = [size for size in SIZES if size[0] * size[1] <= max_pixels]
        self.pictures: dict[str, bytes] = {}
        for number, (kind, make, options) in enumerate(tqdm(FORMATS, unit="format", disable=None)):
            for width, height in sizes:
                content = encoded(make(picture(width, height, number)), kind, **options)
                if len(content) < 8 * MIB:
                    self.pictures[f"/{number}-{width}x{height}"] = content
        self.large = photo(1000, 750) + bytes(11 * MIB)

    def draw(self, images: str) -> Asked:
        """Draw one request; ``images`` is the URL that serves the pictures."""
        if self._chance.random() < 1 / 6:
            return self._error(images)
        path = self._chance.choice(list(self.pictures))
        options = {"maxNewTokens": self._chance.randint(4, 20), "numBeams": self._chance.choice([1, 1, 1, 2, 3])}
        prompt = self._chance.choice(PROMPTS)
        if self._chance.random() < 0.5:
            body = json.dumps({"imageUrl": images + path, "prompt": prompt, **options}).encode()
            return Asked(body, "application/json", 200)
        query = "&".join(f"{name}={value}" for name, value in options.items())
        return Asked(self.pictures[path], "image/*", 200, f"?{query}&prompt={prompt.replace(' ', '+')}")

    def _error(self, images: str) -> Asked:
        content = self._chance.choice(list(self.pictures.values()))
        middle = len(content) // 2
        return self._chance.choice(
            [
                Asked(json.dumps({"imageUrl": f"{images}/nowhere"}).encode(), "application/json", 422),
                Asked(json.dumps({"imageUrl": f"{images}/large"}).encode(), "application/json", 413),
                Asked(b'{"imageUrl": ', "application/json", 400),
                Asked(photo(640, 480)[:-9999], "image/jpeg", 422),
                Asked(content[: middle // 64], "image/*", 422),
                Asked(b"no picture" * 1000, "image/png", 422),
                Asked(content, "image/*", 400, "?numBeams=99"),
            ]
        )

    def serve(self, path: str) -> bytes:
        """Return what the pictures' server has at ``path``."""
        return self.large if path == "/large" else self.pictures[path]


async def soak(server: Server, mixture: Mixture, requests: int) -> tuple[list[Sample], Counter[str]]:
    """Send the requests in rounds; return the worker's memory after each, and how often each answer came."""
    worker = server.worker
    client = Client(server.port)
    served = await serve_bytes(mixture.serve)
    images = f"http://127.0.0.1:{served.sockets[0].getsockname()[1]}"
    answers: Counter[str] = Counter()
    samples = [sample(worker, 0)]
    at_once = itertools.cycle(AT_ONCE)
    for number in tqdm(range(requests // ROUND), unit=f"{ROUND} requests", disable=None):
        turn = asyncio.Semaphore(next(at_once))

        async def ask(asked: Asked, turn: asyncio.Semaphore = turn) -> None:
            async with turn:
                answer = await client.post(f"/local-caption{asked.query}", asked.content_type, asked.body)
            expected = "" if answer.status == asked.status else f" in place of {asked.status}: {answer.body.decode()}"
            answers[f"{answer.status}{expected}"] += 1

        await asyncio.gather(*(ask(mixture.draw(images)) for _ in range(ROUND)))
        samples.append(sample(worker, (number + 1) * ROUND))
    assert server.worker == worker, "the worker was replaced"
    client.close()
    served.close()
    return samples, answers


def sample(worker: int, requests: int) -> Sample:
    """Read the kernel's figures."""
    figures = memory(worker)
    return Sample(requests, figures["VmRSS"], figures["RssAnon"], figures["VmHWM"])


def growth(samples: list[Sample], settled: int) -> float:
    """Return how far memory grew after ``settled`` requests, 0.05 for 5%: medians of the first and the last quarter."""
    later = [sample.anonymous for sample in samples if sample.requests >= settled]
    quarter = max(2, len(later) // 4)
    return median(later[-quarter:]) / median(later[:quarter]) - 1


def plot(runs: dict[str, list[Sample]], file: Path) -> None:
    """Draw the memory of each run."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 5), layout="constrained")
    for name, samples in runs.items():
        requests = [sample.requests for sample in samples]
        (line,) = axes.plot(
            requests, [sample.anonymous / MIB for sample in samples], label=f"{name}: its own (RssAnon)"
        )
        rss = [sample.rss / MIB for sample in samples]
        axes.plot(requests, rss, "--", color=line.get_color(), label=f"{name}: mapped weights included (RSS)")
    axes.set_xlabel("mixed requests answered")
    axes.set_ylabel("MiB of the worker, all quiet")
    axes.set_ylim(bottom=0)
    axes.legend()
    figure.savefig(file, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, default=ROOT / "build" / "blip-base-int8", help="folder of the model")
    parser.add_argument("--engine", default="int8", choices=["int8", "torch"])
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--settled", type=int, help="requests after which memory shall grow no more (a tenth of them)")
    parser.add_argument("--bound", type=float, default=0.05, help="how far it may grow: 0.05 is 5%%")
    parser.add_argument("--max-pixels", type=int, default=12_000_000, help="of the pictures")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "soak.json", help="gets this run's figures")
    parser.add_argument("--plot", type=Path, help="picture to draw of all runs whose figures lie beside --out")
    args = parser.parse_args()
    mixture = Mixture(args.max_pixels)
    settings = {**SETTINGS, "ENGINE": args.engine, "MODEL_ID": str(args.model.resolve())}
    with gunicorn(settings=settings) as server:
        samples, answers = asyncio.run(soak(server, mixture, args.requests))
    settled = args.settled or args.requests // 10
    grown = growth(samples, settled)
    for answer, count in answers.most_common():
        print(f"{count:6} x {answer}")
    for taken in samples:
        print(
            f"{taken.requests:6} requests: {taken.anonymous / MIB:6.0f} MiB, with mapped files {taken.rss / MIB:6.0f}"
        )
    print(f"grew by {grown:.1%} after {settled} requests; peak {max(taken.peak for taken in samples) / MIB:.0f} MiB")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps([vars(taken) for taken in samples], indent=1) + "\n")
    if args.plot:
        runs = {file.stem: json.loads(file.read_text()) for file in sorted(args.out.parent.glob("soak*.json"))}
        plot({name: [Sample(**taken) for taken in run] for name, run in runs.items()}, args.plot)
    if grown > args.bound or any(" " in answer for answer in answers):
        sys.exit("Memory grew too far, or answers were not as expected.")


if __name__ == "__main__":
    main()
