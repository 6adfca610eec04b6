// Products that are not part of a step: the slopes of weights, whose sums run over all steps of a
// batch, and unrolled_matmul.
#pragma once

namespace {

// Sums over many steps are taken in blocks of this many, each from zero, and the blocks added in
// order: a long chain would lose digits.
constexpr int64_t BLOCK = 256;

// c (columns [first, first + m) of a, n) += a^T b over `k` steps, where row(i) is a place of b and
// column(i) a place of a; both stand in memory a step a row.
struct Transposed {
    int32_t precision;
    int64_t m, n, k;
    float *c;
    int64_t ldc;
    bool accumulate;
    float *sums; // of every column of a, or NULL: m numbers
};

#if defined(__AMX_BF16__)
// Pairs of steps side by side, then turned: rows of m columns for the matrix unit.
template <class Column> void turn_rows(const Rows &to, int64_t at, int64_t m, int64_t k, Column column) {
    alignas(64) uint32_t pairs[W * W];
    for (int64_t u = 0; u < to.units; u += W) {
        for (int64_t j = 0; j < W; j++) {
            const int64_t even = (u + j) * 2;
            VU pair = set1_bits(0);
            if (even < k) pair = to_bf16(load(column(even) + at, static_cast<int>(m)));
            if (even + 1 < k)
                pair = either(pair, shift_left16(to_bf16(load(column(even + 1) + at,
                                                              static_cast<int>(m)))));
            store(pairs + j * W, pair);
        }
        transpose(pairs, W, to.data + at * to.ld + u, to.ld);
    }
}
#endif

// Columns of a for one tile: for every unit of k its m numbers.
template <class Column>
void put_columns(int32_t precision, uint32_t *to, int64_t at, int64_t m, int64_t k, Column column) {
    const int n = static_cast<int>(m);
    const int64_t units = units_of(precision, k);
    for (int64_t u = 0; u < units; u++, to += m) {
        for (int j = 0; j < n; j += W) {
            const int lanes = n - j < W ? n - j : W;
            if (precision == UNROLLED_FP32) {
                store(reinterpret_cast<float *>(to) + j, load(column(u) + at + j, lanes), lanes);
                continue;
            }
            VU pair = to_bf16(load(column(2 * u) + at + j, lanes));
            if (2 * u + 1 < k)
                pair = either(pair, shift_left16(to_bf16(load(column(2 * u + 1) + at + j, lanes))));
            store(reinterpret_cast<float *>(to) + j, as_float(pair), lanes);
        }
    }
}

template <class Column, class Row>
bool multiply_transposed(const Transposed &p, int64_t first, Column column, Row row) {
    const bool matrix = on_matrix_unit(p.precision);
    const int64_t deep = matrix ? 2 * BLOCK : BLOCK;
    Pack b = plan_product(p.precision, p.n, least_of(p.k, deep));
    const int width = b.vectors;
    const int64_t most = height(p.precision, width, p.m), strip = matrix ? 64 : 8 * most;
    const int64_t tile_units = most * units_of(p.precision, least_of(p.k, deep));
    const size_t a_bytes = matrix ? rows_bytes(p.precision, strip, least_of(p.k, deep))
                                  : room(strip / most * tile_units + 16, 4);
    Scratch s(static_cast<size_t>(b.bytes) + a_bytes + room(SCRATCH, 4) + 512);
    if (s.failed()) return false;
    b.data = static_cast<char *>(s.bytes(static_cast<size_t>(b.bytes)));
    uint32_t *a = static_cast<uint32_t *>(s.bytes(a_bytes));
    float *scratch = s.floats(SCRATCH);
    const MatrixUnit unit;
    if (p.sums) memset(p.sums, 0, static_cast<size_t>(p.m) * 4);
    if (!p.k && !p.accumulate)
        for (int64_t i = 0; i < p.m; i++) memset(p.c + i * p.ldc, 0, static_cast<size_t>(p.n) * 4);
    for (int64_t k0 = 0; k0 < p.k; k0 += deep) {
        const int64_t depth = least_of(deep, p.k - k0);
        const bool add_up = k0 > 0 || p.accumulate;
        if (depth != b.k) {
            char *data = b.data;
            b = plan_product(p.precision, p.n, depth);
            b.data = data;
        }
        for (int64_t q = 0; q < b.panels; q++)
            fill_panel_across(b, [&](int64_t k) { return row(k0 + k); }, q);
        const auto from = [&](int64_t k) { return column(k0 + k) + first; };
        for (int64_t i0 = 0; i0 < p.m; i0 += strip) {
            const int64_t strip_rows = least_of(strip, p.m - i0), units = units_of(p.precision, depth);
            Rows turned = rows_at(a, p.precision, strip, depth);
            for (int64_t i = 0; i < strip_rows; i += matrix ? W : most) {
                const int64_t m = least_of(matrix ? W : most, strip_rows - i);
#if defined(__AMX_BF16__)
                if (matrix) {
                    turn_rows(turned, i, m, depth,
                              [&](int64_t k) { return from(k) + i0; });
                    continue;
                }
#endif
                put_columns(p.precision, a + i / most * tile_units, 0, m, depth,
                            [&](int64_t k) { return from(k) + i0 + i; });
            }
            for (int64_t q = 0; q < b.panels; q++) {
                const int w = static_cast<int>(width_of(b, q));
                const char *panel = b.data + q * b.panel_bytes;
                const int64_t tall = matrix ? most_rows(p.precision, w) : most;
                for (int64_t i = 0; i < strip_rows; i += tall) {
                    const int m = static_cast<int>(least_of(tall, strip_rows - i));
                    if (matrix)
                        tile_along(p.precision, w, m)(units, turned.data + i * turned.ld, turned.ld,
                                                      panel, scratch, nullptr, panel);
                    else
                        tile_across(p.precision, w, m)(units, a + i / most * tile_units, m, panel,
                                                       scratch, nullptr, panel);
                    for (int64_t v = 0; v < w; v++) {
                        const Columns c = columns_of(b, q, v);
                        if (!c.lanes) break;
                        for (int j = 0; j < m; j++) {
                            float *to = p.c + (i0 + i + j) * p.ldc + c.first;
                            V sum = load(scratch + (j * w + v) * W);
                            if (add_up) sum = add(load(to, c.lanes), sum);
                            store(to, sum, c.lanes);
                        }
                    }
                }
            }
        }
        if (!p.sums) continue;
        for (int64_t i = 0; i < p.m; i += W) {
            const int n = lanes_at(p.m, i);
            V sum = set1(0);
            for (int64_t k = 0; k < depth; k++) sum = add(sum, load(from(k) + i, n));
            store(p.sums + i, add(load(p.sums + i, n), sum), n);
        }
    }
    return true;
}

// ---- unrolled_matmul ---------------------------------------------------------------------------

struct MatmulWork {
    const Matmul *m;
    Pack b;
    int64_t tasks, rows; // rows of c for each
    volatile bool failed;
};

inline void matmul_fill(void *data, int64_t panel) {
    const MatmulWork &w = *static_cast<MatmulWork *>(data);
    const Matmul &m = *w.m;
    if (m.b_trans)
        fill_panel(w.b, m.b, m.ldb, panel);
    else
        fill_panel_across(w.b, [&](int64_t k) { return m.b + k * m.ldb; }, panel);
}

inline void matmul_rows(void *data, int64_t task) {
    MatmulWork &w = *static_cast<MatmulWork *>(data);
    const Matmul &m = *w.m;
    const int64_t first = task * w.rows, rows = least_of(w.rows, m.m - first);
    if (rows <= 0) return;
    const int64_t step = least_of(chunk_rows(m.precision), rows);
    Scratch s(rows_bytes(m.precision, step, m.k) + room(SCRATCH, 4) + 512);
    if (s.failed()) {
        w.failed = true;
        return;
    }
    const Rows a = rows_at(s.bytes(rows_bytes(m.precision, step, m.k)), m.precision, step, m.k);
    float *scratch = s.floats(SCRATCH);
    const MatrixUnit unit;
    clear_ends(a, step);
    for (int64_t i0 = 0; i0 < rows; i0 += step) {
        const int64_t n = least_of(step, rows - i0);
        for (int64_t i = 0; i < n; i++) put_row(a, i, m.a + (first + i0 + i) * m.lda);
        multiply(w.b, a, n, scratch, [&](int64_t i, int64_t at, int lanes, const float *sums) {
            float *to = m.c + (first + i0 + i) * m.ldc + at;
            V v = load(sums);
            if (m.bias) v = add(v, load(m.bias + at, lanes));
            if (m.accumulate) v = add(load(to, lanes), v);
            store(to, v, lanes);
        });
    }
}

inline void matmul_columns(void *data, int64_t task) {
    MatmulWork &w = *static_cast<MatmulWork *>(data);
    const Matmul &m = *w.m;
    const int64_t first = task * w.rows, rows = least_of(w.rows, m.m - first);
    if (rows <= 0) return;
    const Transposed p = {m.precision, rows,  m.n,          m.k,
                          m.c + first * m.ldc, m.ldc, m.accumulate, nullptr};
    if (!multiply_transposed(
            p, first, [&](int64_t k) { return m.a + k * m.lda; },
            [&](int64_t k) { return m.b + k * m.ldb; }))
        w.failed = true;
    if (!m.bias) return;
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < m.n; j++) m.c[(first + i) * m.ldc + j] += m.bias[j];
}

