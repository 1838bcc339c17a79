"""The progress bar of ``LLM.generate``: requests done, and output tokens a second.

Counterpart in vLLM: the tqdm bar in ``vllm/entrypoints/llm.py``; ``use_tqdm`` keeps its name.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from types import TracebackType

_lock = threading.Lock()
_in_use: list[GenerationProgress] = []
_held = 0
"""By so many who ask at the terminal: no bar is drawn over what they write."""


@contextlib.contextmanager
def no_bars() -> Iterator[None]:
    """For who asks at the terminal meanwhile: bars stand still, and go on afterwards."""
    global _held
    with _lock:
        _held += 1
        for progress in _in_use:
            progress.draw(False)
    try:
        yield
    finally:
        with _lock:
            _held -= 1
            for progress in _in_use:
                progress.draw(not _held)


class GenerationProgress:
    """Draws to stderr while in use; with ``show=False`` it does nothing and imports nothing."""

    def __init__(self, total: int, *, show: bool) -> None:
        self._tokens = 0
        self._began = time.monotonic()
        self._bar = None
        if show:
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                Progress,
                TextColumn,
                TimeElapsedColumn,
            )

            self._bar = Progress(
                TextColumn("requests done"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.fields[rate]:.1f} output tokens/s"),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task("generate", total=total, rate=0.0)

    def advance(self, *, finished: int, tokens: int) -> None:
        """One step brought ``tokens`` output tokens and finished so many requests."""
        self._tokens += tokens
        if self._bar is not None:
            seconds = max(time.monotonic() - self._began, 1e-9)
            self._bar.update(self._task, advance=finished, rate=self._tokens / seconds)

    def draw(self, on: bool) -> None:
        if self._bar is not None and on != self._bar.live.is_started:
            (self._bar.start if on else self._bar.stop)()

    def __enter__(self) -> GenerationProgress:
        with _lock:
            _in_use.append(self)
            self.draw(not _held)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with _lock:
            _in_use.remove(self)
            self.draw(False)
