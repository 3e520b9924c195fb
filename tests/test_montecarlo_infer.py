"""Nested dropout gives the estimator it names, whatever the batch, the worker, the trunk or the neighbours."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from experiments.models import digits, files, train_digits_clip, vision
from experiments.models.vision import VisionModel
from experiments.montecarlo import MONTECARLO
from experiments.montecarlo.bench import dropout as bench
from experiments.montecarlo.inference import compute, decoding, images, passes, pixels
from experiments.montecarlo.inference.dropout import Dropout, Site, attached, choose, key
from experiments.montecarlo.inference.params import MontecarloInfer
from harness.measuring.cost import Cost
from harness.running import hardware, run
from harness.running.settings import resolve
from harness.stage import BadInput

COUNT = 6


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few digits of two classes."""
    target = tmp_path_factory.mktemp("images")
    found, labels, _ = digits.load("held_out")
    for label in (3, 8):
        (target / digits.NAMES[label]).mkdir()
        for i, image in enumerate(found[labels == label][: COUNT // 2]):
            digits.enlarge(image).save(target / digits.NAMES[label] / f"{i}.png")
    return target


def execute(**given: Any) -> run.Result:
    fixed = {"passes": "2,5", "mc_trials": "2", "ablation": "0", "dropout": "0.1", "cache": "off"}
    plan = resolve(MONTECARLO, fixed | {k: str(v) for k, v in given.items()}, hardware.load_profiles())
    return run.execute(plan)


def rows(**given: Any) -> pd.DataFrame:
    return execute(**given).records.frame


def values(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.set_index(["image", "variant", "trial", "passes"]).filter(regex="^u_").sort_index()


def require_alike(ours: pd.DataFrame, theirs: pd.DataFrame, tolerance: float) -> None:
    """Equal but for rounding, which is in proportion to a column: a variance of two near neighbours is all rounding."""
    first, second = values(ours), values(theirs)
    assert first.index.equals(second.index)
    for name, column in first.items():
        np.testing.assert_allclose(
            second[name], column, rtol=tolerance, atol=tolerance * column.median(), err_msg=str(name)
        )


def builtin(precision: str = "fp32", **more: Any) -> VisionModel:
    return vision.load("builtin", "open_clip", None, precision, "cpu", **more)


# ---- the encoders ----


class Timm(nn.Module):
    """An image tower as open_clip wraps one of timm's, as it does for SigLIP2."""

    def __init__(self) -> None:
        super().__init__()
        from timm.models.vision_transformer import VisionTransformer

        torch.manual_seed(0)
        self.trunk = VisionTransformer(
            32, 8, embed_dim=32, depth=3, num_heads=4, num_classes=0, global_pool="map", class_token=False
        )
        self.head = nn.Sequential()

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        embeddings: torch.Tensor = self.head(self.trunk(pixels))
        return embeddings


class Convolution(nn.Module):
    """A tower of no known layout."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.last = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 16)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        embeddings: torch.Tensor = self.last(self.conv(pixels).amax((2, 3)))
        return embeddings


def tower(visual: nn.Module) -> VisionModel:
    def no_text(captions: list[str]) -> torch.Tensor:
        raise NotImplementedError

    built = vision.Built(visual.eval(), visual, preprocess, no_text, 1.0)
    return vision.assemble("tiny", built, torch.device("cpu"), torch.float32)


def preprocess(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(image.resize((32, 32)), np.float32)).permute(2, 0, 1) / 128 - 1


@pytest.fixture(scope="session")
def siglip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny SigLIP as transformers saves one, without a tokenizer."""
    from transformers import SiglipConfig, SiglipImageProcessor, SiglipModel

    target = tmp_path_factory.mktemp("siglip")
    torch.manual_seed(0)
    tiny = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    config = SiglipConfig(
        text_config=tiny | {"vocab_size": 100}, vision_config=tiny | {"image_size": 32, "patch_size": 8}
    )
    SiglipModel(config).save_pretrained(target)
    SiglipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(target)
    return target


@pytest.mark.parametrize("name", ["open_clip", "timm", "transformers", "another"])
def test_an_encoder_taken_apart_is_the_encoder(name: str, siglip: Path) -> None:
    if name == "transformers":
        model = vision.load(str(siglip), "transformers", None, "fp32", "cpu")
        whole: Any = lambda pixels: model.visual(pixels).pooler_output  # noqa: E731
    else:
        model = builtin() if name == "open_clip" else tower(Timm() if name == "timm" else Convolution())
        whole = model.visual
    batch = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = whole(batch)
        for depth in range(len(model.blocks) + 1):
            torch.testing.assert_close(model.tail(model.trunk(batch, depth), depth), expected)


def test_attention_written_out_is_the_same_attention() -> None:
    batch = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(builtin(split_attention=True)(batch), builtin()(batch), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"name": "ViT-B-33"}, "no such architecture; did you mean ViT-B-32"),
        ({"name": "ViT-B-32"}, "pretrained is needed: a file of weights, or a tag of ViT-B-32: openai"),
        ({"name": "./nowhere"}, "no such folder"),
        ({"name": "builtin", "library": "transformers"}, "needs its config.json, which the folder has not; library=o"),
        ({"name": "@siglip"}, "library=open_clip needs its open_clip_config.json, which the folder has not; library=t"),
        ({"name": "@siglip", "library": "transformers", "pretrained": "x"}, "pretrained = x: library=transformers"),
        ({"name": "google/siglip2-base-patch16-224", "library": "transformers"}, "transformers cannot load it"),
    ],
)  # fmt: skip
def test_an_encoder_that_is_not_there_is_refused_and_none_is_put_in_its_place(
    given: dict[str, str], said: str, siglip: Path
) -> None:
    name = given["name"].replace("@siglip", str(siglip))
    with pytest.raises(BadInput) as caught:
        vision.load(name, given.get("library", "open_clip"), given.get("pretrained"), "fp32", "cpu")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_precision_that_the_device_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    with pytest.raises(BadInput, match="precision = bf16: cuda cannot: it has no bf16 arithmetic"):
        vision.require_precision("bf16", "cuda")


