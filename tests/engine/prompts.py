"""Twenty-one prompts, 1 to 600 tokens: raw and chat, English, code, accents, CJK, emoji."""

from __future__ import annotations

STORY = (
    "The lighthouse keeper had lived alone on the rock for eleven winters when the letter came. "
    "It was written in a careful hand, on paper that smelled of salt and oranges, and it asked "
    "only one thing: would he keep the lamp burning for one more night than he had planned? "
)
CODE = '''def merge(left: list[int], right: list[int]) -> list[int]:
    """Merge two sorted lists."""
    result = []
    while left and right:
        result.append(left.pop(0) if left[0] <= right[0] else right.pop(0))
    return result + left + right


def sort(items: list[int]) -> list[int]:
'''

RAW_PROMPTS = [
    "Hello",
    "The capital of France is",
    "1, 2, 3, 5, 8, 13,",
    "Once upon a time a small robot lived in a big library",
    "def fibonacci(n):\n    ",
    CODE,
    "SELECT name, count(*) FROM users GROUP BY",
    "À l'été, le café était fermé ; où est-ce que la fenêtre",
    "Der Fluß fließt über die Brücke und",
    "東京の天気は今日",
    "你好，今天我们来谈谈",
    "한국어로 말해 주세요.",
    "🚀🌍 Launch in 3… 2… 1… 🎉",
    "naïve café 👩‍👩‍👧‍👦 résumé 日本語 mixed",
    STORY,
    STORY * 2,
]

CHATS = [
    [{"role": "user", "content": "Why is the sky blue?"}],
    [
        {"role": "system", "content": "You answer in one word."},
        {"role": "user", "content": "Which planet is the largest?"},
    ],
    [
        {"role": "user", "content": "Écris une phrase sur l'été 🌻"},
        {"role": "assistant", "content": "L'été est chaud."},
        {"role": "user", "content": STORY},
    ],
    [{"role": "system", "content": "Count."}, {"role": "user", "content": "1 2 3"}],
]

LONGEST = [{"role": "user", "content": STORY * 10 + "Would you?"}]
