"""The offline entry, on a core that says what it is told to."""

from __future__ import annotations

import pytest

from minivllm import LLM, SamplingParams
from minivllm.errors import EngineDeadError, PromptError, SamplingParamsError
from minivllm.trace.events import Reason
from tests.serve.fakes import EOS, FakeClient, FakeTokenizer

TOKENIZER = FakeTokenizer()


@pytest.fixture
def client():
    client = FakeClient("Hello world")
    yield client
    client.shutdown()


@pytest.fixture
def llm(client):
    return LLM.from_parts(client, TOKENIZER)


def generate(llm, prompts, params=None):
    return llm.generate(prompts, params, use_tqdm=False)


def echo(request):
    """Says its own prompt."""
    return request.prompt_token_ids


def test_one_prompt_gives_a_list_with_one_output(llm):
    (output,) = generate(llm, "ab")
    assert output.prompt == "ab"
    assert output.prompt_token_ids == [97, 98]
    assert output.finished
    (sample,) = output.outputs
    assert sample.text == "Hello world"
    assert sample.token_ids == [256, 257, EOS]
    assert (sample.finish_reason, sample.stop_reason) == ("stop", None)


def test_outputs_come_in_the_order_of_the_prompts():
    client = FakeClient(echo)
    prompts = ["aaa", {"prompt_token_ids": [98]}, {"prompt": "cc"}]
    outputs = generate(LLM.from_parts(client, TOKENIZER), prompts)
    assert [o.outputs[0].text for o in outputs] == ["aaa", "b", "cc"]


def test_no_prompts_give_no_outputs(llm):
    assert generate(llm, []) == []


def test_each_prompt_may_have_its_own_params():
    client = FakeClient("abcdef")
    llm = LLM.from_parts(client, TOKENIZER)
    params = [SamplingParams(max_tokens=1), SamplingParams(max_tokens=3)]
    assert [o.outputs[0].text for o in generate(llm, ["x", "y"], params)] == ["a", "abc"]


def test_params_of_another_number_than_prompts_are_refused(llm):
    with pytest.raises(SamplingParamsError, match="one for each of the 3 prompts, got '2 of them'"):
        generate(llm, ["a", "b", "c"], [SamplingParams()] * 2)


@pytest.mark.parametrize("bad", ["high", 1.0, True, None, 2**63])
def test_a_priority_that_is_no_whole_number_is_refused_before_anything_runs(llm, client, bad):
    with pytest.raises(SamplingParamsError, match="priority must be a whole number"):
        llm.generate(["a", "b"], use_tqdm=False, priority=[0, bad])
    assert client.requests == []


@pytest.mark.parametrize("prompts", [None, 7, b"ab"])
def test_prompts_of_another_type_are_refused(llm, prompts):
    with pytest.raises(PromptError, match=f"prompts must be .*got {type(prompts).__name__}"):
        generate(llm, prompts)


@pytest.mark.parametrize("params", [{"n": 1}, "x", "xy", [None, None], [], 7, [{"n": 1}] * 2])
def test_params_of_another_type_are_refused_before_anything_runs(llm, client, params):
    with pytest.raises(SamplingParamsError, match=r"sampling_params must be .*got"):
        generate(llm, ["a", "b"], params)
    assert client.requests == []


def test_a_list_of_ids_is_refused_with_a_hint(llm):
    with pytest.raises(PromptError, match=r"prompts\[0\].*prompt_token_ids"):
        generate(llm, [[1, 2, 3]])


def test_a_bad_prompt_among_good_ones_sends_nothing(llm, client):
    with pytest.raises(PromptError, match="empty"):
        generate(llm, ["a", "", "c"])
    assert client.requests == []
    assert generate(llm, "a")[0].outputs[0].text == "Hello world"


def test_a_stop_string_aborts_the_request_in_the_core(llm, client):
    (output,) = generate(llm, "a", SamplingParams(stop=["lo w"], max_tokens=40))
    assert output.outputs[0].text == "Hel"
    assert output.outputs[0].stop_reason == "lo w"
    assert client.aborted == [("0", Reason.STOP_STRING)]


def test_n_outputs_of_one_prompt(llm, client):
    (output,) = generate(llm, "a", SamplingParams(n=3, seed=5))
    assert [s.index for s in output.outputs] == [0, 1, 2]
    assert [r.sampling_params.seed for r in client.requests] == [5, 6, 7]


def test_logprobs_and_cached_tokens_come_through(llm, client):
    client.cached_tokens = 4
    (output,) = generate(llm, "a", SamplingParams(logprobs=1, max_tokens=2))
    assert output.num_cached_tokens == 4
    assert [next(iter(row)) for row in output.outputs[0].logprobs] == [256, 257]
    assert output.outputs[0].cumulative_logprob == -3.0


def test_chat_takes_one_conversation_or_many():
    llm = LLM.from_parts(FakeClient(echo), TOKENIZER)
    conversation = [{"role": "user", "content": "a"}]
    (one,) = llm.chat(conversation, SamplingParams(ignore_eos=True), use_tqdm=False)
    assert one.prompt.startswith("<|im_start|>user: a")
    many = llm.chat([conversation, [{"role": "user", "content": "b"}]], use_tqdm=False)
    assert [o.prompt[:20] for o in many] == ["<|im_start|>user: a<", "<|im_start|>user: b<"]


@pytest.mark.parametrize("messages", [[], "hello", None])
def test_chat_refuses_what_is_no_conversation(llm, messages):
    with pytest.raises(PromptError, match="messages"):
        llm.chat(messages, use_tqdm=False)


def test_ctrl_c_aborts_what_is_open_and_leaves_the_llm_usable(llm, client, monkeypatch):
    def interrupt(timeout=None):
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(client, "get_output", interrupt)
    with pytest.raises(KeyboardInterrupt):
        generate(llm, ["a", "b"])
    assert client.aborted_ids == ["0", "1"]
    assert generate(llm, "c")[0].outputs[0].text == "Hello world"


def test_a_dead_engine_ends_the_wait():
    client = FakeClient(paused=True)
    llm = LLM.from_parts(client, TOKENIZER)
    client.die("boom")
    with pytest.raises(EngineDeadError):
        generate(llm, "a")


def test_a_request_that_fails_alone_says_so_and_the_others_go_on():
    client = FakeClient(paused=True)
    llm = LLM.from_parts(client, TOKENIZER)
    add = client.add_request

    def add_and_fail(request):
        add(request)
        if request.request_id == "0":
            client.fail("0", "NaN logits")
        else:
            client.allow()

    client.add_request = add_and_fail
    failed, fine = generate(llm, ["a", "b"])
    assert failed.outputs[0].finish_reason == "error"
    assert failed.outputs[0].stop_reason == "NaN logits"
    assert fine.outputs[0].text == "Hello world"


def test_the_progress_bar_counts_requests(llm, capsys):
    llm.generate(["a", "b"])
    assert "2/2" in capsys.readouterr().err


def test_leaving_the_context_shuts_the_engine_down(client):
    with LLM.from_parts(client, TOKENIZER) as llm:
        generate(llm, "a")
    assert client.down


def test_priorities_travel_with_the_requests(llm, client):
    llm.generate(["a", "b"], use_tqdm=False, priority=[3, 1])
    assert [r.priority for r in client.requests] == [3, 1]
