"""The mechanisms of recent papers, each against its formula, written out here."""

import math

import pytest
import torch
from torch.nn import functional as F

from attnkit.attention.base import build_attention
from attnkit.attention.nystrom import pseudo_inverse
from attnkit.attention.past import Past
from attnkit.masks import Causal, NoMask

B, T, C, H = 2, 7, 24, 3
D = C // H
CAUSAL = torch.ones(T, T).tril() > 0


def sequence(length=T):
    return torch.randn(B, length, C, generator=torch.Generator().manual_seed(3)).double()


def built(name, **options):
    """In float64, with every parameter away from its first value."""
    torch.manual_seed(1)
    attention = build_attention({"name": name, "num_heads": H, **options}, C).eval().double()
    with torch.no_grad():
        for parameter in attention.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.5)
    return attention


def split(x, linear, num_heads=H):
    """(B, T, C) -> (B, H, T, D)"""
    return linear(x).unflatten(-1, (num_heads, -1)).transpose(1, 2)


def projected(attention, x):
    return [split(x, linear) for linear in (attention.query, attention.key, attention.value)]


def joined(heads, attention):
    return attention.output(heads.transpose(1, 2).flatten(-2))


def softmax(scores):
    return scores.masked_fill(~CAUSAL, -math.inf).softmax(dim=-1)


