/* What a bfloat16 model needs between its matrix products, for a CPU: norms, rotation, SiLU,
 * and attention straight from the paged cache.
 *
 * Torch's own operators do the same. What is gained here: attention does not gather a request's K
 * and V into one piece first (it looks each block up where it lies, so requests of any lengths
 * share a call without padding), and an operation is one pass over memory instead of eight.
 *
 * Plain C with the compiler's vectors: it builds with gcc and clang for any CPU, and the width of
 * the registers is the compiler's business. Numbers are bfloat16 in memory, float32 in registers.
 * Counterpart in vLLM: csrc/cpu/ (cpu_attn.cpp, layernorm.cpp, pos_encoding.cpp).
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

typedef uint16_t bf16;
typedef float vec __attribute__((vector_size(64), aligned(4), may_alias)); /* 16 numbers */

enum { LANES = 16, WIDE = 4, TILE = LANES * WIDE, ROWS = 6, MAX_DIM = 256, MAX_ROWS = 96 };

static inline float widen(bf16 x) {
    union { uint32_t bits; float value; } u = {(uint32_t)x << 16};
    return u.value;
}

/* Round to nearest, ties to even. NaN stays NaN: rounding must not carry it into infinity. */
static inline bf16 narrow(float x) {
    union { float value; uint32_t bits; } u = {x};
    uint32_t rounded = (u.bits + 0x7fff + ((u.bits >> 16) & 1)) >> 16;
    return (u.bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : (bf16)rounded;
}

/* e^x for x <= 0 or moderate: 2^n by the exponent's bits, 2^f for |f| <= 1/2 by a polynomial. */
static inline float fast_exp(float x) {
    float y = x * 1.44269504f;
    y = y < -126.f ? -126.f : y > 126.f ? 126.f : y;
    float n = __builtin_rintf(y);
    float f = y - n;
    float p = 1.f + f * (0.693147182f + f * (0.240226462f + f * (0.0555033f + f * (0.00961850f
            + f * 0.00133989f))));
    union { int32_t bits; float value; } u = {((int32_t)n + 127) << 23};
    return p * u.value;
}

/* --- row by row ------------------------------------------------------------------------------ */

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
        float squares = 0;
        for (int64_t i = 0; i < size; i++) squares += widen(from[i]) * widen(from[i]);
        float scale = 1.f / sqrtf(squares / size + eps);
        for (int64_t i = 0; i < size; i++)
            out[r * size + i] = narrow(widen(from[i]) * scale * widen(weight[i]));
    }
}

/* out = silu(first half of a row) * second half: (rows, 2 * size) -> (rows, size) */
void silu_mul(bf16 *out, const bf16 *gate_up, int64_t rows, int64_t size, int threads) {
#pragma omp parallel for num_threads(threads) if (rows >= 8)
    for (int64_t r = 0; r < rows; r++) {
        const bf16 *gate = gate_up + 2 * r * size, *up = gate + size;
        for (int64_t i = 0; i < size; i++) {
            float x = widen(gate[i]);
            out[r * size + i] = narrow(x / (1.f + fast_exp(-x)) * widen(up[i]));
        }
    }
}

/* Turn each head's pairs (i, i + dim / 2) by the token's angles. x: (tokens, heads, dim), tokens
 * x_stride apart; cos, sin: (tokens, dim / 2); out: (tokens, heads, dim) */
void rotate(bf16 *out, const bf16 *x, const bf16 *cos, const bf16 *sin, int64_t tokens,
            int64_t heads, int64_t dim, int64_t x_stride, int threads) {
    int64_t half = dim / 2;
#pragma omp parallel for num_threads(threads) if (tokens >= 32)
    for (int64_t t = 0; t < tokens; t++)
        for (int64_t h = 0; h < heads; h++) {
            const bf16 *first = x + t * x_stride + h * dim, *second = first + half;
            const bf16 *c = cos + t * half, *s = sin + t * half;
            bf16 *to = out + (t * heads + h) * dim;
            for (int64_t i = 0; i < half; i++) {
                float a = widen(first[i]), b = widen(second[i]);
                to[i] = narrow(a * widen(c[i]) - b * widen(s[i]));
                to[half + i] = narrow(b * widen(c[i]) + a * widen(s[i]));
            }
        }
}

