"""Headers of safetensors files: what is sound is read as the library reads it, all else is refused
by an error that names the file and the tensor."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from mergebuild.checkpoint.dtypes import BY_CODE, DTYPES, is_floating, itemsize, promote
from mergebuild.checkpoint.header import Header, read_header
from mergebuild.checkpoint.regular import opened
from mergebuild.checkpoint.safetensors import INDEX, index_text, plan_shards
from mergebuild.errors import CheckpointError

ROOM = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def read(path: Path) -> Header:
    with opened(path) as descriptor:
        return read_header(descriptor, path)


def raw(path: Path, header: bytes, data: bytes = b"", length: int | None = None) -> Path:
    size = len(header) if length is None else length
    path.write_bytes(size.to_bytes(8, "little") + header + data)
    return path


def entry(dtype: Any = "F32", shape: Any = (1,), offsets: Any = (0, 4)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def text(**entries: Any) -> bytes:
    return json.dumps(entries).encode()


A4 = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'

MALFORMED: dict[str, tuple[bytes, bytes, str]] = {
    "not UTF-8": (b'{"\xff":1}', b"", "header: not UTF-8 at byte 2"),
    "not JSON": (b"{nope", b"", "header: not JSON"),
    "cut JSON": (A4, b"\0" * 4, "header: not JSON"),
    "a list": (b"[]", b"", "header: not a JSON object"),
    "a number": (b"12345678", b"", "header: not a JSON object"),
    "byte order mark": (b"\xef\xbb\xbf{}", b"", "header: not JSON"),
    "deep": (b'{"a":' + b"[" * 200_000, b"", "header: not JSON: nested too deeply"),
    "deep objects": (b'{"a":' * 100_000, b"", "header: not JSON: nested too deeply"),
    "long number": (b'{"a":' + b"9" * 9999 + b"}", b"", "header: not JSON: a number is too long"),
    "twins": (A4 + b"," + A4[1:] + b"}", b"\0" * 4, "key 'a' stands there twice"),
    "twin keys": (b'{"a":{"dtype":"F32","dtype":"F32"}}', b"", "key 'dtype' stands there twice"),
    "metadata list": (text(__metadata__=[]), b"", "'__metadata__' does not map text to text"),
    "metadata number": (text(__metadata__={"a": 1}), b"", "'__metadata__' does not map"),
    "bad name": (b'{"\\ud800":1}', b"", "tensor name '\\ud800' is not valid text"),
    "entry null": (text(a=None), b"", "tensor 'a': its entry is not an object"),
    "entry list": (text(a=[]), b"", "tensor 'a': its entry is not an object"),
    "unknown key": (text(a={**entry(), "x": 1}), b"\0" * 4, "tensor 'a': unknown key 'x'"),
    "no dtype": (text(a={"shape": [], "data_offsets": [0, 0]}), b"", "tensor 'a': no 'dtype'"),
    "no shape": (text(a={"dtype": "F32", "data_offsets": [0, 0]}), b"", "tensor 'a': no 'shape'"),
    "no offsets": (text(a={"dtype": "F32", "shape": []}), b"", "tensor 'a': no 'data_offsets'"),
    "dtype number": (text(a=entry(dtype=1)), b"\0" * 4, "tensor 'a': its dtype is not text"),
    "dtype unknown": (text(a=entry(dtype="F4")), b"\0" * 4, "tensor 'a': unknown dtype 'F4'"),
    "shape number": (text(a=entry(shape=1)), b"\0" * 4, "tensor 'a': its shape is not a list"),
    "shape bool": (text(a=entry(shape=[True])), b"\0" * 4, "tensor 'a': True in its shape is not"),
    "shape float": (text(a=entry(shape=[1.0])), b"\0" * 4, "tensor 'a': 1.0 in its shape is not"),
    "shape text": (text(a=entry(shape=["1"])), b"\0" * 4, "tensor 'a': '1' in its shape is not"),
    "negative": (text(a=entry(shape=[-1])), b"\0" * 4, "tensor 'a': -1 in its shape is negative"),
    "large shape": (text(a=entry(shape=[2**63])), b"\0" * 4, "tensor 'a': its shape is too large"),
    "large product": (text(a=entry(shape=[2**32] * 9)), b"\0" * 4, "its shape is too large"),
    "large and zero": (text(a=entry(shape=[0, 2**63])), b"\0" * 4, "its shape is too large"),
    "offsets null": (text(a=entry(offsets=None)), b"\0" * 4, "its data_offsets are not a pair"),
    "offsets triple": (text(a=entry(offsets=[0, 4, 4])), b"\0" * 4, "are not a pair"),
    "offsets bool": (text(a=entry(offsets=[False, 4])), b"\0" * 4, "False in its data_offsets"),
    "offsets float": (text(a=entry(offsets=[0, 4.0])), b"\0" * 4, "4.0 in its data_offsets is not"),
    "offsets text": (text(a=entry(offsets=["0", 4])), b"\0" * 4, "'0' in its data_offsets is not"),
    "negative offset": (text(a=entry(offsets=[-4, 0])), b"\0" * 4, "-4 in its data_offsets is out"),
    "offset 2^63": (text(a=entry(offsets=[0, 2**63])), b"\0" * 4, "is out of range"),
    "huge offset": (text(a=entry(offsets=[0, 10**99])), b"\0" * 4, "a huge number in its data_off"),
    "reversed": (text(a=entry(offsets=[4, 0])), b"\0" * 4, "data_offsets 4 and 0 are reversed"),
    "beyond": (text(a=entry(offsets=[0, 8])), b"\0" * 4, "tensor 'a': ends at byte 8 of the data"),
    "beyond 2^63-1": (
        text(a=entry(offsets=[2**63 - 5, 2**63 - 1])), b"\0" * 4, "tensor 'a': ends at byte",
    ),
    "mismatch": (
        text(a=entry(shape=[2])), b"\0" * 4, "tensor 'a': has 4 bytes, but float32 [2] takes 8",
    ),
    "scalar": (text(a=entry(shape=[], offsets=[0, 8])), b"\0" * 8, "but float32 [] takes 4"),
    "overlap": (text(a=entry(), b=entry()), b"\0" * 8, "tensor 'b': overlaps tensor 'a'"),
    "part overlap": (
        text(a=entry(shape=[2], offsets=[0, 8]), b=entry(offsets=[4, 8])), b"\0" * 8,
        "tensor 'b': overlaps tensor 'a'",
    ),
    "gap at start": (text(a=entry(offsets=[4, 8])), b"\0" * 8, "tensor 'a': a gap of 4 bytes"),
    "gap": (
        text(a=entry(), b=entry(offsets=[8, 12])), b"\0" * 12, "tensor 'b': a gap of 4 bytes",
    ),
    "gap at end": (text(a=entry()), b"\0" * 5, "1 bytes after the last tensor"),
    "data without tensors": (b"{}", b"\0", "1 bytes after the last tensor"),
}  # fmt: skip


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed(case: str, tmp_path: Path) -> None:
    header, data, message = MALFORMED[case]
    path = raw(tmp_path / "x.safetensors", header, data)
    with pytest.raises(CheckpointError) as caught:
        read(path)
    problem = caught.value.problems[0]
    assert problem.message.startswith(f"'{path}'")
    assert message in problem.message
    assert len(problem.message) < 400


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "0 bytes are too few for a header"),
        (b"1234567", "7 bytes are too few for a header"),
        (bytes(8), "the header is empty"),
        ((9).to_bytes(8, "little") + b"{}", "a header of 9 bytes, but only 2 follow"),
        ((100_000_001).to_bytes(8, "little"), "a header of 100000001 bytes, more than 100000000"),
        (b"\xff" * 8, "more than 100000000 allowed"),
        (b"GGUF\x03\0\0\0" + bytes(90), "allowed"),
    ],
)
def test_bad_length(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"x\.safetensors"):
        read(path)
    with pytest.raises(CheckpointError, match=message):
        read(path)


def test_not_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, message in ((tmp_path, "not a regular"), (tmp_path / "pipe", "not a regular")):
        with pytest.raises(CheckpointError, match=message):
            read(path)
    with pytest.raises(CheckpointError, match="no such file"):
        read(tmp_path / "absent")


def test_what_the_library_writes(tmp_path: Path) -> None:
    tensors = {name: torch.zeros(3, 2).to(getattr(torch, name)) for name in DTYPES}
    tensors |= {"scalar": torch.tensor(1.0), "empty": torch.zeros(0, 5), "é": torch.ones(1)}
    path = tmp_path / "x.safetensors"
    save_file(tensors, path, metadata={"format": "pt"})
    header = read(path)
    assert header.metadata == {"format": "pt"}
    found = {info.name: info for info in header.tensors}
    assert found.keys() == tensors.keys()
    content = path.read_bytes()
    for name, tensor in tensors.items():
        info = found[name]
        assert f"torch.{info.dtype}" == str(tensor.dtype)
        assert info.shape == tuple(tensor.shape)
        stored = content[info.offset : info.offset + info.nbytes]
        assert stored == bytes(tensor.contiguous().flatten().view(torch.uint8).tolist())


def test_empty_and_spaced(tmp_path: Path) -> None:
    assert read(raw(tmp_path / "x", b"{}")).tensors == ()
    assert read(raw(tmp_path / "x", b'  {"__metadata__":null} ')).metadata == {}


def test_very_many_tensors(tmp_path: Path) -> None:
    count = 1_000_000
    part = b'"%d":{"dtype":"U8","shape":[1],"data_offsets":[%d,%d]}'
    header = b"{" + b",".join(part % (i, i, i + 1) for i in range(count)) + b"}"
    path = raw(tmp_path / "x", header, bytes(count))
    assert len(read(path).tensors) == count


@ROOM
@given(st.binary(max_size=200))
def test_fuzz_bytes(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x"
    path.write_bytes(content)
    _only_checkpoint_errors(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["a", "dtype", "shape", "data_offsets", "__metadata__"]), inner
        )
    ),
    max_leaves=8,
)
ENTRY = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from([*BY_CODE, "F4"]) | JSON,
        "shape": st.lists(st.integers(-1, 3), max_size=3) | JSON,
        "data_offsets": st.lists(st.integers(-1, 20), min_size=2, max_size=2) | JSON,
    },
)


@ROOM
@given(st.dictionaries(st.text(max_size=3), ENTRY | JSON, max_size=3), st.integers(0, 20))
def test_fuzz_entries(tmp_path: Path, entries: dict[str, Any], size: int) -> None:
    _only_checkpoint_errors(raw(tmp_path / "x", json.dumps(entries).encode(), bytes(size)))


@ROOM
@given(st.data())
def test_fuzz_flipped(tmp_path: Path, data: st.DataObject) -> None:
    header = bytearray(text(a=entry(), b=entry(shape=[2, 1], offsets=[4, 12])))
    for _ in range(data.draw(st.integers(1, 3))):
        header[data.draw(st.integers(0, len(header) - 1))] = data.draw(st.integers(0, 255))
    _only_checkpoint_errors(raw(tmp_path / "x", bytes(header), bytes(12)))


def _only_checkpoint_errors(path: Path) -> None:
    try:
        header = read(path)
    except CheckpointError:
        return
    size = path.stat().st_size
    assert all(8 <= t.offset <= t.offset + t.nbytes <= size for t in header.tensors)


TENSORS = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6).filter(
        lambda name: name != "__metadata__"
    ),
    st.tuples(st.sampled_from(sorted(DTYPES)), st.lists(st.integers(0, 4), max_size=3).map(tuple)),
    min_size=1,
    max_size=8,
)


@ROOM
@given(TENSORS, st.integers(1, 200), st.randoms())
def test_layout_round_trip(
    tmp_path: Path,
    tensors: dict[str, tuple[str, tuple[int, ...]]],
    shard_size: int,
    random: Any,
) -> None:
    listed = [(name, dtype, shape) for name, (dtype, shape) in tensors.items()]
    plans = plan_shards(listed, shard_size)
    random.shuffle(listed)
    assert plan_shards(listed, shard_size) == plans
    seen: dict[str, tuple[str, tuple[int, ...]]] = {}
    for plan in plans:
        path = tmp_path / "x"
        path.write_bytes(plan.header + bytes(plan.size - len(plan.header)))
        assert len(plan.header) % 8 == 0
        for info in read(path).tensors:
            seen[info.name] = info.dtype, info.shape
            assert (plan.offsets[info.name], plan.sizes[info.name]) == (info.offset, info.nbytes)
            assert info.offset % itemsize(info.dtype) == 0
        assert sum(plan.sizes.values()) <= shard_size or len(plan.sizes) == 1
        library = load_file(path)
        assert {name: tuple(t.shape) for name, t in library.items()} == {
            name: tensors[name][1] for name in plan.sizes
        }
    assert seen == tensors


def test_layout() -> None:
    tensors = [("c", "float32", (1,)), ("a", "bfloat16", (3,)), ("b", "float32", (2,))]
    (plan,) = plan_shards(tensors, 100)
    assert plan.name == "model.safetensors"
    assert list(plan.offsets) == ["b", "c", "a"]
    assert plan.size == len(plan.header) + 18
    two = plan_shards(tensors, 14)
    assert [shard.name for shard in two] == [
        "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
    ]  # fmt: skip
    assert [sorted(shard.offsets) for shard in two] == [["a", "b"], ["c"]]
    assert json.loads(index_text(two)) == {
        "metadata": {"total_size": 18},
        "weight_map": {"a": two[0].name, "b": two[0].name, "c": two[1].name},
    }
    (empty,) = plan_shards([], 14)
    assert empty.size == len(empty.header)


def test_a_written_checkpoint_loads(tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, vocab_size=16,
    )  # fmt: skip
    state = LlamaForCausalLM(config).state_dict()
    config.save_pretrained(tmp_path)
    plans = plan_shards(((n, "float32", tuple(t.shape)) for n, t in state.items()), 2000)
    assert len(plans) > 1
    for plan in plans:
        content = bytearray(plan.header.ljust(plan.size, b"\0"))
        for name, offset in plan.offsets.items():
            content[offset : offset + plan.sizes[name]] = state[name].numpy().tobytes()
        (tmp_path / plan.name).write_bytes(content)
    (tmp_path / INDEX).write_bytes(index_text(plans))
    loaded = LlamaForCausalLM.from_pretrained(tmp_path, dtype="float32").state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[name], state[name]) for name in state)


def test_dtypes_are_those_of_torch() -> None:
    for name, dtype in DTYPES.items():
        kind = getattr(torch, name)
        assert itemsize(name) == kind.itemsize == dtype.size
        assert is_floating(name) == kind.is_floating_point


def test_promotion_is_that_of_torch() -> None:
    floats = ["float16", "bfloat16", "float32", "float64"]
    for one in floats:
        for other in floats:
            expected = torch.promote_types(getattr(torch, one), getattr(torch, other))
            assert f"torch.{promote([one, other])}" == str(expected)
    assert promote(["bfloat16", "float16", "bfloat16"]) == "float32"
    assert promote(["float8_e4m3fn", "bfloat16"]) == "bfloat16"
    for bad in ([], ["int8"], ["float32", "complex64"]):
        with pytest.raises(ValueError, match="cannot promote"):
            promote(bad)
