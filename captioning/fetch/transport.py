"""One request and its answer, over a socket that was dialled for it.

requests does the HTTP, through its transport adapter alone: a ``Session`` would bring proxy variables, ``.netrc``,
a cookie jar, and the reading of every redirect's body (psf/requests#5529). Two things are put in under it. The
request target goes out as it is, where requests and urllib3 would write its escapes anew. And the answer is read by a
class of ours, which takes more of what servers send than http.client's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from requests import PreparedRequest, Response
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict
from urllib3 import HTTPConnectionPool
from urllib3.connection import HTTPConnection

from captioning.fetch.answer import Answer
from captioning.fetch.limited_socket import LimitedSocket
from captioning.fetch.urls import Url


class Transport(HTTPAdapter):
    """requests' transport for one request, over one connection."""

    def __init__(self, url: Url, dial: Callable[[], LimitedSocket]) -> None:
        super().__init__()
        self._url = url
        self._pool = _Pool(url.host, url.port, dial=dial, target=url.target)

    def get(self, headers: dict[str, str], timeout_s: float) -> Response:
        """Ask for the URL; return the answer with its body unread."""
        request = PreparedRequest()
        host = self._url.authority
        request.prepare("GET", f"{self._url.scheme}://{host}/", {"Host": host, **headers})
        return self.send(request, stream=True, timeout=timeout_s)

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> HTTPConnectionPool:
        return self._pool

    def build_response(self, req: PreparedRequest, resp: Any) -> Response:
        """Take what is used of an answer, and read no cookies: http.cookiejar warns of a hostile one for ever."""
        answer = Response()
        answer.status_code = resp.status
        answer.headers = CaseInsensitiveDict(resp.headers)
        answer.raw = resp
        return answer

    def close(self) -> None:
        self._pool.close()
        super().close()


class _Connection(HTTPConnection):
    response_class = Answer

    def __init__(self, *args: Any, dial: Callable[[], LimitedSocket], target: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._dial = dial
        self._target = target

    def connect(self) -> None:
        self.sock = self._dial()

    def putrequest(self, method: str, url: str, *args: Any, **kwargs: Any) -> None:
        super().putrequest(method, self._target, *args, **kwargs)


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection
