"""`flask caption`: files, folders and URLs -> one line each, with the model in this process."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import BinaryIO

import click
from tqdm import tqdm

from captioning.cli.offline import OfflineRun
from captioning.cli.records import Csv, Form, Jsonl, Outcome, Plain, captioned_in, visible
from captioning.cli.sources import list_sources
from captioning.errors import CaptioningError, InvalidParameter, ModelFailed
from captioning.model.engine import Engine, GenerationOptions
from captioning.observe.start_report import misspelt_settings
from captioning.pictures.decoders import Decoders
from captioning.pictures.formats import ENDINGS
from captioning.settings import BATCH_SIZE_LIMIT, MAX_NEW_TOKENS_LIMIT, NUM_BEAMS_LIMIT, Settings

_SOME_FAILED = 1
_MODEL_FAILED = 3
_INTERRUPTED = 130  # what shells say of a process that Ctrl-C ended

_HELP = f"""Caption pictures with the model in this process, without a server.

Each PATH_OR_URL is a picture, a folder of pictures, an http(s) URL, or - for a list on standard input, one a line.
Of a folder, the files count whose names end as pictures' do ({", ".join(ENDINGS)}), hidden ones left out; a file that
is named itself is tried whatever its name.

A line for each picture goes to standard output, in the order of the arguments: the source, a tab, the caption.
Characters that would break a line are spelt out (a tab as \\t, a backslash as \\\\). Errors go to standard error, and
the rest is still done.

The service's environment variables apply: MODEL_ID, ENGINE, NUM_THREADS, MAX_IMAGE_BYTES, FETCH_TIMEOUT_S and so on.

\b
Exit codes: 0 all captioned, 1 some failed, 2 wrong usage, 3 no model, 130 interrupted.

\b
Examples:
  MODEL_ID=models/blip-emoji flask caption models/blip-emoji/samples
  flask caption --recursive --csv --output captions.csv --resume ~/Pictures
  find . -name '*.jpg' -size +100k | flask caption --jsonl - | jq -r .output
