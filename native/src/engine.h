// The core at one instruction level: include a simd_*.h first, then this, in a file of its own.
#pragma once

#include "levels.h"
#include "pool.h"

#include "arena.h"

#include "tiles.h"

#include "blocks.h"

#include "pack.h"

#include "activations.h"

#include "cells.h"

#include "multiply.h"

#include "steps.h"

#include "slices.h"

#include "forward.h"

#include "products.h"

#include "backward.h"

#include "streaming.h"

#include "top.h"

#include "decoding.h"

#include "heads.h"

namespace {

// so many rounds of products whose operands stay in registers
template <class Dot> double peak_rounds(int64_t rounds) {
    constexpr int N = REGISTERS == 32 ? 24 : 10;
    typename Dot::Sum sum[N];
    // sums that differ, of numbers the compiler does not know: it must neither merge nor drop any
    volatile uint32_t unknown[N];
    alignas(64) uint32_t numbers[N][W];
    for (int j = 0; j < N; j++) {
        unknown[j] = 0x01010101u + static_cast<uint32_t>(j);
        for (int i = 0; i < W; i++) numbers[j][i] = unknown[j];
    }
    const typename Dot::Value a = Dot::weights(numbers[0]), b = Dot::weights(numbers[1]);
#pragma GCC unroll 24
    for (int j = 0; j < N; j++)
        sum[j] = Dot::add_product(Dot::zero(), a, Dot::weights(numbers[j]));
    for (int64_t r = 0; r < rounds; r++)
#pragma GCC unroll 24
        for (int j = 0; j < N; j++) sum[j] = Dot::add_product(sum[j], a, b);
    V total = set1(0);
#pragma GCC unroll 24
    for (int j = 0; j < N; j++) total = add(total, Dot::finish(sum[j], set1(1), set1(0), 1.0f));
    volatile float kept = largest(total);
    (void)kept;
    return static_cast<double>(rounds) * N * W * Dot::per_unit * 2;
}

inline double peak(int32_t precision, int64_t rounds) {
#if defined(__AMX_BF16__)
    if (precision == UNROLLED_BF16) {
        const MatrixUnit unit(precision);
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        _tile_zero(4);
        _tile_zero(5);
        for (int64_t r = 0; r < rounds; r++) {
            _tile_dpbf16ps(0, 4, 5);
            _tile_dpbf16ps(1, 4, 5);
            _tile_dpbf16ps(2, 4, 5);
            _tile_dpbf16ps(3, 4, 5);
        }
        return static_cast<double>(rounds) * 4 * 16 * 16 * 32 * 2;
    }
#endif
    if (precision == UNROLLED_BF16) return peak_rounds<Bf16>(rounds);
    if (precision == UNROLLED_INT8) return peak_rounds<Int8>(rounds);
    return peak_rounds<Fp32>(rounds);
}

inline double read_all(const char *from, int64_t bytes) {
    const float *p = reinterpret_cast<const float *>(from);
    const int64_t n = bytes / 4;
    V sum[8];
    for (int j = 0; j < 8; j++) sum[j] = set1(0);
    int64_t i = 0;
    for (; i + 8 * W <= n; i += 8 * W)
#pragma GCC unroll 8
        for (int j = 0; j < 8; j++) sum[j] = add(sum[j], load(p + i + j * W));
    for (int j = 1; j < 8; j++) sum[0] = add(sum[0], sum[j]);
    return largest(sum[0]);
}

} // namespace

#define UNROLLED_DEFINE_LEVEL(NAME)                                                                \
    extern const Level NAME;                                                                       \
    const Level NAME = {.width = W,                                                                \
                        .forward = forward,                                                        \
                        .backward = backward,                                                      \
                        .matmul = matmul,                                                          \
                        .plan = plan,                                                              \
                        .plan_product = plan_product,                                              \
                        .fill = fill,                                                              \
                        .carve_layer = carve_layer,                                                \
                        .carve_linear = carve_linear,                                              \
                        .step_layer = step_layer,                                                  \
                        .step_linear = step_linear,                                                \
                        .decode = decode,                                                          \
                        .top = top,                                                                \
                        .peak = peak,                                                              \
                        .read = read_all};
