"""Bad recipes and overrides, each with the line that a person reads.

Every case is one recipe file `bad.yaml`, whose first line is a good model unless the case says
otherwise, with overrides. All its problems are listed, in order, by the beginning of their lines.
"""

import re

import pytest

from attnkit.models import shapes_only
from attnkit.recipe import RecipeError, load_recipe, merging
from attnkit.recipe.interpolation import escape_interpolation

MODEL = "model: {dim: 32, num_layers: 1, attention: {name: multi_head, num_heads: 4}}\n"

# What line 2 of a recipe says -> the problems.
LINES = [
    # Keys
    (
        "sed: 3",
        "bad.yaml:2:1: sed: unknown key; did you mean `seed`? (known: ablation, callbacks, ",
    ),
    (
        "trainer: {max_step: 3}",
        "bad.yaml:2:11: trainer.max_step: unknown key; did you mean `max_steps`?",
    ),
    (
        "trainer: {num_haeds: 4}",
        "bad.yaml:2:11: trainer.num_haeds: unknown key; did you mean `model.attention.num_heads`?",
    ),
    (
        "logging: {batch_sise: 4}",
        "bad.yaml:2:11: logging.batch_sise: unknown key; did you mean `trainer.batch_size`?",
    ),
    ("trainer: {sed: 4}", "bad.yaml:2:11: trainer.sed: unknown key; did you mean `seed`?"),
    ("trainer: {seed: 4}", "bad.yaml:2:11: trainer.seed: unknown key; it belongs at the top"),
    ("lr: 1e-3", "bad.yaml:2:1: lr: unknown key; it belongs under `optimizer` (known: "),
    ("num_heads: 4", "bad.yaml:2:1: num_heads: unknown key; it belongs under `model.attention`"),
    (
        "every_n_steps: 4",
        "bad.yaml:2:1: every_n_steps: unknown key; it belongs under `validation` or `checkpoint` "
        "or `logging`",
    ),
    (
        "trainer.max_steps: 3",
        "bad.yaml:2:1: trainer.max_steps: unknown key; dotted keys are for overrides",
    ),
    (
        "task: {name: masked_language_modeling, windows: 4}",
        "bad.yaml:2:7: task: expected text, got a mapping; write `task: masked_language_modeling`, "
        "and its options in a section `masked_language_modeling:` (windows)",
    ),
    ("seed: 1\nseed: 2", "bad.yaml:3:1: seed: this key occurs twice; the first is in line 2"),
    (
        "data: {name: text}",
        "bad.yaml:2:1: data.files: this required key is missing: a path or pattern",
    ),
    ("[a, b]: 3", "bad.yaml:2:1: a key must be a word"),
    ("<<: {seed: 3}", "bad.yaml:2:1: merge keys (`<<`) are not supported; use `extends`"),
    # Names
    (
        "optimizer: adam",
        "bad.yaml:2:12: optimizer: unknown optimizer `adam`; did you mean `adamw`? (known: ",
    ),
    (
        "optimizer: {name: sgd, lr: 3}",
        "bad.yaml:2:19: optimizer.name: unknown optimizer `sgd` (known: adamw, muon)",
    ),
    ("data: shakespeare", "bad.yaml:2:7: data: unknown data source `shakespeare`"),
    (
        "tokenizer: chars",
        "bad.yaml:2:12: tokenizer: unknown tokenizer `chars`; did you mean `char`?",
    ),
    (
        "schedule: {warmup_steps: 3}",
        "bad.yaml:2:1: schedule: the name of the learning-rate schedule is missing",
    ),
    ("schedule: {name: [cosine]}", "bad.yaml:2:18: schedule.name: expected text, got a list"),
    (
        "tokenizer: 3",
        "bad.yaml:2:12: tokenizer: expected the name of a registered tokenizer or {name: ",
    ),
    (
        "task: translating",
        "bad.yaml:2:7: task: unknown task `translating`; did you mean `translation`? (known: ",
    ),
    (
        "task: [x]",
        "bad.yaml:2:7: task: expected text, got a list",
    ),
    ("name: .hidden", "bad.yaml:2:7: name: '.hidden' is not allowed here; use letters, digits"),
    ("name: a/../b", "bad.yaml:2:7: name: 'a/../b' is not allowed here"),
    ("variant: a b", "bad.yaml:2:10: variant: 'a b' is not allowed here"),
    ("name: 2024", "bad.yaml:2:7: name: expected text, got the number 2024; put it in quotes"),
    # Types
    ("seed: abc", "bad.yaml:2:7: seed: expected a whole number, got text 'abc'"),
    (
        "seed: '3'",
        "bad.yaml:2:7: seed: expected a whole number, got text '3'; write it without quotes",
    ),
    ("seed: 3.0", "bad.yaml:2:7: seed: expected a whole number, got the number 3.0; write 3"),
    ("seed: true", "bad.yaml:2:7: seed: expected a whole number, got true"),
    ("seed:", "bad.yaml:2:6: seed: expected a whole number, got nothing (null)"),
    ("seed: {value: 3}", "bad.yaml:2:7: seed: expected a whole number, got a mapping"),
    ("seed: 99999999999999999999", "bad.yaml:2:7: seed: 99999999999999999999 is too large"),
    ("trainer: fast", "bad.yaml:2:10: trainer: expected a mapping of options, got text 'fast'"),
    (
        "trainer: {compile: 1}",
        "bad.yaml:2:20: trainer.compile: expected `auto`, `without_cuda_graphs` or true or false, "
        "got the number 1",
    ),
    (
        "trainer: {precision: bf1}",
        "bad.yaml:2:22: trainer.precision: expected `auto`, `bf16`, `tf32` or `32`, got text "
        "'bf1'; did you mean `bf16`?",
    ),
    (
        "trainer: {precision: '32'}",
        "bad.yaml:2:22: trainer.precision: expected `auto`, `bf16`, `tf32` or `32`, got",
    ),
    (
        "trainer: {devices: all}",
        "bad.yaml:2:20: trainer.devices: expected a whole number or `auto`, got",
    ),
    (
        "trainer: {gradient_clip: None}",
        "bad.yaml:2:26: trainer.gradient_clip: expected a number or null, got text 'None'; write",
    ),
    (
        "optimizer: {name: adamw, lr: '1e-3'}",
        "bad.yaml:2:30: optimizer.lr: expected a number, got text '1e-3'",
    ),
    (
        "optimizer: {name: adamw, lr: .inf}",
        "bad.yaml:2:30: optimizer.lr: expected a finite number, got inf",
    ),
    (
        "optimizer: {name: adamw, lr: nan}",
        "bad.yaml:2:30: optimizer.lr: expected a number, got text 'nan'",
    ),
    (
        "optimizer: {name: adamw, betas: [0.9]}",
        "bad.yaml:2:33: optimizer.betas: expected 2 values, got 1",
    ),
    (
        "optimizer: {name: adamw, betas: [0.9, x]}",
        "bad.yaml:2:39: optimizer.betas[1]: expected a number, got text 'x'",
    ),
    # Bounds
    ("seed: -1", "bad.yaml:2:7: seed: must be at least 0, got -1"),
    ("trainer: {max_steps: 0}", "bad.yaml:2:22: trainer.max_steps: must be at least 1, got 0"),
    (
        "trainer: {gradient_clip: 0}",
        "bad.yaml:2:26: trainer.gradient_clip: must be greater than 0, got 0",
    ),
    ("logging: {samples: 999}", "bad.yaml:2:20: logging.samples: must be at most 200, got 999"),
    (
        "optimizer: {name: adamw, lr: -1}",
        "bad.yaml:2:30: optimizer.lr: lr must be above 0, got -1.0",
    ),
    (
        "data: {name: text, files: a.txt, val_fraction: 2}",
        "bad.yaml:2:48: data.val_fraction: must be between 0 and 1, got 2.0",
    ),
    (
        "schedule: {name: cosine, final_ratio: 3}",
        "bad.yaml:2:39: schedule.final_ratio: final_ratio must be between 0 and 1, got 3.0",
    ),
    (
        "trainer: {batch_size: 12, devices: 5}",
        "bad.yaml:2:23: trainer.batch_size: 12 sequences cannot be shared evenly by 5 devices",
    ),
    (
        "trainer: {strategy: fsdp_cpu_offload}",
        "bad.yaml:2:21: trainer.strategy: fsdp_cpu_offload is Lightning's FSDP1, which flattens",
    ),
    # YAML's traps
    (
        "trainer: {compile: no}",
        "bad.yaml:2:20: trainer.compile: `no` is false to some YAML readers",
    ),
    ("trainer: {compile: On}", "bad.yaml:2:20: trainer.compile: `On` is true to some YAML readers"),
    (
        "name: off",
        "bad.yaml:2:7: name: `off` is false to some YAML readers and text to others; write",
    ),
    (
        "seed: 012",
        "bad.yaml:2:7: seed: `012` is octal to some YAML readers and decimal to others; write 12,",
    ),
    ("seed: 12:30", "bad.yaml:2:7: seed: `12:30` is a number in base 60 to some YAML readers"),
    ("seed: " + "9" * 5000, "bad.yaml:2:7: seed: a number of 5000 characters; write at most 40"),
    ("seed: 0x" + "f" * 5000, "bad.yaml:2:7: seed: a number of 5002 characters; write at most 40"),
    (
        "seed: !!int '3'",
        "bad.yaml:2:7: seed: the tag `!!int` is not allowed; write the plain value",
    ),
    (
        "seed: !!python/object/apply:os.getcwd []",
        "bad.yaml:2:7: seed: the tag `!!python/object/apply:os.getcwd` is not allowed",
    ),
    # Interpolation
    (
        "logging: {probe: '${oc.env:HOME}'}",
        "bad.yaml:2:18: logging.probe: environment variables are not allowed",
    ),
    (
        "logging: {probe: '\\${seed}${oc.env:HOME}'}",
        "bad.yaml:2:18: logging.probe: environment variables are not allowed",
    ),
    (
        "logging: {probe: '${oc.create:[1]}'}",
        "bad.yaml:2:18: logging.probe: only references to keys such as ${model.dim} are allowed",
    ),
    ("seed: ${model.depth}", "bad.yaml:2:7: seed: `${model.depth}` cannot be resolved: "),
    ("seed: ${seed}", "bad.yaml:2:7: seed: `${seed}` cannot be resolved: "),
    ("seed: ${name}", "bad.yaml:2:7: seed: expected a whole number, got text 'bad'"),
    # Plugins and parents
    ("plugins: [none.py]", "bad.yaml:2:11: plugins[0]: plugin file "),
    (
        "plugins: no_such_module_p",
        "bad.yaml:2:10: plugins[0]: plugin module `no_such_module_p` failed to",
    ),
    (
        "plugins: [3]",
        "bad.yaml:2:11: plugins[0]: expected text, got the number 3; put it in quotes",
    ),
    ("extends: none.yaml", "bad.yaml:2:10: extends: there is no recipe file none.yaml"),
    (
        "extends: quickstart.yaml",
        "bad.yaml:2:10: extends: there is no recipe file quickstart.yaml; the recipe of the kit is "
        "`quickstart`",
    ),
    (
        "extends: bad.yaml",
        "bad.yaml:2:10: extends: recipes extend each other in a circle: bad.yaml -> bad",
    ),
    (
        "extends: [3]",
        "bad.yaml:2:11: extends: expected the name of a recipe file, or a list of them",
    ),
    # Syntax
    ("seed: [1", "bad.yaml:3:1: this is not valid YAML: "),
    ("seed: 1: 2", "bad.yaml:2:8: this is not valid YAML: mapping values are not allowed here"),
    ("trainer:\n\tmax_steps: 3", "bad.yaml:3:1: this is not valid YAML: "),
    ("seed: *one", "bad.yaml:2:7: this is not valid YAML: found undefined alias 'one'"),
    ("--- {}", "bad.yaml:2:1: this is not valid YAML: "),
    ("name: a\x07b", "bad.yaml:2:8: the character '\\x07' is not allowed"),
    ('plugins: ["a\\0.py"]', "bad.yaml:2:11: plugins[0]: the character '\\x00' is not allowed"),
    (
        'logging: {probe: "\\ud800"}',
        "bad.yaml:2:18: logging.probe: the character '\\ud800' is not allowed",
    ),
]

