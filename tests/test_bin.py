"""PyTorch's own files: read from the zip without torch, and never run."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mergebuild.checkpoint.digests import DigestMemo
from mergebuild.checkpoint.source import Checkpoint, open_checkpoint
from mergebuild.errors import CheckpointError
from tests import kit
from tests.builder import Scratch, computed

ROOM = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
DTYPES = (
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32,
    torch.int16, torch.int8, torch.uint8, torch.bool, torch.uint16, torch.uint32, torch.uint64,
    torch.complex64,
)  # fmt: skip


def save(state: Any, path: Path, **more: Any) -> Path:
    torch.save(state, path, **more)
    return path


def opened(path: Path) -> Checkpoint:
    return open_checkpoint(path, "x")


def read(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Every tensor, from the region that its TensorInfo names."""
    found = {}
    for name, info in checkpoint.tensors.items():
        data = info.file.read_bytes()[info.offset : info.offset + info.nbytes]
        dtype = getattr(torch, info.dtype)
        flat = torch.frombuffer(bytearray(data), dtype=dtype) if data else torch.empty(0)
        found[name] = flat.to(dtype).reshape(info.shape)
    return found


def raw(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().flatten().view(torch.uint8)


def same(path: Path, state: dict[str, Tensor]) -> None:
    found = read(opened(path))
    assert list(found) == sorted(state)
    for name, tensor in found.items():
        assert tensor.dtype is state[name].dtype
        assert tensor.shape == state[name].shape
        assert raw(tensor).equal(raw(state[name]))


class _Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 2), nn.Linear(3, 2, bias=False)
        self.b.weight = self.a.weight
        self.norm = nn.BatchNorm1d(2)


BASE = torch.arange(24, dtype=torch.float32)
STATES: dict[str, Callable[[], Any]] = {
    "a module": lambda: _Tied().state_dict(),
    "parameters": lambda: dict(_Tied().named_parameters()),
    "views": lambda: {
        "a": BASE[4:10], "b": BASE.view(4, 6)[1], "c": BASE.view(2, 12)[1:], "all": BASE,
        "row": BASE.view(4, 6)[2:3], "column of one": BASE[:2].view(2, 1),
        "transposed row": BASE[:6].view(6, 1).T,
    },
    "odd shapes": lambda: {
        "scalar": torch.tensor(3.0), "empty": torch.zeros(0), "no rows": torch.zeros(0, 4).T,
        "ones": torch.zeros(1, 1, 1),
    },
    "dtypes": lambda: {str(d): torch.tensor([0, 1, 1]).to(d) for d in DTYPES},
    "names": lambda: {"": BASE, "a\nb": BASE, "\u00fc\u4e2d": BASE, "n" * 3000: BASE},
}  # fmt: skip


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("case", STATES)
def test_as_torch_reads_it(case: str, protocol: int, tmp_path: Path) -> None:
    state = STATES[case]()
    path = save(state, tmp_path / "pytorch_model.bin", pickle_protocol=protocol)
    same(path, dict(state))


WRAPPED = {"epoch": 3, "lr": 0.5, "at": -70000, "big": 2**40, "raw": b"x", "none": None, "l": [1]}


@pytest.mark.parametrize("key", ["state_dict", "model", "module", "model_state_dict"])
@pytest.mark.parametrize("protocol", [2, 4])
def test_training_checkpoints(key: str, protocol: int, tmp_path: Path) -> None:
    state = {**WRAPPED, key: {"w": BASE}}
    if protocol == 2:
        del state["raw"]  # takes a call of _codecs.encode
    same(save(state, tmp_path / "last.ckpt", pickle_protocol=protocol), {"w": BASE})


def rezipped(path: Path, change: Callable[[str, bytes], tuple[str, bytes] | None]) -> Path:
    """The archive written again, each record changed or (None) left out."""
    with zipfile.ZipFile(path) as archive:
        records = [(name, archive.read(name)) for name in archive.namelist()]
    with zipfile.ZipFile(path, "w") as archive:
        for record in records:
            changed = change(*record)
            if changed is not None:
                archive.writestr(*changed)
    return path


