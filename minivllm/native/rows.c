/* What a bfloat16 model needs between its matrix products, row by row: norms, rotation, SiLU.
 *
 * Torch's own operators do the same; here each is one pass over memory instead of up to eight.
 * Counterpart in vLLM: csrc/cpu/ (layernorm.cpp, pos_encoding.cpp, activation.cpp). */
#include "numbers.h"
#include "pool.h"

typedef struct {
    bf16 *out, *sum;
    const bf16 *x, *add, *weight;
    int64_t rows, size, x_stride;
    float eps;
} Norm;

static void norm_some(void *what, int64_t item) {
    const Norm *n = what;
    for (int64_t r = item * SOME; r < end_of(item, n->rows); r++) {
        const bf16 *from = n->x + r * n->x_stride;
        if (n->add) {
            for (int64_t i = 0; i < n->size; i++)
                n->sum[r * n->size + i] = narrow(widen(from[i]) + widen(n->add[r * n->size + i]));
            from = n->sum + r * n->size;
        }
        float scale = inverse_root_mean_square(from, n->size, n->eps);
        for (int64_t i = 0; i < n->size; i++)
            n->out[r * n->size + i] = narrow(widen(from[i]) * scale * widen(n->weight[i]));
    }
}

/* out = norm(x + add) * weight; sum = x + add. Without add (NULL) no sum is written.
 * (rows, size); the rows of x are x_stride apart. */
void rms_norm(bf16 *out, bf16 *sum, const bf16 *x, const bf16 *add, const bf16 *weight,
              int64_t rows, int64_t size, int64_t x_stride, float eps, int threads) {
    Norm norm = {out, sum, x, add, weight, rows, size, x_stride, eps};
    run_items(norm_some, &norm, items_of(rows), threads);
}

typedef struct {
    bf16 *out;
    const bf16 *gate_up;
    int64_t rows, size;
} Gated;

static void gate_some(void *what, int64_t item) {
    const Gated *g = what;
    for (int64_t r = item * SOME; r < end_of(item, g->rows); r++) {
        const bf16 *gate = g->gate_up + 2 * r * g->size, *up = gate + g->size;
        for (int64_t i = 0; i < g->size; i++)
            g->out[r * g->size + i] = narrow(silu(widen(gate[i])) * widen(up[i]));
    }
}

/* out = silu(first half of a row) * second half: (rows, 2 * size) -> (rows, size) */
void silu_mul(bf16 *out, const bf16 *gate_up, int64_t rows, int64_t size, int threads) {
    Gated gated = {out, gate_up, rows, size};
    run_items(gate_some, &gated, items_of(rows), threads);
}

typedef struct {
    bf16 *out;
    const bf16 *x, *cos, *sin;
    int64_t tokens, heads, dim, x_stride;
} Turned;

static void turn_some(void *what, int64_t item) {
    const Turned *w = what;
    for (int64_t t = item * SOME; t < end_of(item, w->tokens); t++)
        for (int64_t h = 0; h < w->heads; h++)
            turn(w->out + (t * w->heads + h) * w->dim, w->x + t * w->x_stride + h * w->dim,
                 w->cos + t * w->dim / 2, w->sin + t * w->dim / 2, w->dim);
}

/* x: (tokens, heads, dim), tokens x_stride apart; cos, sin: (tokens, dim / 2);
 * out: (tokens, heads, dim) */
void rotate(bf16 *out, const bf16 *x, const bf16 *cos, const bf16 *sin, int64_t tokens,
            int64_t heads, int64_t dim, int64_t x_stride, int threads) {
    Turned turned = {out, x, cos, sin, tokens, heads, dim, x_stride};
    run_items(turn_some, &turned, items_of(tokens), threads);
}
