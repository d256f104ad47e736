"""The sound that a map's keys are positions of: logged exactly, checked, drawn above the map."""

import json

import numpy as np
import pytest

from attnkit.attention_page.figure import STRIP, PngCanvas, draw, panels_of
from attnkit.tensorboard.attention_record import AttentionRecord, LayerMap
from attnkit.tensorboard.key_sound import KeySound
from attnkit.tensorboard.map_format import decode, encode
from attnkit.tensorboard.map_header import read_header
from attnkit.tensorboard.untrusted import MapFormatError

STRIPES = np.array([[0, 255, 0, 255], [0, 255, 0, 255]], np.uint8)


@pytest.fixture
def record():
    layer = LayerMap("L0", np.full((1, 3, 2), 0.5, dtype=np.float32))
    sound = KeySound(STRIPES, np.array([0, -32768, 32767, 5], np.int16), 8000)
    return AttentionRecord("probe", "cross", "cross", False, "abc", ["0", "1"], [layer], "", sound)


def test_it_is_read_as_it_was_logged(record):
    found = decode(encode(record)).sound
    assert np.array_equal(found.strip, STRIPES)
    assert found.samples.tolist() == record.sound.samples.tolist()
    assert found.rate == 8000


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"shape": [2, 4, 1]}, "bands, columns"),
        ({"shape": [2, 0]}, "bands, columns"),
        ({"shape": [2**20, 2]}, "at most 1048576"),
        ({"shape": [2, 5]}, "exactly the 10 bytes"),
        ({"count": 2**30}, "from 1 to"),
        ({"count": 3}, "exactly the 6 bytes"),
        ({"rate": 0}, "0 samples per second"),
        ({"rate": True}, "`rate`"),
        ({"strip": "!"}, "not base64"),
        ({"samples": "AAAA"}, "a sound is damaged"),
    ],
    ids=str,
)
def test_what_contradicts_itself_is_refused(record, changes, said):
    content = json.loads(encode(record)[0])
    content["sound"] |= changes
    with pytest.raises(MapFormatError, match=said):
        read_header(json.dumps(content).encode())


def test_a_spectrogram_is_drawn_above_the_columns_of_its_map(record):
    """Two columns of it belong to each key; what is loud is dark."""
    sheet = draw(
        panels_of(record), record.query_tokens, record.key_tokens, title="t", strip=STRIPES
    )
    plain = draw(panels_of(record), record.query_tokens, record.key_tokens, title="t")
    assert isinstance(sheet, PngCanvas)
    assert sheet.height - plain.height == STRIP
    pixels = np.asarray(sheet.image.convert("RGB")).astype(int)
    black = np.argwhere((pixels == 0).all(axis=-1))
    (top, left), (bottom, right) = black.min(axis=0), black.max(axis=0)
    cell = 28 * PngCanvas.ZOOM
    assert bottom - top + 1 == pytest.approx((STRIP - 4) * PngCanvas.ZOOM, abs=2)
    assert right - left + 1 == pytest.approx(1.5 * cell, abs=2)  # from the second stripe on
    between = pixels[(top + bottom) // 2, left + cell // 2 + 4 : left + cell - 4]
    assert (between == 255).all()
