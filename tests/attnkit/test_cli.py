"""The command line: its surface, and one clear message with the right exit code for bad input."""

import json
import os
import re
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from attnkit.cli.app import guarded
from attnkit.cli.main import app
from attnkit.recipe import load_recipe
from attnkit.registry import load_plugin
from attnkit.storage.run_directory import RunDirectoryError
from attnkit.tasks.text_run import TextRun

ROOT = Path(__file__).parents[2]
QUICKSTART = str(ROOT / "recipes/language_modeling/quickstart.yaml")


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch, small):
    """A folder with a recipe that is good, in which every command runs."""
    monkeypatch.chdir(tmp_path)
    Path("small.yaml").write_text(small().to_yaml())


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def complaint(*arguments, code=2):
    """What a refused command says: one message on standard error, nothing else."""
    ended = call(*arguments)
    assert ended.exit_code == code, ended.output
    assert ended.stdout == ""
    assert "Traceback" not in ended.stderr
    assert ended.stderr.startswith("error: ")
    return ended.stderr.removeprefix("error: ").strip()


# The surface


def test_the_surface_is_what_was_agreed_on():
    """A change here is a change for everybody who has a script: think of it as one."""
    group = typer.main.get_command(app)
    surface = {
        name: sorted(option for parameter in command.params for option in parameter.opts)
        for name, command in group.commands.items()
    }
    assert surface == {
        "run": [
            "--allow-changes",
            "--debug",
            "--dry-run",
            "--no-check",
            "--overwrite",
            "--resume",
            "--until",
            "overrides",
            "recipe",
        ],
        "ablate": [
            "--budget",
            "--debug",
            "--dry-run",
            "--launcher",
            "--match",
            "--no-check",
            "--seeds",
            "--workers",
            "overrides",
            "recipe",
        ],
        "attention": [
            "--best",
            "--debug",
            "--head",
            "--layer",
            "--mode",
            "--out",
            "--overwrite",
            "--scale",
            "--text",
            "--trust-plugins",
            "run",
        ],
        "senses": [
            "--data",
            "--debug",
            "--out",
            "--overwrite",
            "--trust-plugins",
            "--word",
            "runs",
        ],
        "rank": [
            "--all",
            "--debug",
            "--dry-run",
            "--out",
            "--overwrite",
            "--tier",
            "what",
        ],
        "claim": [
            "--all",
            "--debug",
            "--dry-run",
            "--no-check",
            "--out",
            "--quick",
            "what",
        ],
        "transcribe": ["--beam", "--debug", "--trust-plugins", "--weights", "run", "sounds"],
        "tour": [
            "--debug",
            "--out",
            "--overwrite",
            "overrides",
        ],
        "clinic": [
            "--best",
            "--debug",
            "--out",
            "--overwrite",
            "--tokens",
            "--trust-plugins",
            "run",
        ],
        "explain": [
            "--best",
            "--debug",
            "--out",
            "--overwrite",
            "--text",
            "--trust-plugins",
            "run",
        ],
        "patch": [
            "--best",
            "--clean",
            "--corrupted",
            "--debug",
            "--out",
            "--overwrite",
            "--trust-plugins",
            "run",
        ],
        "check": [
            "--all",
            "--debug",
            "--json",
            "--mask",
            "--role",
            "--thorough",
            "what",
        ],
        "new": ["--debug", "--like", "name"],
        "compare": [
            "--base",
            "--debug",
            "--higher-is-better",
            "--metric",
            "--out",
            "--overwrite",
            "--to-pandas",
            "runs",
        ],
        "export": ["--best", "--debug", "--overwrite", "--trust-plugins", "file", "run"],
        "resume": ["--allow-changes", "--debug", "--trust-plugins", "overrides", "run"],
        "list": ["--debug", "--recipes", "kind"],
        "publish": ["--base", "--debug", "--metric", "--overwrite", "folder", "study"],
        "recipes": ["--debug", "--to", "name"],
        "show": ["--debug", "--measure", "--plugin", "--tokens", "overrides", "what"],
        "generate": [
            "--best",
            "--debug",
            "--max-new-tokens",
            "--num-samples",
            "--prompt",
            "--seed",
            "--temperature",
            "--top-k",
            "--top-p",
            "--trust-plugins",
            "run",
        ],
        "translate": [
            "--alignments",
            "--attention",
            "--beam",
            "--debug",
            "--file",
            "--head",
            "--layer",
            "--length-penalty",
            "--n-best",
            "--trust-plugins",
            "--weights",
            "run",
            "sentences",
        ],
        "evaluate": [
            "--beam",
            "--data",
            "--debug",
            "--gold",
            "--gold-form",
            "--gold-index",
            "--length",
            "--length-penalty",
            "--moses",
            "--output",
            "--trust-plugins",
            "--weights",
            "run",
        ],
        "dashboard": ["--debug", "--host", "--port", "runs"],
    }


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["run"],
        ["resume"],
        ["list"],
        ["show"],
        ["generate"],
        ["compare"],
        ["export"],
        ["dashboard"],
    ],
)
def test_every_command_explains_itself(command):
    for flag in ("-h", "--help"):
        ended = call(*command, flag)
        assert ended.exit_code == 0
        assert "Usage:" in ended.stdout


