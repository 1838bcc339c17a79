"""What the commands do, and how they tell what went wrong: one line, no traceback, a status."""

from __future__ import annotations

import gzip
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from minivllm.trace.file import read_trace
from tests.conftest import ENGINE_PACKAGES, ROOT, RunPython

CLI = "import sys; from minivllm.cli.main import main; main(sys.argv[1:])"


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("traces") / "tiny.trace.jsonl"
    run = minivllm("trace", "record", "tiny-pressure", "-o", str(path))
    assert run.returncode == 0, run.stderr
    return path


def minivllm(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "minivllm", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=240,
        cwd=ROOT,
    )


# --- traces, without torch -----------------------------------------------------------------------


def test_recording_replaying_and_counting_need_no_torch(
    tmp_path: Path, python_without: RunPython
) -> None:
    path = str(tmp_path / "tiny.trace.jsonl")
    assert python_without(CLI, "trace", "record", "tiny-pressure", "-o", path).returncode == 0
    told = python_without(CLI, "replay", path)
    assert told.returncode == 0, told.stderr
    assert "r4 is preempted: r3 needs 1 block, 0 are free, r4 came last" in told.stdout
    counted = python_without(CLI, "trace", "stats", path).stdout
    assert "preemptions" in counted and "17" in counted


def test_replay_tells_each_step_of_the_range(recording: Path) -> None:
    told = minivllm("replay", str(recording), "--from", "5", "--to", "8").stdout.splitlines()
    steps = [line.split()[0] for line in told[1:] if not line.strip().startswith("also:")]
    assert steps == ["5", "6", "7", "8"]


def test_what_the_system_refuses_is_one_line(recording: Path, tmp_path: Path) -> None:
    run = minivllm("trace", "schema", "-o", str(tmp_path / "nowhere" / "x"))
    assert (run.returncode, len(run.stderr.splitlines())) == (1, 1)
    assert str(tmp_path) in run.stderr and "No such file" in run.stderr
    if Path("/dev/full").exists():
        with open("/dev/full", "w") as full:
            command = [sys.executable, "-m", "minivllm", "replay", str(recording)]
            told = subprocess.run(
                command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT, timeout=60
            )
        assert (told.returncode, told.stderr) == (1, "minivllm: writing: No space left on device\n")


def test_the_engines_flags_override_the_scenarios_knobs(tmp_path: Path) -> None:
    path = tmp_path / "roomy.jsonl"
    run = minivllm("trace", "record", "tiny-pressure", "--num-kv-blocks", "64", "-o", str(path))
    assert run.returncode == 0, run.stderr
    kinds = {event.kind for event in read_trace(path).events}
    assert "req.preempt" not in kinds and "kv.evict" not in kinds


def test_cat_prints_the_events_asked_for(recording: Path) -> None:
    lines = minivllm("trace", "cat", str(recording), "--kind", "sched.victim").stdout.splitlines()
    assert len(lines) == 1
    step, _, kind, req, fields = lines[0].split(maxsplit=4)
    assert (step, kind, req) == ("8", "sched.victim", "r4")
    assert json.loads(fields)["for"] == "r3"


def test_a_reader_that_goes_away_is_no_error(recording: Path) -> None:
    command = f"{sys.executable} -m minivllm trace cat {recording} | head -1"
    run = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=ROOT)
    assert len(run.stdout.splitlines()) == 1
    assert run.stderr == ""


def test_schema_is_json(tmp_path: Path) -> None:
    assert "sched.victim" in json.dumps(json.loads(minivllm("trace", "schema").stdout))


