"""``python -m minivllm`` is the same as the command ``minivllm``."""

from minivllm.cli.main import main

main()