def leaving_out(*ends: str) -> Callable[[str, bytes], tuple[str, bytes] | None]:
    return lambda name, data: None if name.endswith(ends) else (name, data)


def replacing(end: str, new: bytes) -> Callable[[str, bytes], tuple[str, bytes] | None]:
    return lambda name, data: (name, new if name.endswith(end) else data)


def test_layouts_of_other_versions(tmp_path: Path) -> None:
    """What torch 1.6 to 2.0 leaves out, and archives that another program packed again."""
    extra = ("byteorder", ".format_version", ".storage_alignment", "serialization_id")
    for ends in (extra, extra[1:], ("version",), ()):
        same(rezipped(save({"w": BASE}, tmp_path / "x.bin"), leaving_out(*ends)), {"w": BASE})


def repickled(path: Path, pickled: bytes) -> Path:
    return rezipped(save({"w": BASE}, path), replacing("data.pkl", pickled))


class _Evil:
    def __init__(self, *call: Any) -> None:
        self._call = call

    def __reduce__(self) -> Any:
        return self._call[0], self._call[1:]


def _compressed(path: Path) -> Path:
    save({"w": torch.zeros(1000)}, path)
    with zipfile.ZipFile(path) as archive:
        records = [(name, archive.read(name)) for name in archive.namelist()]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in records:
            archive.writestr(name, data)
    return path


def _twins(path: Path) -> Path:
    save({"w": BASE}, path)
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr(next(n for n in archive.namelist() if n.endswith("data.pkl")), b"x")
    return path


def _script(path: Path) -> Path:
    return rezipped(
        save({"w": BASE}, path), lambda n, d: (n.replace("version", "constants.pkl"), d)
    )


def _raw(*parts: bytes) -> Callable[[Path], Path]:
    return lambda path: repickled(path, b"\x80\x02" + b"".join(parts))


def _written(data: bytes) -> Callable[[Path], Path]:
    def write(path: Path) -> Path:
        path.write_bytes(data)
        return path

    return write


def _saved(state: Any, **more: Any) -> Callable[[Path], Path]:
    return lambda path: save(state, path, **more)


def _pickled(value: Any) -> Callable[[Path], Path]:
    return lambda path: repickled(path, pickle.dumps(value, 2))


def _changed(
    change: Callable[[str, bytes], tuple[str, bytes] | None], state: Any = None
) -> Callable[[Path], Path]:
    return lambda path: rezipped(save(state or {"w": BASE}, path), change)


T = b"ctorch._utils\n_rebuild_tensor_v2\n"
S = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x18tQ"


def tensor(
    offset: bytes = b"K\0", shape: bytes = b"K\x18\x85", strides: bytes = b"K\1\x85"
) -> bytes:
    """A state dict of `w`, in opcodes."""
    body = T + b"(" + S + offset + shape + strides + b"\x89ccollections\nOrderedDict\n)RtR"
    return b"}X\1\0\0\0w" + body + b"s."


