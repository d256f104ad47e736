"""The page: one file, no network, and tokens that are text whatever they say."""

import base64
import json
import re

import numpy as np

from attnkit.attention_page.page import page
from attnkit.tensorboard.attention_record import AttentionRecord, layer_map

HOSTILE = ["</script><script>alert(1)</script>", "<!--", "{{style}}", '"\\', "\u202eabc"]


def made():
    rng = np.random.default_rng(0)
    weights = np.tril(rng.random((2, 5, 5))).astype(np.float32)
    weights /= weights.sum(axis=-1, keepdims=True)
    allowed = np.tril(np.ones((5, 5), dtype=bool))
    layer = layer_map("L0", weights, allowed)
    record = AttentionRecord("text", "self", "self", True, HOSTILE, HOSTILE, [layer])
    return weights, page([record], "a <b> title")


def data_of(text):
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    return json.loads(found)


def test_tokens_and_weights_come_back_exactly():
    weights, text = made()
    data = data_of(text)
    (site,) = data["sites"]
    assert site["queries"] == HOSTILE
    (layer,) = site["layers"]
    numbers = np.frombuffer(base64.b64decode(layer["weights"]), dtype="<f4").reshape(2, 5, 5)
    assert np.array_equal(numbers, weights)
    assert data["title"] == "a <b> title"


def test_nothing_in_a_token_is_markup():
    _, text = made()
    assert text.count("<script") == 2
    assert text.count("</script>") == 2
    assert "<!--" not in text
    assert "<h1>a &lt;b&gt; title</h1>" in text
    assert "{{title}}" not in text


def test_it_needs_no_network():
    _, text = made()
    assert not re.search(r"(?:src|href)=|@import|url\(|fetch\(|XMLHttpRequest", text)
    assert "default-src 'none'" in text
