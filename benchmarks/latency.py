"""Time stock transformers, the torch engine and the int8 engine on the same weights, in turn.

    make bench-latency    # with a full-size BLIP-base of random weights, made and exported first

    python -m benchmarks.latency --model build/blip-base --int8 build/blip-base-int8

Stock is `BlipForConditionalGeneration.generate` on a tensor that lies ready, and so are the engines; the int8 engine is
also timed as the service, from upload to answer. All take turns within each round, so that whatever else the machine
does meets all of them; figures are medians. Prints tables; writes build/latency.json and build/latency.png.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnxruntime
import requests
import torch
import transformers
from tqdm import tqdm
from transformers import BlipForConditionalGeneration

from benchmarks.pictures import photo
from benchmarks.server import ROOT, gunicorn
from captioning.model.engine import GenerationOptions, Pixels
from captioning.model.int8.engine import Int8Engine
from captioning.model.torch_engine import TorchEngine

Run = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """Hold one setting."""

    threads: int = 2
    tokens: int = 10
    beams: int = 1
    batch: int = 1

    def __str__(self) -> str:
        beams = "greedy" if self.beams == 1 else f"{self.beams} beams"
        return f"batch {self.batch}, {beams}, {self.tokens} tokens, {self.threads} thread{'s'[: self.threads - 1]}"


HEADLINE = Case()
CASES = [
    HEADLINE,
    Case(tokens=20),
    Case(threads=1),
    Case(threads=1, tokens=20),
    Case(beams=3),
    Case(batch=4),
    Case(batch=8),
]


class Contestants:
    """Hold the loaded models; make what is timed for a case, by name."""

    def __init__(self, model: Path, int8: Path) -> None:
        self._stock: Any = BlipForConditionalGeneration.from_pretrained(model, local_files_only=True).eval()
        self._torch = TorchEngine(model, num_threads=1)
        self._int8 = {threads: Int8Engine(int8, num_threads=threads) for threads in (1, 2)}
        self._side = max(self._torch.preprocessor.size)

    def runs(self, case: Case, port: int) -> dict[str, Run]:
        pixels = np.random.default_rng(0).standard_normal((case.batch, 3, self._side, self._side), np.float32)
        options = GenerationOptions(max_new_tokens=case.tokens, num_beams=case.beams)
        runs: dict[str, Run] = {
            "stock": lambda: self._stock_generate(pixels, case),
            "torch engine": lambda: self._torch_caption(pixels, case, options),
            "int8 engine": lambda: self._int8[case.threads].caption(pixels, options),
        }
        if case.threads == 2 and case.batch == 1:
            fields = {"maxNewTokens": str(case.tokens), "numBeams": str(case.beams)}
            picture = photo(1000, 750)
            runs["int8 service, HTTP"] = lambda: upload(port, picture, fields)
        return runs

    @torch.inference_mode()
    def _stock_generate(self, pixels: Pixels, case: Case) -> None:
        torch.set_num_threads(case.threads)
        self._stock.generate(
            pixel_values=torch.from_numpy(pixels),
            max_new_tokens=case.tokens,
            num_beams=case.beams,
            do_sample=False,
        )

    def _torch_caption(self, pixels: Pixels, case: Case, options: GenerationOptions) -> None:
        torch.set_num_threads(case.threads)
        self._torch.caption(pixels, options)


def upload(port: int, picture: bytes, fields: dict[str, str]) -> str:
    """Post a picture as a form and return its caption."""
    answer = requests.post(f"http://127.0.0.1:{port}/local-caption", data=fields, files={"image": picture}, timeout=300)
    answer.raise_for_status()
    return str(answer.json()["output"])


def int8_rate(threads: int) -> float:
    """Measure the 8-bit operations per second of ONNX Runtime's matrix product, on BLIP-base's largest one."""
    from onnx import TensorProto, helper

    tokens, width, inner = 577, 768, 3072
    weight = np.random.default_rng(0).integers(-127, 128, (width, inner), np.int8)
    node = helper.make_node("MatMulInteger", ["x", "w"], ["y"])
    graph = helper.make_graph(
        [node],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, (tokens, width))],
        [helper.make_tensor_value_info("y", TensorProto.INT32, (tokens, inner))],
        [helper.make_tensor("w", TensorProto.INT8, weight.shape, weight.tobytes(), raw=True)],
    )
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 21)])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    x = np.ones((tokens, width), np.uint8)
    return 2 * tokens * width * inner / median(timed(lambda: session.run(None, {"x": x})) for _ in range(31))


def bandwidth(threads: int) -> float:
    """Measure the bytes per second that a sum reads from memory."""
    torch.set_num_threads(threads)
    numbers = torch.ones(2**26)  # 268 MB: no cache holds it
    return numbers.nbytes / median(timed(numbers.sum) for _ in range(7))


def work(model: Path, int8: Path) -> tuple[float, float]:
    """Return the operations of one encoding, cross-attention's keys and values included, and the bytes of one token."""
    config = json.loads((model / "config.json").read_bytes())
    vision, text = config["vision_config"], config["text_config"]
    tokens = (vision["image_size"] // vision["patch_size"]) ** 2 + 1
    width, inner = vision["hidden_size"], vision["intermediate_size"]
    layer = tokens * (4 * width * width + 2 * width * inner) + 2 * tokens * tokens * width
    cross = text["num_hidden_layers"] * 2 * tokens * width * text["hidden_size"]
    read = (int8 / "decoder.weights").stat().st_size
    return 2.0 * (vision["num_hidden_layers"] * layer + cross), read + cross / width


def timed(run: Run) -> float:
    """Return the seconds that a run takes."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def measure(contestants: Contestants, port: int, rounds: int) -> dict[Case, dict[str, list[float]]]:
    """Time every case, all contestants in turn, after one run of each that does not count."""
    seconds: dict[Case, dict[str, list[float]]] = {}
    for case in tqdm(CASES, unit="case"):
        runs = contestants.runs(case, port)
        for run in runs.values():
            run()
        seconds[case] = {name: [] for name in runs}
        for _ in range(rounds):
            for name, run in runs.items():
                seconds[case][name].append(timed(run))
    return seconds


def tables(
    medians: dict[Case, dict[str, float]], rates: dict[int, tuple[float, float]], load: tuple[float, float]
) -> str:
    """Word the medians as Markdown tables."""
    lines = ["| seconds a call | stock | torch engine | int8 engine | int8 is faster | int8 service, HTTP | faster |"]
    lines.append("|---|---|---|---|---|---|---|")
    for case, by_name in medians.items():
        stock, http = by_name["stock"], by_name.get("int8 service, HTTP")
        cells = [f"{stock:.2f}", f"{by_name['torch engine']:.2f}", f"{by_name['int8 engine']:.3f}"]
        cells.append(f"{stock / by_name['int8 engine']:.1f}x")
        cells += [f"{http:.3f}", f"{stock / http:.1f}x"] if http else ["", ""]
        lines.append(f"| {case} | {' | '.join(cells)} |")
    lines += ["", "| greedy, batch 1 | s an encoding | ms a token | int8: the machine's limits |", "|---|---|---|---|"]
    for threads, (rate, bytes_per_second) in rates.items():
        short, long = medians[Case(threads=threads)], medians[Case(threads=threads, tokens=20)]
        for name in ("stock", "torch engine", "int8 engine"):
            token = (long[name] - short[name]) / 10
            cells = [f"{short[name] - 10 * token:.3f}", f"{1000 * token:.1f}"]
            limits = f"{load[0] / rate:.3f} s, {1000 * load[1] / bytes_per_second:.1f} ms" if "int8" in name else ""
            lines.append(f"| {name}, {threads} thread{'s'[: threads - 1]} | {' | '.join(cells)} | {limits} |")
    for threads, (rate, bytes_per_second) in rates.items():
        measured = f"{rate / 1e9:.0f} billion 8-bit operations and {bytes_per_second / 1e9:.1f} GB read a second"
        lines.append(f"\nLimits with {threads} thread{'s'[: threads - 1]}: {measured}.")
    return "\n".join(lines)


def plot(medians: dict[Case, dict[str, float]], file: Path) -> None:
    """Draw the medians as bars."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 5), layout="constrained")
    names = ["stock", "torch engine", "int8 engine", "int8 service, HTTP"]
    for number, name in enumerate(names):
        places = [place + (number - 1.5) * 0.2 for place, case in enumerate(medians) if name in medians[case]]
        bars = axes.barh(places, [by_name[name] for by_name in medians.values() if name in by_name], 0.2, label=name)
        axes.bar_label(bars, fmt="%.2f", padding=2, fontsize=7)
    axes.set_yticks(range(len(medians)), [str(case) for case in medians])
    axes.invert_yaxis()
    axes.set_xlabel("seconds a call, median")
    axes.legend()
    figure.savefig(file, dpi=120)


def machine() -> dict[str, str]:
    """Say where this ran."""
    cpus = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith(("model name", "flags"))]
    flags = [flag for flag in ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8") if f" {flag}" in cpus[1]]
    return {
        "cpu": f"{cpus[0].partition(': ')[2]}, {len(os.sched_getaffinity(0))} cores, {' '.join(flags)}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "onnxruntime": onnxruntime.__version__,
        "load": f"{os.getloadavg()[0]:.1f} before",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, default=ROOT / "build" / "blip-base", help="folder of the checkpoint")
    parser.add_argument("--int8", type=Path, default=ROOT / "build" / "blip-base-int8", help="folder of its export")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "latency", help="file name without its ending")
    args = parser.parse_args()
    where = machine()
    rates = {threads: (int8_rate(threads), bandwidth(threads)) for threads in (2, 1)}
    settings = {"ENGINE": "int8", "MODEL_ID": str(args.int8.resolve()), "NUM_THREADS": "2", "REQUEST_TIMEOUT_S": "300"}
    settings["CACHE_MAX_ENTRIES"] = "0"
    with gunicorn(settings=settings, arguments=("--log-level", "warning")) as server:
        seconds = measure(Contestants(args.model, args.int8), server.port, args.rounds)
    medians = {case: {name: median(times) for name, times in by_name.items()} for case, by_name in seconds.items()}
    print("\n".join(f"{name}: {value}" for name, value in where.items()), end="\n\n")
    print(tables(medians, rates, work(args.model, args.int8)))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    cases = [{**asdict(case), "seconds": by_name} for case, by_name in seconds.items()]
    limits = {threads: {"int8_ops_per_s": rate, "bytes_per_s": read} for threads, (rate, read) in rates.items()}
    report = {"machine": where, "limits_by_threads": limits, "cases": cases}
    args.out.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    plot(medians, args.out.with_suffix(".png"))
    print(f"\n{args.out}.json, {args.out}.png")


if __name__ == "__main__":
    main()
