"""One of two processes that share each mechanism's weights out and train as one that does not.

python two_shares.py RANK STORE, with a file of its own for each pair of processes.
"""

import copy
import sys

import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh

from attnkit.masks import Causal
from attnkit.models.language_model import LanguageModel
from attnkit.models.sharding import (
    load_whole,
    own_share,
    shard,
    shared_like,
    whole,
    whole_copy,
    whole_state,
)
from attnkit.registry import ATTENTION
from attnkit.training.optimizers import AdamWRecipe, MuonRecipe

TOKENS = torch.arange(24).view(2, 12) % 7


def model_of(name):
    """One head where it may be one: then a gain a head leaves one process nothing."""
    options = ATTENTION.options(name)
    one_head = "num_heads" in options and "num_kv_heads" not in options
    one_head &= name != "synthesizer"  # its tables are large, and shared by head
    several = ("multi_head", "value_residual", "cross_layer")  # layers in turn, layers with ties
    torch.manual_seed(0)
    return LanguageModel(
        7,
        max_seq_len=12,
        dim=16,
        num_layers=2 if name in several else 1,
        attention={"name": name, **({"num_heads": 1} if one_head else {})},
        mask="none" if ATTENTION.get(name).refusal("self", Causal(), "none") else "causal",
        bias=True,
    )


def step(model, optimizer):
    """The norm of the gradient of a step."""
    optimizer.zero_grad()
    model(TOKENS).logsumexp(-1).square().mean().backward()
    norm = whole(nn.utils.get_total_norm(p.grad for p in model.parameters() if p.grad is not None))
    optimizer.step()
    return norm


def check(name, recipe, mesh, rank):
    """Two steps, and what is made of the shares."""
    sharded = model_of(name)
    alone, plain = copy.deepcopy(sharded), shard(sharded, mesh)
    held = sum(own_share(p).numel() for p in sharded.parameters())
    assert held < 0.7 * sum(p.numel() for p in alone.parameters())
    optimizers = [recipe.build(model) for model in (sharded, alone)]
    for _ in range(2):
        norms = [step(*pair) for pair in zip((sharded, alone), optimizers, strict=True)]
        torch.testing.assert_close(*norms)
    again = whole_copy(sharded, plain)
    assert again.head.weight is again.embedding.weight
    for copied, trained in zip(again.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(copied, trained, atol=1e-5, rtol=0)
    with torch.no_grad():
        torch.testing.assert_close(sharded(TOKENS), again(TOKENS))

    state = whole_state(sharded.state_dict(keep_vars=True), keep=rank == 0)
    assert list(state) == (list(alone.state_dict()) if rank == 0 else [])
    for parameter in sharded.parameters():
        parameter.detach().zero_()
    load_whole(sharded, again.state_dict())
    for share, tensor in zip(sharded.parameters(), again.parameters(), strict=True):
        own = own_share(shared_like(tensor.detach(), share))
        assert torch.equal(own, own_share(share))
        assert own.untyped_storage().nbytes() == own.nbytes  # nothing of the whole stays behind


def main(rank, store):
    """All mechanisms, in turn."""
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    for name in ATTENTION.names():
        for recipe in (AdamWRecipe(), MuonRecipe()):
            try:
                check(name, recipe, mesh, rank)
            except Exception as error:
                error.add_note(f"{name}, {type(recipe).__name__}")
                raise
    distributed.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(int(sys.argv[1]), sys.argv[2])
