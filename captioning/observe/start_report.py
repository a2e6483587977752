"""What the log says once, at the start: the settings in force, and what in the environment looks like a mistake."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from ipaddress import ip_address

from captioning.limits import Limits
from captioning.model.registry import name_and_revision
from captioning.settings import Settings

log = logging.getLogger("captioning.start")

# A variable that begins like this is meant for the service; of others, only what looks much like a setting.
_PREFIXES = ("BATCH_", "CACHE_", "CORS_", "DECODE_", "FETCH_", "MAX_", "MODEL_")


def log_start(settings: Settings, variables: Iterable[str], addresses: Sequence[str], workers: int) -> None:
    """Log what is in force, one line, and a warning for each likely mistake.

    ``addresses`` and ``workers`` are gunicorn's: GUNICORN_CMD_ARGS and the command line outrank the settings.
    """
    limits = Limits.from_settings(settings)
    model, revision = name_and_revision(settings)
    log.info(
        "Starting.",
        extra={
            "model": model,
            "revision": revision,
            "model_id": settings.model_id,
            "engine": settings.engine,
            "threads": settings.model_threads,
            "workers": workers,
            "listens_on": ", ".join(addresses),
            "requests": settings.max_concurrent_requests,
            "downloads": settings.max_concurrent_downloads,
            "body_bytes": limits.bodies.most,
            "picture_bytes": limits.pictures.most,
            "decode_bytes": settings.decode_processes * settings.decode_memory_bytes,
            "cache_entries": settings.cache_max_entries,
            "shared_cache": settings.cache_url is not None,
            "api_keys": len(settings.api_keys),
        },
    )
    for warning in misspelt_settings(variables):
        log.warning("%s", warning)
    if not settings.api_keys and not all(map(is_loopback, addresses)):
        log.warning("API_KEYS is not set: whoever reaches this address may ask for captions.")


def is_loopback(address: str) -> bool:
    """Tell whether an address that gunicorn binds is for programs on the same machine alone."""
    host = address.removeprefix("tcp://").rpartition(":")[0].strip("[]")
    try:
        return address.startswith("unix:") or host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def misspelt_settings(variables: Iterable[str]) -> list[str]:
    """Return a sentence for each variable that is no setting but looks like one, with the nearest setting."""
    settings = [name.upper() for name in Settings.model_fields]
    warnings = []
    for variable in variables:
        cutoff = 0.5 if variable.upper().startswith(_PREFIXES) else 0.85
        if variable.upper() not in settings and (found := get_close_matches(variable.upper(), settings, 1, cutoff)):
            warnings.append(f"{variable} is not a setting of this service and has no effect. Is {found[0]} meant?")
    return warnings
