/* What a bfloat16 model needs between its matrix products, row by row: norms, rotation, SiLU.
 *
 * Torch's own operators do the same; here each is one pass over memory instead of up to eight.
 * Counterpart in vLLM: csrc/cpu/ (layernorm.cpp, pos_encoding.cpp, activation.cpp). */
#include "numbers.h"

/* out = norm(x + add) * weight; sum = x + add. Without add (NULL) no sum is written.
 * (rows, size); the rows of x are x_stride apart. */
void rms_norm(bf16 *out, bf16 *sum, const bf16 *x, const bf16 *add, const bf16 *weight,
              int64_t rows, int64_t size, int64_t x_stride, float eps, int threads) {
#pragma omp parallel for num_threads(threads) if (rows >= 32)
    for (int64_t r = 0; r < rows; r++) {
        const bf16 *from = x + r * x_stride;
        if (add) {
            for (int64_t i = 0; i < size; i++)
                sum[r * size + i] = narrow(widen(from[i]) + widen(add[r * size + i]));
            from = sum + r * size;
        }
        float scale = inverse_root_mean_square(from, size, eps);
        for (int64_t i = 0; i < size; i++)
            out[r * size + i] = narrow(widen(from[i]) * scale * widen(weight[i]));
    }
}

/* out = silu(first half of a row) * second half: (rows, 2 * size) -> (rows, size) */
void silu_mul(bf16 *out, const bf16 *gate_up, int64_t rows, int64_t size, int threads) {
#pragma omp parallel for num_threads(threads) if (rows >= 8)
    for (int64_t r = 0; r < rows; r++) {
        const bf16 *gate = gate_up + 2 * r * size, *up = gate + size;
        for (int64_t i = 0; i < size; i++)
            out[r * size + i] = narrow(silu(widen(gate[i])) * widen(up[i]));
    }
}

/* x: (tokens, heads, dim), tokens x_stride apart; cos, sin: (tokens, dim / 2);
 * out: (tokens, heads, dim) */
void rotate(bf16 *out, const bf16 *x, const bf16 *cos, const bf16 *sin, int64_t tokens,
            int64_t heads, int64_t dim, int64_t x_stride, int threads) {
    int64_t half = dim / 2;
#pragma omp parallel for num_threads(threads) if (tokens >= 32)
    for (int64_t t = 0; t < tokens; t++)
        for (int64_t h = 0; h < heads; h++)
            turn(out + (t * heads + h) * dim, x + t * x_stride + h * dim, cos + t * half,
                 sin + t * half, dim);
}
