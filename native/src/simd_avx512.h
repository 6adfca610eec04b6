// Sixteen lanes: AVX-512 F, BW, DQ, VL; with __AVX512BF16__ and __AVX512VNNI__ their dot products
// too. The names are those of simd_portable.h.
#pragma once

#include <cstdint>
#include <cstring>
#include <immintrin.h>

namespace {

constexpr int W = 16;
constexpr int REGISTERS = 32;
typedef __m512 V;
typedef __m512i VU;

inline V set1(float a) { return _mm512_set1_ps(a); }
inline V load(const float *p) { return _mm512_loadu_ps(p); }
inline void store(float *p, V v) { _mm512_storeu_ps(p, v); }
inline __mmask16 first(int n) { return static_cast<__mmask16>((1u << n) - 1u); }
inline V load(const float *p, int n) { return _mm512_maskz_loadu_ps(first(n), p); }
inline void store(float *p, V v, int n) { _mm512_mask_storeu_ps(p, first(n), v); }
inline V fma(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }
inline V add(V a, V b) { return _mm512_add_ps(a, b); }
inline V sub(V a, V b) { return _mm512_sub_ps(a, b); }
inline V mul(V a, V b) { return _mm512_mul_ps(a, b); }
// for b in [1, 2^127): the reciprocal of 14 bits, made exact to a unit in the last place by one step
// of Newton's; a division costs 16 cycles and the gates need five a unit
inline V quotient(V a, V b) {
    const V r = _mm512_rcp14_ps(b);
    const V better = _mm512_fmadd_ps(r, _mm512_fnmadd_ps(b, r, _mm512_set1_ps(1.0f)), r);
    return _mm512_mul_ps(a, better);
}
inline V at_least(V v, float low) { return _mm512_max_ps(set1(low), v); }
inline V at_most(V v, float high) { return _mm512_min_ps(set1(high), v); }
inline V where_positive(V test, V v) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(test, _mm512_setzero_ps(), _CMP_NLE_UQ), v);
}
inline V unless_below(V test, float low, V v) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(test, set1(low), _CMP_NLT_UQ), v);
}
inline V magnitude(V v) { return _mm512_abs_ps(v); }
inline V with_sign(V size, V sign) {
    // a bitwise choice: where the first operand is set the sign's bit, else the size's
    const __m512i bit = _mm512_set1_epi32(static_cast<int>(0x80000000u));
    return _mm512_castsi512_ps(_mm512_ternarylogic_epi32(bit, _mm512_castps_si512(sign),
                                                         _mm512_castps_si512(size), 0xca));
}
inline V rounded(V v) {
    return _mm512_roundscale_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
inline V power_of_2(V n) {
    const __m512i whole = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
    return _mm512_castsi512_ps(_mm512_slli_epi32(whole, 23));
}
inline V larger(V a, V b) { return _mm512_max_ps(a, b); }
inline bool any_above(V v, float low) { return _mm512_cmp_ps_mask(v, set1(low), _CMP_GT_OQ) != 0; }
inline float sum_of(V v) { return _mm512_reduce_add_ps(v); }
inline float largest(V v) { return _mm512_reduce_max_ps(v); }
// past the caches, to a whole line; `streamed` before another thread may read it
inline void stream(float *p, V v) { _mm512_stream_ps(p, v); }
inline void streamed() { _mm_sfence(); }

inline VU load(const uint32_t *p) { return _mm512_loadu_si512(p); }
inline void store(uint32_t *p, VU v) { _mm512_storeu_si512(p, v); }
inline VU as_bits(V v) { return _mm512_castps_si512(v); }
inline V as_float(VU v) { return _mm512_castsi512_ps(v); }
inline VU both(VU a, VU b) { return _mm512_and_si512(a, b); }
inline VU either(VU a, VU b) { return _mm512_or_si512(a, b); }
inline VU shift_left16(VU v) { return _mm512_slli_epi32(v, 16); }
inline VU shift_right16(VU v) { return _mm512_srli_epi32(v, 16); }
template <int n> inline VU shift_left(VU v) { return _mm512_slli_epi32(v, n); }
template <int n> inline VU shift_right(VU v) { return _mm512_srli_epi32(v, n); }
inline VU set1_bits(uint32_t a) { return _mm512_set1_epi32(static_cast<int>(a)); }
inline VU to_bf16(V v) {
#if defined(__AVX512BF16__)
    __m256bh half = _mm512_cvtneps_pbh(v);
    __m256i bits;
    memcpy(&bits, &half, sizeof bits);
    return _mm512_cvtepu16_epi32(bits);
#else
    const VU bits = as_bits(v), top = shift_right16(bits);
    const VU even = both(top, set1_bits(1));
    const VU near =
        shift_right16(_mm512_add_epi32(_mm512_add_epi32(bits, set1_bits(0x7fff)), even));
    const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    return _mm512_mask_or_epi32(near, nan, top, set1_bits(0x40));
#endif
}
inline void store_bf16(uint16_t *p, V v, int n) {
    _mm256_mask_storeu_epi16(p, first(n), _mm512_cvtepi32_epi16(to_bf16(v)));
}

inline void store_bytes(uint8_t *p, V v, int n) {
    _mm512_mask_cvtepi32_storeu_epi8(p, first(n), _mm512_cvttps_epi32(v));
}

struct Fp32 {
    static constexpr int per_unit = 1;
    typedef V Sum;
    typedef V Value;
    static Sum zero() { return _mm512_setzero_ps(); }
    static Sum start(const float *p, bool more) { return more ? load(p) : zero(); }
    static Value weights(const uint32_t *p) { return load(reinterpret_cast<const float *>(p)); }
    static Value broadcast(const uint32_t *p) { return set1(*reinterpret_cast<const float *>(p)); }
    static Sum add_product(Sum s, Value a, Value b) { return fma(a, b, s); }
    static V finish(Sum s, V, V, float) { return s; }
};

struct Bf16 {
    static constexpr int per_unit = 2;
    typedef V Sum;
    typedef VU Value;
    static Sum zero() { return _mm512_setzero_ps(); }
    static Sum start(const float *p, bool more) { return more ? load(p) : zero(); }
    static Value weights(const uint32_t *p) { return load(p); }
    static Value broadcast(const uint32_t *p) { return set1_bits(*p); }
    static Sum add_product(Sum s, Value a, Value b) {
#if defined(__AVX512BF16__)
        return _mm512_dpbf16_ps(s, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
#else
        const VU high = set1_bits(0xffff0000u);
        s = fma(as_float(shift_left16(a)), as_float(shift_left16(b)), s);
        return fma(as_float(both(a, high)), as_float(both(b, high)), s);
#endif
    }
    static V finish(Sum s, V, V, float) { return s; }
};

struct Int8 {
    static constexpr int per_unit = 4;
    typedef __m512i Sum;
    typedef VU Value;
    static Sum zero() { return _mm512_setzero_si512(); }
    static Sum start(const float *, bool) { return zero(); } // never taken in pieces
    static Value weights(const uint32_t *p) { return load(p); }
    static Value broadcast(const uint32_t *p) { return set1_bits(*p); }
    static Sum add_product(Sum s, Value a, Value b) {
#if defined(__AVX512VNNI__)
        return _mm512_dpbusd_epi32(s, a, b);
#else
        const VU even = set1_bits(0x00ff00ff);
        const __m512i b_even = _mm512_srai_epi16(_mm512_slli_epi16(b, 8), 8);
        s = _mm512_add_epi32(s, _mm512_madd_epi16(both(a, even), b_even));
        return _mm512_add_epi32(
            s, _mm512_madd_epi16(_mm512_srli_epi16(a, 8), _mm512_srai_epi16(b, 8)));
#endif
    }
    static V finish(Sum s, V scale, V offset, float row) {
        return mul(mul(sub(_mm512_cvtepi32_ps(s), offset), scale), set1(row));
    }
};

inline void transpose(const uint32_t *from, int64_t ld, uint32_t *to, int64_t ld_to) {
    __m512i r[16], s[16];
    for (int i = 0; i < 16; i++) r[i] = load(from + i * ld);
    for (int i = 0; i < 16; i += 2) {
        s[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        s[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_unpacklo_epi64(s[i], s[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(s[i], s[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(s[i + 1], s[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(s[i + 1], s[i + 3]);
    }
    // quarters: r[4q + j] holds columns j, j + 4, j + 8, j + 12 of rows 4q to 4q + 3
    for (int j = 0; j < 4; j++) {
        s[j] = _mm512_shuffle_i32x4(r[j], r[4 + j], 0x88);
        s[4 + j] = _mm512_shuffle_i32x4(r[j], r[4 + j], 0xdd);
        s[8 + j] = _mm512_shuffle_i32x4(r[8 + j], r[12 + j], 0x88);
        s[12 + j] = _mm512_shuffle_i32x4(r[8 + j], r[12 + j], 0xdd);
    }
    for (int j = 0; j < 4; j++) {
        store(to + j * ld_to, _mm512_shuffle_i32x4(s[j], s[8 + j], 0x88));
        store(to + (8 + j) * ld_to, _mm512_shuffle_i32x4(s[j], s[8 + j], 0xdd));
        store(to + (4 + j) * ld_to, _mm512_shuffle_i32x4(s[4 + j], s[12 + j], 0x88));
        store(to + (12 + j) * ld_to, _mm512_shuffle_i32x4(s[4 + j], s[12 + j], 0xdd));
    }
}

inline void ahead(const void *p) { _mm_prefetch(static_cast<const char *>(p), _MM_HINT_T1); }

} // namespace