# ---- the masks ----


def dropout(model: VisionModel, sites: str, p: float, seed: int = 0) -> Any:
    return attached(model, sites, p, seed, torch.randn(2, 3, 32, 32))


def masks(switched: Dropout, names: list[str], trial: int = 0, number: int = 1) -> list[np.ndarray[Any, Any]]:
    """Of each site, which entries (b, size) are dropped."""
    switched.draw(torch.tensor([key(name) for name in names]), trial, number)
    found = []
    for site in switched.sites:
        assert site.dropped is not None
        flat = torch.zeros(len(names) * site.size + 1, dtype=torch.bool)
        flat[site.dropped] = True
        found.append(flat[:-1].view(len(names), site.size).numpy())
    return found


@pytest.mark.parametrize("p", [0.01, 0.1, 0.5, 0.9])
def test_every_entry_is_dropped_with_the_probability_asked_for_and_on_its_own(p: float) -> None:
    with dropout(builtin(), "mlp-down", p) as switched:
        found = np.concatenate([each.ravel() for t in range(4) for each in masks(switched, list("abcdefgh"), t)])
        n = len(found)
        assert abs(found.mean() - p) < 5 * math.sqrt(p * (1 - p) / n)
        pairs = (found[1:] & found[:-1]).mean()  # neighbours know nothing of each other
        assert abs(pairs - p**2) < 5 * math.sqrt(p**2 / n)
        per_image = np.stack(
            [each.sum(axis=1) for t in range(40) for each in masks(switched, list("abcdefgh"), t)]
        ).ravel()
        size = switched.sites[0].size
        assert per_image.var() == pytest.approx(size * p * (1 - p), rel=0.25)
        last = np.concatenate(
            [each[:, -8:].ravel() for t in range(40) for each in masks(switched, list("abcdefgh"), t)]
        )
        assert abs(last.mean() - p) < 5 * math.sqrt(p * (1 - p) / len(last))  # up to the last entry


def test_masks_differ_by_seed_trial_pass_site_and_image_and_by_nothing_else() -> None:
    model = builtin()
    with dropout(model, "mlp-down", 0.3) as switched:
        base = masks(switched, ["a", "b"])
        assert all((ours == theirs).all() for ours, theirs in zip(base, masks(switched, ["a", "b"]), strict=True))
        among_others = masks(switched, ["c", "b", "a"])
        for ours, theirs in zip(base, among_others, strict=True):
            assert (ours == theirs[[2, 1]]).all()
        others = [base[0][[1]], base[1][[0]], masks(switched, ["a"], 1)[0], masks(switched, ["a"], 0, 2)[0]]
    with dropout(model, "mlp-down", 0.3, seed=1) as switched:
        others.append(masks(switched, ["a"])[0])
    for other in others:
        assert 0.3 < (base[0][[0]] != other).mean() < 0.54  # 2 p (1 - p) = 0.42 of independent ones


