"""gunicorn's own lines in the format of all others."""

from __future__ import annotations

import logging
from typing import Any

from gunicorn.glogging import Logger

from captioning.observe.logs import configure_logging, make_formatter
from captioning.settings import load_settings


class GunicornLogger(Logger):  # type: ignore[misc]
    """Log as gunicorn does, through the service's formatter."""

    def setup(self, cfg: Any) -> None:
        """Set the log up at the start, and again when gunicorn reads its configuration anew."""
        super().setup(cfg)
        settings = load_settings()
        configure_logging(settings)
        for handler in [*self.error_log.handlers, *self.access_log.handlers]:
            if isinstance(handler, logging.StreamHandler):  # a syslog's format is its own
                handler.setFormatter(make_formatter(settings.log_format, handler.stream))