/* K and V of the new tokens into their slots; a slot of -1 is padding. k, v: (tokens, row), tokens
 * k_stride and v_stride apart; caches: (slots, row) */
void store(bf16 *key_cache, bf16 *value_cache, const bf16 *k, const bf16 *v,
           const int64_t *slot_mapping, int64_t tokens, int64_t row, int64_t k_stride,
           int64_t v_stride) {
    for (int64_t t = 0; t < tokens; t++) {
        if (slot_mapping[t] < 0) continue;
        memcpy(key_cache + slot_mapping[t] * row, k + t * k_stride, row * sizeof(bf16));
        memcpy(value_cache + slot_mapping[t] * row, v + t * v_stride, row * sizeof(bf16));
    }
}

/* --- attention ------------------------------------------------------------------------------- */

/* c (count, 64) += a (count, depth) . b (depth, 64), `width` numbers between rows of each. With
 * `count` known at compile time the sums, 24 for six rows, stay in registers, and each number of b
 * is loaded once for six products. */
static inline __attribute__((always_inline)) void multiply_rows(
    float *c, int64_t c_width, const float *a, int64_t a_width, const float *b, int64_t b_width,
    int64_t depth, const int count) {
    vec sums[ROWS][WIDE];
#pragma GCC unroll 6
    for (int i = 0; i < count; i++)
#pragma GCC unroll 4
        for (int j = 0; j < WIDE; j++) sums[i][j] = *(const vec *)(c + i * c_width + j * LANES);
    for (int64_t k = 0; k < depth; k++) {
        const vec *line = (const vec *)(b + k * b_width);
#pragma GCC unroll 6
        for (int i = 0; i < count; i++) {
            float x = a[i * a_width + k];
#pragma GCC unroll 4
            for (int j = 0; j < WIDE; j++) sums[i][j] += x * line[j];
        }
    }
#pragma GCC unroll 6
    for (int i = 0; i < count; i++)
#pragma GCC unroll 4
        for (int j = 0; j < WIDE; j++) *(vec *)(c + i * c_width + j * LANES) = sums[i][j];
}

static void multiply(float *c, int64_t c_width, const float *a, int64_t a_width, const float *b,
                     int64_t b_width, int64_t rows, int64_t depth) {
    int64_t r = 0;
    for (; r + ROWS <= rows; r += ROWS)
        multiply_rows(c + r * c_width, c_width, a + r * a_width, a_width, b, b_width, depth, ROWS);
    for (; r + 3 <= rows; r += 3)
        multiply_rows(c + r * c_width, c_width, a + r * a_width, a_width, b, b_width, depth, 3);
    for (; r < rows; r++)
        multiply_rows(c + r * c_width, c_width, a + r * a_width, a_width, b, b_width, depth, 1);
}

/* Where a request's keys lie. */
typedef struct {
    const int32_t *blocks; /* its line of the block table */
    int64_t block_size, row; /* numbers from one slot to the next */
} Where;

static inline int64_t slot_of(const Where *where, int64_t position) {
    return where->blocks[position / where->block_size] * where->block_size
         + position % where->block_size;
}

/* A few queries of one request that share a K/V head, over all keys they may see, 64 at a time,
 * with the running maximum and sum of the online softmax (arXiv 1805.02867).
 * q and out: pointers to each row's head; first: position of the first token; share rows a token. */
