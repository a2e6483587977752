"""Every setting of the service, read once from the environment and checked at the start."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from captioning.cpus import available_cpus
from captioning.setting_types import ApiKeyList, BindHost, CacheUrl, HostPatterns, Origins, Ports

BLIP_BASE = "Salesforce/blip-image-captioning-base"
BLIP_BASE_REVISION = "82a37760796d32b1411fe092ab5d4e227313294b"

MIB = 1024 * 1024

MAX_NEW_TOKENS_LIMIT = 100
NUM_BEAMS_LIMIT = 5
NO_REPEAT_NGRAM_SIZE_LIMIT = 100
REPETITION_PENALTY_LEAST, REPETITION_PENALTY_LIMIT = 0.1, 10  # below it, float32 overflows in a search by beams
BATCH_SIZE_LIMIT = 64

TorchDtype = Literal["float32", "bfloat16", "auto"]


class SettingsError(ValueError):
    """One sentence that says which environment variables are wrong, and how."""


class Settings(BaseSettings):
    """All settings; each field is the environment variable of the same name in capitals."""

    model_config = SettingsConfigDict(
        frozen=True, env_ignore_empty=True, extra="ignore", hide_input_in_errors=True, str_strip_whitespace=True
    )

    model_id: str = Field(BLIP_BASE, min_length=1, description="hub name or folder of the BLIP model")
    model_revision: str | None = Field(
        None, min_length=1, description="commit, tag or branch of a hub model; BLIP-base is pinned"
    )
    engine: str = Field("torch", description="what runs the model; int8 serves an export")
    torch_dtype: TorchDtype = Field(
        "float32",
        description="numbers of ENGINE=torch on a CPU; auto: bfloat16 where the CPU is quicker with it, else float32",
    )
    num_threads: int = Field(0, ge=0, le=256, description="threads of the model; 0: the container's CPUs, shared out")
    web_concurrency: int = Field(1, ge=1, le=64, description="gunicorn workers; each loads its own model")
    host: BindHost = Field("0.0.0.0", description="address that gunicorn listens on; `::` is IPv4 and IPv6")  # noqa: S104
    port: int = Field(8000, ge=0, le=65535, description="port that gunicorn listens on")
    script_name: str = Field(
        "",
        pattern=r"^(/[A-Za-z0-9._~-]+)*$",
        description="prefix of all paths, such as /ai, where a proxy leaves it on",
    )
    reload_overlap: bool = Field(
        True,
        description="a worker that is replaced serves until the next is ready; needs memory for one model more each",
    )

    max_new_tokens: int = Field(
        20, ge=1, le=MAX_NEW_TOKENS_LIMIT, description="longest caption in tokens, when the request says nothing"
    )
    num_beams: int = Field(1, ge=1, le=NUM_BEAMS_LIMIT, description="beams, when the request says nothing; 1 is greedy")
    no_repeat_ngram_size: int = Field(
        0,
        ge=0,
        le=NO_REPEAT_NGRAM_SIZE_LIMIT,
        description="no run of so many tokens twice in a caption, when the request says nothing; 0: any",
    )
    repetition_penalty: float = Field(
        1.0,
        ge=REPETITION_PENALTY_LEAST,
        le=REPETITION_PENALTY_LIMIT,
        description="above 1, tokens that are there already get less likely, when the request says nothing",
    )
    batch_max_size: int = Field(4, ge=1, le=BATCH_SIZE_LIMIT, description="most pictures in one call of the model")
    max_concurrent_requests: int = Field(64, ge=1, le=1000, description="captions in the works at once; more get 429")
    request_timeout_s: float = Field(30.0, gt=0, le=600, description="from a request's arrival to its answer")

    fetch_connect_timeout_s: float = Field(5.0, gt=0, le=60, description="for each address of the image's server")
    fetch_timeout_s: float = Field(15.0, gt=0, le=600, description="for a whole download, redirects included")
    fetch_max_redirects: int = Field(5, ge=0, le=20, description="redirects that are followed")
    fetch_allowed_hosts: HostPatterns = Field(
        frozenset(), description="hosts that pictures are fetched from, such as a.example or *.b.example; none: any"
    )
    fetch_allowed_ports: Ports = Field(
        frozenset({80, 443}), description="ports that pictures are fetched from; * is any"
    )
    fetch_allow_private_addresses: bool = Field(False, description="fetch from any address; for private networks")
    fetch_user_agent: str = Field(
        "SmartScanCaptioning/1.0 (image captioning)",
        pattern=r"^[!-~]([ -~]{0,254}[!-~])?$",
        description="what image servers see; add a URL or an address that their operators can write to",
    )

    max_body_bytes: int = Field(15 * MIB, ge=1024, description="largest request body; base64 adds a third")
    max_image_bytes: int = Field(10 * MIB, ge=1024, description="largest picture, after unpacking")
    max_image_pixels: int = Field(40_000_000, ge=1, description="largest width x height of a picture")
    decode_processes: int = Field(2, ge=1, le=64, description="pictures that are decoded at once; more wait")
    decode_memory_bytes: int = Field(
        320 * MIB,
        ge=MIB,
        description="memory that decoding one picture may take; whoever needs more is refused",
    )

    api_keys: ApiKeyList = Field(
        (),
        description="comma-separated keys, `key` or `name:key` or `name:key@pictures`, one of which a caption then "
        "needs; none: open to all",
    )
    cors_origins: Origins = Field(
        frozenset(), description="comma-separated origins whose pages may ask from the browser; * is any"
    )

    cache_max_entries: int = Field(
        10_000, ge=0, le=1_000_000, description="captions that each worker remembers; 0: none"
    )
    cache_ttl_s: float = Field(
        86_400.0, ge=1, le=31_536_000, description="how long a caption is remembered, in seconds"
    )
    cache_url: CacheUrl | None = Field(
        None,
        description="redis://, rediss:// or unix:// URL of a cache that instances share; none: each remembers its own",
        repr=False,  # it may hold a password
    )

    log_format: Literal["auto", "text", "json"] = Field(
        "auto", description="json: one object a line; auto: text on a terminal, json elsewhere"
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="least severe line logged")

    @property
    def bind(self) -> str:
        """Return the address and port to listen on, as gunicorn wants it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def revision(self) -> str | None:
        """Return the revision to load: the one set, else the pinned one of BLIP-base, else none (the hub's main)."""
        return self.model_revision or (BLIP_BASE_REVISION if self.model_id == BLIP_BASE else None)

    @property
    def model_threads(self) -> int:
        """Return how many threads one worker's model may use."""
        return self.num_threads or max(1, available_cpus() // self.web_concurrency)

    @property
    def request_threads(self) -> int:
        """Return how many threads answer requests: more than there are permits, so that health waits for no caption."""
        return self.max_concurrent_requests + 16

    @property
    def max_concurrent_downloads(self) -> int:
        """Return how many of the requests in the works may be downloads: a quarter is left to uploads."""
        return max(1, self.max_concurrent_requests * 3 // 4)

    @property
    def bulk_at_once(self) -> int:
        """Return how many pictures of one bulk request may be in the works: a quarter of all."""
        return max(1, self.max_concurrent_requests // 4)


def load_settings() -> Settings:
    """Read the environment.

    Raises:
        SettingsError: a variable has a bad value; the message names every such variable.
    """
    try:
        return Settings()
    except ValidationError as error:
        problems = [
            f"{'.'.join(map(str, problem['loc'])).upper()}: {problem['msg'].removeprefix('Value error, ')}"
            for problem in error.errors(include_url=False, include_input=False, include_context=False)
        ]
        raise SettingsError("Bad settings. " + "; ".join(problems) + ".") from None