"""


def caption_command(settings: Settings, load: Callable[[Settings], Engine]) -> click.Command:
    """Make the command; ``load`` raises `ModelFailed` where there is no model."""

    @click.command("caption", help=_HELP)
    @click.argument("names", metavar="PATH_OR_URL...", nargs=-1, required=True)
    @click.option("--recursive", "-r", is_flag=True, help="Go into the folders of folders; links to folders excepted.")
    @click.option("--jsonl", is_flag=True, help='Write {"source", "output"} or {"source", "error", "code"} a line.')
    @click.option("--csv", is_flag=True, help="Write source,output,error,code under a header.")
    @click.option("--output", "-o", metavar="FILE", help="Write the lines to a new FILE, each as soon as it is known.")
    @click.option("--resume", is_flag=True, help="Go on with FILE: leave out what it has captions for.")
    @click.option("--prompt", metavar="TEXT", default="", help="Text that the captions continue.")
    @_count("--max-new-tokens", MAX_NEW_TOKENS_LIMIT, settings.max_new_tokens, "Longest caption in tokens.")
    @_count("--num-beams", NUM_BEAMS_LIMIT, settings.num_beams, "Beams to search; 1 is greedy.")
    @_count("--batch-size", BATCH_SIZE_LIMIT, settings.batch_max_size, "Most pictures in one call of the model.")
    @click.option("--null", "-0", is_flag=True, help="Names on standard input end with a zero byte, as find -print0's.")
    @click.pass_context
    def caption(
        context: click.Context,
        *,
        names: tuple[str, ...],
        recursive: bool,
        jsonl: bool,
        csv: bool,
        output: str | None,
        resume: bool,
        prompt: str,
        max_new_tokens: int,
        num_beams: int,
        batch_size: int,
        null: bool,
    ) -> None:
        if jsonl and csv:
            raise click.UsageError("--jsonl and --csv exclude each other.")
        form: Form = Jsonl() if jsonl else Csv() if csv else Plain()
        sources = list_sources(_with_listed(names, b"\0" if null else b"\n"), recursive=recursive)
        with _destination(output, form, resume=resume) as (destination, captioned):
            left = [source for source in sources if visible(source) not in captioned]
            report = Report(destination, form, total=len(sources), done=len(sources) - len(left))
            for warning in misspelt_settings(os.environ):
                report.say(warning)
            defaults = GenerationOptions.from_settings(settings)
            options = replace(defaults, prompt=prompt.strip(), max_new_tokens=max_new_tokens, num_beams=num_beams)
            run_settings = settings.model_copy(update={"batch_max_size": batch_size})
            context.exit(_run(left, run_settings, options, load, report, resumable=output is not None))

    return caption


def _count(name: str, limit: int, default: int, meaning: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return click.option(name, type=click.IntRange(1, limit), default=default, show_default=True, help=meaning)


def _run(
    sources: Sequence[str],
    settings: Settings,
    options: GenerationOptions,
    load: Callable[[Settings], Engine],
    report: Report,
    *,
    resumable: bool,
) -> int:
    """Load the model and caption; return the exit code."""
    if not sources:
        report.say("There is nothing left to caption." if report.done else "There are no pictures to caption.")
        return 0
    if "log_level" not in settings.model_fields_set:
        logging.getLogger("captioning").setLevel(logging.WARNING)  # the report tells how it goes
    offline = None
    try:
        report.say_on_terminal(f"Loading {settings.model_id} …")
        decoders = Decoders.from_settings(settings)
        decoders.start()  # which they have done by the time the model is there
        engine = load(settings)
        engine.check(options)
        with report.progress():
            offline = OfflineRun(engine, decoders, settings, options, report=report.add)
            offline.run(sources)
    except KeyboardInterrupt:
        if offline is not None:
            offline.stop()
        how = "the same command with --resume goes on" if resumable else "with --output FILE, --resume could go on"
        report.say(f"Interrupted after {report.done} of {report.total}; {how}.")
        return _INTERRUPTED
    except InvalidParameter as error:
        raise click.UsageError(error.message) from error
    except ModelFailed as error:
        report.say(error.message)
        return _MODEL_FAILED
    if report.failed:
        report.say(f"{report.failed} of {report.total} failed.")
        return _SOME_FAILED
    return 0


class Report:
    """The lines of all outcomes, and a progress bar on standard error where that is a terminal."""

    def __init__(self, destination: BinaryIO, form: Form, *, total: int, done: int) -> None:
        """Start with ``done`` of ``total`` sources, captioned by an earlier run."""
        self.total = total
        self.done = done
        self.failed = 0
        self._destination = destination
        self._form = form
        self._bar: tqdm[None] | None = None

    @contextmanager
    def progress(self) -> Iterator[None]:
        """Show the progress bar."""
        # A terminal without a size, as some containers have, would show an empty bar.
        sizeless = sys.stderr.isatty() and os.get_terminal_size(sys.stderr.fileno()).columns == 0
        with tqdm(
            total=self.total,
            initial=self.done,
            unit=" pictures",
            ncols=80 if sizeless else None,
            nrows=24 if sizeless else None,
            dynamic_ncols=not sizeless,
            file=sys.stderr,
            disable=None,
        ) as self._bar:
            yield

    def add(self, outcome: Outcome) -> None:
        """Write the line of one outcome at once.

        Raises:
            OSError: it cannot be written.
        """
        with self._beside_the_bar() if self._destination.isatty() else nullcontext():
            _write(self._destination, self._form.write(outcome))
        self.done += 1
        if isinstance(outcome.result, CaptioningError):
            self.failed += 1
            self.say(f"{visible(outcome.source)}: {outcome.result.message}")
        if self._bar is not None:
            self._bar.update()

    def say(self, text: str) -> None:
        """Write a line to standard error."""
        with self._beside_the_bar():
            click.echo(text, err=True)

    def say_on_terminal(self, text: str) -> None:
        """Write a line to standard error if a person may be reading it."""
        if sys.stderr.isatty():
            self.say(text)

    @contextmanager
    def _beside_the_bar(self) -> Iterator[None]:
        if self._bar is None:
            yield
            return
        with self._bar.get_lock():
            self._bar.clear(nolock=True)
            yield
            self._bar.refresh(nolock=True)


def _with_listed(names: Iterable[str], end: bytes) -> Iterator[str]:
    """Replace ``-`` by the names on standard input."""
    for name in names:
        if name != "-":
            yield name
            continue
        for listed in sys.stdin.buffer.read().split(end):
            if stripped := listed.rstrip(b"\r") if end == b"\n" else listed:
                yield os.fsdecode(stripped)


@contextmanager
def _destination(output: str | None, form: Form, *, resume: bool) -> Iterator[tuple[BinaryIO, set[str]]]:
    """Open the file for the lines, with a header if it has none; yield it and the sources that have captions in it."""
    if output is None:
        if resume:
            raise click.UsageError("--resume needs --output FILE, the file to go on with.")
        _write(sys.stdout.buffer, form.header)
        yield sys.stdout.buffer, set()
        return
    try:
        has_lines = os.path.isfile(output) and os.path.getsize(output) > 0
        if has_lines and not resume:
            raise click.UsageError(f"{visible(output)} exists; go on with it by --resume, or name another file.")
        captioned = captioned_in(output, form) if has_lines else set()
        file = open(output, "ab")  # noqa: SIM115 - closed below, where its errors are others than those here
    except OSError as error:
        raise click.UsageError(f"{visible(output)} cannot be written: {error.strerror}.") from error
    except ValueError as error:
        raise click.UsageError(f"{visible(output)} does not hold what this command writes in this form.") from error
    with file:
        if not has_lines:
            _write(file, form.header)
        yield file, captioned


def _write(file: BinaryIO, text: str) -> None:
    file.write(text.encode())
    file.flush()