def test_the_version_is_shown():
    ended = call("--version")
    assert (ended.exit_code, ended.stdout) == (0, f"attnkit {version('attnkit')}\n")


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("attnkit gen", ["generate"]),
        ("attnkit list ma", ["masks"]),
        ("attnkit recipes par", ["parity"]),
    ],
)
def test_a_shell_completes(words, completed, monkeypatch):
    """`attnkit --install-completion` has the shell ask like this."""
    monkeypatch.setenv("_ATTNKIT_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
    ended = CliRunner().invoke(app, [], prog_name="attnkit")
    assert ended.stdout.split() == completed


def test_a_list_of_one_kind_has_no_other():
    everything = call("list").stdout
    for kind in ("masks", "mask"):
        ended = call("list", kind)
        assert ended.exit_code == 0
        assert "sliding_window" in ended.stdout
        assert not {"multi_head", "rotary", "quickstart"} & set(ended.stdout.split())
        assert len(ended.stdout) < len(everything) / 5
    assert "language_modeling/quickstart" in call("list", "recipes").stdout
    said = complaint("list", "maks")
    assert said.startswith(
        "there is no kind `maks`; did you mean `masks`? (known: tasks, attention"
    )


def test_the_recipes_are_listed_printed_and_copied():
    assert "translation/cldr_en_de " in call("recipes").stdout
    assert call("recipes", "quickstart").stdout == Path(QUICKSTART).read_text()
    ended = call("recipes", "unmasked", "--to", "mine")
    assert ended.stdout.split() == [
        *("wrote", "mine/language_modeling/unmasked.yaml"),
        *("wrote", "mine/language_modeling/characters.yaml"),
    ]
    assert "exists already" in complaint("recipes", "unmasked", "--to", "mine")
    assert complaint("recipes", "quikstart").startswith(
        "no recipe that comes with attnkit is called `quikstart`; did you mean `quickstart`?"
    )


def test_a_recipe_is_shown_by_its_name():
    assert call("show", "quickstart").stdout == call("show", QUICKSTART).stdout
    shown = call("show", "parity").stdout  # a task, and a recipe of it
    assert shown.endswith("a recipe has this name too: attnkit show synthetic/parity\n")
    assert "training FLOPs per token" in call("show", "synthetic/parity").stdout


def test_without_a_command_the_help_is_shown():
    ended = call()
    assert ended.exit_code == 2
    assert "generate" in ended.output


WITHOUT_LIGHTNING = f"""
import sys
from attnkit.cli.main import app
from attnkit.recipe import load_recipe
from attnkit.registry import CALLBACKS, REGISTRIES
kinds = [registry for registry in REGISTRIES if registry is not CALLBACKS]
names = sorted({{name for registry in kinds for name in registry.names()}})
commands = [["--help"], ["list"], ["show", {QUICKSTART!r}], *(["show", name] for name in names)]
commands += [["run", {QUICKSTART!r}, "--dry-run"]]
for command in commands:
    code = 0
    try:
        code = app(command, standalone_mode=False)
    except SystemExit as end:
        code = end.code
    assert not code, (command, code)
assert len(names) > 25
print([name for name in ("lightning", "torchmetrics", "tensorboard") if name in sys.modules])
"""


@pytest.mark.slow
def test_looking_things_up_loads_no_lightning():
    """Every registered name is shown without lightning, except callbacks, which are its classes."""
    ended = subprocess.run(
        [sys.executable, "-c", WITHOUT_LIGHTNING], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-1] == "[]"


# Good input


def test_a_run_ends_with_numbers_a_sample_and_where_it_lies():
    ended = call("run", "small.yaml", "seed=3")
    assert ended.exit_code == 0, ended.output
    result = json.loads(Path("runs/small/base/seed3/result.json").read_text())
    directory = next(
        line.split()[-1] for line in ended.stdout.splitlines() if line.startswith("run  ")
    )
    assert Path(directory).resolve() == Path("runs/small/base/seed3").resolve()
    assert f"{result['metrics']['loss']:.4f}" in ended.stdout
    assert f"{result['metrics']['bits_per_byte']:.4f}" in ended.stdout
    (floor,) = (line for line in ended.stdout.splitlines() if "2-gram floor" in line)
    assert float(floor.split()[-1]) == pytest.approx(result["ngram_floors"]["2"], abs=1e-4)
    assert f"tensorboard --logdir {Path(directory).parents[1]}" in ended.stdout
    assert f"attnkit generate {directory}" in ended.stdout
    (progress,) = ended.stderr.splitlines()  # a log file: no bar
    assert progress.startswith("small/base  6/6  loss ")
    assert "val " in progress
    assert "tokens/s" in progress
    assert progress.endswith(" left")


def test_a_dry_run_shows_the_recipe_and_touches_nothing():
    ended = call("run", "small.yaml", "model.dim=32", "--dry-run")
    assert ended.exit_code == 0
    assert ended.stderr == ""
    assert not Path("runs").exists()
    Path("again.yaml").write_text(ended.stdout)
    assert "dim: 32" in ended.stdout
    assert call("run", "again.yaml", "--dry-run").stdout == ended.stdout


def test_overwrite_replaces_a_run_and_says_which(caplog):
    keys = ["trainer.max_steps=1", "variant=base", "runs_dir=runs"]
    begun = call("run", "small.yaml", *keys, "--overwrite")
    assert begun.exit_code == 0
    assert "replacing" not in caplog.text
    loss = json.loads(Path("runs/small/base/seed0/result.json").read_text())["metrics"]["loss"]
    again = call("run", "small.yaml", *keys, "optimizer.lr=0.02", "--overwrite")
    assert again.exit_code == 0
    assert (
        "replacing runs/small/base/seed0: a finished run of `small` (task language_modeling), 1 "
        f"steps, loss {loss:.4f}; its recipe differs: optimizer.lr: 0.01 -> 0.02"
    ) in caplog.messages


@pytest.mark.parametrize("options", [[], ["--overwrite"]])
def test_a_run_of_another_task_or_recipe_is_never_replaced(options, small):
    directory = Path("runs/small/base/seed0")
    directory.mkdir(parents=True)
    (directory / "result.json").write_text("{}")
    for other in (small(task="translation"), small("name=large")):
        (directory / "recipe.yaml").write_text(other.to_yaml())
        assert complaint("run", "small.yaml", "runs_dir=runs", *options) == (
            f"{directory} holds a run of another recipe: `{other.name}` (task {other.task}), and "
            "this one is `small` (task language_modeling). --overwrite does not replace it; set "
            "name=NAME or variant=NAME, or remove that folder"
        )
    assert (directory / "result.json").read_text() == "{}"


def test_commands_to_copy_are_quoted_for_a_shell(text_file):
    """Each names a run whose path has blanks, brackets and a quote."""
    folder = "my 'runs' [1]"
    keys = [f'runs_dir="{folder}"', "variant=base", f"data.files={text_file}"]
    ended = call("run", "small.yaml", "trainer.max_steps=1", *keys)
    assert ended.exit_code == 0, ended.output
    said = [line for line in ended.stdout.splitlines() if line.startswith(("view", "generate"))]
    look, talk = (shlex.split(line)[1:] for line in said)
    assert look == ["tensorboard", "--logdir", f"{folder}/small"]
    assert talk[:2] == ["attnkit", "generate"]
    run = Path(talk[2])
    assert (run / "result.json").is_file()
    (run / "result.json").unlink()
    left_out = call("compare", folder)
    (way_on,) = re.findall(r"\((attnkit resume .*)\)", left_out.output)
    assert Path(shlex.split(way_on)[2]) == run
    diverged = complaint(
        "resume", run, "optimizer.lr=1e38", "trainer.gradient_clip=null", "trainer.max_steps=6",
        "--allow-changes", code=3,
    )  # fmt: skip
    way_on = diverged.partition("Lower the learning rate: ")[2].partition(";")[0]
    assert Path(shlex.split(way_on)[2]) == run


def test_a_run_is_named_by_a_folder_that_holds_it_alone(small_run):
    whole = call("generate", small_run.directory, "--max-new-tokens", 5)
    for folder in (small_run.directory.parent, small_run.directory.parents[1]):
        ended = call("generate", folder, "--max-new-tokens", 5)
        assert ended.stdout == whole.stdout
        assert ended.stderr == f"using the only run there: {small_run.directory}\n"


def test_several_runs_below_a_folder_are_named():
    for name in ("base/seed0", "base/seed1", ".trials/timing/seed0"):
        folder = Path("runs/small", name)
        folder.mkdir(parents=True)
        (folder / "recipe.yaml").write_text("")
    expected = "runs contains 2 runs; name one: runs/small/base/seed0, runs/small/base/seed1"
    for command in (["generate", "runs"], ["attention", "runs", "--text", "a"], ["resume", "runs"]):
        assert complaint(*command) == expected


def test_the_command_line_works_as_a_module_too():
    ended = subprocess.run(
        [sys.executable, "-m", "attnkit", "--help"], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0
    assert "generate" in ended.stdout


def test_several_texts_come_in_one_batch(small_run):
    options = ["--max-new-tokens", 20, "--num-samples", 3, "--prompt", "the"]
    ended = call("generate", small_run.directory, *options)
    headers = [f"--- {number} of 3 ---" for number in (1, 2, 3)]
    assert [line for line in ended.stdout.splitlines() if line in headers] == headers
    alone = call("generate", small_run.directory, *options, "--temperature", 0)
    single = call("generate", small_run.directory, *options[:2], *options[4:], "--temperature", 0)
    assert alone.stdout == "".join(f"{header}\n{single.stdout}" for header in headers)


def test_generated_text_comes_from_the_seed(small_run):
    def say(*options):
        ended = call("generate", small_run.directory, "--max-new-tokens", 40, *options)
        assert ended.exit_code == 0, ended.output
        assert ended.stderr == ""
        return ended.stdout

    first = say("--prompt", "the ", "--seed", 1)
    assert first == say("--prompt", "the ", "--seed", 1)
    assert first != say("--prompt", "the ", "--seed", 2)
    assert say("--temperature", 0) == say("--temperature", 0, "--seed", 2)
    assert say("--temperature", 0) == say("--top-k", 1)


def test_text_goes_on_beyond_the_length_of_the_context(small_run):
    ended = call("generate", small_run.directory, "--max-new-tokens", 50, "--prompt", "a dog " * 5)
    assert ended.exit_code == 0
    told = ended.stdout.removesuffix("\n").replace("\n\n", "!")
    assert len(told) == 50  # the context is 16


def test_what_the_vocabulary_lacks_is_said(small_run):
    ended = call("generate", small_run.directory, "--prompt", "Ωthe Ω?", "--max-new-tokens", 3)
    assert ended.exit_code == 0
    assert ended.stderr == "the run's vocabulary lacks 'Ω', '?'\n"


def test_the_default_prompt_is_named_where_the_vocabulary_lacks_it(small_run, monkeypatch):
    monkeypatch.setattr(TextRun, "unknown_in", lambda self, prompt: ["U+000A"])
    ended = call("generate", small_run.directory, "--max-new-tokens", 1)
    assert ended.stderr.endswith("the default of --prompt; give --prompt TEXT\n")


# Bad input


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["lr", "3"], "override lr: expected key=value, or ~key to remove a key"),
        (["lr 3"], "override lr 3: expected key=value, or ~key to remove a key; write lr=3"),
        (["model.attention.name=multihead"], "unknown attention mechanism `multihead`; did you"),
        (
            ["model.mask=document", "model.attention=linear"],
            "attention linear cannot obey the mask document (it obeys: causal, none, padding)",
        ),
        (["model.attention.num_heads=3"], "num_heads 3 does not divide dim 16; set head_dim or"),
        (["data.files=none.txt"], "data.files: none.txt does not exist (seen from "),
        (["data.files=empty.txt"], "empty.txt is empty; remove it from the list, or fill it"),
        (["data.files=short.txt"], "one window of model.max_seq_len 16 needs 17; add text"),
        (["data.files=bad.txt"], "bad.txt:2: byte 0xff at offset 16 is not valid UTF-8"),
        (["plugins=[none.py]"], "none.py does not exist"),
        (["plugins=[raises.py]"], "raises.py:1: ZeroDivisionError: division by zero"),
        (["plugins=[syntax.py]"], "syntax.py:2: SyntaxError: "),
        (["plugins=[taken.py]"], "position encoding `rotary` is already registered by"),
        (["runs_dir=a_file"], "a_file is not a writable folder; set runs_dir"),
        (["logging.probe=''"], "logging.probe is empty; write a text, or null for validation"),
        (["trainer.strategy=luck"], "trainer: accelerator cpu, devices 1 and strategy luck do not"),
        (["tokenizer={name: bpe, vocab_size: 3}"], "tokenizer.vocab_size: must be from 257"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_a_bad_run_is_refused_in_one_message(overrides, message):
    Path("a_file").write_text("")
    Path("empty.txt").write_text("")
    Path("short.txt").write_text("too short\n" * 3)
    Path("bad.txt").write_bytes(b"one line\nsecond \xff line\n" + b"and more\n" * 100)
    Path("raises.py").write_text("1 / 0\n")
    Path("syntax.py").write_text("\ndef f(:\n")
    Path("taken.py").write_text(
        "from attnkit import POSITIONS\n\n\n@POSITIONS.register('rotary')\nclass Mine:\n    pass\n"
    )
    before = sorted(Path().rglob("*"))
    assert message in complaint("run", "small.yaml", *overrides)
    assert sorted(Path().rglob("*")) == before


def test_all_problems_of_a_recipe_are_told_at_once_with_their_places():
    Path("bad.yaml").write_text("model: {dims: 16}\nsed: 3\ntrainer: {precision: 16}\n")
    lines = complaint("run", "bad.yaml").splitlines()
    headlines = [line for line in lines if not line.startswith(" ")]
    assert [line.split(": ")[0] for line in headlines] == [
        "bad.yaml:1:9", "bad.yaml:2:1", "bad.yaml:3:22"
    ]  # fmt: skip
    assert "    model: {dims: 16}" in lines


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.yaml", "there is no such file; the folder has "),
        (".", "this is a folder; name a recipe file in it"),
    ],
)
def test_a_recipe_that_is_none(name, message):
    assert message in complaint("run", name)


