"""An image tower is run in parts that are proven to be the tower, or as one block and says so, or is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from docs import encoders
from experiments.models import files, towers, vision
from experiments.models.vision import Built, VisionModel
from experiments.montecarlo.inference.dropout import attached, choose
from harness.stage import BadInput
from tests.test_montecarlo_infer import Timm, execute, folder, preprocess  # noqa: F401

ROOT = Path(__file__).parent.parent
# One architecture of open_clip of each layout.
NAMES = [
    "ViT-B-32", "ViT-H-14-worldwide-quickgelu", "ViT-bigG-14-CLIPA", "coca_ViT-B-32", "EVA01-g-14", "EVA02-B-16",
    "EVA02-E-14", "PE-Core-B-16", "ViT-B-16-SigLIP", "vit_relpos_medium_patch16_cls_224", "vit_medium_patch16_gap_256",
    "RN50", "convnext_tiny", "swin_base_patch4_window7_224", "MobileCLIP2-S0",
]  # fmt: skip


def built(visual: nn.Module, encode: Callable[[torch.Tensor], torch.Tensor] | None = None) -> Built:
    return Built(visual.eval(), encode or visual, preprocess, lambda captions: torch.zeros(len(captions), 1), 1.0)


def assembled(visual: nn.Module, **more: Any) -> VisionModel:
    return vision.assemble("tiny", built(visual, **more), torch.device("cpu"), torch.float32)


class Rotating(Timm):
    """A tower whose blocks want more than states."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        states = self.trunk.norm_pre(self.trunk._pos_embed(self.trunk.patch_embed(pixels)))
        for block in self.trunk.blocks:
            states = block(states, attn_mask=torch.eye(states.shape[1]))
        return self.head(self.trunk.forward_head(self.trunk.norm(states)))  # type: ignore[no-any-return]


class Looking(Timm):
    """A tower whose head looks at the picture once more, past its blocks."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return super().forward(pixels) + pixels.mean((1, 2, 3))[:, None]


class Adding(Timm):
    """A tower that adds between its blocks, so that no block reads what the one before gives."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        states = self.trunk.patch_embed(pixels)
        for block in self.trunk.blocks:
            states = block(states) + 1
        return states.mean(1)  # type: ignore[no-any-return]


class Reusing(Timm):
    """A tower that goes through its blocks twice."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        states = self.trunk.patch_embed(pixels)
        for block in (*self.trunk.blocks, *self.trunk.blocks):
            states = block(states)
        return states.mean(1)  # type: ignore[no-any-return]


class Transposed(Timm):
    """A tower whose states do not begin with the pictures."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        states = self.trunk.patch_embed(pixels).transpose(0, 1)
        for block in self.trunk.blocks:
            states = block(states)
        return states.mean(0)  # type: ignore[no-any-return]


# ---- taken apart ----


