"""The steps beside queries, keys and values: carrying, convolving, expanding, first values."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from attnkit.attention.maps import attention_map
from attnkit.attention.multi_head import MultiHead
from attnkit.attention.past import ShortConvolution
from attnkit.attention.retention import Retention
from attnkit.masks import Causal, Document, NoMask, Padding
from attnkit.models.encoder_decoder import DecoderOptions, EncoderDecoder, EncoderOptions
from attnkit.models.language_model import LanguageModel
from attnkit.registry import ATTENTION, Spec


class MultiToken(MultiHead):
    """Scores are convolved over neighbouring queries and keys (arXiv:2504.00927, section 3.1)."""

    roles = frozenset(("self",))
    causal_only = True
    knows_order = True

    def __init__(self, dim, *, query_width=3, key_width=5, **options):
        super().__init__(dim, **options)
        kernel = torch.zeros(self.num_heads, 1, query_width, key_width)
        kernel[:, :, -1, key_width // 2] = 1  # the identity
        self.kernel = nn.Parameter(kernel)

    def carry(self, q, x):
        return q

    def weights(self, q, k, mask, grid):
        every = grid.all_queries()
        scores = self.biased_scores(grid.carried, k, every).masked_fill(~every.allowed, 0.0)
        before, width = self.kernel.shape[2:]
        scores = F.pad(scores, (width // 2, (width - 1) // 2, before - 1, 0))
        scores = F.conv2d(scores, self.kernel, groups=self.num_heads)
        return self.normalize_under(scores[:, :, grid.offset :], mask)


class Selective(MultiHead):
    """Tokens hide others from later queries (arXiv:2410.02703, section 3)."""

    roles = frozenset(("self",))
    causal_only = True
    knows_order = True

    def carry(self, q, x):
        return q

    def scores(self, q, k, grid):
        every = grid.all_queries()
        hides = super().scores(grid.carried, k)[:, :1].relu()
        hides = hides * (every.key < every.query) * (every.key > 0) * every.allowed
        hidden = hides.cumsum(-2) - hides
        return super().scores(q, k) - hidden[:, :, grid.offset :]


class Convolved(MultiHead):
    """Queries and values see the few tokens before them."""

    roles = frozenset(("self",))
    causal_only = True
    knows_order = True

    def __init__(self, dim, **options):
        super().__init__(dim, **options)
        self.of_queries = ShortConvolution(self.num_heads, self.head_dim, width=3)
        self.of_values = ShortConvolution(self.num_kv_heads, self.head_dim, activation="none")

    def convolve(self, q, k, v, past):
        return self.of_queries(q, past), k, self.of_values(v, past)


class ConvolvedRetention(Retention):
    """A state that is fed by a short convolution."""

    def __init__(self, dim, **options):
        super().__init__(dim, **options)
        self.of_keys = ShortConvolution(self.num_heads, self.head_dim)

    def convolve(self, q, k, v, past):
        return q, self.of_keys(k, past), v


class Factors(MultiHead):
    """Keys and values are sums of outer products, whose factors are cached (arXiv:2501.06425)."""

    def __init__(self, dim, *, rank=2, **options):
        super().__init__(dim, **options)
        self.rank = rank
        width = rank * (self.num_heads + self.head_dim)
        self.key, self.value = nn.Linear(dim, width), nn.Linear(dim, width)

    def project_context(self, context):
        return tuple(
            part(context).unflatten(-1, (self.rank, -1)).transpose(1, 2)
            for part in (self.key, self.value)
        )

    def expand(self, k, v):
        def product(factors):
            features, heads = factors.split((self.head_dim, self.num_heads), dim=-1)
            return torch.einsum("brsd,brsh->bhsd", features, heads) / self.rank

        return product(k), product(v)


class Synthesizer(MultiHead):
    """A learned map that asks nothing of the tokens (arXiv:2005.00743, section 3.2)."""

    roles = frozenset(("self",))
    projections = frozenset(("value", "output"))
    position_kinds = frozenset(("embeddings",))
    knows_order = True

    def __init__(self, dim, *, max_tokens=32, **options):
        super().__init__(dim, **options)
        self.table = nn.Parameter(torch.randn(self.num_heads, max_tokens, max_tokens))

    def scores(self, q, k, grid):
        rows = self.table[:, grid.offset : grid.num_keys, : grid.num_keys]
        return rows.expand(q.shape[0], -1, -1, -1)


EVERY = (MultiToken, Selective, Convolved, ConvolvedRetention, Factors, Synthesizer)


def built(cls, **options):
    torch.manual_seed(1)
    attention = cls(16, num_heads=2, **options)
    with torch.no_grad():
        for parameter in attention.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return attention.double().eval()


@pytest.fixture
def x():
    return torch.randn(2, 11, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("cls", EVERY)
@pytest.mark.parametrize("chunks", [(1,) * 11, (2, 5, 1, 3), (4, 7)])
def test_in_pieces_it_gives_what_it_gives_at_once(cls, chunks, x):
    attention = built(cls)
    whole = attention(x, x, Causal())
    cache = attention.new_cache()
    pieces = [attention(piece, piece, Causal(), cache) for piece in x.split(chunks, dim=1)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole)
    assert cache.length == 11


@pytest.mark.parametrize("cls", EVERY)
def test_beams_may_change_places_while_decoding(cls, x):
    attention = built(cls)
    cache = attention.new_cache()
    attention(x[:, :6], x[:, :6], Causal(), cache)
    cache.select(torch.tensor([1, 0]))
    swapped = x.flip(0)
    last = attention(swapped[:, 6:], swapped[:, 6:], Causal(), cache)
    torch.testing.assert_close(last, attention(swapped, swapped, Causal())[:, 6:])


@pytest.mark.parametrize("cls", EVERY)
def test_padding_at_the_end_changes_nothing_before_it(cls, x):
    attention = built(cls)
    keep = torch.ones(2, 11, dtype=torch.bool)
    keep[1, 7:] = False
    padded = attention(x, x, Causal() & Padding(keep))[1, :7]
    torch.testing.assert_close(padded, attention(x[1:, :7], x[1:, :7], Causal())[0])


@pytest.mark.parametrize("cls", [MultiToken, Selective, Convolved, Factors, Synthesizer])
def test_the_map_is_what_is_used(cls, x):
    attention = built(cls)
    weights = attention_map(attention, x, x, Causal())
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 2, 11, dtype=torch.float64))
    prepared = attention.prepare(x, x, Causal())
    _, v = attention.expand(prepared.k, prepared.v)
    torch.testing.assert_close(weights @ v, attention.mixed(prepared, Causal()))


def test_multi_token_with_the_identity_is_multi_head(x):
    torch.manual_seed(2)
    multi_token = MultiToken(16, num_heads=2).double()
    multi_head = MultiHead(16, num_heads=2).double()
    multi_head.load_state_dict(multi_token.state_dict(), strict=False)
    torch.testing.assert_close(multi_token(x, x, Causal()), multi_head(x, x, Causal()))


def test_a_convolution_is_the_sum_that_it_says(x):
    convolved = built(Convolved)
    v = convolved.project_context(x)[1]
    weight = convolved.of_values.weight  # (H, D, 4)
    expected = torch.zeros_like(v)
    for t in range(11):
        for back in range(4):
            if t >= back:
                expected[:, :, t] += weight[..., 3 - back] * v[:, :, t - back]
    torch.testing.assert_close(convolved.prepare(x, x, NoMask()).v, expected)


def test_a_convolution_stays_in_its_document(x):
    convolved = built(Convolved)
    documents = torch.tensor([[0] * 5 + [1] * 6] * 2)
    mask = Causal() & Document().bind(documents=documents)
    apart = torch.cat([convolved(part, part, Causal()) for part in x.split((5, 6), 1)], dim=1)
    torch.testing.assert_close(convolved(x, x, mask), apart)
    cache = convolved.new_cache()
    pieces = []
    for start, stop in ((0, 4), (4, 7), (7, 11)):
        bound = Causal() & Document().bind(documents=documents[:, :stop])
        pieces.append(convolved(x[:, start:stop], x[:, start:stop], bound, cache))
    torch.testing.assert_close(torch.cat(pieces, dim=1), apart)


def test_what_is_cached_is_counted(x):
    numbers = {}
    for cls in (MultiHead, MultiToken, Convolved, Factors):
        attention = built(cls)
        cache = attention.new_cache()
        attention(x, x, Causal(), cache)
        numbers[cls] = cache.num_bytes() // (8 * 2)  # of one sequence
    assert numbers[MultiHead] == 2 * 11 * 16
    assert numbers[MultiToken] == 3 * 11 * 16
    assert numbers[Convolved] == 2 * 11 * 16 + (2 + 3) * 16
    assert numbers[Factors] == 2 * 11 * 2 * (2 + 8)


def test_a_softmax_may_ask_where_its_keys_stand(x):
    """`normalize` with a grid: each query's own key counts twice."""

    class Doubled(MultiHead):
        def normalize(self, scores, allowed, grid):
            return super().normalize(scores + math.log(2) * (grid.key == grid.query), allowed)

    attention = built(Doubled)
    q, (k, v) = attention.project_query(x), attention.project_context(x)
    counts = (q @ k.mT * attention.scale).exp() * (1 + torch.eye(11)).tril()
    heads = counts / counts.sum(dim=-1, keepdim=True) @ v
    torch.testing.assert_close(attention(x, x, Causal()), attention.merge(heads, x))


