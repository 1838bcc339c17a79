"""The terminal: a debugger for an engine, drawn with rich from the events and their fold alone.

    runs.py      what is stepped through, by name; recordings
    steered.py   a run with an engine behind it, let go by its gate
    stepped.py, live.py, attached.py   that engine: a core without a model, a model, a server's
    history.py   every step so far, and the state before and after each event
    session.py   the place that is looked at; moving on, breaks, forks
    places.py    can a line or request that was asked for come at all?
    verbs.py     what can be typed; moves.py, asking.py, looking.py, steering.py carry it out
    board.py     one place as a screen of any size; layouts.py says where its regions stand
    cells.py     the glyphs and hues of the visual language, one place for all
    text.py      lines that fit: control characters shown, wide characters measured
    screen.py    what the full screen shows; prompt.py its keys; line_prompt.py: lines only
    script.py    a script's answers as text or JSON, and its status

From Python: ``minivllm.debug``. Nothing here imports torch; the live engine does, when it is asked
for. No counterpart in vLLM.
"""
