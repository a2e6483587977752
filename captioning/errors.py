"""Every way in which a caption can fail, with what the caller is told.

CaptioningError
├── InvalidRequest                400 invalid_request
│   ├── InvalidJson               400 invalid_json
│   ├── MissingImage              400 missing_image
│   ├── InvalidParameter          400 invalid_parameter
│   ├── InvalidImageUrl           400 invalid_image_url
│   └── AddressNotAllowed         400 address_not_allowed
├── Unauthorized                  401 unauthorized
├── NotFound                      404 not_found
├── MethodNotAllowed              405 method_not_allowed
├── TooLarge                      413
│   ├── BodyTooLarge              413 body_too_large
│   └── ImageTooLarge             413 image_too_large
├── UnsupportedContentType        415 unsupported_content_type
├── UnusableImage                 422
│   ├── ImageNotFound             422 image_not_found
│   ├── UnsupportedImage          422 unsupported_image
│   ├── CorruptImage              422 corrupt_image
│   ├── TooManyPixels             422 too_many_pixels
│   └── ImageTooCostly            422 image_too_costly
├── Overloaded                    429 overloaded
├── InternalError                 500 internal_error
├── ImageFetchFailed              502 image_fetch_failed
├── Unavailable                   503
│   ├── ModelLoading              503 model_loading
│   ├── ModelFailed               503 model_failed
│   └── ShuttingDown              503 shutting_down
└── TimedOut                      504
    ├── ImageFetchTimeout         504 image_fetch_timeout
    └── DeadlineExceeded          504 deadline_exceeded
"""

from __future__ import annotations

import copy
from typing import ClassVar


class CaptioningError(Exception):
    """Carry one failure to the caller and to the log.

    ``message`` is public: one sentence that a person can act on, in place of the class's own.
    ``detail`` is private: it goes to the log only (resolved addresses, library messages).
    ``retry_after_s`` becomes the ``Retry-After`` header (RFC 9110, section 10.2.3).
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    sentence: ClassVar[str] = "Something went wrong in the service; the error has been logged."

    def __init__(
        self,
        message: str | None = None,
        *,
        detail: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        self.message = message or self.sentence
        self.detail = detail
        self.retry_after_s = retry_after_s
        super().__init__(self.message if detail is None else f"{self.message} ({detail})")


class InvalidRequest(CaptioningError):
    """The request is malformed."""

    status = 400
    code = "invalid_request"
    sentence = "The request is malformed."


class InvalidJson(InvalidRequest):
    """The body is not a JSON object."""

    code = "invalid_json"
    sentence = 'The body is not valid JSON; send an object such as {"imageUrl": "https://example.com/image.jpg"}.'


class MissingImage(InvalidRequest):
    """The request names no picture."""

    code = "missing_image"
    sentence = "No image was given; send imageUrl in JSON, a form file named image, or an image as the body."


class InvalidParameter(InvalidRequest):
    """An option has the wrong type or lies outside its range."""

    code = "invalid_parameter"
    sentence = "An option has the wrong type or is out of range."


class InvalidImageUrl(InvalidRequest):
    """The image's URL cannot be used at all."""

    code = "invalid_image_url"
    sentence = "imageUrl must be an http, https or data URL without credentials."


class AddressNotAllowed(InvalidRequest):
    """The URL leads to a host, an address or a port that the service does not fetch from."""

    code = "address_not_allowed"
    sentence = "The image's address is not one that this service fetches from; use a public host on an allowed port."


class Unauthorized(CaptioningError):
    """The request carries no valid API key."""

    status = 401
    code = "unauthorized"
    sentence = "A valid API key is needed; send it as Authorization: Bearer <key>."


class NotFound(CaptioningError):
    """No route has this path."""

    status = 404
    code = "not_found"
    sentence = "There is nothing at this path; captions are made at POST /local-caption."


class MethodNotAllowed(CaptioningError):
    """The route does not answer this method."""

    status = 405
    code = "method_not_allowed"
    sentence = "This path does not answer that method."


class TooLarge(CaptioningError):
    """Something is over its limit in bytes."""

    status = 413


class BodyTooLarge(TooLarge):
    """The request's body is over the limit."""

    code = "body_too_large"
    sentence = "The request body is too large."


class ImageTooLarge(TooLarge):
    """The downloaded picture is over the limit, counted after unpacking."""

    code = "image_too_large"
    sentence = "The image is too large."


class UnsupportedContentType(CaptioningError):
    """The request's body is of a kind that the service does not read."""

    status = 415
    code = "unsupported_content_type"
    sentence = "The body must be application/json, multipart/form-data or an image."


class UnusableImage(CaptioningError):
    """The picture cannot be captioned, and asking again will not help."""

    status = 422


class ImageNotFound(UnusableImage):
    """The image's server answered 4xx, and will do so again."""

    code = "image_not_found"
    sentence = "The image's server says that there is no such image or that it may not be read."


class UnsupportedImage(UnusableImage):
    """The bytes are not a picture, or one in a format that is off the list."""

    code = "unsupported_image"
    sentence = "This is not an image in a supported format."


class CorruptImage(UnusableImage):
    """The picture is broken or cut short."""

    code = "corrupt_image"
    sentence = "The image is damaged or incomplete."


class TooManyPixels(UnusableImage):
    """The picture's width times height is over the limit."""

    code = "too_many_pixels"
    sentence = "The image has too many pixels."


class ImageTooCostly(UnusableImage):
    """Decoding the picture was ended, because it takes more than one picture may."""

    code = "image_too_costly"
    sentence = (
        "Decoding this image takes more memory or time than the service has for one; save it as a plain JPEG or PNG."
    )


class Overloaded(CaptioningError):
    """Admission is full."""

    status = 429
    code = "overloaded"
    sentence = "The service is busy; try again after the time in Retry-After."


class InternalError(CaptioningError):
    """A bug: logged with its traceback, never shown."""


class ImageFetchFailed(CaptioningError):
    """The picture could not be had from its server."""

    status = 502
    code = "image_fetch_failed"
    sentence = "The image could not be fetched from its server."


class Unavailable(CaptioningError):
    """The service cannot caption now."""

    status = 503


class ModelLoading(Unavailable):
    """The model is not loaded yet."""

    code = "model_loading"
    sentence = "The model is still loading; try again shortly."


class ModelFailed(Unavailable):
    """The model could not be loaded, or stopped working."""

    code = "model_failed"
    sentence = "The model could not be loaded; the service's log says why."


class ShuttingDown(Unavailable):
    """The process is draining."""

    code = "shutting_down"
    sentence = "This instance is shutting down; try again."


class TimedOut(CaptioningError):
    """Something took too long."""

    status = 504


class ImageFetchTimeout(TimedOut):
    """The image's server took too long."""

    code = "image_fetch_timeout"
    sentence = "The image's server took too long to answer."


class DeadlineExceeded(TimedOut):
    """The whole request took too long."""

    code = "deadline_exceeded"
    sentence = "The caption could not be made in time."


def copy_for_another_request(error: Exception) -> CaptioningError:
    """Return an error of its own for a request that shares this one's failure, with ``error`` as its cause.

    One instance raised in several threads would mix up their tracebacks. What is not of the tree is a bug, which is
    logged where it was met first.
    """
    another = copy.copy(error) if isinstance(error, CaptioningError) else InternalError(detail=repr(error))
    another.__cause__ = error
    return another
