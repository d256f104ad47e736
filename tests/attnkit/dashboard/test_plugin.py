"""The routes, through TensorBoard's own application and its Python reader of event files."""

import gzip
import json
import struct

import pytest
from tensorboard import program
from tensorboard.backend import application
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from werkzeug.test import Client

from attnkit.dashboard.loader import AttentionLoader
from attnkit.pages.serving import ENTRY
from attnkit.pages.static_files import CONTENT_TYPES, read_static, static_names
from attnkit.tensorboard import summaries
from attnkit.tensorboard.map_format import decode

PREFIX = "/data/plugin/attention"
HOSTILE_RUN = "<img src=x onerror=alert(1)>"


def with_header(**values):
    def change(blobs):
        header = json.loads(blobs[0]) | values
        return [json.dumps(header).encode(), *blobs[1:]]

    return change


DAMAGE = {
    "newer": (with_header(v=2), "format version 2 is unknown"),
    "no_json": (lambda blobs: [b"\xff", *blobs[1:]], "not JSON"),
    "other_sizes": (with_header(layers=[[2, 6, 6], [3, 6, 6]]), "108 bytes"),
    "other_tokens": (with_header(q=["a"]), "1 query tokens"),
    "huge": (with_header(layers=[[2, 6, 6], [2**20, 2**20, 2**20]]), "at most"),
    "layer_missing": (lambda blobs: blobs[:-1], "2 layers, but 1 blobs"),
    "no_gzip": (lambda blobs: [blobs[0], b"nothing", blobs[2]], "layer 0 is damaged"),
    "bomb": (lambda blobs: [*blobs[:2], gzip.compress(b"\0" * 10**7)], "exactly the 72 bytes"),
}


CLINIC = {
    "steps": [0, 40],
    "heads": {
        "L0H0": {"previous": [0.1, 0.9], "knock_out_mean": [None, float("inf")]},
        "decoder.cross L1H12": {"entropy": [1.23456789, 0.5], "distance": [9.0, 2.0]},
    },
}
DAMAGED_CLINICS = {
    "no_json": ("{", "it is not JSON"),
    "backwards": (json.dumps({**CLINIC, "steps": [40, 0]}), "the steps do not ascend"),
    "empty": (json.dumps({**CLINIC, "heads": {}}), "it has no heads"),
    "short": (json.dumps({**CLINIC, "steps": [0]}), "2 numbers of previous for 1 steps"),
    "names": (json.dumps({**CLINIC, "heads": {"<b>": {}}}), "'<b>' is not the name of a head"),
    "words": (json.dumps({**CLINIC, "heads": {"L0H0": {"first": ["a", "b"]}}}), "wrong type"),
}


def changed(moment, *path, to):
    """A copy of a moment with another value at a path."""
    copied = json.loads(json.dumps(moment))
    *within, last = path
    place = copied
    for key in within:
        place = place[key]
    place[last] = to
    return copied


DAMAGED_CONTRIBUTIONS = {
    "no_json": (lambda moment: "{", "it is not JSON"),
    "count": (lambda moment: {"steps": [0, 5], "moments": [moment]}, "1 moments for 2 steps"),
    "backwards": (lambda moment: {"steps": [5, 0], "moments": [moment] * 2}, "do not ascend"),
    "empty": (lambda moment: changed(moment, "tokens", to=[]), "has no tokens"),
    "kind": (lambda moment: changed(moment, "parts", 1, "kind", to="<b>"), "an unknown kind"),
    "shape": (lambda moment: changed(moment, "lengths", 0, to=[1.0]), "`lengths` is not of shape"),
    "nan": (
        lambda moment: changed(moment, "turns", 0, 0, to=float("nan")),
        "`turns` holds an entry of the wrong type",
    ),
    "text": (
        lambda moment: changed(moment, "next", "effects", 0, 0, to="x"),
        "`effects` holds an entry of the wrong type",
    ),
    "words": (
        lambda moment: changed(moment, "words", 0, 0, to=[[1, "a"]]),
        "`words` holds an entry of the wrong type",
    ),
    "ranks": (
        lambda moment: changed(moment, "lens", 0, "ranks", "top", to=[1]),
        "`ranks` is not of shape",
    ),
}


