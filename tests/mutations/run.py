"""Break the core, one line at a time, and demand that a test fails each time.

    python -m tests.mutations.run             # all, a few seconds each
    python -m tests.mutations.run pool twin   # those whose file or words contain one of these

Works on a copy of the tree; ends with status 1 where a broken line went unnoticed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.mutations.catalogue import MUTATIONS, ROOT, Mutation

# Slow, and they find almost anything; and the one that waits for threads that died.
LAST = ("test_random_runs.py", "test_state_machine.py", "test_inproc_client.py")
SECONDS = 60  # for one test: a broken line may run for ever


def tests_to_run(tree: Path) -> list[str]:
    """All of tests/core, what says most precisely what is wrong first; then the fold's own,
    and what waits for a grammar."""
    core = sorted(path.name for path in (tree / "tests/core").glob("test_*.py"))
    first = [f"tests/core/{name}" for name in core if name not in LAST]
    fold = ["tests/trace/test_fold.py", "tests/trace/test_vectors.py"]
    grammars = ["tests/structured/test_waiting_for_grammar.py"]
    return [*first, *fold, *grammars, *(f"tests/core/{name}" for name in LAST)]


def copy_tree(to: Path) -> Path:
    skipped = shutil.ignore_patterns(".*", "__pycache__", "node_modules", "*.gguf")
    return Path(shutil.copytree(ROOT, to / "tree", ignore=skipped))


def first_failure(tree: Path, mutation: Mutation, tests: list[str]) -> str | None:
    """The first test that fails with the line broken; None if all pass."""
    broken, whole = tree / mutation.path, (ROOT / mutation.path).read_text(encoding="utf-8")
    broken.write_text(mutation.applied(), encoding="utf-8")
    try:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "pytest", "-x", "-q", "--tb=line", "--durations=0"),
                *("-p", "no:cacheprovider", f"--timeout={SECONDS}", *tests),
            ],
            cwd=tree,
            capture_output=True,
            text=True,
            env={
                **os.environ,
                "PYTHONPATH": str(tree),
                "PYTHONDONTWRITEBYTECODE": "1",  # a stale one would hide the next mutation
                "MINIVLLM_SHRINK": "0",  # to know that it fails is enough
            },
        )
    finally:
        broken.write_text(whole, encoding="utf-8")
    if done.returncode == 0:
        return None
    found = re.search(r"^(?:FAILED|ERROR) (?:tests/)?(\S+)", done.stdout, re.M)
    if found:
        return found[1]
    if "Timeout" in done.stdout + done.stderr:
        return f"no end within {SECONDS} s"
    raise RuntimeError(f"pytest ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")


def main(words: list[str]) -> int:
    chosen = [m for m in MUTATIONS if not words or any(w in f"{m.file} {m.breaks}" for w in words)]
    survivors = []
    with tempfile.TemporaryDirectory() as folder:
        tree = copy_tree(Path(folder))
        for mutation in chosen:
            failure = first_failure(tree, mutation, tests_to_run(tree))
            survivors += [mutation] if failure is None else []
            file = mutation.file.split("/")[-1]
            print(f"{file:<22} {mutation.breaks:<58} {failure or 'SURVIVES'}", flush=True)
    print(f"\n{len(chosen)} lines broken, {len(survivors)} unnoticed")
    return 1 if survivors or not chosen else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
