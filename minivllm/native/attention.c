/* Attention straight from the paged cache.
 *
 * Torch's operators gather a request's K and V into one piece first; here each block is looked up
 * where it lies, so requests of any lengths share a call without padding. A row's numbers are added
 * up in the same order whoever else is in the batch and however its prompt was cut into chunks.
 * Counterpart in vLLM: csrc/cpu/cpu_attn.cpp. */
#include "numbers.h"
#include "pool.h"

enum { WIDE = 4, TILE = LANES * WIDE, ROWS = 6, SOME_ROWS = 24, MAX_ROWS = 96, MAX_DIM = 256 };

/* --- tiles: 64 keys at a time ---------------------------------------------------------------- */

/* A CPU that multiplies pairs of bfloat16 (AVX-512 BF16) takes twice as many numbers at once. A
 * tile's numbers then lie in pairs along the dimension that is added up: (depth / 2, width, 2). */
#ifdef __AVX512BF16__

typedef bf16 num;
enum { PAIR = 2 };

static inline vec add_product(vec sum, const num *a, const num *b) {
    int32_t pair;
    memcpy(&pair, a, sizeof pair);
    return (vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(pair),
                                 (__m512bh)_mm512_loadu_si512(b));
}

/* Turn sixteen lines of sixteen pairs: swap ever larger squares across the diagonal. */
static inline void transpose(__m512i lines[LANES]) {
    __m512i lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
#pragma GCC unroll 4
    for (int side = 1; side < LANES; side *= 2) {
        __mmask16 high = side == 1 ? 0xaaaa : side == 2 ? 0xcccc : side == 4 ? 0xf0f0 : 0xff00;
        /* 0-15 pick a lane of the first line, 16-31 of the second */
        __m512i upper = _mm512_mask_add_epi32(lane, high, lane, _mm512_set1_epi32(LANES - side));
        __m512i lower = _mm512_add_epi32(lane, _mm512_set1_epi32(LANES));
        lower = _mm512_mask_add_epi32(lower, (__mmask16)~high, lane, _mm512_set1_epi32(side));
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++) {
            if (i & side) continue;
            __m512i a = lines[i], b = lines[i + side];
            lines[i] = _mm512_permutex2var_epi32(a, upper, b);
            lines[i + side] = _mm512_permutex2var_epi32(a, lower, b);
        }
    }
}

/* Keys k[0 .. count) of `dim` numbers -> (dim / 2, 64, 2) */
static void turn_keys(num *tile, const bf16 *const *k, int64_t count, int64_t dim) {
    for (int64_t t = 0; t < count; t += LANES)
        for (int64_t d = 0; d < dim; d += 2 * LANES) {
            __m512i lines[LANES];
            for (int64_t i = 0; i < LANES; i++)
                lines[i] = t + i < count ? _mm512_loadu_si512(k[t + i] + d) : _mm512_setzero_si512();
            transpose(lines);
            for (int64_t i = 0; i < LANES; i++)
                _mm512_storeu_si512(tile + (d + 2 * i) * TILE + 2 * t, lines[i]);
        }
}

/* Values v[0 .. count) -> (32, dim, 2): of two keys each, number by number */
static void pair_values(num *tile, const bf16 *const *v, int64_t count, int64_t dim) {
    int16_t places[4 * LANES];
    for (int i = 0; i < 2 * LANES; i++) places[2 * i] = i, places[2 * i + 1] = 2 * LANES + i;
    __m512i low = _mm512_loadu_si512(places), high = _mm512_loadu_si512(places + 2 * LANES);
    for (int64_t t = 0; t < count; t += 2)
        for (int64_t d = 0; d < dim; d += 2 * LANES) {
            __m512i a = _mm512_loadu_si512(v[t] + d);
            __m512i b = t + 1 < count ? _mm512_loadu_si512(v[t + 1] + d) : _mm512_setzero_si512();
            num *to = tile + t * dim + 2 * d;
            _mm512_storeu_si512(to, _mm512_permutex2var_epi16(a, low, b));
            _mm512_storeu_si512(to + 2 * LANES, _mm512_permutex2var_epi16(a, high, b));
        }
}

/* As fast_exp2. */
static inline __m512 exp2_of(__m512 x) {
    x = _mm512_max_ps(_mm512_set1_ps(-126.f), x); /* in this order, NaN stays NaN */
    __m512 n = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 f = _mm512_sub_ps(x, n), p = _mm512_set1_ps(0.00133989f);
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.00961850f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.0555033f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.240226462f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.693147182f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.f));
    return _mm512_scalef_ps(p, n);
}

/* Scores of one row over a tile -> its weights, with the running maximum and sum of the online
 * softmax (arXiv 1805.02867). seen: keys of the tile that the row's token sees, at least one; what
 * is behind them weighs nothing. scale: of a score, so that weights are powers of two. Returns how
 * far earlier results fade. */
