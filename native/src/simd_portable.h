// Vectors of four lanes by the compiler's own vector types: SSE2, NEON or whatever there is.
// Every level's header defines the same names; engine.h is written in them.
#pragma once

#include <cstdint>
#include <cstring>

namespace {

constexpr int W = 4;          // lanes
constexpr int REGISTERS = 16; // that a tile may count on
typedef float V __attribute__((vector_size(16)));
typedef int32_t VI __attribute__((vector_size(16)));
typedef uint32_t VU __attribute__((vector_size(16)));

inline V set1(float a) { return V{a, a, a, a}; }
inline V load(const float *p) {
    V v;
    memcpy(&v, p, sizeof v);
    return v;
}
inline void store(float *p, V v) { memcpy(p, &v, sizeof v); }
// n of the lanes alone, the others zero
inline V load(const float *p, int n) {
    V v = {0, 0, 0, 0};
    memcpy(&v, p, static_cast<size_t>(n) * sizeof(float));
    return v;
}
inline void store(float *p, V v, int n) { memcpy(p, &v, static_cast<size_t>(n) * sizeof(float)); }
inline V fma(V a, V b, V c) { return a * b + c; }
inline V add(V a, V b) { return a + b; }
inline V sub(V a, V b) { return a - b; }
inline V mul(V a, V b) { return a * b; }
inline V quotient(V a, V b) { return a / b; }
inline V choose(VI mask, V yes, V no) {
    return reinterpret_cast<V>((reinterpret_cast<VI>(yes) & mask) | (reinterpret_cast<VI>(no) & ~mask));
}
// NaN stays NaN
inline V at_least(V v, float low) { return choose(v < set1(low), set1(low), v); }
inline V at_most(V v, float high) { return choose(v > set1(high), set1(high), v); }
// zero where `test` is at most 0, or below a bound; a NaN in it lets v through
inline V where_positive(V test, V v) { return choose(test <= set1(0), set1(0), v); }
inline V unless_below(V test, float low, V v) { return choose(test < set1(low), set1(0), v); }
inline V magnitude(V v) {
    return reinterpret_cast<V>(reinterpret_cast<VU>(v) & (VU{} + 0x7fffffffu));
}
inline V with_sign(V size, V sign) {
    const VU bit = VU{} + 0x80000000u;
    return reinterpret_cast<V>((reinterpret_cast<VU>(size) & ~bit) | (reinterpret_cast<VU>(sign) & bit));
}
// to the nearest whole number, for |v| < 2^22; adding 1.5 * 2^23 leaves no room for a fraction
inline V rounded(V v) {
    const V big = set1(12582912.0f);
    return (v + big) - big;
}
// 2^n for whole n in [-126, 127]
inline V power_of_2(V n) {
    const VI whole = __builtin_convertvector(n, VI);
    return reinterpret_cast<V>((whole + 127) << 23);
}
inline V larger(V a, V b) { return choose(a < b, b, a); }
inline bool any_above(V v, float low) {
    const VI above = v > set1(low);
    return (above[0] | above[1] | above[2] | above[3]) != 0;
}
inline float sum_of(V v) {
    float s = v[0];
    for (int i = 1; i < W; i++) s += v[i];
    return s;
}
inline float largest(V v) {
    float m = v[0];
    for (int i = 1; i < W; i++) m = v[i] > m ? v[i] : m;
    return m;
}

// past the caches where there is an instruction for it; `streamed` before another thread may read it
inline void stream(float *p, V v) { store(p, v); }
inline void streamed() {}

inline VU load(const uint32_t *p) {
    VU v;
    memcpy(&v, p, sizeof v);
    return v;
}
inline void store(uint32_t *p, VU v) { memcpy(p, &v, sizeof v); }
inline VU as_bits(V v) { return reinterpret_cast<VU>(v); }
inline V as_float(VU v) { return reinterpret_cast<V>(v); }
inline VU both(VU a, VU b) { return a & b; }
inline VU either(VU a, VU b) { return a | b; }
inline VU shift_left16(VU v) { return v << 16; }
inline VU shift_right16(VU v) { return v >> 16; }
template <int n> inline VU shift_left(VU v) { return v << n; }
template <int n> inline VU shift_right(VU v) { return v >> n; }
inline VU set1_bits(uint32_t a) { return VU{a, a, a, a}; }
// bf16 in the low half of each lane: to nearest, ties to even; NaN stays NaN
inline VU to_bf16(V v) {
    const VU bits = as_bits(v);
    const VU near = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const VI nan = v != v;
    return (near & reinterpret_cast<VU>(~nan)) | (((bits >> 16) | 0x40u) & reinterpret_cast<VU>(nan));
}
inline void store_bf16(uint16_t *p, V v, int n) {
    const VU low = to_bf16(v);
    for (int i = 0; i < n; i++) p[i] = static_cast<uint16_t>(low[i]);
}

// numbers in [0, 256), cut to whole ones
inline void store_bytes(uint8_t *p, V v, int n) {
    const VI whole = __builtin_convertvector(v, VI);
    for (int i = 0; i < n; i++) p[i] = static_cast<uint8_t>(whole[i]);
}

struct Fp32 {
    static constexpr int per_unit = 1;
    typedef V Sum;
    typedef V Value;
    static Sum zero() { return set1(0); }
    static Sum start(const float *p, bool more) { return more ? load(p) : zero(); }
    static Value weights(const uint32_t *p) { return load(reinterpret_cast<const float *>(p)); }
    static Value broadcast(const uint32_t *p) {
        float a;
        memcpy(&a, p, sizeof a);
        return set1(a);
    }
    static Sum add_product(Sum s, Value a, Value b) { return fma(a, b, s); }
    static V finish(Sum s, V, V, float) { return s; }
};

// without an instruction for it: the two numbers of a unit are multiplied one after the other
struct Bf16 {
    static constexpr int per_unit = 2;
    typedef V Sum;
    typedef VU Value;
    static Sum zero() { return set1(0); }
    static Sum start(const float *p, bool more) { return more ? load(p) : zero(); }
    static Value weights(const uint32_t *p) { return load(p); }
    static Value broadcast(const uint32_t *p) { return set1_bits(*p); }
    static Sum add_product(Sum s, Value a, Value b) {
        const VU high = set1_bits(0xffff0000u);
        s = fma(as_float(shift_left16(a)), as_float(shift_left16(b)), s);
        return fma(as_float(both(a, high)), as_float(both(b, high)), s);
    }
    static V finish(Sum s, V, V, float) { return s; }
};

// weights are signed bytes, activations unsigned ones around 128
struct Int8 {
    static constexpr int per_unit = 4;
    typedef VI Sum;
    typedef VU Value;
    static Sum zero() { return VI{0, 0, 0, 0}; }
    static Sum start(const float *, bool) { return zero(); } // never taken in pieces
    static Value weights(const uint32_t *p) { return load(p); }
    static Value broadcast(const uint32_t *p) { return set1_bits(*p); }
    static Sum add_product(Sum s, Value a, Value b) {
        const VI x = reinterpret_cast<VI>(a), w = reinterpret_cast<VI>(b);
        s += (x & 255) * ((w << 24) >> 24);
        s += ((x >> 8) & 255) * ((w << 16) >> 24);
        s += ((x >> 16) & 255) * ((w << 8) >> 24);
        return s + ((x >> 24) & 255) * (w >> 24);
    }
    // scale of the columns, what 128 added to them, scale of the row
    static V finish(Sum s, V scale, V offset, float row) {
        return mul(mul(sub(__builtin_convertvector(s, V), offset), scale), set1(row));
    }
};

// 4 x 4 units, rows ld apart, to columns
inline void transpose(const uint32_t *from, int64_t ld, uint32_t *to, int64_t ld_to) {
    for (int i = 0; i < W; i++)
        for (int j = 0; j < W; j++) to[j * ld_to + i] = from[i * ld + j];
}

inline void ahead(const void *p) { __builtin_prefetch(p, 0, 2); }

} // namespace
