"""The attention lens in a real browser: the model's own weights, on the right blocks.

A small seeded model; what transformers computes for the same tokens, and what ``minivllm trace
tensors`` prints, are the reference. And a step of a live engine is armed from the page.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, Page
from typer.testing import CliRunner

from minivllm.cli.main import app as cli
from minivllm.config import make_config
from minivllm.trace.artifacts import artifact_events
from minivllm.trace.events import Header
from minivllm.trace.file import read_trace
from minivllm.trace.gate import Gate
from minivllm.trace.log import TraceLog
from minivllm.trace.recorder import Recorder
from tests.core.builders import HEADER, Engine
from tests.viz.browser import at_step, open_page, still
from tests.viz.conftest import MakeEngine
from viz import export
from viz.export import Export
from viz.runs import RecordedRun
from viz.server import BoardApp, Server, create_app

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.browser

Serve = Callable[[BoardApp], Server]
LAYERS, HEADS = 3, 4
FIRST = list(range(20, 33))  # 13 tokens; the second begins with 12 of them: three blocks
SECOND = [*FIRST[:12], 50, 51, 52]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any]:
    from tests.model.builders import reference_llama, save_hf

    reference = reference_llama(seed=5)
    return str(save_hf(reference, tmp_path_factory.mktemp("lens")).path), reference


@pytest.fixture(scope="module")
def trace(model: tuple[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both requests with three tokens each; r1's in chunks, so that r2 finds its blocks."""
    from minivllm.executor.uniproc import UniprocExecutor

    path = tmp_path_factory.mktemp("lens-trace") / "lens.jsonl"
    recorder = Recorder(TraceLog(HEADER, str(path)))
    e = Engine(
        executor=lambda config, _: UniprocExecutor(config), trace=recorder, model=model[0],
        level="tensors", num_kv_blocks=64, max_model_len=64, dtype="float32",
        max_num_batched_tokens=16,
    )  # fmt: skip
    e.add("first", FIRST, max_tokens=4, temperature=0.0)
    e.step()
    e.add("second", SECOND, max_tokens=4, temperature=0.0)
    e.run()
    recorder.flush()
    recorder.close()
    return path


@pytest.fixture(scope="module")
def url(trace: Path, tiny_pressure: Path) -> Iterator[str]:
    server = Server(create_app([trace, tiny_pressure]), port=0).start()
    yield server.url
    server.stop()


@pytest.fixture(scope="module")
def page(browser: Browser, url: str) -> Iterator[Page]:
    with open_page(browser) as page:
        page.goto(f"{url}#/run/lens/step/2/req/r2?view=lens")
        at_step(page, 2)
        still(page)
        yield page


def go(page: Page, url: str, place: str, step: int) -> None:
    page.goto(f"{url}#/run/{place}")
    at_step(page, step)
    page.wait_for_selector(".view.lens .key, .lens-missing")


def shown(page: Page) -> list[float]:
    """The weights as they stand in the cells."""
    page.wait_for_selector(".reads[data-state=here] .key")
    told = page.eval_on_selector_all(".key", "cells => cells.map(c => c.dataset.weight)")
    return [float(weight) for weight in told]


def reference_weights(model: Any, token_ids: list[int]) -> np.ndarray:
    """(layers, heads, queries, keys), as transformers computes them."""
    model.set_attn_implementation("eager")
    with torch.no_grad():
        out = model(torch.tensor([token_ids]), output_attentions=True)
    return np.stack([each[0].numpy() for each in out.attentions])


def tokens_of(trace: Path, req: str, step: int) -> list[int]:
    return list(read_trace(trace).state_before(step).requests[req].tokens)


