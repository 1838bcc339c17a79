"""A CPU's own code in C, compiled where it runs; without a compiler torch does its work.

``build.py`` makes a library of the C files. Who calls what: ``operators.py`` ``rows.c``;
``attention/native_backend.py`` ``attention.c``; ``models/quantized.py``, by way of ``codes.py``,
``layer.c`` and ``codes.c``. ``pool.c`` has their threads.
"""