def test_what_carries_earlier_tokens_serves_self_attention_alone():
    class Carries(MultiHead):
        def carry(self, q, x):
            return q

    assert Carries.refusal("self", NoMask(), "none") is None
    assert "so it serves self-attention alone" in Carries.refusal("cross", NoMask(), "none")


def test_parts_that_are_not_needed_are_not_there(x):
    synthesizer = built(Synthesizer)
    names = {name for name, _ in synthesizer.named_parameters()}
    assert names == {"table", "value.weight", "output.weight"}
    weights = attention_map(synthesizer, x, x, Causal())
    shown = synthesizer.table[:, :11, :11].masked_fill(~Causal().dense(11, 11)[0], -math.inf)
    torch.testing.assert_close(weights[0], shown.softmax(-1))


@pytest.fixture
def registered():
    """`registered(cls)`: its name, as long as the test lasts."""
    names = []

    def register(cls):
        name = f"test_{len(names)}"
        ATTENTION.register(name)(cls)
        names.append(name)
        return name

    yield register
    for name in names:
        del ATTENTION._classes[name]


def models(name):
    spec = Spec(name, {"num_heads": 2})
    yield LanguageModel(9, dim=16, num_layers=2, attention=spec)
    decoder = DecoderOptions(num_layers=2, attention=spec)
    yield EncoderDecoder(9, dim=16, encoder=EncoderOptions(num_layers=1), decoder=decoder)


