"""The settings of `montecarlo`, each declared once; command line, search space and cache key follow from here."""

from typing import Annotated, Literal

from pydantic import Field

from harness.stage import Decides, Params

PREFIX = "u_"  # of the columns that hold a statistic of the passes
ORIGINAL, BLURRED, DOWNSAMPLED = "original", "blur", "downsample"  # what is in the column `variant`
_IMAGES = Decides("which images are judged")
PASSES = r"^\d+(,\d+)*$"
BUILT_IN = {"builtin": 120, "builtin-all": 500}  # sets of digits, and how many each holds
BUILT_IN_TOLD = ", ".join(f"`{name}` ({count} digits)" for name, count in BUILT_IN.items())


class MontecarloInfer(Params):
    """What decides the records: encoder, images, and how dropout is nested."""

    encoder: str = Field("builtin", description="vision encoder: `builtin`, a folder, or a name that `library` knows")
    library: Literal["open_clip", "transformers"] = Field(
        "open_clip", description="what loads the encoder: open_clip, or transformers (CLIP, SigLIP and SigLIP2)"
    )
    pretrained: str | None = Field(
        None, description="open_clip names: the tag of the weights, or a file that holds them"
    )
    images: Annotated[str, _IMAGES] = Field(
        "builtin", description=f"{BUILT_IN_TOLD}, a folder, a tree of one folder a class, IDX files, or a .txt list"
    )
    classes: Annotated[str | None, Decides("what the classes are called, and so which answers are wrong")] = Field(
        None, description="file that says what classes are called whose folders or labels do not (JSON, or a line each)"
    )
    caption: Annotated[str | None, Decides("which zero-shot answers are wrong, and so the labels of error")] = Field(
        None, description="zero-shot caption, {} being the class (unset: `a photo of a {}`, digits have their own)"
    )
    keep: Annotated[int | None, _IMAGES] = Field(None, ge=1, description="keep so many images, evenly spread over all")
    dropout: float = Field(0.01, gt=0, le=0.9, description="probability that dropout sets an entry to 0")
    sites: str = Field(
        "mlp-down",
        description="linear layers whose input is dropped: `all-linear`, `mlp-down`, `last-N` (all in the last N"
        " blocks), `projection`, or a regular expression of their names",
    )
    attention: Literal["native", "split"] = Field(
        "native", description="split: write torch's MultiheadAttention out, so that dropout reaches its layers"
    )
    trunk: Literal["once", "every_pass"] = Field(
        "once", description="compute what lies before the first site once an image, or in every pass: the same numbers"
    )
    passes: Annotated[str, Field(pattern=PASSES)] = Field(
        "4,16,64", description="T: numbers of passes; the smaller ones are the first passes of the largest"
    )
    mc_trials: int = Field(10, ge=2, le=1000, description="K: independent trials of so many passes each")
    ablation: Annotated[int, Decides("which images are judged blurred and downsampled")] = Field(
        40, ge=0, le=10**6, description="images that are also computed blurred and downsampled"
    )
    batch_images: Literal["auto"] | Annotated[int, Field(ge=1, le=10**5)] = Field(
        64, description="images computed at once; auto: what free memory allows, and half of it where that runs out"
    )
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        "fp32", description="below fp32: autocast; statistics are accumulated in fp64 always"
    )
    precision_check: int = Field(
        8, ge=0, le=1000, description="below fp32: images computed again in fp32, to say what the precision changes"
    )
    compile: bool = Field(False, description="compile the encoder's blocks (needs a C++ compiler)")
    pixels: Literal["auto", "device", "pinned", "mmap"] = Field(
        "auto", description="where pixels stay: auto is the device, else pinned memory (CUDA), else a file"
    )
    decoders: int = Field(2, ge=1, le=256, description="threads that open, decode and preprocess images")
    decode: Literal["once", "every_run"] = Field(
        "once",
        description="keep decoded images in the cache for the next encoder (4 GiB at most), or decode in every run",
    )
    workers: int = Field(1, ge=1, le=64, description="processes that hold an encoder each, on GPUs of their own if any")
