"""What is said of a finished run."""

import dataclasses
from pathlib import Path

import pytest

from attnkit.runs import report


def test_an_honest_result(read, numbers, small_run):
    report.show_result(small_run)
    shown = read()
    assert numbers(shown, "loss, nats per token") == [round(small_run.metrics["loss"], 4)]
    assert numbers(shown, "parameters") == [small_run.record["parameters"]]
    assert numbers(shown, "steps") == [6]
    assert "not a language-modeling loss" not in shown
    assert small_run.sample.strip("\n") in shown


def test_a_result_that_saw_the_future(read, small_run):
    influence = {**small_run.record["later_influence"], "change": 0.123, "num_moved": 15}
    record = {
        **small_run.record, "loss_is_language_modeling": False, "later_influence": influence
    }  # fmt: skip
    report.show_result(dataclasses.replace(small_run, record=record))
    shown = read()
    assert "loss (sees the future)" in shown
    assert "loss, nats per token" not in shown
    assert "This is not a language-modeling loss" in shown
    assert "0.12 standard deviations" in shown


def test_the_part_of_the_split_is_named(read, small_run):
    report.show_result(small_run)
    assert "whole validation split" in read()
    record = {**small_run.record, "validation_share": 0.25}
    report.show_result(dataclasses.replace(small_run, record=record))
    assert "25.0% of the validation split" in read()


def test_unknown_tokens_stand_beside_the_loss(read, small_run):
    report.show_result(small_run)
    assert "unknown tokens" not in read()
    record = {**small_run.record, "unknown_share": 0.6049}
    report.show_result(dataclasses.replace(small_run, record=record))
    (line,) = (line for line in read().splitlines() if "unknown tokens" in line)
    assert "60.49%" in line


def test_brackets_are_letters_like_others(read, small_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sample, folder = "[bold]no[/bold] [/] end", Path("runs/[red]/base/seed0")
    folder.mkdir(parents=True)
    (folder / "events.out.tfevents.1").touch()
    report.show_result(dataclasses.replace(small_run, sample=sample, directory=folder))
    shown = read()
    assert sample in shown
    assert "tensorboard --logdir 'runs/[red]'" in shown


@pytest.mark.parametrize(
    ("here", "directory", "view"),
    [
        (".", "runs/a/base/seed0", "runs/a"),
        ("runs/a/base", "seed0", "{}/runs/a"),
        ("runs/a/base", "../base/seed0/", "{}/runs/a"),
        ("runs/a/base/seed0", ".", "{}/runs/a"),
        ("runs/a/base/seed0", "../seed0", "{}/runs/a"),
        (".", "moved", "moved"),
        (".", "link", "runs/a"),
        (".", "/", "/"),
    ],
)
def test_a_path_may_be_short(read, small_run, tmp_path, monkeypatch, here, directory, view):
    (tmp_path / "runs/a/base/seed0").mkdir(parents=True)
    (tmp_path / "link").symlink_to("runs/a/base/seed0")
    monkeypatch.chdir(tmp_path / here)
    monkeypatch.setattr("attnkit.runs.report.event_files", lambda directory: [directory])
    report.show_result(dataclasses.replace(small_run, directory=Path(directory)))
    (line,) = [line for line in read().splitlines() if "--logdir" in line]
    assert line.split("--logdir ")[1] == view.format(tmp_path)