# --- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["replay", "no-such-file"], 1, "cannot read the trace no-such-file"),
        (["trace", "record", "no-such-scenario"], 1, "shipped: "),
        (["generate", "x", "--block-size", "0"], 2, "block_size: got 0; allowed"),
        (["generate", "x", "--temperature", "-1"], 2, "temperature must be"),
        (["generate", "x", "--kv-cache-memory", "much"], 2, "512MiB"),
        (["generate", "x", "--model", "gpt-900"], 1, "smollm2-135m"),
        (["generate", "x", "--max-num-sequences", "3"], 2, "--max-num-seqs"),
        (["generate"], 1, "no prompt"),
        (["serve", "--host", "nope.invalid"], 2, "--host: got 'nope.invalid'; allowed: a name or"),
        (["serve", "--host", "192.0.2.1"], 2, "--host: got '192.0.2.1'; allowed: an address of"),
        (["view", "no-such-file"], 1, "no-such-file: no such trace file"),
        (["view", "README.md"], 1, "README.md"),
        (["serve", "--port", "70000"], 2, "--port: got 70000; allowed: 0 (any free one) to 65535"),
    ],
)
def test_an_error_is_one_line_with_a_status(arguments: list[str], status: int, says: str) -> None:
    run = minivllm(*arguments)
    assert run.returncode == status, run.stderr
    assert says in run.stderr
    assert "Traceback" not in run.stderr


def test_standard_input_that_is_no_text_is_told_in_one_line(tiny_model: Path) -> None:
    """Prompts are read before the model is loaded, the lines of a chat after."""
    for command in (["generate"], ["chat", "--model", str(tiny_model), "--num-kv-blocks", "64"]):
        run = subprocess.run(
            [sys.executable, "-m", "minivllm", *command],
            input=b"caf\xe9\n",
            capture_output=True,
            timeout=240,
            cwd=ROOT,
            env={**os.environ, "PYTHONIOENCODING": "utf-8:strict"},
        )
        said = run.stderr.decode()
        assert run.returncode == 1 and "Traceback" not in said
        assert "standard input is not utf-8 text: it holds the byte 0xe9" in said


@pytest.mark.parametrize("command", ["generate hello", "chat", "serve --port 0"])
def test_without_the_engine_extra_the_command_says_so_in_one_sentence(
    command: str, python_without: RunPython
) -> None:
    run = python_without(CLI, *command.split())
    assert run.returncode == 2
    last = run.stderr.strip().splitlines()[-1]
    assert "minivllm[engine]" in last
    assert "Traceback" not in run.stderr


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(1)
        yield server.getsockname()[1]


@pytest.mark.parametrize("command", ["serve", "demo --no-browser", "view --no-browser"])
def test_a_taken_port_says_what_to_do(command: str, taken_port: int) -> None:
    run = minivllm(*command.split(), "--port", str(taken_port))
    assert run.returncode == 2
    assert f"try --port {taken_port + 1}" in run.stderr
    assert "in use" in run.stderr and "Traceback" not in run.stderr


# --- demo ----------------------------------------------------------------------------------------