def test_a_taken_directory_is_named_with_the_ways_out():
    directory = Path("runs/small/base/seed0")
    directory.parent.mkdir(parents=True)

    def refusal(*options):
        return complaint("run", "small.yaml", "runs_dir=runs", *options)

    directory.write_text("")
    assert refusal() == f"{directory} is a file; set runs_dir, name or variant to something else"
    directory.unlink()
    directory.mkdir()
    (directory / "thesis.doc").write_text("years of work")
    for options in ([], ["--overwrite"]):
        assert refusal(*options) == (
            f"{directory} contains files but no run; set runs_dir, name or variant"
        )
    assert (directory / "thesis.doc").read_text() == "years of work"
    (directory / "recipe.yaml").write_text("")
    ways_out = (
        "continue it with --resume, replace it with --overwrite, or set variant=NAME or seed=N for "
        "another directory"
    )
    assert refusal() == f"{directory} contains an unfinished run; {ways_out}"
    (directory / "result.json").write_text("{}")
    assert refusal() == f"{directory} contains a finished run; {ways_out}"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_to():
    Path("locked").mkdir(mode=0o500)
    said = complaint("run", "small.yaml", "runs_dir=locked")
    assert "locked is not a writable folder; set runs_dir to one" in said


def test_what_is_no_text_and_what_is_too_long_for_a_path():
    """Standard names hold at most 255 bytes; bytes that are not UTF-8 come as lone surrogates."""
    for words in (["run", "\udcff.yaml"], ["run", "small.yaml", "a\udcff=1"], ["show", "\udcff"]):
        ended = call(*words)
        assert ended.exit_code == 2
        assert "byte 0xff is not valid UTF-8" in ended.stderr
    long = "a" * 300
    for words in (["run", long], ["run", "small.yaml", f"runs_dir={long}"], ["compare", long]):
        assert re.fullmatch(r"\.\.\.[a-z0-9/.]{60}: File name too long", complaint(*words))
    assert "File name too long" in call("generate", long).stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere does not exist; give the directory of a run (runs/...)"),
        (["small.yaml"], "small.yaml is a file; give the directory of a run (runs/...)"),
        (["."], ". has no recipe.yaml, so it is not a run; a run's directory ends in seed<k>"),
    ],
)
def test_generate_wants_a_run(arguments, message):
    assert complaint("generate", *arguments) == message
    assert complaint("resume", *arguments) == message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--prompt", ""], "it is empty; give it at least one character"),
        (["--top-p", "0"], "it must be above 0 and at most 1, got 0.0"),
        (["--top-p", "1.5"], "it must be above 0 and at most 1, got 1.5"),
        (["--top-k", "0"], "'--top-k'"),
        (["--temperature", "-1"], "'--temperature'"),
        (["--max-new-tokens", "0"], "'--max-new-tokens'"),
        (["--seed", "-1"], "'--seed'"),
        (["--seed", str(2**63)], "'--seed'"),
    ],
)
def test_generate_refuses_options_out_of_range(small_run, options, message):
    ended = call("generate", small_run.directory, *options)
    assert ended.exit_code == 2
    assert ended.stdout == ""
    assert message in ended.stderr


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("multihead", "nothing is called `multihead`; did you mean `multi_head`?"),
        ("none.yaml", "none.yaml: there is no such file"),
    ],
)
def test_show_says_what_it_does_not_know(name, message):
    assert message in complaint("show", name)