@pytest.fixture(scope="module")
def client(tmp_path_factory, make_record, make_moment, logged, write_run):
    root = tmp_path_factory.mktemp("routes")
    write_run(root / "a" / "seed0", [logged(make_record(seed=s), s) for s in (0, 5, 300)])
    write_run(root / HOSTILE_RUN, [logged(make_record(queries=["<b>", "\u202e", "\ud800"]), 0)])
    write_run(root / "long", [logged(make_record(heads=(40,), queries=["t"] * 100), 0)])
    write_run(root / "two_sites", [logged(make_record(site="x.self"), 0)])
    for name, (change, _) in DAMAGE.items():
        tag, blobs, step = logged(make_record(), 0)
        write_run(root / "damaged" / name, [(tag, change(list(blobs)), step)])
    for number, (dims, dtype) in enumerate([(10**12, 7), (-3, 7), (3, 7), (2, 99)]):
        write_shape(root / "shapes" / str(number), dims, dtype)
    (root / "a" / "seed0" / "clinic.json").write_text(json.dumps(CLINIC))
    for name, (text, _) in DAMAGED_CLINICS.items():
        write_run(root / "clinics" / name, [logged(make_record(), 0)])
        (root / "clinics" / name / "clinic.json").write_text(text)
    moments = [make_moment("abc", seed=seed) for seed in (0, 1)]
    history = {"steps": [0, 40], "moments": moments}
    (root / "a" / "seed0" / "contributions.json").write_text(json.dumps(history))
    for name, (change, _) in DAMAGED_CONTRIBUTIONS.items():
        write_run(root / "parts" / name, [logged(make_record(), 0)])
        content = change(moments[0])
        if isinstance(content, dict) and "steps" not in content:
            content = {"steps": [0], "moments": [content]}
        text = content if isinstance(content, str) else json.dumps(content)
        (root / "parts" / name / "contributions.json").write_text(text)
    flags = program.TensorBoard()
    flags.configure(["", "--logdir", str(root)])
    multiplexer = EventMultiplexer(tensor_size_guidance={"attention": 200})
    multiplexer.AddRunsFromDirectory(str(root))
    multiplexer.Reload()
    provider = MultiplexerDataProvider(multiplexer, str(root))
    app = application.TensorBoardWSGIApp(
        flags.flags, [AttentionLoader()], provider, assets_zip_provider=None
    )
    return Client(app)


