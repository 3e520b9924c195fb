"""An induction head by hand: what a small model would take far longer to form by itself."""

import torch
from transformers import LlamaForCausalLM


@torch.no_grad()
def wire(model: LlamaForCausalLM, rope_theta: float) -> None:
    """Set three heads to what induction needs, so that training refines copying instead of waiting for it to form.

    Embeddings get a constant dimension, a content part and an empty rest.  Through the constant, two heads of layer 0
    look one and two tokens back (the phase of rotary positions peaks there) and write what they see into the rest.
    A head of layer 1 then finds the value whose two words before it are the query's last two, and copies it.
    """
    hidden, size = model.config.hidden_size, model.config.head_dim
    content, places = slice(1, hidden // 2), (slice(hidden // 2, hidden // 2 + size), slice(hidden // 2 + size, hidden))
    back = (2, 1)
    first, second = model.model.layers[0].self_attn, model.model.layers[1].self_attn
    embedding = model.model.embed_tokens.weight
    embedding.zero_()
    embedding[:, content] = 0.15 * torch.randn(len(embedding), hidden // 2 - 1)
    embedding[:, 0] = 0.6
    reader = torch.linalg.qr(torch.randn(hidden // 2 - 1, size))[0].T  # (size, content): orthonormal rows
    frequency = rope_theta ** (-torch.arange(size // 2) / (size // 2))
    sharp = torch.arange(size // 2) < 5  # only fast rotations tell one token's distance from two
    for head, (offset, place) in enumerate(zip(back, places, strict=True)):
        rows = slice(head * size, (head + 1) * size)
        for weight in (first.q_proj.weight, first.k_proj.weight, first.v_proj.weight):
            weight[rows] = 0
        first.q_proj.weight[rows, 0] = 3 * torch.cat(
            [torch.cos(offset * frequency) * sharp, -torch.sin(offset * frequency) * sharp]
        )
        first.k_proj.weight[rows, 0] = 3 * torch.cat([sharp.float(), torch.zeros(size // 2)])
        first.v_proj.weight[rows, content] = reader
        first.o_proj.weight[:, rows] = 0
        first.o_proj.weight[place, rows] = 0.5 * torch.eye(size)
    slow = [i for i in range(size) if i % (size // 2) >= 6]  # slots that rotate too slowly for distance to matter
    who, verb = slow[: len(slow) * 3 // 5], slow[len(slow) * 3 // 5 :]
    mix = torch.linalg.qr(torch.randn(size, size))[0]
    rows = slice(0, size)
    for weight in (second.q_proj.weight, second.k_proj.weight, second.v_proj.weight):
        weight[rows] = 0
    second.q_proj.weight[who, places[1]] = 3 * mix[: len(who)]
    second.k_proj.weight[who, places[0]] = 3 * mix[: len(who)]
    second.q_proj.weight[verb, content] = 2 * mix[: len(verb)] @ reader
    second.k_proj.weight[verb, places[1]] = 4 * mix[: len(verb)]
    second.v_proj.weight[rows, content] = reader
    second.o_proj.weight[:, rows] = 0
    second.o_proj.weight[content, rows] = reader.T