def test_debug_shows_where():
    ended = call("run", "small.yaml", "data.files=none.txt", "--debug")
    assert ended.exit_code == 2
    assert "Traceback (most recent call last):" in ended.stderr
    assert ended.stderr.splitlines()[-1].startswith("error: data.files: none.txt does not exist")


def test_a_fault_of_ours_is_told_from_bad_input(capsys):
    def fail():
        raise KeyError("inside")

    with pytest.raises(typer.Exit) as ended:
        guarded(fail, debug=False)
    assert ended.value.exit_code == 1
    assert capsys.readouterr().err == "error: KeyError: 'inside'\n(--debug shows where)\n"


def test_a_fault_in_a_plugin_names_its_line(tmp_path, capsys):
    (tmp_path / "mine.py").write_text("def fail(what):\n    return int(what)\n")
    plugin = load_plugin("mine.py", tmp_path)
    with pytest.raises(typer.Exit):
        guarded(lambda: plugin.fail(None), debug=False)
    *_, where = capsys.readouterr().err.splitlines()
    assert where == f"in {tmp_path / 'mine.py'}:2 (--debug shows more)"


def test_every_error_for_the_user_has_its_exit_code(capsys):
    def fail():
        raise RunDirectoryError("taken")

    with pytest.raises(typer.Exit) as ended:
        guarded(fail, debug=False)
    assert ended.value.exit_code == 2
    assert capsys.readouterr().err == "error: taken\n"