def normalised(heads, norm):
    return heads / (heads.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt() * norm.weight


def assert_gives(attention, x, expected, mask=None):
    computed = attention(x, x, Causal() if mask is None else mask)
    torch.testing.assert_close(computed, expected, atol=1e-10, rtol=1e-8)


# Other scores, other weights


def test_ssmax_scales_by_the_logarithm_of_the_keys_seen():
    attention, x = built("ssmax"), sequence()
    q, k, v = projected(attention, x)
    factor = attention.sharpness.view(H, 1, 1) * torch.arange(1, T + 1).double().log().view(T, 1)
    assert_gives(attention, x, joined(softmax(factor * (q @ k.mT) / D**0.5) @ v, attention))


def test_softpick_gives_nothing_to_scores_below_zero():
    attention, x = built("softpick"), sequence()
    q, k, v = projected(attention, x)
    above = torch.expm1(q @ k.mT / D**0.5) * CAUSAL
    weights = above.clamp(min=0) / (above.abs().sum(dim=-1, keepdim=True) + 1e-6)
    assert (weights == 0)[..., CAUSAL].any()
    assert_gives(attention, x, joined(weights @ v, attention))


def test_xsa_removes_what_lies_along_the_own_value():
    attention, x = built("xsa"), sequence()
    q, k, v = projected(attention, x)
    heads = softmax(q @ k.mT / D**0.5) @ v
    own = v / v.norm(dim=-1, keepdim=True)
    heads = heads - (heads * own).sum(dim=-1, keepdim=True) * own
    torch.testing.assert_close((heads * v).sum(dim=-1), torch.zeros(B, H, T).double())
    assert_gives(attention, x, joined(heads, attention))


def test_luong_compares_with_the_tokens_themselves():
    attention, x = built("luong"), sequence()
    q, v = split(x, attention.query), split(x, attention.value)
    k = x.view(B, T, H, D).transpose(1, 2)
    assert_gives(attention, x, joined(softmax(q @ k.mT) @ v, attention))


def test_a_synthesizer_asks_nothing_of_the_tokens():
    attention, x = built("synthesizer", max_tokens=9, rank=2), sequence()
    scores = torch.einsum("hir,hjr->hij", attention.of_queries[:, :T], attention.of_keys[:, :T])
    heads = softmax(scores.expand(B, -1, -1, -1)) @ split(x, attention.value)
    assert_gives(attention, x, joined(heads, attention))


def test_average_counts_every_token_the_same():
    attention, x = built("average"), sequence()
    v = split(x, attention.value)
    mean = joined(v.cumsum(dim=2) / torch.arange(1, T + 1).view(T, 1), attention)
    own, taken = attention.gate(torch.cat((x, mean), dim=-1)).sigmoid().chunk(2, dim=-1)
    assert_gives(attention, x, own * x + taken * mean)


def test_selective_hides_what_earlier_tokens_scored_highly():
    attention, x = built("selective"), sequence()
    q, k, v = projected(attention, x)
    scores = q @ k.mT / D**0.5
    hidden = torch.zeros_like(scores)
    for i in range(T):
        for j in range(1, i):  # never the first token
            for by in range(j + 1, i):  # never by itself
                hidden[:, :, i, j] += scores[:, :1, by, j].clamp(min=0)
    assert_gives(attention, x, joined(softmax(scores - hidden) @ v, attention))


def test_multi_token_convolves_scores_and_mixes_heads():
    attention, x = built("multi_token", query_width=2, key_width=3), sequence()
    q, k, v = projected(attention, x)
    scores = F.pad(q @ k.mT / D**0.5 * CAUSAL, (1, 1, 1, 0))
    convolved = torch.zeros(B, H, T, T).double()
    for h in range(H):
        for i in range(T):
            for j in range(T):
                part = scores[:, h, i : i + 2, j : j + 3] * attention.kernel[h, 0]
                convolved[:, h, i, j] = part.sum(dim=(-1, -2))
    weights = torch.einsum("gh,bhij->bgij", attention.heads_mix, softmax(convolved))
    assert_gives(attention, x, joined(normalised(weights @ v, attention.norm), attention))


def test_multi_token_begins_as_multi_head():
    """Its maps; a norm of the heads follows."""
    attention, x = build_attention({"name": "multi_token", "num_heads": H}, C).double(), sequence()
    q, k, v = projected(attention, x)
    heads = attention.mixed(attention.prepare(x, x, Causal()), Causal())
    torch.testing.assert_close(heads, softmax(q @ k.mT / D**0.5) @ v)


def test_differential_v2_subtracts_a_share_that_each_token_sets():
    attention, x = built("differential_v2"), sequence()
    first, second = split(x, attention.query).chunk(2, dim=-1)
    k, v = split(x, attention.key), split(x, attention.value)
    share = attention.share(x).sigmoid().transpose(1, 2).unsqueeze(-1)
    weights = softmax(first @ k.mT / D**0.5) - share * softmax(second @ k.mT / D**0.5)
    assert_gives(attention, x, joined(weights @ v, attention))


def test_path_reflects_by_the_tokens_between():
    attention, x = built("path"), sequence()
    q, k, v = projected(attention, x)
    w = F.normalize(split(x, attention.direction), dim=-1)
    b = 2 * attention.strength(x).sigmoid().transpose(1, 2)
    scores = torch.zeros(B, H, T, T).double()
    for i in range(T):
        turned = q[:, :, i]  # q_i H_i ... H_{j+1}
        for j in range(i, -1, -1):
            scores[:, :, i, j] = (turned * k[:, :, j]).sum(dim=-1) / D**0.5
            along = (turned * w[:, :, j]).sum(dim=-1, keepdim=True)
            turned = turned - b[:, :, j, None] * along * w[:, :, j]
    assert_gives(attention, x, joined(softmax(scores) @ v, attention))


def test_moba_chooses_blocks_by_their_mean_key():
    attention, x = built("moba", block=2, num_blocks=2), sequence()
    q, k, v = projected(attention, x)
    scores = q @ k.mT / D**0.5
    weights = torch.zeros_like(scores)
    for b, h, i in torch.cartesian_prod(*map(torch.arange, (B, H, T))).tolist():
        own = i // 2
        means = k[b, h, : 2 * own].detach().view(own, 2, D).mean(dim=1)
        best = (means @ q[b, h, i].detach()).argsort(descending=True)[:1].tolist()
        seen = [j for n in (*best, own) for j in (2 * n, 2 * n + 1) if j <= i]
        weights[b, h, i, seen] = scores[b, h, i, seen].softmax(dim=-1)
    assert_gives(attention, x, joined(weights @ v, attention))


def indexed(attention, x):
    """The indexer's scores, a pair of tokens at a time: (B, T, T)."""
    scores = torch.zeros(B, T, T, dtype=x.dtype)
    for b in range(B):
        for i in range(T):
            asked = attention.index_query(x[b, i]).view(attention.index_heads, -1)
            weight = attention.index_weight(x[b, i])
            for j in range(T):
                key = attention.index_key(x[b, j])
                for n in range(attention.index_heads):
                    scores[b, i, j] += weight[n] * max(asked[n] @ key, 0)
    return scores / math.sqrt(attention.index_heads * attention.index_dim)


def test_dsa_attends_to_the_keys_that_its_indexer_scores_highest():
    attention, x = built("dsa", num_kept=3, index_heads=2, index_dim=5), sequence()
    q, k, v = projected(attention, x)
    index = indexed(attention, x)
    chosen = torch.zeros(B, T, T, dtype=torch.bool)
    for b in range(B):
        for i in range(T):  # of equal scores, the last key
            best = sorted(range(i + 1), key=lambda j: (-index[b, i, j].item(), -j))
            chosen[b, i, best[:3]] = True
    scores = (q @ k.transpose(-2, -1) / math.sqrt(D)).masked_fill(~chosen.unsqueeze(1), -math.inf)
    assert_gives(attention, x, joined(scores.softmax(dim=-1) @ v, attention))


def test_the_indexer_of_dsa_learns_the_mean_map_and_nothing_else_learns_from_it():
    attention, x = built("dsa", num_kept=3, index_heads=2, index_dim=5), sequence()
    x.requires_grad_()
    prepared = attention.prepare(x, x, Causal())
    (loss,) = attention.auxiliary_losses(prepared, prepared.q, None).values()
    q, k, _ = projected(attention, x)
    target = softmax(q @ k.transpose(-2, -1) / math.sqrt(D)).mean(dim=1)
    guess = softmax(indexed(attention, x))
    terms = torch.where(CAUSAL, target * (target / guess).log(), torch.zeros(()).double())
    torch.testing.assert_close(loss.double(), terms.sum(dim=-1).mean(), atol=1e-5, rtol=1e-5)
    loss.backward()
    learning = {name for name, one in attention.named_parameters() if one.grad is not None}
    assert learning == {"index_query.weight", "index_key.weight", "index_weight.weight"}
    assert x.grad is None


def test_nsa_reads_compressed_blocks_chosen_blocks_and_near_keys():
    attention, x = built("nsa", block=2, num_blocks=2, num_near=3), sequence()
    q, k, v = projected(attention, x)
    scores = q @ k.mT / D**0.5
    gates = attention.gate(x).sigmoid().view(B, T, H, 3)
    shares = attention.share.softmax(dim=-1)
    weights = torch.zeros_like(scores)
    for b, h, i in torch.cartesian_prod(*map(torch.arange, (B, H, T))).tolist():
        (share,), row, best = shares[h], scores[b, h, i], []
        if i > 0:
            whole = (i + 1) // 2
            keys = k[b, h, : 2 * whole].view(whole, 2, D)
            mixed = torch.stack([share @ block for block in keys])
            blocks = (mixed @ q[b, h, i] / D**0.5).softmax(dim=-1)
            weights[b, h, i, : 2 * whole] += gates[b, i, h, 0] * outer(blocks, share).flatten()
            order = blocks.argsort(descending=True).tolist()
            best = [n for n in order if n != i // 2][:1]
        chosen = [j for n in (*best, i // 2) for j in (2 * n, 2 * n + 1) if j <= i]
        near = list(range(max(i - 2, 0), i + 1))
        weights[b, h, i, chosen] += gates[b, i, h, 1] * row[chosen].softmax(dim=-1)
        weights[b, h, i, near] += gates[b, i, h, 2] * row[near].softmax(dim=-1)
    assert_gives(attention, x, joined(weights @ v, attention))


SPARSE = {
    "moba": {"block": 2, "num_blocks": 4},
    "dsa": {"num_kept": T},
    "nsa": {"block": 2, "num_blocks": 4},
    "top_k": {"num_kept": T},
}
FEWEST = {
    "moba": {"block": 2, "num_blocks": 1},
    "dsa": {"num_kept": 1},
    "nsa": {"block": 2, "num_blocks": 1},
    "top_k": {"num_kept": 1},
}


@pytest.mark.parametrize("name", SPARSE)
def test_sparse_is_full_attention_where_everything_may_be_chosen(name):
    attention, few, x = built(name, **SPARSE[name]), built(name, **FEWEST[name]), sequence()
    for each in (attention, few) if name == "nsa" else ():
        torch.nn.init.zeros_(each.gate.weight)
        each.gate.bias.data.copy_(torch.tensor([-1e4, 1e4, -1e4]).repeat(H))  # chosen blocks alone
    full = build_attention({"name": "multi_head", "num_heads": H}, C).eval().double()
    full.load_state_dict(attention.state_dict(), strict=False)
    assert_gives(attention, x, full(x, x, Causal()))
    assert (few(x, x, Causal()) - full(x, x, Causal())).abs().max() > 1e-3


def test_nystrom_is_the_product_of_three_maps():
    attention, x = built("nystrom", num_landmarks=2), sequence()
    q, k, v = projected(attention, x)
    # Seven tokens in two segments: four and three.
    asked, offered = (
        torch.stack((h[:, :, :4].mean(dim=2), h[:, :, 4:].mean(dim=2)), dim=2) for h in (q, k)
    )
    pairs = ((q, offered), (asked, offered), (asked, k))
    first, middle, last = ((a @ b.mT / D**0.5).softmax(dim=-1) for a, b in pairs)
    heads = first @ pseudo_inverse(middle) @ last @ v
    assert_gives(attention, x, joined(heads, attention), NoMask())


def test_the_iteration_of_nystrom_finds_the_inverse():
    torch.manual_seed(0)
    a = (4 * torch.eye(5) + torch.randn(5, 5)).double().softmax(dim=-1)
    torch.testing.assert_close(pseudo_inverse(a), a.inverse(), atol=1e-6, rtol=1e-6)


# Smaller caches


def test_grouped_tied_uses_half_of_its_values_as_keys():
    attention, x = built("grouped_tied", num_heads=6, num_kv_heads=3, head_dim=4), sequence()
    q, tied = split(x, attention.query, 6), split(x, attention.value, 3)
    shared = attention.key(x).unsqueeze(1).expand(-1, 3, -1, -1)
    k = torch.cat((tied[..., :2], shared), dim=-1)
    k, v = k.repeat_interleave(2, dim=1), tied.repeat_interleave(2, dim=1)
    assert_gives(attention, x, joined(softmax(q @ k.mT / 2) @ v, attention))
    assert attention.cache_elements(10) == 10 * (3 * 4 + 2)


@pytest.mark.parametrize("reuse_keys", [False, True])
def test_matrix_factorized_asks_one_key_with_queries_of_low_rank(reuse_keys):
    attention, x = built("matrix_factorized", query_rank=5, reuse_keys=reuse_keys), sequence()
    q = split(attention.down(x), attention.query)
    k = attention.key(x)
    v = k + attention.gain * attention.value(k) if reuse_keys else attention.value(x)
    assert q.shape[-1] == k.shape[-1] == 2 * D
    heads = softmax(q @ k.unsqueeze(1).mT / (2 * D) ** 0.5) @ v.unsqueeze(1)
    assert_gives(attention, x, joined(heads, attention))


def test_tensor_product_makes_heads_of_outer_products():
    attention, x = built("tensor_product", query_rank=3, kv_rank=2), sequence()

    def heads(linear, rank):
        made = torch.zeros(B, H, T, D).double()
        for factors in linear(x).view(B, T, rank, D + H).unbind(2):
            b, a = factors[..., :D], factors[..., D:]
            made += torch.einsum("bth,btd->bhtd", a, b) / rank
        return made

    q, k, v = heads(attention.query, 3), heads(attention.key, 2), heads(attention.value, 2)
    assert_gives(attention, x, joined(softmax(q @ k.mT / D**0.5) @ v, attention))
    assert attention.cache_elements(10) == 10 * 2 * 2 * (H + D)


# Sums over features


def kernel_sums(weights, v):
    weights = weights * CAUSAL
    return weights / weights.sum(dim=-1, keepdim=True) @ v


def test_based_is_the_taylor_series_of_the_exponential():
    attention, x = built("based", feature_dim=4), sequence()
    q, k, v = projected(attention, x)
    s = q @ k.mT / 2
    assert_gives(attention, x, joined(kernel_sums(1 + s + s**2 / 2, v), attention))


def test_hedgehog_has_spiky_features():
    attention, x = built("hedgehog"), sequence()
    q, k, v = projected(attention, x)

    def features(heads):
        heads = torch.einsum("bhtd,hde->bhte", heads, attention.spikes)
        return torch.cat((heads.softmax(dim=-1), (-heads).softmax(dim=-1)), dim=-1)

    assert_gives(attention, x, joined(kernel_sums(features(q) @ features(k).mT, v), attention))


def test_performer_estimates_the_softmax():
    torch.manual_seed(0)
    attention = build_attention({"name": "performer", "num_heads": H, "num_features": 20_000}, C)
    attention, x = attention.double(), sequence()
    q, k, v = projected(attention, x)
    expected = joined(softmax(q @ k.mT / D**0.5) @ v, attention)
    torch.testing.assert_close(attention(x, x, Causal()), expected, atol=0.1, rtol=0.1)
    first = attention.directions[:D]
    products = first @ first.T
    torch.testing.assert_close(products, torch.diag(products.diagonal()), atol=1e-5, rtol=0)


def test_cosformer_weighs_by_the_cosine_of_the_distance():
    attention, x = built("cosformer", max_tokens=10), sequence() + 1
    q, k, v = projected(attention, x)
    away = torch.arange(T).view(T, 1) - torch.arange(T)
    weights = (q.relu() @ k.relu().mT) * (math.pi / 20 * away).cos()
    total = (weights * CAUSAL).sum(dim=-1, keepdim=True)
    heads = weights * CAUSAL / torch.where(total > 0, total, 1) @ v
    computed = attention(x, x, Causal())
    # The waves are float32.
    torch.testing.assert_close(computed, joined(heads, attention), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["cosformer", "synthesizer"])
def test_a_sequence_beyond_the_positions_known_names_the_key(name):
    attention = built(name, max_tokens=5)
    with pytest.raises(ValueError, match="5 tokens but got 7; set its option max_tokens"):
        attention(sequence(), sequence(), Causal())


# Through a state, token by token, across the edges of chunks

LENGTHS = [1, 5, 70]


def read(q, k, v, step):
    """Heads (B, H, T, D) of a state that `step(state, t)` carries on from token to token."""
    state, heads = q.new_zeros(*q.shape[:2], k.shape[-1], v.shape[-1]), []
    for t in range(q.shape[2]):
        state = step(state, t)
        heads.append((q[:, :, t, None] @ state)[:, :, 0])
    return torch.stack(heads, dim=2)


def outer(k, v):
    return k[..., :, None] * v[..., None, :]


def corrected(state, k, v, strength):
    """S + b k (v - kᵀ S)ᵀ"""
    return state + outer(k, strength * (v - (k[:, :, None] @ state)[:, :, 0]))


def convolved(attention, *heads):
    past = Past(Causal(), None, attention)
    return [part(head, past) for part, head in zip(attention.convolutions, heads, strict=True)]


def gated_delta(attention, x, fade):
    """Heads of gated_delta_net and kda: `fade` (B, H, T, 1 or D)."""
    q, k, v = convolved(attention, *projected(attention, x))
    q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
    strength = split(x, attention.write).sigmoid()
    heads = read(
        q,
        k,
        v,
        lambda state, t: corrected(
            fade[:, :, t, :, None] * state, k[:, :, t], v[:, :, t], strength[:, :, t]
        ),
    )
    return normalised(heads, attention.norm) * F.silu(split(x, attention.gate))


def rates(attention, x):
    fade = F.softplus(attention.fade(x) + attention.step)
    fade = fade.unflatten(-1, (H, -1)).transpose(1, 2)
    return (-attention.rate.exp().view(H, 1, 1) * fade).exp()


@pytest.mark.parametrize("name", ["gated_delta_net", "kda"])
@pytest.mark.parametrize("length", LENGTHS)
def test_a_gated_state_fades_before_it_is_corrected(name, length):
    attention, x = built(name), sequence(length)
    fade = rates(attention, x)
    assert fade.shape[-1] == (1 if name == "gated_delta_net" else D)
    computed = attention(x, x, Causal())
    expected = joined(gated_delta(attention, x, fade), attention)
    torch.testing.assert_close(computed, expected, atol=1e-5, rtol=1e-5)  # gates are float32


def test_kda_with_equal_rates_is_gated_delta_net():
    one, other = built("gated_delta_net"), built("kda")
    alike = {n: p for n, p in one.state_dict().items() if not n.startswith(("fade", "step"))}
    assert not other.load_state_dict(alike, strict=False).unexpected_keys
    with torch.no_grad():
        one.fade.weight[:, D:] = 0  # of rank D, which is what the other can say
        down, up = other.fade
        down.weight.copy_(torch.eye(D, C))
        up.weight.copy_(one.fade.weight[:, :D].repeat_interleave(D, dim=0))
        other.step.copy_(one.step.repeat_interleave(D))
    x = sequence(70)
    torch.testing.assert_close(one(x, x, Causal()), other(x, x, Causal()), atol=1e-6, rtol=1e-5)


def test_gated_delta_net_that_never_fades_is_delta_net():
    """But for its output gate and its values, which pass no activation without a convolution."""
    gated, plain = built("gated_delta_net", convolution=0), built("delta_net")
    plain.load_state_dict({name: gated.state_dict()[name] for name in plain.state_dict()})
    with torch.no_grad():
        gated.rate.fill_(-100)
    x = sequence(70)
    given = {}
    for attention in (gated, plain):
        prepared = attention.prepare(x, x, Causal())
        given[attention] = attention.mixed(prepared, Causal())
    torch.testing.assert_close(given[gated], given[plain])


@pytest.mark.parametrize("length", LENGTHS)
def test_delta_product_takes_several_steps_a_token(length):
    attention, x = built("delta_product", num_steps=2), sequence(length)
    q = F.normalize(F.silu(split(x, attention.query)), dim=-1)
    k, v, strength = (
        linear(x).view(B, length, H, 2, -1).permute(0, 2, 1, 3, 4)
        for linear in (attention.key, attention.value, attention.write)
    )
    k, strength = F.normalize(F.silu(k), dim=-1), 2 * strength.sigmoid()

    def step(state, t):
        for n in range(2):
            state = corrected(state, k[:, :, t, n], v[:, :, t, n], strength[:, :, t, n])
        return state

    heads = normalised(read(q, k[..., 0, :], v[..., 0, :], step), attention.norm)
    assert_gives(attention, x, joined(heads, attention))


@pytest.mark.parametrize("length", LENGTHS)
def test_rwkv7_removes_one_key_and_writes_another(length):
    attention, x = built("rwkv7"), sequence(length)
    q, k, v = (
        heads + shift.share * (F.pad(heads, (0, 0, 1, 0))[:, :, :-1] - heads)
        for shift, heads in zip(attention.shifts, projected(attention, x), strict=True)
    )
    turned = split(x, attention.fade) + attention.fade_start.view(H, 1, D)
    fade = (-math.exp(-0.5) * turned.sigmoid()).exp()
    rate = (split(x, attention.rate) + attention.rate_start.view(H, 1, D)).sigmoid()
    removed = F.normalize(k * attention.removed, dim=-1)
    k = k * (1 + (rate - 1) * attention.replaced)

    def step(state, t):
        known = (removed[:, :, t, None] @ state)[:, :, 0]
        kept = fade[:, :, t, :, None] * state - outer(rate[:, :, t] * removed[:, :, t], known)
        return kept + outer(k[:, :, t], v[:, :, t])

    heads = normalised(read(q, k, v, step), attention.norm)
    heads = heads + (q * attention.bonus * k).sum(dim=-1, keepdim=True) * v
    expected = joined(heads * split(x, attention.gate), attention)
    computed = attention(x, x, Causal())
    torch.testing.assert_close(computed, expected, atol=1e-5, rtol=1e-5)  # gates are float32


@pytest.mark.parametrize("length", LENGTHS)
def test_mamba2_fades_and_writes_by_one_step(length):
    attention, x = built("mamba2", state_dim=5), sequence(length)
    q, k = attention.query(x).unsqueeze(1), attention.key(x).unsqueeze(1)
    q, k, v = convolved(attention, q, k, split(x, attention.value))
    delta = F.softplus(attention.step(x) + attention.step_bias).transpose(1, 2).unsqueeze(-1)
    fade = (-attention.rate.exp().view(H, 1, 1) * delta).exp()
    q, k = q.expand(-1, H, -1, -1), k.expand(-1, H, -1, -1)
    heads = read(
        q,
        k,
        v,
        lambda state, t: (
            fade[:, :, t, :, None] * state + outer(delta[:, :, t] * k[:, :, t], v[:, :, t])
        ),
    )
    heads = heads + attention.skip.view(H, 1, 1) * v
    together = (heads * F.silu(split(x, attention.gate))).transpose(1, 2).flatten(-2)
    expected = attention.output(normalised(together, attention.norm))
    computed = attention(x, x, Causal())
    torch.testing.assert_close(computed, expected, atol=1e-5, rtol=1e-5)  # steps are float32


def fenwick(t, num_levels):
    """Buckets of the tokens up to t: itself, then as many before it as its lowest bits say."""
    buckets, end = [[] for _ in range(num_levels)], t
    buckets[0] = [t]
    while end > 0:
        size = end & -end
        buckets[min(size.bit_length(), num_levels - 1)] += range(end - size, end)
        end -= size
    return buckets


@pytest.mark.parametrize("num_levels", [3, 10])
@pytest.mark.parametrize("length", [*LENGTHS, 330])
def test_log_linear_weighs_the_buckets_of_a_fenwick_tree(length, num_levels):
    attention, x = built("log_linear", num_levels=num_levels), sequence(length)
    q, k, v = projected(attention, x)
    share = F.softplus(split(x, attention.share))
    products, weights = q @ k.mT / D**0.5, torch.zeros(B, H, length, length).double()
    for t in range(length):
        for level, tokens in enumerate(fenwick(t, num_levels)):
            weights[:, :, t, tokens] = products[:, :, t, tokens] * share[:, :, t, level, None]
    assert_gives(attention, x, joined(normalised(weights @ v, attention.norm), attention))


@pytest.mark.parametrize("num_levels", [4, 16])
def test_log_linear_keeps_a_state_for_each_digit_of_the_length(num_levels):
    attention, x = built("log_linear", num_levels=num_levels), sequence(100)
    cache = attention.new_cache()
    full = attention(x, x, Causal())
    for start, stop in [(0, 21), (21, 22), (22, 55), (55, 64), (64, 99), (99, 100)]:
        new = attention(x[:, start:stop], x[:, start:stop], Causal(), cache)
        torch.testing.assert_close(new, full[:, start:stop])
        digits = {min(n, num_levels - 2) for n in range(7) if stop >> n & 1}
        assert len(cache.state) == len(digits)
        states = B * attention.cache_elements(stop)
        assert sum(tensor.numel() for tensor in cache.tensors()) == states


@pytest.mark.parametrize(("layer", "bound"), [(0, 0.0), (3, 0.75)])
@pytest.mark.parametrize("length", LENGTHS)
def test_hgrn2_takes_up_what_its_gate_leaves_free(length, layer, bound):
    attention, x = built("hgrn2").at_layer(layer, 4), sequence(length)
    q, gates, v = projected(attention, x)
    forget = bound + (1 - bound) * gates.sigmoid()
    heads = read(
        F.silu(q),
        gates,
        v,
        lambda state, t: forget[:, :, t, :, None] * state + outer(1 - forget[:, :, t], v[:, :, t]),
    )
    computed = attention(x, x, Causal())
    expected = joined(normalised(heads, attention.norm), attention)
    torch.testing.assert_close(computed, expected, atol=1e-5, rtol=1e-5)  # gates are float32


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("grouped_tied", {"num_heads": 4, "head_dim": 6}, "head_dim 6 must be a multiple of 4"),
        ("matrix_factorized", {"query_rank": 0}, "query_rank must be at least 1, got 0"),
        ("matrix_factorized", {"num_heads": 5}, "num_heads 5 does not divide dim 24"),
        ("tensor_product", {"kv_rank": 0}, "kv_rank 0 must be at least 1"),
        ("moba", {"block": 0}, "block 0 and num_blocks 3 must be at least 1"),
        ("nsa", {"num_near": 0}, "num_near must be at least 1, got 0"),
        ("dsa", {"num_kept": 0}, "num_kept must be at least 1, got 0"),
        ("dsa", {"weight": -1.0}, "weight must be at least 0, got -1"),
        ("nystrom", {"num_landmarks": 0}, "num_landmarks must be at least 1, got 0"),
        ("performer", {"num_features": 0}, "num_features must be at least 1, got 0"),
        ("based", {"feature_dim": 0}, "feature_dim must be at least 1, got 0"),
        ("delta_product", {"num_steps": 0}, "num_steps must be at least 1, got 0"),
        ("gated_delta_net", {"convolution": -1}, "convolution must be at least 0, got -1"),
        ("log_linear", {"num_levels": 1}, "num_levels must be at least 2, got 1"),
        ("mamba2", {"state_dim": 0}, "state_dim 0 must be at least 1"),
        ("luong", {"head_dim": 5}, "head_dim 5 times num_heads 4 must be dim 24"),
        ("multi_token", {"key_width": 0}, "key_width 0 must be at least 1"),
        ("synthesizer", {"max_tokens": 0}, "max_tokens 0 must be at least 1"),
        ("cosformer", {"max_tokens": 0}, "max_tokens must be at least 1, got 0"),
    ],
)
def test_options_out_of_range_are_named(name, options, message):
    with pytest.raises(ValueError, match=message):
        build_attention({"name": name, **options}, C)
