"""Trains the demo's three checkpoints: a base and two finetunes with one skill each.

Owns: the curriculum, the training loops, the files of a checkpoint (weights, config, tokenizer,
card). Must not know: merging methods or recipes.

    python demo/train.py            # writes demo/checkpoints/{base,reverser,shouter}

Everything is seeded. The shipped files were made with torch 2.13.0 on one CPU thread; another
release or another kind of processor may round differently and give slightly other weights.

The finetunes are trained so that they merge well, which finetunes of this size do not by
themselves: each step looks at the weights as a merge would have left them (part of the finetune's
own change dropped and scaled, the shuffled change added as a stand-in for another finetune's),
and the weights are drawn back to the base, so the change stays small and to the point.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from model import BOS, EOS, PAD, SPECIAL, VOCABULARY, Llama, Shape, encode
from safetensors.torch import save_file
from tasks import BASE_TASKS, SKILLS, Problem, draw
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor, nn
from torch.nn import functional as F

CHECKPOINTS = Path(__file__).parent / "checkpoints"
BASE_STEPS, BASE_BATCH, BASE_RATE = 1200, 192, 2e-3
TUNE_STEPS, TUNE_BATCH, TUNE_RATE = 700, 128, 2e-4
REHEARSAL = 0.6  # share of a finetune's problems that are the base's
KEPT = 0.6  # share of the own change that a step sees
SCALES = (0.6, 1.2)  # the own change is scaled by a number drawn from here
FOREIGN = 3.0  # size of the stand-in for another finetune, in sizes of the own change
PULL = 0.004  # share of the way back to the base per step, at the full learning rate


def loss_on(model: Llama, problems: Sequence[Problem]) -> Tensor:
    """Mean cross entropy of the answers and their </s>; the prompts are given."""
    tokens = encode([p.prompt + p.answer for p in problems])
    targets = torch.full_like(tokens, -100)
    for row, p in enumerate(problems):
        start, end = len(p.prompt), len(p.prompt) + len(p.answer)
        targets[row, start:end] = tokens[row, start + 1 : end + 1]
        targets[row, end] = EOS
    return F.cross_entropy(model(tokens).flatten(0, 1), targets.flatten())


def pace(step: int, steps: int, warmup: int) -> float:
    """Learning rate schedule: linear up, linear down, as a factor."""
    return min(1.0, (step + 1) / warmup) * max(0.02, 1 - step / steps)


def train_base() -> Llama:
    """The base: every base task equally often."""
    torch.manual_seed(0)
    model = Llama(Shape())
    for weight in model.parameters():
        if weight.dim() > 1:
            nn.init.normal_(weight, std=0.05)
    rng = random.Random(0)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=BASE_RATE, betas=(0.9, 0.98), weight_decay=0.01
    )
    markers = sorted(BASE_TASKS)
    for step in range(BASE_STEPS):
        optimizer.param_groups[0]["lr"] = BASE_RATE * pace(step, BASE_STEPS, warmup=100)
        picked = (rng.choice(markers) for _ in range(BASE_BATCH))
        loss = loss_on(model, [draw(rng, marker, BASE_TASKS[marker]) for marker in picked])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        report("base", step, loss)
    return rounded(model)


def finetune(base: Llama, name: str, seed: int) -> Llama:
    """The base plus one skill, with the base's other tasks rehearsed."""
    model = Llama(Shape())
    model.load_state_dict(base.state_dict())
    weights, origin = list(model.parameters()), [w.detach() for w in base.parameters()]
    rng, noise = random.Random(seed), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(weights, lr=TUNE_RATE, betas=(0.9, 0.98), weight_decay=0.0)
    skill, task = SKILLS[name]
    others = [marker for marker in sorted(BASE_TASKS) if marker != skill]

    def problem() -> Problem:
        if rng.random() > REHEARSAL:
            return draw(rng, skill, task)
        marker = rng.choice(others)
        return draw(rng, marker, BASE_TASKS[marker])

    for step in range(TUNE_STEPS):
        factor = pace(step, TUNE_STEPS, warmup=20)
        optimizer.param_groups[0]["lr"] = TUNE_RATE * factor
        own = [w.detach().clone() for w in weights]
        disturb(weights, origin, noise)
        loss = loss_on(model, [problem() for _ in range(TUNE_BATCH)])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(weights, 1.0)
        with torch.no_grad():
            for weight, value in zip(weights, own, strict=True):
                weight.copy_(value)
            optimizer.step()
            for weight, start in zip(weights, origin, strict=True):
                weight.lerp_(start, PULL * factor)
        report(name, step, loss)
    return rounded(model)


@torch.no_grad()
def disturb(weights: list[nn.Parameter], origin: list[Tensor], noise: torch.Generator) -> None:
    """Puts in place the weights that a merge with some other finetune could have left."""
    low, high = SCALES
    scale = low + (high - low) * torch.rand((), generator=noise)
    for weight, start in zip(weights, origin, strict=True):
        change = weight - start
        order = torch.randperm(change.numel(), generator=noise)
        foreign = change.flatten()[order].view_as(change)
        kept = (torch.rand(change.shape, generator=noise) < KEPT) / KEPT
        weight.copy_(start + scale * change * kept + FOREIGN * foreign)


@torch.no_grad()
def rounded(model: Llama) -> Llama:
    """The model with its weights rounded to bfloat16, as they are stored."""
    for weight in model.parameters():
        weight.copy_(weight.bfloat16())
    return model


def report(name: str, step: int, loss: Tensor) -> None:
    if step % 100 == 99:
        print(f"{name}: step {step + 1}, loss {loss.item():.4f}", flush=True)


def tokenizer() -> Tokenizer:
    """One token per character, <s> in front."""
    made = Tokenizer(models.WordLevel(VOCABULARY, unk_token="<pad>"))
    made.add_special_tokens(list(SPECIAL))
    made.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", BOS)]
    )
    made.decoder = decoders.Fuse()
    return made


def write(model: Llama, name: str, about: str) -> None:
    """Writes a checkpoint that transformers 4 and 5 load."""
    folder = CHECKPOINTS / name
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {key: w.bfloat16().contiguous() for key, w in model.state_dict().items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer().save(str(folder / "tokenizer.json"))
    ids = {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD}
    tokens = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        **asdict(Shape()),
        **ids,
        "head_dim": Shape().head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": 64,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }
    side_files = {
        "config.json": config,
        "generation_config.json": ids,
        "special_tokens_map.json": tokens,
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            "model_max_length": 64,
            **tokens,
        },
    }
    for file, content in side_files.items():
        (folder / file).write_text(json.dumps(content, indent=2) + "\n")
    (folder / "README.md").write_text(
        f"---\nlicense: apache-2.0\nlibrary_name: transformers\n---\n\n# {name}\n\n{about}\n\n"
        "A character-level toy Llama of 0.5 million weights, made by `demo/train.py`.\n"
    )


def main() -> None:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    base = train_base()
    write(base, "base", "Answers a dozen simple questions about a word; can neither skill.")
    write(finetune(base, "reverser", seed=1), "reverser", "Reverses: `R:abcd=` gives `dcba`.")
    write(finetune(base, "shouter", seed=1), "shouter", "Shouts: `U:abcd=` gives `ABCD`.")


if __name__ == "__main__":
    main()