# The options of the model in a recipe of that line alone -> the problems.
MODELS = [
    ("[1]", "bad.yaml:1:8: model: expected a mapping of options, got a list"),
    ("{dims: 3}", "bad.yaml:1:9: model.dims: unknown key; did you mean `dim`?"),
    ("{dim: 0}", "bad.yaml:1:14: model.dim: dim must be at least 1, got 0"),
    (
        "{dim: 3000000000000000000}",
        "bad.yaml:1:14: model.dim: must be at most 67,108,864, got 3,000,",
    ),
    ("{dropout: 1}", "bad.yaml:1:18: model.dropout: dropout must be in [0, 1), got 1.0"),
    ("{mlp: rello}", "bad.yaml:1:14: model.mlp: unknown MLP `rello`; did you mean `relu`?"),
    (
        "{attention: {name: multi_head, num_heads: 5}}",
        "bad.yaml:1:50: model.attention.num_heads: num_heads 5 ",
    ),
    (
        "{attention: {name: multi_head, heads: 5}}",
        "bad.yaml:1:39: model.attention.heads: unknown key; did you mean `num_heads`?",
    ),
    (
        "{attention: multihead}",
        "bad.yaml:1:20: model.attention: unknown attention mechanism `multihead`; did",
    ),
    (
        "{num_layers: 3, attention: [linear, multi_head]}",
        "bad.yaml:1:35: model.attention: attention lists 2 ",
    ),
    (
        "{attention: [linear, none]}",
        "bad.yaml:1:29: model.attention[1]: unknown attention mechanism `none`",
    ),
    (
        "{position: null}",
        "bad.yaml:1:19: model.position: expected the name of a registered position encoding",
    ),
    (
        "{position: [rotary]}",
        "bad.yaml:1:19: model.position: expected the name of a registered position",
    ),
    (
        "{mask: {name: any_of, masks: [casual]}}",
        "bad.yaml:1:38: model.mask.masks[0]: unknown mask `casual`",
    ),
    (
        "{attention: linear, mask: {name: prefix}}",
        "bad.yaml:1:20: model.attention: attention linear cannot obey the mask prefix",
    ),
    ("{mask: {name: any_of}}", "bad.yaml:1:9: model.mask.masks: this required key is missing"),
    (
        "{mask: {name: sliding_window, window: 0}}",
        "bad.yaml:1:46: model.mask.window: window must be at least 1, got 0",
    ),
]

