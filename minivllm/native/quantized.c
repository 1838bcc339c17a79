/* A layer on weights of 4 or 8 bits: the checkpoint's own codes, multiplied as bytes.
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
#include "numbers.h"
#include "pool.h"

enum { GROUP = 32, PANEL = 32, QUADS = GROUP / 4, MOST_TOKENS = 6, SOME_TOKENS = 12,
       TOKENS_AT_ONCE = 252 };

typedef struct {
    const uint8_t *blocks;
    const float *bias; /* NULL: none */
    int64_t rows, cols, bits;
} Matrix;

typedef struct {
    Matrix qkv, o, gate_up, down; /* rows of gate and up alternate, by 16 */
    const bf16 *first_norm, *second_norm, *q_norm, *k_norm; /* the last two may be NULL */
    float eps;
    int64_t heads, kv_heads, dim, hidden;
} Layer;

#ifdef __AVX512VNNI__

int has_quantized(void) { return 1; }

/* --- activations ----------------------------------------------------------------------------- */

/* (tokens, cols) as bytes, with scale and scale * sum of each group: (tokens, cols / 32) */
typedef struct {
    int8_t *codes;
    float *scale, *sum;
    int64_t cols;
} Bytes;

static Bytes new_bytes(int64_t tokens, int64_t cols) {
    float *numbers = malloc(tokens * cols / GROUP * 2 * sizeof(float));
    return (Bytes){malloc(tokens * cols), numbers, numbers + tokens * cols / GROUP, cols};
}

static void free_bytes(Bytes b) { free(b.codes), free(b.scale); }

/* 32 numbers as bytes. A NaN or infinity must come out as one: the scale carries it. */
static inline void quantize_group(const Bytes *b, int64_t token, int64_t group, __m512 low,
                                  __m512 high) {
    __m512 sizes = _mm512_max_ps(_mm512_abs_ps(low), _mm512_abs_ps(high));
    float most = _mm512_reduce_max_ps(sizes), scale = most / 127.f;
    __m512 inverse = _mm512_set1_ps(most > 1e-30f ? 127.f / most : 0.f);
    __m512i first = _mm512_cvtps_epi32(_mm512_mul_ps(low, inverse));
    __m512i second = _mm512_cvtps_epi32(_mm512_mul_ps(high, inverse));
    if (_mm512_cmp_ps_mask(_mm512_sub_ps(low, low), _mm512_sub_ps(high, high), _CMP_UNORD_Q))
        scale = NAN;
    __m128i *codes = (__m128i *)(b->codes + token * b->cols + group * GROUP);
    _mm_storeu_si128(codes, _mm512_cvtepi32_epi8(first));
    _mm_storeu_si128(codes + 1, _mm512_cvtepi32_epi8(second));
    int64_t at = token * (b->cols / GROUP) + group;
    b->scale[at] = scale;
    b->sum[at] = scale * _mm512_reduce_add_epi32(_mm512_add_epi32(first, second));
}

static inline __m512 widen_lanes(const bf16 *x) {
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)x));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

/* What is rounded: one of the two. With `weight`: the norm of it, as in rms_norm. */
typedef struct {
    const Bytes *to;
    const bf16 *narrow;
    const float *wide;
    const bf16 *weight;
    float eps;
    int64_t tokens;
} Rounding;

static void round_token(const Rounding *r, int64_t token) {
    int64_t cols = r->to->cols;
    const bf16 *row = r->narrow + token * cols;
    __m512 scale = _mm512_set1_ps(r->weight ? inverse_root_mean_square(row, cols, r->eps) : 1.f);
    for (int64_t g = 0; g < cols / GROUP; g++) {
        if (r->wide) {
            const float *from = r->wide + token * cols + g * GROUP;
            quantize_group(r->to, token, g, _mm512_loadu_ps(from), _mm512_loadu_ps(from + LANES));
            continue;
        }
        __m512 low = widen_lanes(row + g * GROUP), high = widen_lanes(row + g * GROUP + LANES);
        if (r->weight) {
            const bf16 *w = r->weight + g * GROUP;
            low = _mm512_mul_ps(_mm512_mul_ps(low, scale), widen_lanes(w));
            high = _mm512_mul_ps(_mm512_mul_ps(high, scale), widen_lanes(w + LANES));
        }
        quantize_group(r->to, token, g, low, high);
    }
}

