// Functions of a vector: the exponential, sigmoid, tanh and GELU.
#pragma once

namespace {

// e^v - 1 for v in [-87, 87], relative error about 1e-7 also near 0: v = n ln 2 + r, and
// e^r - 1 = r + r^2 q(r) with q fitted on |r| <= ln(2)/2 to a relative error of 1.4e-8. Returns
// e^r - 1 and 2^n, of which the caller makes what it needs.
inline V split_exponential(V v, V *scale) {
    const V n = rounded(mul(v, set1(1.44269504f)));
    V r = fma(n, set1(-0.693145752f), v);      // ln 2 in two parts, the first exact times n
    r = fma(n, set1(-1.42860677e-6f), r);
    V q = fma(set1(0x1.6bebf0p-10f), r, set1(0x1.1227f6p-7f));
    q = fma(q, r, set1(0x1.555674p-5f));
    q = fma(q, r, set1(0x1.5554b0p-3f));
    q = fma(q, r, set1(0x1.fffffep-2f));
    *scale = power_of_2(n);
    return fma(mul(r, r), q, r);
}

// e^v for v up to 87; 0 where it is no normal number
inline V exponential(V v) {
    V scale;
    const V part = split_exponential(at_least(v, -87.0f), &scale);
    return unless_below(v, -87.0f, fma(scale, part, scale));
}

// 1 / (1 + e^-v); where it is no normal number it is 0, as its limit is
inline V sigmoid(V v) {
    V scale;
    const V part = split_exponential(at_most(at_least(sub(set1(0), v), -87.0f), 87.0f), &scale);
    const V one = set1(1);
    return unless_below(v, -87.0f, quotient(one, add(one, fma(scale, part, scale))));
}

// (1 - e) / (1 + e) with e = e^(-2|v|); from e - 1, so that small v lose no digits
inline V hyperbolic_tangent(V v) {
    V scale;
    const V size = at_most(magnitude(v), 10.0f); // tanh of more is 1 in fp32
    const V part = split_exponential(mul(size, set1(-2)), &scale);
    const V less = fma(scale, part, sub(scale, set1(1))); // e - 1
    return with_sign(quotient(sub(set1(0), less), add(less, set1(2))), v);
}

// v times the normal distribution's integral up to v (Hendrycks and Gimpel 2016): max(v, 0) - |v| p,
// where p = erfc(|v| / sqrt 2) / 2 = q(t) e^(-v^2 / 2) with t = 1 / (1 + 0.26 |v| / sqrt 2). q was fitted
// to a relative error of 3e-7 for |v| up to 14, where p is below the least normal number.
inline V gelu(V v) {
    const V size = magnitude(v), z = mul(at_most(size, 14.0f), set1(0.707106781f));
    const V t = quotient(set1(1), fma(z, set1(0.26f), set1(1)));
    V q = fma(set1(0x1.319048p-2f), t, set1(-0x1.0fdd62p-1f));
    q = fma(q, t, set1(0x1.43bb8ap-1f));
    q = fma(q, t, set1(-0x1.14c78ap-2f));
    q = fma(q, t, set1(0x1.504a6cp-3f));
    q = fma(q, t, set1(0x1.fbb4b2p-5f));
    q = fma(q, t, set1(0x1.1f5d22p-4f));
    q = fma(q, t, set1(0x1.30767cp-4f));
    q = fma(q, t, set1(-0x1.5b77d2p-14f));
    const V p = mul(q, exponential(sub(set1(0), mul(z, z))));
    return sub(where_positive(v, v), mul(size, p));
}

} // namespace