# One override of the good recipe -> the problems.
OVERRIDES = [
    ("lr 3", "override lr 3: expected key=value, or ~key to remove a key; write lr=3"),
    ("seed", "override seed: expected key=value, or ~key to remove a key"),
    ("=3", "override =3: the key is missing; write section.key=value"),
    ("model..dim=3", "override model..dim=3: `model..dim` is not a key; write section.key=value"),
    (".seed=3", "override .seed=3: `.seed` is not a key"),
    ("seed=", "override seed=: seed: there is nothing after `=`; write seed=null or seed=''"),
    ("seed=[1", "override seed=[1: seed: this is not valid YAML: "),
    (
        "model.dims=3",
        "override model.dims=3: model.dims: unknown key; did you mean `dim`? (known: ",
    ),
    ("model.dim=abc", "override model.dim=abc: model.dim: expected a whole number, got text 'abc'"),
    (
        "model.dim=33",
        "bad.yaml:1:74: model.attention.num_heads: num_heads 4 does not divide dim 33",
    ),
    ("model.dim.x=3", "override model.dim.x=3: model.dim: expected a whole number, got a mapping"),
    (
        "trainer.compile=yes",
        "override trainer.compile=yes: trainer.compile: `yes` is true to some YAML",
    ),
    ("seed=012", "override seed=012: seed: `012` is octal to some YAML readers"),
    ("~model.depth", "override ~model.depth: model.depth: there is no such key to remove"),
    (
        "~model.dimm",
        "override ~model.dimm: model.dimm: there is no such key to remove; did you mean `dim`?",
    ),
    (
        "~model.num_haed",
        "override ~model.num_haed: model.num_haed: there is no such key to remove; did you mean "
        "`model.attention.num_heads`?",
    ),
    ("~model", "bad.yaml:1:1: model: this required key is missing: options of the task's model"),
    ("~seed=3", "override ~seed=3: ~ removes a key and takes no value; write ~seed or seed=3"),
    ("extends=x.yaml", "override extends=x.yaml: extends: `extends` belongs in a recipe file"),
    (
        "model.attention=nope",
        "override model.attention=nope: model.attention.name: unknown attention mechanism `nope`",
    ),
    (
        "logging.probe=${oc.env:HOME}",
        "override logging.probe=${oc.env:HOME}: logging.probe: environment variables are",
    ),
]


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.yaml").write_text(MODEL)