static void round_some(void *what, int64_t piece) {
    const Rounding *r = what;
    int64_t end = (piece + 1) * SOME_TOKENS < r->tokens ? (piece + 1) * SOME_TOKENS : r->tokens;
    for (int64_t t = piece * SOME_TOKENS; t < end; t++) round_token(r, t);
}

static void quantize(Rounding r, int threads) {
    run_items(round_some, &r, (r.tokens + SOME_TOKENS - 1) / SOME_TOKENS, threads);
}

/* --- the product ----------------------------------------------------------------------------- */

/* One panel's 32 rows times `count` tokens. codes: (groups, 8, 2, 64), unpacked; scales: (groups,
 * scale | minimum, 32); out: (count, 32). All sums, 24 for six tokens, stay in registers: the
 * integers of this group, the floats of all. */
static inline __attribute__((always_inline)) void multiply_tile(
    float *out, const uint8_t *codes, const float *scales, const float *bias, const int8_t *a,
    const float *a_scale, const float *a_sum, int64_t groups, const int count) {
    __m512 sums[2][MOST_TOKENS];
    for (int v = 0; v < 2; v++)
#pragma GCC unroll 6
        for (int t = 0; t < count; t++)
            sums[v][t] = bias ? _mm512_loadu_ps(bias + v * LANES) : _mm512_setzero_ps();
    for (int64_t g = 0; g < groups; g++, codes += QUADS * 128, scales += 2 * PANEL) {
        __m512i ints[2][MOST_TOKENS];
#pragma GCC unroll 6
        for (int t = 0; t < count; t++) ints[0][t] = ints[1][t] = _mm512_setzero_si512();
#pragma GCC unroll 8
        for (int q = 0; q < QUADS; q++) {
            __m512i first = _mm512_load_si512(codes + q * 128);
            __m512i second = _mm512_load_si512(codes + q * 128 + 64);
#pragma GCC unroll 6
            for (int t = 0; t < count; t++) {
                int32_t four;
                memcpy(&four, a + (t * groups + g) * GROUP + q * 4, 4);
                ints[0][t] = _mm512_dpbusd_epi32(ints[0][t], first, _mm512_set1_epi32(four));
                ints[1][t] = _mm512_dpbusd_epi32(ints[1][t], second, _mm512_set1_epi32(four));
            }
        }
        __m512 scale[2] = {_mm512_load_ps(scales), _mm512_load_ps(scales + LANES)};
        __m512 minimum[2] = {_mm512_load_ps(scales + PANEL), _mm512_load_ps(scales + PANEL + LANES)};
#pragma GCC unroll 6
        for (int t = 0; t < count; t++) {
            __m512 a = _mm512_set1_ps(a_scale[t * groups + g]);
            __m512 sum = _mm512_set1_ps(a_sum[t * groups + g]);
#pragma GCC unroll 2
            for (int v = 0; v < 2; v++) {
                __m512 whole = _mm512_cvtepi32_ps(ints[v][t]);
                sums[v][t] = _mm512_fmadd_ps(whole, _mm512_mul_ps(scale[v], a), sums[v][t]);
                sums[v][t] = _mm512_fmadd_ps(minimum[v], sum, sums[v][t]);
            }
        }
    }
#pragma GCC unroll 6
    for (int t = 0; t < count; t++) {
        _mm512_storeu_ps(out + t * PANEL, sums[0][t]);
        _mm512_storeu_ps(out + t * PANEL + LANES, sums[1][t]);
    }
}