def of_class(model, cls):
    return [module for module in model.modules() if isinstance(module, cls)]


def test_what_a_mechanism_sets_itself_survives_the_model(registered):
    class Gates(MultiHead):
        def __init__(self, dim, **options):
            super().__init__(dim, **options)
            self.forget = nn.Linear(dim, self.num_heads)
            nn.init.zeros_(self.forget.weight)
            self.forget.bias.data.fill_(3.0)
            self.untouched = nn.Linear(dim, self.num_heads)
            nn.init.eye_(self.output.weight)

    for model in models(registered(Gates)):
        for attention in of_class(model, Gates):
            assert attention.forget.bias.tolist() == [3.0, 3.0]
            assert not attention.forget.weight.any()
            assert not attention.untouched.bias.any()  # the model's rule
            assert torch.equal(attention.output.weight, torch.eye(16))


def test_a_mechanism_may_override_its_first_values(registered):
    class Own(MultiHead):
        def initialise(self, draw):
            super().initialise(draw)
            nn.init.constant_(self.query.weight, 0.5)
            nn.init.constant_(self.output.weight, 0.25)

    for model in models(registered(Own)):
        for attention in of_class(model, Own):
            assert attention.query.weight.unique().item() == 0.5
            assert attention.output.weight.unique().item() == 0.25
            assert attention.key.weight.unique().numel() > 100


def test_a_mechanism_knows_its_layer(registered):
    class Deep(MultiHead):
        pass

    for model in models(registered(Deep)):
        places = [(a.layer, a.num_layers) for a in of_class(model, Deep)]
        assert places == [(0, 2), (1, 2)]
