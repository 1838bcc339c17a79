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

#include <omp.h>

enum { GROUP = 32, PANEL = 32, QUADS = GROUP / 4, MOST_TOKENS = 6, FEW = 8, TOKENS_AT_ONCE = 252 };

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
    int shared; /* by all threads; else each has its own */
} Bytes;

/* One for all threads, or (of few tokens) one for each. */
static Bytes *new_bytes(int64_t tokens, int64_t cols, int threads) {
    int shared = tokens >= FEW, count = shared ? 1 : threads;
    Bytes *all = malloc(count * sizeof(Bytes));
    for (int i = 0; i < count; i++) {
        float *numbers = malloc(tokens * cols / GROUP * 2 * sizeof(float));
        all[i] = (Bytes){malloc(tokens * cols), numbers, numbers + tokens * cols / GROUP, cols, shared};
    }
    return all;
}

static const Bytes *mine(const Bytes *all) { return all->shared ? all : all + omp_get_thread_num(); }

static void free_bytes(Bytes *all, int threads) {
    int count = all->shared ? 1 : threads;
    for (int i = 0; i < count; i++) free(all[i].codes), free(all[i].scale);
    free(all);
}

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

/* Of the tokens, the threads that are there take turns; then they wait for each other. Of few, each
 * does all, into bytes of its own: to wait takes longer, and far longer where a core is busy. */
static inline int64_t first_of(const Bytes *b) { return b->shared ? omp_get_thread_num() : 0; }
static inline int64_t step_of(const Bytes *b) { return b->shared ? omp_get_num_threads() : 1; }
static inline void wait_if_shared(const Bytes *b) {
    if (b->shared) {
#pragma omp barrier
    }
}

static void quantize_floats(const Bytes *b, const float *x, int64_t tokens) {
    for (int64_t t = first_of(b); t < tokens; t += step_of(b))
        for (int64_t g = 0; g < b->cols / GROUP; g++) {
            const float *from = x + t * b->cols + g * GROUP;
            quantize_group(b, t, g, _mm512_loadu_ps(from), _mm512_loadu_ps(from + LANES));
        }
    wait_if_shared(b);
}

