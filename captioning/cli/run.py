"""One run of the command: load the model, caption, and write what becomes of each picture wherever it is wanted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace

import click

from captioning.cli.html_report import HtmlReport
from captioning.cli.offline import OfflineRun
from captioning.cli.progress import Progress
from captioning.cli.records import Form, Outcome, visible
from captioning.cli.results_file import Results
from captioning.cli.sidecars import Sidecars
from captioning.cli.whole_files import CannotWrite
from captioning.errors import CaptioningError, InvalidParameter, ModelFailed
from captioning.model.engine import Engine, GenerationOptions
from captioning.pictures.decoders import Decoders
from captioning.settings import Settings, SettingsError

SOME_FAILED = 1
WRONG_USAGE = 2  # click's own
MODEL_FAILED = 3
CANNOT_WRITE = 4
INTERRUPTED = 130  # what shells say of a process that Ctrl-C ended


class Report:
    """Where each outcome is written: as a record, and if they are wanted, into a sidecar and on a page."""

    def __init__(
        self,
        results: Results,
        form: Form,
        progress: Progress,
        *,
        sidecars: Sidecars | None,
        make_page: Callable[[], HtmlReport] | None,
        around: tuple[str, str],
    ) -> None:
        """Write captions with ``around`` before and after them."""
        self.progress = progress
        self._make_page = make_page
        self._page: HtmlReport | None = None
        self._results = results
        self._form = form
        self._sidecars = sidecars
        self._around = around

    def add(self, outcome: Outcome) -> None:
        """Write one outcome down at once.

        Raises CannotWrite.
        """
        failed = isinstance(outcome.result, CaptioningError)
        if not isinstance(outcome.result, CaptioningError):
            before, after = self._around
            captions = tuple(replace(caption, text=before + caption.text + after) for caption in outcome.result)
            outcome = Outcome(outcome.source, captions)
        if self._sidecars:
            self._sidecars.add(outcome)
        with self.progress.beside_the_bar() if self._results.file.isatty() else nullcontext():
            self._results.write(self._form.write(outcome))
        if self._page:
            self._page.add(outcome)
        if isinstance(outcome.result, CaptioningError):
            self.progress.say(f"{visible(outcome.source)}: {outcome.result.message}")
        self.progress.add(failed=failed)

    def begin(self) -> None:
        """Begin the page: there is a model, so there will be rows.

        Raises CannotWrite.
        """
        if self._make_page:
            self._page = self._make_page()

    def finish(self) -> None:
        """Put the page into its place, with as many rows as there are.

        Raises CannotWrite.
        """
        if self._page:
            self._page.finish()


def run(
    sources: Sequence[str],
    settings: Settings,
    options: GenerationOptions,
    load: Callable[[Settings], Engine],
    report: Report,
    *,
    resumable: bool,
) -> int:
    """Load the model and caption; return the exit code.

    Raises CannotWrite for the page; of all else, the exit code tells.
    """
    progress = report.progress
    if not sources:
        progress.say("There is nothing left to caption." if progress.done else "There are no pictures to caption.")
        return 0
    offline = None
    try:
        progress.say_on_terminal(f"Loading {settings.model_id} …")
        decoders = Decoders.from_settings(settings)
        decoders.start()  # which they have done by the time the model is there
        engine = load(settings)
        engine.check(options)
        report.begin()
        with progress.shown():
            offline = OfflineRun(engine, decoders, settings, options, report=report.add)
            offline.run(sources)
        return SOME_FAILED if _failures(progress) else 0
    except KeyboardInterrupt:
        if offline is not None:
            offline.stop()
        how = "the same command with --resume goes on" if resumable else "with --output FILE, --resume could go on"
        progress.say(f"Interrupted after {progress.done} of {progress.total}; {how}.")
        return INTERRUPTED
    except (InvalidParameter, SettingsError) as error:
        raise click.UsageError(str(error)) from error
    except ModelFailed as error:
        progress.say(error.message)
        return MODEL_FAILED
    except CannotWrite as error:
        progress.say(f"{error} Stopped after {progress.done} of {progress.total}.")
        return CANNOT_WRITE
    finally:
        report.finish()


def _failures(progress: Progress) -> int:
    if progress.failed:
        progress.say(f"{progress.failed} of {progress.total} failed.")
    return progress.failed
