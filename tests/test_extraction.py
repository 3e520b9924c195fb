"""ECS and PKS against a second, independent computation: a Llama pass in numpy, and each score by its definition."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.spatial.distance import jensenshannon
from scipy.special import log_softmax, softmax

from experiments.detect import DETECT
from experiments.detect.bench import baseline
from experiments.detect.inference import compute
from experiments.models.language import LanguageModel, load
from experiments.redeep import embed as embedding
from experiments.redeep.encode import Encoded, Span, encode
from experiments.redeep.sample import Sample
from harness.measuring.clock import Clock
from harness.running import hardware, run
from harness.running.settings import resolve
from harness.stage import BadInput
from tests.tiny import TEXT, samples, save_llama, write_jsonl

HEADS = [(layer, head) for layer in range(3) for head in range(4)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and a data set of four samples, one of them in a task of its own."""
    place = tmp_path_factory.mktemp("extraction")
    save_llama(place / "model")
    rows = [row | {"task": "QA"} for row in samples(4)]
    write_jsonl(place / "data.jsonl", rows)
    return place


@pytest.fixture(scope="module")
def model(folder: Path) -> LanguageModel:
    """The baseline's: with every attention map."""
    loaded = load(str(folder / "model"), "fp32", "cpu")
    loaded.network.set_attn_implementation("eager")
    return loaded


