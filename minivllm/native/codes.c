/* Rounding and products of codes.h, by AVX-512 VNNI. */
#include "codes.h"
#include "pool.h"

#ifdef __AVX512VNNI__

/* Four columns are one instruction; of six tokens the sums are 24 of the 32 registers. */
enum { QUADS = GROUP / 4, MOST_TOKENS = 6 };

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

static void round_some(void *what, int64_t item) {
    const Rounding *r = what;
    for (int64_t t = item * SOME; t < end_of(item, r->tokens); t++) round_token(r, t);
}

void round_to_bytes(Rounding r, int threads) {
    run_items(round_some, &r, items_of(r.tokens), threads);
}

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
        codes = allocate(code_bytes + groups * 2 * PANEL * sizeof(float));
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
void multiply_codes(Results to, const Matrix *m, const Bytes *x, int64_t tokens, int threads) {
    int64_t panels = m->rows / PANEL, most = 4 * threads;
    int64_t share = tokens < MOST_TOKENS ? (panels + most - 1) / most : 1;
    Product product = {&to, m, x, tokens, share};
    run_items(multiply_some, &product, (panels + share - 1) / share, threads);
}

#else

void round_to_bytes(Rounding r, int threads) {}
void multiply_codes(Results to, const Matrix *m, const Bytes *x, int64_t tokens, int threads) {}

#endif
