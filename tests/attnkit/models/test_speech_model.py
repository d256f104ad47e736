"""The encoder-decoder over sound: its masks, padding and caches are those of a translator."""

import pytest
import torch

from attnkit.attention.maps import attention_maps
from attnkit.models.accounting import parameter_counts
from attnkit.models.encoder_decoder import CrossOptions, DecoderOptions, EncoderOptions
from attnkit.models.speech_model import SoundEmbedding, SpeechModel
from attnkit.recipe import RecipeError, recipe_from_dict
from attnkit.registry import Spec

FEATURES = 12


@pytest.fixture(params=["multi_head", "linear"])
def model(request):
    """In double precision, so that what is equal is seen to be."""
    torch.manual_seed(0)
    attention = Spec(request.param, {"num_heads": 2})
    return (
        SpeechModel(
            9,
            FEATURES,
            max_seq_len=16,
            dim=8,
            encoder=EncoderOptions(num_layers=1, attention=attention),
            decoder=DecoderOptions(num_layers=2, attention=attention),
            cross=CrossOptions(attention=attention),
        )
        .double()
        .eval()
    )


def inputs():
    generator = torch.Generator().manual_seed(1)
    source = torch.randn(3, 10, FEATURES, generator=generator, dtype=torch.double)
    target = torch.randint(9, (3, 6), generator=generator)
    return source, torch.arange(10) < torch.tensor([[10], [7], [1]]), target


@torch.no_grad()
def test_padding_changes_nothing_and_every_position_counts(model):
    source, keep, target = inputs()
    together = model(source.float(), keep, target)  # as data comes
    source = source.float().double()
    noise = torch.where(keep[..., None], source, torch.randn_like(source))
    assert torch.equal(model(noise, keep, target), together)
    for row, length in enumerate(keep.sum(dim=1).tolist()):
        one = slice(row, row + 1)
        alone = model(source[one, :length], keep[one, :length], target[one])
        torch.testing.assert_close(together[one], alone, atol=1e-12, rtol=0)
    for place in range(10):
        other = source.clone()
        other[:, place] += 1
        moved = (model(other, keep, target) - together).abs().amax(dim=(1, 2))
        assert [bool(m > 1e-9) for m in moved] == keep[:, place].tolist()


@torch.no_grad()
def test_decoding_equals_the_full_pass_and_maps_are_of_positions(model):
    source, keep, target = inputs()
    full, cache = model(source, keep, target), model.new_cache(source, keep)
    steps = [model.decode(target[:, t : t + 1], cache) for t in range(6)]
    torch.testing.assert_close(torch.cat(steps, dim=1), full, atol=1e-10, rtol=0)
    maps = attention_maps(model, (source, keep, target))
    cross = [m.weights for m in maps if m.role == "cross"]
    assert [tuple(weights.shape) for weights in cross] == [(3, 2, 6, 10)] * 2
    assert float(cross[0][2, :, :, 1:].abs().max()) == 0


def test_convolutions_count_as_an_embedding():
    model = SpeechModel(9, FEATURES, dim=8, max_seq_len=16)
    own = 8 * 3 * 3 + 8 + 8 * 8 * 3 + 8  # 12 features are 4 frames of 3
    assert parameter_counts(model)["embeddings"] == own + 9 * 8
    with pytest.raises(ValueError, match="13 features of a position are not 4 frames"):
        SoundEmbedding(13, 8)


def test_a_sound_shares_no_embedding_with_letters():
    """The option of a translator would do nothing, so there is none."""

    def recipe(**options):
        return recipe_from_dict(
            {"task": "speech", "name": "small", "model": {"dim": 16, **options}}
        )

    assert "shared_embeddings" not in recipe(tied_embeddings=False).model
    for value in (True, False):
        with pytest.raises(RecipeError, match=r"model\.shared_embeddings: unknown key"):
            recipe(shared_embeddings=value)