def test_what_is_kept_is_scaled_so_that_the_mean_stays() -> None:
    site = Site("x", nn.Identity(), 0, size=4)
    site.dropped = torch.tensor([1, 6, 8])  # 8: none
    assert site.apply(torch.ones(2, 4), 1.25).tolist() == [[1.25, 0, 1.25, 1.25], [1.25, 1.25, 0, 1.25]]
    site.dropped = None
    assert site.apply(torch.ones(2, 4), 1.25).tolist() == [[1.0] * 4] * 2


# ---- the sites ----


@pytest.mark.parametrize("sites", ["attn.out_proj", "all-linear", "last-1"])
def test_a_site_that_never_changes_the_output_is_named(sites: str) -> None:
    said = "do not change the embedding: transformer.resblocks.*attn.out_proj.*attention=split"
    with pytest.raises(BadInput, match=said), dropout(builtin(), sites, 0.1):
        pass


def test_a_site_that_mixes_images_is_named() -> None:
    class Mixing(Convolution):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return super().forward(pixels.flip(0)).flip(0) + self.last(self.conv(pixels).amax((2, 3)).flip(0))

    with pytest.raises(BadInput, match=r"mix the images of a batch.*last"), dropout(tower(Mixing()), "last", 0.1):
        pass


@pytest.mark.parametrize(
    ("sites", "count", "depth"),
    [
        ("all-linear", 25, 0),
        ("mlp-down", 4, 0),
        ("last-2", 12, 2),
        ("last-1", 6, 3),
        ("projection", 1, 4),
        (r"3\.mlp", 2, 3),
    ],
)
def test_presets_name_the_layers_they_say(sites: str, count: int, depth: int) -> None:
    with dropout(builtin(split_attention=True), sites, 0.1) as switched:
        assert (len(switched.sites), switched.depth) == (count, depth)
        assert all(site.size > 0 for site in switched.sites)


@pytest.mark.parametrize(
    ("sites", "said"),
    [("last-5", "the encoder has 4 blocks"), ("mlq", "fits no linear layer"), ("(", "neither a preset nor a regular")],
)
def test_sites_that_are_not_there_are_refused(sites: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        choose(builtin(), sites)


def test_every_site_of_siglip_is_alive_by_both_libraries(siglip: Path) -> None:
    """But for the pooling head's, which torch's MultiheadAttention hides until it is split."""
    model = vision.load(str(siglip), "transformers", None, "fp32", "cpu")
    with pytest.raises(BadInput, match=r"head\.attention\.out_proj"), dropout(model, "all-linear", 0.1):
        pass
    model = vision.load(str(siglip), "transformers", None, "fp32", "cpu", split_attention=True)
    with dropout(model, "all-linear", 0.1) as switched:
        assert len(switched.sites) == 3 * 6 + 6
    with dropout(tower(Timm()), "all-linear", 0.1) as switched:
        assert any("attn_pool" in site.name for site in switched.sites)


# ---- the statistics ----


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 12), st.integers(1, 4), st.integers(2, 6), st.integers(0, 1000))
def test_streamed_statistics_are_those_of_all_embeddings_at_once(t: int, b: int, d: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    plain = rng.normal(1, 1, (b, d))
    all_passes = plain + rng.normal(0, 0.1, (t, b, d))
    streamed = passes.Streamed(torch.from_numpy(plain))
    for each in all_passes:
        streamed.add(torch.from_numpy(each))
    unit = all_passes / np.linalg.norm(all_passes, axis=2, keepdims=True)
    middle = plain / np.linalg.norm(plain, axis=1, keepdims=True)
    cosine = np.clip((unit * middle).sum(axis=2), -1, 1)
    expected = {
        "trace_pre": all_passes.var(axis=0).mean(axis=1),
        "trace_post": unit.var(axis=0).mean(axis=1),
        "trace_weighted": (all_passes.var(axis=0) * middle**2).sum(axis=1),
        "largest": all_passes.var(axis=0).max(axis=1),
        "norm_variance": np.linalg.norm(all_passes, axis=2).var(axis=0),
        "angular_variance": np.arccos(cosine).var(axis=0),
        "cosine_deviation": (1 - cosine).mean(axis=0),
    }
    found = {name: value.numpy() for name, value in streamed.statistics().items()}
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-6, atol=1e-9, err_msg=name)


