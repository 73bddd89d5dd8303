"""Chat templates: the built-in ones, the commonest, and text of one's own; written, never run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from tests import kit, vocabularies
from tests.builder import Scratch

TALK = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hi!"},
    {"role": "user", "content": "Bye"},
]
FORMATS = {
    "chatml": (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n"
        "<|im_start|>assistant\nHi!<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n",
        "<|im_start|>assistant\n",
    ),
    "llama3": (
        "<s><|start_header_id|>system<|end_header_id|>\n\nBe kind.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHello<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nHi!<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|>",
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    "mistral": ("<s>[INST] Be kind.\n\nHello [/INST] Hi!</s>[INST] Bye [/INST]", ""),
    "alpaca": (
        "Be kind.\n\n### Instruction:\nHello\n\n### Response:\nHi!</s>\n\n"
        "### Instruction:\nBye\n\n",
        "### Response:\n",
    ),
    "exaone": (
        "[|system|]Be kind.[|endofturn|]\n[|user|]Hello\n[|assistant|]Hi![|endofturn|]\n"
        "[|user|]Bye\n",
        "[|assistant|]",
    ),
}


def scratch_of(root: Path, template: str, more: str = "", models: str = "ab") -> Scratch:
    for name in models:
        if not (root / name).exists():
            kit.llama(root / name, layers=1)
    listed = ", ".join(f"{{model: ./{name}, parameters: {{weight: 1}}}}" for name in models)
    scratch = Scratch(root, recipe="out.yaml")
    scratch.write(f"merge_method: linear\nmodels: [{listed}]\nchat_template: {template}\n{more}")
    return scratch


@pytest.mark.parametrize("name", FORMATS)
def test_built_in_templates_are_what_their_formats_say(tmp_path: Path, name: str) -> None:
    scratch = scratch_of(tmp_path, name)
    scratch.build()
    tokenizer = AutoTokenizer.from_pretrained(scratch.output("out"))
    talk, prompt = FORMATS[name]
    assert tokenizer.apply_chat_template(TALK, tokenize=False) == talk
    asked = tokenizer.apply_chat_template(TALK, tokenize=False, add_generation_prompt=True)
    assert asked == talk + prompt


def test_exaone_begins_with_an_empty_system_turn(tmp_path: Path) -> None:
    scratch = scratch_of(tmp_path, "exaone")
    scratch.build()
    tokenizer = AutoTokenizer.from_pretrained(scratch.output("out"))
    told = tokenizer.apply_chat_template(TALK[1:2], tokenize=False)
    assert told == "[|system|][|endofturn|]\n[|user|]Hello\n"


def test_text_of_ones_own_is_written_and_not_run(tmp_path: Path) -> None:
    text = "{{ 1 // 0 }}{% for m in messages %}{{ m.content }}{% endfor %}"
    for name in "ab":
        kit.llama(tmp_path / name, layers=1)
        vocabularies.edit(tmp_path / name / "tokenizer_config.json", chat_template="old")
        (tmp_path / name / "chat_template.json").write_text('{"chat_template": "older"}')
    scratch = scratch_of(tmp_path, json.dumps(text))
    scratch.build()
    out = scratch.output("out")
    assert (out / "chat_template.jinja").read_text() == text
    assert not (out / "chat_template.json").exists()
    config = json.loads((out / "tokenizer_config.json").read_text())
    assert "chat_template" not in config
    assert config["eos_token"] == "</s>"
    assert AutoTokenizer.from_pretrained(out).chat_template == text


def give(path: Path, template: str, where: str) -> None:
    """Put a template where checkpoints have it."""
    kit.llama(path, layers=1)
    if where == "jinja":
        (path / "chat_template.jinja").write_text(template)
    elif where == "json":
        (path / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    elif where == "named":
        named = [{"name": "tool", "template": "{t}"}, {"name": "default", "template": template}]
        vocabularies.edit(path / "tokenizer_config.json", chat_template=named)
    else:
        vocabularies.edit(path / "tokenizer_config.json", chat_template=template)


AUTO: dict[str, tuple[list[str | None], str]] = {
    "the commonest": (["{x}", "{y}", "{y}"], "{y}"),
    "of equals that of the first": (["{x}", "{y}"], "{x}"),
    "the only one": ([None, "{y}"], "{y}"),
}


@pytest.mark.parametrize("case", AUTO)
@pytest.mark.parametrize("where", ["jinja", "config", "json", "named"])
def test_auto_takes_the_commonest(tmp_path: Path, case: str, where: str) -> None:
    templates, expected = AUTO[case]
    names = "abc"[: len(templates)]
    for name, template in zip(names, templates, strict=True):
        if template is not None:
            give(tmp_path / name, template, where)
    scratch = scratch_of(tmp_path, "auto", models=names)
    scratch.build()
    out = scratch.output("out")
    tokenizer = AutoTokenizer.from_pretrained(out)
    template = tokenizer.chat_template
    if where == "json" and not (out / "chat_template.jinja").exists():
        assert json.loads((out / "chat_template.json").read_text())["chat_template"] == expected
    else:
        assert (template["default"] if isinstance(template, dict) else template) == expected


def test_a_template_that_is_there_changes_no_file(tmp_path: Path) -> None:
    for name in "ab":
        give(tmp_path / name, "{x}", "config")
    scratch = scratch_of(tmp_path, "auto")
    key = scratch.plan().nodes["out"].key
    scratch.write((tmp_path / "out.yaml").read_text().replace("chat_template: auto\n", ""))
    assert scratch.plan().nodes["out"].key == key


def test_a_changed_template_rebuilds_no_tensor(tmp_path: Path) -> None:
    scratch = scratch_of(tmp_path, "chatml")
    scratch.build()
    scratch.write((tmp_path / "out.yaml").read_text().replace("chatml", "llama3"))
    plan = scratch.plan().nodes["out"]
    assert [reason.text for reason in plan.reasons] == ["file chat_template.jinja changed"]
    assert not plan.compute


def test_notes(tmp_path: Path) -> None:
    notes = scratch_of(tmp_path, "auto").plan().nodes["out"].notes
    assert "no input has a chat template: none is written" in notes
    scratch = scratch_of(tmp_path, "chatml", "tokenizer_source: base\n")
    (note,) = (n for n in scratch.plan().nodes["out"].notes if "template" in n)
    assert note.endswith("no token of the vocabulary: <|im_end|>, <|im_start|>")


def test_the_template_goes_with_the_tokenizer(tmp_path: Path) -> None:
    give(tmp_path / "a", "{a}", "jinja")
    give(tmp_path / "b", "{b}", "config")
    kit.llama(tmp_path / "c", layers=1)
    for source, expected in (("base", "{a}"), ("./b", "{b}"), ("./c", "{a}")):
        scratch = Scratch(tmp_path, recipe="out.yaml")
        scratch.write(
            "merge_method: slerp\nbase_model: ./a\nmodels: [{model: ./b}]\nparameters: {t: 0.5}\n"
            f"tokenizer_source: {source}\n"
        )
        scratch.build()
        assert AutoTokenizer.from_pretrained(scratch.output("out")).chat_template == expected
