"""Recipes: layers, overrides, interpolation, variants, plugins, and reading what was written."""

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import pytest
import torch
import yaml

from attnkit.models.encoder_decoder import EncoderDecoder
from attnkit.models.language_model import LanguageModel
from attnkit.recipe import RecipeError, TrainerOptions, checks, load_recipe, recipe_from_dict
from attnkit.recipe.annotations import Range, kinds_of, mismatch
from attnkit.recipe.errors import Mark
from attnkit.recipe.scalars import ScalarTrap, read_plain
from attnkit.recipe.schema import Checker
from attnkit.recipe.source import node_of
from attnkit.recipe.variant import OMITTED, short_key, variant_of
from attnkit.recipe.writing import to_yaml
from attnkit.registry import ATTENTION, MASKS, OPTIMIZERS, POSITIONS, Option, Spec
from attnkit.registry.options import options_of

SMALL = {"name": "small", "model": {"dim": 32, "num_layers": 1}}


PLUGIN = """
from attnkit.attention.multi_head import MultiHead
from attnkit.registry import ATTENTION

@ATTENTION.register("test_recipe_heads")
class Heads(MultiHead):
    '''Heads.'''
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(path, text):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text, encoding="utf-8")


def check(annotation, value):
    """The value that a recipe gives for an option of this type, and the messages."""
    options = {"x": Option("x", annotation, None, "")}
    checker = Checker(options, node_of({"x": value}, Mark("test")))
    values = checker.check_all()
    return values["x"], [problem.message for problem in checker.problems]


# Reading


def test_a_recipe_of_a_model_alone_has_every_default():
    write("tiny.yaml", "model: {}\n")
    recipe = load_recipe("tiny.yaml")
    assert recipe.name == "tiny"
    assert recipe.variant == "base"
    assert recipe.run_dir == Path("runs/tiny/base/seed0")
    assert recipe.data.name == "stdlib_docs"
    assert recipe.trainer == TrainerOptions()
    assert recipe.model["attention"] == Spec(
        "multi_head", {name: o.default for name, o in ATTENTION.options("multi_head").items()}
    )


def test_values_have_the_types_of_their_options():
    write(
        "a.yaml",
        "model: {dim: 32, num_layers: 2, attention: [linear, {name: multi_head, num_heads: 2}]}\n"
        "optimizer: {name: adamw, lr: 1e-3, weight_decay: 0, betas: [0.9, 1e-1]}\n"
        "trainer: {max_steps: 1_000, precision: 32, gradient_clip: null}\n"
        "runs_dir: out\n",
    )
    recipe = load_recipe("a.yaml")
    assert recipe.optimizer.options["lr"] == 0.001
    assert type(recipe.optimizer.options["weight_decay"]) is float
    assert recipe.optimizer.options["betas"] == (0.9, 0.1)
    assert recipe.trainer.max_steps == 1000
    assert recipe.trainer.precision == 32
    assert recipe.trainer.gradient_clip is None
    assert recipe.runs_dir == Path("out")
    assert [spec.name for spec in recipe.model["attention"]] == ["linear", "multi_head"]
    assert recipe.model["attention"][1].options["num_heads"] == 2


def test_the_byte_order_mark_and_aliases_are_read():
    write("a.yaml", "\ufeffmodel: {dim: &width 32, mlp_dim: *width}\n")
    assert load_recipe("a.yaml").model["mlp_dim"] == 32


def test_checking_draws_no_random_numbers_and_allocates_no_model():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    recipe_from_dict({"name": "huge", "model": {"dim": 12288, "num_layers": 4}})
    assert torch.equal(torch.get_rng_state(), before)


# Layers


def test_a_child_changes_single_keys_of_its_parent():
    write("base.yaml", "model: {dim: 32, num_layers: 1}\nseed: 4\ntrainer: {max_steps: 5}\n")
    write("child.yaml", "extends: base.yaml\nmodel: {num_layers: 2}\n")
    recipe = load_recipe("child.yaml")
    assert (recipe.model["dim"], recipe.model["num_layers"]) == (32, 2)
    assert (recipe.seed, recipe.trainer.max_steps) == (4, 5)


def test_options_of_another_name_do_not_leak():
    write("base.yaml", "model: {attention: {name: grouped_query, num_heads: 8, num_kv_heads: 4}}\n")
    write("other.yaml", "extends: base.yaml\nmodel: {attention: {name: multi_head}}\n")
    write(
        "same.yaml", "extends: base.yaml\nmodel: {attention: {name: grouped_query, num_heads: 4}}\n"
    )
    write("more.yaml", "extends: base.yaml\nmodel: {attention: {num_heads: 16}}\n")
    default = ATTENTION.options("multi_head")["num_heads"].default
    other, same, more = (
        load_recipe(f"{n}.yaml").model["attention"] for n in ("other", "same", "more")
    )
    assert other.options["num_heads"] == default
    assert "num_kv_heads" not in other.options
    assert (same.options["num_heads"], same.options["num_kv_heads"]) == (4, 4)
    assert (more.options["num_heads"], more.options["num_kv_heads"]) == (16, 4)


def test_a_plain_name_and_a_mapping_mean_the_same_when_layered():
    write("base.yaml", "model: {}\noptimizer: muon\ntokenizer: {name: bpe, vocab_size: 300}\n")
    write("child.yaml", "extends: base.yaml\noptimizer: {lr: 0.5}\ntokenizer: bpe\n")
    recipe = load_recipe("child.yaml")
    assert recipe.optimizer.name == "muon"
    assert recipe.optimizer.options["lr"] == 0.5
    assert recipe.tokenizer.options["vocab_size"] == 300


def test_parents_are_relative_to_their_child_and_later_ones_win():
    write("deep/one.yaml", "model: {}\nseed: 1\nruns_dir: one\n")
    write("deep/two.yaml", "extends: more/three.yaml\nseed: 2\n")
    write("deep/more/three.yaml", "seed: 3\ntrainer: {max_steps: 3}\n")
    write("deep/child.yaml", "extends: [one.yaml, two.yaml]\n")
    recipe = load_recipe("deep/child.yaml")
    assert (recipe.seed, recipe.runs_dir, recipe.trainer.max_steps) == (2, Path("one"), 3)


def test_the_name_is_not_inherited():
    write("base.yaml", "name: parent\nvariant: wide\nmodel: {}\n")
    write("child.yaml", "extends: base.yaml\n")
    assert load_recipe("child.yaml").run_dir == Path("runs/child/base/seed0")
    assert load_recipe("base.yaml").run_dir == Path("runs/parent/wide/seed0")


# Overrides


def test_overrides_set_and_remove():
    write("a.yaml", "model: {dim: 64, attention: {name: multi_head, num_heads: 2}}\nseed: 3\n")
    recipe = load_recipe(
        "a.yaml",
        ["model.dim=32", "~model.attention.num_heads", "optimizer={name: muon, lr: 0.1}", "~seed"],
    )
    assert recipe.model["dim"] == 32
    default = ATTENTION.options("multi_head")["num_heads"].default
    assert recipe.model["attention"].options["num_heads"] == default
    assert (recipe.optimizer.name, recipe.optimizer.options["lr"]) == ("muon", 0.1)
    assert recipe.seed == 0


@pytest.mark.parametrize("named", ["model.attention.name=qk_norm", "model.attention=qk_norm"])
def test_the_order_of_overrides_does_not_matter(named):
    write("a.yaml", "model: {dim: 64, attention: multi_head}\n")
    overrides = ["model.attention.num_heads=2", named, "seed=1"]
    first, second = load_recipe("a.yaml", overrides), load_recipe("a.yaml", overrides[::-1])
    assert first == second
    assert first.model["attention"].name == "qk_norm"
    assert first.model["attention"].options["num_heads"] == 2


def test_with_overrides_applies_to_what_was_written():
    write("a.yaml", "model: {dim: 32, mlp_dim: '${model.dim}'}\n")
    recipe = load_recipe("a.yaml").with_overrides("model.dim=64")
    assert recipe.model["mlp_dim"] == 64
    assert recipe == load_recipe("a.yaml", ["model.dim=64"])
    again = recipe.with_overrides("seed=2").with_overrides("model.num_layers=1")
    assert again.run_dir == Path("runs/a/dim=64,layers=1/seed2")
    with pytest.raises(RecipeError, match=r"override model\.dimm=3: model\.dimm: unknown key"):
        recipe.with_overrides("model.dimm=3")


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], "base"),
        (["seed=3", "runs_dir=x", "name=y"], "base"),
        (["model.attention.name=linear"], "linear"),
        (["model.attention={name: linear, num_heads: 4}", "model.dim=8"], "linear,heads=4,dim=8"),
        (["model.mask.window=64", "model.attention.num_heads=4"], "heads=4,window=64"),
        (["seed=1", "optimizer.lr=1e-3", "model.dim=64"], "dim=64,lr=0.001"),
        (["model.dim=64", "optimizer.lr=0.001"], "dim=64,lr=0.001"),
        (
            ["model.position.name=alibi", "schedule.warmup_steps=9"],
            "position=alibi,schedule.warmup_steps=9",
        ),
        (["model.mask=[causal, document]"], "mask=causal+document"),
        (["model.layers[1].mask=none"], "layers.1.mask=none"),
        (["model.mlp=null", "data.shuffle=false"], "data.shuffle=false,mlp=null"),
        (["~model.mask"], "no-mask"),
    ],
)
def test_variant(overrides, expected):
    assert variant_of(overrides) == expected


def test_what_changes_nothing_that_is_learnt_is_no_part_of_a_name():
    write("a.yaml", "model: {dim: 32}\n")
    keys = ["logging.to=[csv]", "trainer.accelerator=cpu", "validation.max_tokens=3"]
    keys += ["checkpoint.best=2", "trainer.max_steps=9"]
    assert load_recipe("a.yaml", keys).run_dir == Path("runs/a/base/seed0")
    named = load_recipe("a.yaml", [*keys, "trainer.batch_size=9"])
    assert named.run_dir == Path("runs/a/batch_size=9/seed0")


def test_variants_that_were_cut_or_mended_stay_apart():
    long = [f"model.attention.some_long_option_{i}=12345" for i in range(5)]
    names = [variant_of(long), variant_of(long[:-1]), variant_of(["logging.probe=a b"])]
    names += [variant_of(["logging.probe=a/b"]), variant_of(["logging.probe=a-b"])]
    assert len(set(names)) == 5
    assert all(len(name) <= 100 for name in names)
    assert names[0].count("=12345") == 5  # keys are shortened, never values
    assert names[2].startswith("logging.probe=a-b-")


def test_no_two_keys_have_the_same_short_name():
    """Of the registered names, and of the sections that a name leaves out."""
    registered = {
        "model.attention.": ATTENTION,
        "model.mask.": MASKS,
        "model.position.": POSITIONS,
        "optimizer.": OPTIMIZERS,
    }
    classes = [
        (section, registry.get(name))
        for section, registry in registered.items()
        for name in registry.names()
    ]
    classes += [("model.", LanguageModel), ("model.", EncoderDecoder), ("trainer.", TrainerOptions)]
    assert {section for section, _ in classes} == set(OMITTED)
    keys = {f"{section}{name}" for section, cls in classes for name in options_of(cls)}
    owners: dict[str, set[str]] = {}
    for key in keys - {"model.layers"}:  # a list; layers=4 is the number
        owners.setdefault(short_key(key), set()).add(key)
    assert {short: found for short, found in owners.items() if len(found) > 1} == {}


def test_an_explicit_variant_wins():
    write("a.yaml", "variant: wide\nmodel: {}\n")
    assert load_recipe("a.yaml", ["model.dim=64", "variant=mine"]).variant == "mine"
    assert load_recipe("a.yaml", ["model.dim=64"]).variant == "wide,dim=64"
    assert load_recipe("a.yaml", ["seed=64"]).variant == "wide"


# Interpolation


def test_interpolation_takes_the_value_with_its_type():
    write(
        "a.yaml",
        "model: {dim: 32, mlp_dim: '${.dim}', num_layers: '${seed}'}\nseed: 2\n"
        "runs_dir: all/${name}\nvariant: d${model.dim}\n"
        "optimizer: {name: adamw, lr: 1e-3}\nschedule: cosine\nlogging: {probe: 'costs \\${5}'}\n",
    )
    recipe = load_recipe("a.yaml", ["model.dim=64"])
    assert (recipe.model["mlp_dim"], recipe.model["num_layers"]) == (64, 2)
    assert recipe.run_dir == Path("all/a/a/d64,dim=64/seed2")
    assert recipe.logging.probe == "costs ${5}"


def test_a_whole_section_can_be_interpolated():
    write("a.yaml", "model: {mask: '${schedule}', dim: 32}\nschedule: {name: cosine}\n")
    with pytest.raises(RecipeError, match=r"model\.mask\.name: unknown mask `cosine`"):
        load_recipe("a.yaml")


def test_a_recipe_without_references_needs_no_omegaconf():
    write("a.yaml", "model: {dim: 32}\n")
    code = (
        "import sys; import attnkit.recipe as r; assert 'torch' not in sys.modules; "
        "r.load_recipe('a.yaml', ['seed=1']); heavy = {'omegaconf', 'lightning', 'tensorboard'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    root = str(Path(checks.__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": root}
    )
    assert done.stdout.strip() == "[]", done.stderr


# Writing


TEXTS = [
    "1e-3",
    "no",
    "012",
    "12:30",
    "",
    "~",
    "null",
    "${model.dim}",
    "\\${a}",
    "\\\\${a}",
    "a\\b",
    "${",
]
TEXTS += ['it\'s "q"', "two\nlines\n", "# no", "a: b", "- x", "독일어 🙂", "\t", "=", "<<", "0x10"]
TEXTS += ["1_000", ".inf", "true", "tail\\", " lead", "trail ", "%", "@a", "2024-01-01", "!x", "*a"]


@pytest.mark.parametrize("text", TEXTS)
def test_any_text_is_read_back(text):
    recipe = recipe_from_dict({**SMALL, "logging": {"probe": "x"}})
    changed = recipe.to_dict() | {"logging": recipe.to_dict()["logging"] | {"probe": text}}
    write("written.yaml", to_yaml(changed))
    assert load_recipe("written.yaml").logging.probe == text


def test_a_written_recipe_is_read_back_equal_from_its_run():
    write("my/mine.py", PLUGIN)
    write(
        "my/a.yaml",
        "plugins: [mine.py]\nmodel:\n  dim: 32\n  num_layers: 2\n"
        "  attention: [multi_head, {name: test_recipe_heads, num_heads: 2}]\n"
        "  mask: {name: any_of, masks: [causal, {name: prefix, length: 3}]}\n"
        "optimizer: {name: muon, lr: 1e-22}\ntrainer: {gradient_clip: null, devices: auto}\n",
    )
    recipe = load_recipe("my/a.yaml", ["model.dim=64", "seed=7"])
    written = recipe.run_dir / "recipe.yaml"
    write(written, recipe.to_yaml())
    again = load_recipe(written)
    assert again == recipe
    assert again.run_dir == Path("runs/a/dim=64/seed7")
    assert again.plugins == (str(Path("my/mine.py").resolve()),)
    assert recipe_from_dict(recipe.to_dict()) == recipe


def test_what_is_written_is_plain_and_whole():
    recipe = recipe_from_dict(SMALL)
    plain = recipe.to_dict()
    assert yaml.safe_load(yaml.safe_dump(plain)) == plain
    assert plain["model"]["mask"] == {"name": "causal"}
    assert plain["optimizer"].keys() > {"name", "lr", "weight_decay"}
    assert plain["trainer"]["batch_size"] == 12
    assert list(plain)[:3] == ["name", "variant", "task"]


def test_a_later_default_does_not_change_a_written_recipe(monkeypatch):
    write("written.yaml", recipe_from_dict(SMALL).to_yaml())
    defaults = ATTENTION.get("multi_head").__init__.__kwdefaults__
    monkeypatch.setitem(defaults, "dropout", 0.5)
    assert recipe_from_dict(SMALL).model["attention"].options["dropout"] == 0.5
    assert load_recipe("written.yaml").model["attention"].options["dropout"] == 0.0


# Python


def test_a_recipe_from_python_values():
    recipe = recipe_from_dict(
        {
            "name": "p",
            "model": {
                "dim": 32,
                "attention": Spec("multi_head", {"num_heads": 2}),
                "mask": ["causal"],
            },
            "runs_dir": Path("out"),
            "trainer": TrainerOptions(max_steps=3),
        },
        ["seed=2"],
    )
    assert recipe.run_dir == Path("out/p/base/seed2")
    assert recipe.trainer.max_steps == 3
    assert recipe.path is None
    with pytest.raises(RecipeError) as caught:
        recipe_from_dict({"model": {"dimm": 3}, "seed": object()})
    keys = {problem.key: problem.message for problem in caught.value.problems}
    assert keys.keys() == {"model.dimm", "seed", "name"}
    assert keys["seed"] == "expected a whole number, got a Python object"
    assert str(caught.value).startswith("recipe: name: this required key is missing")


# Plugins


@pytest.fixture(autouse=True)
def _forget_plugins():
    yield
    for name in ("test_recipe_heads", "test_recipe_gain"):
        ATTENTION._classes.pop(name, None)
    for name in [name for name in sys.modules if name.startswith("attnkit_plugin_")]:
        del sys.modules[name]


def test_a_plugin_is_relative_to_the_recipe_that_names_it():
    write("base/mine.py", PLUGIN)
    write("base/base.yaml", "plugins: mine.py\nmodel: {attention: test_recipe_heads}\n")
    write("child.yaml", "extends: base/base.yaml\nmodel: {dim: 64}\n")
    recipe = load_recipe("child.yaml")
    assert recipe.model["attention"].name == "test_recipe_heads"
    assert recipe.plugins == (str(Path("base/mine.py").resolve()),)


def test_a_plugin_named_by_an_override_is_relative_to_the_working_directory():
    write("mine.py", PLUGIN)
    write("deep/a.yaml", "model: {}\n")
    recipe = load_recipe("deep/a.yaml", ["plugins=[mine.py]", "model.attention=test_recipe_heads"])
    assert recipe.model["attention"].name == "test_recipe_heads"


SINGLE_NUMBER = """
import torch
from attnkit.attention.multi_head import MultiHead
from attnkit.registry import ATTENTION