def first_line(process: subprocess.Popen[str], mark: str) -> str:
    """The first line of stderr that contains ``mark``."""
    assert process.stderr is not None
    seen = []
    for line in process.stderr:
        seen.append(line)
        if mark in line:
            return line
    raise AssertionError(f"{mark!r} was not printed: {''.join(seen)}")


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_the_demo_opens_without_torch_and_ctrl_c_ends_it(sign: signal.Signals) -> None:
    """The recording is served by the base package alone."""
    block = f"import sys; sys.modules.update(dict.fromkeys({ENGINE_PACKAGES!r}))\n"
    process = subprocess.Popen(
        [sys.executable, "-c", block + CLI, "demo", "--no-browser", "--no-live", "--port", "0"],
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    try:
        line = first_line(process, "http://127.0.0.1:")
        url = next(word for word in line.split() if word.startswith("http://"))
        with urllib.request.urlopen(url + "api/runs", timeout=20) as answer:
            runs = json.load(answer)
        assert [run["id"] for run in runs][:2] == ["tiny-pressure", "one-life"]  # the gallery's
        with urllib.request.urlopen(url, timeout=20) as answer:
            assert b"<html" in answer.read().lower()
        process.send_signal(sign)
        _, rest = process.communicate(timeout=30)
        assert process.returncode in (0, 130)
        assert "Traceback" not in rest
    finally:
        process.kill()


def test_view_shows_the_traces_it_is_given_without_torch(recording: Path, tmp_path: Path) -> None:
    packed = tmp_path / "Mine.trace.jsonl.gz"
    packed.write_bytes(gzip.compress(recording.read_bytes()))
    block = f"import sys; sys.modules.update(dict.fromkeys({ENGINE_PACKAGES!r}))\n"
    process = subprocess.Popen(
        [sys.executable, "-c", block + CLI, "view", "--no-browser", "--port", "0"]
        + [str(packed), "tiny-pressure"],
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    try:
        line = first_line(process, "http://127.0.0.1:")
        url = next(word for word in line.split() if word.startswith("http://"))
        with urllib.request.urlopen(url + "api/runs", timeout=20) as answer:
            runs = [run["id"] for run in json.load(answer) if not run["lesson"]]
            assert runs == ["mine", "tiny-pressure"]
        with urllib.request.urlopen(url + "api/runs/mine/events?from=1&to=9", timeout=20) as answer:
            assert [event["seq"] for event in json.load(answer)] == list(range(1, 10))
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=30)
        assert process.returncode in (0, 130)
        assert "Traceback" not in rest
    finally:
        process.kill()


# --- the whole model -----------------------------------------------------------------------------


@pytest.mark.model
def test_generate_prints_the_text_and_writes_a_trace(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    run = minivllm(
        *("generate", "The capital of France is", "--max-tokens", "6"),
        *("--trace", str(path), "--trace-level", "sampling"),
    )
    assert run.returncode == 0, run.stderr
    assert "Paris" in run.stdout
    assert "6 output tokens" in run.stderr
    assert minivllm("replay", str(path)).stdout.count("decodes") >= 1
    sampled = minivllm("trace", "cat", str(path), "--kind", "sample").stdout.splitlines()
    first = json.loads(sampled[0].split(maxsplit=5)[5])["rows"][0]
    assert [likely["text"] for likely in first["before"]][:1] == [" Paris"] == [first["text"]]
    assert first["after"] == [{"token_id": first["token_id"], "text": " Paris", "probability": 1.0}]


@pytest.mark.model
def test_serve_has_the_endpoint_and_the_dashboard_on_one_port() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "minivllm", "serve", "--port", "0", "--api-key", "secret"]
        + ["--max-model-len", "256", "--num-kv-blocks", "64", "--served-model-name", "small"],
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    try:
        line = first_line(process, "API http://")
        base = line.split()[1].removesuffix("/v1")
        with urllib.request.urlopen(f"{base}/", timeout=20) as answer:
            assert b"<html" in answer.read().lower()
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"{base}/v1/models", timeout=20)
        asked = urllib.request.Request(
            f"{base}/v1/completions",
            data=json.dumps({"prompt": "One, two, three,", "max_tokens": 2}).encode(),
            headers={"Authorization": "Bearer secret", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(asked, timeout=120) as answer:
            assert json.load(answer)["model"] == "small"
        # The page's data are the prompts and the answers: with a key set they need the code.
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(f"{base}/api/runs", timeout=20)
        code = line.split("?code=")[1].split()[0]
        joined = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        joined.open(f"{base}/?code={code}", timeout=20).close()
        with joined.open(f"{base}/api/runs", timeout=20) as answer:
            assert [run["id"] for run in json.load(answer) if not run["lesson"]] == ["live"]
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=60)
        assert process.returncode == 0
        assert "Traceback" not in rest
    finally:
        process.kill()


@pytest.mark.model
def test_chat_reads_lines_and_reuses_the_conversation() -> None:
    run = minivllm("chat", "--max-tokens", "8", stdin="Hello\nAnd you?\n")
    assert run.returncode == 0, run.stderr
    counted = [line for line in run.stderr.splitlines() if "from the prefix cache" in line]
    assert len(counted) == 2
    reused = [int(line.split(" · ")[1].split(" of ")[0]) for line in counted]
    assert reused[0] == 0 and reused[1] > 0
