"""HTTP/1.1 answers that come cut anywhere."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_mcp_protocol.http1 import BadHttp, ChunkedBody, body_of, parse_head


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=5), st.lists(st.integers(0, 400), max_size=8))
def test_chunked_bodies_come_out_whole(chunks: list[bytes], places: list[int]) -> None:
    data = b"".join(b"%X;ext=1\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\nTrailer: x\r\n\r\n"
    body = ChunkedBody()
    out = b""
    marks = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    parts = [data[a:b] for a, b in pairwise(marks)]
    for part in parts[:-1]:
        out += body.feed(part)
        assert not body.done
        assert not body.end()
    out += body.feed(parts[-1])
    assert out == b"".join(chunks)
    assert body.done


@pytest.mark.parametrize("data", [b"zz\r\n", b"-1\r\n", b"\r\n", b"0x5\r\nhello\r\n", b"1" * 5000])
def test_a_chunk_without_a_length_is_refused(data: bytes) -> None:
    with pytest.raises(BadHttp):
        ChunkedBody().feed(data)


def test_heads_and_framings() -> None:
    head = parse_head(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nX: a:b")
    assert (head.status, head.reason, head.headers["x"], head.keeps_alive) == (200, "OK", "a:b", True)
    body = body_of(head)
    assert (body.feed(b"ab"), body.done, body.end()) == (b"ab", False, False)
    assert (body.feed(b"cdef"), body.done) == (b"c", True)
    old = parse_head(b"HTTP/1.0 200 OK")
    assert not old.keeps_alive
    assert (body_of(old).feed(b"x"), body_of(old).end()) == (b"x", True)
    assert body_of(parse_head(b"HTTP/1.1 204 No Content")).done
    for bad in (b"SSH-2.0-x", b"HTTP/1.1 2x0 OK", b"HTTP/1.1 200 OK\r\nnocolon"):
        with pytest.raises(BadHttp):
            parse_head(bad)
    with pytest.raises(BadHttp):
        body_of(parse_head(b"HTTP/1.1 200 OK\r\ncontent-length: -1"))
