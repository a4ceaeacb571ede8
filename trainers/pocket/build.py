"""Build `bundled:pocket` from nothing: `python -m trainers.pocket.build [--steps N] [--out DIR]`.

A straight line: tokenizer, model, a stream of fresh samples, steps, and a look at real answers
now and then. A seed and a thread count fix the result on one machine.
"""

import argparse
import json
import shutil
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from random import Random

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
from transformers.utils.logging import disable_progress_bar

from trainers.pocket import path
from trainers.pocket.corpus import (
    KEYS,
    Bank,
    Turn,
    classification_task,
    extraction_task,
    sample,
    ticket_instruction,
)

VOCABULARY = 2048
TOKENS_PER_STEP = 4096
POOL = 4096  # samples that are drawn together and sorted by length, so that little is padding
LONGEST = 1536
WARM_UP = 100
ADAM_RATE, MUON_RATE = 2e-3, 2e-2
PROMPT_WEIGHT = 0.2  # what is read is learnt too, less: it is where the language comes from
TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

Example = tuple[list[int], list[float]]


def make_tokenizer(bank: Bank, seed: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE in which a word has the same tokens wherever it stands.

    Spaces and punctuation are pieces of their own: copying a word from a sentence into quotes is
    then copying tokens, which a small model learns for words it never saw.
    """
    rng = Random(f"{seed} tokenizer")
    texts = [turn.content for _ in range(20_000) for turn in sample(bank, rng)]
    bpe = Tokenizer(models.BPE())
    pieces = Regex(r"\p{L}+|\p{N}|\n+|[^\p{L}\p{N}\n]+")
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(pieces, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|pad|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|im_end|>",
        pad_token="<|pad|>",
        additional_special_tokens=["<|im_start|>"],
        chat_template=TEMPLATE,
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
    )


def make_model(tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """4.7 million parameters in the shape of Qwen3, so that every tool knows it."""
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=VOCABULARY,
            hidden_size=256,
            num_hidden_layers=6,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=64,
            intermediate_size=640,
            max_position_embeddings=2048,
            rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    model.generation_config.update(
        do_sample=False,
        max_new_tokens=256,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return model


def encode(turns: list[Turn], tokenizer: PreTrainedTokenizerFast) -> Example:
    """The tokens of a conversation and how much each counts."""
    ids: list[int] = []
    weights: list[float] = []
    for turn in turns:
        head = tokenizer.encode(f"<|im_start|>{turn.role}\n")
        body = tokenizer.encode(f"{turn.content.strip()}<|im_end|>")
        read = 0.0 if turn.role == "assistant" else PROMPT_WEIGHT
        ids += head + body + tokenizer.encode("\n")
        weights += [PROMPT_WEIGHT] * len(head)
        weights += [1.0 if turn.learn else read] * len(body) + [0.0]
    return ids, weights


def batches(
    bank: Bank, tokenizer: PreTrainedTokenizerFast, seed: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Fresh samples for ever, in batches of like length: ids and weights, padded on the right."""
    rng = Random(f"{seed} stream")
    while True:
        pool = [encode(sample(bank, rng), tokenizer) for _ in range(POOL)]
        pool = sorted((one for one in pool if len(one[0]) <= LONGEST), key=lambda one: len(one[0]))
        cuts: list[list[Example]] = [[]]
        for one in pool:
            if (len(cuts[-1]) + 1) * len(one[0]) > TOKENS_PER_STEP:
                cuts.append([])
            cuts[-1].append(one)
        rng.shuffle(cuts)
        for batch in cuts:
            width = max(len(ids) for ids, _ in batch)
            yield (
                torch.tensor(
                    [ids + [tokenizer.pad_token_id] * (width - len(ids)) for ids, _ in batch]
                ),
                torch.tensor([weights + [0.0] * (width - len(weights)) for _, weights in batch]),
            )


def make_optimizers(model: Qwen3ForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for embeddings and norms."""
    inside = [p for name, p in model.named_parameters() if p.ndim == 2 and "layers" in name]
    rest = [p for name, p in model.named_parameters() if p.ndim != 2 or "layers" not in name]
    return [
        torch.optim.Muon(inside, lr=MUON_RATE, weight_decay=0.05, momentum=0.95),
        torch.optim.AdamW(rest, lr=ADAM_RATE, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def rate(step: int, steps: int) -> float:
    """The share of the peak learning rate: warm-up, plateau, then a straight way down."""
    return min((step + 1) / WARM_UP, 1.0, (steps - step) / (0.6 * steps))


def export(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Put the model in place as a whole, in bfloat16: readers never see half of it."""
    fresh, old = out.with_name(f"{out.name}.new"), out.with_name(f"{out.name}.old")
    half = Qwen3ForCausalLM(model.config)
    half.load_state_dict(model.state_dict())
    half.generation_config = model.generation_config
    half.to(torch.bfloat16).save_pretrained(fresh)
    tokenizer.save_pretrained(fresh)
    (fresh / "model.safetensors").chmod(0o644)
    if out.exists():
        out.rename(old)
    fresh.rename(out)
    shutil.rmtree(old, ignore_errors=True)


# ---------------------------------------------------------------------------- probes


@torch.no_grad()
def answers(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, prompts: list[list[Turn]]
) -> list[str]:
    """What the model says, greedily, in batches of like length."""
    tokenizer.padding_side = "left"
    texts = [
        tokenizer.apply_chat_template(
            [{"role": turn.role, "content": turn.content} for turn in prompt],
            add_generation_prompt=True,
            tokenize=False,
        )
        for prompt in prompts
    ]
    said = [""] * len(texts)
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    for start in range(0, len(order), 30):
        chosen = order[start : start + 30]
        inputs = tokenizer([texts[index] for index in chosen], return_tensors="pt", padding=True)
        out = model.generate(**inputs, max_new_tokens=100)[:, inputs["input_ids"].shape[1] :]
        for index, text in zip(
            chosen, tokenizer.batch_decode(out, skip_special_tokens=True), strict=True
        ):
            said[index] = text
    return said


def lenient(text: str) -> dict[str, object]:
    """The JSON object somewhere in an answer, or nothing."""
    try:
        found = json.loads(text[text.index("{") : text.rindex("}") + 1])
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def strict(text: str) -> bool:
    """Whether the answer is nothing but one object with exactly the five keys."""
    return (
        text.strip().startswith("{") and text.strip().endswith("}") and [*lenient(text)] == [*KEYS]
    )


def probe_tickets(ask: Callable[[list[list[Turn]]], list[str]], tickets: Path, cases: int) -> None:
    """Real tickets at several numbers of examples: the shape of answers and every field."""
    rows = [json.loads(line) for line in tickets.read_text("utf-8").splitlines()]
    rows.sort(key=lambda row: len(row["text"]))
    examples, rows = rows[:5], Random(0).sample(rows[5:], cases)
    system = Turn("system", ticket_instruction({key: key for key in KEYS}, Random(0)))
    for shots in (0, 1, 3, 5):
        before = [system]
        for row in examples[:shots]:
            label = json.dumps({key: row[key] for key in KEYS}, ensure_ascii=False)
            before += [Turn("user", row["text"]), Turn("assistant", label)]
        said = ask([[*before, Turn("user", row["text"])] for row in rows])
        right = {
            key: sum(
                lenient(text).get(key, 0) == row[key] for text, row in zip(said, rows, strict=True)
            )
            for key in KEYS
        }
        fields = " ".join(f"{key} {count / cases:.2f}" for key, count in right.items())
        print(f"  {shots} shots: five keys {sum(map(strict, said)) / cases:.2f} {fields}")
    print(f"  last: {rows[-1]['text']!r} -> {said[-1]!r}")


def probe(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, bank: Bank, tickets: Path | None
) -> None:
    """Print what the model can do by now."""
    model.eval()

    def ask(prompts: list[list[Turn]]) -> list[str]:
        return answers(model, tokenizer, prompts)

    for task in (classification_task, extraction_task):
        rng = Random("probe")
        held = [task(bank, rng) for _ in range(60)]
        said = ask([turns[:-1] for turns in held])
        exact = sum(
            text.strip() == turns[-1].content for text, turns in zip(said, held, strict=True)
        )
        print(f"  {task.__name__}: exact {exact / len(held):.2f}")
    if tickets and tickets.exists():
        probe_tickets(ask, tickets, cases=60)
    model.train()


# ---------------------------------------------------------------------------- the line itself


def main() -> None:
    """Train, look, export."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1800)
    parser.add_argument("--out", type=Path, default=path())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--probe-every", type=int, default=400)
    parser.add_argument(
        "--tickets", type=Path, help="labelled tickets to look at, never trained on"
    )
    parser.add_argument("--checkpoint", type=Path, help="where to keep what a killed run needs")
    args = parser.parse_args()

    disable_progress_bar()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    bank = Bank()
    tokenizer = make_tokenizer(bank, args.seed)
    model = make_model(tokenizer).train()
    optimizers = make_optimizers(model)
    done = 0
    if args.checkpoint and args.checkpoint.exists():
        kept = torch.load(args.checkpoint)
        done = kept["step"]
        model.load_state_dict(kept["model"])
        for optimizer, state in zip(optimizers, kept["optimizers"], strict=True):
            optimizer.load_state_dict(state)
    peaks = [optimizer.param_groups[0]["lr"] for optimizer in make_optimizers(model)]

    began, seen, losses = time.monotonic(), 0, []
    stream = islice(batches(bank, tokenizer, args.seed), done, args.steps)
    for step, (ids, weights) in enumerate(stream, start=done):
        for optimizer, peak in zip(optimizers, peaks, strict=True):
            optimizer.param_groups[0]["lr"] = peak * rate(step, args.steps)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
        each = cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        counts = weights[:, 1:].flatten()
        loss = (each * counts).sum() / counts.sum()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()

        answered = counts == 1
        losses.append((each[answered].mean().item(), each[~answered & (counts > 0)].mean().item()))
        seen += int((ids != tokenizer.pad_token_id).sum())
        if (step + 1) % 50 == 0:
            spent = time.monotonic() - began
            left = spent / (step + 1 - done) * (args.steps - step - 1)
            answer, prompt = (sum(part) / len(losses) for part in zip(*losses, strict=True))
            print(
                f"step {step + 1} answers {answer:.3f} prompts {prompt:.3f} "
                f"{seen / spent:.0f} tok/s, {left / 60:.0f} min left",
                flush=True,
            )
            losses.clear()
        if (step + 1) % args.probe_every == 0 or step + 1 == args.steps:
            probe(model, tokenizer, bank, args.tickets)
            export(model, tokenizer, args.out)
            if args.checkpoint:
                states = [optimizer.state_dict() for optimizer in optimizers]
                kept = {"step": step + 1, "model": model.state_dict(), "optimizers": states}
                torch.save(kept, args.checkpoint)


if __name__ == "__main__":
    main()