/* A panel as multiply_tile reads it. */
static void unpack(uint8_t *codes, float *scales, const Matrix *m, int64_t panel) {
    int64_t groups = m->cols / GROUP, code_bytes = m->bits * GROUP * PANEL / 8;
    const uint8_t *block = m->blocks + panel * groups * (4 * PANEL + code_bytes);
    for (int64_t g = 0; g < groups; g++, block += 4 * PANEL + code_bytes) {
        for (int v = 0; v < 4; v++) {
            __m256i half = _mm256_loadu_si256((const __m256i *)(block + v * 2 * LANES));
            _mm512_store_ps(scales + g * 2 * PANEL + v * LANES, _mm512_cvtph_ps(half));
        }
        uint8_t *to = codes + g * QUADS * 128;
        const uint8_t *from = block + 4 * PANEL;
        if (m->bits == 8) {
            memcpy(to, from, QUADS * 128);
            continue;
        }
        __m512i low = _mm512_set1_epi8(15);
        for (int q = 0; q < QUADS; q++) {
            __m512i both = _mm512_loadu_si512(from + q * 64);
            _mm512_store_si512(to + q * 128, _mm512_and_si512(both, low));
            _mm512_store_si512(to + q * 128 + 64, _mm512_and_si512(_mm512_srli_epi16(both, 4), low));
        }
    }
}

/* What becomes of a panel's sums, (count, 32) in `sums`. Of these, one is not NULL. */
typedef struct {
    float *plain;  /* (tokens, rows) */
    bf16 *narrow;  /* (tokens, rows); with `add`, the same plus it */
    const bf16 *add;
    float *gated;  /* (tokens, rows / 2): silu(first 16 of a panel) * second 16 */
} Results;

static void keep(const Results *to, const float *sums, int64_t token, int64_t panel, int64_t rows,
                 int64_t count) {
    for (int64_t t = 0; t < count; t++, sums += PANEL) {
        int64_t at = (token + t) * rows + panel * PANEL;
        if (to->plain) memcpy(to->plain + at, sums, PANEL * sizeof(float));
        else if (to->gated)
            for (int i = 0; i < LANES; i++) to->gated[at / 2 + i] = silu(sums[i]) * sums[LANES + i];
        else if (to->add)
            for (int i = 0; i < PANEL; i++) to->narrow[at + i] = narrow(sums[i] + widen(to->add[at + i]));
        else
            for (int i = 0; i < PANEL; i++) to->narrow[at + i] = narrow(sums[i]);
    }
}

typedef struct {
    const Results *to;
    const Matrix *matrix;
    const Bytes *bytes;
    int64_t tokens, share; /* panels of an item */
} Product;

static void multiply_panel(const Product *p, int64_t panel) {
    static _Thread_local uint8_t *codes; /* what unpack() fills; it grows with the matrices */
    static _Thread_local int64_t most_cols;
    const Matrix *m = p->matrix;
    int64_t groups = m->cols / GROUP, code_bytes = m->cols * PANEL;
    if (m->cols > most_cols) {
        free(codes);
        codes = aligned_alloc(64, code_bytes + groups * 2 * PANEL * sizeof(float));
        most_cols = m->cols;
    }
    float *scales = (float *)(codes + code_bytes);
    unpack(codes, scales, m, panel);
    const float *bias = m->bias ? m->bias + panel * PANEL : NULL;
    for (int64_t t = 0; t < p->tokens; t += MOST_TOKENS) {
        float sums[MOST_TOKENS * PANEL];
        int64_t count = p->tokens - t < MOST_TOKENS ? p->tokens - t : MOST_TOKENS;
#define TILE(COUNT)                                                                               \
    multiply_tile(sums, codes, scales, bias, p->bytes->codes + t * m->cols,                       \
                  p->bytes->scale + t * groups, p->bytes->sum + t * groups, groups, COUNT)
        switch (count) { /* a number that is known when this is compiled */
        case 1: TILE(1); break;
        case 2: TILE(2); break;
        case 3: TILE(3); break;
        case 4: TILE(4); break;
        case 5: TILE(5); break;
        default: TILE(6);
        }
        keep(p->to, sums, t, panel, m->rows, count);
    }
}

