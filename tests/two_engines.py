"""A run of a server with two engines, as a trace.

Real cores with scripted executors, stepped in a fixed order on this thread; what the front end and
the sockets tell is emitted by hand. It holds all that several engines bring: two routed by load,
one by its cached prefix, an engine that dies, what becomes of its two requests, its second life,
a drain and what ends it.
"""

from __future__ import annotations

from pathlib import Path

from minivllm.config import make_config
from minivllm.engine.engine_core import EngineCore
from minivllm.engine.messages import EngineCoreRequest
from minivllm.executor.scripted import ScriptedExecutor, counting_tokens
from minivllm.sampling_params import SamplingParams
from minivllm.trace import events as ev
from minivllm.trace.events import EngineWhy, Header, RouteWhy
from minivllm.trace.file import Trace, decode_event
from minivllm.trace.log import TraceLog
from minivllm.trace.recorder import Recorder

KNOBS = {
    "num_kv_blocks": 17,
    "block_size": 4,
    "max_num_batched_tokens": 32,
    "max_num_seqs": 8,
    "max_model_len": 64,
}
SHARED = list(range(100, 112))
"""The beginning of two prompts: three blocks."""


class TwoEngines:
    """``run()`` plays the whole; its parts can be called one by one."""

    def __init__(self, path: Path | str | None = None, **options: int) -> None:
        header = Header(
            run_id="two-engines", created="", engine_version="test", name="two-engines",
            model="none", fidelity="given",
        )  # fmt: skip
        self.log = TraceLog(header, str(path) if path else None, **options)
        self.api = Recorder(self.log, "api")
        self.engines: dict[int, EngineCore] = {}
        self.recorders: dict[int, Recorder] = {}
        self._prompts: dict[str, list[int]] = {}

    def start(self, engine: int, epoch: int = 1, why: EngineWhy = EngineWhy.SERVER_START) -> None:
        config = make_config(**KNOBS)
        about = {"engine": engine, "epoch": epoch}
        self.api.emit(ev.EngineStart, None, **about, pid=4000 + 10 * epoch + engine, why=why)
        recorder = Recorder(self.log, f"engine{engine}", self._text, epoch=epoch)
        core = EngineCore(config, ScriptedExecutor(config, counting_tokens), recorder)
        recorder.flush()
        self.engines[engine], self.recorders[engine] = core, recorder
        self.api.emit(ev.EngineReady, None, **about, num_kv_blocks=17, ns=1_000_000)
        self.api.flush()

    @staticmethod
    def _text(token_id: int, _before: object) -> str:
        return f" w{token_id}"

    def ask(
        self,
        request_id: str,
        prompt: list[int],
        engine: int,
        why: RouteWhy = RouteWhy.LEAST_LOADED,
        cached: int = 0,
        max_tokens: int = 6,
        parent: str | None = None,
    ) -> None:
        """A client's request, over every hop up to the engine's waiting queue."""
        self.api.emit(
            ev.HttpRequest, None, request_id=request_id, method="POST", path="/v1/completions",
            bytes=8 * len(prompt) + 40,
        )  # fmt: skip
        self.send(request_id, prompt, engine, why, cached, max_tokens, parent)

    def send(
        self,
        request_id: str,
        prompt: list[int],
        engine: int,
        why: RouteWhy = RouteWhy.LEAST_LOADED,
        cached: int = 0,
        max_tokens: int = 6,
        parent: str | None = None,
    ) -> None:
        """One prompt of what a client asked for."""
        self.api.emit(
            ev.ReqTokenize, None, request_id=request_id, characters=5 * len(prompt),
            tokens=len(prompt), ns=20,
        )  # fmt: skip
        self._prompts[request_id] = prompt
        self.route(request_id, engine, why, cached, max_tokens, parent)

    def route(
        self,
        request_id: str,
        engine: int,
        why: RouteWhy,
        cached: int = 0,
        max_tokens: int = 6,
        parent: str | None = None,
    ) -> None:
        api, prompt = self.api, self._prompts[request_id]
        candidates = [
            ev.RouteCandidate(
                engine=number,
                open_requests=len(core.scheduler.requests),
                load_tokens=sum(
                    r.num_tokens - r.num_computed_tokens for r in core.scheduler.requests.values()
                ),
                cached_tokens=cached if number == engine else 0,
            )
            for number, core in self.engines.items()
        ]
        api.emit(
            ev.RoutePick, None, request_id=request_id, engine=engine, policy="prefix_aware",
            why=why, candidates=candidates,
        )  # fmt: skip
        size = 4 * len(prompt) + 60
        about = {"engine": engine, "message": "add", "bytes": size, "request_id": request_id}
        api.emit(ev.IpcSend, None, **about)  # type: ignore[arg-type]
        api.flush()
        self.recorders[engine].emit(ev.IpcRecv, None, **about, ns=40_000)  # type: ignore[arg-type]
        self.engines[engine].add_request(
            EngineCoreRequest(
                request_id=request_id,
                prompt_token_ids=prompt,
                sampling_params=SamplingParams(max_tokens=max_tokens, ignore_eos=True),
                parent=parent,
            )
        )
        self.recorders[engine].flush()

    def step(self, engine: int, steps: int = 1) -> None:
        """Let an engine run, and its tokens travel to the clients."""
        for _ in range(steps):
            made = self.engines[engine].step()
            self.recorders[engine].flush()
            self.api.emit(
                ev.IpcRecv, None, engine=engine, message="outputs", bytes=500, ns=100,
                epoch=self.recorders[engine].epoch, of_step=made.step,
            )  # fmt: skip
            for output in made.outputs:
                tokens, request_id = len(output.new_token_ids), output.request_id
                self.api.emit(
                    ev.ReqDetokenize, None, request_id=request_id, tokens=tokens,
                    characters=5 * tokens, ns=8_000,
                )  # fmt: skip
                if self._prompts.pop(request_id, None) is not None:
                    self.api.emit(ev.HttpFirstByte, None, request_id=request_id, status=200)
                self.api.emit(ev.HttpChunk, None, request_id=request_id, bytes=140, tokens=tokens)
                if output.finish_reason is not None:
                    self.api.emit(ev.HttpDone, None, request_id=request_id, status=200, bytes=1000)
            self.api.flush()

    def kill(self, engine: int, retried: int, failed: int, epoch: int = 1) -> None:
        """Without a word of its own: that is how a process ends that is killed."""
        del self.engines[engine], self.recorders[engine]
        self.api.emit(
            ev.EngineDead, None, engine=engine, epoch=epoch, message="it was killed by signal 9",
            retried=retried, failed=failed,
        )  # fmt: skip
        self.api.flush()

    def run(self) -> TwoEngines:
        self.start(0)
        self.start(1)
        self.ask("cmpl-a", [*SHARED, 1, 2], engine=0)
        self.ask("cmpl-b", list(range(200, 222)), engine=1)
        self.step(0, 2)
        self.step(1, 2)
        self.ask("cmpl-c", [*SHARED, 3, 4, 5], engine=0, why=RouteWhy.CACHED_PREFIX, cached=12)
        self.ask("cmpl-d", [7, 8, 9], engine=1)
        self.step(0, 2)
        self.kill(1, retried=1, failed=1)  # b has spoken, d has not
        self.api.emit(ev.HttpDone, None, request_id="cmpl-b", status=500, bytes=200)
        self.route("cmpl-d", 0, RouteWhy.RETRY)
        self.step(0, 3)
        self.start(1, epoch=2, why=EngineWhy.DEATH)
        self.api.emit(ev.EngineDrain, None, engine=0, epoch=1, open_requests=2)
        self.ask("cmpl-e", list(range(300, 309)), engine=1, why=RouteWhy.ONLY_ENGINE)
        self.step(0, 6)
        self.step(1, 7)
        self.api.emit(ev.EngineResume, None, engine=0, epoch=1)
        self.api.flush()
        return self

    def trace(self) -> Trace:
        """All streams, one after the other; as ``read_trace`` gives them from a file, but for
        that."""
        lines = [
            line
            for life in self.log.lives()
            for line in self.log.lines(life.stream, 1, life.head, life.epoch)
        ]
        return Trace(self.log.header, [decode_event(line) for line in lines], "two-engines")


def write_two_engines(path: Path) -> Path:
    TwoEngines(path).run().log.close()
    return path
