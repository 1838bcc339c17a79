"""``minivllm serve`` without a model: the real server around an engine that says ``a``.

    python -m tests.serving.scripted_server '{"num_kv_blocks": 65}' '{"max_streams": 4}'

The first argument is the engine's configuration, the second the server's settings.
"""

from __future__ import annotations

import json
import socket
import sys

from minivllm.api.address import bind
from minivllm.config import EngineConfig, make_config
from minivllm.engine.async_llm import AsyncLLM
from minivllm.engine.parts import build
from minivllm.executor.scripted import ScriptedExecutor
from minivllm.serving import serve
from minivllm.serving.settings import ServeSettings
from minivllm.trace.gate import Gate
from tests.serve.fakes import FakeTokenizer


def executor(config: EngineConfig) -> ScriptedExecutor:
    return ScriptedExecutor(config, lambda _req, _index: 97)


def tokenizer(_config: EngineConfig) -> FakeTokenizer:
    return FakeTokenizer()


def start_scripted(config: EngineConfig, gate: Gate) -> AsyncLLM:
    made = "tests.serving.scripted_server"  # by name: that can cross to an engine's process
    parts = build(
        config, executor_factory=f"{made}:executor", tokenizer=f"{made}:tokenizer", gate=gate
    )
    llm = AsyncLLM.from_parts(parts.client, parts.tokenizer, parts.tracer)
    llm.trace_log = parts.trace_log
    return llm


def bind_with_small_buffers(host: str, port: int) -> socket.socket:
    """So that a reader who is stuck is noticed after kilobytes, not megabytes."""
    listener = bind(host, port)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    return listener


if __name__ == "__main__":
    engine = {"live": True, "num_kv_blocks": 513, "block_size": 4, "max_model_len": 2000}
    engine |= json.loads(sys.argv[1])
    settings = {"port": 0, "served_model_name": "scripted"} | json.loads(sys.argv[2])
    for name in ("api_keys", "allowed_hosts"):
        settings[name] = tuple(settings.get(name, ()))
    serve.bind = bind_with_small_buffers
    serve.serve_forever(
        make_config(**engine), ServeSettings(**settings), start_engine=start_scripted
    )
