// Weights in blocks of 32 with a scale each, as GGUF keeps them: Q8_0 in 8 bits, Q4_0 in 4.
//
// Two blocks of a column stand together. In a panel: for every vector of columns a unit that holds both
// scales in fp16, then the units of both blocks, whose numbers are unsigned: 128, or 8, is added to
// them. A row holds, for every two blocks, their numbers as signed bytes and for each its scale and
// what the 128 or 8 adds to its sums. Sums of a block are whole numbers; blocks are added in order.
#pragma once

namespace {

constexpr int64_t BLOCK_NUMBERS = 32, PAIR_NUMBERS = 64;
constexpr int64_t BLOCK_UNITS = 8;                    // of four bytes each
constexpr int64_t PAIR_UNITS = 2 * BLOCK_UNITS + 4;   // of a row: numbers, scales and corrections

inline int64_t pairs_of(int64_t k) { return (k + PAIR_NUMBERS - 1) / PAIR_NUMBERS; }

// units of a panel for every vector of columns: scales and numbers
inline int64_t block_units(int32_t precision, int64_t k) {
    return pairs_of(k) * (1 + (precision == UNROLLED_Q8_0 ? 2 : 1) * BLOCK_UNITS);
}

// what is added to every number
constexpr float shift_of(int32_t precision) { return precision == UNROLLED_Q8_0 ? 128.0f : 8.0f; }

// fp16 in the low half of each lane; scales are finite
inline V from_half(VU half) {
    const VU size = shift_left<13>(both(half, set1_bits(0x7fff)));
    const VU sign = shift_left<16>(both(half, set1_bits(0x8000)));
    // 2^112 brings the exponent to its place
    const V far = set1(5192296858534827628530496329220096.0f);
    const V power = mul(as_float(both(size, set1_bits(0x0f800000))), far);
    // numbers without an exponent count 2^-24, by a sum: a program may take denormals for 0
    const VU smallest = set1_bits(0x38800000);
    const V small = sub(as_float(either(both(size, set1_bits(0x007fe000)), smallest)), as_float(smallest));
    const V least = set1(3.0517578125e-05f); // half of the smallest power
    const V whole = add(unless_below(power, 3.0517578125e-05f, mul(as_float(size), far)),
                        where_positive(sub(least, power), small));
    return as_float(either(as_bits(whole), sign));
}

// ---- tiles -------------------------------------------------------------------------------------

// Rows that are `lda` apart times a panel of N vectors; heights up to block_rows.
template <int M, int N, bool Eight> void block_tile(const TileWork &work) {
    const uint32_t *b = reinterpret_cast<const uint32_t *>(work.panel);
    const char *next = work.next;
    V total[M][N];
#pragma GCC unroll 16
    for (int i = 0; i < M; i++)
#pragma GCC unroll 16
        for (int j = 0; j < N; j++) total[i][j] = set1(0);
    for (int64_t at = 0; at < work.units; at += PAIR_UNITS) {
        const uint32_t *scales = b;
        b += N * W;
        for (int block = 0; block < 2; block++) {
            const uint32_t *a = work.a + at + block * BLOCK_UNITS;
            typename Int8::Sum sum[M][N];
#pragma GCC unroll 16
            for (int i = 0; i < M; i++)
#pragma GCC unroll 16
                for (int j = 0; j < N; j++) sum[i][j] = Int8::zero();
            for (int64_t u = 0; u < BLOCK_UNITS; u += Eight ? 1 : 2) {
                VU w[N];
#pragma GCC unroll 16
                for (int j = 0; j < N; j++) w[j] = load(b + j * W);
                b += N * W;
                if (M > 1) {
                    ahead(next);
                    next += work.next_step;
                }
#pragma GCC unroll 2
                for (int nibble = 0; nibble < (Eight ? 1 : 2); nibble++) {
#pragma GCC unroll 16
                    for (int i = 0; i < M; i++) {
                        const VU x = Int8::broadcast(a + i * work.lda + u + nibble);
#pragma GCC unroll 16
                        for (int j = 0; j < N; j++) {
                            VU v = w[j];
                            if (!Eight) v = both(nibble ? shift_right<4>(v) : v, set1_bits(0x0f0f0f0f));
                            sum[i][j] = Int8::add_product(sum[i][j], v, x);
                        }
                    }
                }
            }
            V scale[N];
#pragma GCC unroll 16
            for (int j = 0; j < N; j++) {
                const VU halves = load(scales + j * W);
                scale[j] = from_half(block ? shift_right16(halves) : both(halves, set1_bits(0xffff)));
            }
#pragma GCC unroll 16
            for (int i = 0; i < M; i++) {
                float of_row[2]; // scale and correction
                memcpy(of_row, work.a + at + i * work.lda + 2 * BLOCK_UNITS + 2 * block, sizeof of_row);
#pragma GCC unroll 16
                for (int j = 0; j < N; j++)
                    total[i][j] = add(total[i][j], Int8::finish(sum[i][j], scale[j],
                                                                set1(of_row[1]), of_row[0]));
            }
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < M; i++)
#pragma GCC unroll 16
        for (int j = 0; j < N; j++) store(work.out + (i * N + j) * W, total[i][j]);
}

template <int N, bool Eight> Tile block_tile_of(int m) {
    constexpr int most = block_rows(N);
#define UNROLLED_TILE(M)                                                                           \
    case M:                                                                                        \
        return block_tile<(M <= most ? M : most), N, Eight>;
    switch (m) {
        UNROLLED_TILE(1)
        UNROLLED_TILE(2)
        UNROLLED_TILE(3)
        UNROLLED_TILE(4)
        UNROLLED_TILE(5)
        UNROLLED_TILE(6)
    }
#undef UNROLLED_TILE
    return nullptr;
}

inline Tile block_tile(int32_t precision, int vectors, int m) {
    if (precision == UNROLLED_Q8_0)
        return vectors == 3 ? block_tile_of<3, true>(m) : block_tile_of<2, true>(m);
    return vectors == 3 ? block_tile_of<3, false>(m) : block_tile_of<2, false>(m);
}

// ---- numbers -----------------------------------------------------------------------------------

// Smaller numbers than this in a row or a column count as zeros: their scale has no inverse.
constexpr float LEAST = 1e-30f;

inline float largest_size(const float *from, int64_t k); // see pack.h

// to the nearest, away from zero between two
inline int32_t nearest(float v) { return static_cast<int32_t>(v + (v < 0 ? -0.5f : 0.5f)); }

// The numbers of a row, a block at a time; what lies behind the last is zero.
inline void put_row_blocks(uint32_t *row, int64_t k, float shift, const float *from) {
    alignas(64) float numbers[BLOCK_NUMBERS];
    for (int64_t pair = 0; pair < pairs_of(k); pair++, row += PAIR_UNITS) {
        float *scales = reinterpret_cast<float *>(row + 2 * BLOCK_UNITS);
        for (int64_t block = 0; block < 2; block++) {
            const int64_t first = pair * PAIR_NUMBERS + block * BLOCK_NUMBERS;
            int64_t count = k - first;
            count = count < 0 ? 0 : count > BLOCK_NUMBERS ? BLOCK_NUMBERS : count;
            for (int64_t i = 0; i < BLOCK_NUMBERS; i += W) {
                const int64_t left = count - i;
                const int n = left <= 0 ? 0 : left < W ? static_cast<int>(left) : W;
                store(numbers + i, n ? load(from + first + i, n) : set1(0));
            }
            const float top = largest_size(numbers, BLOCK_NUMBERS);
            // a block with inf or NaN has no scale: its sums are NaN, as in the equations
            const bool usable = top >= LEAST;
            const float inverse = usable ? 127.0f / top : 0.0f;
            int8_t *bytes = reinterpret_cast<int8_t *>(row + block * BLOCK_UNITS);
            int32_t sum = 0;
            for (int64_t i = 0; i < BLOCK_NUMBERS; i++) {
                const int32_t number = usable ? nearest(numbers[i] * inverse) : 0;
                bytes[i] = static_cast<int8_t>(number);
                sum += number;
            }
            scales[2 * block] = usable ? top / 127.0f : top == top ? 0.0f : top;
            scales[2 * block + 1] = shift * static_cast<float>(sum);
        }
    }
}

// fp16 of a finite number: to nearest, ties to even; the largest there is where it is larger
inline uint32_t to_half(float number) {
    uint32_t bits;
    memcpy(&bits, &number, sizeof bits);
    const uint32_t sign = bits >> 16 & 0x8000u;
    float size = __builtin_fabsf(number);
    if (size >= 65520.0f) return sign | 0x7bffu;
    if (size < 6.103515625e-05f) // below the normal ones: steps of 2^-24
        return sign | static_cast<uint32_t>(__builtin_rintf(size * 16777216.0f));
    memcpy(&bits, &size, sizeof bits);
    return sign | ((bits + 0xfffu + (bits >> 13 & 1u) - 0x38000000u) >> 13);
}

// What one block of a column becomes: its numbers, shifted, and its scale; as GGUF's writers round.
struct ColumnBlock {
    uint8_t numbers[BLOCK_NUMBERS];
    uint32_t scale;
};

// a number of fp16
inline float half_number(uint32_t half) {
    const float size = static_cast<float>(half & 0x3ffu);
    const int32_t exponent = static_cast<int32_t>(half >> 10 & 0x1fu);
    const float number = exponent ? __builtin_ldexpf(size + 1024.0f, exponent - 25)
                                  : __builtin_ldexpf(size, -24);
    return half & 0x8000u ? -number : number;
}

// Whether all numbers of a block are this scale times a whole number from `least` to `most`.
inline bool counts_all(float scale, const float *from, int64_t count, float least, float most) {
    if (scale == 0.0f) return false;
    for (int64_t i = 0; i < count; i++) {
        const float whole = __builtin_rintf(from[i] / scale);
        if (whole < least || whole > most || whole * scale != from[i]) return false;
    }
    return true;
}

// The scale of a block whose largest number by size is `top`: the one by which all its numbers are
// whole, where there is one, as in what was read from a block; else as GGUF's writers choose.
inline float scale_of(bool eight, float top, const float *from, int64_t count) {
    const float usual = eight ? __builtin_fabsf(top) / 127.0f : top / -8.0f;
    const float least = eight ? -128.0f : -8.0f, most = eight ? 127.0f : 7.0f;
    // rows of GGUF are whole blocks
    for (int32_t part = count < BLOCK_NUMBERS ? 0 : eight ? 128 : 8; part > 0; part--) {
        // of most parts one number tells that they are none
        const float counted = from[0] / top * static_cast<float>(part);
        if (__builtin_fabsf(counted - __builtin_rintf(counted)) > 1e-3f) continue;
        for (int32_t sign = -1; sign <= 1; sign += 2) {
            const float scale = half_number(to_half(top / static_cast<float>(sign * part)));
            if (counts_all(scale, from, count, least, most)) return scale;
        }
    }
    return usual;
}

inline ColumnBlock column_block(int32_t precision, const float *from, int64_t count) {
    const bool eight = precision == UNROLLED_Q8_0;
    float top = 0; // the largest by size
    for (int64_t i = 0; i < count; i++)
        if (__builtin_fabsf(from[i]) > __builtin_fabsf(top)) top = from[i];
    const bool usable = __builtin_fabsf(top) >= LEAST;
    const float scale = usable ? scale_of(eight, top, from, count) : 0.0f;
    const float inverse = usable ? 1.0f / scale : 0.0f;
    ColumnBlock made;
    made.scale = to_half(scale);
    for (int64_t i = 0; i < BLOCK_NUMBERS; i++) {
        const float v = i < count ? from[i] * inverse : 0.0f;
        int32_t number = nearest(v) + 128;
        if (!eight) {
            number = static_cast<int32_t>(v + 8.5f);
            number = number > 15 ? 15 : number;
        }
        made.numbers[i] = static_cast<uint8_t>(number);
    }
    return made;
}

// One column of a panel: k numbers as `units` units, which stand `step` apart; zeros behind the last.
inline void put_column(int32_t precision, const float *from, int64_t k, int64_t units, uint32_t *to,
                       int64_t step) {
    const uint32_t *end = to + units * step;
    for (int64_t pair = 0; to != end; pair++) {
        uint32_t *scales = to;
        *scales = 0;
        to += step;
        for (int64_t block = 0; block < 2; block++) {
            const int64_t first = pair * PAIR_NUMBERS + block * BLOCK_NUMBERS, left = k - first;
            const int64_t count = left < 0 ? 0 : left > BLOCK_NUMBERS ? BLOCK_NUMBERS : left;
            const ColumnBlock made = column_block(precision, from + (count ? first : 0), count);
            *scales |= made.scale << (16 * block);
            for (int64_t u = 0; u < BLOCK_UNITS; u += precision == UNROLLED_Q8_0 ? 1 : 2) {
                uint32_t unit;
                memcpy(&unit, made.numbers + 4 * u, sizeof unit);
                if (precision == UNROLLED_Q4_0) {
                    uint32_t high;
                    memcpy(&high, made.numbers + 4 * u + 4, sizeof high);
                    unit |= high << 4;
                }
                *to = unit;
                to += step;
            }
        }
    }
}

} // namespace
