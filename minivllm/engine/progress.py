"""The progress bar of ``LLM.generate``: requests done, and output tokens a second.

Counterpart in vLLM: the tqdm bar in ``vllm/entrypoints/llm.py``; ``use_tqdm`` keeps its name.
"""

from __future__ import annotations

import time
from types import TracebackType


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

    def __enter__(self) -> GenerationProgress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
