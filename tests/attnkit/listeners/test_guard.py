"""Whatever a listener does, the run neither ends nor waits, and hears of it once."""

import threading
import time

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import nn

from attnkit.listeners import guard
from attnkit.listeners.guard import RunListeners
from attnkit.listeners.lightning import Listeners, listener_of
from attnkit.listeners.listener import Listener, RunInfo
from attnkit.listeners.loggers import Csv, Jsonl, TensorBoard
from attnkit.tensorboard.event_files import ResumePoint, event_files
from attnkit.tensorboard.scalars import read_scalars


class Notebook(Listener):
    """Notes down what it hears, and from which thread."""

    def __init__(self):
        self.heard = []
        self.threads = set()

    def scalars(self, values, step):
        self.threads.add(threading.current_thread())
        self.heard.append((step, dict(values)))

    def finish(self, status):
        self.heard.append(status)


class Near(Notebook):
    in_background = False

    def open(self, run):  # returns nothing, as most do
        self.place = run.directory


def listeners_of(tmp_path, *listeners, resume=None):
    listeners = RunListeners([(type(one).__name__.lower(), one) for one in listeners])
    (tmp_path / "run").mkdir(exist_ok=True)
    listeners.open(RunInfo(tmp_path / "run", resume=resume))
    return listeners


def listen(listeners, steps=range(5)):
    for step in steps:
        listeners.scalars({"loss": torch.tensor(float(step))}, step)


def told(caplog):
    return [record.getMessage() for record in caplog.records if record.name == "attnkit"]


def test_what_is_not_ours_is_called_in_order_in_a_thread_of_its_own(tmp_path, caplog):
    far, near = Notebook(), Near()
    listeners = listeners_of(tmp_path, far, near)
    listen(listeners)
    listeners.finalize("success")
    listeners.close()
    listeners.close()
    assert far.heard == near.heard == [*((step, {"loss": step}) for step in range(5)), "success"]
    assert near.threads == {threading.main_thread()}
    assert len(far.threads) == 1
    assert threading.main_thread() not in far.threads
    assert not told(caplog)


@pytest.mark.parametrize("base", [Notebook, Near])
def test_an_exception_is_told_once_and_what_follows_is_heard(tmp_path, caplog, base):
    class Moody(base):
        def scalars(self, values, step):
            if step in (1, 2):
                raise ZeroDivisionError("the server\nhas gone")
            super().scalars(values, step)

        def finish(self, status):
            raise ConnectionError("again")

    listener = Moody()
    listeners = listeners_of(tmp_path, listener)
    listen(listeners)
    listeners.close()
    assert [step for step, _ in listener.heard] == [0, 3, 4]
    (message,) = told(caplog)
    assert message.startswith("the logger moody failed: ZeroDivisionError: the server; training")


def test_one_that_cannot_be_opened_costs_nothing_but_itself(tmp_path, caplog):
    class Closed(Notebook):
        def open(self, run):
            raise ConnectionError("nobody is there")

    closed, other = Closed(), Notebook()
    listeners = listeners_of(tmp_path, closed, other)
    listen(listeners)
    listeners.close()
    assert closed.heard == []
    assert len(other.heard) == 6
    assert told(caplog) == [
        "the logger closed failed: ConnectionError: nobody is there; training continues, and "
        "further failures of this logger are not reported"
    ]


def test_a_server_that_exits_ends_no_thread(tmp_path, caplog):
    class Leaving(Notebook):
        def scalars(self, values, step):
            if step == 1:
                raise SystemExit("no account")
            super().scalars(values, step)

    leaving = Leaving()
    listeners = listeners_of(tmp_path, leaving)
    listen(listeners)
    listeners.close()
    assert [step for step, _ in leaving.heard[:-1]] == [0, 2, 3, 4]
    assert "the logger leaving failed: SystemExit: no account" in told(caplog)[0]


