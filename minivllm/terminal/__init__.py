"""The terminal: a run step by step, drawn with rich from the events and their fold alone.

    runs.py      where the steps come from: a trace, a scenario, a live engine
    history.py   every step so far, and the state before and after each
    cells.py     the glyphs and hues of the visual language, one place for all
    board.py     one step as a screen of any size; its parts in regions.py and pool.py
    text.py      lines that fit: control characters shown, wide characters measured
    verbs.py     next, back, goto, why …: what can be typed, and what it answers
    answers.py   the answers of why, request, block and events as lines
    prompt.py    the full screen with its prompt (prompt_toolkit)

Nothing here imports torch; the live engine does, when it is asked for. No counterpart in vLLM.
"""
