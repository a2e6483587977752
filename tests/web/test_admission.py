"""Which requests are sure to find no permit, as far as a look at them tells."""

from __future__ import annotations

import base64
import json
from contextlib import ExitStack

import pytest

from captioning.lifecycle import Lifecycle
from captioning.limits import Limits
from captioning.settings import Settings
from captioning.web.admission import Admission
from captioning.web.api_keys import ApiKeys

URL = json.dumps({"imageUrl": "https://example.com/a.jpg"}).encode()
DATA_URL = json.dumps({"imageUrl": "DATA:image/gif;base64," + base64.b64encode(b"GIF89a").decode()}).encode()


@pytest.mark.parametrize(
    ("body", "names_picture", "hopeless_without_url_permits"),
    [
        (URL, True, True),
        (b"", True, True),
        (b"no JSON", True, True),
        (DATA_URL, True, False),  # an upload in JSON
        (DATA_URL.replace(b"DATA:", b"d\\u0061ta:"), True, True),  # nobody writes this; it may come again
        (URL.ljust(16_385), True, False),  # not looked into
        (URL, False, False),  # a bulk request, which takes no permit for its URLs before they have their turn
        (b"\xff\xd8\xff", False, False),
    ],
)
def test_urls_are_hopeless_without_url_permits_and_all_are_without_any(
    body: bytes, names_picture: bool, hopeless_without_url_permits: bool
) -> None:
    limits = Limits.from_settings(Settings(max_concurrent_requests=4))
    admission = Admission(Lifecycle(), ApiKeys((), limits.requests), limits, lambda: 1.0)

    def is_hopeless() -> bool:
        return admission.is_hopeless(limits.requests, body, names_picture=names_picture)

    with ExitStack() as held:
        for _ in range(limits.urls.limit):
            assert not is_hopeless()
            held.enter_context(admission.permit(limits.requests, "https://example.com/a.jpg"))
        assert is_hopeless() == hopeless_without_url_permits
        held.enter_context(admission.permit(limits.requests, object()))
        assert is_hopeless()
    assert not is_hopeless()


def test_a_key_with_a_limit_of_its_own_is_hopeless_at_that() -> None:
    settings = Settings(api_keys="gateway:s3cret@1")
    limits = Limits.from_settings(settings)
    keys = ApiKeys(settings.api_keys, limits.requests)
    admission = Admission(Lifecycle(), keys, limits, lambda: 1.0)
    own = keys.permits_of(settings.api_keys[0])
    with admission.permit(own, object()):
        assert admission.is_hopeless(own, b"", names_picture=False)
        assert not admission.is_hopeless(limits.requests, b"", names_picture=False)