def test_one_that_hangs_is_not_waited_for(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(guard, "FINISH_SECONDS", 0.1)
    release = threading.Event()

    class Hanging(Notebook):
        def scalars(self, values, step):
            release.wait(60)

    listeners = listeners_of(tmp_path, Hanging())
    began = time.monotonic()
    listen(listeners, range(1000))
    listeners.close()
    assert time.monotonic() - began < 10
    release.set()
    (message,) = told(caplog)
    assert "the logger hanging failed: TimeoutError: it has not received everything" in message


def test_more_calls_than_can_wait_are_dropped(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(guard, "MAX_WAITING", 5)
    release = threading.Event()

    class Slow(Notebook):
        def scalars(self, values, step):
            release.wait(60)
            super().scalars(values, step)

    slow = Slow()
    listeners = listeners_of(tmp_path, slow)
    listen(listeners, range(100))
    release.set()
    listeners.close()
    assert 5 <= len(slow.heard) <= 8
    assert "TimeoutError: more than 5 calls wait for it" in told(caplog)[0]
    assert len(told(caplog)) == 1


def test_one_that_connects_slowly_does_not_hold_up_the_start(tmp_path, monkeypatch):
    monkeypatch.setattr(guard, "OPEN_SECONDS", 0.05)
    release = threading.Event()

    class Distant(Notebook):
        def open(self, run):
            release.wait(60)
            return self

    distant = Distant()
    listeners = listeners_of(tmp_path, distant)
    listen(listeners)
    assert distant.heard == []
    assert listeners.loggers[0].experiment.anything(1) is None
    release.set()
    listeners.close()
    assert len(distant.heard) == 6


@pytest.mark.skipif(not guard.Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("kind", [Csv, Jsonl])
def test_a_full_disk_is_told_once(tmp_path, caplog, kind):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / kind.files[0]).symlink_to("/dev/full")
    listeners = listeners_of(tmp_path, kind())
    listen(listeners)
    assert isinstance(listeners.logged_bytes(), dict)
    listeners.close()
    (message,) = told(caplog)
    assert f"the logger {kind.__name__.lower()} failed: OSError: No space left on device" in message


def test_a_full_disk_costs_a_file_its_end_and_no_more(tmp_path, caplog):
    listeners = listeners_of(tmp_path, Jsonl())
    listen(listeners, range(3))
    file = listeners.loggers[0]._listener._file

    class Full:
        """The disk is full in the middle of a line, and free again soon after."""

        def write(self, content):
            file.write(content[:5])
            raise OSError(28, "No space left on device")

        close = file.close

    listeners.loggers[0]._listener._file = Full()
    listen(listeners, range(3, 6))
    listeners.close()
    assert len(told(caplog)) == 1
    assert read_scalars(tmp_path / "run")["loss"].steps.tolist() == [0, 1, 2]
    again = listeners_of(tmp_path, Jsonl(), resume=ResumePoint(2, {"metrics.jsonl": 1000}))
    listen(again, range(3, 6))
    again.close()
    assert read_scalars(tmp_path / "run")["loss"].steps.tolist() == [0, 1, 2, 3, 4, 5]


def test_a_file_of_a_logger_that_listens_no_more_is_measured_and_cut_back(tmp_path):
    first = listeners_of(tmp_path, Csv(), TensorBoard())
    listen(first, range(3))
    sizes = first.logged_bytes()
    assert sizes.keys() == {"metrics.csv", event_files(tmp_path / "run")[0].name}
    listen(first, range(3, 9))
    first.close()

    second = listeners_of(tmp_path, Jsonl(), resume=ResumePoint(2, sizes))
    listen(second, range(3, 5))
    later = second.logged_bytes()
    assert {name: later[name] for name in sizes} == sizes
    listen(second, range(5, 9))
    second.close()

    third = listeners_of(tmp_path, Csv(), resume=ResumePoint(4, later))
    listen(third, range(5, 7))
    third.close()
    rows = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    assert rows == ["step,name,value", *(f"{step},loss,{step}.0" for step in (0, 1, 2, 5, 6))]
    assert read_scalars(tmp_path / "run")["loss"].steps.tolist() == [0, 1, 2, 3, 4, 5, 6]


def test_a_listener_cannot_claim_the_files_of_the_run():
    class Greedy(Listener):
        files = ("notes.txt", "*.yaml")

    with pytest.raises(ValueError, match=r"greedy: its file `\*.yaml` is the run's recipe.yaml"):
        RunListeners([("greedy", Greedy())])


def test_a_logger_that_was_never_opened_hears_nothing(tmp_path):
    """As in all processes but the first."""
    notebook = Notebook()
    listeners = RunListeners([("notebook", notebook)])
    listen(listeners)
    listeners.loggers[0].log_metrics({"loss": 1.0, "epoch": 0}, 3)
    listeners.loggers[0].experiment.log(1)
    assert listeners.loggers[0].log_table("words", data=[]) is None
    assert listeners.logged_bytes() == {}
    listeners.close()
    assert notebook.heard == []


class Model(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.save_hyperparameters()
        self.layer = nn.Linear(1, 1)

    def training_step(self, batch):
        self.log("loss", self.layer(batch).square().mean())
        self.logger.log_note("a word")
        return self.layer(batch).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.:FutureWarning")
def test_a_trainer_takes_a_lightning_logger_that_raises(tmp_path, caplog):
    """Also by what only that logger can do."""

    class Broken(CSVLogger):
        def log_metrics(self, metrics, step=None):
            raise RuntimeError("out of order")

        def log_note(self, words):
            raise KeyError(words)

    listeners = listeners_of(tmp_path, Broken(tmp_path / "csv"), Near())
    trainer = L.Trainer(
        max_steps=3,
        logger=list(listeners.loggers),
        accelerator="cpu",
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Model(), torch.utils.data.DataLoader(torch.ones(4, 1)))
    listeners.close()
    assert trainer.global_step == 3
    assert len([words for words in told(caplog) if "the logger broken failed" in words]) == 1
    assert len(told(caplog)) == 1


def test_a_lightning_logger_makes_its_experiment_once(tmp_path):
    """Though a trainer asks for it while the thread begins to log."""

    class Lazy(CSVLogger):
        made = 0

        @property
        def experiment(self):
            if self._experiment is None:
                time.sleep(0.05)
                self._experiment = []
                self.made += 1
            return self._experiment

        def log_metrics(self, metrics, step=None):
            self.experiment.append(step)

        def save(self):
            pass

    lazy = Lazy(tmp_path / "csv")
    listeners = listeners_of(tmp_path, lazy)
    listen(listeners)
    assert listeners.loggers[0].experiment is lazy.experiment
    listeners.close()
    assert (lazy.made, lazy.experiment) == (1, [0, 1, 2, 3, 4])


def test_any_lightning_logger_is_a_listener_and_nothing_else_is(tmp_path):
    logger = CSVLogger(tmp_path, name="", version="run")
    listeners = Listeners([logger])
    listeners.begin({"model": {"dim": 8}})
    listeners.scalars({"loss": 1.5}, 3)
    listeners.text("note", "curves alone are for all", 3)
    listeners.listeners[0].finish("success")
    assert (tmp_path / "run" / "metrics.csv").read_text().split() == ["loss,step", "1.5,3"]
    assert "model.dim: 8" in (tmp_path / "run" / "hparams.yaml").read_text()
    with pytest.raises(TypeError, match=r"str is not a logger; give one of Lightning's"):
        listener_of("tensorboard")
