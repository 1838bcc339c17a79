"""core_proc: the engine core in a process of its own. ``python -m minivllm.engine.core_proc``.

    main thread     builds the core, then only waits, so that a signal finds it free of locks
    engine-core     the busy loop (``core_loop.py``)
    input           PULL socket → the loop's queue; steers the gate; answers calls
    output          the queue of messages → PUSH socket; a heartbeat in between
    parent          standard input: its first line is the settings, its end the front end's death

The process ends when it is told to, on SIGTERM, and with its front end, whatever becomes of that;
the terminal's Ctrl-C is the front end's to judge. A step is never held up by a socket: what comes
is queued without bound (the front end bounds the number of open requests), and so is what goes, as
long as the front end lives.

Counterpart in vLLM: ``EngineCoreProc`` in ``vllm/v1/engine/core.py``. Left out: several front ends,
the coordinator of data parallel, request preprocessing off the loop's thread.
"""

from __future__ import annotations

import logging
import os
import queue
import shutil
import signal
import stat
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import zmq

from minivllm.config import EngineConfig, make_config
from minivllm.engine import wire
from minivllm.engine.core_loop import CoreLoop
from minivllm.engine.engine_core import EngineCore
from minivllm.engine.factories import make_executor, make_tokenizer
from minivllm.engine.messages import EngineCoreOutputs
from minivllm.engine.wire import CoreSettings, Message
from minivllm.engine.wire_errors import told
from minivllm.errors import ConfigError, EngineUnavailableError, MiniVLLMError
from minivllm.structured_output.manager import StructuredOutputManager
from minivllm.trace.artifact_store import ArtifactStore
from minivllm.trace.channel import TraceChannel
from minivllm.trace.gate import Gate
from minivllm.trace.gate_control import GateState
from minivllm.trace.recorder import Recorder
from minivllm.trace.tracer import OFF, Tracer
from minivllm.typed import warm_up

logger = logging.getLogger("minivllm.engine.core_proc")  # which is __main__ here

HEARTBEAT_S = 0.2
POLL_MS = 200
ORPHAN_S = 2.0
"""How long an engine whose front end is gone may take for the step it is in."""

INPUT_SOCKET, OUTPUT_SOCKET, ARRAYS = "input", "output", "arrays"
"""Names in the private directory: two sockets, and the folder of arrays that go to memory."""