@pytest.mark.parametrize("name", NAMES)
def test_a_tower_of_open_clip_in_parts_gives_its_own_embeddings_at_every_cut_for_any_batch(name: str) -> None:
    made = encoders.build(name)
    assert made is not None
    model = vision.assemble(name, made, torch.device("cpu"), torch.float32)
    assert not model.tower.whole
    assert len(model.blocks) > 2
    pixels = torch.randn(3, *model.tower.shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for batch in (pixels, pixels[:1]):
            expected = made.encode_image(batch)
            for depth in range(len(model.blocks) + 1):
                found = model.tail(model.trunk(batch, depth), depth)
                torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(made.encode_image(pixels), model(pixels), atol=0, rtol=0)


def test_what_lies_before_a_cut_is_not_computed_again() -> None:
    model = assembled(Timm())
    called: list[nn.Module] = []
    states = model.trunk(torch.randn(2, 3, 32, 32), 2)
    model.tail(states, 2)
    computing = {part: type(part).forward for part in (nn.Conv2d, nn.Linear) for part in model.visual.modules()}
    handles = [
        part.register_forward_hook(lambda module, *_: called.append(module))
        for part in computing
        if isinstance(part, nn.Conv2d | nn.Linear)
    ]
    model.tail(states, 2)
    for handle in handles:
        handle.remove()
    after = {part for block in model.blocks[2:] for part in block.modules()}
    assert any(part in after for part in called)
    assert not any(part in called for block in model.blocks[:2] for part in block.modules())
    assert not any(isinstance(part, nn.Conv2d) for part in called)


def test_a_tower_whose_blocks_want_more_than_states_is_taken_apart() -> None:
    model = assembled(Rotating())
    assert (len(model.blocks), model.tower.whole) == (3, "")


def test_a_part_before_the_blocks_has_dropout_in_every_pass() -> None:
    class Linear(Timm):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(32, 32)

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return super().forward(self.first(pixels))

    model = assembled(Linear())
    assert [site.depth for site in choose(model, "^first$")] == [0]
    assert [site.depth for site in choose(model, r"blocks\.1\.mlp\.fc2|^first$")] == [1, 0]


@pytest.mark.parametrize("name", ["coca_ViT-B-32", "ViT-B-32"])
def test_attention_written_out_reaches_every_layer_of_the_tower(name: str) -> None:
    made = encoders.build(name)
    assert made is not None
    model = vision.assemble(name, made, torch.device("cpu"), torch.float32, split_attention=True)
    with attached(model, "all-linear", 0.1, 0, torch.randn(2, *model.tower.shape)) as switched:
        assert any("attn.out_proj" in site.name for site in switched.sites)
        assert any("attn_pool" in site.name for site in switched.sites) == (name == "coca_ViT-B-32")


def test_below_fp32_the_parts_give_what_the_whole_gives() -> None:
    made = encoders.build("EVA02-B-16")
    assert made is not None
    model = vision.assemble("eva", made, torch.device("cpu"), torch.bfloat16)
    pixels = torch.randn(2, *model.tower.shape).bfloat16()
    with torch.inference_mode(), model.computing():
        torch.testing.assert_close(model.tail(model.trunk(pixels, 2), 2), model(pixels))


# ---- one block, or refused ----


@pytest.mark.parametrize(
    ("visual", "said"),
    [
        (Adding, "none read what the one before gives"),
        (Reusing, "none read what the one before gives"),
        (Transposed, "none read what the one before gives"),
        (Looking, "cut behind block 1, its embeddings differ by"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(3072, 8)), "none hold a good part of its weights"),
    ],
)
def test_a_tower_whose_parts_do_not_add_up_runs_as_one_block_and_says_why(
    visual: Callable[[], nn.Module], said: str
) -> None:
    torch.manual_seed(0)
    made = visual()
    model = assembled(made)
    assert said in model.tower.whole
    assert list(model.blocks) == [made]
    assert {site.depth for site in choose(model, "all-linear")} == {0}
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(model.tail(model.trunk(pixels, 0), 0), made.eval()(pixels))
    with pytest.raises(BadInput, match=r"sites = last-1: the encoder runs as one block, for .*; name its layers"):
        choose(model, "last-1")


