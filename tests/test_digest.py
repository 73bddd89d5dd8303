"""Digests: golden values, an encoding without collisions, trees over any chunking."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mergebuild import digest
from mergebuild.digest import (
    BLOCK,
    ContentDigest,
    FieldValue,
    block_digest,
    bytes_digest,
    content_digest,
    encode,
    fields_digest,
)

# A change here means that every key ever made is void: raise KEY_SCHEMA with it.
GOLDEN_FIELDS = "d04a39a6743c48da114e6b10a9e1587b"
GOLDEN_CONTENT = "c6485f638d075b776bf7617a6cbdfe87"
GOLDEN_BYTES = "5bc931ac14589e3ca465a1d156513053"

VALUES: list[FieldValue] = [
    None, True, False, 0, 1, -1, 255, -128, 128, 256, 2**64, -(2**64), 0.0, 1.0, 0.5, math.inf,
    -math.inf, "", "1", "a", "é", "\ud800", b"", b"1", b"a", (), (None,), ((),), (1, 2), ((1,), 2),
    ((1, 2),), ("ab",), ("a", "b"), (1.0,), (True,),
]  # fmt: skip


def test_golden() -> None:
    fields: list[tuple[str, FieldValue]] = [
        ("method", "ties"), ("version", 3), ("weight", 0.5), ("normalize", True), ("none", None),
        ("shape", (4096, 11008)), ("raw", b"\x00\xff"), ("nested", ((1, "a"), -(2**70))),
    ]  # fmt: skip
    assert fields_digest("tensor", fields) == GOLDEN_FIELDS
    assert ContentDigest("bfloat16", (2, 3)).hexdigest() != GOLDEN_CONTENT
    whole = ContentDigest("bfloat16", (2, 3))
    whole.update(bytes(range(12)))
    assert whole.hexdigest() == GOLDEN_CONTENT
    assert bytes_digest(b"{}\n") == GOLDEN_BYTES


def test_encoding_is_what_the_docstring_says() -> None:
    assert encode("d", [("n", 7)]) == (
        b"mergebuild\x00\x00\x00\x01"
        b"s\x00\x00\x00\x00\x00\x00\x00\x01d"
        b"\x00\x00\x00\x00\x00\x00\x00\x01"
        b"s\x00\x00\x00\x00\x00\x00\x00\x01n"
        b"i\x00\x00\x00\x00\x00\x00\x00\x01\x07"
    )


def test_values_of_all_types_differ() -> None:
    encoded = [encode("d", [("n", value)]) for value in VALUES]
    assert len(set(encoded)) == len(VALUES)


def test_zeros_are_one() -> None:
    assert fields_digest("d", [("n", -0.0)]) == fields_digest("d", [("n", 0.0)])


def test_the_schema_is_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    before = fields_digest("d", [])
    monkeypatch.setattr(digest, "KEY_SCHEMA", digest.KEY_SCHEMA + 1)
    assert fields_digest("d", []) != before


@pytest.mark.parametrize(
    ("value", "error"),
    [(math.nan, ValueError), ([1], TypeError), ({}, TypeError), (bytearray(), TypeError)],
)
def test_refused(value: FieldValue, error: type[Exception]) -> None:
    with pytest.raises(error):
        fields_digest("d", [("n", value)])


def _typed(value: FieldValue) -> object:
    """What equality means here: type and value, zeros being one."""
    if isinstance(value, tuple):
        return tuple(map(_typed, value))
    return type(value), value


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-2, 2)
    | st.floats(allow_nan=False)
    | st.text(max_size=3)
    | st.binary(max_size=3)
)
FIELDS = st.lists(
    st.tuples(
        st.text(max_size=2),
        st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=5),
    ),
    max_size=4,
)


@given(st.text(max_size=2), FIELDS, st.text(max_size=2), FIELDS)
def test_injective(
    domain: str,
    one: list[tuple[str, FieldValue]],
    other_domain: str,
    other: list[tuple[str, FieldValue]],
) -> None:
    same = (domain, [(n, _typed(v)) for n, v in one]) == (
        other_domain,
        [(n, _typed(v)) for n, v in other],
    )
    assert (encode(domain, one) == encode(other_domain, other)) == same


@given(FIELDS, FIELDS)
def test_prefix_free(
    one: list[tuple[str, FieldValue]], other: list[tuple[str, FieldValue]]
) -> None:
    first, second = encode("d", one), encode("d", other)
    assert first == second or not second.startswith(first)


DATA = bytes(i * 31 % 251 for i in range(1009)) * (2 * BLOCK // 1009 + 7)


@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 2 * BLOCK + 5])
@pytest.mark.parametrize("step", [7919, BLOCK - 3, BLOCK, BLOCK + 3, 3 * BLOCK])
def test_chunks_do_not_matter(size: int, step: int) -> None:
    data = DATA[:size]
    blocks = [block_digest(data[i : i + BLOCK]) for i in range(0, size, BLOCK)]
    stream = ContentDigest("uint8", (size,))
    for start in range(0, size, step):
        stream.update(memoryview(data)[start : start + step])
        stream.update(b"")
    assert stream.hexdigest() == content_digest("uint8", (size,), blocks)
    assert stream.hexdigest() == stream.hexdigest()


def test_content_is_dtype_shape_and_bytes() -> None:
    data = bytes(8)
    digests = set()
    for dtype, shape in (("float32", (2,)), ("int32", (2,)), ("float32", (1, 2)), ("int8", (8,))):
        content = ContentDigest(dtype, shape)
        content.update(data)
        digests.add(content.hexdigest())
    assert len(digests | {bytes_digest(data)}) == 5


def test_views_of_any_format() -> None:
    view = memoryview(bytearray(range(16))).cast("f")
    content = ContentDigest("float32", (4,))
    content.update(view)
    assert content.hexdigest() == content_digest("float32", (4,), [block_digest(bytes(range(16)))])


def test_bytes_beyond_one_block() -> None:
    assert bytes_digest(DATA) == bytes_digest(memoryview(DATA))
    assert bytes_digest(DATA) != bytes_digest(DATA[:-1])
