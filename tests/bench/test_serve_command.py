"""``minivllm bench serve`` as it is typed, against the real endpoint and a scripted executor."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
from flask import request

from minivllm.api.server import create_app, make_http_server
from minivllm.config import make_config
from minivllm.engine.async_llm import AsyncLLM
from minivllm.engine.engine_core import EngineCore
from minivllm.engine.inproc_client import InprocClient
from minivllm.trace.gate import Gate
from tests.cli.test_commands import CLI
from tests.conftest import ENGINE_PACKAGES, ROOT, RunPython
from tests.load.scripted import SlowExecutor
from tests.serve.fakes import FakeTokenizer

MODEL = "letters"


@pytest.fixture
def posts() -> list[str]:
    """The path of each request that has reached the server's endpoint."""
    return []


@pytest.fixture
def server(posts: list[str]) -> Iterator[Callable[..., str]]:
    """Start one that says a letter a step; its address."""
    started = []

    def start(rate: float = 0.0, **settings: object) -> str:
        config = make_config(max_model_len=1024, num_kv_blocks=400)
        client = InprocClient(EngineCore(config, SlowExecutor(config)), Gate(rate=rate))
        llm = AsyncLLM.from_parts(client, FakeTokenizer())
        app = create_app(llm, served_model_name=MODEL, **settings)
        app.before_request(lambda: posts.append(request.path) if request.method == "POST" else None)
        http = make_http_server(app, "127.0.0.1", 0)
        thread = threading.Thread(target=http.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        started.append((http, thread, llm))
        return f"http://127.0.0.1:{http.server_port}"

    yield start
    for http, thread, llm in started:
        http.shutdown()
        thread.join()
        llm.close()
        http.server_close()


@pytest.mark.parametrize("backend", ["openai", "openai-chat"])
def test_a_run_without_torch_has_table_numbers_and_picture(
    backend: str, server: Callable[..., str], tmp_path: Path, python_without: RunPython
) -> None:
    numbers, picture = tmp_path / "run.json", tmp_path / "run.svg"
    load = ["--num-prompts", "12", "--num-warmups", "2", "--request-rate", "100", "--ignore-eos"]
    data = ["--random-input-len", "10", "--random-output-len", "8", "--goodput", "ttft:60000"]
    where = ["--base-url", server() + "/v1", "--result-filename", str(numbers)]
    arguments = [*where, "--backend", backend, *load, *data, "--plot", str(picture)]
    run = python_without(CLI, "bench", "serve", *arguments)
    assert run.returncode == 0, run.stderr
    for told in ("requests completed", "TTFT", "TPOT", "ITL", "E2E", "p99", "planned start"):
        assert told in run.stdout
    assert "as the server counted them (usage)" in run.stdout
    result = json.loads(numbers.read_text())
    summary = result["summary"]
    assert (summary["completed"], summary["failed"]) == (12, 0)
    assert summary["total_output_tokens"] == 12 * 8
    assert summary["request_goodput"] == summary["request_throughput"] > 0
    assert (result["model"], result["settings"]["num_prompts"]) == (MODEL, 12)
    assert len(result["requests"]) == 12
    for told in result["requests"]:  # a chunk may hold what two steps have said
        assert 1 <= len(told["chunks"]) <= told["output_tokens"] == 8
    assert 0 < summary["p50_ttft_ms"] <= summary["p99_ttft_ms"] <= summary["p99_e2el_ms"]
    ElementTree.fromstring(picture.read_text())


def test_a_shared_prefix_is_found_in_the_servers_cache(
    server: Callable[..., str], python_without: RunPython
) -> None:
    where = ["--base-url", server(), "--num-prompts", "8", "--max-concurrency", "1"]
    data = ["--dataset-name", "shared-prefix", "--num-prefixes", "1", "--shared-prefix-len", "16"]
    run = python_without(CLI, "bench", "serve", *where, *data, "--random-input-len", "4")
    assert run.returncode == 0, run.stderr
    assert "of them cached" in run.stdout


def test_a_wrong_key_fails_every_request_and_the_command(
    server: Callable[..., str], python_without: RunPython
) -> None:
    where = ["--base-url", server(api_keys=["right"]), "--num-prompts", "3"]
    command = [CLI, "bench", "serve", *where]
    run = python_without(*command, "--model", MODEL, env={"OPENAI_API_KEY": "wrong"})
    assert run.returncode == 1
    assert "http_401" in run.stdout and "Incorrect or missing API key" in run.stdout
    refused = python_without(*command)
    assert refused.returncode == 1 and "answers 401" in refused.stderr
    assert python_without(*command, "--api-key", "right").returncode == 0


def test_ctrl_c_tells_what_was_measured_so_far(
    server: Callable[..., str], posts: list[str], tmp_path: Path
) -> None:
    numbers = tmp_path / "run.json"
    command = ["bench", "serve", "--base-url", server(rate=50), "--ignore-eos"]
    load = ["--max-concurrency", "1", "--num-prompts", "500", "--random-output-len", "4"]
    process = subprocess.Popen(
        [sys.executable, "-m", "minivllm", *command, *load]
        + ["--num-warmups", "1", "--result-filename", str(numbers)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "100"},
    )
    assert process.stderr is not None
    while "warming up" not in process.stderr.readline():
        assert process.poll() is None
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline and len(posts) < 8:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert "Interrupted: this is what was measured so far" in out
    result = json.loads(numbers.read_text())
    assert result["interrupted"] and result["summary"]["interrupted"] <= 1
    done = result["summary"]["completed"]
    assert 6 <= done < 500 and len(result["requests"]) <= done + 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--num-prompts", "0"], "--num-prompts: got 0; allowed: 1 or more"),
        (["--request-rate", "0"], "--request-rate"),
        (["--request-rate", "nan"], "--request-rate"),
        (["--burstiness", "0"], "--burstiness"),
        (["--backend", "vllm"], "openai, openai-chat"),
        (["--dataset-name", "sharegpt"], "random, shared-prefix, file"),
        (["--dataset-name", "file"], "--dataset-path"),
        (["--dataset-path", "x.jsonl"], "together with --dataset-name file"),
        (["--base-url", "localhost:8000"], "such as http://127.0.0.1:8000"),
        (["--extra-body", "[1]"], "an object"),
        (["--goodput", "ttft"], "such as ttft:200"),
        (["--goodput", "itl:5"], "ttft, tpot or e2el"),
        (["--percentile-metrics", "ttft,x"], "ttft,tpot,itl,e2el"),
        (["--plot", "run.png"], "ends in .svg"),
        (["--plot", "/nowhere/run.svg"], "a directory that is there"),
        (["--backend", "openai-chat", "--random-token-ids", "9"], "with --backend openai"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from minivllm.cli.main import main

    with pytest.raises(SystemExit) as ended:
        main(["bench", "serve", *arguments])
    assert ended.value.code == 2
    err = capsys.readouterr().err
    assert told in err and err.count("\n") == 1


def test_a_server_that_is_not_there_is_told_in_one_line(
    free_port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    from minivllm.cli.main import main

    with pytest.raises(SystemExit) as ended:
        main(["bench", "serve", "--port", str(free_port)])
    assert ended.value.code == 1
    err = capsys.readouterr().err
    assert "cannot be reached" in err and err.count("\n") == 1


def test_without_its_extra_the_command_says_what_to_install(python_without: RunPython) -> None:
    run = python_without(CLI, "bench", "serve", blocked=(*ENGINE_PACKAGES, "aiohttp"))
    assert run.returncode == 2
    assert "minivllm[bench]" in run.stderr and run.stderr.count("\n") == 1
