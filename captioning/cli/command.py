"""`smartscan-caption` and `flask caption`: files, folders and URLs -> captions, with the model in this process."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

import click

from captioning.cli.html_report import HtmlReport
from captioning.cli.progress import Progress
from captioning.cli.records import Csv, Form, Jsonl, Plain, visible
from captioning.cli.results_file import captioned_in, open_results
from captioning.cli.run import CANNOT_WRITE, Report, run
from captioning.cli.sidecars import Kind, Sidecars
from captioning.cli.sources import STANDARD_INPUT, list_sources, read_list
from captioning.cli.whole_files import CannotWrite
from captioning.model.engine import Engine, GenerationOptions
from captioning.model.registry import name_and_revision
from captioning.observe.start_report import misspelt_settings
from captioning.pictures.formats import ENDINGS
from captioning.settings import (
    BATCH_SIZE_LIMIT,
    MAX_NEW_TOKENS_LIMIT,
    NO_REPEAT_NGRAM_SIZE_LIMIT,
    NUM_BEAMS_LIMIT,
    REPETITION_PENALTY_LEAST,
    REPETITION_PENALTY_LIMIT,
    Settings,
)

_HELP = f"""Caption pictures with the model in this process, without a server.

Each PATH_OR_URL is a picture, a folder of pictures, an http(s) URL, or - for one picture on standard input.
In a folder, it takes the files whose names end in {", ".join(ENDINGS)}. It leaves out hidden files. A file that you
name yourself is tried, whatever its name is.

It writes one line for each picture to standard output, in the order of the arguments: the name, a tab, the caption.
In these lines a tab in a name is written as \\t, a backslash as \\\\. CSV and JSON have names as they are. Errors go to
standard error, and the other pictures are still captioned.

The model is BLIP-base; its first run downloads 990 MB. --model names another one: a folder, a model of the Hugging
Face hub, or models/blip-emoji, which comes with this command and knows only drawings of emoji. The settings of the
service, which are environment variables, apply here too: ENGINE, NUM_THREADS, MAX_IMAGE_BYTES and others.

\b
Exit codes: 0 all captioned, 1 some failed, 2 wrong usage, 3 no model, 4 the results cannot be written,
130 interrupted.

\b
Examples:
  smartscan-caption --model models/blip-emoji drawing.png
  smartscan-caption ~/Pictures --recursive --csv --output captions.csv --resume
  smartscan-caption training-set --sidecar txt --prefix 'ohwx, '
  smartscan-caption ~/Pictures --html report.html
  smartscan-caption - < picture.jpg
  find . -name '*.jpg' -size +100k | smartscan-caption --from-list - --jsonl | jq -r .output
