"""How the log is written: as JSON, one object a line, or as text, one line an event.

What strangers send (paths, ids, a server's words in an exception) can neither end a line nor begin one: JSON escapes
it, and text escapes control characters and indents tracebacks.
"""

from __future__ import annotations

import json
import logging
import re
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

from pythonjsonlogger.core import RESERVED_ATTRS, merge_record_extra
from pythonjsonlogger.json import JsonFormatter

from captioning.settings import Settings

# C0, C1, the line and paragraph separators, what turns the direction of text, and lone surrogates.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def configure_logging(settings: Settings) -> None:
    """Send what the process logs to stderr, unless whoever runs it (a test, a notebook) has seen to that."""
    if not logging.root.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(make_formatter(settings.log_format, handler.stream))
        logging.root.addHandler(handler)
        logging.captureWarnings(True)
    logging.getLogger("captioning").setLevel(settings.logging_level)
    # It would log whole URLs, secrets in their queries included, whenever a server's headers are odd.
    logging.getLogger("urllib3").setLevel(logging.ERROR)


def adopt_loggers(*names: str) -> None:
    """Let libraries that bring handlers of their own log as all others do; call it once they are imported."""
    for name in names:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True


def make_formatter(log_format: Literal["auto", "text", "json"], stream: TextIO) -> logging.Formatter:
    """Make the formatter for a stream; ``auto`` is text on a terminal and JSON elsewhere."""
    as_text = stream.isatty() if log_format == "auto" else log_format == "text"
    return _TextFormatter() if as_text else _JsonFormatter()


class _JsonFormatter(JsonFormatter):
    """Write a record and its extra fields as one JSON object."""

    def __init__(self) -> None:
        names = {"asctime": "timestamp", "levelname": "level", "name": "logger", "message": "message", "process": "pid"}
        super().__init__(list(names), rename_fields={**names, "exc_info": "traceback"})

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        return _timestamp(record)


class _TextFormatter(logging.Formatter):
    """Write a record as one line, its extra fields as name=value behind the message; a traceback follows, indented."""

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
