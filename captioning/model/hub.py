"""A model's folder: on this machine, or downloaded from the Hugging Face hub.

Whatever keeps a model from being had is said in one sentence: what, from where, what to do.
"""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from difflib import get_close_matches
from functools import partial
from pathlib import Path

from captioning.errors import ModelFailed

log = logging.getLogger("captioning.model")

# What BLIP needs. The hub's folder also holds a TensorFlow copy of the weights, another 1 GB.
_SMALL_FILES = (
    "config.json", "generation_config.json", "preprocessor_config.json", "processor_config.json",
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt",
)  # fmt: skip
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # the first that is there

EMBEDDED_MODEL = "models/blip-emoji"
# It has this name wherever the process runs: in the installed package, and in a checkout, where it lies beside it.
_PACKAGE = Path(__file__).resolve().parents[1]
_EMBEDDED = (_PACKAGE / "embedded" / "blip-emoji", _PACKAGE.parent / EMBEDDED_MODEL)

_CHECK_NAME = "check MODEL_ID, and for a private model set HF_TOKEN to a token that may read it"
# By the status of the hub's answer: what it means, and what to do.
_STATUS = {
    401: ("knows no such model, or does not accept HF_TOKEN (401)", _CHECK_NAME),
    403: (
        "does not let this account read it (403)",
        "accept the model's terms on its page, and set HF_TOKEN to a token that may read it",
    ),
    404: ("knows no such model (404)", _CHECK_NAME),
    407: ("is behind a proxy that wants a login (407)", "put user and password into HTTPS_PROXY"),
    429: ("answers that too much is asked of it (429)", "wait some minutes, or set HF_TOKEN for a higher limit"),
}


class ModelLoadError(ModelFailed):
    """One sentence that says why the model cannot be loaded, and what to do."""


def find_folder(model_id: str) -> Path | None:
    """Return the folder that ``model_id`` names, or none where it may be the name of a model on the hub.

    Raises:
        ModelLoadError: it can only be a folder, and there is none.
    """
    folders: list[Path] = [Path(model_id), *(_EMBEDDED if model_id == EMBEDDED_MODEL else ())]
    for folder in folders:
        if folder.is_dir():
            return folder
    if model_id.startswith((".", "/", "~")) or model_id.count("/") != 1:
        raise missing_folder(model_id, "it is no name of a hub model (owner/name) either")
    return None


def missing_folder(model_id: str, besides: str) -> ModelLoadError:
    """Return the error that says that a folder is not there; ``besides`` is a main clause, said beside it."""
    problem = f"{model_id} is a file, not a folder" if Path(model_id).is_file() else f"There is no folder {model_id}"
    if model_id.startswith("~"):
        problem += " (a ~ is not expanded here)"
    elif not Path(model_id).is_absolute():
        problem += f" in {Path.cwd()}"
    near = _near_folder(model_id)
    return ModelLoadError(f"{problem}, and {besides}; {f'is MODEL_ID={near} meant?' if near else 'check MODEL_ID.'}")


def download(model_id: str, revision: str | None) -> Path:
    """Return the snapshot of a hub model, from the cache where it is complete, else from the hub.

    Raises:
        ModelLoadError: the hub does not give such a model.
    """
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError, XetDownloadError
    from huggingface_hub.utils import disable_progress_bars, httpx

    if not sys.stderr.isatty():
        disable_progress_bars()
    cached = partial(snapshot_download, model_id, revision=revision, local_files_only=True)
    try:
        for weights in _WEIGHTS:
            with suppress(LocalEntryNotFoundError):
                folder = Path(cached(allow_patterns=[*_SMALL_FILES, weights]))
                if (folder / weights).exists():
                    return folder
        # Asked once, without retries: whether the hub answers at all, and in which form it holds the weights.
        listing = HfApi().model_info(model_id, revision=revision, timeout=10)
        files = {sibling.rfilename for sibling in listing.siblings or []}
        present = [name for name in _WEIGHTS if name in files]
        if present:
            log.info("Downloading %s from the hub, revision %s.", model_id, listing.sha)
            wanted = [*_SMALL_FILES, present[0]]
            return Path(snapshot_download(model_id, revision=listing.sha, allow_patterns=wanted))
    # What an answer that is not the hub's makes of its client: errors of every kind.
    except (
        httpx.HTTPError, httpx.InvalidURL, XetDownloadError,
        OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError,
    ) as error:  # fmt: skip
        reason, advice = _explain(_first_cause(error), revision)
        cause: Exception | None = error
    else:
        reason, advice = f"has none of its weights ({' or '.join(_WEIGHTS)})", "check MODEL_ID and MODEL_REVISION"
        cause = None
    endpoint = constants.ENDPOINT.rpartition("@")[2]  # what is before it may be a password
    if near := _near_folder(model_id):
        advice = f"{advice}; if the folder {near} is meant, set MODEL_ID={near}"
    raise ModelLoadError(
        f"The model {model_id} is no folder here and could not be downloaded: the hub at {endpoint} {reason}; {advice}."
    ) from cause


def _explain(error: BaseException, revision: str | None) -> tuple[str, str]:
    """Return what the hub did, and what to do."""
    from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled, RevisionNotFoundError
    from huggingface_hub.utils import httpx

    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, RevisionNotFoundError):
        return f"has no revision {revision} of it", "check MODEL_REVISION"
    if isinstance(status, int):
        return _STATUS.get(status, (f"answers {status}", "try again later, or check HF_ENDPOINT"))
    if isinstance(error, HFValidationError):
        return "takes no such name", "check MODEL_ID: a folder, or owner/name"
    if isinstance(error, UnicodeEncodeError):
        return "cannot be asked with this HF_TOKEN", "check HF_TOKEN: it holds characters that no token has"
    if isinstance(error, (httpx.UnsupportedProtocol, httpx.InvalidURL)):
        return "has no such address", "check HF_ENDPOINT: it begins with https:// or http://"
    if isinstance(error, OfflineModeIsEnabled):
        return "is not asked (HF_HUB_OFFLINE)", "unset HF_HUB_OFFLINE, or set MODEL_ID to a folder that holds the model"
    if isinstance(error, (httpx.TransportError, ConnectionError, TimeoutError)):
        through = " through the proxy" if isinstance(error, httpx.ProxyError) else ""
        return (
            f"cannot be reached{through} ({first_line(error)})",
            "give this machine access to the hub (HTTPS_PROXY, SSL_CERT_FILE and HF_ENDPOINT are obeyed), "
            "or set MODEL_ID to a folder that holds the model, such as MODEL_ID=models/blip-emoji",
        )
    if isinstance(error, OSError) and error.strerror:
        return (
            f"was asked, but the files cannot be stored ({error.strerror}: {error.filename})",
            "set HF_HOME to a folder that has room and may be written to",
        )
    return (
        "does not answer as a hub does",
        "check HF_ENDPOINT, and whether a proxy or a login page answers in its place",
    )


def _first_cause(error: BaseException) -> BaseException:
    """Return what began it: the client words a failed download as a file that is missing from its cache."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    while isinstance(error, LocalEntryNotFoundError) and (cause := error.__cause__ or error.__context__):
        error = cause
    return error


def _near_folder(model_id: str) -> str | None:
    """Return the folder below this one whose path is nearest, if one is near."""
    folders = [str(path) for pattern in ("*", "*/*") for path in Path().glob(pattern) if path.is_dir()]
    near = get_close_matches(model_id.removeprefix("./").rstrip("/"), folders, 1, 0.8)
    return near[0] if near else None


def first_line(error: BaseException) -> str:
    """Return what an error says first, for the middle of a sentence."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__).rstrip(".")