def test_weights_on_the_page_are_those_of_transformers_and_of_the_command(
    page: Page, url: str, trace: Path, model: tuple[str, Any]
) -> None:
    expected = reference_weights(model[1], SECOND)
    go(page, url, "lens/step/2/req/r2?view=lens&layer=2&head=1", 2)
    np.testing.assert_allclose(shown(page), expected[2, 1, -1], atol=1e-3)
    go(page, url, "lens/step/2/req/r2?view=lens&query=13", 2)  # the mean of all
    np.testing.assert_allclose(shown(page), expected[:, :, 13].mean((0, 1)), atol=1e-3)
    step = 3  # a decode: one row
    go(page, url, f"lens/step/{step}/req/r1?view=lens&layer=0&head=3", step)
    tokens = tokens_of(trace, "r1", step)
    np.testing.assert_allclose(
        shown(page), reference_weights(model[1], tokens)[0, 3, -1], atol=1e-3
    )
    assert page.locator("vz-weights").count() == 0
    asked = ["trace", "tensors", str(trace), "--step", str(step), "--req", "r1"]
    told = CliRunner().invoke(cli, [*asked, "--layer", "0", "--head", "3", "--top", "99"]).output
    rows = re.findall(r"^ +([\d.]+)  token +(\d+) ", told, re.MULTILINE)
    printed = [float(weight) for weight, _ in sorted(rows, key=lambda row: int(row[1]))]
    assert shown(page) == pytest.approx(printed, abs=1e-4)


def test_each_key_lies_in_its_block_and_the_blocks_say_whose_work_they_are(
    page: Page, url: str
) -> None:
    go(page, url, "lens/step/2/req/r2?view=lens", 2)
    blocks = page.locator(".cache-block")
    table = page.evaluate("__viz.board.state().requests.r2.table")
    assert blocks.locator(".name b").all_inner_texts() == [str(block) for block in table]
    kinds = [c.split()[1] for c in blocks.evaluate_all("all => all.map(b => b.className)")]
    assert kinds == ["hit"] * 3 + ["now"]
    assert "by r1, step 1" in blocks.first.inner_text() and "×2" in blocks.first.inner_text()
    says = page.inner_text(".reads-what")
    assert says == (
        "It reads 15 tokens in 4 blocks: 3 computed in this step and 12 not at all: "
        "r1 in step 1 had computed them."
    )
    page.locator(".key").nth(5).hover()
    page.wait_for_function(
        "block => __viz.board.focus.hover?.block === block"
        " && __viz.board.focus.hover.req === 'r2' && __viz.board.focus.hover.position === 5",
        arg=table[1],
    )
    detail = page.inner_text(".detail")
    assert f"block {table[1]}, offset 1" in detail and "r1 reads the same physical block" in detail


def test_matrix_and_heads_choose_what_is_read(page: Page, url: str) -> None:
    go(page, url, "lens/step/2/req/r2?view=lens", 2)
    page.wait_for_selector("vz-weights")
    page.wait_for_function("() => document.querySelector('vz-weights').size")
    cell = page.evaluate("document.querySelector('vz-weights').size")
    box = page.locator("vz-weights").bounding_box()
    assert box is not None and cell["height"] <= box["height"] + 1
    page.mouse.click(box["x"] + 36 + 3.5 * cell["w"], box["y"] + 32 + 0.5 * cell["h"])
    page.wait_for_url("**query=12**")
    page.wait_for_selector(".reads[data-state=here]")
    assert page.locator(".key.query").get_attribute("data-position") == "12"
    assert page.locator(".key.later").count() == 2
    page.focus("vz-heads")
    page.keyboard.press("Enter")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    page.wait_for_url("**layer=1&head=1**")
    assert page.evaluate("__viz.board.step") == 2  # the arrows moved in the grid, not in time
    assert "layer 1, head 1 (K/V head 0)" in page.inner_text(".detail")
    page.keyboard.press("Escape")
    page.keyboard.press("ArrowRight")
    at_step(page, 3)


