"""A CPU's own operators in C, compiled where they run; without a compiler torch does their work.

``kernels.c`` is the code, ``build.py`` makes a library of it, ``operators.py`` and
``attention/native_backend.py`` call it.
"""
