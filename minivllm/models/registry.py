"""Which class implements which architecture.

Counterpart in vLLM: ``vllm/model_executor/models/registry.py``. Left out: lazy imports, plug-ins.
"""

from __future__ import annotations

from minivllm.models.llama import LlamaForCausalLM

MODELS: dict[str, type[LlamaForCausalLM]] = {
    "LlamaForCausalLM": LlamaForCausalLM,
}
"""Architecture, as ``config.json`` names it → class."""