def test_first_token_can_be_left_out_of_the_scale_and_that_is_said(page: Page, url: str) -> None:
    go(page, url, "lens/step/2/req/r2?view=lens&layer=0&head=0&first=out", 2)
    page.wait_for_selector(".key.out")
    assert page.locator(".key.out").count() == 1
    assert "is left out of the scale" in page.inner_text(".scale")

    def shares_are_those_of_the_weights() -> bool:
        styles = page.eval_on_selector_all(".key i", "all => all.map(i => i.getAttribute('style'))")
        shares = [float(style.split("--w:")[1].split("%")[0]) for style in styles]
        weights = shown(page)
        most = max(weights[1:])
        return shares[1:] == pytest.approx([100 * w / most for w in weights[1:]], abs=0.2)

    for _ in range(50):  # the answer for this head may still be on its way
        if shares_are_those_of_the_weights():
            break
        page.wait_for_timeout(100)
    assert shares_are_those_of_the_weights()
    page.click("text=without the first token")
    page.wait_for_url("**first=in**")
    assert page.locator(".key.out").count() == 0


def test_what_is_missing_is_said_with_the_way_to_get_it(page: Page, url: str) -> None:
    go(page, url, "tiny-pressure/step/4/req/r3?view=lens", 4)
    said = page.inner_text(".lens-missing")
    assert "The attention of r3 in step 4 is not here. No step of this run was recorded." in said
    assert "--trace-level tensors" in said
    go(page, url, "tiny-pressure/step/9/req/r4?view=lens", 9)
    said = page.inner_text(".lens-missing")
    assert "No token of r4 ran in step 9: it read nothing. It ran in steps 5, 6, 7, 12" in said
    page.keyboard.press("?")
    page.click("text=Show the Attention lens as tables")
    assert "No token of r4 ran in step 9" in page.inner_text(".tables")
    page.keyboard.press("Escape")


@pytest.mark.parametrize(("theme", "size"), [(0, (1440, 900)), (1, (1024, 768)), (2, (390, 844))])
def test_lens_is_fit_for_all_and_no_wider_than_the_screen(
    browser: Browser, url: str, theme: int, size: tuple[int, int]
) -> None:
    from tests.viz.axe import load_axe, violations

    with open_page(browser, size=size, reduced_motion="reduce") as page:
        page.add_init_script(f"localStorage.setItem('minivllm.theme', '{theme}')")
        page.goto(f"{url}#/run/lens/step/2/req/r2?view=lens&query=13")
        page.wait_for_selector(".reads[data-state=here] .key")
        page.wait_for_selector(".matrix[data-state=here] vz-weights")
        load_axe(page)
        found = violations(page, "lens")
        page.evaluate("__viz.board.focus.choose({ req: 'r2', position: 3 })")
        page.wait_for_selector(".key.looked")
        found += violations(page, "lens, a token chosen")
        assert [each for each in found if "page-has-heading-one" not in each] == []
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


# --- without a server ----------------------------------------------------------------------------


NUMBERS = """async () => {
  const { loadArray, loadLens } = await import('#net/history.js');
  const { run, at } = __viz.board;
  const all = { layer: null, head: null };
  const lens = (what, asked) => loadLens(run, at, 2, 'r2', what, { ...all, ...asked });
  return {
    row: await lens('row', { query: 1 }), one: await lens('row', { layer: 2, head: 3 }),
    heads: await lens('heads', { block: 4 }), matrix: await lens('matrix', { layer: 1, block: 4 }),
    ids: await loadArray(run, at, 2, 'input_ids'), v: await loadArray(run, at, 2, 'v', [2, 0]),
  };
}"""


def numbers(page: Page) -> dict[str, Any]:
    """All that the lens and the drawer can ask for, flattened: name → numbers."""

    def flat(value: Any) -> list[float]:
        if isinstance(value, dict):
            return [n for key in sorted(value) for n in flat(value[key])]
        if isinstance(value, list):
            return [n for each in value for n in flat(each)]
        return [value] if isinstance(value, (int, float)) else []

    return {name: flat(told) for name, told in page.evaluate(NUMBERS).items()}