static inline float weigh(num *weights, const float *scores, float *most, float *total,
                          int64_t seen, float scale) {
    __m512 scaled[WIDE], high = _mm512_set1_ps(*most), sum = _mm512_setzero_ps();
    __mmask64 all = seen < TILE ? ((__mmask64)1 << seen) - 1 : ~(__mmask64)0;
#pragma GCC unroll 4
    for (int j = 0; j < WIDE; j++) {
        __m512 score = _mm512_mul_ps(_mm512_loadu_ps(scores + j * LANES), _mm512_set1_ps(scale));
        scaled[j] = _mm512_mask_mov_ps(_mm512_set1_ps(-INFINITY), all >> j * LANES, score);
        high = _mm512_max_ps(scaled[j], high);
    }
    float highest = _mm512_reduce_max_ps(high), fade = 1.f;
#pragma GCC unroll 4
    for (int j = 0; j < WIDE; j++) {
        __m512 weight = exp2_of(_mm512_sub_ps(scaled[j], _mm512_set1_ps(highest)));
        weight = _mm512_maskz_mov_ps(all >> j * LANES, weight);
        sum = _mm512_add_ps(sum, weight);
        _mm256_storeu_si256((__m256i *)(weights + j * LANES), (__m256i)_mm512_cvtneps_pbh(weight));
    }
    if (highest > *most) {
        fade = _mm512_cvtss_f32(exp2_of(_mm512_set1_ps(*most - highest)));
        *most = highest;
    }
    *total = *total * fade + _mm512_reduce_add_ps(sum);
    return fade;
}

#else

typedef float num;
enum { PAIR = 1 };

static inline vec add_product(vec sum, const num *a, const num *b) {
    return sum + *a * *(const vec *)b;
}

static void turn_keys(num *tile, const bf16 *const *k, int64_t count, int64_t dim) {
    for (int64_t d = 0; d < dim; d++)
        for (int64_t t = 0; t < count; t++) tile[d * TILE + t] = widen(k[t][d]);
}

static void pair_values(num *tile, const bf16 *const *v, int64_t count, int64_t dim) {
    for (int64_t t = 0; t < count; t++)
        for (int64_t d = 0; d < dim; d++) tile[t * dim + d] = widen(v[t][d]);
}

static inline float weigh(num *weights, const float *scores, float *most, float *total,
                          int64_t seen, float scale) {
    float scaled[TILE], high = *most, sum = 0;
    for (int t = 0; t < TILE; t++) scaled[t] = t < seen ? scores[t] * scale : -INFINITY;
    for (int t = 0; t < TILE; t++) high = scaled[t] > high ? scaled[t] : high;
    for (int t = 0; t < TILE; t++) weights[t] = t < seen ? fast_exp2(scaled[t] - high) : 0.f;
    for (int t = 0; t < TILE; t++) sum += weights[t];
    float fade = fast_exp2(*most - high);
    *most = high, *total = *total * fade + sum;
    return fade;
}

#endif

/* c (count, 64) = (or, with `more`, +=) a (count, depth) . b (depth, 64). a_width, b_width, c_width:
 * numbers from one row to the next. With `count` known when this is compiled the sums, 24 for six
 * rows, stay in registers, and each number of b is loaded once for six products. */
static inline __attribute__((always_inline)) void multiply_rows(
    float *c, int64_t c_width, const num *a, int64_t a_width, const num *b, int64_t b_width,
    int64_t depth, int more, const int count) {
    vec sums[ROWS][WIDE];
#pragma GCC unroll 6
    for (int i = 0; i < count; i++)
#pragma GCC unroll 4
        for (int j = 0; j < WIDE; j++)
            sums[i][j] = more ? *(const vec *)(c + i * c_width + j * LANES) : (vec){0};
    for (int64_t k = 0; k < depth; k += PAIR)
#pragma GCC unroll 6
        for (int i = 0; i < count; i++)
#pragma GCC unroll 4
            for (int j = 0; j < WIDE; j++)
                sums[i][j] = add_product(sums[i][j], a + i * a_width + k,
                                         b + k * b_width + j * LANES * PAIR);
#pragma GCC unroll 6
    for (int i = 0; i < count; i++)
#pragma GCC unroll 4
        for (int j = 0; j < WIDE; j++) *(vec *)(c + i * c_width + j * LANES) = sums[i][j];
}

static void multiply(float *c, int64_t c_width, const num *a, int64_t a_width, const num *b,
                     int64_t b_width, int64_t rows, int64_t depth, int more) {
    int64_t r = 0;
#define MULTIPLY(COUNT)                                                                     \
    for (; r + COUNT <= rows; r += COUNT)                                                   \
    multiply_rows(c + r * c_width, c_width, a + r * a_width, a_width, b, b_width, depth, more, COUNT)
    MULTIPLY(ROWS);
    MULTIPLY(3);
    MULTIPLY(1);
}

/* --- one piece of work ----------------------------------------------------------------------- */

/* Where a request's keys lie. */
typedef struct {
    const int32_t *blocks; /* its line of the block table */
    int64_t block_size, row; /* numbers from one slot to the next */
} Where;

static inline int64_t slot_of(const Where *where, int64_t position) {
    return where->blocks[position / where->block_size] * where->block_size
         + position % where->block_size;
}