def test_the_stage_computes_what_a_plain_loop_over_the_same_masks_does(folder: Path) -> None:
    frame = rows(images=folder, passes="3", mc_trials=2, batch_images=4, sites=r"resblocks\.[12]\.mlp")
    model = builtin()
    (item,) = [each for each in images.find(str(folder)) if each.name == "three/1.png"]
    batch = model.preprocess(item.decode().image)[None]
    embeddings = []
    with dropout(model, r"resblocks\.[12]\.mlp", 0.1) as switched, torch.no_grad():
        for number in (1, 2, 3):
            switched.draw(torch.tensor([key(item.name)]), 1, number)
            embeddings.append(model.visual(batch)[0].double().numpy())
    found = frame[(frame["image"] == item.name) & (frame["trial"] == 1)]["u_trace_pre"].item()
    assert found == pytest.approx(np.var(embeddings, axis=0).mean(), rel=1e-4)


# ---- what must not matter ----


def test_a_smaller_number_of_passes_is_the_first_passes_of_a_larger(folder: Path) -> None:
    both, small = rows(images=folder, passes="2,5"), rows(images=folder, passes="2")
    assert len(both) == 2 * len(small)
    pd.testing.assert_frame_equal(values(both[both["passes"] == 2]), values(small), rtol=1e-12, atol=0)


def test_an_image_has_the_same_numbers_whatever_lies_beside_it(folder: Path, tmp_path: Path) -> None:
    names = ["eight/2.png", "three/0.png"]
    listed = tmp_path / "some.txt"
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    listed.write_text("".join(f"{name}\t{name[:5]}\n" for name in names))
    all_of_them = rows(images=folder)
    require_alike(all_of_them[all_of_them["image"].isin(names)], rows(images=listed), 1e-4)


def test_another_seed_is_another_result(folder: Path) -> None:
    ours, theirs = (values(rows(images=folder, seed=seed)) for seed in (0, 1))
    assert not np.isclose(ours, theirs, rtol=1e-3).any()


def test_half_precision_gives_nearly_the_same(folder: Path) -> None:
    given = {"images": folder, "passes": "32", "mc_trials": 2}
    ours, lower = rows(**given), execute(**given, precision="bf16", precision_check=2)
    theirs = values(lower.records.frame)
    moved = np.abs(theirs["u_trace_pre"] / values(ours)["u_trace_pre"] - 1)
    assert moved.median() < 0.2
    # The audit's own comparison is nearly that, over the images it has looked at: it sees the same rounded pixels.
    looked_at = ["eight/0.png", "three/2.png"]
    said = lower.records.origin["checked"]
    assert said["trace_pre"] == pytest.approx(moved.loc[looked_at, :, 0, 32].median(), rel=0.5)
    assert "precision_changes_uncertainty" in {finding.code for finding in lower.audit.findings}


@pytest.mark.slow
def test_compiled_blocks_give_the_same(folder: Path) -> None:
    ours, theirs = rows(images=folder), rows(images=folder, compile="true")
    require_alike(ours, theirs, 1e-3)


def test_a_run_that_is_interrupted_computes_no_batch_twice(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RIGSWEEP_CACHE", str(tmp_path))
    given = {"images": folder, "batch_images": "2", "cache": "use"}
    real = compute.Encoder.compute
    parts: list[Any] = []

    def stopping_at(count: int) -> Any:
        def run(*arguments: Any) -> Any:
            for part in real(*arguments):
                if len(parts) == count:
                    raise KeyboardInterrupt
                parts.append(part)
                yield part

        return run

    monkeypatch.setattr(compute.Encoder, "compute", stopping_at(3))
    with pytest.raises(KeyboardInterrupt):
        rows(**given)
    monkeypatch.setattr(compute.Encoder, "compute", stopping_at(99))
    rows(**given)
    units = [unit for part in parts for unit in part.done]
    assert len(parts) == 6  # three batches of two images, two trials each
    assert len(set(units)) == len(units) == 2 * COUNT


@pytest.mark.parametrize("raised", [TypeError("Missing dimensions"), IndexError(), KeyError("x"), OSError("truncated")])
def test_whatever_a_damaged_file_makes_the_decoder_raise_the_others_are_computed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, raised: Exception
) -> None:
    real = decoding.decode

    def decode(path: Path) -> decoding.Decoded:
        if path.name == "1.png":
            raise raised
        return real(path)

    monkeypatch.setattr(decoding, "decode", decode)
    records = execute(images=folder, decode="every_run").records
    assert set(records.origin["broken"]) == {"eight/1.png", "three/1.png"}
    assert records.origin["counts"]["errors"] == 2
    assert records.frame["image"].nunique() == COUNT - 2


