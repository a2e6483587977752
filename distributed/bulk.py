"""Tables of pictures -> tables of captions, on all machines of a Ray cluster: `make caption-dataset`.

    python -m distributed.bulk pictures.parquet captions [--resume]

Ray Data hands parts of the input to actors, one model each, and starts again what died with its process or machine.
What this module adds is that the job itself may die: see `distributed/parts.py`.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import pyarrow as pa
import ray
from pyarrow.fs import LocalFileSystem
from tqdm import tqdm

from captioning.cli.run import CANNOT_WRITE, INTERRUPTED, MODEL_FAILED, SOME_FAILED, WRONG_USAGE
from captioning.model.engine import GenerationOptions
from captioning.model.hub import ModelLoadError
from captioning.model.registry import name_and_revision
from captioning.settings import Settings, SettingsError, load_settings
from distributed.part_captioner import AT_ONCE, PartCaptioner
from distributed.parts import BadInput, Folder, Table, find_files
from model_loader import local_folder

_JOB = "_job.json"  # readers of tables leave out what begins with an underscore
_PICTURES = "_pictures.parquet"


class ClusterTooSmall(RuntimeError):
    """A sentence that says what the cluster lacks: Ray itself would wait for it for ever (ray#44687)."""


@dataclass(frozen=True)
class Actors:
    """How many actors there shall be, and what each takes of its machine."""

    count: int | None
    cpus: float
    gpus: float

    def fitting(self, machines: list[dict[str, float]], free: dict[str, float]) -> int:
        """Return how many there are to be, by default as many as fit; ``free`` is what no other job has, in all.

        Raises ClusterTooSmall.
        """
        room = min(sum(map(self._fit_in, machines)), self._fit_in(free))
        wanted = self.count or max(room, 1)
        if room < wanted:
            each = f"{self.cpus:g} CPUs" + (f" and {self.gpus:g} GPUs" if self.gpus else "")
            raise ClusterTooSmall(
                f"The cluster is too small: {wanted} actors of {each} each are wanted and {room} fit on its "
                f"{len(machines)} machines beside what runs there. Ask for fewer or smaller ones, or add machines."
            )
        return wanted

    def _fit_in(self, resources: dict[str, float]) -> int:
        fit = resources.get("CPU", 0) // self.cpus
        return int(min(fit, resources.get("GPU", 0) // self.gpus) if self.gpus else fit)


@click.command()
@click.argument("source", metavar="INPUT")
@click.argument("target", metavar="OUTPUT")
@click.option("--column", metavar="NAME", help="The column of URLs, paths or bytes.")
@click.option("--resume", is_flag=True, help="Go on with what an earlier run of the same job left to do.")
@click.option("--actors", type=click.IntRange(1), help="Models in the cluster; as many as fit if nothing is said.")
@click.option("--cpus", type=click.FloatRange(1), default=1, show_default=True, help="CPUs of each actor.")
@click.option("--gpus", type=click.FloatRange(0), default=0, show_default=True, help="GPUs of each actor.")
@click.option("--part-rows", type=click.IntRange(1), default=256, show_default=True, help="Rows of an output file.")
def main(
    source: str,
    target: str,
    column: str | None,
    resume: bool,
    actors: int | None,
    cpus: float,
    gpus: float,
    part_rows: int,
) -> None:
    """Caption the pictures of INPUT and write them to the folder OUTPUT, as Parquet.

    INPUT is a Parquet, CSV or JSONL file, a folder of such files or a folder of pictures. OUTPUT has its columns and
    caption, error, code, model, revision and engine. A picture that cannot be captioned is a row with an error.

    The service's settings apply: MODEL_ID, ENGINE, FETCH_TIMEOUT_S, BATCH_MAX_SIZE and so on.
    """
    try:
        settings = _settings_of_actors(load_settings(), int(cpus))
        output = Folder.of(target)
        table = _plan(source, output, settings, column, part_rows, resume=resume)
        failed = _run(table, output, settings, Actors(actors, cpus, gpus))
    except (BadInput, SettingsError, ClusterTooSmall) as error:
        _end(str(error), WRONG_USAGE)
    except ModelLoadError as error:
        _end(error.message, MODEL_FAILED)
    except OSError as error:
        _end(f"Reading or writing failed: {error}", CANNOT_WRITE)
    except ray.exceptions.RayError as error:
        _end(f"The job stopped: {_cause(error)} The same command with --resume goes on.", MODEL_FAILED)
    except KeyboardInterrupt:
        _end("Interrupted; the same command with --resume goes on.", INTERRUPTED)
    sys.exit(SOME_FAILED if failed else 0)


def _end(sentence: str, code: int) -> None:
    click.echo(sentence, err=True)
    sys.exit(code)


def _cause(error: ray.exceptions.RayError) -> str:
    """Return what an actor met, of the traceback that Ray makes of it: the last line, `module.Class: sentence`."""
    kind, _, sentence = str(error).strip().splitlines()[-1].partition(": ")
    return sentence or kind


def _settings_of_actors(settings: Settings, cpus: int) -> Settings:
    """Return settings that hold on every machine of the cluster, whatever its environment."""
    folder = Path(settings.model_id)
    return settings.model_copy(
        update={
            "model_id": str(folder.resolve()) if folder.is_dir() else settings.model_id,
            "num_threads": settings.num_threads or cpus,
        }
    )


def _plan(
    source: str, output: Folder, settings: Settings, column: str | None, part_rows: int, *, resume: bool
) -> Table:
    """Return the table to caption; what is done of it stays as it is, where this is the job that did it.

    Raises:
        BadInput: there is no such input, the output is not empty, or it is another job's.
        ModelLoadError: there is no such model.
    """
    local_folder(settings)
    there = output.names()
    if there and not resume:
        raise BadInput("The output folder is not empty; --resume goes on with what is in it.")
    files, tables, pictures = find_files(source)
    if pictures:
        if not isinstance(files, LocalFileSystem):
            raise BadInput("Pictures in a store are named in a table, by URLs; a folder of them must be a disk's.")
        if _PICTURES not in there:  # what comes into the folder later is another job
            output.write_table(_PICTURES, pa.table({"path": pictures}))
        table = Table.of(output.files, [f"{output.path}/{_PICTURES}"], "path", part_rows)
    else:
        table = Table.of(files, tables, column, part_rows)
    name, revision = name_and_revision(settings)
    job = {
        "input": table.fingerprint(),
        "column": table.column,
        "part_rows": part_rows,
        "model": name,
        "revision": revision,
        "engine": settings.engine,
        "options": asdict(GenerationOptions.from_settings(settings)),
    }
    job = json.loads(json.dumps(job))
    if _JOB not in there:
        if any(name.startswith("part-") for name in there):
            raise BadInput(f"The output folder has parts, but no {_JOB} that tells of what.")
        output.write(_JOB, json.dumps(job, indent=1).encode())
    elif changed := [key for key, value in json.loads(output.read(_JOB)).items() if job.get(key) != value]:
        raise BadInput(f"The output is another job's: {', '.join(changed)} differ. Choose another folder.")
    return table


def _run(table: Table, output: Folder, settings: Settings, actors: Actors) -> int:
    """Caption the parts that have no file; return how many pictures of them failed.

    Raises:
        ClusterTooSmall: the actors do not fit.
    """
    done = frozenset(name for name in output.names() if name.startswith("part-"))
    ray.init(logging_level="WARNING", log_to_driver=False, **_local_cluster())
    count = actors.fitting([node["Resources"] for node in ray.nodes() if node["Alive"]], ray.available_resources())
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False  # they count parts
    context.target_max_block_size = 1  # a part is a block of its own
    pool = ray.data.ActorPoolStrategy(
        size=count, max_concurrent_calls_per_actor=AT_ONCE, enable_true_multi_threading=True
    )
    parts = ray.data.from_items([{"file": file} for file in range(len(table.paths))])
    counted = parts.flat_map(partial(_parts_left, table=table, done=done), num_cpus=0).map(
        PartCaptioner,
        fn_constructor_args=(settings, output, table.column, os.getcwd()),
        compute=pool,
        num_cpus=actors.cpus,
        num_gpus=actors.gpus or None,
    )
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what ends the job is told in a sentence
    failed = 0
    with tqdm(total=table.count_rows(), initial=output.count_rows(sorted(done)), unit=" pictures") as progress:
        for counts in counted.iter_rows():
            failed += counts["failed"]
            progress.update(counts["pictures"])
            progress.set_postfix(failed=failed)
    return failed


def _local_cluster() -> dict[str, Any]:
    """Return how a cluster is started where RAY_ADDRESS names none: for this job alone, with no dashboard."""
    return {} if os.environ.get("RAY_ADDRESS") else {"address": "local", "include_dashboard": False}


def _parts_left(row: dict[str, int], *, table: Table, done: frozenset[str]) -> Iterator[dict[str, Any]]:
    """Yield the parts of one file that are left to do, as they are read."""
    for name, rows in table.parts_of(row["file"]):
        if name not in done:
            stream = pa.BufferOutputStream()
            with pa.ipc.new_stream(stream, rows.schema) as writer:
                writer.write_table(rows)
            yield {"name": name, "rows": stream.getvalue().to_pybytes()}


if __name__ == "__main__":
    main()
