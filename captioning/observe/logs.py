"""How the log is written: as JSON, one object a line, or as text, one line an event.

Text from outside (paths, ids, a server's words in an exception) cannot forge a line: JSON escapes it, and the text form
escapes control characters and indents tracebacks.
"""

from __future__ import annotations

import json
import logging
import re
import threading
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

from pythonjsonlogger.core import RESERVED_ATTRS, merge_record_extra
from pythonjsonlogger.json import JsonFormatter

from captioning.settings import Settings

# C0, C1, the line and paragraph separators, what turns the direction of text, and lone surrogates.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def configure_logging(settings: Settings) -> None:
    """Log to stderr, unless the program that runs this (a test, a notebook) has set up logging itself."""
    if not logging.root.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(make_formatter(settings.log_format, handler.stream))
        logging.root.addHandler(handler)
        logging.captureWarnings(True)
        threading.excepthook = _log_end_of_thread
    logging.getLogger("captioning").setLevel(settings.log_level)
    # It would log whole URLs, secrets in their queries included, whenever a server's headers are odd.
    logging.getLogger("urllib3").setLevel(logging.ERROR)


def adopt_loggers(*names: str) -> None:
    """Remove libraries' own log handlers, so that they log as the service does; call it after importing them."""
    for name in names:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True


def make_formatter(log_format: Literal["auto", "text", "json"], stream: TextIO) -> logging.Formatter:
    """Make the formatter for a stream; ``auto`` is text on a terminal and JSON elsewhere."""
    as_text = stream.isatty() if log_format == "auto" else log_format == "text"
    return _TextFormatter() if as_text else _JsonFormatter()


def _log_end_of_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None and not isinstance(args.exc_value, SystemExit):
        name = args.thread.name if args.thread else "unknown"
        logging.getLogger("captioning.threads").critical("The thread %s has ended.", name, exc_info=args.exc_value)


class _JsonFormatter(JsonFormatter):
    """A record and its extra fields as one JSON object."""

    def __init__(self) -> None:
        names = {"asctime": "timestamp", "levelname": "level", "name": "logger", "message": "message", "process": "pid"}
        super().__init__(list(names), rename_fields={**names, "exc_info": "traceback"})

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        return _timestamp(record)


class _TextFormatter(logging.Formatter):
    """A record as one line, with its extra fields as name=value after the message; a traceback follows, indented."""

    def format(self, record: logging.LogRecord) -> str:
        extra: dict[str, Any] = merge_record_extra(record, {}, reserved=RESERVED_ATTRS)
        fields = [f"{name}={_plain(value)}" for name, value in extra.items()]
        head = f"{_timestamp(record)} {record.levelname} {record.name}: {record.getMessage()}"
        traceback = self.formatException(record.exc_info).split("\n") if record.exc_info else []
        return "\n".join([_escaped(" ".join([head, *fields])), *(f"    {_escaped(line)}" for line in traceback)])


def _timestamp(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")


def _plain(value: object) -> str:
    text = str(value)
    return text if re.fullmatch(r"[^\s\"=]+", text) else json.dumps(text, ensure_ascii=False)


def _escaped(text: str) -> str:
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)
