from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from attnkit.tensorboard.attention_record import AttentionRecord, LayerMap, layer_map
from attnkit.tensorboard.images import colour, contact_sheet, palette_png
from attnkit.tensorboard.palettes import DIVERGING_ZERO, INKS, MASKED, PALETTE, PAPER


def read_png(png):
    """Returns the palette indices of a PNG and its palette."""
    with Image.open(BytesIO(png)) as image:
        assert (image.format, image.mode) == ("PNG", "P")
        palette = np.array(image.getpalette(), np.uint8).reshape(-1, 3)
        return np.array(image), palette


def words_on(pixels):
    """True where there is ink of letters, also where it is pale."""
    return np.isin(pixels, INKS[1:])


def brightness(indices):
    return PALETTE[indices].astype(float) @ [0.299, 0.587, 0.114]


def record_of(*layers, **changes):
    _, queries, keys = layers[0].weights.shape
    fields = {"example": "probe0", "site": "self", "kind": "self", "causal": True}
    fields |= {"query_tokens": ["a"] * queries, "key_tokens": ["a"] * keys, "layers": layers}
    return AttentionRecord(**(fields | changes))


def softmax_maps(heads, tokens, allowed=None):
    scores = np.random.default_rng(0).normal(size=(heads, tokens, tokens))
    weights = np.exp(2 * scores) * (1 if allowed is None else allowed)
    return (weights / weights.sum(axis=-1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 7), (64, 33)])
def test_a_png_holds_the_pixels_that_were_given(height, width):
    indices = np.random.default_rng(0).integers(0, 256, (height, width)).astype(np.uint8)
    pixels, palette = read_png(palette_png(indices))
    assert np.array_equal(pixels, indices)
    assert np.array_equal(palette, PALETTE)


def test_the_largest_weight_of_each_row_is_brightest_and_brightness_follows_weight():
    weights = softmax_maps(3, 16)
    light = brightness(colour(weights))
    assert np.array_equal(light.argmax(axis=-1), weights.argmax(axis=-1))
    row, shades = weights[0, 0], light[0, 0]
    assert np.all(np.diff(shades[np.argsort(row)]) >= -1)  # rounding of the palette
    assert colour(weights).max(axis=-1).min() == colour(weights).max()


def test_masked_cells_have_a_colour_of_their_own():
    allowed = np.tri(8, dtype=bool)
    indices = colour(softmax_maps(2, 8, allowed), allowed)
    assert np.all(indices[:, ~allowed] == MASKED)
    assert not np.any(indices[:, allowed] == MASKED)
    others = np.delete(PALETTE[: PAPER + 1], MASKED, axis=0).astype(int)
    assert abs(others - PALETTE[MASKED]).sum(axis=1).min() > 20


def test_signed_weights_diverge_from_the_middle():
    indices = colour(np.array([[[-2.0, 0.0, 1.0]]]), signed=True)[0, 0]
    assert indices[1] == DIVERGING_ZERO
    red, _, blue = PALETTE[indices].T.astype(int)
    assert blue[0] > red[0]
    assert red[2] > blue[2]
    assert DIVERGING_ZERO - indices[0] == 2 * (indices[2] - DIVERGING_ZERO)


def test_a_row_of_zeros_stays_dark():
    assert not colour(np.zeros((1, 2, 3))).any()


def test_a_sheet_shows_every_head_of_every_layer_enlarged():
    allowed = np.tri(32, dtype=bool)
    layers = [layer_map(f"L{i}", softmax_maps(4, 32, allowed), allowed) for i in range(3)]
    image = contact_sheet(record_of(*layers), step=7)
    pixels, _ = read_png(image.png)
    assert pixels.shape == (image.height, image.width)
    tile = colour(layers[0].weights, allowed)[2].repeat(4, axis=0).repeat(4, axis=1)
    windows = np.lib.stride_tricks.sliding_window_view(pixels, tile.shape)
    corner = np.argwhere((windows[:, :, 0, :] == tile[0]).all(axis=-1))
    found = [at for at in corner if np.array_equal(windows[*at], tile)]
    assert len(found) == 3  # the same maps in each of three layers
    assert len({at[1] for at in found}) == 1
    assert np.count_nonzero(pixels == MASKED) > 12 * 16 * (32 * 31 // 2) - 1


def test_a_sheet_carries_words():
    image = contact_sheet(record_of(layer_map("L0", softmax_maps(2, 32))), step=12)
    pixels, _ = read_png(image.png)
    for words in ("self, probe0, step 12", "H1", "L0"):
        font = ImageFont.load_default(14)
        drawn = Image.new("L", (int(font.getlength(words)), 20))
        ImageDraw.Draw(drawn).text((0, 0), words, 255, font)
        ink = np.array(drawn) > 60
        windows = np.lib.stride_tricks.sliding_window_view(words_on(pixels), ink.shape)
        assert windows[..., ink].all(axis=-1).any(), words


def test_layers_may_have_different_numbers_of_heads_and_norms():
    mixed = [
        layer_map("L0", softmax_maps(8, 24)),
        LayerMap("L1", np.random.default_rng(0).normal(size=(3, 24, 24)), "signed"),
    ]
    image = contact_sheet(record_of(*mixed, note="two kinds"), step=0)
    pixels, _ = read_png(image.png)
    last_tile = pixels[-12 - 24 * 5 : -12]
    assert np.count_nonzero((last_tile >= 120) & (last_tile <= 240)) == 3 * (24 * 5) ** 2


def test_long_maps_shrink_and_keep_their_peaks():
    weights = np.full((1, 1000, 1000), 1e-6, dtype=np.float32)
    weights[0, 500, 321] = 1
    allowed = np.tri(1000, dtype=bool)
    image = contact_sheet(record_of(LayerMap("L0", weights * allowed, "rows", allowed)), step=0)
    assert image.width < 500
    pixels, _ = read_png(image.png)
    map_pixels = pixels[-12 - 250 : -12]
    left = np.argmax(map_pixels[0] != PAPER)
    assert brightness(map_pixels[125, left : left + 250]).argmax() == 321 // 4
    masked = map_pixels[125, left : left + 250] == MASKED
    assert masked.argmax() == 126  # keys 500 to 503 are masked for some of these queries only
    assert masked[126:].all()


def test_a_long_note_is_broken_into_lines_and_no_letter_is_a_box():
    heights = []
    for note in ("", "Seen é\u202e in words. " * 8):
        maps = layer_map("L0", softmax_maps(1, 16))
        image = contact_sheet(record_of(maps, note=note), step=0)
        pixels, _ = read_png(image.png)
        assert not words_on(pixels[:, -12:]).any()  # the margin
        heights.append(image.height)
    assert heights[1] > heights[0] + 3 * 20
