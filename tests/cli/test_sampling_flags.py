"""The flags of sampling reach the engine, from every command that has them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from minivllm.cli.main import app
from minivllm.engine.async_llm import AsyncLLM
from minivllm.engine.llm import LLM
from minivllm.sampling_params import SamplingParams
from minivllm.structured_output.params import StructuredOutputsParams
from tests.serve.fakes import FakeClient, FakeTokenizer

FLAGS: dict[str, tuple[list[str], Any]] = {
    "max_tokens": (["--max-tokens", "7"], 7),
    "temperature": (["--temperature", "0.5"], 0.5),
    "top_p": (["--top-p", "0.9"], 0.9),
    "top_k": (["--top-k", "5"], 5),
    "min_p": (["--min-p", "0.1"], 0.1),
    "presence_penalty": (["--presence-penalty", "-1"], -1.0),
    "frequency_penalty": (["--frequency-penalty", "0.5"], 0.5),
    "repetition_penalty": (["--repetition-penalty", "1.2"], 1.2),
    "logit_bias": (["--logit-bias", "5=-100", "--logit-bias", "6=1.5"], {5: -100.0, 6: 1.5}),
    "allowed_token_ids": (["--allowed-token-ids", "5", "--allowed-token-ids", "6"], [5, 6]),
    "bad_words": (["--bad-words", "ing", "--bad-words", "the"], ["ing", "the"]),
    "min_tokens": (["--min-tokens", "2"], 2),
    "stop": (["--stop", "x", "--stop", "y"], ["x", "y"]),
    "stop_token_ids": (["--stop-token-ids", "3"], [3]),
    "ignore_eos": (["--ignore-eos"], True),
}


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeClient]:
    client = FakeClient("Hello")
    monkeypatch.setattr("minivllm.LLM", lambda **_: LLM.from_parts(client, FakeTokenizer()))
    monkeypatch.setattr(
        "minivllm.engine.async_llm.AsyncLLM",
        lambda _: AsyncLLM.from_parts(client, FakeTokenizer()),
    )
    yield client
    client.shutdown()


def asked(client: FakeClient, command: str, *arguments: str) -> SamplingParams:
    given = [command, "a"] if command == "generate" else [command]
    run = CliRunner().invoke(app, [*given, *arguments], input="a\n")
    assert run.exit_code == 0, run.output
    return client.requests[-1].sampling_params


@pytest.mark.parametrize("command", ["generate", "chat"])
def test_each_flag_sets_its_parameter(client: FakeClient, command: str) -> None:
    arguments = [argument for given, _ in FLAGS.values() for argument in given]
    params = asked(client, command, *arguments)
    assert {name: getattr(params, name) for name in FLAGS} == {
        name: value for name, (_, value) in FLAGS.items()
    }


@pytest.mark.parametrize(("command", "max_tokens"), [("generate", 64), ("chat", 256)])
def test_without_flags_it_is_greedy(client: FakeClient, command: str, max_tokens: int) -> None:
    room = 64 - len(FakeTokenizer().encode_chat([{"role": "user", "content": "a"}]))
    params = asked(client, command)
    assert params.max_tokens == min(max_tokens, room if command == "chat" else 63)
    assert params == SamplingParams(max_tokens=params.max_tokens, temperature=0.0)


def test_every_parameter_has_a_flag_or_a_reason_to_have_none() -> None:
    without = {
        "n",  # of `generate` alone
        "seed",  # --seed is the run's
        "bad_words_token_ids",  # --bad-words makes them
        "logprobs",  # the commands print text
        "prompt_logprobs",
        "include_stop_str_in_output",
        "skip_special_tokens",
        "structured_outputs",  # a flag for each form, see below
    }
    assert set(SamplingParams.__struct_fields__) - set(FLAGS) == without


def test_n_outputs_are_printed_with_their_numbers(client: FakeClient) -> None:
    run = CliRunner().invoke(app, ["generate", "a", "-n", "2", "--temperature", "1"])
    assert run.stdout.splitlines() == ["── output 0", "Hello", "── output 1", "Hello"]


@pytest.mark.parametrize("bias", ["5", "five=1", "5=", "5=much", "=1"])
def test_a_bias_that_is_none_is_refused_with_an_example(client: FakeClient, bias: str) -> None:
    run = CliRunner().invoke(app, ["generate", "a", "--logit-bias", bias])
    assert run.exit_code != 0 and not client.requests
    assert "ID=BIAS" in str(run.exception) and repr(bias) in str(run.exception)


@pytest.mark.parametrize(
    ("arguments", "form"),
    [
        (["--json-schema", "FILE"], {"json": '{"type": "null"}'}),
        (["--json-object"], {"json_object": True}),
        (["--regex", "a+"], {"regex": "a+"}),
        (["--choice", "a", "--choice", "b"], {"choice": ["a", "b"]}),
        (["--grammar", "FILE"], {"grammar": 'root ::= "a"'}),
    ],
)
def test_a_flag_for_each_form(
    client: FakeClient, tmp_path: Path, arguments: list[str], form: dict[str, Any]
) -> None:
    path = tmp_path / "form"
    path.write_text(str(form.get("json") or form.get("grammar")))
    given = [str(path) if argument == "FILE" else argument for argument in arguments]
    params = asked(client, "generate", *given)
    assert params.structured_outputs == StructuredOutputsParams(**form)


@pytest.mark.parametrize(
    "arguments",
    [["--json-schema", "/no/file"], ["--regex", "(a"], ["--regex", "a", "--json-object"]],
)
def test_a_bad_form_is_an_error_before_anything_runs(
    client: FakeClient, arguments: list[str]
) -> None:
    run = CliRunner().invoke(app, ["generate", "a", *arguments])
    assert run.exit_code != 0 and client.requests == []
