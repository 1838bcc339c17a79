/* A layer in two calls, with attention between them, on weights in codes.
 * Counterpart in vLLM: its compiled model. */
#include "codes.h"
#include "pool.h"

/* Tokens whose bytes and sums stay in a core's second cache (1 MB) while all panels pass by. */
enum { TOKENS_AT_ONCE = 252 };

typedef struct {
    Matrix qkv, o, gate_up, down; /* rows of gate and up alternate, by 16 */
    const bf16 *first_norm, *second_norm, *q_norm, *k_norm; /* the last two may be NULL */
    float eps;
    int64_t heads, kv_heads, dim, hidden;
} Layer;

int has_codes(void) {
#ifdef __AVX512VNNI__
    return 1;
#else
    return 0;
#endif
}

typedef struct {
    const Layer *layer;
    bf16 *from, *to;
    const bf16 *cos, *sin;
    int64_t tokens;
} Turning;

static void turn_some(void *what, int64_t item) {
    const Turning *w = what;
    const Layer *l = w->layer;
    int64_t turning = l->heads + l->kv_heads, dim = l->dim, width = l->qkv.rows;
    for (int64_t t = item * SOME; t < end_of(item, w->tokens); t++) {
        bf16 *from = w->from + t * width, *to = w->to + t * width;
        for (int64_t h = 0; h < turning; h++) {
            bf16 *head = from + h * dim;
            const bf16 *weight = h < l->heads ? l->q_norm : l->k_norm;
            if (weight) {
                float scale = inverse_root_mean_square(head, dim, l->eps);
                for (int64_t i = 0; i < dim; i++)
                    head[i] = narrow(widen(head[i]) * scale * widen(weight[i]));
            }
            turn(to + h * dim, head, w->cos + t * dim / 2, w->sin + t * dim / 2, dim);
        }
        memcpy(to + turning * dim, from + turning * dim, l->kv_heads * dim * sizeof(bf16));
    }
}

/* norm - q|k|v - rotate, as far as attention.
 * x: (tokens, hidden); cos, sin: (tokens, dim / 2); qkv: (tokens, q + k + v) */
void layer_before(bf16 *qkv, const bf16 *x, const Layer *l, const bf16 *cos, const bf16 *sin,
                  int64_t tokens, int threads) {
    int64_t most = tokens < TOKENS_AT_ONCE ? tokens : TOKENS_AT_ONCE, width = l->qkv.rows;
    Bytes normed = new_bytes(most, l->hidden);
    bf16 *unturned = allocate(most * width * sizeof(bf16));
    for (int64_t first = 0; first < tokens; first += most) {
        int64_t count = tokens - first < most ? tokens - first : most, at = first * l->dim / 2;
        const bf16 *some = x + first * l->hidden;
        round_to_bytes((Rounding){&normed, some, NULL, l->first_norm, l->eps, count}, threads);
        multiply_codes((Results){.narrow = unturned}, &l->qkv, &normed, count, threads);
        Turning turning = {l, unturned, qkv + first * width, cos + at, sin + at, count};
        run_items(turn_some, &turning, items_of(count), threads);
    }
    free_bytes(normed), free(unturned);
}

/* o + - norm - silu(gate) * up - down +, from attention on.
 * attended: (tokens, q); x, out: (tokens, hidden) */
void layer_after(bf16 *out, const bf16 *attended, const bf16 *x, const Layer *l, int64_t tokens,
                 int threads) {
    int64_t most = tokens < TOKENS_AT_ONCE ? tokens : TOKENS_AT_ONCE;
    Bytes heads = new_bytes(most, l->o.cols), normed = new_bytes(most, l->hidden);
    Bytes inner = new_bytes(most, l->down.cols);
    bf16 *middle = allocate(most * l->hidden * sizeof(bf16));
    float *gated = allocate(most * l->down.cols * sizeof(float));
    for (int64_t first = 0; first < tokens; first += most) {
        int64_t count = tokens - first < most ? tokens - first : most, at = first * l->hidden;
        const bf16 *some = attended + first * l->o.cols;
        round_to_bytes((Rounding){&heads, some, NULL, NULL, 0, count}, threads);
        multiply_codes((Results){.narrow = middle, .add = x + at}, &l->o, &heads, count, threads);
        round_to_bytes((Rounding){&normed, middle, NULL, l->second_norm, l->eps, count}, threads);
        multiply_codes((Results){.gated = gated}, &l->gate_up, &normed, count, threads);
        round_to_bytes((Rounding){&inner, NULL, gated, NULL, 0, count}, threads);
        multiply_codes((Results){.narrow = out + at, .add = middle}, &l->down, &inner, count, threads);
    }
    free_bytes(heads), free_bytes(normed), free_bytes(inner), free(middle), free(gated);
}

/* y = x W^T, not rounded. x: (tokens, cols); y: (tokens, rows) */
void codes_linear(float *y, const bf16 *x, const Matrix *m, int64_t tokens, int threads) {
    Bytes bytes = new_bytes(tokens, m->cols);
    round_to_bytes((Rounding){&bytes, x, NULL, NULL, 0, tokens}, threads);
    multiply_codes((Results){.plain = y}, m, &bytes, tokens, threads);
    free_bytes(bytes);
}