class NumpyLlama:
    """One forward pass in double precision: attention maps, residual states around each FFN, final states."""

    def __init__(self, model: LanguageModel, ids: Any) -> None:
        self.weights = {name: w.double().numpy() for name, w in model.network.state_dict().items()}
        config = model.network.config
        heads, groups, size = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        self.eps, length = config.rms_norm_eps, len(ids)
        theta = config.rope_parameters["rope_theta"]
        angles = np.outer(np.arange(length), theta ** (-np.arange(0, size, 2) / size))
        causal = np.triu(np.full((length, length), -np.inf), 1)
        self.attention, self.middle, self.end = [], [], []
        x = self.weights["model.embed_tokens.weight"][ids]
        for layer in range(config.num_hidden_layers):
            at = f"model.layers.{layer}"
            normed = self._norm(x, f"{at}.input_layernorm")
            q, k, v = (self._linear(normed, f"{at}.self_attn.{n}_proj").reshape(length, -1, size) for n in "qkv")
            k, v = (np.repeat(part, heads // groups, axis=1) for part in (k, v))
            logits = np.einsum("ihd,jhd->hij", self._rotate(q, angles), self._rotate(k, angles)) / np.sqrt(size)
            self.attention.append(softmax(logits + causal, axis=-1))
            mixed = np.einsum("hij,jhd->ihd", self.attention[-1], v).reshape(length, -1)
            x = x + self._linear(mixed, f"{at}.self_attn.o_proj")
            self.middle.append(x)
            normed = self._norm(x, f"{at}.post_attention_layernorm")
            gate = self._linear(normed, f"{at}.mlp.gate_proj")
            inner = gate / (1 + np.exp(-gate)) * self._linear(normed, f"{at}.mlp.up_proj")
            x = x + self._linear(inner, f"{at}.mlp.down_proj")
            self.end.append(x)
        self.last = self._norm(x, "model.norm")

    def lens(self, states: np.ndarray) -> np.ndarray:
        return self._linear(self._norm(states, "model.norm"), "lm_head")

    def _linear(self, x: np.ndarray, name: str) -> np.ndarray:
        return x @ self.weights[f"{name}.weight"].T

    def _norm(self, x: np.ndarray, name: str) -> np.ndarray:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + self.eps) * self.weights[f"{name}.weight"]

    @staticmethod
    def _rotate(x: np.ndarray, angles: np.ndarray) -> np.ndarray:
        first, second = np.split(x, 2, axis=-1)
        cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
        return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def published(p_logits: np.ndarray, q_logits: np.ndarray) -> np.ndarray:
    """(KL(M || P) + KL(M || Q)) / 2 of each row in closed form: with d = log q - log p, sum M log cosh(d / 2)."""
    middle = (softmax(p_logits, -1) + softmax(q_logits, -1)) / 2
    d = log_softmax(q_logits, -1) - log_softmax(p_logits, -1)
    return (middle * (np.logaddexp(d / 2, -d / 2) - np.log(2))).sum(-1)


def expected_pks(pass_: NumpyLlama, rows: range, level: str, pks: str) -> list[float]:
    values = []
    for before, after in zip(pass_.middle, pass_.end, strict=True):
        p, q = pass_.lens(after[rows]), pass_.lens(before[rows])
        if pks == "jsd":
            values.append(np.mean(jensenshannon(softmax(p, -1), softmax(q, -1), axis=-1) ** 2))
        elif level == "chunk":
            values.append(published(p, q).sum())
        else:
            values.append(1e6 * published(p, q)[0] / p.shape[-1])
    return values


def expected_ecs(pass_: NumpyLlama, model: LanguageModel, sample: Encoded, level: str) -> list[list[float]]:
    def sentence(text: str) -> np.ndarray:
        return NumpyLlama(model, model.tokenizer(text).input_ids).last.mean(axis=0)

    if level == "chunk":
        return [
            [
                cosine(
                    sentence(max(sample.prompt, key=lambda s: maps[head, rows, s.start : s.end].sum()).text),
                    sentence(span.text),
                )
                for maps in pass_.attention
                for head in range(4)
            ]
            for span in sample.response
            for rows in [slice(span.start - 1, span.end - 1)]
        ]
    top = int(0.1 * sample.prompt_tokens)
    scores = []
    for row in range(sample.prompt_tokens - 1, len(sample.ids) - 1):
        weights = [maps[head, row, : sample.prompt_tokens] for maps in pass_.attention for head in range(4)]
        means = [pass_.last[np.argsort(-weight)[:top]].mean(axis=0) for weight in weights]
        scores.append([cosine(mean, pass_.last[row]) for mean in means])
    return scores


@pytest.fixture(scope="module")
def encoded(model: LanguageModel) -> Encoded:
    prompt = f"{TEXT}Question: what is known of Merrin?\n"
    sample = Sample("r1", prompt, "Merrin lies in the north. Its mayor is Karl Voss.", ((26, 49),), "r1")
    return encode(sample, model, chat_template=False, max_length=None, span_chars=0)


@pytest.fixture(scope="module")
def numpy_pass(model: LanguageModel, encoded: Encoded) -> NumpyLlama:
    return NumpyLlama(model, encoded.ids)


@pytest.mark.parametrize("pks", ["jsd", "published"])
@pytest.mark.parametrize("level", ["chunk", "token"])
def test_features_are_what_their_definitions_say(
    model: LanguageModel, encoded: Encoded, numpy_pass: NumpyLlama, level: str, pks: str
) -> None:
    ecs, divergence = baseline.extract(model, encoded, HEADS, level, pks, baseline.embedder(model))
    # Response token i is described by the position that predicts it: prompt length - 1 + i.
    items = encoded.response if level == "chunk" else encoded.tokens
    rows = [range(item.start - 1, item.end - 1) for item in items]
    assert rows[0][0] == encoded.prompt_tokens - 1
    np.testing.assert_allclose(ecs, expected_ecs(numpy_pass, model, encoded, level), atol=1e-5)
    wanted = [expected_pks(numpy_pass, positions, level, pks) for positions in rows]
    np.testing.assert_allclose(divergence, wanted, rtol=1e-4, atol=1e-5)
    assert np.ptp(ecs, axis=0).min() > 0
    assert np.ptp(divergence, axis=0).min() > 0


LOGITS = arrays.arrays(
    np.float32, arrays.array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.floats(-40, 40, width=32)
)


@settings(deadline=None)
@given(LOGITS, st.integers(0, 2**32 - 1))
def test_divergences_of_any_logits(p: np.ndarray, seed: int) -> None:
    q = np.random.default_rng(seed).permuted(p, axis=-1) + np.float32(1.5)
    divergence = baseline.jsd(torch.tensor(p), torch.tensor(q))
    with np.errstate(invalid="ignore"):  # scipy takes the root of what rounding may leave as -1e-17
        wanted = jensenshannon(softmax(p.astype(float), -1), softmax(q.astype(float), -1), axis=-1) ** 2
    assert divergence == pytest.approx(np.nan_to_num(wanted).mean(), abs=1e-5)
    assert 0 <= divergence <= np.log(2) + 1e-6
    assert divergence == baseline.jsd(torch.tensor(q), torch.tensor(p))
    assert baseline.jsd(torch.tensor(p), torch.tensor(p + 3)) < 1e-6
    closed = published(p.astype(float), q.astype(float))
    total = baseline.published_sum(torch.tensor(p), torch.tensor(q))
    assert total == pytest.approx(closed.sum(), rel=1e-4, abs=1e-4)
    mean = baseline.published_mean(torch.tensor(p[:1]), torch.tensor(q[:1]))
    assert mean == pytest.approx(1e6 * closed[0] / p.shape[1], rel=1e-4, abs=100 / p.shape[1])


def test_vectors_from_the_states_of_the_pass_are_the_means_over_each_spans_own_tokens(
    encoded: Encoded, numpy_pass: NumpyLlama, folder: Path
) -> None:
    """The last token of the response counts, which predicts nothing and is not read otherwise."""
    packed = load(str(folder / "model"), "fp32", "cpu")

    def mean(span: Span) -> np.ndarray:
        return numpy_pass.last[span.start : span.end].mean(axis=0)

    def attended(attention: np.ndarray, span: Span) -> Span:
        return max(encoded.prompt, key=lambda s: attention[span.start - 1 : span.end - 1, s.start : s.end].sum())

    wanted = [
        [cosine(mean(attended(maps[head], span)), mean(span)) for maps in numpy_pass.attention for head in range(4)]
        for span in encoded.response
    ]
    (own,), (others,) = (
        compute.extract.extractor(packed, HEADS, "chunk", "jsd", embed)([encoded])
        for embed in (None, embedding.embedder("model", packed, 100))
    )
    np.testing.assert_allclose(own.ecs, wanted, atol=1e-5)
    np.testing.assert_allclose(own.pks, others.pks, atol=1e-6)
    assert own.ties == others.ties
    assert encoded.response[-1].end == len(encoded.ids)


def test_each_distinct_text_is_embedded_once(monkeypatch: pytest.MonkeyPatch, model: LanguageModel) -> None:
    seen: list[list[str]] = []

    def compute(texts: list[str]) -> np.ndarray:
        seen.append(texts)
        return np.array([[len(text), 0.0] for text in texts], dtype=np.float32)

    monkeypatch.setattr(embedding, "_own_states", lambda *_: compute)
    embed = embedding.embedder("model", model, 100)
    assert embed(["a", "bbb", "a"])[:, 0].tolist() == [1, 3, 1]
    assert seen == [["a", "bbb"]]


def test_an_embedding_depends_on_its_text_alone(model: LanguageModel, folder: Path) -> None:
    texts = ["Merrin.", TEXT, "Its mayor is Karl Voss.", "🙂"]
    packed = load(str(folder / "model"), "fp32", "cpu")
    alone = [baseline.embedder(model)([text])[0] for text in texts]
    for together in (
        baseline.embedder(model)(texts),
        *(embedding.embedder("model", packed, n)(texts) for n in (1, 500)),
    ):
        np.testing.assert_allclose(together, alone, atol=1e-6)
        np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)