/* A few queries of one request that share a K/V head, over all keys they may see.
 * q and out: pointers to each row's head; first: position of the first token; share rows a token. */
static void attend(bf16 *const *out, const bf16 *const *q, const bf16 *keys, const bf16 *values,
                   const Where *where, int64_t rows, int64_t share, int64_t first, int64_t dim,
                   float scale) {
    num queries[MAX_ROWS * MAX_DIM], key_tile[MAX_DIM * TILE], value_tile[TILE * MAX_DIM];
    num weights[SOME_ROWS * TILE];
    float outs[MAX_ROWS * MAX_DIM], scores[SOME_ROWS * TILE], most[MAX_ROWS], total[MAX_ROWS];
    int64_t end = first + rows / share; /* keys that the last token sees */
    for (int64_t r = 0; r < rows; r++) {
        most[r] = -INFINITY, total[r] = 0;
        for (int64_t d = 0; d < dim; d++)
            queries[r * dim + d] = PAIR == 2 ? q[r][d] : widen(q[r][d]), outs[r * dim + d] = 0;
    }
    for (int64_t begin = 0; begin < end; begin += TILE) {
        int64_t count = end - begin < TILE ? end - begin : TILE;
        int64_t depth = (count + PAIR - 1) / PAIR * PAIR;
        const bf16 *k[TILE], *v[TILE];
        for (int64_t t = 0; t < count; t++) {
            int64_t at = slot_of(where, begin + t) * where->row;
            k[t] = keys + at, v[t] = values + at;
        }
        turn_keys(key_tile, k, count, dim);
        pair_values(value_tile, v, count, dim);
        int64_t blind = begin > first ? (begin - first) * share : 0; /* rows that see none of it */
        for (int64_t r = blind; r < rows; r += SOME_ROWS) {
            int64_t some = rows - r < SOME_ROWS ? rows - r : SOME_ROWS;
            multiply(scores, TILE, queries + r * dim, dim, key_tile, TILE, some, dim, 0);
            for (int64_t i = 0; i < some; i++) {
                int64_t seen = first + (r + i) / share + 1 - begin;
                float fade = weigh(weights + i * TILE, scores + i * TILE, most + r + i,
                                   total + r + i, seen, scale);
                if (fade < 1.f)
                    for (int64_t d = 0; d < dim; d++) outs[(r + i) * dim + d] *= fade;
            }
            for (int64_t d = 0; d < dim; d += TILE)
                multiply(outs + r * dim + d, dim, weights, TILE, value_tile + d * PAIR, dim, some,
                         depth, 1);
        }
    }
    for (int64_t r = 0; r < rows; r++)
        for (int64_t d = 0; d < dim; d++) out[r][d] = narrow(outs[r * dim + d] / total[r]);
}

/* --- the batch ------------------------------------------------------------------------------- */

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

/* What a step's every layer has in common is Python's `Batch`, and what it has of its own the
 * arguments of paged_attention. */
typedef struct {
    const int64_t *pieces; /* (num_pieces, 3) of request, first row, number of tokens */
    int64_t num_pieces;
    const int32_t *query_start_loc, *seq_lens, *block_table;
    int64_t max_blocks, block_size, heads, kv_heads, dim;
} Batch;

typedef struct {
    const Batch *batch;
    bf16 *out;
    const bf16 *q, *key_cache, *value_cache;
    int64_t q_stride;
} Call;

static void attend_piece(void *what, int64_t item) {
    const Call *c = what;
    const Batch *b = c->batch;
    int64_t share = b->heads / b->kv_heads, dim = b->dim, head = item % b->kv_heads;
    const int64_t *piece = b->pieces + item / b->kv_heads * 3;
    int64_t req = piece[0], row = piece[1], rows = piece[2] * share;
    int64_t position = b->seq_lens[req] - (b->query_start_loc[req + 1] - row);
    const bf16 *queries[MAX_ROWS];
    bf16 *outs[MAX_ROWS];
    for (int64_t r = 0; r < rows; r++) {
        int64_t token = row + r / share, at = (head * share + r % share) * dim;
        queries[r] = c->q + token * c->q_stride + at;
        outs[r] = c->out + token * b->heads * dim + at;
    }
    Where where = {b->block_table + req * b->max_blocks, b->block_size, b->kv_heads * dim};
    attend(outs, queries, c->key_cache + head * dim, c->value_cache + head * dim, &where, rows,
           share, position, dim, LOG2_E / sqrtf((float)dim));
}

/* Attention of a flat batch over the paged cache. out: (tokens, heads, dim); q the same, tokens
 * q_stride apart; caches: (slots, kv_heads, dim). */
void paged_attention(bf16 *out, const bf16 *q, const bf16 *key_cache, const bf16 *value_cache,
                     const Batch *batch, int64_t q_stride, int threads) {
    Call call = {batch, out, q, key_cache, value_cache, q_stride};
    run_items(attend_piece, &call, batch->num_pieces * batch->kv_heads, threads);
}
