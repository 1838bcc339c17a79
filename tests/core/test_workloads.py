"""Workloads: templates become requests, always the same; a fault is named with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from minivllm.core.interfaces import Shortage
from minivllm.errors import ConfigError, ScenarioError
from minivllm.models.source import ModelSource
from minivllm.scenario import END_TOKEN, Scenario, ScenarioRequest, load_scenario, start
from minivllm.scenario_file import SCENARIO_DIR, made_up_ids, shipped_scenarios
from tests.helpers import trace_of

WORKLOADS = (
    "chat-burst",
    "long-prompt",
    "memory-pressure",
    "mixed-lengths",
    "poisson-arrivals",
    "shared-system-prompt",
)
HEAD = 'name = "w"\n[engine]\nnum_kv_blocks = 65\nblock_size = 4\n'


def load(tmp_path: Path, text: str, name: str = "w.toml") -> Scenario:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return load_scenario(str(path))


def test_template_becomes_requests_with_lengths_in_turn(tmp_path: Path) -> None:
    table = "count = 5\nevery = 3\narrives = 2\nprompt_tokens = [4, 9]\noutput_tokens = [1, 2, 3]\n"
    requests = load(tmp_path, f"{HEAD}[[request]]\n{table}").request
    assert [r.arrives for r in requests] == [2, 5, 8, 11, 14]
    assert [len(r.prompt_token_ids) for r in requests] == [4, 9, 4, 9, 4]
    assert [r.output_tokens for r in requests] == [1, 2, 3, 1, 2]
    assert len({tuple(r.prompt_token_ids) for r in requests}) == 5, "no two prompts are the same"


def test_shared_prefix_is_the_same_in_all_tables_and_is_hit(tmp_path: Path) -> None:
    table = "[[request]]\narrives = {}\nprompt_tokens = {}\nshared_prefix = 8\noutput_tokens = 1\n"
    scenario = load(tmp_path, HEAD + table.format(1, 10) + table.format(2, 13))
    first, second = (r.prompt_token_ids for r in scenario.request)
    assert first[:8] == second[:8] and first[8:] != second[8:10]
    admitted = [e for e in trace_of(start(scenario).run()).events if e.kind == "req.admit"]
    assert [e.data.hit for e in admitted] == [0, 8]


def test_made_up_ids_are_the_same_on_every_machine() -> None:
    assert made_up_ids("request 1", 4) == [28037, 25834, 12968, 25435]


def test_poisson_draws_the_same_steps_for_a_seed(tmp_path: Path) -> None:
    text = HEAD + "[poisson]\nrate = {}\nseed = {}\n[[request]]\ncount = 200\n"
    text += "prompt_tokens = 1\noutput_tokens = 1\n"

    def steps(rate: float, seed: int) -> list[int]:
        return [r.arrives for r in load(tmp_path, text.format(rate, seed)).request]

    assert steps(0.5, 1) == steps(0.5, 1) != steps(0.5, 2)
    assert steps(0.5, 1)[0] == 1
    assert 300 < steps(0.5, 1)[-1] < 500, "200 arrivals, one in two steps"
    assert 30 < steps(5, 1)[-1] < 50


def test_jsonl_is_one_request_a_line(tmp_path: Path) -> None:
    lines = (
        '{"title": "t", "engine": {"num_kv_blocks": 9, "block_size": 4}}\n'
        '{"arrives": 2, "prompt_tokens": 3, "output_tokens": 2}\n\n'
        '{"arrives": 1, "prompt_token_ids": [5, 6], "output_tokens": 1}\n'
    )
    scenario = load(tmp_path, lines, "two.jsonl")
    assert (scenario.name, scenario.title) == ("two", "t")
    assert [r.arrives for r in scenario.request] == [1, 2]
    assert start(scenario).run().core.scheduler.current_step == 3


def test_request_below_its_limit_ends_by_eos() -> None:
    request = ScenarioRequest(arrives=1, prompt_token_ids=[7] * 4, output_tokens=3, max_tokens=40)
    knobs = {
        "num_kv_blocks": 33,
        "block_size": 4,
        "enable_prefix_caching": False,
        "kv_manager_cls": "contiguous",
        "contiguous_reserve": "request",
    }
    trace = trace_of(start(Scenario(name="w", engine=knobs, request=[request])).run())
    of = {event.kind: event.data for event in trace.events}
    assert of["req.finish"].reason == "stop" and of["req.finish"].output_tokens == 3
    assert of["req.token"].token_id == END_TOKEN
    assert len(of["kv.reserve"].blocks) == 11, "the limit is what is set aside: 44 tokens"


def test_text_is_stood_in_for_where_no_model_reads_it(tmp_path: Path) -> None:
    table = '[[request]]\narrives = 1\nprompt = "Hi"\nprompt_tokens = 6\noutput_tokens = 1\n'
    scenario = load(tmp_path, HEAD + table)
    assert scenario.request[0].prompt == "Hi" and not scenario.request[0].needs_model
    arrived = next(e for e in trace_of(start(scenario).run()).events if e.kind == "req.arrive")
    assert len(arrived.data.prompt_token_ids) == 6


def test_flag_overrides_a_knob_that_the_file_calls_by_vllms_name(tmp_path: Path) -> None:
    text = HEAD + 'scheduling_policy = "priority"\n[[request]]\n' + GOOD
    scenario = load(tmp_path, text)
    assert start(scenario).config.scheduler.policy == "priority"
    assert start(scenario, policy="fcfs").config.scheduler.policy == "fcfs"


GOOD = "arrives = 1\nprompt_tokens = 4\noutput_tokens = 2\n"


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (GOOD.replace("= 1", "= 1000000000000"), "arrives = 1000000000000; at the latest in step"),
        (GOOD + "count = 3\nevery = 600000", "arrives = 1, count = 3, every = 600000; at the"),
        (GOOD.replace("arrives = 1\n", ""), r"request 1: needs arrives.*\[poisson\]"),
        (GOOD + "count = 0", "request 1: count = 0; at least 1"),
        (GOOD + "every = -1", "request 1: every = -1; at least 0"),
        (GOOD + "count = 2\nshared_prefix = 5", "shared_prefix = 5 are the first of prompt_tokens"),
        (GOOD + "shared_prefix = -1", "shared_prefix = -1; at least 0"),
        (GOOD + 'prompt = "x"\nshared_prefix = 1\ncoun = 2', "unknown field `coun`.*count, every"),
        (GOOD.replace("= 4", "= []"), "prompt_tokens is an empty list"),
        (GOOD.replace("= 4", "= [4, 0]") + "count = 2", "prompt_tokens = 0; at least 1"),
        (GOOD.replace("= 4", "= [4, 5]"), "2 prompt_tokens for count = 1; raise count"),
        (GOOD.replace("= 4", '= "4"'), "got `str` - in request 1, field `prompt_tokens`"),
        (GOOD + "max_tokens = 1", "max_tokens = 1 is less than output_tokens"),
        (GOOD + "prompt_token_ids = [1]", "give the ids, or their number"),
        (GOOD + "count = 200000", "more than 100000 requests"),
        (GOOD.replace("= 4", "= 20000000"), "more than 10000000 prompt tokens"),
        (GOOD + "[poisson]\nrate = 0", r"\[poisson\] rate = 0.0; requests a step, 0.001"),
        (GOOD + "[poisson]\nrate = nan", r"\[poisson\] rate = nan"),
        (GOOD.replace("arrives = 1", "every = 2") + "[poisson]\nrate = 1", "every = 2 needs arr"),
    ],
)
def test_malformed_template_is_named(tmp_path: Path, table: str, message: str) -> None:
    with pytest.raises(ScenarioError, match=f"(?s)w.toml.*{message}"):
        load(tmp_path, f"{HEAD}[[request]]\n{table}")


LINE = '{"arrives": 1, "prompt_tokens": 40, "output_tokens": 10}'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no request; a workload needs one a line"),
        ("{", "line 1: not JSON"),
        ('{"engine": {}}\n[1]', "line 2: Expected `object`, got `array`"),
        ('{"arrives": 1}', r"line 1: Object missing required field `output_tokens`"),
        ('{"enginee": {}}', "line 1: .*`output_tokens`|unknown field `enginee`"),
        ('{"name": 3}', "line 1: Expected `str`, got `int`"),
        ('{"name": "a"}\n\n{"title": "b"}', "line 3: no request, and line 1 says name"),
        (
            '{"arrives": 1, "arrives": 2, "output_tokens": 1}',
            "line 1: 'arrives' stands there twice",
        ),
        ("[" * 100_000, "line 1: nested too deep"),
        ('{"engine": {"block_size": ' + "[" * 3000 + "]" * 3000 + "}}", "line 1: nested too deep"),
        ('{"engine": {"block_size": [4]}}\n' + LINE, r"line 1: \[engine\] block_size is a list"),
        ('{"arrives": 0, "prompt_tokens": 1, "output_tokens": 1}', "line 1: arrives = 0; steps"),
    ],
)
def test_malformed_jsonl_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ScenarioError, match=rf"w\.jsonl.*({message})"):
        load(tmp_path, text, "w.jsonl")


def test_the_first_workload_of_ones_own_needs_no_knobs(tmp_path: Path) -> None:
    core = start(load(tmp_path, LINE, "w.jsonl")).run().core
    assert core.scheduler.current_step == 10
    assert core.num_kv_blocks == 1 + 2 * 8192 // 16


def test_a_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    for name, text in (("w.toml", f"{HEAD}[[request]]\n{GOOD}"), ("w.jsonl", LINE)):
        assert len(load(tmp_path, "\ufeff" + text, name).request) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD + f"[[request]]\n{GOOD}\n[[request]]\n{GOOD}count = 0", "line 10, request 2: count"),
        (
            HEAD + f"[[request]]\n{GOOD}\n[[request]]\narrives = 1",
            "line 10: .*`output_tokens` - in re",
        ),
        ('name = "w"\nrequest = []', "no request"),
        (HEAD + "x = " + "[" * 5000, "nested too deep"),
        (
            HEAD + f"[[request]]\n{GOOD.replace('= 1', '= 999999999999')}",
            "line 5, request 1: arrives",
        ),
        (
            HEAD + f"[poisson]\nrate = 0.001\n[[request]]\n{GOOD[12:]}count = 3000",
            r"comes in step \d+; at the latest in step 1000000",
        ),
    ],
)
def test_a_fault_in_toml_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ScenarioError, match=rf"w\.toml.*{message}"):
        load(tmp_path, text)


def test_a_wrong_knob_is_named_with_its_line_unless_a_flag_is_wrong(tmp_path: Path) -> None:
    text = HEAD.replace("block_size = 4", "block_sice = 4") + f"[[request]]\n{GOOD}"
    with pytest.raises(ScenarioError, match=r"w\.toml, line 4, \[engine\]: block_sice"):
        start(load(tmp_path, text))
    lines = '{"engine": {"block_size": 0}}\n' + LINE
    with pytest.raises(ScenarioError, match=r"w\.jsonl, line 1, \[engine\]: block_size: got 0"):
        start(load(tmp_path, lines, "w.jsonl"))
    with pytest.raises(ConfigError, match=r"^block_size: got -1"):
        start(load(tmp_path, lines, "w.jsonl"), block_size=-1)


def test_an_honest_run_may_take_long(tmp_path: Path) -> None:
    table = "[[request]]\narrives = {}\nprompt_tokens = 4\noutput_tokens = 2\n"
    scenario = load(tmp_path, HEAD + table.format(1) + table.format(20_000))
    assert start(scenario).run().core.scheduler.current_step == 20_001


def test_a_run_that_gets_stuck_is_ended(tmp_path: Path) -> None:
    run = start(load(tmp_path, f"{HEAD}[[request]]\n{GOOD}"))
    run.core.kv.shortage = lambda *_: Shortage(1, 0)  # type: ignore[method-assign]
    with pytest.raises(ScenarioError, match=r"w has got stuck: no token in the 10004 steps.*r1"):
        run.run()


@pytest.mark.parametrize("name", shipped_scenarios())
def test_what_the_page_offers_runs_without_a_model(name: str) -> None:
    assert not any(request.needs_model for request in load_scenario(name).request)
    assert not start(load_scenario(name)).run().failures


def test_six_workloads_are_shipped_and_run_without_a_model() -> None:
    assert set(WORKLOADS) <= set(shipped_scenarios())
    for name in WORKLOADS:
        scenario = load_scenario(name)
        assert not any(request.needs_model for request in scenario.request)
        done = start(scenario).run().core.scheduler
        assert not done.requests and done.current_step > 30
        assert "minivllm compare" in (SCENARIO_DIR / f"{name}.toml").read_text(), "says what to try"


@pytest.mark.model
def test_stand_ins_are_as_long_as_the_texts(smollm2: ModelSource) -> None:
    """So a workload's steps are the same with the model and without."""
    from minivllm.tokenizer import get_tokenizer

    encode = get_tokenizer(smollm2).encode
    texts = [
        request
        for name in shipped_scenarios()
        for request in load_scenario(name).request
        if request.prompt and request.stand_in_ids
    ]
    assert texts
    for request in texts:
        assert len(encode(request.prompt or "")) == len(request.stand_in_ids), request.prompt