BROKEN: dict[str, tuple[Callable[[Path], Path], str, str | None]] = {
    "transposed": (
        _saved({"w": BASE.view(4, 6).T}), "tensor 'w': its elements do not lie in order", "contig",
    ),
    "expanded": (_saved({"w": torch.zeros(1).expand(4)}), "do not lie in order", "contiguous"),
    "legacy": (
        _saved({"w": BASE}, _use_new_zipfile_serialization=False), "from before 1.6", "save it",
    ),
    "compressed": (_compressed, "' is compressed", "torch.save"),
    "big-endian": (_changed(replacing("byteorder", b"big")), "big-endian", "save it again"),
    "torchscript": (_script, "TorchScript", "state_dict"),
    "twins": (_twins, "stands there twice", None),
    "two folders": (
        _changed(lambda n, d: (n.replace("x/", "x/y/"), d)), "not one of PyTorch's", None,
    ),
    "a zip": (_changed(leaving_out("data.pkl")), "not one of PyTorch's", None),
    "no storage": (_changed(leaving_out("data/0")), "record 'data/0' is not there", "fetch"),
    "short storage": (_changed(replacing("data/0", b"x" * 95)), "has 95 bytes, but 96", "fetch"),
    "lfs": (_written(b"version https://git-lfs.github.com/spec/v1\n"), "git-lfs", "git lfs pull"),
    "text": (_written(b"hello"), "not a PyTorch file", None),
    "empty": (_written(b""), "not a PyTorch file", None),
    "safetensors inside": (_written(b"\x08\0\0\0\0\0\0\0{}      "), "not a PyTorch file", None),
    "a tensor alone": (_saved(BASE), "not a state dict", "save it"),
    "a list": (_saved([BASE]), "not a state dict", None),
    "a number": (_saved({"w": BASE, "n": 3}), "tensor 'n': it is no tensor, but of type int", None),
    "nested": (_saved({"w": BASE, "n": {"v": BASE}}), "tensor 'n': it is no tensor", None),
    "two models": (_saved({"model": {"w": BASE}, "module": {}}), "tensor 'model': it is no", None),
    "numbered": (_saved({0: BASE}), "the key 0", None),
    "no tensors": (_saved({}), "holds no tensors", None),
    "conjugated": (_saved({"w": torch.zeros(2, dtype=torch.complex64).conj()}), "conjugated", None),
    "complex128": (_saved({"w": BASE.to(torch.complex128)}), "'torch.ComplexDoubleStorage'", None),
    "a module": (_saved(nn.Linear(1, 1)), "'torch.nn.modules.linear.Linear'", "no code is ever"),
    "os.system": (_pickled(_Evil(os.system, "true")), ".system', which is not allowed", "run"),
    "eval": (_pickled({"w": _Evil(eval, "1")}), "'__builtin__.eval'", "no code is ever run"),
    "getattr": (_pickled(_Evil(getattr, 1, "x")), "getattr', which is not allowed", None),
    "numpy": (_raw(b"cnumpy.core.multiarray\n_reconstruct\n."), "'numpy.core", None),
    "a method of a name": (_raw(b"ccollections\nOrderedDict.clear\n."), "OrderedDict.clear", None),
    "hidden": (_raw(b"\x8c\x02os\x8c\x06system\x93."), "'os.system'", None),
    "call of text": (_raw(b"\x8c\x02os)R."), "pickle is damaged", None),
    "call of a dict": (_raw(b"})R."), "pickle is damaged", None),
    "a storage called": (_raw(b"ctorch\nFloatStorage\n)R."), "calls 'float32' with unknown", None),
    "a filled dict": (_raw(b"ccollections\nOrderedDict\n}\x85R."), "calls 'OrderedDict'", None),
    "no storage given": (_raw(T + b"(K\0K\0))\x89}tR."), "calls '_rebuild_tensor_v2'", None),
    "few arguments": (_raw(T + b")R."), "calls '_rebuild_tensor_v2'", None),
    "attributes": (_raw(b"K\1}b."), "sets the state of an object", None),
    "INST": (_raw(b"(ios\nsystem\n."), "opcode 0x69", None),
    "OBJ": (_raw(b"(o."), "opcode 0x6f", None),
    "NEWOBJ": (_raw(b"ccollections\nOrderedDict\n)\x81."), "opcode 0x81", None),
    "EXT1": (_raw(b"\x82\x01."), "opcode 0x82", None),
    "LONG4": (_raw(b"\x8b\xff\xff\xff\x7f."), "opcode 0x8b", None),
    "protocol 0": (lambda p: repickled(p, pickle.dumps({}, 0)), "opcode", None),
    "protocol 9": (lambda p: repickled(p, b"\x80\x09}."), "of protocol 9", None),
    "a far memo": (_raw(b"}r\xff\xff\xff\xffj\xff\xff\xff\xfe."), "pickle is damaged", None),
    "no stop": (_raw(b"}"), "pickle is damaged", None),
    "a stop alone": (_raw(b"."), "pickle is damaged", None),
    "a mark": (_raw(b"(."), "pickle is damaged", None),
    "odd items": (_raw(b"}(K\1u."), "pickle is damaged", None),
    "no mark": (_raw(b"}u."), "pickle is damaged", None),
    "long text": (_raw(b"X\xff\xff\xff\xff."), "pickle is damaged", None),
    "bad text": (_raw(b"X\x01\0\0\0\xff."), "pickle is damaged", None),
    "a deep key": (_raw(b"})" + b"\x85" * 10**5 + b"K\1s."), "a key of type tuple", None),
    "a huge key": (_raw(b"}\x8a\x08" + b"\x7f" * 8 + b"K\1s."), "a key of type int", None),
    "deep": (_raw(b"]" * 10**5, b"a" * (10**5 - 1), b"."), "not a state dict", None),
    "surrogates": (
        _raw(b"}X\3\0\0\0\xed\xa0\x80", tensor()[7:]), "tensor name '\\ud800' is not valid", None,
    ),
    "past its storage": (_raw(tensor(offset=b"K\1")), "past the end of its storage '0'", None),
    "negative offset": (_raw(tensor(offset=b"J\xff\xff\xff\xff")), "no proper shape", None),
    "negative size": (_raw(tensor(shape=b"J\xff\xff\xff\xff\x85")), "no proper shape", None),
    "a float size": (_raw(tensor(shape=b"G" + b"\0" * 8 + b"\x85")), "no proper shape", None),
    "a bool size": (_raw(tensor(shape=b"\x88\x85")), "no proper shape", None),
    "a list of sizes": (_raw(tensor(shape=b"]")), "no proper shape", None),
    "too many strides": (_raw(tensor(strides=b"K\1K\1\x86")), "differ in length", None),
    "huge": (
        _raw(tensor(shape=(h := b"\x8a\x07" + b"\x7f" * 7) + h + b"\x86", strides=h + b"K\1\x86")),
        "its shape is too large", None,
    ),
    "no key": (_raw(b"X\1\0\0\x000Q."), "a storage in an unknown form", None),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_refused(case: str, tmp_path: Path) -> None:
    prepare, message, hint = BROKEN[case]
    path = prepare(tmp_path / "x.bin")
    with pytest.raises(CheckpointError) as caught:
        opened(path)
    (problem,) = caught.value.problems
    assert message in problem.message
    assert str(path) in problem.message
    assert (hint or "") in (problem.hint or "")


def test_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mergebuild.checkpoint.unpickle.MOST_OBJECTS", 100)
    for bomb in (b"}0" * 101, b"}" + b"\x94" * 201, b"K\1\x850" * 101):
        with pytest.raises(CheckpointError, match="makes more than 100 objects"):
            opened(repickled(tmp_path / "x.bin", b"\x80\x02" + bomb + b"}."))
    monkeypatch.setattr("mergebuild.checkpoint.pickled.LARGEST", 100)
    with pytest.raises(CheckpointError, match="more than 100 allowed"):
        opened(save({"w": BASE}, tmp_path / "y.bin"))


def test_nothing_runs(tmp_path: Path) -> None:
    """A pickle whose reading would leave a trace leaves none."""
    trace = tmp_path / "trace"
    path = repickled(tmp_path / "x.bin", pickle.dumps(_Evil(open, str(trace), "w"), 4))
    with pytest.raises(CheckpointError, match=r"'_?io\.open'"):
        opened(path)
    assert not trace.exists()


def test_every_cut_is_noticed(tmp_path: Path) -> None:
    whole = save({"w": BASE}, tmp_path / "x.bin").read_bytes()
    for end in range(0, len(whole), 7):
        path = tmp_path / "cut.bin"
        path.write_bytes(whole[:end])
        with pytest.raises(CheckpointError):
            opened(path)


def _tame(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    try:
        checkpoint = opened(path)
    except CheckpointError:
        return
    for info in checkpoint.tensors.values():
        assert 0 <= info.offset <= info.offset + info.nbytes <= len(data)


@ROOM
@given(st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), min_size=1, max_size=6))
def test_fuzz_the_file(tmp_path: Path, flips: list[tuple[int, int]]) -> None:
    data = bytearray(save({"w": BASE, "v": BASE[3:5]}, tmp_path / "whole.bin").read_bytes())
    for at, value in flips:
        data[at % len(data)] = value
    _tame(tmp_path / "x.bin", bytes(data))


