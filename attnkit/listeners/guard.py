"""Protects a run from its loggers, so that none of them can end it or slow it down."""

from __future__ import annotations

import contextlib
import fnmatch
import logging
import queue
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.loggers.logger import DummyLogger

from attnkit.listeners.lightning import Listeners, listener_of
from attnkit.listeners.listener import Listener, RunInfo
from attnkit.registry import line_of_plugin
from attnkit.storage.run_directory import ENVIRONMENT, RECIPE, RESULT
from attnkit.tensorboard.attention_record import AttentionRecord
from attnkit.tensorboard.event_files import LOGGED_FILES, cut_back, logged_bytes
from attnkit.tensorboard.images import Image

log = logging.getLogger("attnkit")

OPEN_SECONDS = 10.0
"""Seconds that a run waits for a server at its start; then it connects in the background."""

FINISH_SECONDS = 30.0
"""Seconds that a run waits at its end until a server has received everything."""

MAX_WAITING = 10_000
"""Maximum number of calls that wait for a slow server; further calls are dropped."""

_NO_EXPERIMENT = DummyLogger().experiment

_FILES_OF_THE_RUN = (RECIPE, ENVIRONMENT, RESULT)


class GuardedLogger(Listener, Logger):
    """A Lightning logger around a listener, which catches what the listener raises.

    The first exception is reported; the call that raised it is dropped. After an `OSError` a
    listener that writes a local file is not called again, since its last record may be incomplete.
    All other listeners run in a thread, so that a slow server does not delay a step.

    Args:
        name: name in messages.
        source: a `Listener` or a Lightning logger.
    """

    def __init__(self, name: str, source: Any) -> None:
        super().__init__()
        self.label = name
        self.source = source
        self.run: RunInfo | None = None
        self.failure: BaseException | None = None
        self._listener: Listener | None = None
        # A checkpoint records the lengths of files, so everything logged before must be in them.
        self._background = listener_of(source).in_background and not listener_of(source).files
        self._status: str | None = None
        self._is_mute = False
        self._queue: queue.Queue[Callable[[], Any] | None] = queue.Queue(MAX_WAITING)
        self._thread: threading.Thread | None = None

    # What a run calls

    def open(self, run: RunInfo) -> None:
        """Opens the listener. Before that, every call does nothing."""
        self.run = run
        opened = threading.Event()

        def connect() -> None:
            try:
                listener = listener_of(self.source)
                other = listener.open(run)
                self._listener = listener if other is None else listener_of(other)
            except Exception:
                self._is_mute = True
                raise
            finally:
                opened.set()

        if self._background:
            self._thread = threading.Thread(target=self._work, name=self.label, daemon=True)
            self._thread.start()
        self._do(connect)
        opened.wait(OPEN_SECONDS)

    def close(self) -> None:
        """Closes the listener with the status of the run. Waits for its thread at most twice
        `FINISH_SECONDS`.
        """
        if self.run is None:
            return
        status, self._status = self._status, None
        if self._listener is not None:  # a file that failed is closed too
            self._is_mute = False
        self._do(lambda: self._opened.finish(status))
        self.run = None
        if self._thread is None:
            return
        with contextlib.suppress(queue.Full):
            self._queue.put(None, timeout=FINISH_SECONDS)
        self._thread.join(FINISH_SECONDS)
        if self._thread.is_alive():
            self._report(
                TimeoutError(f"it has not received everything within {FINISH_SECONDS:.0f} s")
            )

    # The methods of a listener

    def begin(self, hyperparameters: Any) -> None:
        self._do(lambda: self._opened.begin(hyperparameters))

    def scalars(self, values: Any, step: int) -> None:
        try:  # now: the caller may change a tensor or the mapping before the thread reads it
            numbers = {name: float(value) for name, value in values.items()}
        except (TypeError, ValueError, RuntimeError) as error:
            self._report(error)
            return
        self._do(lambda: self._opened.scalars(numbers, step))

    def text(self, tag: str, text: str, step: int) -> None:
        self._do(lambda: self._opened.text(tag, text, step))

    def image(self, tag: str, image: Image, step: int) -> None:
        self._do(lambda: self._opened.image(tag, image, step))

    def maps(self, record: AttentionRecord, step: int) -> None:
        self._do(lambda: self._opened.maps(record, step))

    def flush(self) -> None:
        if not self._background:
            self._do(lambda: self._opened.flush())

    # What Lightning calls

    @property
    def name(self) -> str | None:
        """The recipe's name."""
        return None if self.run is None else self.run.name

    @property
    def version(self) -> str | None:
        """The run's variant and seed."""
        return None if self.run is None else f"{self.run.variant}/seed{self.run.seed}"

    @property
    def save_dir(self) -> str | None:
        """The run's directory."""
        return None if self.run is None else str(self.run.directory)

    @property
    def log_dir(self) -> str | None:
        """The run's directory."""
        return self.save_dir

    @property
    def experiment(self) -> Any:
        """The logger's own object (torch's `SummaryWriter`, wandb's run, ...). An object that
        ignores every call, if the logger is not open or has none.
        """
        listener: Any = self._listener
        if listener is None or self._is_mute:
            return _NO_EXPERIMENT
        return getattr(getattr(listener, "logger", listener), "experiment", _NO_EXPERIMENT)

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        """Logs scalars, without the `epoch` that Lightning adds."""
        values = {name: value for name, value in metrics.items() if name != "epoch"}
        if values:
            self.scalars(values, step or 0)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Does nothing: the run logs its recipe with `begin`."""

    def finalize(self, status: str) -> None:
        """Sets the status of the run. `failed` and `aborted` are final, since Lightning finalizes
        after `fit` and again after `validate`.
        """
        if self._status in (None, "success"):
            self._status = status

    def __getattr__(self, name: str) -> Any:
        """Other methods of the logger (`log_table` of wandb, ...), with the same protection. Before
        it is open, in all processes but the first, and if it failed to open, they do nothing.
        """
        if name.startswith("_"):
            raise AttributeError(name)
        if self._listener is None:
            return lambda *args, **options: None
        found = getattr(getattr(self._listener, "logger", self._listener), name)
        if not callable(found):
            return found
        return lambda *args, **options: self._do(lambda: found(*args, **options))

    # The protection

    @property
    def _opened(self) -> Listener:
        assert self._listener is not None
        return self._listener

    def _do(self, act: Callable[[], Any]) -> None:
        if self.run is None or self._is_mute:
            return
        if self._thread is None:
            self._attempt(act)
            return
        try:
            self._queue.put_nowait(act)
        except queue.Full:
            self._report(TimeoutError(f"more than {MAX_WAITING:,} calls wait for it"))

    def _work(self) -> None:
        while (act := self._queue.get()) is not None:
            self._attempt(act)

    def _attempt(self, act: Callable[[], Any]) -> None:
        if self._is_mute:
            return
        try:
            act()
        except Exception as error:
            # A local file may end in an incomplete record; a server may recover.
            self._is_mute |= not self._background and isinstance(error, OSError)
            self._report(error)
        except SystemExit as error:  # it would end the thread silently
            if not self._background:
                raise
            self._report(error)

    def _report(self, error: BaseException) -> None:
        if self.failure is not None:
            return
        self.failure = error
        words = getattr(error, "strerror", None) or str(error).strip().partition("\n")[0]
        line = line_of_plugin(error)
        log.warning(
            "the logger %s failed: %s: %s%s; training continues, and further failures of this "
            "logger are not reported",
            self.label,
            type(error).__name__,
            words,
            f" in {line}" if line else "",
        )


class RunListeners(Listeners):
    """All loggers of a run, each protected by a `GuardedLogger`.

    Args:
        sources: pairs of a name and a `Listener` or Lightning logger.

    Attributes:
        loggers: loggers for the trainer.

    Raises:
        TypeError: if a source is not a logger.
        ValueError: if the `files` of a listener include a file of the run itself, which would be
            truncated on resuming.
    """

    def __init__(self, sources: Sequence[tuple[str, Any]]) -> None:
        self.loggers: Sequence[GuardedLogger] = [
            GuardedLogger(name, source) for name, source in sources
        ]
        super().__init__(self.loggers)
        patterns: dict[str, None] = dict.fromkeys(LOGGED_FILES)
        for name, source in sources:
            for pattern in listener_of(source).files:
                if reserved := fnmatch.filter(_FILES_OF_THE_RUN, pattern):
                    raise ValueError(
                        f"the logger {name}: its file `{pattern}` is the run's {reserved[0]}"
                    )
                patterns[pattern] = None
        self._patterns = tuple(patterns)
        self._directory: Path | None = None

    def open(self, run: RunInfo) -> None:
        """Cuts the logged files back to the resume point and opens all loggers. Only the first
        process of a run calls it.
        """
        if run.resume is not None:
            cut_back(run.directory, run.resume, self._patterns)
        self._directory = run.directory
        for logger in self.loggers:
            logger.open(run)

    def logged_bytes(self) -> dict[str, int]:
        """Flushes the loggers, and returns file name -> length for a `ResumePoint`, including files
        of loggers that only an earlier session had.
        """
        if self._directory is None:
            return {}
        for logger in self.loggers:
            logger.flush()
        return logged_bytes(self._directory, self._patterns)

    def finalize(self, status: str) -> None:
        """Sets the status of the run."""
        for logger in self.loggers:
            logger.finalize(status)

    def close(self) -> None:
        """Closes all loggers; a second call does nothing."""
        for logger in self.loggers:
            logger.close()
