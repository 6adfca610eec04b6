// Eight lanes: AVX2 and FMA. The names are those of simd_portable.h.
#pragma once

#include <cstdint>
#include <cstring>
#include <immintrin.h>

namespace {

constexpr int W = 8;
constexpr int REGISTERS = 16;
typedef __m256 V;
typedef __m256i VU;

inline V set1(float a) { return _mm256_set1_ps(a); }
inline V load(const float *p) { return _mm256_loadu_ps(p); }
inline void store(float *p, V v) { _mm256_storeu_ps(p, v); }
inline __m256i first(int n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
inline V load(const float *p, int n) {
    return n == W ? load(p) : _mm256_maskload_ps(p, first(n));
}
inline void store(float *p, V v, int n) {
    if (n == W)
        store(p, v);
    else
        _mm256_maskstore_ps(p, first(n), v);
}
inline V fma(V a, V b, V c) { return _mm256_fmadd_ps(a, b, c); }
inline V add(V a, V b) { return _mm256_add_ps(a, b); }
inline V sub(V a, V b) { return _mm256_sub_ps(a, b); }
inline V mul(V a, V b) { return _mm256_mul_ps(a, b); }
inline V quotient(V a, V b) { return _mm256_div_ps(a, b); }
// the instruction answers with its second operand when either is NaN
inline V at_least(V v, float low) { return _mm256_max_ps(set1(low), v); }
inline V at_most(V v, float high) { return _mm256_min_ps(set1(high), v); }
inline V where_positive(V test, V v) {
    return _mm256_andnot_ps(_mm256_cmp_ps(test, _mm256_setzero_ps(), _CMP_LE_OQ), v);
}
inline V unless_below(V test, float low, V v) {
    return _mm256_andnot_ps(_mm256_cmp_ps(test, set1(low), _CMP_LT_OQ), v);
}
inline V magnitude(V v) { return _mm256_andnot_ps(set1(-0.0f), v); }
inline V with_sign(V size, V sign) {
    return _mm256_or_ps(_mm256_andnot_ps(set1(-0.0f), size), _mm256_and_ps(set1(-0.0f), sign));
}
inline V rounded(V v) {
    return _mm256_round_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
inline V power_of_2(V n) {
    const __m256i whole = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(whole, 23));
}
inline V larger(V a, V b) { return _mm256_max_ps(a, b); }
inline bool any_above(V v, float low) {
    return _mm256_movemask_ps(_mm256_cmp_ps(v, set1(low), _CMP_GT_OQ)) != 0;
}
inline float sum_of(V v) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
inline float largest(V v) {
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
}
// past the caches, to whole lines; `streamed` before another thread may read it
inline void stream(float *p, V v) { _mm256_stream_ps(p, v); }
inline void streamed() { _mm_sfence(); }

inline VU load(const uint32_t *p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i *>(p));
}
inline void store(uint32_t *p, VU v) { _mm256_storeu_si256(reinterpret_cast<__m256i *>(p), v); }
inline VU as_bits(V v) { return _mm256_castps_si256(v); }
inline V as_float(VU v) { return _mm256_castsi256_ps(v); }
inline VU both(VU a, VU b) { return _mm256_and_si256(a, b); }
inline VU either(VU a, VU b) { return _mm256_or_si256(a, b); }
inline VU shift_left16(VU v) { return _mm256_slli_epi32(v, 16); }
inline VU shift_right16(VU v) { return _mm256_srli_epi32(v, 16); }
template <int n> inline VU shift_left(VU v) { return _mm256_slli_epi32(v, n); }
template <int n> inline VU shift_right(VU v) { return _mm256_srli_epi32(v, n); }
inline VU set1_bits(uint32_t a) { return _mm256_set1_epi32(static_cast<int>(a)); }
inline VU to_bf16(V v) {
    const VU bits = as_bits(v), top = shift_right16(bits);
    const VU even = both(top, set1_bits(1));
    const VU near =
        shift_right16(_mm256_add_epi32(_mm256_add_epi32(bits, set1_bits(0x7fff)), even));
    const V nan = _mm256_cmp_ps(v, v, _CMP_UNORD_Q);
    return as_bits(
        _mm256_blendv_ps(as_float(near), as_float(either(top, set1_bits(0x40))), nan));
}
inline void store_bf16(uint16_t *p, V v, int n) {
    const VU low = to_bf16(v);
    const __m128i half =
        _mm_packus_epi32(_mm256_castsi256_si128(low), _mm256_extracti128_si256(low, 1));
    if (n == W) {
        _mm_storeu_si128(reinterpret_cast<__m128i *>(p), half);
    } else {
        uint16_t all[W];
        _mm_storeu_si128(reinterpret_cast<__m128i *>(all), half);
        memcpy(p, all, static_cast<size_t>(n) * sizeof *p);
    }
}

inline void store_bytes(uint8_t *p, V v, int n) {
    const __m256i whole = _mm256_cvttps_epi32(v);
    const __m128i half =
        _mm_packus_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
    uint8_t all[16];
    _mm_storeu_si128(reinterpret_cast<__m128i *>(all), _mm_packus_epi16(half, half));
    memcpy(p, all, static_cast<size_t>(n));
}

struct Fp32 {
    static constexpr int per_unit = 1;
    typedef V Sum;
    typedef V Value;
    static Sum zero() { return _mm256_setzero_ps(); }
    static Sum start(const float *p, bool more) { return more ? load(p) : zero(); }
    static Value weights(const uint32_t *p) { return load(reinterpret_cast<const float *>(p)); }
    static Value broadcast(const uint32_t *p) {
        return _mm256_broadcast_ss(reinterpret_cast<const float *>(p));
    }
    static Sum add_product(Sum s, Value a, Value b) { return fma(a, b, s); }
    static V finish(Sum s, V, V, float) { return s; }
};

struct Bf16 {
    static constexpr int per_unit = 2;
    typedef V Sum;
    typedef VU Value;
    static Sum zero() { return _mm256_setzero_ps(); }
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

// vpmaddubsw would saturate, so bytes become 16 bits first
struct Int8 {
    static constexpr int per_unit = 4;
    typedef __m256i Sum;
    typedef VU Value;
    static Sum zero() { return _mm256_setzero_si256(); }
    static Sum start(const float *, bool) { return zero(); } // never taken in pieces
    static Value weights(const uint32_t *p) { return load(p); }
    static Value broadcast(const uint32_t *p) { return set1_bits(*p); }
    static Sum add_product(Sum s, Value a, Value b) {
        const VU even = set1_bits(0x00ff00ff);
        const __m256i b_even = _mm256_srai_epi16(_mm256_slli_epi16(b, 8), 8);
        s = _mm256_add_epi32(s, _mm256_madd_epi16(both(a, even), b_even));
        return _mm256_add_epi32(
            s, _mm256_madd_epi16(_mm256_srli_epi16(a, 8), _mm256_srai_epi16(b, 8)));
    }
    static V finish(Sum s, V scale, V offset, float row) {
        return mul(mul(sub(_mm256_cvtepi32_ps(s), offset), scale), set1(row));
    }
};

inline void transpose(const uint32_t *from, int64_t ld, uint32_t *to, int64_t ld_to) {
    __m256 r[8], s[8];
    for (int i = 0; i < 8; i++) r[i] = as_float(load(from + i * ld));
    for (int i = 0; i < 8; i += 2) {
        s[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
        s[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        r[i] = _mm256_shuffle_ps(s[i], s[i + 2], 0x44);
        r[i + 1] = _mm256_shuffle_ps(s[i], s[i + 2], 0xee);
        r[i + 2] = _mm256_shuffle_ps(s[i + 1], s[i + 3], 0x44);
        r[i + 3] = _mm256_shuffle_ps(s[i + 1], s[i + 3], 0xee);
    }
    for (int i = 0; i < 4; i++) {
        store(to + i * ld_to, as_bits(_mm256_permute2f128_ps(r[i], r[i + 4], 0x20)));
        store(to + (i + 4) * ld_to, as_bits(_mm256_permute2f128_ps(r[i], r[i + 4], 0x31)));
    }
}

inline void ahead(const void *p) { _mm_prefetch(static_cast<const char *>(p), _MM_HINT_T1); }

} // namespace