PIECES = [
    bytes([code]) for code in b"(0}])tausNJKMGXBCqrhjcQRb.\x85\x86\x87\x88\x89\x8a\x8c\x93\x94"
]
PIECES += [T, S, b"K\1", b"K\0\x85", b"X\1\0\0\0w", b"ccollections\nOrderedDict\n", tensor()]


@ROOM
@given(st.lists(st.sampled_from(PIECES) | st.binary(max_size=4), max_size=40))
def test_fuzz_the_pickle(tmp_path: Path, pieces: list[bytes]) -> None:
    path = repickled(tmp_path / "whole.bin", b"\x80\x02" + b"".join(pieces) + b".")
    _tame(tmp_path / "x.bin", path.read_bytes())


@st.composite
def states(draw: st.DrawFn) -> dict[str, Tensor]:
    """Tensors, some of them views of one storage."""
    shared = torch.arange(60, dtype=torch.float32)
    found = {}
    for name in draw(st.lists(st.text(min_size=1, max_size=5), min_size=1, unique=True)):
        try:
            name.encode()
        except UnicodeEncodeError:
            continue
        shape = draw(st.lists(st.integers(0, 4), max_size=3))
        count = int(torch.Size(shape).numel())
        if draw(st.booleans()) and count <= 60:
            begin = draw(st.integers(0, 60 - count))
            found[name] = shared[begin : begin + count].view(shape)
        else:
            found[name] = torch.randint(0, 2, shape).to(draw(st.sampled_from(DTYPES)))
    return found or {"w": shared}