def write_shape(directory, size, dtype):
    """Maps at steps 0 and 1; the record of step 0 has another shape than its blobs, or no type."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    writer = EventFileWriter(str(directory))
    for step in (0, 1):
        summary = summaries.maps("attention/probe/self", [b"{}", b"x"])
        if step == 0:
            summary.value[0].tensor.dtype = dtype
            summary.value[0].tensor.tensor_shape.dim[0].size = size
        writer.add_event(Event(step=step, wall_time=1.7e9 + step, summary=summary))
    writer.close()


@pytest.mark.parametrize("run", ["shapes/0", "shapes/1", "shapes/2", "shapes/3"])
def test_a_corrupt_record_stops_neither_the_list_nor_its_neighbours(client, run):
    tag = "attention/probe/self"
    index = get(client, "index")
    assert index.status_code == 200
    assert index.json["runs"][run][tag]["steps"] == [0, 1]
    for step in (0, 1):
        answer = get(client, "record", run=run, tag=tag, step=step)
        assert answer.status_code == 422
        assert answer.json["error"]


def get(client, route, **query):
    return client.get(f"{PREFIX}/{route}", query_string=query)


def unpack(answer):
    """The blobs of an answered record: its layers come inflated, large records compressed."""
    content = answer.data
    if answer.headers.get("Content-Encoding") == "gzip":
        content = gzip.decompress(content)
    (count,) = struct.unpack_from("<I", content)
    sizes = struct.unpack_from(f"<{count}I", content, 4)
    blobs, start = [], 4 * (1 + count)
    for size in sizes:
        blobs.append(content[start : start + size])
        start += size
    assert start == len(content)
    return [blobs[0], *map(gzip.compress, blobs[1:])]


def test_the_index_names_runs_tags_and_steps(client):
    answer = get(client, "index")
    assert answer.status_code == 200
    assert answer.content_type == "application/json"
    content = answer.json
    assert content["version"] == 1
    assert content["runs"]["a/seed0"]["attention/probe/self"]["steps"] == [0, 5, 300]
    assert content["runs"]["a/seed0"]["attention/probe/self"]["started"] == 1.7e9
    assert list(content["runs"]["two_sites"]) == ["attention/probe/x.self"]
    assert HOSTILE_RUN in content["runs"]


def test_a_record_comes_as_it_was_logged(client, make_record):
    answer = get(client, "record", run="a/seed0", tag="attention/probe/self", step=5)
    assert answer.status_code == 200
    assert answer.content_type == "application/octet-stream"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    record = decode(unpack(answer))
    expected = make_record(seed=5)
    for layer, other in zip(record.layers, expected.layers, strict=True):
        assert layer.weights == pytest.approx(other.weights, abs=0.005)


@pytest.mark.parametrize("accepts", ["gzip", "identity"])
def test_a_large_record_is_compressed_for_those_who_accept_it(client, make_record, accepts):
    query = {"run": "long", "tag": "attention/probe/self", "step": 0}
    answer = client.get(
        f"{PREFIX}/record", query_string=query, headers={"Accept-Encoding": accepts}
    )
    assert (answer.headers.get("Content-Encoding") == "gzip") == (accepts == "gzip")
    (layer,) = decode(unpack(answer)).layers
    expected = make_record(heads=(40,), queries=["t"] * 100).layers[0]
    assert layer.weights == pytest.approx(expected.weights, abs=0.005)


def test_hostile_tokens_are_data_and_nothing_else(client):
    answer = get(client, "record", run=HOSTILE_RUN, tag="attention/probe/self", step=0)
    assert answer.content_type == "application/octet-stream"
    assert decode(unpack(answer)).query_tokens == ("<b>", "\u202e", "\ud800")


def test_statistics_have_a_value_a_head_and_step(client):
    content = get(client, "statistics", run="a/seed0", tag="attention/probe/self").json
    assert content["steps"] == [0, 5, 300]
    assert content["names"] == ["L0", "L1"]
    for measure in ("entropy", "distance", "first"):
        assert [[len(heads) for heads in moment] for moment in content[measure]] == [[2, 2]] * 3


@pytest.mark.parametrize(
    ("route", "query", "code", "said"),
    [
        ("record", {}, 400, "lacks `run`"),
        ("record", {"run": "a/seed0", "tag": "attention/probe/self"}, 400, "lacks `step`"),
        ("record", {"run": "a/seed0", "tag": "t", "step": "1e3"}, 400, "not a whole number"),
        ("record", {"run": "a/seed0", "tag": "t", "step": "9" * 99}, 400, "not a whole number"),
        ("record", {"run": "a/seed0", "tag": "t", "step": "٣"}, 400, "not a whole number"),
        ("record", {"run": "b", "tag": "attention/probe/self", "step": 0}, 404, "has no maps"),
        ("record", {"run": "a/seed0", "tag": "loss", "step": 0}, 404, "has no maps"),
        ("record", {"run": "a/seed0", "tag": "attention/probe/self", "step": 1}, 404, "at step 1"),
        ("record", {"run": "../../etc", "tag": "passwd", "step": 0}, 404, "has no maps"),
        ("statistics", {"run": "a/seed0"}, 400, "lacks `tag`"),
        ("statistics", {"run": "b", "tag": "attention/probe/self"}, 404, "has no maps"),
    ],
)
def test_bad_requests_are_told_why(client, route, query, code, said):
    answer = get(client, route, **query)
    assert answer.status_code == code
    assert answer.content_type == "application/json"
    assert said in answer.json["error"]


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_records_are_refused(client, name):
    """Before the pages see them: they rely on the sizes in the header."""
    answer = get(client, "record", run=f"damaged/{name}", tag="attention/probe/self", step=0)
    assert answer.status_code == 422
    assert DAMAGE[name][1] in answer.json["error"]
    answer = get(client, "statistics", run=f"damaged/{name}", tag="attention/probe/self")
    assert answer.status_code == 422


@pytest.mark.parametrize("route", ["index", "record", "statistics", f"static/{ENTRY}"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_nothing_but_get_and_head_is_answered(client, route, method):
    answer = client.open(f"{PREFIX}/{route}", method=method)
    assert answer.status_code == 405
    assert answer.headers["Allow"] == "GET, HEAD"


def test_head_has_no_body(client):
    answer = client.head(f"{PREFIX}/index")
    assert (answer.status_code, answer.data) == (200, b"")


def test_pages_are_served_with_their_types(client):
    for name, package in static_names(("attnkit.dashboard",)).items():
        answer = get(client, f"static/{name}")
        assert answer.status_code == 200
        wanted = CONTENT_TYPES[name.rpartition(".")[2]]
        assert answer.content_type.startswith(wanted)
        assert answer.data.decode().endswith(read_static(package, name))


@pytest.mark.parametrize(
    "path",
    [
        "static/../plugin.py",
        "static/%2e%2e/plugin.py",
        "static/..%2fplugin.py",
        "static//etc/passwd",
        "static/",
        "static",
        "static/main.js%00.css",
        "static/nothing.js",
        "plugin.py",
    ],
)
def test_no_path_leads_out_of_the_pages(client, path):
    assert client.get(f"{PREFIX}/{path}").status_code == 404


def test_a_clinic_is_laid_out_by_heads(client):
    steps = [0, 40]
    index = get(client, "index").json["clinics"]
    assert index["a/seed0"]["steps"] == steps
    assert index["clinics/short"]["steps"] == []
    assert "long" not in index
    found = get(client, "clinic", run="a/seed0").json
    assert found["steps"] == steps
    first, second = found["heads"]
    place = {"site": "decoder.cross", "layer": 1, "head": 12}
    assert {key: second[key] for key in place} == place
    assert second["scores"]["entropy"] == [1.2346, 0.5]
    assert first["scores"]["knock_out_mean"] == [None, None], "JSON has no infinity"
    assert (first["words"], second["words"]) == (["mixed", "previous"], ["mixed", "local"])
    (mark,) = found["formed"]
    assert (mark["score"], mark["head"], mark["step"]) == ("previous", "L0H0", 40)


@pytest.mark.parametrize("name", DAMAGED_CLINICS)
def test_a_damaged_clinic_is_told(client, name):
    answer = get(client, "clinic", run=f"clinics/{name}")
    assert answer.status_code == 422
    assert DAMAGED_CLINICS[name][1] in answer.json["error"]


@pytest.mark.parametrize("run", ["long", "nowhere", "../a", "/etc"])
def test_a_run_without_a_clinic_is_not_found(client, run):
    assert get(client, "clinic", run=run).status_code == 404


def test_contributions_are_served_step_by_step(client, make_moment):
    index = get(client, "index").json["contributions"]
    assert index["a/seed0"]["steps"] == [0, 40]
    assert index["parts/count"]["steps"] == []
    assert "long" not in index
    found = get(client, "contributions", run="a/seed0", step=40).json
    assert found == make_moment("abc", seed=1)
    assert get(client, "contributions", run="a/seed0", step=7).status_code == 404
    assert get(client, "contributions", run="long", step=0).status_code == 404


@pytest.mark.parametrize("name", DAMAGED_CONTRIBUTIONS)
def test_damaged_contributions_are_told(client, name):
    answer = get(client, "contributions", run=f"parts/{name}", step=0)
    assert answer.status_code == 422
    assert DAMAGED_CONTRIBUTIONS[name][1] in answer.json["error"]