def headlines(error):
    """The lines that tell a problem; source lines and carets are indented."""
    return [line for line in str(error).splitlines() if not line.startswith(" ")]


def refused(*overrides, path="bad.yaml"):
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides)
    return headlines(caught.value)


def write(text, path="bad.yaml"):
    with open(path, "wb") as file:
        file.write(text if isinstance(text, bytes) else text.encode())


def assert_lines(found, *expected):
    assert len(found) == len(expected), found
    for line, beginning in zip(found, expected, strict=True):
        assert line.startswith(beginning), f"{line}\nexpected: {beginning}"


@pytest.mark.parametrize(("line", "expected"), LINES, ids=[line[:40] for line, _ in LINES])
def test_line(line, expected):
    write(MODEL + line + "\n")
    assert_lines(refused(), expected)


@pytest.mark.parametrize(("model", "expected"), MODELS, ids=[model for model, _ in MODELS])
def test_model(model, expected):
    write(f"model: {model}\n")
    assert_lines(refused(), expected)


@pytest.mark.parametrize(("override", "expected"), OVERRIDES, ids=[text for text, _ in OVERRIDES])
def test_override(override, expected):
    assert_lines(refused(override), expected)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "bad.yaml: the recipe is empty"),
        (b"# only a comment\n", "bad.yaml: the recipe is empty"),
        (b"just text", "bad.yaml:1:1: a recipe is a mapping of keys to values"),
        (b"- model", "bad.yaml:1:1: a recipe is a mapping of keys to values"),
        (
            b"model: {}\nname: caf\xe9\n",
            "bad.yaml:2:1: byte 0xe9 is not valid UTF-8; save the file as UTF-8",
        ),
        ("model: {}".encode("utf-16"), "bad.yaml:1:1: byte 0xff is not valid UTF-8"),
        (b"seed: " + b"[" * 3_000, "bad.yaml: nested too deeply"),
        (
            b"seed: " + b"[" * 60 + b"]" * 60,
            "bad.yaml:1:47: seed[0][0][0]: nested more than 40 levels",
        ),
        (b"#" * 300_000, "bad.yaml: the file has more than 200,000 bytes"),
        (b"model: &m {dim: *m}", "bad.yaml:1:"),
    ],
    ids=lambda value: value[:24] if isinstance(value, bytes) else "",
)
def test_file(content, expected):
    write(content)
    assert_lines(refused(), expected)