@ROOM
@given(states(), st.booleans())
def test_as_torch_reads_it_always(tmp_path: Path, state: dict[str, Tensor], ordered: bool) -> None:
    path = save(OrderedDict(state) if ordered else state, tmp_path / "x.pt")
    same(path, torch.load(path, weights_only=True))


def convert(folder: Path, *, shards: int = 1) -> Path:
    """The safetensors of a model of the kit, as PyTorch's files of the same tensors."""
    tensors = kit.read(folder)
    for file in folder.glob("model*.safetensors*"):
        file.unlink()
    names = list(tensors)
    if shards == 1:
        save(tensors, folder / "pytorch_model.bin")
        return folder
    files = {
        n: f"pytorch_model-{i % shards + 1:05}-of-{shards:05}.bin" for i, n in enumerate(names)
    }
    for shard in sorted(set(files.values())):
        save({n: tensors[n] for n in names if files[n] == shard}, folder / shard)
    index = {"metadata": {}, "weight_map": files}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return folder


@pytest.mark.parametrize("shards", [1, 3])
def test_a_folder(shards: int, tmp_path: Path) -> None:
    plain = opened(kit.llama(tmp_path / "a"))
    for beside in ("training_args.bin", "optimizer.pt", "rng_state_0.pth"):
        (tmp_path / "a" / beside).write_bytes(b"x")
    state = kit.read(tmp_path / "a")
    assert opened(tmp_path / "a").files[0].suffix == ".safetensors"
    found = opened(convert(tmp_path / "a", shards=shards))
    assert len(found.files) == shards
    assert {file.suffix for file in found.files} == {".bin"}
    assert [f.name for f in found.side_files] == [f.name for f in plain.side_files]
    for name, tensor_ in read(found).items():
        assert tensor_.equal(state[name])