def test_a_run_of_one_block_gives_the_numbers_of_the_parts_and_tells_it(
    folder: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = {"images": folder, "sites": r"resblocks\.3\.mlp"}
    parts = execute(**given)
    monkeypatch.setattr(towers, "_runs", lambda _: iter(()))
    one = execute(**given)
    said = {finding.code: finding.message for finding in one.audit.findings}
    assert "trunk=once gains nothing" in said["encoder_in_one_block"]
    assert "encoder_in_one_block" not in {finding.code for finding in parts.audit.findings}
    assert (parts.records.origin["blocks_before_sites"], one.records.origin["blocks_before_sites"]) == (3, 0)
    ours, theirs = (each.records.frame.filter(regex="^u_").to_numpy() for each in (parts, one))
    assert torch.allclose(torch.tensor(ours), torch.tensor(theirs), rtol=1e-4)


@pytest.mark.parametrize(
    ("encode", "said"),
    [
        (lambda visual: lambda pixels: visual(pixels) * 1.01, r"embeddings that differ by 1.0% from its"),
        (lambda visual: lambda pixels: visual(pixels)[:, :8], r"embeddings that differ by inf% from its"),
    ],
)
def test_a_tower_that_gives_other_embeddings_than_its_library_is_refused(encode: Any, said: str) -> None:
    visual = Timm()
    with pytest.raises(BadInput, match=f"^encoder = tiny: its image tower alone gives {said}"):
        assembled(visual, encode=encode(visual))


def test_a_tower_that_is_not_a_number_is_refused() -> None:
    visual = Timm()
    nn.init.constant_(visual.trunk.norm.weight, float("nan"))
    with pytest.raises(BadInput, match="encoder = tiny: its image tower alone gives"):
        assembled(visual)


def test_pictures_of_another_size_than_the_towers_are_refused_with_both_sizes() -> None:
    larger = Built(Timm().eval(), Timm().eval(), lambda image: preprocess(image).repeat(1, 2, 1), None, 1.0)  # type: ignore[arg-type]
    with pytest.raises(BadInput) as caught:
        vision.assemble("tiny", larger, torch.device("cpu"), torch.float32)
    said = str(caught.value)
    assert "its preprocessing makes pictures of 64 x 32 pixels, and its image tower takes 32 x 32" in said
    assert "\n" not in said


@pytest.mark.parametrize("timm", [True, False], ids=["timm", "open_clip"])
def test_a_folder_that_names_another_size_than_its_towers_is_refused_with_both_or_makes_it(
    tmp_path: Path, timm: bool
) -> None:
    import open_clip
    from safetensors.torch import save_file

    text = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    own = {"image_size": 32, "patch_size": 8, "width": 32, "head_width": 16, "layers": 2}
    seeing = {"timm_model_name": "vit_tiny_patch16_224", "image_size": 96, "timm_pool": "token", "timm_proj": "linear"}
    config: dict[str, Any] = {
        "model_cfg": {"embed_dim": 16, "vision_cfg": seeing if timm else own, "text_cfg": text},
        "preprocess_cfg": {} if timm else {"size": [64, 64]},
    }
    (tmp_path / "sized.json").write_text(json.dumps(config["model_cfg"]))
    open_clip.add_model_config(tmp_path / "sized.json")
    model = open_clip.create_model("sized", load_weights=False)
    save_file(model.state_dict(), tmp_path / "open_clip_model.safetensors")
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    if not timm:  # open_clip makes pictures of its own tower's size whatever the folder says
        assert vision.load(str(tmp_path), "open_clip", None, "fp32", "cpu").tower.shape == (3, 32, 32)
        return
    with pytest.raises(BadInput, match=r"makes pictures of 96 x 96 pixels, and its image tower takes 224 x 224;"):
        vision.load(str(tmp_path), "open_clip", None, "fp32", "cpu")


# ---- CLIP as transformers writes it ----


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny CLIP as transformers saves one, with a tokenizer."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizerFast

    target = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    tiny = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    words = {"<|startoftext|>": 0, "<|endoftext|>": 1} | {f"{c}</w>": i for i, c in enumerate("abcdefgh", 2)}
    tokens = {"vocab_size": len(words), "bos_token_id": 0, "eos_token_id": 1, "max_position_embeddings": 12}
    config = CLIPConfig(
        text_config=tiny | tokens, vision_config=tiny | {"image_size": 32, "patch_size": 8}, projection_dim=16
    )
    CLIPModel(config).save_pretrained(target)
    size = {"shortest_edge": 32}
    CLIPImageProcessor(size=size, crop_size={"height": 32, "width": 32}).save_pretrained(target)
    (target / "vocab.json").write_text(json.dumps(words))
    (target / "merges.txt").write_text("#version: 0.2\n")
    CLIPTokenizerFast(str(target / "vocab.json"), str(target / "merges.txt")).save_pretrained(target)
    return target


def test_a_clip_that_transformers_has_written_is_loaded_and_gives_its_embeddings(clip: Path) -> None:
    from transformers import CLIPModel, CLIPTokenizerFast

    theirs = CLIPModel.from_pretrained(clip).eval()
    model = vision.load(str(clip), "transformers", None, "fp32", "cpu")
    pixels = torch.randn(2, 3, 32, 32)
    assert len(model.blocks) == 3
    with torch.no_grad():
        expected = theirs.get_image_features(pixel_values=pixels).pooler_output
        for depth in range(4):
            torch.testing.assert_close(model.tail(model.trunk(pixels, depth), depth), expected)
        for texts in (["a b", "c"], ["d e f g a b c d e f g a b c d e f g"]):
            tokens = CLIPTokenizerFast.from_pretrained(clip)(
                texts, padding=True, truncation=True, max_length=12, return_tensors="pt"
            )
            wanted = nn.functional.normalize(theirs.get_text_features(**tokens).pooler_output, dim=-1)
            torch.testing.assert_close(model.encode_text(texts), wanted)
    assert model.logit_scale == pytest.approx(float(theirs.logit_scale.detach().exp()))


def test_a_metaclip_2_gives_its_embeddings_as_well(tmp_path: Path) -> None:
    from transformers import CLIPImageProcessor, MetaClip2Config, MetaClip2Model

    tiny = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    tokens = {"vocab_size": 20, "bos_token_id": 0, "eos_token_id": 1, "max_position_embeddings": 12}
    seeing = {"image_size": 32, "patch_size": 8}
    config = MetaClip2Config(text_config=tiny | tokens, vision_config=tiny | seeing, projection_dim=16)
    theirs = MetaClip2Model(config).eval()
    theirs.save_pretrained(tmp_path)
    size = {"height": 32, "width": 32}
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=size).save_pretrained(tmp_path)
    model = vision.load(str(tmp_path), "transformers", None, "fp32", "cpu")
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = theirs.get_image_features(pixel_values=pixels).pooler_output
        torch.testing.assert_close(model.tail(model.trunk(pixels, 2), 2), expected)