@ATTENTION.register("test_recipe_gain")
class Gain(MultiHead):
    '''Heads.'''
    def __init__(self, dim: int, *, num_heads: int = 4):
        super().__init__(dim, num_heads=num_heads)
        self.gain = torch.nn.Parameter(torch.tensor(1.0))
"""


def test_what_fsdp_cannot_share_out_is_refused_by_its_name():
    write("gain.py", SINGLE_NUMBER)
    write(
        "a.yaml",
        "plugins: gain.py\nmodel: {attention: test_recipe_gain}\ntrainer: {strategy: fsdp}\n",
    )
    with pytest.raises(RecipeError) as refused:
        load_recipe("a.yaml")
    assert str(refused.value).startswith(
        "a.yaml:3:21: trainer.strategy: fsdp cannot shard layers.0.attention.gain, a single "
        "number; define it as a vector of one element, or use ddp"
    )
    assert load_recipe("a.yaml", ["trainer.strategy=ddp"]).trainer.strategy == "ddp"


# Scalars and annotations


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1e3", 1000.0),
        ("-.5", -0.5),
        ("3.", 3.0),
        ("1_000", 1000),
        ("+7", 7),
        ("0", 0),
        ("0x1f", 31),
        ("0o17", 15),
        ("True", True),
        ("", None),
        ("~", None),
        ("y", "y"),
        ("2024-01-01", "2024-01-01"),
        ("1.2.3", "1.2.3"),
        ("nan", "nan"),
        ("e5", "e5"),
        ("1_", "1_"),
    ],
)
def test_plain_words(text, value):
    assert read_plain(text) == value
    assert type(read_plain(text)) is type(value)


@pytest.mark.parametrize(
    "text", ["no", "YES", "Off", "on", "012", "-07", "08", "0_1", "1:30", "12:30:45"]
)
def test_words_that_readers_disagree_about(text):
    with pytest.raises(ScalarTrap, match="write"):
        read_plain(text)


@pytest.mark.parametrize(
    ("annotation", "value", "expected"),
    [
        (float, 3, 3.0),
        (float | None, None, None),
        (Annotated[float | None, Range(above=0)], None, None),
        (Annotated[list[int], Range(min=1)], [1, 2], [1, 2]),
        (tuple[int, ...], [1, 2, 3], (1, 2, 3)),
        (list[str] | str, "a", "a"),
        (list[str] | str, ["a"], ["a"]),
        (dict[str, int], {"a": 1}, {"a": 1}),
        (Path, "a/b", Path("a/b")),
        (Annotated[Spec | list[Spec] | None, MASKS], "none", Spec("none")),
        (
            Annotated[list[Spec], MASKS],
            ["none", {"name": "causal"}],
            [Spec("none"), Spec("causal")],
        ),
    ],
)
def test_annotation_takes(annotation, value, expected):
    found, messages = check(annotation, value)
    assert messages == []
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("annotation", "value", "message"),
    [
        (bool, 0, "expected true or false, got the number 0"),
        (float, True, "expected a number, got true"),
        (int | None, "None", "expected a whole number or null, got text 'None'; write null"),
        (Annotated[list[int], Range(min=1)], [1, 0], "must be at least 1, got 0"),
        (Annotated[int, Range(max=3)] | None, 4, "must be at most 3, got 4"),
        (tuple[float, float], [1], "expected 2 values, got 1"),
        (
            complex,
            3,
            "expected <class 'complex'> (a type that a recipe cannot express), got the number 3",
        ),
        (
            Annotated[Spec, MASKS],
            3,
            "expected the name of a registered mask or {name: ..., option: ",
        ),
        (Path, 3, "expected a path, got the number 3"),
    ],
)
def test_annotation_refuses(annotation, value, message):
    _, messages = check(annotation, value)
    assert len(messages) == 1
    assert messages[0].startswith(message)


def test_long_text_is_cut_in_messages():
    assert len(mismatch(kinds_of(int), "x" * 10_000)) < 150


def test_a_spec_without_a_registry_is_a_mistake_of_the_class():
    with pytest.raises(TypeError, match=r"write Annotated\[Spec"):
        check(Spec, "causal")


# Paths


def source_of(recipe):
    return {key: str(value) for key, value in recipe.data.options.items()}


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """A recipe in `there`, while the command stands in `here`."""
    here, there = tmp_path / "here", tmp_path / "there [1]"
    for folder in (here, there):
        folder.mkdir()
    monkeypatch.chdir(here)
    (there / "r.yaml").write_text("model: {dim: 16}\ndata: {name: text, files: text.txt}\n")
    return here, there


def test_a_path_is_looked_for_beside_the_recipe_and_then_here(folders):
    here, there = folders
    assert source_of(load_recipe(there / "r.yaml"))["files"] == "text.txt"  # nowhere
    (here / "text.txt").write_text("here")
    assert source_of(load_recipe(there / "r.yaml"))["files"] == str(here / "text.txt")
    (there / "text.txt").write_text("there")
    assert source_of(load_recipe(there / "r.yaml"))["files"] == str(there / "text.txt")
    Path("child.yaml").write_text(f"extends: '{there / 'r.yaml'}'\n")
    assert source_of(load_recipe("child.yaml"))["files"] == str(there / "text.txt")


def test_an_overrides_path_is_looked_for_here_first(folders):
    here, there = folders
    (there / "other.txt").write_text("there")
    changed = load_recipe(there / "r.yaml", ["data.files=other.txt"])
    assert source_of(changed)["files"] == str(there / "other.txt")
    (here / "other.txt").write_text("here")
    changed = load_recipe(there / "r.yaml", ["data.files=other.txt"])
    assert source_of(changed)["files"] == str(here / "other.txt")


@pytest.mark.parametrize(
    ("task", "data", "keys"),
    [
        ("language_modeling", "name: text, files: [a.txt, b*.txt], val_files: c.txt",
         ["files", "val_files"]),
        ("language_modeling", "name: tiny_shakespeare, root: data", ["root"]),
        ("language_modeling", "name: wikitext, root: data", ["root"]),
        ("translation", "name: multi30k, root: data", ["root"]),
        ("translation", "name: tatoeba, root: data", ["root"]),
        ("translation", "name: tsv, file: a.txt", ["file"]),
        ("translation", "name: parallel_files, train: [a.txt, b1.txt], val: [c.txt, a.txt]",
         ["train", "val"]),
    ],
)  # fmt: skip
def test_every_path_of_every_source_is_absolute(folders, task, data, keys):
    _, there = folders
    for name in ("a.txt", "b1.txt", "c.txt"):
        (there / name).write_text("x")
    (there / "data").mkdir()
    model = "{dim: 16}" if task == "language_modeling" else "{dim: 16, encoder: {}, decoder: {}}"
    (there / "r.yaml").write_text(f"task: {task}\nmodel: {model}\ndata: {{{data}}}\n")
    recipe = load_recipe(there / "r.yaml")
    for key in keys:
        paths = recipe.data.options[key]
        for path in paths if isinstance(paths, list | tuple) else [paths]:
            assert path.parent == there
    again = there / "resolved.yaml"
    again.write_text(recipe.to_yaml())
    assert load_recipe(again) == recipe


def test_a_plugin_is_found_where_the_command_stands(folders):
    here, there = folders
    (here / "standing_here.py").write_text("")
    (there / "r.yaml").write_text("model: {dim: 16}\nplugins: [standing_here.py]\n")
    assert load_recipe(there / "r.yaml").plugins == (str(here / "standing_here.py"),)


def test_where_runs_go_is_where_the_command_stands(folders):
    _, there = folders
    (there / "runs").mkdir()
    assert load_recipe(there / "r.yaml").runs_dir == Path("runs")
