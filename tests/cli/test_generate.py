"""What ``generate`` says of a run when it is done."""

from __future__ import annotations

from types import SimpleNamespace

from minivllm.cli.generate import _statistics


def test_one_of_each_is_told_in_the_singular() -> None:
    said = [SimpleNamespace(token_ids=[2])]
    output = SimpleNamespace(prompt_token_ids=[1], num_cached_tokens=0, outputs=said)
    assert _statistics([output], 1.0, None) == (
        "1 request · 1 prompt token (0 from the prefix cache) · 1 output token in 1.0 s "
        "(1.0 per second)"
    )