static void attend(bf16 *const *out, const bf16 *const *q, const bf16 *keys, const bf16 *values,
                   const Where *where, int64_t rows, int64_t share, int64_t first, int64_t dim,
                   float scale) {
    float queries[MAX_ROWS][MAX_DIM], outs[MAX_ROWS][MAX_DIM], scores[MAX_ROWS][TILE];
    float tile[MAX_DIM * TILE]; /* keys: (dim, 64), turned; then values: (64, dim) */
    float most[MAX_ROWS], total[MAX_ROWS];
    int64_t end = first + rows / share; /* keys that the last token sees */
    for (int64_t r = 0; r < rows; r++) {
        most[r] = -INFINITY, total[r] = 0;
        for (int64_t d = 0; d < dim; d++) queries[r][d] = widen(q[r][d]) * scale, outs[r][d] = 0;
    }
    for (int64_t begin = 0; begin < end; begin += TILE) {
        int64_t count = end - begin < TILE ? end - begin : TILE;
        const bf16 *k[TILE], *v[TILE];
        for (int64_t t = 0; t < count; t++) {
            int64_t at = slot_of(where, begin + t) * where->row;
            k[t] = keys + at, v[t] = values + at;
        }
        if (rows < ROWS) { /* decode: turning the tile would cost more than it saves */
            for (int64_t t = 0; t < count; t++)
                for (int64_t r = 0; r < rows; r++) {
                    float sum = 0;
                    for (int64_t d = 0; d < dim; d++) sum += queries[r][d] * widen(k[t][d]);
                    scores[r][t] = sum;
                }
        } else {
            for (int64_t d = 0; d < dim; d++)
                for (int64_t t = 0; t < TILE; t++) tile[d * TILE + t] = t < count ? widen(k[t][d]) : 0;
            memset(scores, 0, rows * sizeof scores[0]);
            multiply(scores[0], TILE, queries[0], MAX_DIM, tile, TILE, rows, dim);
        }
        for (int64_t r = 0; r < rows; r++) {
            int64_t seen = first + r / share + 1 - begin; /* of this tile, by this row's token */
            seen = seen < 0 ? 0 : seen < count ? seen : count;
            float high = most[r], sum = 0;
            for (int64_t t = 0; t < seen; t++) high = scores[r][t] > high ? scores[r][t] : high;
            float fade = seen ? fast_exp(most[r] - high) : 1.f;
            for (int64_t t = 0; t < seen; t++) {
                scores[r][t] = fast_exp(scores[r][t] - high);
                sum += scores[r][t];
            }
            for (int64_t t = seen; t < count; t++) scores[r][t] = 0;
            most[r] = high, total[r] = total[r] * fade + sum;
            for (int64_t d = 0; d < dim; d++) outs[r][d] *= fade;
        }
        for (int64_t t = 0; t < count; t++)
            for (int64_t d = 0; d < dim; d++) tile[t * dim + d] = widen(v[t][d]);
        for (int64_t d = 0; d < dim; d += TILE)
            multiply(outs[0] + d, MAX_DIM, scores[0], TILE, tile + d, dim, rows, count);
    }
    for (int64_t r = 0; r < rows; r++)
        for (int64_t d = 0; d < dim; d++) out[r][d] = narrow(outs[r][d] / total[r]);
}

/* Attention of a flat batch over the paged cache. Work is dealt in pieces of (request, up to
 * `piece` tokens, K/V head), the longest first come the last tokens.
 * out: (tokens, heads, dim); q the same, tokens q_stride apart; caches: (slots, kv_heads, dim);
 * pieces: (num_pieces, 3) of request, first row, number of tokens. */
void paged_attention(bf16 *out, const bf16 *q, const bf16 *key_cache, const bf16 *value_cache,
                     const int64_t *pieces, int64_t num_pieces, const int32_t *query_start_loc,
                     const int32_t *seq_lens, const int32_t *block_table, int64_t max_blocks,
                     int64_t block_size, int64_t heads, int64_t kv_heads, int64_t dim,
                     int64_t q_stride, int threads) {
    int64_t share = heads / kv_heads;
    float scale = 1.f / sqrtf((float)dim);
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
    for (int64_t item = 0; item < num_pieces * kv_heads; item++) {
        const int64_t *piece = pieces + item / kv_heads * 3;
        int64_t head = item % kv_heads, req = piece[0], row = piece[1], rows = piece[2] * share;
        int64_t position = seq_lens[req] - (query_start_loc[req + 1] - row);
        const bf16 *queries[MAX_ROWS];
        bf16 *outs[MAX_ROWS];
        for (int64_t r = 0; r < rows; r++) {
            int64_t token = row + r / share, at = (head * share + r % share) * dim;
            queries[r] = q + token * q_stride + at;
            outs[r] = out + token * heads * dim + at;
        }
        Where where = {block_table + req * max_blocks, block_size, kv_heads * dim};
        attend(outs, queries, key_cache + head * dim, value_cache + head * dim, &where, rows, share,
               position, dim, scale);
    }
}