def test_choosing_files(tmp_path: Path) -> None:
    for name in ("one.pth", "training_args.bin"):
        save({"w": BASE}, tmp_path / name)
    assert [f.name for f in opened(tmp_path).files] == ["one.pth"]
    save({"w": BASE}, tmp_path / "two.pt")
    with pytest.raises(CheckpointError, match=r"several PyTorch files: one\.pth, two\.pt"):
        opened(tmp_path)
    save({"v": BASE}, tmp_path / "pytorch_model.bin")
    assert list(opened(tmp_path).tensors) == ["v"]


FOLDERS: dict[str, tuple[dict[str, object], str]] = {
    "a shard is missing": ({"a-00001-of-00002.bin": 1}, "shard 'a-00002-of-00002.bin' is not"),
    "an index of the other kind": (
        {"pytorch_model.bin.index.json": {"weight_map": {"w": "model.safetensors"}}},
        "not the plain name of a PyTorch file",
    ),
    "an index that lies": (
        {"pytorch_model.bin.index.json": {"weight_map": {"v": "a.bin"}}, "a.bin": 1},
        "'pytorch_model.bin.index.json': tensor 'v' is not in 'a.bin'",
    ),
    "an index of one file less": (
        {"pytorch_model.bin.index.json": {"weight_map": {"v": "a.bin"}}}, "shard 'a.bin' of the",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FOLDERS)
def test_broken_folders(case: str, tmp_path: Path) -> None:
    files, message = FOLDERS[case]
    for name, content in files.items():
        if content == 1:
            save({"w": BASE}, tmp_path / name)
        else:
            (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(CheckpointError) as caught:
        opened(tmp_path)
    assert message.replace("'pytorch", "pytorch") in str(caught.value)


def test_digests_are_those_of_safetensors(tmp_path: Path) -> None:
    """Content decides: the same tensors in another format have the same keys."""
    kit.llama(tmp_path / "a")
    with DigestMemo(tmp_path / "memo.db") as memo:
        plain = memo.tensor_digests(opened(tmp_path / "a"), jobs=2, progress=lambda _: None)
        convert(tmp_path / "a", shards=2)
        found = memo.tensor_digests(opened(tmp_path / "a"), jobs=2, progress=lambda _: None)
    assert found == plain


RECIPE = """\
mergebuild: 1
sources: {a: ./a, b: ./b, c: ./c}
nodes:
  out:
    merge_method: task_arithmetic
    base_model: a
    models: [{model: b, parameters: {weight: 0.5}}, {model: c, parameters: {weight: -0.25}}]
"""


def test_merging(tmp_path: Path) -> None:
    """A merge of PyTorch's files has the bytes of one of safetensors, and nothing is stale when
    the format of a source changes."""
    a = kit.llama(tmp_path / "a", dtype="bfloat16")
    for seed, name in enumerate("bc", 1):
        kit.llama(tmp_path / name, near=a, seed=seed, dtype="bfloat16")
    scratch = Scratch(tmp_path)
    scratch.write(RECIPE)
    assert computed(scratch.build())
    expected = (scratch.output("out") / "model.safetensors").read_bytes()
    for shards, name in enumerate("abc", 1):
        convert(tmp_path / name, shards=shards)
    assert scratch.build() == []
    other = Scratch(tmp_path / "again")
    other.write(RECIPE.replace("./", "../"))
    assert computed(other.build())
    assert (other.output("out") / "model.safetensors").read_bytes() == expected


def test_planning_imports_no_torch(tmp_path: Path) -> None:
    path = convert(kit.llama(tmp_path / "a"))
    code = (
        "import sys; from pathlib import Path\n"
        "from mergebuild.checkpoint.source import open_checkpoint\n"
        f"assert len(open_checkpoint(Path({str(path)!r}), 'x').tensors) > 10\n"
        "print(sorted({'torch', 'numpy', 'pickle'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