def same(got: dict[str, Any], due: dict[str, Any]) -> None:
    for name, values in due.items():
        np.testing.assert_allclose(got[name], values, atol=0.006, err_msg=name)


def test_exported_file_and_a_file_opened_with_its_arrays_show_what_the_server_shows(
    browser: Browser, page: Page, url: str, trace: Path, tmp_path: Path
) -> None:
    place = "lens/step/2/req/r2?view=lens&layer=2&head=1"
    go(page, url, place, 2)
    due, weights = numbers(page), shown(page)
    out = tmp_path / "out.html"
    out.write_bytes(b"".join(Export([RecordedRun("lens", trace)]).parts()))
    with open_page(browser, offline=True) as alone:
        alone.goto(f"{out.as_uri()}#/run/{place}")
        at_step(alone, 2)
        assert shown(alone) == weights
        alone.wait_for_selector(".matrix[data-state=here] vz-weights")
        alone.wait_for_selector(".heads[data-state=here] vz-heads")
        same(numbers(alone), due)
        # the reader's own file, in the same page: first without its arrays, then with them
        own = tmp_path / "mine.jsonl"
        own.write_bytes(trace.read_bytes())
        alone.set_input_files("#file", str(own))
        alone.wait_for_function("() => __viz.board.run.id === 'mine'")
        alone.goto(f"{out.as_uri()}#/run/mine/step/2/req/r2?view=lens&layer=2&head=1")
        said = "beside the trace, mine.jsonl.tensors/step-000002.safetensors: open that one, too"
        alone.wait_for_selector(f".lens-missing >> text={said}")
        files = sorted(trace.with_name("lens.jsonl.tensors").iterdir())
        alone.set_input_files("#file", [str(file) for file in files])
        assert shown(alone) == weights
        assert alone.evaluate("__viz.board.step") == 2
        same(numbers(alone), due)


def test_arrays_that_did_not_fit_into_the_file_are_told_with_what_to_do(
    browser: Browser, trace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "MAX_ARRAY_BYTES", 64)
    out = tmp_path / "out.html"
    out.write_bytes(b"".join(Export([RecordedRun("lens", trace)]).parts()))
    with open_page(browser, offline=True) as page:
        page.goto(f"{out.as_uri()}#/run/lens/step/2/req/r2?view=lens")
        page.wait_for_selector(".lens-missing >> text=attention.r2 of step 2 is not in this file.")
        assert "Fewer steps (--from, --to) leave room" in page.inner_text(".lens-missing")


def test_arrays_without_their_trace_are_refused(browser: Browser, url: str, trace: Path) -> None:
    with open_page(browser) as page:
        page.goto(f"{url}#/run/tiny-pressure")
        at_step(page, 0)
        files = sorted(trace.with_name("lens.jsonl.tensors").iterdir())
        page.set_input_files("#file", str(files[0]))
        page.wait_for_selector(".problem >> text=arrays of a trace that is not open here")


class LiveModel:
    """The small model behind an in-process client, as the dashboard asks for it."""

    def __init__(self, model: str) -> None:
        from minivllm.engine.engine_core import EngineCore
        from minivllm.engine.inproc_client import InprocClient
        from minivllm.executor.uniproc import UniprocExecutor

        config = make_config(
            num_kv_blocks=64, block_size=4, max_model_len=64, dtype="float32", model=model
        )
        self.log = TraceLog(Header(run_id="live-lens", created="", engine_version="test"))
        self.gate = Gate(paused=True)
        core = EngineCore(config, UniprocExecutor(config), Recorder(self.log))
        self.client = InprocClient(core, self.gate)

    def submit(self, prompt: str) -> str:
        from minivllm.engine.messages import EngineCoreRequest
        from minivllm.sampling_params import SamplingParams

        params = SamplingParams(max_tokens=8, temperature=0.7, seed=1, ignore_eos=True)
        ids = [20 + ord(c) % 40 for c in prompt]
        self.client.add_request(
            EngineCoreRequest(request_id="page-1", prompt_token_ids=ids, sampling_params=params)
        )
        return "page-1"

    def run_workload(self, name: str) -> list[str]:
        return []

    def set_knobs(self, knobs: dict[str, Any]) -> None: ...

    def arm(self, step: Any, engine: int | None = None) -> None:
        self.client.arm(step, engine=engine)


