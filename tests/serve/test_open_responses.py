"""A server that ends waits for the responses that are being written, and not for ever."""

from __future__ import annotations

import pytest

from minivllm.api.open_responses import OpenResponses


def test_a_response_is_open_until_the_server_has_closed_it() -> None:
    responses = OpenResponses(lambda _environ, _start: iter([b"a", b"b"]))
    first, second = responses({}, None), responses({}, None)
    assert list(first) == [b"a", b"b"]
    assert not responses.wait(0), "read to its end, not closed: its last byte may be on its way"
    first.close()  # type: ignore[attr-defined]
    assert not responses.wait(0)
    second.close()  # type: ignore[attr-defined]
    assert responses.wait(0)


def test_an_app_that_fails_leaves_none_open() -> None:
    def broken(_environ: object, _start: object) -> list[bytes]:
        raise ValueError("no")

    responses = OpenResponses(broken)
    with pytest.raises(ValueError, match="no"):
        responses({}, None)
    assert responses.wait(0)