@pytest.mark.model
def test_on_the_model_a_caller_goes_away_where_the_output_is_to_end(smollm2: ModelSource) -> None:
    from minivllm.executor.uniproc import UniprocExecutor
    from minivllm.tokenizer import get_tokenizer

    requests = [
        ScenarioRequest(arrives=1, prompt="Hello! Who are you?", output_tokens=2, max_tokens=9),
        ScenarioRequest(arrives=1, prompt_token_ids=made_up_ids("x", 5), output_tokens=4),
    ]
    run = start(
        Scenario(name="w", engine={"num_kv_blocks": 9}, request=requests),
        executor=UniprocExecutor,
        tokenizer=get_tokenizer(smollm2),
    ).run()
    ends = {e.req: e.data for e in trace_of(run).events if e.kind == "req.finish"}
    assert (ends["r1"].reason, ends["r1"].output_tokens) == ("abort", 2)
    assert (ends["r2"].reason, ends["r2"].output_tokens) == ("length", 4)


def test_ids_that_the_model_does_not_know_are_named() -> None:
    class Small:
        vocab_size, eos_token_id = 256, 0

        def encode(self, text: str) -> list[int]:
            return [1]

        def text_after(self, *context: object) -> str:
            return "?"

    from minivllm.executor.scripted import ScriptedExecutor

    scenario = load_scenario("mixed-lengths")
    run = start(scenario, executor=ScriptedExecutor, tokenizer=Small())
    with pytest.raises(ScenarioError, match=r"mixed-lengths has token id .* knows 256 tokens"):
        run.run()