def test_a_divergence_has_an_exit_code_of_its_own():
    message = complaint(
        "run", "small.yaml", "optimizer.lr=1e38", "trainer.gradient_clip=null", code=3
    )
    assert message.startswith("training has diverged: at step ")


def test_a_reader_that_has_seen_enough_gets_no_error(small_run):
    """`attnkit generate RUN | head -c 5`."""
    command = [sys.executable, "-m", "attnkit", "generate", str(small_run.directory)]
    process = subprocess.Popen(
        [*command, "--max-new-tokens", "3000"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert len(process.stdout.read(5)) == 5
    process.stdout.close()
    said = process.stderr.read()
    process.stderr.close()
    process.wait(timeout=300)
    assert said == b""


# Going on


def test_a_finished_run_is_no_failure_to_resume():
    """So that a scheduler may start the same command again and again."""
    begun = call("run", "small.yaml", "--resume", "auto", "trainer.max_steps=2", "variant=base")
    assert begun.exit_code == 0, begun.output
    directory = Path("runs/small/base/seed0").resolve()
    for command in (
        ["run", "small.yaml", "trainer.max_steps=2", "variant=base", "--resume"],
        ["run", "small.yaml", "--resume=auto", "trainer.max_steps=2", "variant=base"],
        ["resume", directory],
    ):
        ended = call(*command)
        assert ended.exit_code == 0, ended.output
        assert ended.stdout == ""
        assert (
            "is finished: 2 steps of 2; to continue, set trainer.max_steps higher" in ended.stderr
        )
    longer = call("resume", directory, "trainer.max_steps=3")
    assert longer.exit_code == 0, longer.output
    assert json.loads((directory / "result.json").read_text())["steps"] == 3
    again = load_recipe(directory / "recipe.yaml")
    assert (again.variant, again.trainer.max_steps) == ("base", 3)


def test_a_resumption_that_is_refused():
    said = complaint("run", "small.yaml", "--resume")
    assert "seed0 does not exist; give the directory of a run" in said
    call("run", "small.yaml", "trainer.max_steps=2", "variant=base")
    directory = Path("runs/small/base/seed0").resolve()
    said = complaint("resume", directory, "model.dropout=0.5", "trainer.max_steps=4")
    assert (
        "holds a run of another recipe: model.dropout: 0.0 -> 0.5. Resume it with its own keys"
        in said
    )
    ended = call("run", "small.yaml", "--resume", "--overwrite")
    assert ended.exit_code == 2
    assert "--overwrite and --resume cannot be combined" in ended.stderr


def test_an_exported_model_speaks(small_run):
    ended = call("export", small_run.directory, "model.safetensors")
    assert ended.exit_code == 0, ended.output
    assert ended.stdout.startswith("model.safetensors: ")
    options = ["--prompt", "the ", "--max-new-tokens", 20]
    spoken = call("generate", "model.safetensors", *options)
    assert spoken.stdout == call("generate", small_run.directory, *options).stdout
    assert "model.safetensors exists; replace it with --overwrite" in complaint(
        "export", small_run.directory, "model.safetensors"
    )


def test_a_run_goes_on_from_any_folder(tmp_path, text_file, monkeypatch):
    """Its data was named relative to where it began; the run is named by one part of a path."""
    text = Path("text.txt")
    text.write_text(text_file.read_text())
    keys = ["trainer.max_steps=1", "variant=base", "runs_dir=runs", f"data.files={text}"]
    assert call("run", "small.yaml", *keys).exit_code == 0
    monkeypatch.chdir("runs/small/base")
    ended = call("resume", "seed0", "trainer.max_steps=2")
    assert ended.exit_code == 0, ended.output
    assert json.loads(Path("seed0/result.json").read_text())["steps"] == 2
    assert load_recipe("seed0/recipe.yaml").data.options["files"] == tmp_path / text
    look = next(line for line in ended.stdout.splitlines() if line.startswith("view "))
    assert shlex.split(look)[-1] == str(tmp_path / "runs/small")
