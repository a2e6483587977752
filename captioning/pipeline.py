"""The stages of a caption, in order."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Protocol

from captioning.byte_budget import ByteHold
from captioning.cache.captions import CachedCaption, CaptionCache
from captioning.cache.key import caption_key, picture_digest
from captioning.cache.url_digests import UrlDigests
from captioning.deadline import Deadline
from captioning.errors import ImageFetchFailed, ImageFetchTimeout, Overloaded, UnusableImage
from captioning.fetch.codings import EndedEarly
from captioning.fetch.fetcher import Fetcher
from captioning.fetch.urls import parse_url
from captioning.limits import Limits
from captioning.model.batcher import Batcher, Captioned
from captioning.model.engine import Candidates, Engine, GenerationOptions, Pixels
from captioning.pictures.decoders import Decoders
from captioning.settings import Settings
from captioning.trace import Trace

_SERVERS_OWN_S = 1.0  # a download that waited longer than this for bytes of the budget did not fail by its server


@dataclass
class EncodedPicture:
    """A picture's encoded bytes, with what they take of a budget until they are decoded."""

    data: bytes
    hold: ByteHold

    def release(self) -> None:
        """Let go of the bytes, which nobody else may refer to, and give back what they took."""
        self.data = b""
        self.hold.release()


class Model(Protocol):
    """A model that may still be loading."""

    @property
    def identity(self) -> str:
        """Return what tells this model's captions from those of others, once there is an engine."""

    def engine(self) -> Engine:
        """Return the engine, or raise `ModelLoading` or `ModelFailed`."""


class Pipeline:
    """The way of a picture, or of the URL of one, through all stages to its caption."""

    def __init__(
        self,
        fetcher: Fetcher,
        cache: CaptionCache,
        model: Model,
        batcher: Batcher,
        limits: Limits,
        url_digests: UrlDigests,
        decoders: Decoders,
    ) -> None:
        self._fetcher = fetcher
        self._cache = cache
        self._model = model
        self._batcher = batcher
        self._limits = limits
        self._url_digests = url_digests
        self._decoders = decoders

    def caption(
        self, source: str | EncodedPicture, options: GenerationOptions, *, deadline: Deadline, trace: Trace
    ) -> Candidates:
        """Caption one picture, given as an http(s) URL or as its encoded bytes; ``trace`` is filled stage by stage.

        Several candidates come back, the best first, where the options ask for beams.
        The bytes are released as soon as they are decoded, or at the end.

        Raises:
            CaptioningError: any of the tree.
        """
        engine = self.engine_for(options)
        deadline.check()
        if isinstance(source, str):
            trace.image_host = parse_url(source).host
            try:
                self._batcher.check_wait(deadline, options)  # a refusal costs no download
            except Overloaded:
                if (candidates := self._known(source, options)) is None:
                    raise
                trace.cache = "hit"
                return candidates
            with self._limits.pictures.hold() as hold:
                data, cut = self._fetch(source, deadline, hold, trace)
                picture = EncodedPicture(data, hold)
                del data  # the picture lets go of its bytes once they are decoded
                digest = picture_digest(picture.data)
                try:
                    candidates = self._caption_encoded(picture, digest, engine, options, deadline, trace)
                except UnusableImage as error:
                    if cut is not None:
                        raise cut from error
                    raise
                if cut is None:
                    self._url_digests.put(source, digest)
                return candidates
        return self._caption_encoded(source, picture_digest(source.data), engine, options, deadline, trace)

    def engine_for(self, options: GenerationOptions) -> Engine:
        """Return the engine, which can do what the options ask for.

        Raises:
            ModelLoading, ModelFailed, InvalidParameter: no picture can be captioned so.
        """
        engine = self._model.engine()
        engine.check(options)
        return engine

    def _known(self, url: str, options: GenerationOptions) -> Candidates | None:
        """Return the caption of the picture that the URL last led to, if this process still knows both."""
        digest = self._url_digests.get(url)
        return self._cache.get(caption_key(digest, options, self._model.identity)) if digest else None

    def _caption_encoded(
        self,
        picture: EncodedPicture,
        digest: bytes,
        engine: Engine,
        options: GenerationOptions,
        deadline: Deadline,
        trace: Trace,
    ) -> Candidates:
        trace.image_bytes = len(picture.data)
        trace.cache = "miss"
        with trace.stage("cache"):
            found = self._cache.look_up(caption_key(digest, options, self._model.identity), deadline)
        if isinstance(found, CachedCaption):
            trace.cache = "hit" if found.hit else "miss"
            return found.candidates
        with found:  # whoever wants the same caption meanwhile waits for this one
            self._batcher.check_wait(deadline, options)  # a refusal costs no decoding
            pixel_values = self._decode(engine, picture, deadline, trace)  # [3, H, W]
            captioned = self._generate(pixel_values, options, deadline)
            found.resolve(captioned.candidates)
        trace.seconds.update(
            queue=captioned.queue_s,
            generate=captioned.generate_s,
            encode=captioned.encode_s,
            decode_tokens=captioned.decode_tokens_s,
        )
        trace.batch_size = captioned.batch_size
        return captioned.candidates

    def _fetch(
        self, url: str, deadline: Deadline, hold: ByteHold, trace: Trace
    ) -> tuple[bytes, ImageFetchFailed | None]:
        """Return the bytes, and what to raise if they are no whole picture, where the download ended early."""
        with trace.waiting("download_wait", self._limits.downloads.slot(deadline)), trace.stage("fetch"):
            while True:
                began = hold.waited_s
                try:
                    grow = partial(hold.grow, deadline=deadline)
                    return self._fetcher.fetch(url, deadline=deadline, on_bytes=grow), None
                except EndedEarly as error:
                    content, error.content = error.content, b""
                    return content, error.with_traceback(None)  # whose frames keep the bytes, too
                except ImageFetchTimeout:
                    if hold.waited_s - began < _SERVERS_OWN_S:
                        raise
                hold.release()  # it was this service that did not read on: the download begins anew

    def _decode(self, engine: Engine, picture: EncodedPicture, deadline: Deadline, trace: Trace) -> Pixels:
        with trace.waiting("decoder_wait", self._limits.decoders.slot(deadline)), trace.stage("decode"):
            decoded = self._decoders.decode(picture.data, engine.preprocessor, deadline)
            trace.image_format, trace.image_size = decoded.format, decoded.size
        picture.release()
        return decoded.pixel_values

    def _generate(self, pixel_values: Pixels, options: GenerationOptions, deadline: Deadline) -> Captioned:
        line = deadline.in_line()
        future = self._batcher.submit(pixel_values, options, line)
        try:
            while True:
                patience_s = (deadline if future.running() else line).poll_s()
                try:
                    return future.result(timeout=patience_s)
                except TimeoutError:
                    continue
        finally:
            future.cancel()  # of no effect once it runs; before that, nobody waits for it any more


def make_pipeline(settings: Settings, model: Model, batcher: Batcher, limits: Limits, decoders: Decoders) -> Pipeline:
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
    url_digests = UrlDigests(max_entries=settings.cache_max_entries, ttl_s=settings.cache_ttl_s)
    return Pipeline(fetcher, _make_cache(settings), model, batcher, limits, url_digests, decoders)


def _make_cache(settings: Settings) -> CaptionCache:
    shared = None
    if settings.cache_url:
        from captioning.cache.redis_store import RedisStore  # redis takes 8 MB of memory, which few need

        shared = RedisStore(settings.cache_url)
    return CaptionCache(max_entries=settings.cache_max_entries, ttl_s=settings.cache_ttl_s, shared=shared)
