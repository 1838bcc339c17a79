/* Numbers: bfloat16 in memory, float32 in registers, sixteen at a time.
 *
 * Plain C with the compiler's vectors: it builds with gcc and clang for any CPU, and the width of
 * the registers is the compiler's business. What only some CPUs have is asked for by its macro. */
#pragma once
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

typedef uint16_t bf16;
enum { LANES = 16 };
typedef float vec __attribute__((vector_size(64), aligned(4), may_alias));

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

#define LOG2_E 1.44269504f

/* 2^y for moderate y: 2^n by the exponent's bits, 2^f for |f| <= 1/2 by a polynomial. */
static inline float fast_exp2(float y) {
    y = y < -126.f ? -126.f : y > 126.f ? 126.f : y;
    float n = __builtin_rintf(y);
    float f = y - n;
    float p = 1.f + f * (0.693147182f + f * (0.240226462f + f * (0.0555033f + f * (0.00961850f
            + f * 0.00133989f))));
    union { int32_t bits; float value; } u = {((int32_t)n + 127) << 23};
    return p * u.value;
}

static inline float silu(float x) { return x / (1.f + fast_exp2(-x * LOG2_E)); }

/* What a norm multiplies by: one over the root of the mean square. */
static inline float inverse_root_mean_square(const bf16 *x, int64_t size, float eps) {
    float squares = 0;
    for (int64_t i = 0; i < size; i++) squares += widen(x[i]) * widen(x[i]);
    return 1.f / sqrtf(squares / size + eps);
}

/* Turn a head's pairs (i, i + dim / 2) by its token's angles. x, to: (dim); c, s: (dim / 2) */
static inline void turn(bf16 *restrict to, const bf16 *restrict x, const bf16 *restrict c,
                        const bf16 *restrict s, int64_t dim) {
    int64_t half = dim / 2;
    for (int64_t i = 0; i < half; i++) {
        float a = widen(x[i]), b = widen(x[half + i]);
        to[i] = narrow(a * widen(c[i]) - b * widen(s[i]));
        to[half + i] = narrow(b * widen(c[i]) + a * widen(s[i]));
    }
}

/* Memory, by cache lines. Where there is none the process ends and says so: a step cannot go on. */
static inline void *allocate(size_t bytes) {
    void *memory = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!memory && bytes) fprintf(stderr, "minivllm: no memory for %zu bytes of a step\n", bytes), abort();
    return memory;
}
