/* Products with weights of 4 or 8 bits: the checkpoint's own codes, multiplied as bytes.
 *
 * 32 numbers of a row share a scale (and a minimum), in a GGUF's weights and here in the
 * activations, too, which are rounded to a byte just before a product:
 *
 *     y = sum over groups of  a_scale * (w_scale * (w_code . a_code) + w_minimum * sum(a_code))
 *
 * The inner product is exact (integers); what is rounded is an activation, by 1/254 of the largest
 * of its 32. llama.cpp computes so, too (ggml: vec_dot_q4_1_q8_1). Each number is added up in the
 * same order whatever else is in the batch, so a token's result does not depend on its neighbours.
 *
 * Weights are kept by panels of 32 rows. A panel's group is one block, in the order it is read:
 *
 *     32 scales, 32 minima (float16)
 *     columns 0-3 of rows 0-15: 64 codes; of rows 16-31: 64 codes     -> one dpbusd each
 *     columns 4-7 ...                                          (8 times)
 *
 * In 4 bits the second 64 codes are in the upper halves of the first ones' bytes.
 * Counterpart in vLLM: csrc/cpu/sgl-kernels/ (gemm_int8.cpp). Needs AVX-512 VNNI. */
#pragma once
#include "numbers.h"

enum { GROUP = 32, PANEL = 32 };

typedef struct {
    const uint8_t *blocks;
    const float *bias; /* NULL: none */
    int64_t rows, cols, bits;
} Matrix;

/* (tokens, cols) as bytes, with scale and scale * sum of each group: (tokens, cols / 32) */
typedef struct {
    int8_t *codes;
    float *scale, *sum;
    int64_t cols;
} Bytes;

static inline Bytes new_bytes(int64_t tokens, int64_t cols) {
    float *numbers = allocate(tokens * cols / GROUP * 2 * sizeof(float));
    return (Bytes){allocate(tokens * cols), numbers, numbers + tokens * cols / GROUP, cols};
}

static inline void free_bytes(Bytes b) { free(b.codes), free(b.scale); }

/* What is rounded: one of the two. With `weight`: the norm of it, as in rms_norm. */
typedef struct {
    const Bytes *to;
    const bf16 *narrow;
    const float *wide;
    const bf16 *weight;
    float eps;
    int64_t tokens;
} Rounding;

void round_to_bytes(Rounding rounding, int threads);

/* What becomes of a panel's sums, (count, 32) in `sums`. Of these, one is not NULL. */
typedef struct {
    float *plain;  /* (tokens, rows) */
    bf16 *narrow;  /* (tokens, rows); with `add`, the same plus it */
    const bf16 *add;
    float *gated;  /* (tokens, rows / 2): silu(first 16 of a panel) * second 16 */
} Results;

/* x W^T for `tokens` rows of x, as bytes. */
void multiply_codes(Results to, const Matrix *m, const Bytes *x, int64_t tokens, int threads);
