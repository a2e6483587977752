"""The stages of a caption, in order."""

from __future__ import annotations

from concurrent.futures import CancelledError, Future
from typing import Literal, Protocol

from captioning.cache.captions import CachedCaption, CaptionCache
from captioning.cache.key import caption_key, picture_digest
from captioning.deadline import Deadline
from captioning.errors import DeadlineExceeded, TooManyPixels
from captioning.fetch.fetcher import Fetcher
from captioning.fetch.urls import parse_url
from captioning.limits import Admission, MemoryBudget, MemoryHold
from captioning.model.batcher import Captioned
from captioning.model.engine import Engine, GenerationOptions, Pixels
from captioning.pictures.decoder import open_image
from captioning.settings import Settings
from captioning.trace import Trace

Status = Literal["loading", "ready", "failed", "draining"]


class Model(Protocol):
    """What the service needs of the model."""

    @property
    def status(self) -> Status:
        """Tell where the model is in its life."""

    def start(self) -> None:
        """Start loading it, unless that was done."""

    @property
    def waiting(self) -> int:
        """Return how many pictures wait for it."""

    def expected_wait_s(self) -> float:
        """Return the seconds until a picture that came now would be captioned."""

    def check_wait(self, deadline: Deadline) -> None:
        """Raise `Overloaded` when the model would not have a picture that came now done by the deadline."""

    @property
    def identity(self) -> str:
        """Return what tells this model's captions from those of others, once there is an engine."""

    def engine(self) -> Engine:
        """Return the engine, or raise `ModelLoading` or `ModelFailed`."""

    def submit(self, pixel_values: Pixels, options: GenerationOptions, deadline: Deadline) -> Future[Captioned]:
        """Queue one preprocessed picture."""


class Pipeline:
    """Take a picture, or the URL of one, through all stages to its caption."""

    def __init__(
        self,
        fetcher: Fetcher,
        cache: CaptionCache,
        model: Model,
        *,
        downloads: Admission,
        decoding: MemoryBudget,
        max_image_pixels: int,
    ) -> None:
        """Join the stages.

        ``downloads`` bounds how many run at once, so that slow servers leave permits for uploads; ``decoding``
        bounds the memory of all pictures that are decoded at once.
        """
        self._fetcher = fetcher
        self._cache = cache
        self.downloads = downloads
        self._model = model
        self.decoding = decoding
        self._max_image_pixels = max_image_pixels

    def caption(
        self,
        source: str | bytes,
        options: GenerationOptions,
        *,
        deadline: Deadline,
        memory: MemoryHold,
        trace: Trace,
    ) -> str:
        """Caption one picture, given as an http(s) URL or as its encoded bytes.

        ``memory`` grows with the bytes that are downloaded; ``trace`` is filled stage by stage.

        Raises:
            CaptioningError: any of the tree.
        """
        engine = self._model.engine()
        engine.check(options)
        deadline.check()
        if isinstance(source, str):
            trace.image_host = parse_url(source).host
            with trace.stage("fetch"), self.downloads.permit(lambda: 1.0):
                source = self._fetcher.fetch(source, deadline=deadline, on_bytes=memory.grow)
        trace.image_bytes = len(source)
        trace.cache = "miss"
        with trace.stage("cache"):
            key = caption_key(picture_digest(source), options, self._model.identity)
            found = self._cache.look_up(key, deadline)
        if isinstance(found, CachedCaption):
            trace.cache = "hit" if found.hit else "miss"
            return found.caption
        with found:  # whoever wants the same caption meanwhile waits for this one
            self._model.check_wait(deadline)  # before anything is decoded in vain
            with trace.stage("decode"):
                pixel_values = self._decode(engine, source, deadline, trace)  # [3, H, W]
            captioned = self._generate(pixel_values, options, deadline)
            found.resolve(captioned.caption)
        trace.seconds.update(
            queue=captioned.queue_s,
            generate=captioned.generate_s,
            encode=captioned.encode_s,
            decode_tokens=captioned.decode_tokens_s,
        )
        trace.batch_size = captioned.batch_size
        return captioned.caption

    def _decode(self, engine: Engine, data: bytes, deadline: Deadline, trace: Trace) -> Pixels:
        size = max(engine.preprocessor.size)
        opened = open_image(data, max_pixels=self._max_image_pixels, target_size=size)
        trace.image_format, trace.image_size = opened.format, opened.size
        if opened.memory_bytes > self.decoding.total_bytes:
            # WebP's decoder, for one, takes 17 bytes a pixel.
            raise TooManyPixels(
                f"Decoding this {opened.format} image takes more memory than the service has for it.",
                detail=f"{opened.memory_bytes:,} bytes",
            )
        with self.decoding.hold(deadline) as memory:
            memory.grow(opened.memory_bytes)
            deadline.check()
            return engine.preprocessor(opened.decode())

    def _generate(self, pixel_values: Pixels, options: GenerationOptions, deadline: Deadline) -> Captioned:
        future = self._model.submit(pixel_values, options, deadline)
        try:
            return future.result(timeout=deadline.remaining())
        except (TimeoutError, CancelledError) as error:
            raise DeadlineExceeded(detail="waited for the model") from error
        finally:
            future.cancel()  # of no effect once it runs; before that, nobody waits for it any more


def make_pipeline(settings: Settings, model: Model) -> Pipeline:
    """Join the stages as the settings say."""
    fetcher = Fetcher(
        connect_timeout_s=settings.fetch_connect_timeout_s,
        timeout_s=settings.fetch_timeout_s,
        max_redirects=settings.fetch_max_redirects,
        max_bytes=settings.max_image_bytes,
        allowed_hosts=settings.fetch_allowed_hosts,
        allowed_ports=settings.fetch_allowed_ports,
        allow_private_addresses=settings.fetch_allow_private_addresses,
        user_agent=settings.fetch_user_agent,
    )
    return Pipeline(
        fetcher,
        _make_cache(settings),
        model,
        downloads=Admission(settings.max_concurrent_downloads),
        decoding=MemoryBudget(settings.decode_memory_bytes),
        max_image_pixels=settings.max_image_pixels,
    )


def _make_cache(settings: Settings) -> CaptionCache:
    shared = None
    if settings.cache_url:
        from captioning.cache.redis_store import RedisStore  # redis takes 8 MB of memory, which few need

        shared = RedisStore(settings.cache_url)
    return CaptionCache(max_entries=settings.cache_max_entries, ttl_s=settings.cache_ttl_s, shared=shared)