def test_a_coming_step_is_armed_called_back_and_read_from_the_page(
    browser: Browser, serve: Serve, model: tuple[str, Any]
) -> None:
    app, engine = create_app(), LiveModel(model[0])
    server = serve(app)
    app.attach_engine(engine)
    try:
        with open_page(browser) as page:
            page.goto(f"{server.url}#/run/live")
            page.wait_for_selector("[name=prompt]:enabled")
            page.fill("[name=prompt]", "Hello there")
            page.press("[name=prompt]", "Enter")
            still(page)
            page.click("main h2")
            page.keyboard.press("ArrowRight")
            at_step(page, 1)
            page.keyboard.press("a")
            page.click("text=Record the next step’s arrays")
            page.wait_for_selector(".armed")
            assert "The next step that runs tokens will be recorded" in page.inner_text(".armed")
            page.click("text=Cancel")
            page.wait_for_selector("text=Record the next step’s arrays")
            for wrong in ("abc", "12.7", "1", "99999999"):
                page.fill(".arm-step input", wrong)
                page.click("text=Record it")
                page.wait_for_selector(f".notice >> text=“{wrong}” is no step to come")
            page.fill(".arm-step input", "3")
            page.wait_for_selector(".view.lens .notice", state="detached")  # it was of another
            page.click("text=Record it")
            page.wait_for_selector(".armed >> text=Step 3 will be recorded")
            page.keyboard.press("ArrowRight")
            at_step(page, 2)
            assert "This step was not recorded" not in page.inner_text(".view.lens")
            assert "Step 3 will be recorded" in page.inner_text(".armed")
            page.keyboard.press("ArrowRight")
            at_step(page, 3)
            weights = shown(page)
            tokens = page.evaluate("__viz.board.state().requests.r1.tokens")[:13]
            expected = reference_weights(model[1], tokens)[:, :, -1].mean((0, 1))
            np.testing.assert_allclose(weights, expected, atol=1e-3)
            page.keyboard.press("t")  # and how its token was drawn, which level `structure` omits
            page.wait_for_selector(".drawer .same")
            drawn = page.inner_text(".sampled")
            assert "drawn from" in drawn.lower() and "temperature" in drawn
            page.keyboard.press("Escape")
            page.keyboard.press("ArrowRight")
            at_step(page, 4)
            page.wait_for_selector(".lens-missing >> text=This step was not recorded; others were.")
            page.click("text=Step 3 is recorded: look at it")
            at_step(page, 3)
            steps = [event.step for event in engine_events(engine) if event.kind == "exec.tensors"]
            assert steps == [3]
    finally:
        engine.gate.resume()
        engine.client.shutdown()


def engine_events(engine: LiveModel) -> list[Any]:
    from minivllm.trace.file import decode_event

    log = engine.log
    return [decode_event(line) for line in log.lines("engine0", 1, log.head_seq("engine0"))]


def test_a_viewer_who_may_not_steer_is_told_who_may(
    browser: Browser, serve: Serve, make_engine: MakeEngine
) -> None:
    app, engine = create_app(), make_engine()
    server = serve(app)
    app.attach_engine(engine)
    engine.submit("One two three")
    with open_page(browser) as page:
        page.goto(f"{server.url}#/run/live?view=lens")
        page.wait_for_function("() => window.__viz?.board.store?.lastStep > 2")
        page.evaluate("() => { __viz.board.engine.driver = false; __viz.board.changed(); }")
        page.wait_for_selector("text=Only the driver may have a step of this engine recorded.")
        assert artifact_events(engine_events(engine)) == {}  # type: ignore[arg-type]
