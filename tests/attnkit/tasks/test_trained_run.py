"""A run read back: the same model, and no way in for a file that is not a checkpoint of it."""

import contextlib
import hashlib
import os
import pickle
import shutil
import zipfile
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from attnkit.errors import CheckpointError, DataError
from attnkit.recipe import RecipeError
from attnkit.runs import experiment
from attnkit.storage.checkpoint_manifest import manifest_text, read_manifest
from attnkit.tasks.language_modeling import task as language_modeling
from attnkit.tasks.trained_run import export_run, load_run


@pytest.fixture
def copy(small_run, tmp_path):
    """A copy of the small run that a test may spoil."""
    return shutil.copytree(small_run.directory, tmp_path / "copy")


def last(directory):
    return directory / "checkpoints" / "last.ckpt"


def vouch_for(path):
    """Has the manifest say that a file is what was written, as somebody with bad intent would."""
    manifest = path.with_name("manifest.json")
    files = read_manifest(path.parent)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    files[path.name] = [replace(saved, sha256=digest) for saved in files[path.name]]
    manifest.write_text(manifest_text(files))


def test_the_loaded_model_is_the_trained_one(real_run):
    """Its loss on the first validation windows is what a model of the result's loss would have."""
    run = load_run(real_run.directory)
    assert run.recipe.name == "real"
    assert not run.model.training
    data = experiment.build_data(run.recipe)
    data.prepare()
    assert run.tokenizer.fingerprint() == data.tokenizer.fingerprint()
    task = experiment.build_task(run.recipe, run.model, data)
    with torch.no_grad():
        losses = [
            float(task.measure(batch)["loss"])
            for batch in [data.val_batches(None)[i] for i in range(8)]
        ]
    assert sum(losses) / 8 == pytest.approx(real_run.metrics["loss"], abs=0.1)


def test_its_words_look_like_its_text(real_run):
    text = load_run(real_run.directory).generate("The ", 300, temperature=0.5)
    assert len(text) >= 300
    words = text.split()
    assert len(words) > 20
    assert "the" in words


def test_the_seed_decides_the_text(real_run):
    run = load_run(real_run.directory)
    assert run.generate("The ", 30, seed=1) == run.generate("The ", 30, seed=1)
    assert run.generate("The ", 30, seed=1) != run.generate("The ", 30, seed=2)
    assert "".join(run.stream("The ", 30, seed=1)) == run.generate("The ", 30, seed=1)


def test_a_text_may_be_longer_than_the_context(small_run):
    run = load_run(small_run.directory)
    assert run.model.max_seq_len == 16
    pieces = list(run.stream("the cat", 40))
    assert len(pieces) == 40


def test_the_final_sample_comes_from_the_last_checkpoint(real_run):
    run = load_run(real_run.directory)
    length = language_modeling.FINAL_SAMPLE_TOKENS
    text = run.generate("\n", length, temperature=0.8, top_k=50, seed=0)
    assert text == real_run.sample


def test_best_and_last_are_two_checkpoints(small):
    """The best one is of the last validation, in step 6."""
    result = experiment.run(small("trainer.max_steps=7"))
    best, newest = (load_run(result.directory, best=best).model for best in (True, False))
    assert any(
        not torch.equal(a, b) for a, b in zip(best.parameters(), newest.parameters(), strict=True)
    )


def test_an_emoji_is_given_out_whole(small, tmp_path):
    """A character of four bytes is four tokens here; its first three alone are no text."""
    (tmp_path / "emoji.txt").write_text("🦊" * 400)
    result = experiment.run(
        small(f"data.files={tmp_path / 'emoji.txt'}", "tokenizer=byte", "trainer.max_steps=60")
    )
    pieces = list(load_run(result.directory).stream("🦊", 12, temperature=0))
    assert "".join(pieces) == "🦊🦊🦊"
    assert [len(piece) for piece in pieces if piece] == [1, 1, 1]
    cut = list(load_run(result.directory).stream("🦊", 6, temperature=0))
    assert "".join(cut) == "🦊\N{REPLACEMENT CHARACTER}"  # half of one is not lost


def test_a_replacement_character_of_the_text_is_given_out(small, tmp_path):
    (tmp_path / "odd.txt").write_text("a\ufffd" * 1000, encoding="utf-8")
    result = experiment.run(small(f"data.files={tmp_path / 'odd.txt'}", "trainer.max_steps=60"))
    run = load_run(result.directory)
    texts = [run.generate("a", n, temperature=0) for n in (1, 2, 3)]
    assert texts == ["\ufffd", "\ufffda", "\ufffda\ufffd"]