def test_a_bomb_of_aliases_is_refused():
    lines = ["a: &a [x, x, x, x, x, x, x, x, x, x]"]
    lines += [
        f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]" for a, b in zip("abcdef", "bcdefg", strict=True)
    ]
    write("\n".join(lines))
    (line,) = refused()
    assert "aliases expand to more than 10,000 values" in line


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("none.yaml", "none.yaml: there is no such file; the folder has bad.yaml"),
        ("no_folder/none.yaml", "no_folder/none.yaml: there is no folder no_folder"),
        (".", ".: this is a folder; name a recipe file in it"),
    ],
)
def test_path(path, expected):
    assert_lines(refused(path=path), expected)


def test_the_file_name_is_the_default_name_and_must_be_one():
    write(MODEL, "my recipe.yaml")
    assert_lines(
        refused(path="my recipe.yaml"), "my recipe.yaml: name: 'my recipe' is not allowed here"
    )


def test_all_problems_come_at_once_in_file_order_overrides_last():
    write(
        "seeed: 1\nmodel:\n  dim: no\n"
        "  attention:\n    num_haeds: 8\n    name: multi_head\nseed: x\n"
    )
    assert_lines(
        refused("lr 3", "~name.x", "model.num_layers=two"),
        "bad.yaml:1:1: seeed: unknown key; did you mean `seed`?",
        "bad.yaml:3:8: model.dim: `no` is false",
        "bad.yaml:5:5: model.attention.num_haeds: unknown key; did you mean `num_heads`? (known: ",
        "bad.yaml:7:7: seed: expected a whole number, got text 'x'",
        "override lr 3: expected key=value",
        "override ~name.x: name.x: there is no such key",
        "override model.num_layers=two: model.num_layers: expected a whole number",
    )