# ---- what comes out beside the statistics ----


def test_records_hold_the_plain_embedding_a_thumbnail_and_the_zero_shot_answer(folder: Path) -> None:
    result = execute(images=folder, ablation=2)
    frame, cost = result.records.frame, result.records.cost
    once = frame.dropna(subset="embedding")
    assert len(once) == COUNT == once["image"].nunique()
    assert np.linalg.norm(once["embedding"].iloc[0]) > 0
    assert frame.groupby("variant")["image"].nunique().to_dict() == {"original": COUNT, "blur": 2, "downsample": 2}
    assert frame["class"].unique().tolist() == ["eight", "three"]
    assert result.report.metrics["accuracy"] >= 0.5
    assert isinstance(cost, Cost)
    assert cost.samples == (COUNT + 4) * 2 * 5  # images x passes
    assert result.report.figures["images"]() is not None


def test_images_without_classes_have_no_answer(folder: Path, tmp_path: Path) -> None:
    for path in folder.rglob("*.png"):
        (tmp_path / f"{path.parent.name}{path.name}").write_bytes(path.read_bytes())
    result = execute(images=tmp_path)
    assert "entropy" not in result.records.frame
    assert "auroc_error" in result.report.undefined


def test_the_built_in_encoder_is_as_good_as_its_recipe_says_on_digits_it_has_not_seen() -> None:
    recipe = json.loads((files.ENCODER / "recipe.json").read_text())
    assert train_digits_clip.measure(train_digits_clip.DIGITS, files.ENCODER) == pytest.approx(recipe["accuracy"])
    assert 0.8 < recipe["accuracy"]["held_out"] < 0.97  # errors enough to predict
    parts = [set(digits.load(part)[2]) for part in ("train", "held_out")]
    assert not parts[0] & parts[1]
    assert sum(path.stat().st_size for path in files.ENCODER.iterdir()) < 3e6


# ---- which images there are ----


def test_the_default_set_is_some_of_all_digits_with_each_class_as_often_as_among_all() -> None:
    some, everything = images.find(MontecarloInfer().images), images.find("builtin-all")
    assert (len(some), len(everything)) == (120, 500)
    assert set(some) < set(everything)
    share = len(some) / len(everything)
    counts = [Counter(item.label for item in items) for items in (some, everything)]
    assert counts[0].keys() == counts[1].keys() == set(digits.NAMES)
    assert all(abs(counts[0][name] - share * counts[1][name]) < 1 for name in digits.NAMES)


def test_some_digits_are_seen_as_they_are_among_all() -> None:
    few = {"batch_images": "64", "mc_trials": "2", "passes": "2"}
    some, everything = rows(images="builtin", **few), rows(images="builtin-all", **few)
    require_alike(some, everything[everything["image"].isin(some["image"])], 1e-4)
    assert everything.drop_duplicates("image")["wrong"].mean() == pytest.approx(0.12)  # by the digits' own caption
    assert some.drop_duplicates("image")["wrong"].sum() >= 10  # else their AUROC has no interval


def test_a_name_of_no_set_is_refused_in_a_line_that_names_what_there_is() -> None:
    with pytest.raises(BadInput) as raised:
        images.find("builtin-al")
    said = str(raised.value)
    assert "images = builtin-al: no such folder" in said
    assert "allowed: `builtin` (120 digits), `builtin-all` (500 digits), a folder of images" in said
    assert "\n" not in said


# ---- images of all kinds ----


