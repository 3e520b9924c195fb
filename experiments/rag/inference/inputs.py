"""What the records of `rag` are made of, as digests; scoring kept records imports this and no model."""

from __future__ import annotations

from pathlib import Path

from experiments.models import files
from experiments.rag.inference import data
from experiments.rag.inference.params import RagInfer


def inputs(params: RagInfer) -> dict[str, str]:
    """Content digests of the data and of every model that will be used; an endpoint's has none but its name."""
    digests = {"data": data.digest(params.dataset)}
    if params.answered_by == "nobody":
        if params.encoder:
            digests["encoder"] = files.digest_sentence_encoder("encoder", params.encoder)
        return digests
    if params.nli != "off":
        digests["nli"] = files.digest_model(files.nli(params.nli))
    if params.answered_by == "model" or not Path(params.dataset).expanduser().is_file():
        digests["model"] = (
            f"{params.model} at {params.endpoint}" if params.endpoint else files.digest_model(params.model)
        )
    if params.redeep_model not in {"auto", "off"}:
        digests["redeep"] = files.digest_model(params.redeep_model)
    if params.redeep_embedder not in {"model", "states"}:
        digests["redeep_embedder"] = files.digest_sentence_encoder("redeep_embedder", params.redeep_embedder)
    if params.encoder:
        digests["encoder"] = files.digest_sentence_encoder("encoder", params.encoder)
    return digests