/* With `weight`: of the norm, as in rms_norm. */
static void quantize_rows(const Bytes *b, const bf16 *x, const bf16 *weight, float eps,
                          int64_t tokens) {
    for (int64_t t = first_of(b); t < tokens; t += step_of(b)) {
        const bf16 *row = x + t * b->cols;
        __m512 scale = _mm512_set1_ps(weight ? inverse_root_mean_square(row, b->cols, eps) : 1.f);
        for (int64_t g = 0; g < b->cols / GROUP; g++) {
            __m512 low = widen_lanes(row + g * GROUP);
            __m512 high = widen_lanes(row + g * GROUP + LANES);
            if (weight) {
                const bf16 *w = weight + g * GROUP;
                low = _mm512_mul_ps(_mm512_mul_ps(low, scale), widen_lanes(w));
                high = _mm512_mul_ps(_mm512_mul_ps(high, scale), widen_lanes(w + LANES));
            }
            quantize_group(b, t, g, low, high);
        }
    }
    wait_if_shared(b);
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

/* The panels are dealt out; nobody waits at the end. */
static void multiply(const Results *to, const Matrix *m, const Bytes *b, int64_t tokens) {
    int64_t groups = m->cols / GROUP;
    uint8_t *codes = aligned_alloc(64, m->cols * PANEL);
    float *scales = aligned_alloc(64, groups * 2 * PANEL * sizeof(float));
    /* Many tokens: whoever is free takes the next panel. Few: to ask would cost more than to wait. */
    int64_t panels = m->rows / PANEL, threads = omp_get_num_threads();
    int64_t share = tokens < FEW ? (panels + threads - 1) / threads : 1;
#pragma omp for schedule(dynamic, share) nowait
    for (int64_t panel = 0; panel < panels; panel++) {
        unpack(codes, scales, m, panel);
        const float *bias = m->bias ? m->bias + panel * PANEL : NULL;
        for (int64_t t = 0; t < tokens; t += MOST_TOKENS) {
            float sums[MOST_TOKENS * PANEL];
            int64_t count = tokens - t < MOST_TOKENS ? tokens - t : MOST_TOKENS;
#define TILE(COUNT)                                                                            \
    multiply_tile(sums, codes, scales, bias, b->codes + t * m->cols, b->scale + t * groups,    \
                  b->sum + t * groups, groups, COUNT)
            switch (count) { /* a number that is known when this is compiled */
            case 1: TILE(1); break;
            case 2: TILE(2); break;
            case 3: TILE(3); break;
            case 4: TILE(4); break;
            case 5: TILE(5); break;
            default: TILE(6);
            }
            keep(to, sums, t, panel, m->rows, count);
        }
    }
    free(codes), free(scales);
}

/* --- a layer --------------------------------------------------------------------------------- */

/* norm - q|k|v - rotate, as far as attention.
 * x: (tokens, hidden); cos, sin: (tokens, dim / 2); qkv: (tokens, q + k + v) */
void layer_before(bf16 *qkv, const bf16 *x, const Layer *l, const bf16 *cos, const bf16 *sin,
                  int64_t tokens, int threads) {
    int64_t most = tokens < TOKENS_AT_ONCE ? tokens : TOKENS_AT_ONCE, width = l->qkv.rows;
    int64_t turning = l->heads + l->kv_heads, dim = l->dim;
    Bytes *all = new_bytes(most, l->hidden, threads);
    bf16 *unturned = malloc(most * width * sizeof(bf16));
#pragma omp parallel num_threads(threads)
    for (int64_t first = 0; first < tokens; first += most) {
        const Bytes *normed = mine(all);
        int64_t count = tokens - first < most ? tokens - first : most;
        quantize_rows(normed, x + first * l->hidden, l->first_norm, l->eps, count);
        multiply(&(Results){.narrow = unturned}, &l->qkv, normed, count);
#pragma omp barrier
#pragma omp for schedule(static) nowait
        for (int64_t t = 0; t < count; t++) {
            bf16 *from = unturned + t * width, *to = qkv + (first + t) * width;
            const bf16 *c = cos + (first + t) * dim / 2, *s = sin + (first + t) * dim / 2;
            for (int64_t h = 0; h < turning; h++) {
                bf16 *head = from + h * dim;
                const bf16 *weight = h < l->heads ? l->q_norm : l->k_norm;
                if (weight) {
                    float scale = inverse_root_mean_square(head, dim, l->eps);
                    for (int64_t i = 0; i < dim; i++)
                        head[i] = narrow(widen(head[i]) * scale * widen(weight[i]));
                }
                turn(to + h * dim, head, c, s, dim);
            }
            memcpy(to + turning * dim, from + turning * dim, l->kv_heads * dim * sizeof(bf16));
        }
    }
    free_bytes(all, threads), free(unturned);
}

/* o + - norm - silu(gate) * up - down +, from attention on.
 * attended: (tokens, q); x, out: (tokens, hidden) */
void layer_after(bf16 *out, const bf16 *attended, const bf16 *x, const Layer *l, int64_t tokens,
                 int threads) {
    int64_t most = tokens < TOKENS_AT_ONCE ? tokens : TOKENS_AT_ONCE, hidden = l->hidden;
    Bytes *all_heads = new_bytes(most, l->o.cols, threads);
    Bytes *all_normed = new_bytes(most, hidden, threads);
    Bytes *all_inner = new_bytes(most, l->down.cols, threads);
    bf16 *middle = malloc(most * hidden * sizeof(bf16));
    float *gated = malloc(most * l->down.cols * sizeof(float));
#pragma omp parallel num_threads(threads)
    for (int64_t first = 0; first < tokens; first += most) {
        const Bytes *heads = mine(all_heads), *normed = mine(all_normed);
        const Bytes *inner = mine(all_inner);
        int64_t count = tokens - first < most ? tokens - first : most;
        quantize_rows(heads, attended + first * l->o.cols, NULL, 0, count);
        multiply(&(Results){.narrow = middle, .add = x + first * hidden}, &l->o, heads, count);
#pragma omp barrier
        quantize_rows(normed, middle, l->second_norm, l->eps, count);
        multiply(&(Results){.gated = gated}, &l->gate_up, normed, count);
#pragma omp barrier
        quantize_floats(inner, gated, count);
        multiply(&(Results){.narrow = out + first * hidden, .add = middle}, &l->down, inner, count);
    }
    free_bytes(all_heads, threads), free_bytes(all_normed, threads);
    free_bytes(all_inner, threads), free(middle), free(gated);
}

/* y = x W^T, not rounded. x: (tokens, cols); y: (tokens, rows) */
void quantized_linear(float *y, const bf16 *x, const Matrix *m, int64_t tokens, int threads) {
    Bytes *all = new_bytes(tokens, m->cols, threads);
#pragma omp parallel num_threads(threads)
    {
        quantize_rows(mine(all), x, NULL, 0, tokens);
        multiply(&(Results){.plain = y}, m, mine(all), tokens);
    }
    free_bytes(all, threads);
}

#else

int has_quantized(void) { return 0; }
void layer_before(bf16 *qkv, const bf16 *x, const Layer *l, const bf16 *cos, const bf16 *sin,
                  int64_t tokens, int threads) {}
void layer_after(bf16 *out, const bf16 *attended, const bf16 *x, const Layer *l, int64_t tokens,
                 int threads) {}
void quantized_linear(float *y, const bf16 *x, const Matrix *m, int64_t tokens, int threads) {}

#endif