class CoreProcess:
    def __init__(self, settings: CoreSettings) -> None:
        self._settings = settings
        self._loop: CoreLoop | None = None
        self._gate = Gate(paused=settings.paused, rate=settings.rate)
        self._channel: TraceChannel | None = None
        self._exit_code = 0
        self._ending = threading.Event()
        self._outbox: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._input = self._context.socket(zmq.PULL)
        self._input.set(zmq.RCVHWM, 0)
        self._input.set(zmq.MAXMSGSIZE, wire.MAX_MESSAGE_BYTES)
        self._input.bind(f"ipc://{settings.directory}/{INPUT_SOCKET}")

    def run(self) -> int:
        """The process's whole life; returns its exit code."""
        signal.signal(signal.SIGTERM, lambda *_: self._told_to_end())
        output = threading.Thread(target=self._write_outputs, name="output", daemon=True)
        output.start()
        threading.Thread(target=self._watch_parent, name="parent", daemon=True).start()
        try:
            loop = self._build()
        except Exception as error:
            logger.error("the engine cannot be started", exc_info=not _is_named(error))
            self._outbox.put(wire.StartFailed(error=told(error)))
            self._exit_code = 1
            self._input.close(linger=0)
            if self._channel is not None:
                self._channel.abandon()
                self._channel.close()
        else:
            reader = threading.Thread(target=self._read_inputs, name="input", daemon=True)
            reader.start()
            runner = threading.Thread(target=loop.run, name="engine-core", daemon=True)
            runner.start()
            runner.join()
            self._ending.set()
            reader.join()
        self._outbox.put(None)
        output.join()
        # Once all sockets are closed this waits until the last words have left the process.
        ending = threading.Thread(target=self._context.term, daemon=True)
        ending.start()
        ending.join(timeout=2.0)
        return self._exit_code

    def _build(self) -> CoreLoop:
        settings = self._settings
        _check_private(settings.directory)
        config = make_config(**{**settings.config, "data_parallel_rank": settings.index})
        tokenizer = make_tokenizer(config, settings.tokenizer)
        executor = make_executor(config, settings.executor)
        trace: Tracer = OFF
        if settings.start_ns is not None:
            self._channel = self._open_channel(config, settings.start_ns)
            stream = f"engine{settings.index}"
            trace = Recorder(
                self._channel, stream, tokenizer.text_after, settings.epoch, config.trace.check
            )
        grammars = StructuredOutputManager.of(tokenizer)
        core = EngineCore(config, executor, trace, grammars, engine=settings.index)
        loop = CoreLoop(
            core,
            self._gate,
            self._hand_out,
            on_death=self._die,
            on_facts=lambda facts: self._outbox.put(wire.Facts(facts=facts)),
            lockstep=settings.lockstep,
            engine=settings.index,
        )
        self._gate.on_state(lambda state: self._outbox.put(wire.GateMoved(state=state)))
        self._outbox.put(
            wire.Ready(facts=core.facts(), described=executor.describe(), gate=self._gate.state())
        )
        self._loop = loop
        return loop

    def _open_channel(self, config: EngineConfig, start_ns: int) -> TraceChannel:
        directory, trace = self._settings.directory, config.trace
        spool = Path(directory) / ARRAYS
        arrays = ArtifactStore.of_process(trace.path, spool, trace.tensors_limit)
        return TraceChannel(self._context, directory, start_ns, arrays, trace.redact)

    # --- the loop's words ----------------------------------------------------------------------

    def _hand_out(self, outputs: EngineCoreOutputs) -> None:
        outputs.engine = self._settings.index
        self._outbox.put(wire.Outputs(outputs=outputs))

    def _die(self, error: BaseException) -> None:
        self._exit_code = 1
        # The message may hold anything; it is in the log.
        self._outbox.put(
            wire.Outputs(outputs=EngineCoreOutputs(step=-1, error=type(error).__name__))
        )

    # --- threads ---------------------------------------------------------------------------------

    def _write_outputs(self) -> None:
        socket = self._context.socket(zmq.PUSH)
        socket.set(zmq.SNDHWM, 0)
        socket.connect(f"ipc://{self._settings.directory}/{OUTPUT_SOCKET}")
        beat = time.monotonic()
        while True:
            try:
                message = self._outbox.get(timeout=HEARTBEAT_S)
            except queue.Empty:
                pass
            else:
                if message is None:
                    break
                socket.send(wire.encode(message))
            loop = self._loop
            if loop is not None and time.monotonic() >= beat:
                beat = time.monotonic() + HEARTBEAT_S
                step = loop.core.scheduler.current_step
                socket.send(wire.encode(wire.Heartbeat(step=step, stalled_s=loop.stalled_s())))
        socket.close(linger=2000)

    def _read_inputs(self) -> None:
        while not self._ending.is_set():
            if not self._input.poll(POLL_MS):
                continue
            frames = self._input.recv_multipart()
            frame = frames[0] if len(frames) == 1 else b""
            try:
                message = wire.decode_to_engine(frame)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                self._refuse(frame, error)
                continue
            try:
                self._take(message, len(frame))
            except Exception:  # it must not end the thread that hears of everything else
                logger.exception("a message (%s) could not be taken in", wire.name_of(message))
        self._input.close(linger=0)

    def _refuse(self, frame: bytes, error: Exception) -> None:
        """A request that cannot be read ends by an error; any other message is only told of."""
        logger.warning("a message of %d bytes cannot be read: %s", len(frame), error)
        request_id = wire.id_of_bad_request(frame)
        if request_id is not None and self._loop is not None:
            self._loop.refuse(request_id, str(error))

    def _take(self, message: wire.ToEngine, num_bytes: int) -> None:
        loop = self._loop
        if loop is None:
            return
        match message:
            case wire.Taken():
                loop.answer(message.num_taken)
            case wire.Shutdown():
                loop.stop()
            case wire.GateVerb():
                self._answer(message, lambda: self._steer(message.verb, message.value))
            case wire.SetKnobs():
                check = lambda: loop.core.check_knobs(**message.knobs)  # noqa: E731
                if self._answer(message, check):
                    loop.put(message, num_bytes)
            case wire.Arm():
                if self._answer(message, lambda: loop.core.check_arm(message.step)):
                    loop.put(message, num_bytes)
            case _:
                loop.put(message, num_bytes)

    def _answer(self, call: wire.Call, do: Callable[[], object]) -> bool:
        """Do what is asked, unless whoever asked has given up."""
        error, state = None, None
        try:
            if call.deadline_ns and time.perf_counter_ns() > call.deadline_ns:
                raise EngineUnavailableError("it came too late, and was not done")
            result = do()
            state = result if isinstance(result, GateState) else None
        except Exception as refused:  # whatever it is, somebody waits for it
            if not _is_named(refused):
                logger.exception("a call has failed")
            error = told(refused)
        self._outbox.put(wire.Answer(call_id=call.call_id, error=error, gate=state))
        return error is None

    def _steer(self, verb: str, value: Any) -> GateState:
        gate = self._gate
        verbs = {"step": gate.step, "next_phase": gate.next_phase, "next_event": gate.next_event}
        if verb == "rate":
            gate.rate = value
        elif verb == "until":
            gate.until(value)
        elif verb in ("pause", "resume"):
            (gate.pause if verb == "pause" else gate.resume)()
        elif verb in verbs:
            verbs[verb](value)
        else:
            raise ConfigError("gate", verb, f"pause, resume, until, rate, {', '.join(verbs)}")
        return gate.state()

    # --- the end -------------------------------------------------------------------------------

    def _told_to_end(self) -> None:
        """SIGTERM. On the main thread, which holds no lock while it waits for the loop."""
        if self._loop is None:
            os._exit(128 + signal.SIGTERM)
        self._loop.stop()

    def _watch_parent(self) -> None:
        """Nothing is ever written after the settings: what can be read is the end."""
        while os.read(0, 4096):
            pass
        shutil.rmtree(self._settings.directory, ignore_errors=True)
        if self._loop is None:
            os._exit(1)
        if self._channel is not None:
            self._channel.abandon()
        self._loop.stop()
        self._ending.wait(ORPHAN_S)
        os._exit(1)


def _check_private(directory: str) -> None:
    """Raises ConfigError for a place that others may use: who writes there steers the engine."""
    info = os.lstat(directory)
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid() or info.st_mode & 0o077:
        raise ConfigError("directory", directory, "one that is this user's alone (mode 0700)")


def _is_named(error: BaseException) -> bool:
    return isinstance(error, MiniVLLMError)


def _read_settings() -> CoreSettings:
    """By os.read: a buffered reader would have a lock that the end of Python trips over."""
    line = b""
    while not line.endswith(b"\n"):
        piece = os.read(0, 1 << 16)
        if not piece:
            os._exit(1)  # the front end died before it had said anything
        line += piece
    return msgspec.json.decode(line, type=CoreSettings)


def main() -> None:
    for name in ("SIGINT", "SIGHUP"):  # they reach the whole group; the front end decides
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    settings = _read_settings()
    logging.basicConfig(
        level=settings.log_level, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s"
    )
    warm_up()
    code = CoreProcess(settings).run()
    logging.shutdown()
    sys.stderr.flush()
    os._exit(code)  # libraries' threads may not be willing to end


if __name__ == "__main__":
    main()