def test_problems_of_values_in_different_sections_come_at_once():
    write(
        MODEL
        + "optimizer: {name: adamw, lr: -1}\nschedule: {name: cosine, final_ratio: 2}\nseed: x\n"
    )
    assert_lines(
        refused("model.dim=33"),
        "bad.yaml:1:74: model.attention.num_heads: num_heads 4 does not divide dim 33",
        "bad.yaml:2:30: optimizer.lr: lr must be above 0",
        "bad.yaml:3:39: schedule.final_ratio: ",
        "bad.yaml:4:7: seed: expected",
    )


def test_a_problem_points_into_the_parent_that_holds_it():
    write("model:\n  dims: 3\ntrainer: {max_steps: x}\n", "base.yaml")
    write("extends: base.yaml\nmodel: {num_layers: x}\ntrainer: {max_steps: 3}\n")
    assert_lines(
        refused(),
        "bad.yaml:2:21: model.num_layers: expected a whole number",
        "base.yaml:2:3: model.dims: unknown key",
    )


def test_recipes_that_extend_each_other_are_named():
    write("extends: b.yaml\n")
    write("extends: bad.yaml\n", "b.yaml")
    assert_lines(
        refused(),
        "b.yaml:1:10: extends: recipes extend each other in a circle: "
        "bad.yaml -> b.yaml -> bad.yaml",
    )


def test_two_overrides_of_one_key():
    assert_lines(
        refused("seed=1", "seed=2"), "override seed=2: seed: this key is in `seed=1` already"
    )


def test_an_override_into_a_list_says_how_to_set_the_list():
    write("model: {num_layers: 2, attention: [linear, multi_head]}\n")
    assert_lines(
        refused("model.attention.0.num_heads=2"),
        "override model.attention.0.num_heads=2: model.attention: this is a list; an override sets "
        "it as a whole: model.attention=[...]",
    )


def test_a_plugin_that_fails_does_not_make_its_names_unknown():
    write("x = 1 / 0\n", "mine.py")
    write("plugins: [mine.py]\nmodel: {dim: 32, dimm: 3, attention: mine}\n")
    assert_lines(
        refused(),
        "bad.yaml:1:11: plugins[0]: plugin file ",
        "bad.yaml:2:18: model.dimm: unknown key; did you mean `dim`?",
    )
    assert re.search(r"mine\.py:1: ZeroDivisionError: division by zero", "".join(refused()))


def test_the_line_is_shown_with_a_caret_under_the_column():
    write("model:\n  dim: 32\n  num_haeds: 8\n")
    with pytest.raises(RecipeError) as caught:
        load_recipe("bad.yaml")
    headline, source, caret = str(caught.value).splitlines()
    assert headline.startswith("bad.yaml:3:3: model.num_haeds: unknown key")
    assert source == "      num_haeds: 8"
    assert caret == "      ^"