def test_unusual_images_are_read_and_broken_ones_are_named_and_counted(folder: Path, tmp_path: Path) -> None:
    grey = np.asarray(Image.open(folder / "three" / "0.png").convert("L"))
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "sixteen.png")
    Image.fromarray(grey).convert("CMYK").save(tmp_path / "cmyk.jpg")
    Image.fromarray(grey).convert("RGBA").save(tmp_path / "alpha.png")
    Image.fromarray(grey).convert("P").save(tmp_path / "palette.gif")
    frames = [Image.fromarray(grey), Image.fromarray(255 - grey)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    (tmp_path / "broken.png").write_bytes((tmp_path / "grey.png").read_bytes()[:90])
    (tmp_path / "text.jpg").write_text("no image")
    result = execute(images=tmp_path)
    counts = result.records.origin["counts"]
    assert (counts["kept"], counts["errors"], counts["sixteen_bit"], counts["animated"]) == (6, 2, 1, 1)
    assert result.records.origin["broken"].keys() == {"broken.png", "text.jpg"}
    said = {finding.code: finding.message for finding in result.audit.findings}
    assert "broken.png" in said["images_broken"]
    # Sixteen bits are scaled, not clipped, and the first frame is the one looked at.
    for name in ("sixteen.png", "alpha.png", "palette.gif", "moving.gif"):
        np.testing.assert_allclose(np.asarray(decoding.decode(tmp_path / name).image)[..., 0], grey, atol=1)


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda folder: None, "there is no image"),
        (lambda folder: (folder / "a.png").write_bytes(b""), "none of 1 can be read; a.png: "),
        (lambda folder: (folder / "list.txt").write_text("a.png\n"), "list.txt, line 1: a.png: no such file"),
        (lambda folder: (folder / "list.txt").write_text("list.txt\tx\nlist.txt\n"), "some lines have a class"),
        (lambda folder: (folder / "list.txt").write_text("list.txt\nlist.txt\n"), "stands there twice"),
    ],
    ids=["none", "broken", "absent", "classes", "twice"],
)
def test_images_that_cannot_be_had_are_one_clear_line(tmp_path: Path, build: Any, said: str) -> None:
    build(tmp_path)
    listed = tmp_path / "list.txt"
    with pytest.raises(BadInput) as caught:
        execute(images=listed if listed.exists() else tmp_path)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"dropout": 0}, "dropout = 0 (given): must be greater than 0"),
        ({"mc_trials": 1}, "mc_trials = 1 (given): must be greater than or equal to 2"),
        ({"passes": "1,4"}, "one pass has no variance"),
        ({"passes": "4;8"}, "passes = 4;8 (given): must be text that matches"),
        ({"judged_passes": 6}, "judged_passes = 6: the records hold 2, 5"),
        ({"caption": "a digit"}, "must hold {}"),
        ({"pixels": "pinned"}, "only CUDA has pinned memory"),
        ({"images": "/nowhere"}, "no such folder, IDX or .txt file"),
    ],
    ids=str,
)
def test_a_wrong_setting_is_one_clear_line(given: dict[str, Any], said: str, folder: Path) -> None:
    with pytest.raises(BadInput) as caught:
        execute(**{"images": folder} | given)
    assert said in " ".join(str(caught.value).split())


def test_pixels_that_do_not_fit_move_to_a_file_and_say_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels, "_free", lambda place, device: 1e4)
    result = execute(images=folder)
    said = {finding.code: finding.message for finding in result.audit.findings}["pixels_moved"]
    assert "more than 50% of" in said
    assert said.endswith("they are kept in a temporary file")
    with pytest.raises(BadInput, match=r"pixels = device: pixels take .* GiB, more than 50% .*; pixels=auto finds"):
        execute(images=folder, pixels="device")


# ---- the benchmark ----


def test_a_row_of_the_benchmark_holds_both_sides_and_the_share_of_the_encoder(tmp_path: Path) -> None:
    items = bench.write(tmp_path, 3)
    for case in (bench.Case("last-1", "fp32", 2, 64, 2), bench.Case("mlp-down", "bf16", 2, 64, 2)):
        row = bench.run(case, "cpu", 1, items)
        assert row["ratio"] == pytest.approx(row["images_x_passes_per_min"] / row["naive_images_x_passes_per_min"])
        assert row["images_x_passes_per_min"] == pytest.approx(60 * 3 * bench.TRIALS * bench.PASSES / row["seconds"])
        assert 0 < row["share_in_encoder"] < 1