def test_what_the_vocabulary_lacks_is_found(small_run):
    run = load_run(small_run.directory)
    assert run.unknown_in("the cat") == []
    assert run.unknown_in("Ωthe ΩX") == ["Ω", "X"]
    assert run.unknown_in("the\u00a0cat\u200b\t") == ["U+00A0", "U+200B", "U+0009"]


def test_an_empty_prompt_is_refused(small_run):
    with pytest.raises(ValueError, match="the prompt is empty"):
        load_run(small_run.directory).generate("")


def test_a_run_moves_with_its_folder(copy, small_run):
    here, there = load_run(copy), load_run(small_run.directory)
    assert here.generate("the ", 10) == there.generate("the ", 10)


# What is no trained run


class Intruder:
    """Runs code when it is unpickled, unless somebody looks first."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (os.mkdir, (str(self.mark),))


def spoil_truncate(path, mark):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def spoil_empty(path, mark):
    path.write_bytes(b"")


def spoil_text(path, mark):
    path.write_text("These are my weights.\n")


def spoil_zip(path, mark):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "no checkpoint")


def spoil_code(path, mark):
    torch.save({"state_dict": Intruder(mark)}, path)


def spoil_old_pickle(path, mark):
    path.write_bytes(pickle.dumps({"state_dict": Intruder(mark)}))


def spoil_list(path, mark):
    torch.save([1, 2], path)


def spoil_no_weights(path, mark):
    torch.save({"state_dict": 3}, path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_truncate, "is damaged or not a checkpoint; restore it, or train the run again"),
        (spoil_empty, "is damaged or not a checkpoint; restore it, or train the run again"),
        (spoil_text, "is damaged"),
        (spoil_zip, "is damaged or not a checkpoint; restore it, or train the run again"),
        (
            spoil_code,
            "objects other than plain data; it was not loaded, and nothing in it was executed",
        ),
        (spoil_old_pickle, "it was not loaded, and nothing in it was executed"),
        (spoil_list, "is not a checkpoint of attnkit: it has no state_dict"),
        (spoil_no_weights, "is not a checkpoint of attnkit: it has no state_dict"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_bad_checkpoint_is_refused_and_runs_nothing(copy, tmp_path, spoil, message):
    mark = tmp_path / "code was run"
    spoil(last(copy), mark)
    unvouched = r"last.ckpt is damaged \(its sha256 differs from manifest.json\); restore it"
    for expected in (unvouched, message):
        with pytest.raises(CheckpointError, match=expected) as refused:
            load_run(copy)
        assert str(refused.value).startswith(str(last(copy)))
        assert "\n" not in str(refused.value)
        assert not mark.exists()
        vouch_for(last(copy))


@pytest.mark.parametrize("spoil", [spoil_code, spoil_old_pickle], ids=lambda spoil: spoil.__name__)
def test_the_intruder_does_run_where_nobody_looks(tmp_path, spoil):
    """Otherwise the test above would prove nothing."""
    spoil(tmp_path / "file", tmp_path / "code was run")
    with contextlib.suppress(RuntimeError):  # "corrupt file?", it asks afterwards
        torch.load(tmp_path / "file", weights_only=False)
    assert (tmp_path / "code was run").exists()


def test_weights_of_other_sizes_are_named(copy):
    recipe = copy / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("dim: 16\n", "dim: 32\n"))
    with pytest.raises(CheckpointError, match=r"size mismatch for embedding.*\(and \d+ more\)$"):
        load_run(copy)


def test_a_run_without_a_checkpoint_is_unfinished(copy):
    last(copy).unlink()
    with pytest.raises(CheckpointError, match=r"last.ckpt does not exist; the run has not reached"):
        load_run(copy)
    assert load_run(copy, best=True).recipe.name == "small"


def test_a_spoilt_vocabulary_is_named(copy):
    file = copy / "tokenizer.json"
    file.write_text(file.read_text().replace("abc", "acb"))
    with pytest.raises(DataError, match=r"tokenizer.json is damaged \(its sha256 differs\)"):
        load_run(copy)
    file.unlink()
    with pytest.raises(DataError, match=r"tokenizer.json cannot be read"):
        load_run(copy)


def test_a_spoilt_recipe_is_named_with_its_place(copy):
    recipe = copy / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("dim: 16\n", "dims: 16\n"))
    with pytest.raises(RecipeError, match=r"recipe.yaml:\d+:3: model.dims: unknown key; did you"):
        load_run(copy)


# Exported


@pytest.mark.parametrize("best", [False, True], ids=["last", "best"])
def test_an_exported_model_gives_the_same_logits(copy, tmp_path, best):
    file = tmp_path / "model.safetensors"
    export_run(copy, file, best=best)
    before = load_run(copy, best=best)
    shutil.rmtree(copy)  # the file stands alone
    after = load_run(file)
    tokens = torch.randint(before.model.head.out_features, (2, 16))
    assert torch.equal(after.model(tokens), before.model(tokens))
    assert after.recipe == before.recipe
    assert after.generate("the ", 20) == before.generate("the ", 20)


def test_tied_weights_are_written_once_and_stay_tied(small, tmp_path):
    result = experiment.run(small("model.tied_embeddings=true", "trainer.max_steps=1"))
    file = tmp_path / "model.safetensors"
    model = export_run(result.directory, file).model
    with safe_open(file, framework="pt") as opened:
        assert len(opened.keys()) == len(model.state_dict()) - 1
    again = load_run(file).model
    assert again.head.weight is again.embedding.weight
    assert torch.equal(again.head.weight, model.head.weight)


def test_an_export_replaces_nothing_unless_it_may(copy, tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_text("precious")
    with pytest.raises(CheckpointError, match=r"model.safetensors exists; replace it with --over"):
        export_run(copy, file)
    assert file.read_text() == "precious"
    export_run(copy, file, overwrite=True)
    assert load_run(file).recipe.name == "small"
    with pytest.raises(CheckpointError, match=r"model.bin must end in .safetensors"):
        export_run(copy, tmp_path / "model.bin")
    with pytest.raises(CheckpointError, match=r"model.safetensors cannot be written"):
        export_run(copy, tmp_path / "nowhere" / "model.safetensors")
    assert list(tmp_path.glob("*.safetensors")) == [file]
    assert not list(tmp_path.rglob(".*"))


def test_a_file_that_is_no_export_is_refused(tmp_path):
    file = tmp_path / "model.safetensors"
    with pytest.raises(CheckpointError, match=r"model.safetensors does not exist"):
        load_run(file)
    file.write_text("rubbish")
    with pytest.raises(CheckpointError, match="is damaged or not a safetensors file"):
        load_run(file)
    save_file({"weight": torch.ones(2)}, file)
    with pytest.raises(CheckpointError, match="was not exported by attnkit: it contains no recipe"):
        load_run(file)
    nowhere = {"attnkit/file/recipe.yaml": "", "attnkit/same/head": "none"}
    save_file({"weight": torch.ones(2)}, file, nowhere)
    with pytest.raises(CheckpointError, match="same/head refers to a missing weight"):
        load_run(file)
    outside = {"attnkit/file/../outside": "written by a stranger"}
    save_file({"weight": torch.ones(2)}, file, outside)
    with pytest.raises(CheckpointError, match="no recipe"):
        load_run(file)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda w: torch.full_like(w, float("inf")), "weights that are not finite: embedding"),
        (lambda w: w.to_sparse(), "embedding.weight is not a dense tensor"),
        (lambda w: w.to(torch.complex64), "embedding.weight is not a dense tensor"),
        (lambda w: "x", "size mismatch for embedding.weight"),
    ],
    ids=["infinite", "sparse", "complex", "text"],
)
def test_weights_that_are_none_are_refused(copy, spoil, message):
    checkpoint = torch.load(last(copy), weights_only=True)
    weights = checkpoint["state_dict"]
    weights["model.embedding.weight"] = spoil(weights["model.embedding.weight"])
    torch.save(checkpoint, last(copy))
    vouch_for(last(copy))
    with pytest.raises(CheckpointError, match=message):
        load_run(copy)


def test_a_compressed_checkpoint_is_not_unpacked(copy):
    """Zeros shrink a thousandfold: what is small on the disk would take all memory."""
    path = last(copy)
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    vouch_for(path)
    with pytest.raises(CheckpointError, match=r"last\.ckpt is damaged or not a checkpoint"):
        load_run(copy)


def test_a_model_is_not_made_before_its_sizes_are_those_of_the_weights(small_run, tmp_path):
    """At this width one matrix takes 64 GB."""
    file = tmp_path / "model.safetensors"
    export_run(small_run.directory, file)
    with safe_open(file, framework="pt") as opened:
        header = opened.metadata()
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    recipe = header["attnkit/file/recipe.yaml"].replace("dim: 16", "dim: 131072")
    save_file(tensors, file, {**header, "attnkit/file/recipe.yaml": recipe})
    with pytest.raises(CheckpointError, match="does not match its recipe and vocabulary"):
        load_run(file)
