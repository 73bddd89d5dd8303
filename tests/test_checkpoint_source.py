"""Opening checkpoints: every shape that they come in, and every way in which they are not one."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from mergebuild.checkpoint.card import card_metadata
from mergebuild.checkpoint.shards import read_index
from mergebuild.checkpoint.source import Checkpoint, locate, open_checkpoint
from mergebuild.errors import CheckpointError
from tests import kit

INDEX = "model.safetensors.index.json"
ONE, TWO = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def save(path: Path, *names: str, dtype: torch.dtype = torch.float32) -> Path:
    save_file({name: torch.zeros(2).to(dtype) for name in names}, path)
    return path


def index(directory: Path, weight_map: object) -> Path:
    (directory / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    return directory


def naming(shard: object) -> Callable[[Path], Path]:
    """Writes an index with a shard of this name."""
    return lambda directory: index(directory, {"a": shard})


def folder(path: Path) -> Path:
    path.mkdir()
    return path


def opened(path: Path) -> Checkpoint:
    return open_checkpoint(path, "x")


def write(directory: Path, **files: str) -> Path:
    for name, text in files.items():
        (directory / name.replace("__", ".")).write_text(text)
    return directory


@pytest.mark.parametrize("shards", [1, 3])
def test_a_real_one(shards: int, tmp_path: Path) -> None:
    path = kit.llama(tmp_path / "m", shards=shards)
    checkpoint = opened(path)
    tensors = kit.read(path)
    assert list(checkpoint.tensors) == sorted(tensors)
    assert len(checkpoint.files) == shards
    assert set(checkpoint.stamps) == set(checkpoint.files)
    assert {n: t.shape for n, t in checkpoint.tensors.items()} == {
        n: tuple(t.shape) for n, t in tensors.items()
    }
    assert checkpoint.config == kit.config(path)
    assert checkpoint.config_text == (path / "config.json").read_bytes()
    assert [(f.name, f.size) for f in checkpoint.side_files] == [
        (name, (path / name).stat().st_size)
        for name in ("generation_config.json", "tokenizer.json", "tokenizer_config.json")
    ]


def test_one_file(tmp_path: Path) -> None:
    write(tmp_path, config__json="{}")
    checkpoint = opened(save(tmp_path / "any.safetensors", "b", "a"))
    assert (list(checkpoint.tensors), checkpoint.config) == (["a", "b"], None)


def test_shards_without_an_index(tmp_path: Path) -> None:
    save(tmp_path / ONE, "b")
    save(tmp_path / TWO, "a")
    save(tmp_path / "consolidated.safetensors", "other")
    save(tmp_path / "adapter_model.safetensors", "other")
    save(tmp_path / ".hidden.safetensors", "other")
    assert list(opened(tmp_path).tensors) == ["a", "b"]


def test_the_standard_name_goes_first(tmp_path: Path) -> None:
    for name in ("model", "consolidated", "model.fp16"):
        save(tmp_path / f"{name}.safetensors", name)
    assert list(opened(tmp_path).tensors) == ["model"]


def test_consolidated_alone(tmp_path: Path) -> None:
    save(tmp_path / "consolidated.00.safetensors", "a")
    assert list(opened(tmp_path).tensors) == ["a"]


def test_links_of_the_hub_cache(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    save(tmp_path / "blobs" / "abc.safetensors", "a").rename(tmp_path / "blobs" / "abc")
    (tmp_path / "snapshot" / "model.safetensors").symlink_to("../blobs/abc")
    assert list(opened(tmp_path / "snapshot").tensors) == ["a"]


def _two(d: Path, weight_map: object) -> None:
    save(d / ONE, "a")
    save(d / TWO, "b")
    index(d, weight_map)


BROKEN: dict[str, tuple[Callable[[Path], object], str, str | None]] = {
    "empty": (lambda d: None, "is empty", None),
    "other files": (lambda d: write(d, a__txt=""), "is not a checkpoint: it holds no", "expected"),
    "no weights": (lambda d: write(d, training_args__bin=""), "it holds no weights", "expected"),
    "gguf": (lambda d: write(d, a__gguf=""), "GGUF files only", "convert"),
    "adapter": (lambda d: write(d, adapter_config__json=""), "a LoRA adapter", "model+adapter"),
    "adapter weights": (
        lambda d: save(d / "adapter_model.safetensors", "a"), "a LoRA adapter", "model+adapter",
    ),
    "no tensors": (lambda d: save(d / "model.safetensors"), "holds no tensors", None),
    "a twin": (
        lambda d: (save(d / "a.safetensors", "t"), save(d / "b.safetensors", "t")),
        "tensor 't' is in ", "keep the files of one checkpoint only",
    ),
    "shard missing, no index": (lambda d: save(d / TWO, "a"), f"shard '{ONE}' is not", "fetch"),
    "last shard missing": (lambda d: save(d / ONE, "a"), f"shard '{TWO}' is not", "fetch"),
    "shard missing": (
        lambda d: (save(d / ONE, "a"), index(d, {"a": ONE, "b": TWO})),
        f"shard '{TWO}' of the index is not there", "fetch it again",
    ),
    "not in shard": (
        lambda d: _two(d, {"a": ONE, "b": TWO, "c": ONE}), f"tensor 'c' is not in '{ONE}'", "fetch",
    ),
    "in the other shard": (lambda d: _two(d, {"a": TWO, "b": ONE}), "tensor 'a' is not in", None),
    "not in index": (
        lambda d: (save(d / ONE, "a", "z"), index(d, {"a": ONE})),
        "tensor 'z' is not in the index", "does not belong",
    ),
    "index not JSON": (lambda d: write(d, model__safetensors__index__json="{"), "not JSON", None),
    "index a list": (lambda d: write(d, model__safetensors__index__json="[]"), "object", None),
    "no map": (lambda d: write(d, model__safetensors__index__json="{}"), "no 'weight_map'", None),
    "map a list": (lambda d: index(d, []), "no 'weight_map' object", None),
    "map empty": (lambda d: index(d, {}), "'weight_map' is empty", None),
    "map twin": (
        lambda d: write(d, model__safetensors__index__json='{"weight_map":{"a":"b","a":"c"}}'),
        "key 'a' stands there twice", None,
    ),
    **{
        f"shard {name!r}": (
            naming(name), "is not the plain name of a", None,
        )
        for name in (
            "../x.safetensors", "/x.safetensors", "a/x.safetensors", "a\\x.safetensors", "..", "",
            ".x.safetensors", "x.bin", "\0.safetensors", "\n.safetensors", 1, None, ["x"],
        )
    },
    "damaged": (lambda d: write(d, model__safetensors="x"), "too few for a header", "fetch it"),
    "config not JSON": (
        lambda d: (save(d / "model.safetensors", "a"), write(d, config__json="{,}")),
        "config.json': not JSON", None,
    ),
    "config a list": (
        lambda d: (save(d / "model.safetensors", "a"), write(d, config__json="[]")),
        "config.json': not a JSON object", None,
    ),
    "config deep": (
        lambda d: (save(d / "model.safetensors", "a"), write(d, config__json='{"a":' * 99999)),
        "config.json': not JSON: nested too deeply", None,
    ),
    "config a folder": (
        lambda d: (save(d / "model.safetensors", "a"), folder(d / "config.json")),
        "config.json' is not a regular file", None,
    ),
    "weights a pipe": (lambda d: os.mkfifo(d / "model.safetensors"), "not a regular file", None),
    "dangling": (
        lambda d: (d / "model.safetensors").symlink_to("gone"), "no such file or directory", None,
    ),
    "gptq codes": (
        lambda d: save(d / "model.safetensors", "a.qweight"), "is quantised (gptq or awq", "use",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_broken(case: str, tmp_path: Path) -> None:
    prepare, message, hint = BROKEN[case]
    prepare(tmp_path)
    with pytest.raises(CheckpointError) as caught:
        opened(tmp_path)
    (problem,) = caught.value.problems
    assert message in problem.message
    assert str(tmp_path) in problem.message
    assert (hint or "") in (problem.hint or "")
    assert hint is None or problem.hint


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent", "there is no "),
        ("x.gguf", "is a GGUF file"),
        ("x.bin", "not a PyTorch file"),
        ("x.txt", "is not a checkpoint"),
        (ONE, "is one of 2 shards"),
        ("x.txt/below", "there is no "),
        ("n" * 300, "cannot read "),
    ],
)
def test_broken_file(name: str, message: str, tmp_path: Path) -> None:
    for file in ("x.gguf", "x.bin", "x.txt", ONE):
        (tmp_path / file).touch()
    with pytest.raises(CheckpointError, match=message):
        opened(tmp_path / name)


def test_side_files(tmp_path: Path) -> None:
    save(tmp_path / "model.safetensors", "a")
    carried = [
        "added_tokens.json", "chat_template.jinja", "generation_config.json", "merges.txt",
        "preprocessor_config.json", "processor_config.json", "qwen.tiktoken",
        "sentencepiece.bpe.model", "special_tokens_map.json", "spiece.model", "tokenizer.model",
        "video_preprocessor_config.json", "vocab.json", "vocab.txt",
    ]  # fmt: skip
    for name in [*carried, "modeling_x.py", "training_args.bin", "notes.txt", ".x.tiktoken"]:
        (tmp_path / name).write_text("xy")
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "tool.jinja").write_text("x")
    (tmp_path / "additional_chat_templates" / "tool.exe").write_text("x")
    (tmp_path / "tokenizer.json").mkdir()
    expected = sorted([*carried, "additional_chat_templates/tool.jinja"])
    assert [file.name for file in opened(tmp_path).side_files] == expected
    write(tmp_path, config__json='{"auto_map": {"AutoModel": "modeling_x.X"}}')
    coded = opened(tmp_path).side_files
    assert [file.name for file in coded] == sorted([*expected, "modeling_x.py"])
    assert [file.name for file in coded if file.code] == ["modeling_x.py"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("---\nlicense: mit\ntags: [a, b]\n---\n# x", {"license": "mit", "tags": ["a", "b"]}),
        ("---\r\nlicense: mit\r\n---\r\n", {"license": "mit"}),
        ("\ufeff---\nlanguage: no\n---", {"language": "no"}),
        ("---\nn: 1_000\nd: 2001-99-99\nt: !!python/name:os.system x\n---\n",
         {"n": "1_000", "d": "2001-99-99", "t": "x"}),
        ("", {}),
        ("# no front matter\n---\nlicense: mit\n---\n", {}),
        ("---\nlicense: mit\n", {}),
        ("---\n- a\n---\n", {}),
        ("---\na: [\n---\n", {}),
        ("---\na: &x [1]\nb: *x\n---\n", {}),
        ("---\na: " + "[" * 5000 + "\n---\n", {}),
        ("---\n" + "{a: " * 60 + "}" * 60 + "\n---\n", {}),
        ("---\na: 1\n---\n" + " " * (1 << 20), {}),
    ],
)  # fmt: skip
def test_card(text: str, expected: object, tmp_path: Path) -> None:
    save(tmp_path / "model.safetensors", "a")
    (tmp_path / "README.md").write_bytes(text.encode())
    assert opened(tmp_path).card_metadata == expected
    assert card_metadata(tmp_path) == {}


ROOM = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)


@ROOM
@given(
    st.binary(max_size=60)
    | st.dictionaries(
        st.sampled_from(["weight_map", "metadata"]), st.dictionaries(st.text(max_size=3), JSON)
    ).map(lambda value: json.dumps(value).encode())
)
def test_fuzz_index(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / INDEX
    path.write_bytes(content)
    try:
        found = read_index(path)
    except CheckpointError:
        return
    assert all(Path(file).name == file for file in found.values())


@ROOM
@given(st.text(max_size=80))
def test_fuzz_card(tmp_path: Path, text: str) -> None:
    (tmp_path / "README.md").write_bytes(b"---\n" + text.encode() + b"\n---\n")
    assert isinstance(card_metadata(tmp_path / "README.md"), dict)


def test_locate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("recipes/both", "recipes/near", "work/both", "work/far", "home/mine"):
        (tmp_path / place).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    recipes = tmp_path / "recipes"

    def found(place: str) -> str | None:
        path = locate(place, recipes)
        return str(path.resolve().relative_to(tmp_path)) if path else None

    assert found("near") == "recipes/near"
    assert found("both") == "recipes/both"
    assert found("./far") == "work/far"
    assert found("~/mine") == "home/mine"
    assert found(str(tmp_path / "work")) == "work"
    for absent in ("", "org/model", "~nobody-at-all/x", "a\0b", "n" * 5000):
        assert locate(absent, recipes) is None
