// tanh and sigmoid of a vector.
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

} // namespace