# --- through the engine ------------------------------------------------------------------------------------------


@pytest.fixture
def execute(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run `detect` on the tiny model with an empty cache."""
    monkeypatch.setenv("RIGSWEEP_CACHE", str(tmp_path / "cache"))
    fixed = {"model": str(folder / "model"), "dataset": str(folder / "data.jsonl"), "folds": "2"}

    def run_with(**given: str) -> run.Result:
        return run.execute(resolve(DETECT, fixed | given, hardware.load_profiles()))

    return run_with


def test_records_have_a_row_a_span_and_a_column_a_head_and_layer(execute: Any) -> None:
    frame = execute().records.frame
    features = [f"ecs_{layer}_{head}" for layer, head in HEADS] + ["pks_0", "pks_1", "pks_2"]
    assert list(frame.columns) == ["group", "item", "label", "length", "source", "start", "end", "task", *features]
    assert frame["group"].tolist() == ["r0", "r0", "r1", "r1", "r2", "r2", "r3", "r3"]
    assert frame["item"].tolist() == [0, 1] * 4
    assert frame["label"].tolist() == [0, 0, 0, 1, 0, 0, 0, 1]
    lengths = [len(text) for text in ("Merrin lies in the north.", "Its mayor is Tessa Bram.")]
    assert frame["length"].tolist()[:2] == lengths
    assert frame["ecs_0_0"].between(-1, 1).all()


def test_token_records_have_a_row_a_token_and_agree_with_the_samples(execute: Any) -> None:
    frame = execute(level="token", limit="2").records.frame
    responses = [row["response"] for row in samples(2)]
    assert frame.groupby("group")["length"].sum().tolist() == [len(text) for text in responses]
    hallucinated = frame[(frame["group"] == "r1") & (frame["label"] == 1)]
    assert hallucinated["length"].sum() == len(" Its mayor is Karl Voss.")
    assert frame[frame["group"] == "r0"]["label"].sum() == 0


def test_what_is_left_out_and_what_is_not_known_is_in_the_records(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RIGSWEEP_CACHE", str(tmp_path / "cache"))
    first, second = samples(2)
    unlabelled = {name: value for name, value in second.items() if name != "labels"}
    rows = [first, unlabelled, first | {"id": "x", "prompt": "Where?", "zzz": 1}, {"id": "y"}]
    data = write_jsonl(tmp_path / "data.jsonl", rows)
    typed = {"model": str(folder / "model"), "dataset": str(data), "skip_bad": "true"}
    records = run.obtain(resolve(DETECT, typed, hardware.load_profiles()), Clock())[0]
    assert records.frame.groupby("group")["label"].agg(set).to_dict() == {"r0": {0}, "r1": {-1}, "x": {0}}
    told = {name: records.origin["counts"][name] for name in ("read", "skipped", "unlabelled", "prompts_of_one_span")}
    assert told == {"read": 4, "skipped": 1, "unlabelled": 1, "prompts_of_one_span": 1}
    assert records.origin["unknown_columns"] == ["zzz"]
    assert "line 4: column 'prompt' is missing" in records.origin["faults"][0]


def test_a_prompt_with_the_same_response_is_computed_once_and_counted(
    execute: Any, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each has a row of its own, with its own label, however the batches fall."""
    row, other = samples(2)
    twins = [row | {"id": f"t{i}", "labels": i} for i in range(2)]
    short = other | {"id": "o", "response": "No.", "labels": 0}
    data = write_jsonl(tmp_path / "twins.jsonl", [twins[0], other, twins[1], short])
    computed: list[str] = []
    real = compute.extract.extractor

    def watched(*given: Any) -> Any:
        extract = real(*given)
        return lambda batch: (computed.extend(each.sample.id for each in batch), extract(batch))[1]

    monkeypatch.setattr(compute.extract, "extractor", watched)
    for batch_tokens in ("1", "4096"):
        computed.clear()
        records = execute(dataset=str(data), batch_tokens=batch_tokens, cache="off").records
        assert len(computed) == 1 + 3  # the longest, which warms up, and all but the twin
        frame = records.frame.set_index("group")
        features = frame.filter(regex="^(ecs|pks)_")
        assert records.origin["counts"]["duplicates_shared"] == 1
        assert [frame.loc[name, "label"].max() for name in ("t0", "t1")] == [0, 1]
        np.testing.assert_array_equal(features.loc["t0"], features.loc["t1"])


def test_extracting_some_heads_gives_the_same_columns_as_extracting_all(execute: Any) -> None:
    every, some = execute().records.frame, execute(extract_heads="2.1,0.3,2.1").records.frame
    assert list(some.filter(like="ecs_")) == ["ecs_0_3", "ecs_2_1"]
    pd.testing.assert_frame_equal(some, every[some.columns])


def test_extract_heads_that_do_not_exist_are_named(execute: Any) -> None:
    with pytest.raises(BadInput, match=r"extract_heads = 0.1,3.0: 3.0 does not exist in a model of 3 layers x 4 heads"):
        execute(extract_heads="0.1,3.0")


def test_a_cache_hit_says_so_and_keeps_the_measured_cost(execute: Any) -> None:
    first, again = execute(), execute(alpha="0.9")
    assert (first.replayed, again.replayed) == (False, True)
    assert again.records.cost == first.records.cost
    assert "cost_replayed" in {finding.code for finding in again.audit.findings}
    refreshed, off = execute(cache="refresh"), execute(cache="off")
    assert not refreshed.replayed
    assert not off.replayed
    assert refreshed.records.cost != first.records.cost
    assert execute().records.cost == refreshed.records.cost
    for other in (again, refreshed, off):
        pd.testing.assert_frame_equal(other.records.frame, first.records.frame)
    assert execute(span_chars="200").replayed is False


def test_cuts_are_counted(execute: Any) -> None:
    result = execute(max_sequence_length="100", prompt_chars="400")
    counts = result.records.origin["counts"]
    assert (counts["read"], counts["kept"]) == (4, 4)
    assert (counts["prompts_cut"], counts["cut_to_window"]) == (1, 2)  # characters of one, then tokens of two
    told = [finding.message for finding in result.audit.findings if finding.code == "inputs_truncated"]
    assert [message[:6] for message in told] == ["1 of 4", "2 of 4"]


@pytest.mark.parametrize("precision", ["bf16", "fp16", "int8", "nf4", "fp4"])
def test_every_precision_runs_and_stays_near_full_precision(execute: Any, precision: str) -> None:
    full, low = (execute(precision=p).records.frame.filter(regex="^(ecs|pks)_") for p in ("fp32", precision))
    assert list(low.columns) == list(full.columns)
    difference = (low - full).abs().to_numpy()
    assert difference.max() > 0
    assert difference.mean() < 0.2
    assert low.filter(like="pks_").to_numpy().min() >= 0
    assert low.abs().to_numpy().max() <= 1 + 1e-6


def test_a_sentence_transformer_gives_the_spans_their_vectors(execute: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever model is named, only its unit vectors count: here 1 for texts that name the river, else 0."""

    class River:
        def __init__(self, name: str) -> None:
            if name != "river":
                raise OSError(f"no model {name}\nsecond line")

        def encode(self, texts: list[str], **_: Any) -> np.ndarray:
            return np.array([[1.0, 0.0] if "Oda" in text else [0.0, 1.0] for text in texts], dtype=np.float32)

    monkeypatch.setitem(sys.modules, "sentence_transformers", SimpleNamespace(SentenceTransformer=River))
    monkeypatch.setattr("experiments.models.files.digest_sentence_encoder", lambda setting, name: name)
    ecs = execute(embedder="river").records.frame.filter(like="ecs_")
    assert set(np.unique(ecs)) == {0.0, 1.0}
    with pytest.raises(BadInput, match=r"^embedder = lake: cannot be loaded .* no model lake"):
        execute(embedder="lake")
