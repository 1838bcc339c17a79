"""The GPU's kernels, in Triton. Importing this package imports nothing; each file imports Triton.

In the order in which a layer runs them:

    rms_norm.py           normalise, with the residual sum before it
    rope.py               turn Q and K by their positions
    reshape_and_cache.py  store the new K and V
    paged_attention.py    attend over the blocks        ← the one to read
    merge_splits.py       put a split sequence's parts together
    silu_mul.py           the MLP's gate

``configs.py`` holds the sizes of the attention's tiles, ``launch.py`` what a call consists of,
``operators.py`` what the model calls, ``aot.py`` compiles for a GPU that is not here.

Sampling has no kernel. ``torch.topk`` selects on the GPU already (a radix select, which Triton
cannot express better), the sampler truncates with it before it draws, and the noise of the few
survivors must be the same to the bit on every device; a kernel would save a launch or two a step.
"""