static void multiply_some(void *what, int64_t item) {
    const Product *p = what;
    int64_t panels = p->matrix->rows / PANEL, end = (item + 1) * p->share;
    for (int64_t i = item * p->share; i < (end < panels ? end : panels); i++) multiply_panel(p, i);
}

/* Of few tokens a panel is done sooner than the next could be asked for: several are an item. */
static void multiply(Results to, const Matrix *m, const Bytes *bytes, int64_t tokens, int threads) {
    int64_t panels = m->rows / PANEL, most = 4 * threads;
    int64_t share = tokens < MOST_TOKENS ? (panels + most - 1) / most : 1;
    Product product = {&to, m, bytes, tokens, share};
    run_items(multiply_some, &product, (panels + share - 1) / share, threads);
}

/* --- a layer --------------------------------------------------------------------------------- */

typedef struct {
    const Layer *layer;
    bf16 *from, *to;
    const bf16 *cos, *sin;
    int64_t tokens;
} Turning;

static void turn_some(void *what, int64_t piece) {
    const Turning *w = what;
    const Layer *l = w->layer;
    int64_t turning = l->heads + l->kv_heads, dim = l->dim, width = l->qkv.rows;
    int64_t end = (piece + 1) * SOME_TOKENS < w->tokens ? (piece + 1) * SOME_TOKENS : w->tokens;
    for (int64_t t = piece * SOME_TOKENS; t < end; t++) {
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
    bf16 *unturned = malloc(most * width * sizeof(bf16));
    for (int64_t first = 0; first < tokens; first += most) {
        int64_t count = tokens - first < most ? tokens - first : most, at = first * l->dim / 2;
        const bf16 *some = x + first * l->hidden;
        quantize((Rounding){&normed, some, NULL, l->first_norm, l->eps, count}, threads);
        multiply((Results){.narrow = unturned}, &l->qkv, &normed, count, threads);
        Turning turning = {l, unturned, qkv + first * width, cos + at, sin + at, count};
        run_items(turn_some, &turning, (count + SOME_TOKENS - 1) / SOME_TOKENS, threads);
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
    bf16 *middle = malloc(most * l->hidden * sizeof(bf16));
    float *gated = malloc(most * l->down.cols * sizeof(float));
    for (int64_t first = 0; first < tokens; first += most) {
        int64_t count = tokens - first < most ? tokens - first : most, at = first * l->hidden;
        const bf16 *some = attended + first * l->o.cols;
        quantize((Rounding){&heads, some, NULL, NULL, 0, count}, threads);
        multiply((Results){.narrow = middle, .add = x + at}, &l->o, &heads, count, threads);
        quantize((Rounding){&normed, middle, NULL, l->second_norm, l->eps, count}, threads);
        multiply((Results){.gated = gated}, &l->gate_up, &normed, count, threads);
        quantize((Rounding){&inner, NULL, gated, NULL, 0, count}, threads);
        multiply((Results){.narrow = out + at, .add = middle}, &l->down, &inner, count, threads);
    }
    free_bytes(heads), free_bytes(normed), free_bytes(inner), free(middle), free(gated);
}

/* y = x W^T, not rounded. x: (tokens, cols); y: (tokens, rows) */
void quantized_linear(float *y, const bf16 *x, const Matrix *m, int64_t tokens, int threads) {
    Bytes bytes = new_bytes(tokens, m->cols);
    quantize((Rounding){&bytes, x, NULL, NULL, 0, tokens}, threads);
    multiply((Results){.plain = y}, m, &bytes, tokens, threads);
    free_bytes(bytes);
}

#else

int has_quantized(void) { return 0; }
void layer_before(bf16 *qkv, const bf16 *x, const Layer *l, const bf16 *cos, const bf16 *sin,
                  int64_t tokens, int threads) {}
void layer_after(bf16 *out, const bf16 *attended, const bf16 *x, const Layer *l, int64_t tokens,
                 int threads) {}
void quantized_linear(float *y, const bf16 *x, const Matrix *m, int64_t tokens, int threads) {}

#endif