// rows for each of some tasks: whole tiles, as many for each thread
inline int64_t share_of(int64_t rows, int64_t tasks) { return ((rows + tasks - 1) / tasks + 7) / 8 * 8; }

inline Error matmul(const Matmul &m) {
    if (m.a_trans && m.b_trans) return "a product of two transposed matrices is not offered";
    MatmulWork w = {&m, {}, 1, m.m, false};
    const int64_t worth = m.m * m.n * m.k / 200000 + 1;
    w.tasks = least_of(m.threads < 1 ? 1 : m.threads, worth);
    w.rows = share_of(m.m, w.tasks);
    if (m.a_trans) {
        parallel(m.threads, w.tasks, matmul_columns, &w);
        return w.failed ? "out of memory" : nullptr;
    }
    w.b = m.m <= 4 ? plan(m.precision, m.m, 1, m.n, m.k) : plan_product(m.precision, m.n, m.k);
    Scratch s(static_cast<size_t>(w.b.bytes) + 128);
    if (s.failed()) return "out of memory";
    w.b.data = static_cast<char *>(s.bytes(static_cast<size_t>(w.b.bytes)));
    parallel(m.threads, w.b.panels, matmul_fill, &w);
    parallel(m.threads, w.tasks, matmul_rows, &w);
    return w.failed ? "out of memory" : nullptr;
}

} // namespace