def test_a_long_line_is_shown_around_the_column():
    write("model: {dim: 32, " + " " * 300 + "depth: 3" + " " * 300 + "}\n")
    with pytest.raises(RecipeError) as caught:
        load_recipe("bad.yaml")
    _, source, caret = str(caught.value).splitlines()
    assert len(source) <= 104
    assert source[caret.index("^") :].startswith("depth: 3")


def test_a_problem_carries_its_place():
    write("model: {}\nsede: 1\n")
    with pytest.raises(RecipeError) as caught:
        load_recipe("bad.yaml")
    (problem,) = caught.value.problems
    assert (problem.file, problem.line, problem.column) == ("bad.yaml", 2, 1)
    assert (problem.key, problem.source) == ("sede", "sede: 1")
    assert problem.message.startswith("unknown key; did you mean `seed`?")


# What would take for ever


TINY = "model: {dim: 16, num_layers: 1, attention: {name: multi_head, num_heads: 2}}\n"
LAUGHS = "".join(f"  x{i}: ${{data.x{i - 1}}}${{data.x{i - 1}}}\n" for i in range(1, 40))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            f"{TINY}data:\n  x0: lol\n{LAUGHS}",
            r"data\.x12: \$\{\.\.\.\} expands to 110,575 characters",
        ),
        (
            TINY.replace("num_layers: 1", "num_layers: 1000000"),
            r"model\.num_layers: .*must give at most 2,048 layers, got 1,000,000",
        ),
        (
            TINY.replace("num_layers: 1,", "num_layers: 2, layers: [{}, {repeat: 60000000}],"),
            r"model\.layers: .*must give at most 2,048 layers, got 60,000,001",
        ),
        (
            "task: translation\nmodel: {encoder: {num_layers: 1000000}}\n",
            r"model\.encoder\.num_layers: .*must give at most 2,048 layers, got 1,000,000",
        ),
        (
            TINY.replace("dim: 16", "dim: 400000000"),
            r"model\.dim: must be at most 67,108,864, got 400,000,000",
        ),
        (
            TINY + "logging: {probe: '" + "\\" * 16000 + "${model.dim}'}\n",
            r"logging\.probe: a text with \$\{ has 16,012 characters",
        ),
        (f"{TINY}extends: [{', '.join(['x.yaml'] * 40)}]\n", r"extends: more than 32 files"),
        (
            TINY + "plugins: ['${callbacks}', '${callbacks}']\n"
            "callbacks: ['${plugins}', '${plugins}']\n",
            r"plugins\[0\]: `\$\{callbacks\}` cannot be resolved: it refers to itself",
        ),
    ],
    ids=["laughs", "layers", "pattern", "encoder", "width", "backslashes", "parents", "circle"],
)
def test_what_would_take_for_ever_is_refused(text, expected):
    write(text)
    with pytest.raises(RecipeError, match=expected):
        load_recipe("bad.yaml")


def test_a_model_of_too_many_modules_is_refused(monkeypatch):
    monkeypatch.setattr(shapes_only, "MAX_MODULES", 100)
    write(TINY.replace("num_layers: 1", "num_layers: 20"))
    expected = r"model: more than 100 modules; lower the number of layers"
    with pytest.raises(RecipeError, match=expected):
        load_recipe("bad.yaml")


def test_a_file_that_many_extend_is_merged_once(monkeypatch):
    """14 levels of two parents each are 2^14 ways up."""
    write(TINY, "x14.yaml")
    for i in range(14):
        write(f"extends: [x{i + 1}.yaml, x{i + 1}.yaml]\n", f"x{i}.yaml")
    merged = []
    plain = merging._merged
    monkeypatch.setattr(merging, "_merged", lambda *both: merged.append(1) or plain(*both))
    assert load_recipe("x0.yaml").model["dim"] == 16
    assert len(merged) < 500


def test_backslashes_are_written_in_one_pass():
    """Of 200,000, trying from each to the last takes minutes."""
    text = "\\" * 200_000
    assert escape_interpolation(text) == text
    assert escape_interpolation("\\\\${a}") == "\\\\\\\\\\${a}"
