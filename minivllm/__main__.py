"""``python -m minivllm`` is the same as the command ``minivllm``."""

import sys


def main() -> None:
    """Ctrl-C while the commands are imported ends it as it does later: without a traceback."""
    try:
        from minivllm.cli.main import main as run
    except KeyboardInterrupt:
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
