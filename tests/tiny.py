"""Small models and data sets that tests make for themselves."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

TEXT = (
    "The river Oda runs through Merrin. Merrin lies in the north. Its mayor is Tessa Bram. "
    "Tessa Bram was born in 1971. The bridge over the Oda was built by Karl Voss in 1920. "
)


def save_llama(folder: Path, *, chat_template: str | None = None, window: int = 512, seed: int = 0) -> Path:
    """Save a random Llama of three layers and four heads with a byte-level tokenizer of its own."""
    import experiments.models  # noqa: F401 - makes torchvision importable, which transformers imports

    # isort: split
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.set_num_threads(1)  # several threads over matrices this small only wait for each other
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<s>", "</s>", "<pad>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", model_max_length=window
    )
    fast.chat_template = chat_template
    fast.save_pretrained(folder)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=window,
        initializer_range=0.3,  # sharp enough that attention and vocabulary distributions are far from uniform
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def write_jsonl(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write one JSON object a line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def samples(count: int = 12) -> list[dict[str, Any]]:
    """Rows of an own data set: every other response contradicts its prompt in the second sentence."""
    rows = []
    for i in range(count):
        wrong = "Its mayor is Karl Voss."
        second = wrong if i % 2 else "Its mayor is Tessa Bram."
        response = f"Merrin lies in the north. {second}"
        labels = [{"start": response.index(wrong), "end": len(response)}] if i % 2 else []
        prompt = TEXT * (1 + i % 3) + f"Question {i}: what is known of Merrin?\n"
        rows.append({"id": f"r{i}", "prompt": prompt, "response": response, "labels": labels})
    return rows


@cache
def _empty_store() -> bytes:
    import mlflow

    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch, "mlflow.db")
        mlflow.MlflowClient(f"sqlite:///{file}").search_experiments()
        return file.read_bytes()


def new_store(folder: Path) -> str:
    """The address of an MLflow store without runs; it is a copy, because a store's first start takes seconds."""
    file = folder / "mlflow.db"
    file.write_bytes(_empty_store())
    return f"sqlite:///{file}"


def features(responses: int = 12, *, classes: int = 2) -> pd.DataFrame:
    """Records of two spans a response, every other response hallucinated in its second, which ECS and PKS tell."""
    rows = [
        {
            "group": f"r{i}",
            "item": item,
            "label": int(classes == 2 and i % 2 and item),
            "length": 20 + i,
            "source": i % 9,
        }
        for i in range(responses)
        for item in range(2)
    ]
    frame = pd.DataFrame(rows)
    noise = np.random.default_rng(0).normal(0, 0.1, (len(frame), 4))
    for column, name in enumerate(("ecs_0_0", "ecs_1_0", "pks_0", "pks_1")):
        sign = -0.2 if name.startswith("ecs") else 0.1
        frame[name] = 0.3 + sign * frame["label"] + 0.1 * np.tanh(noise[:, column])
    return frame


def without_own_time(metrics: dict[str, float]) -> dict[str, float]:
    """A run's metrics but for what its own wall time went into, which differs from run to run."""
    return {name: value for name, value in metrics.items() if not name.startswith(("share_", "wall_"))}
