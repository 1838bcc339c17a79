"""Runs at the edge of what the page must bear, made on the real scheduler and pool, no model.

    many-events    50,000 events: 360 requests in a pool that is too small for them
    crowd          256 requests at once, 10,000 blocks
    words          long prompts; Chinese, Japanese, Arabic and Hebrew text; emoji; one long word
    nothing        an engine that nobody asked anything

The page's benchmark (``bench.py``), its pictures (``screenshot.py --all``) and tests look at them.
Each is the same at every run.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from minivllm.scenario import Scenario, ScenarioRequest, start

MANY_EVENTS = 50_000

TEXTS = (
    "请用简单的话解释一下，为什么天空在早晨看起来是蓝色的？云又是从哪里来的呢？",
    "日本語のトークンは幅が広いので、列がずれないか確かめてください。",
    "اشرح لي بكلمات بسيطة لماذا تبدو السماء زرقاء في الصباح",
    "הסבר לי במילים פשוטות מדוע השמים כחולים בבוקר",
    "👩‍🚀 🏳️‍🌈 👍🏽 🧑‍🤝‍🧑 are each one sign of several code points 🤷🏻‍♀️",
    "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft",
    "<b>not markup</b> & neither is &lt;this&gt; \"nor this\" 'or this'",
    "A long story: "
    + "and then the small robot opened one more book, read it, and wrote it down; " * 12,
)
SAID = ("好的，", "天空", "是", "蓝色", "的", " 🙂", " نعم", " כן", " and", " so", " on", ".")


def words() -> Scenario:
    """A token is a few characters of the text, as it comes: also half a sign or a whole word."""
    requests = []
    for i, text in enumerate(TEXTS):
        size = 2 if i < 4 else 5
        pieces = [text[at : at + size] for at in range(0, len(text), size)]
        said = [SAID[(i + k) % len(SAID)] for k in range(12)]
        requests.append(
            ScenarioRequest(
                arrives=1 + i // 3,
                output_tokens=len(said),
                prompt_token_ids=[1000 * (i + 1) + k for k in range(len(pieces))],
                prompt_texts=pieces,
                output_token_ids=[100_000 + 1000 * i + k for k in range(len(said))],
                output_texts=said,
            )
        )
    engine = _engine(blocks=97, size=4, budget=64, running=6, longest=512)
    return Scenario(name="words", title="Text of every kind.", engine=engine, request=requests)


def crowd(running: int = 256, blocks: int = 10_000) -> Scenario:
    """All arrive within four steps; a third begin alike, so that blocks are shared."""
    shared = list(range(2000, 2064))
    requests = [
        ScenarioRequest(
            arrives=1 + i % 4,
            output_tokens=24 + i % 7,
            stand_in_ids=(shared if i % 3 == 0 else [])
            + [3000 + (i * 61 + k) % 20_000 for k in range(120 + (i * 37) % 300)],
        )
        for i in range(running)
    ]
    engine = _engine(blocks=blocks + 1, size=16, budget=16_384, running=running, longest=1024)
    return Scenario(name="crowd", title="Everybody at once.", engine=engine, request=requests)


def many_events() -> Scenario:
    """Long outputs that the prompts do not let expect, and room for a third of them."""
    requests = [
        ScenarioRequest(
            arrives=1 + i * 3,
            output_tokens=20 + (i * 29) % 50,
            max_tokens=120,
            stand_in_ids=[2000 + (i % 5) * 100 + k for k in range(32)]
            + [5000 + (i * 53 + k) % 20_000 for k in range(16 + (i * 17) % 60)],
        )
        for i in range(360)
    ]
    engine = _engine(blocks=73, size=16, budget=128, running=24, longest=512)
    return Scenario(name="many-events", title="A long day.", engine=engine, request=requests)


def nothing() -> Scenario:
    engine = _engine(blocks=65, size=16, budget=64, running=8, longest=256)
    return Scenario(name="nothing", title="Nobody came.", engine=engine, request=[])


RUNS: dict[str, Callable[[], Scenario]] = {
    "many-events": many_events,
    "crowd": crowd,
    "words": words,
    "nothing": nothing,
}


def write(name: str, folder: Path) -> Path:
    """Run one of ``RUNS`` into a trace file in ``folder``."""
    path = folder / f"{name}.trace.jsonl"
    run = start(RUNS[name](), trace_path=str(path)).run()
    run.recorder.close()
    return path


def _engine(*, blocks: int, size: int, budget: int, running: int, longest: int) -> dict[str, int]:
    return {
        "num_kv_blocks": blocks,
        "block_size": size,
        "max_num_batched_tokens": budget,
        "max_num_seqs": running,
        "max_model_len": longest,
    }
