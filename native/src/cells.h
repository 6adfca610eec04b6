// The cells: what one row does with one vector of units in one step, and its gradients.
#pragma once

namespace {

constexpr int64_t gates_of(int32_t cell) {
    return cell == UNROLLED_GRU ? 3 : cell == UNROLLED_LSTM ? 4 : 1;
}

// One vector of units of one row. `before` is what the input and the biases give to gate g, at
// before + g * stride; `sums` what the hidden vector gives, at sums + g * W.
struct Unit {
    const float *before;
    int64_t stride;
    const float *sums;
    int n; // lanes that are units
    V gate(int64_t g) const { return add(load(before + g * stride, n), load(sums + g * W)); }
};

template <bool Relu> V rnn_cell(const Unit &u) {
    const V a = u.gate(0);
    return Relu ? at_least(a, 0.0f) : hyperbolic_tangent(a);
}

// Returns h'; c is read and written. kept: gates after their activation, stride apart, or NULL.
inline V lstm_cell(const Unit &u, float *c, float *kept, int64_t stride, float *cell) {
    const V i = sigmoid(u.gate(0)), f = sigmoid(u.gate(1));
    const V g = hyperbolic_tangent(u.gate(2)), o = sigmoid(u.gate(3));
    const V now = fma(f, load(c, u.n), mul(i, g));
    store(c, now, u.n);
    if (kept) {
        store(kept, i, u.n);
        store(kept + stride, f, u.n);
        store(kept + 2 * stride, g, u.n);
        store(kept + 3 * stride, o, u.n);
        store(cell, now, u.n);
    }
    return mul(o, hyperbolic_tangent(now));
}

// Returns h' = n + z (h - n); inner_bias: b_hn.
inline V gru_cell(const Unit &u, V h, V inner_bias, float *kept, int64_t stride, float *inner) {
    const V r = sigmoid(u.gate(0)), z = sigmoid(u.gate(1));
    const V own = add(load(u.sums + 2 * W), inner_bias);
    const V n = hyperbolic_tangent(fma(r, own, load(u.before + 2 * u.stride, u.n)));
    if (kept) {
        store(kept, r, u.n);
        store(kept + stride, z, u.n);
        store(kept + 2 * stride, n, u.n);
        store(inner, own, u.n);
    }
    return fma(z, sub(h, n), n);
}

// What a row kept of a step, and where its gradients go.
struct Gradients {
    const float *gates, *cell, *inner;          // kept by the forward pass
    const float *h, *h_before, *c_before;       // states after and before the step
    const float *d_y;                           // may be NULL
    float *d_h, *d_c;                           // in: from later steps; out: to earlier ones
    float *d;                                   // gradients of the gates' sums
};

template <bool Relu> void rnn_gradients(const Gradients &s, int64_t j, int n, V total, V *out) {
    const V h = load(s.h + j, n);
    out[0] = Relu ? where_positive(h, total) : mul(total, sub(set1(1), mul(h, h)));
    store(s.d + j, out[0], n);
    store(s.d_h + j, set1(0), n);
}

inline void lstm_gradients(const Gradients &s, int64_t size, int64_t j, int n, V total, V *out) {
    const V one = set1(1);
    const V i = load(s.gates + j, n), f = load(s.gates + size + j, n);
    const V g = load(s.gates + 2 * size + j, n), o = load(s.gates + 3 * size + j, n);
    const V shown = hyperbolic_tangent(load(s.cell + j, n));
    const V d_cell = fma(mul(total, o), sub(one, mul(shown, shown)), load(s.d_c + j, n));
    out[0] = mul(mul(d_cell, g), mul(i, sub(one, i)));
    out[1] = mul(mul(d_cell, load(s.c_before + j, n)), mul(f, sub(one, f)));
    out[2] = mul(mul(d_cell, i), sub(one, mul(g, g)));
    out[3] = mul(mul(total, shown), mul(o, sub(one, o)));
    store(s.d_c + j, mul(d_cell, f), n);
    store(s.d_h + j, set1(0), n);
    for (int q = 0; q < 4; q++) store(s.d + q * size + j, out[q], n);
}

// d holds the gradients of candidate, reset, update and the candidate's inner sum: the first three
// belong to the input, the last three to the hidden vector, and nothing stands there twice.
inline void gru_gradients(const Gradients &s, int64_t size, int64_t j, int n, V total, V *out) {
    const V one = set1(1);
    const V r = load(s.gates + j, n), z = load(s.gates + size + j, n);
    const V c = load(s.gates + 2 * size + j, n);
    const V d_n = mul(mul(total, sub(one, z)), sub(one, mul(c, c)));
    out[0] = mul(mul(d_n, load(s.inner + j, n)), mul(r, sub(one, r)));
    out[1] = mul(mul(total, sub(load(s.h_before + j, n), c)), mul(z, sub(one, z)));
    out[2] = mul(d_n, r);
    store(s.d + j, d_n, n);
    for (int q = 0; q < 3; q++) store(s.d + (q + 1) * size + j, out[q], n);
    store(s.d_h + j, mul(total, z), n);
}

} // namespace