"""


LoadModel = Callable[[Settings], Engine]


def caption_command(settings: Settings, load: LoadModel) -> click.Command:
    """Make the command; ``load`` raises `ModelFailed` where there is no model."""

    @click.command("caption", help=_HELP)
    @click.argument("names", metavar="PATH_OR_URL...", nargs=-1)
    @click.option("--from-list", metavar="FILE", help="Read more of them from FILE, or from -, one a line.")
    @click.option(
        "--null", "-0", is_flag=True, help="The names in the list end with a zero byte, as find -print0 writes them."
    )
    @click.option(
        "--recursive",
        "-r",
        is_flag=True,
        help="Take pictures from the folders inside a folder, too; links to folders are not followed.",
    )
    @click.option("--model", "model_id", metavar="NAME", default=settings.model_id, help="Caption with this model.")
    @click.option("--jsonl", is_flag=True, help="Write one JSON object a line: source and output, or source and error.")
    @click.option("--details", is_flag=True, help="Add to the JSON how sure the model was, and how the caption ended.")
    @click.option(
        "--candidates",
        type=click.IntRange(1, NUM_BEAMS_LIMIT),
        help="Add to the JSON the best captions, up to --num-beams.",
    )
    @click.option("--csv", is_flag=True, help="Write CSV with the columns source, output, error and code.")
    @click.option("--output", "-o", metavar="FILE", help="Write the lines to a new FILE, each as soon as it is there.")
    @click.option("--resume", is_flag=True, help="Go on with FILE: leave out the pictures that it has captions for.")
    @click.option(
        "--sidecar", type=click.Choice(["txt", "xmp"]), help="Write each caption to a file beside its picture."
    )
    @click.option("--html", metavar="FILE", help="Write a page with small pictures and their captions, too.")
    @click.option("--force", is_flag=True, help="Overwrite sidecars and the page that exist.")
    @click.option("--dry-run", is_flag=True, help="Name the pictures that would be captioned, and write nothing.")
    @click.option("--prefix", metavar="TEXT", default="", help="Put this before each caption.")
    @click.option("--suffix", metavar="TEXT", default="", help="Put this after each caption.")
    @click.option("--prompt", metavar="TEXT", default="", help="Text that the captions continue.")
    @_count("--max-new-tokens", MAX_NEW_TOKENS_LIMIT, settings.max_new_tokens, "Longest caption, in words or parts.")
    @_count(
        "--num-beams",
        NUM_BEAMS_LIMIT,
        settings.num_beams,
        "How many possible captions to follow at once; 1 is the fastest.",
    )
    @click.option(
        "--no-repeat-ngram-size",
        type=click.IntRange(0, NO_REPEAT_NGRAM_SIZE_LIMIT),
        default=settings.no_repeat_ngram_size,
        show_default=True,
        help="No sequence of so many words or parts comes twice in a caption; 0 allows all.",
    )
    @click.option(
        "--repetition-penalty",
        type=click.FloatRange(REPETITION_PENALTY_LEAST, REPETITION_PENALTY_LIMIT),
        default=settings.repetition_penalty,
        show_default=True,
        help="Above 1: words that are in the caption already become less likely; below 1, more likely.",
    )
    @_count("--batch-size", BATCH_SIZE_LIMIT, settings.batch_max_size, "Most pictures in one call of the model.")
    def caption(**arguments: Any) -> None:
        if "log_level" not in settings.model_fields_set:
            logging.getLogger("captioning").setLevel(logging.WARNING)  # the command's sentences tell how it goes
        for warning in misspelt_settings(os.environ):
            click.echo(warning, err=True)
        click.get_current_context().exit(_caption(settings, load, **arguments))

    return caption


def _count(name: str, limit: int, default: int, meaning: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return click.option(name, type=click.IntRange(1, limit), default=default, show_default=True, help=meaning)


def _caption(
    settings: Settings,
    load: LoadModel,
    *,
    names: tuple[str, ...],
    from_list: str | None,
    null: bool,
    recursive: bool,
    model_id: str,
    jsonl: bool,
    details: bool,
    candidates: int | None,
    csv: bool,
    output: str | None,
    resume: bool,
    sidecar: Kind | None,
    html: str | None,
    force: bool,
    dry_run: bool,
    prefix: str,
    suffix: str,
    prompt: str,
    max_new_tokens: int,
    num_beams: int,
    no_repeat_ngram_size: int,
    repetition_penalty: float,
    batch_size: int,
) -> int:
    """Do what the arguments say; return the exit code."""
    if jsonl and csv:
        raise click.UsageError("--jsonl and --csv exclude each other.")
    if (details or candidates) and not jsonl:
        raise click.UsageError("--details and --candidates need --jsonl.")
    if (candidates or 1) > num_beams:
        raise click.UsageError(f"--candidates: at most --num-beams, which is {num_beams}.")
    if resume and output is None:
        raise click.UsageError("--resume needs --output FILE, the file to go on with.")
    if html and os.path.lexists(html) and not (force or dry_run):
        raise click.UsageError(f"{visible(html)} exists; --force overwrites it.")
    sources = _sources(names, from_list, b"\0" if null else b"\n", recursive=recursive)
    settings = settings.model_copy(update={"model_id": model_id, "batch_max_size": batch_size})
    options = GenerationOptions(
        prompt=prompt.strip(),
        max_new_tokens=max_new_tokens,
        num_beams=num_beams,
        no_repeat_ngram_size=no_repeat_ngram_size,
        repetition_penalty=repetition_penalty,
    )
    name, revision = name_and_revision(settings)
    made_with = {"model": name, "revision": revision, "engine": settings.engine, **asdict(options)}
    made_with |= {"prefix": prefix, "suffix": suffix}
    json_lines = Jsonl(made_with, details=details, candidates=candidates or 0)
    form: Form = json_lines if jsonl else Csv() if csv else Plain()
    sidecars = Sidecars(sidecar, force=force) if sidecar else None
    wanted = sidecars.missing(sources) if sidecars else sources
    if len(wanted) < len(sources):
        click.echo(f"{len(sources) - len(wanted)} have a sidecar already; --force captions them anew.", err=True)
    if dry_run:
        captioned = captioned_in(output, form, made_with)[0] if output and resume else set()
        for source in wanted:
            if form.spell(source) not in captioned:
                click.echo(visible(source) + (f" -> {visible(sidecars.path(source))}" if sidecars else ""))
        return 0
    try:
        with open_results(output, form, made_with, resume=resume) as results:
            left = [source for source in wanted if form.spell(source) not in results.captioned]
            progress = Progress(total=len(wanted), done=len(wanted) - len(left))
            make_page = partial(HtmlReport, html, made_with, settings) if html else None
            report = Report(results, form, progress, sidecars=sidecars, make_page=make_page, around=(prefix, suffix))
            return run(left, settings, options, load, report, resumable=output is not None)
    except CannotWrite as error:
        click.echo(str(error), err=True)
        return CANNOT_WRITE


def _sources(names: tuple[str, ...], from_list: str | None, end: bytes, *, recursive: bool) -> list[str]:
    if not names and from_list is None:
        raise click.UsageError("Missing argument 'PATH_OR_URL...', or --from-list FILE.")
    if from_list == STANDARD_INPUT and STANDARD_INPUT in names:
        raise click.UsageError("Standard input holds either a list or a picture.")
    try:
        listed = read_list(from_list, end=end) if from_list is not None else []
    except OSError as error:
        raise click.UsageError(f"{visible(from_list or '')} cannot be read: {error.strerror}.") from error
    return list_sources([*names, *listed], recursive=recursive, note=lambda text: click.echo(visible(text), err=True))