def test_its_projection_and_all_of_its_layers_are_sites(clip: Path) -> None:
    model = vision.load(str(clip), "transformers", None, "fp32", "cpu")
    with attached(model, "all-linear", 0.1, 0, torch.randn(2, 3, 32, 32)) as switched:
        assert len(switched.sites) == 3 * 6 + 1
    assert [(site.name, site.depth) for site in choose(model, "projection")] == [("visual_projection", 3)]


def test_a_clip_of_transformers_runs_through_the_stage(clip: Path, folder: Path) -> None:  # noqa: F811
    frame = execute(encoder=clip, library="transformers", images=folder, sites="last-1").records.frame
    assert (frame["u_trace_post"] > 0).all()
    assert set(frame["predicted_class"]) <= {"three", "eight"}


def test_a_processor_of_another_size_than_the_towers_is_refused_with_both(clip: Path, tmp_path: Path) -> None:
    for file in clip.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    sizes = json.loads((tmp_path / "preprocessor_config.json").read_text())
    sizes |= {"size": {"shortest_edge": 48}, "crop_size": {"height": 48, "width": 48}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(sizes))
    with pytest.raises(BadInput, match="pictures of 48 x 48 pixels, and its image tower takes 32 x 32"):
        vision.load(str(tmp_path), "transformers", None, "fp32", "cpu")


# ---- refusals that a configuration decides ----


@pytest.mark.parametrize(
    ("library", "config", "said"),
    [
        ("open_clip", {"model_type": "clip"}, "which the folder has not; library=transformers may read it"),
        ("open_clip", {"model_type": "bert"}, "model_type bert of transformers is not supported; allowed: clip (CLIP)"),
        ("transformers", {"model_type": "siglip2"}, "model_type siglip2 of transformers is not supported"),
        ("transformers", {"model_type": "clip_vision_model"}, "model_type clip_vision_model of transformers is not"),
        ("transformers", {}, "model_type None of transformers is not supported"),
        ("transformers", [], "config.json holds no settings"),
        ("transformers", "{", "config.json is no JSON"),
    ],
)
def test_what_a_configuration_decides_is_refused_without_loading_a_library(
    tmp_path: Path, library: str, config: Any, said: str
) -> None:
    (tmp_path / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    with pytest.raises(BadInput) as caught:
        files.locate_encoder(str(tmp_path), library)
    assert said in str(caught.value)


def test_a_refusal_that_a_configuration_decides_loads_no_library_of_models(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    code = (
        "import sys; from experiments.montecarlo.inference.inputs import inputs\n"
        "from experiments.montecarlo.inference.params import MontecarloInfer\n"
        "for library in ('open_clip', 'transformers'):\n"
        f"    try: inputs(MontecarloInfer(encoder={str(tmp_path)!r}, library=library))\n"
        "    except Exception as error: print(type(error).__name__)\n"
        "print([name for name in ('torch', 'transformers', 'open_clip', 'timm') if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert ran.stdout == "BadInput\nBadInput\n[]\n"


# ---- the table in the documentation ----


@pytest.mark.parametrize("name", NAMES[::3])
def test_the_table_of_encoders_says_what_the_proof_finds(name: str) -> None:
    row = next(line for line in encoders.PAGE.read_text().splitlines() if f" `{name}`" in line and "taken" in line)
    assert row.startswith("| " + " | ".join(encoders.prove(name)) + " | ")


def test_a_random_picture_is_the_same_at_every_load_and_unlike_its_neighbour() -> None:
    first, second = (towers.pair("tiny", preprocess) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first[0], first[1])


def test_preprocessing_that_makes_pictures_of_several_sizes_is_refused() -> None:
    def growing(image: Image.Image) -> torch.Tensor:
        return torch.zeros(3, image.height, image.width)

    with pytest.raises(BadInput, match="encoder = tiny: its preprocessing does not make pictures of one size"):
        towers.pair("tiny", growing)
