"""What the detect stage reads, what it keeps, and what it says of data that it cannot use."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from experiments.detect.inference.data import read
from experiments.detect.scoring.released import read_released
from experiments.redeep.sample import Sample
from harness.stage import BadInput

Json = dict[str, Any]

OWN: Json = {"id": "a", "prompt": "Who wrote it?", "response": "Ann wrote it.", "labels": []}
RESPONSE: Json = {
    "id": "27",
    "source_id": "s1",
    "model": "llama-2-7b-chat",
    "temperature": 0.7,
    "labels": [
        {"start": 4, "end": 9, "text": "wrote", "meta": "", "label_type": "Evident Conflict", "implicit_true": True}
    ],
    "split": "test",
    "quality": "good",
    "response": "Ann wrote it.",
}
SOURCE: Json = {"source_id": "s1", "task_type": "QA", "source": "MARCO", "source_info": {}, "prompt": "Who wrote it?"}
SCORE: Json = {
    "prompt_attention_score": {"(10, 2)": 0.5, "(2, 0)": 0.25},
    "r_span": [0, 9],
    "hallucination_label": 1,
    "parameter_knowledge_scores": {"layer_3": 0.125},
}
RELEASED: Json = RESPONSE | {"response_spans": [[0, 9], [9, 13]], "scores": [SCORE, SCORE | {"hallucination_label": 0}]}


def lines(path: Path, *rows: Json | str) -> Path:
    text = "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows)
    path.write_text(text, encoding="utf-8", newline="")
    return path


def own(folder: Path, *rows: Json | str) -> Path:
    return lines(folder / "own.jsonl", *rows)


def ragtruth(folder: Path, responses: list[Json], sources: list[Json] | None = None) -> Path:
    lines(folder / "response.jsonl", *responses)
    lines(folder / "source_info.jsonl", *([SOURCE] if sources is None else sources))
    return folder


def released(folder: Path, content: object) -> Path:
    path = folder / "released.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def without(row: Json, key: str) -> Json:
    return {name: value for name, value in row.items() if name != key}


def complaint(*args: Any, **settings: Any) -> str:
    """The one line that reading bad data raises."""
    reader, path = args
    with pytest.raises(BadInput) as caught:
        reader(path, **settings)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


class TestOwnData:
    def test_four_columns_are_enough(self, tmp_path: Path) -> None:
        samples, counts, *_ = read(own(tmp_path, OWN))
        assert samples == [Sample("a", "Who wrote it?", "Ann wrote it.", (), group="a")]
        assert counts == {
            "read": 1,
            "skipped": 0,
            "filtered_out": 0,
            "beyond_limit": 0,
            "kept": 1,
            "prompts_cut": 0,
            "unlabelled": 0,
            "unknown_columns": 0,
            "quality_not_good": 0,
        }

    @pytest.mark.parametrize(
        ("labels", "spans"),
        [
            (0, ()),
            (1, ((0, 13),)),
            ([], ()),
            ([[4, 9], [0, 3]], ((0, 3), (4, 9))),
            ([{"end": 9, "start": 4, "text": "wrote"}, [0, 3]], ((0, 3), (4, 9))),
            ([[0, 3], [0, 3]], ((0, 3),)),
            ([[0, 13]], ((0, 13),)),
        ],
    )
    def test_labels_become_sorted_distinct_character_spans(
        self, tmp_path: Path, labels: object, spans: tuple[tuple[int, int], ...]
    ) -> None:
        samples = read(own(tmp_path, OWN | {"labels": labels})).samples
        assert samples[0].spans == spans

    def test_optional_columns_are_taken_and_null_means_absent(self, tmp_path: Path) -> None:
        given_all = OWN | {"group": "g", "task": "QA", "split": "test"}
        all_null = OWN | {"id": "b", "group": None, "task": None, "split": None}
        samples = read(own(tmp_path, given_all, all_null)).samples
        assert [(each.group, each.task, each.split) for each in samples] == [("g", "QA", "test"), ("b", None, None)]

    def test_whole_numbers_are_ids_too(self, tmp_path: Path) -> None:
        samples = read(own(tmp_path, OWN | {"id": 7, "group": 3})).samples
        assert (samples[0].id, samples[0].group) == ("7", "3")

    def test_blank_lines_windows_line_ends_and_a_byte_order_mark_are_not_data(self, tmp_path: Path) -> None:
        row = json.dumps(OWN | {"response": "née\u2028x"}, ensure_ascii=False)
        samples, counts, *_ = read(own(tmp_path, f"\ufeff{row}\r\n  \r\n\n"))
        assert counts["read"] == 1
        assert samples[0].response == "née\u2028x"

    @settings(max_examples=50, deadline=None)
    @given(
        st.lists(
            st.fixed_dictionaries(
                {"prompt": st.text(min_size=1), "response": st.text(min_size=1), "group": st.text(min_size=1)},
                optional={"task": st.text(), "split": st.text()},
            ).filter(lambda row: row["prompt"].strip() and row["response"].strip()),
            min_size=1,
            max_size=4,
        ),
        st.data(),
    )
    def test_samples_written_as_jsonl_are_read_back(
        self, tmp_path_factory: pytest.TempPathFactory, texts: list[Json], data: st.DataObject
    ) -> None:
        wanted = []
        for number, text in enumerate(texts):
            size = len(text["response"])
            starts = st.integers(0, size - 1).flatmap(
                lambda start, size=size: st.tuples(  # type: ignore[misc]
                    st.just(start), st.integers(start + 1, size)
                )
            )
            spans = tuple(sorted(data.draw(st.sets(starts, max_size=3))))
            wanted.append(Sample(id=str(number), spans=spans, **text))
        path = tmp_path_factory.getbasetemp() / "round_trip.jsonl"
        rows = [
            {"id": s.id, "labels": s.spans, "prompt": s.prompt, "response": s.response, "group": s.group}
            | {"task": s.task, "split": s.split}
            for s in wanted
        ]
        plain = data.draw(st.booleans())
        path.write_text("\n".join(json.dumps(row, ensure_ascii=plain) for row in rows), encoding="utf-8", newline="")
        samples, counts, *_ = read(path)
        assert samples == wanted
        assert counts["kept"] == counts["read"] == len(wanted)


class TestRagtruth:
    def test_a_folder_joins_responses_to_their_sources(self, tmp_path: Path) -> None:
        samples = read(ragtruth(tmp_path, [RESPONSE])).samples
        expected = Sample("27", "Who wrote it?", "Ann wrote it.", ((4, 9),), "s1", "QA", "test", "llama-2-7b-chat")
        assert samples == [expected]

    def test_filters_and_limit_account_for_every_response(self, tmp_path: Path) -> None:
        responses = [
            RESPONSE | {"id": "1"},
            RESPONSE | {"id": "2", "model": "gpt-4"},
            RESPONSE | {"id": "3", "split": "train"},
            RESPONSE | {"id": "4", "source_id": "s2"},
            RESPONSE | {"id": "5", "quality": "truncated"},
            RESPONSE | {"id": "6"},
        ]
        folder = ragtruth(tmp_path, responses, [SOURCE, SOURCE | {"source_id": "s2", "task_type": "Summary"}])
        samples, counts, *_ = read(
            folder, generator="llama-2-7b-chat", split="test", task="QA", limit=2, prompt_chars=3
        )
        assert [each.id for each in samples] == ["1", "5"]
        assert counts == {
            "read": 6,
            "skipped": 0,
            "filtered_out": 3,
            "beyond_limit": 1,
            "kept": 2,
            "prompts_cut": 2,
            "unlabelled": 0,
            "unknown_columns": 0,
            "quality_not_good": 1,
        }

    @pytest.mark.parametrize(("prompt_chars", "prompt", "cut"), [(3, "Who", 1), (13, "Who wrote it?", 0)])
    def test_a_prompt_is_cut_at_so_many_characters(
        self, tmp_path: Path, prompt_chars: int, prompt: str, cut: int
    ) -> None:
        samples, counts, *_ = read(ragtruth(tmp_path, [RESPONSE]), prompt_chars=prompt_chars)
        assert (samples[0].prompt, counts["prompts_cut"]) == (prompt, cut)

    def test_a_flawed_response_that_the_filters_leave_out_does_not_stop_the_others(self, tmp_path: Path) -> None:
        folder = ragtruth(tmp_path, [RESPONSE, RESPONSE | {"id": "28", "model": "other", "response": ""}])
        samples = read(folder, generator="llama-2-7b-chat").samples
        assert len(samples) == 1
        assert "line 2: the response of id '28' is empty" in complaint(read, folder)

    def test_a_folder_needs_both_files(self, tmp_path: Path) -> None:
        assert "has no response.jsonl and no source_info.jsonl" in complaint(read, tmp_path)
        lines(tmp_path / "response.jsonl", RESPONSE)
        assert "has no source_info.jsonl" in complaint(read, tmp_path)

    @pytest.mark.parametrize(
        ("responses", "sources", "file", "parts"),
        [
            ([RESPONSE, RESPONSE | {"id": "28", "source_id": "s9"}], [SOURCE], "response", ["line 2", "'28'", "'s9'"]),
            ([RESPONSE, RESPONSE], [SOURCE], "response", ["line 2", "id '27'", "line 1"]),
            ([RESPONSE], [SOURCE, SOURCE], "source_info", ["line 2", "source_id 's1'", "line 1"]),
            ([without(RESPONSE, "model")], [SOURCE], "response", ["line 1", "'model' is missing"]),
            ([RESPONSE], [without(SOURCE, "prompt")], "source_info", ["line 1", "'prompt' is missing"]),
            ([RESPONSE | {"labels": [{"start": 3}]}], [SOURCE], "response", ["line 1", "'labels' should"]),
            ([RESPONSE | {"labels": [[4, 14]]}], [SOURCE], "response", ["line 1", "[4, 14]", "0 <= start < end <= 13"]),
            ([RESPONSE], [SOURCE | {"prompt": " "}], "response", ["line 1", "the prompt of id '27' is empty"]),
        ],
    )
    def test_faults_name_the_file_and_the_line(
        self, tmp_path: Path, responses: list[Json], sources: list[Json], file: str, parts: list[str]
    ) -> None:
        message = complaint(read, ragtruth(tmp_path, responses, sources))
        assert message.startswith(str(tmp_path / f"{file}.jsonl"))
        assert all(part in message for part in parts), message


FAULTS: dict[str, tuple[Json | str, list[str]]] = {
    "malformed": ('{"id": "b", ', ["line 2: not JSON", "at column 11", "needed are id, prompt"]),
    "two objects": (json.dumps(OWN) * 2, ["line 2: not JSON", "trailing"]),
    "lone surrogate": ('{"id": "\\ud800"}', ["line 2: not JSON"]),
    "too deep": ("[" * 100_000, ["line 2: not JSON", "recursion"]),
    "not an object": ("[1, 2]", ["line 2", "should be an object", "[1, 2]"]),
    "missing column": (
        without(OWN, "response"),
        ["line 2", "column 'response' is missing", "needed are id, prompt, response"],
    ),
    "misspelt column": (
        without(OWN, "response") | {"respnse": "x"},
        ["line 2", "unknown column 'respnse'; did you mean response?"],
    ),
    "misspelt labels": (
        without(OWN, "labels") | {"lables": []},
        ["line 2: unknown column 'lables'; did you mean labels?"],
    ),
    "prompt not text": (OWN | {"prompt": 3}, ["line 2", "'prompt' should be a valid string, got 3"]),
    "response null": (OWN | {"response": None}, ["line 2", "'response' should be a valid string, got None"]),
    "id not text": (OWN | {"id": 1.5}, ["line 2", "'id' should be a valid string, got 1.5"]),
    "id empty": (OWN | {"id": ""}, ["line 2", "'id'", "at least 1 character"]),
    "id taken": (OWN | {"id": "first"}, ["line 2: id 'first' is taken by", "line 1", "each id once"]),
    "prompt empty": (OWN | {"prompt": ""}, ["line 2", "the prompt of id 'a' is empty"]),
    "response blank": (OWN | {"response": " \n"}, ["line 2", "the response of id 'a' is empty"]),
    "label 2": (OWN | {"labels": 2}, ["line 2", "'labels' should be 0, 1 or a list of spans", "got 2"]),
    "label text": (OWN | {"labels": "1"}, ["line 2", "'labels' should be 0, 1 or a list of spans", "got '1'"]),
    "label object": (OWN | {"labels": {"start": 0, "end": 2}}, ["line 2", "'labels' should be 0, 1 or a list"]),
    "span of three": (OWN | {"labels": [[0, 1, 2]]}, ["line 2", "[start, end]", "got [[0, 1, 2]]"]),
    "span without end": (OWN | {"labels": [{"start": 0}]}, ["line 2", '{"start": …, "end": …}', "got [{'start': 0}]"]),
    "span of text": (OWN | {"labels": [["0", 2]]}, ["line 2", "'labels[0][0]' should be a valid integer, got '0'"]),
    "span of halves": (OWN | {"labels": [[0, 2.5]]}, ["line 2", "'labels[0][1]' should be a valid integer"]),
    "span outside": (OWN | {"labels": [[0, 3], [5, 14]]}, ["line 2", "[5, 14]", "allowed: 0 <= start < end <= 13"]),
    "span negative": (OWN | {"labels": [[-1, 3]]}, ["line 2", "[-1, 3]", "allowed: 0 <= start"]),
    "span empty": (OWN | {"labels": [[3, 3]]}, ["line 2", "[3, 3]", "outside its response or empty"]),
    "long value": (OWN | {"labels": "x" * 999}, ["line 2", "got 'xxx", "…"]),
}


class TestBadOwnData:
    @pytest.mark.parametrize(("row", "parts"), FAULTS.values(), ids=FAULTS.keys())
    def test_a_fault_is_one_line_with_file_line_and_what_is_allowed(
        self, tmp_path: Path, row: Json | str, parts: list[str]
    ) -> None:
        message = complaint(read, own(tmp_path, OWN | {"id": "first"}, row))
        assert all(part in message for part in parts), message
        assert len(message) < len(str(tmp_path)) * 2 + 300

    def test_bytes_that_are_not_utf8_are_located(self, tmp_path: Path) -> None:
        path = tmp_path / "latin.jsonl"
        path.write_bytes(json.dumps(OWN).encode() + b'\n\n{"id": "\xe9"}')
        assert "line 3: byte 9 is not UTF-8" in complaint(read, path)

    def test_a_missing_file_names_what_may_stand_there(self, tmp_path: Path) -> None:
        assert "no such file or folder; allowed: a RAGTruth folder, or JSONL" in complaint(read, tmp_path / "no.jsonl")

    @pytest.mark.parametrize("content", ["", "\n \n"])
    def test_an_empty_data_set_is_refused(self, tmp_path: Path, content: str) -> None:
        assert "holds no samples" in complaint(read, own(tmp_path, content))

    def test_a_filter_that_leaves_nothing_names_itself_and_the_values_that_exist(self, tmp_path: Path) -> None:
        path = own(tmp_path, OWN | {"split": "test"}, OWN | {"id": "b", "split": "train"}, OWN | {"id": "c"})
        message = complaint(read, path, split="tset", generator="gpt-4")
        assert "no sample has generator='gpt-4' and split='tset'" in message
        assert "generator: none; split: 'test', 'train'" in message


class TestReleased:
    def test_a_row_is_a_span_and_columns_are_sorted_by_layer_and_head(self, tmp_path: Path) -> None:
        path = released(tmp_path, [RELEASED, RELEASED | {"id": "28", "scores": [], "response_spans": []}])
        records = read_released(path)
        expected = pd.DataFrame(
            {
                "group": ["27", "27"],
                "item": [0, 1],
                "label": [1, 0],
                "length": [9, 4],
                "source": ["s1", "s1"],
                "start": [0, 9],
                "end": [9, 13],
                "ecs_2_0": [0.25, 0.25],
                "ecs_10_2": [0.5, 0.5],
                "pks_3": [0.125, 0.125],
            }
        )
        pd.testing.assert_frame_equal(records.frame, expected)
        assert records.cost is None
        assert records.origin == {
            "kind": "released ReDeEP features",
            "model": "llama-2-7b-chat",
            "data": hashlib.sha256(path.read_bytes()).hexdigest(),
            "counts": {"responses": 1, "responses_without_scores": 1, "items": 2},
        }

    @pytest.mark.parametrize(
        ("change", "parts"),
        [
            ({"hallucination_label": 2}, ["scores[1].hallucination_label", "should be 0 or 1, got 2"]),
            ({"prompt_attention_score": {"(2, 0)": 1.0}}, ["prompt_attention_score", "'(10, 2)' is missing"]),
            ({"parameter_knowledge_scores": {"layer_3": 1.0, "layer_4": 1.0}}, ["'layer_4' is unknown", "1 keys of"]),
            ({"parameter_knowledge_scores": {"layer_3": "x"}}, ["scores[1]", "layer_3", "valid number, got 'x'"]),
            ({"parameter_knowledge_scores": {}}, ["scores[1].parameter_knowledge_scores", "at least 1 item"]),
            (
                {"parameter_knowledge_scores": {"layer_3": float("nan")}},
                ["scores[1]", "column pks_3", "is nan", "finite"],
            ),
            ({"prompt_attention_score": {"(10, 2)": float("-inf"), "(2, 0)": 1.0}}, ["column ecs_10_2", "is -inf"]),
        ],
    )
    def test_a_bad_score_names_its_entry_and_key(self, tmp_path: Path, change: Json, parts: list[str]) -> None:
        message = complaint(read_released, released(tmp_path, [RELEASED | {"scores": [SCORE, SCORE | change]}]))
        assert "[0]" in message
        assert all(part in message for part in parts), message

    @pytest.mark.parametrize(
        ("change", "parts"),
        [
            ({"source_id": None}, ["[1].source_id", "valid string"]),
            ({"scores": None}, ["[1].scores", "valid array"]),
            ({"response_spans": [[0, 9]]}, ["[1] (id '28')", "2 scores of 1 response_spans"]),
            ({"response_spans": [[0, 9], [9, 14]]}, ["response_spans[1] is [9, 14]", "0 <= start < end <= 13"]),
            ({"response_spans": [[0, 9], [9]]}, ["[1].response_spans[1]", "at least 2 items"]),
            ({"id": "27"}, ["id '27'", "more than once", "each id once"]),
        ],
    )
    def test_a_bad_response_names_its_entry_and_key(self, tmp_path: Path, change: Json, parts: list[str]) -> None:
        message = complaint(read_released, released(tmp_path, [RELEASED, RELEASED | {"id": "28"} | change]))
        assert all(part in message for part in parts), message

    @pytest.mark.parametrize(
        ("family", "key", "allowed"),
        [
            ("prompt_attention_score", "2, 0", '"(layer, head)"'),
            ("prompt_attention_score", "(02, 0)", '"(layer, head)"'),
            ("parameter_knowledge_scores", "layer_x", '"layer_<number>"'),
        ],
    )
    def test_keys_that_are_no_places_are_refused(self, tmp_path: Path, family: str, key: str, allowed: str) -> None:
        path = released(tmp_path, [RELEASED | {"scores": [SCORE | {family: {key: 1.0}}] * 2}])
        message = complaint(read_released, path)
        assert f"scores[0].{family}: unknown key {key!r}; allowed: {allowed}" in message

    @pytest.mark.parametrize(
        ("content", "part"),
        [
            ("{", "not JSON"),
            ("\xff", "not JSON"),
            ('{"id": 1}', "this should be a valid array"),
            ("[3]", "'[0]' should be an object"),
            ("[]", "none of its 0 responses has scores"),
        ],
    )
    def test_a_file_that_is_no_list_of_responses_is_refused(self, tmp_path: Path, content: str, part: str) -> None:
        path = tmp_path / "released.json"
        path.write_bytes(content.encode("latin-1"))
        assert part in complaint(read_released, path)

    def test_responses_without_any_score_leave_nothing_to_read(self, tmp_path: Path) -> None:
        path = released(tmp_path, [RELEASED | {"scores": []}])
        assert "none of its 1 responses has scores" in complaint(read_released, path)

    def test_a_file_that_cannot_be_read_is_refused(self, tmp_path: Path) -> None:
        assert "cannot be read" in complaint(read_released, tmp_path / "absent.json")
        assert "cannot be read" in complaint(read_released, tmp_path)


def released_features() -> Path:
    root = Path(os.environ.get("RIGSWEEP_DATA", Path(__file__).parents[2] / "shared" / "data"))
    path = root / "redeep" / "llama2_7b_4bit_chunk.json"
    if not path.is_file():
        pytest.skip(f"the released ReDeEP features are not at {path}; set RIGSWEEP_DATA")
    return path


def published_scores(frame: pd.DataFrame, top_n: int, top_k: int, alpha: float, m: float) -> Any:
    """The published protocol, written from its description: columns are ranked and scaled over all spans."""

    def scaled_sum(prefix: str, truth: Any, best: int) -> Any:
        columns = [name for name in frame.columns if name.startswith(prefix)]
        ranked = sorted(columns, key=lambda name: -roc_auc_score(truth, frame[name]))
        total = frame[ranked[:best]].sum(axis=1)
        return (total - total.min()) / (total.max() - total.min())

    return m * scaled_sum("pks_", frame["label"], top_k) - alpha * scaled_sum("ecs_", 1 - frame["label"], top_n)


@pytest.mark.real_data
def test_the_released_features_give_the_published_figures() -> None:
    records = read_released(released_features())
    frame = records.frame
    assert records.origin["counts"] == {"responses": 450, "responses_without_scores": 0, "items": 1159}
    assert frame["group"].nunique() == 450
    assert sum(name.startswith("ecs_") for name in frame.columns) == 32
    assert sum(name.startswith("pks_") for name in frame.columns) == 1

    spans = frame.assign(score=published_scores(frame, top_n=3, top_k=4, alpha=0.6, m=1))
    responses = spans.groupby("group", sort=False).agg(score=("score", "mean"), label=("label", "max"))
    assert roc_auc_score(responses["label"], responses["score"]) == pytest.approx(0.6885469342604298, abs=1e-9)
    assert np.corrcoef(responses["label"], responses["score"])[0, 1] == pytest.approx(0.32314327508344176, abs=1e-9)
    assert roc_auc_score(spans["label"], spans["score"]) == pytest.approx(0.5984646934929609, abs=1e-9)
