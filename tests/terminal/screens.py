"""A program in a real pseudo-terminal, and what a person would see on it."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import pexpect
import pyte

ROOT = Path(__file__).resolve().parents[2]
HANG_S = 60.0
"""A screen that has not come by then will not come; it sets no pace."""

KEYS = {"enter": "\r", "ctrl-c": "\x03", "ctrl-d": "\x04", "escape": "\x1b", "tab": "\t"}
KEYS |= {"up": "\x1b[A", "pagedown": "\x1b[6~"}


class Terminal:
    """``minivllm ARGUMENTS``, or another program, on a terminal of the given size."""

    def __init__(
        self,
        home: Path,
        *arguments: str,
        columns: int = 80,
        rows: int = 24,
        env: dict[str, str] | None = None,
        program: list[str] | None = None,
    ) -> None:
        self.screen = pyte.Screen(columns, rows)
        self.raw = b""
        self._stream = pyte.ByteStream(self.screen)
        self._shell = pexpect.spawn(
            "/bin/sh",
            ["-c", 'stty -a; trap : INT; "$@"; echo "status $?"; stty -a; echo the-end', "sh"]
            + (program or [sys.executable, "-m", "minivllm", *arguments]),
            dimensions=(rows, columns),
            cwd=str(ROOT),
            env={  # type: ignore[arg-type]
                **{k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "COLORFGBG")},
                "TERM": "xterm-256color",
                "LANG": "C.UTF-8",
                "MINIVLLM_HOME": str(home),
                "PYTHONPATH": str(ROOT),
                **(env or {}),
            },
        )

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._shell.close(force=True)

    def still_running(self) -> list[int]:
        """Processes of this terminal that have not ended."""
        found = []
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                after_name = path.read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it has ended meanwhile
            if after_name[0] != "Z" and int(after_name[3]) == self._shell.pid:  # its session
                found.append(int(path.parent.name))
        return found

    @property
    def lines(self) -> list[str]:
        return [line.rstrip() for line in self.screen.display]

    def press(self, *keys: str) -> None:
        """Named keys, or text."""
        for key in keys:
            self._shell.send(KEYS.get(key, key))

    def type(self, line: str) -> None:
        self.press(line, "enter")

    def resize(self, columns: int, rows: int) -> None:
        self.screen.resize(rows, columns)
        self._shell.setwinsize(rows, columns)

    def wait(self, ready: Callable[[list[str]], bool]) -> list[str]:
        """The screen as soon as it is so."""
        deadline = time.monotonic() + HANG_S
        while not ready(self.lines):
            assert time.monotonic() < deadline, "never came:\n" + "\n".join(self.lines)
            self.read()
        return self.lines

    def wait_for(self, text: str) -> list[str]:
        return self.wait(lambda lines: any(text in line for line in lines))

    def settle(self) -> list[str]:
        """The screen once nothing more is written to it."""
        while self.read() or "running …" in self.lines:
            pass
        return self.lines

    def settle_raw(self) -> bytes:
        self.settle()
        return self.raw

    def read(self) -> bool:
        """What comes within a moment; False: nothing."""
        try:
            data = self._shell.read_nonblocking(65536, timeout=0.3)
        except pexpect.TIMEOUT:
            return False
        except pexpect.EOF:
            return False
        self.raw += data
        self._stream.feed(data)
        return True

    def status(self) -> int:
        """The program's exit status; checks that the terminal is left as it was found."""
        self.wait_for("the-end")
        told = self.raw.decode(errors="replace").replace("\r\n", "\n")
        modes = re.findall(r"[^\n]*\bicanon\b[^\n]*", told)  # echo, signals, line editing
        assert len(modes) == 2 and modes[0] == modes[1], f"the modes changed: {modes}"
        assert told.count("\x1b[?1049h") == told.count("\x1b[?1049l"), "left in the second screen"
        return int(told.split("status ")[-1].split("\n")[0])
