"""What a TLS handshake failed for, in one sentence each."""

from __future__ import annotations

import ssl

from captioning.errors import ImageFetchFailed

# https://docs.openssl.org/3.0/man3/X509_STORE_CTX_get_error/
_BY_VERIFY_CODE = {
    9: "The TLS certificate of the image's server is not yet valid.",
    10: "The TLS certificate of the image's server has expired.",
    62: "The TLS certificate of the image's server is for another host name.",
    64: "The TLS certificate of the image's server is for another address.",
    **dict.fromkeys(
        (18, 19, 20, 21), "The TLS certificate of the image's server is from an issuer that is not trusted."
    ),
}
_UNTRUSTED = "The TLS certificate of the image's server cannot be trusted."

_NO_COMMON_VERSION = "The image's server offers no version of TLS that is still secure (1.2 or 1.3)."
_NO_COMMON_CIPHER = "The image's server and this service have no TLS cipher in common."
_NOT_TLS = "The image's server does not speak TLS on this port; the URL may need http:// or another port."
_CLOSED = "The image's server closed the connection during the TLS handshake."
# OpenSSL's reasons, as 3.0 and 3.2 and newer name them.
_BY_REASON = {
    **dict.fromkeys(
        (
            "UNSUPPORTED_PROTOCOL",
            "WRONG_SSL_VERSION",
            "TLSV1_ALERT_PROTOCOL_VERSION",
            "NO_PROTOCOLS_AVAILABLE",
            "TLSV1_ALERT_INAPPROPRIATE_FALLBACK",
            "VERSION_TOO_LOW",
        ),
        _NO_COMMON_VERSION,
    ),
    **dict.fromkeys(
        (
            "TLSV1_ALERT_INSUFFICIENT_SECURITY",
            "NO_SHARED_CIPHER",
            "WRONG_CIPHER_RETURNED",
            "UNKNOWN_CIPHER_RETURNED",
            "DH_KEY_TOO_SMALL",
        ),
        _NO_COMMON_CIPHER,
    ),
    **dict.fromkeys(
        ("SSLV3_ALERT_HANDSHAKE_FAILURE", "SSL/TLS_ALERT_HANDSHAKE_FAILURE"),
        "The image's server refused the handshake: there is no TLS cipher in common, or it asks for a certificate.",
    ),
    **dict.fromkeys(
        ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG", "BAD_RECORD_TYPE"),
        _NOT_TLS,
    ),
    **dict.fromkeys(
        ("TLSV1_UNRECOGNIZED_NAME", "TLSV1_ALERT_UNRECOGNIZED_NAME"),
        "The image's server has no TLS certificate for this host name.",
    ),
    **dict.fromkeys(
        ("TLSV13_ALERT_CERTIFICATE_REQUIRED", "PEER_DID_NOT_RETURN_A_CERTIFICATE"),
        "The image's server asks its clients for a TLS certificate, and this service has none.",
    ),
}


def handshake_failure(exc: OSError) -> ImageFetchFailed:
    """Translate what ssl raised while two sides were agreeing on a connection."""
    detail = f"{type(exc).__name__}: {exc}"
    if isinstance(exc, ssl.SSLCertVerificationError):
        return ImageFetchFailed(_BY_VERIFY_CODE.get(exc.verify_code, _UNTRUSTED), detail=detail)
    if isinstance(exc, ssl.SSLError) and not isinstance(exc, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        other = "The image's server and this service could not agree on a TLS connection."
        return ImageFetchFailed(_BY_REASON.get(exc.reason or "", other), detail=detail)
    return ImageFetchFailed(_CLOSED, detail=detail)
