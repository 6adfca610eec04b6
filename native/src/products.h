// Products that are not part of a step: the gradients of weights, whose sums run over all steps of a
// batch, and unrolled_matmul.
#pragma once

namespace {

// Sums over many steps are taken in blocks of this many, each from zero, and the blocks added in
// order: a long chain would lose digits.
constexpr int64_t BLOCK = 256;

// c (columns [first, first + m) of a, n) += a^T b over `k` steps, where row(i) is a row of b and
// column(i) a row of a; both stand in memory a step a row.
struct Transposed {
    int32_t precision;
    int64_t m, n, k;
    float *c;
    int64_t ldc;
    bool accumulate;
    float *sums; // of every column of a, or NULL: m numbers
};

// A vector of one k of a, or of two as pairs of bf16 (odd may be NULL); they are added to `sums`, if
// they are requested.
__attribute__((always_inline)) inline VU pair_of(int32_t precision, const float *even,
                                                 const float *odd, int lanes, float *sums) {
    V sum = load(even, lanes);
    VU bits = as_bits(sum);
    if (precision == UNROLLED_BF16) {
        bits = to_bf16(sum);
        if (odd) {
            const V other = load(odd, lanes);
            bits = either(bits, shift_left16(to_bf16(other)));
            sum = add(sum, other);
        }
    }
    if (sums) store(sums, add(load(sums, lanes), sum), lanes);
    return bits;
}

// Columns of a for the tiles of a strip, `tall` columns each: for every unit of k its numbers side
// by side. The memory of one k is read from end to end before the next.
template <class Column>
void put_columns(int32_t precision, uint32_t *to, int64_t columns, int64_t tall, int64_t tile_units,
                 int64_t k, float *sums, Column column) {
    const int64_t unit_size = per_unit(precision);
    for (int64_t u = 0; u * unit_size < k; u++) {
        const int64_t first = u * unit_size;
        const float *even = column(first);
        const float *odd = unit_size == 2 && first + 1 < k ? column(first + 1) : nullptr;
        // every k is another page, which no processor fetches of itself
        for (int64_t next = first + 8; next < first + unit_size + 8 && next < k; next++)
            for (int64_t i = 0; i < columns; i += 16) __builtin_prefetch(column(next) + i);
        uint32_t *tile_at = to;
        for (int64_t i = 0; i < columns; i += tall, tile_at += tile_units) {
            const int64_t m = least_of(tall, columns - i);
            for (int64_t j = 0; j < m; j += W) {
                const int lanes = lanes_at(m, j);
                const VU bits = pair_of(precision, even + i + j, odd ? odd + i + j : nullptr, lanes,
                                        sums ? sums + i + j : nullptr);
                store(reinterpret_cast<float *>(tile_at + u * m + j), as_float(bits), lanes);
            }
        }
    }
}

// The same for the matrix unit, which wants rows: W by W units are turned at a time.
template <class Column>
void turn_columns(const Rows &to, int64_t columns, int64_t k, float *sums, Column column) {
    alignas(64) uint32_t pairs[W * W];
    for (int64_t i = 0; i < columns; i += W) {
        const int lanes = lanes_at(columns, i);
        for (int64_t u = 0; u < to.units; u += W) {
            for (int64_t j = 0; j < W; j++) {
                const int64_t even = 2 * (u + j);
                if (even >= k) {
                    store(pairs + j * W, set1_bits(0));
                    continue;
                }
                const float *odd = even + 1 < k ? column(even + 1) + i : nullptr;
                store(pairs + j * W, pair_of(to.precision, column(even) + i, odd, lanes,
                                             sums ? sums + i : nullptr));
            }
            transpose(pairs, W, to.data + i * to.ld + u, to.ld);
        }
    }
}

// c = or += m rows of sums
inline void add_sums(float *c, int64_t ldc, int m, int64_t columns, const float *sums,
                     int64_t ld_sums, bool add_up) {
    for (int j = 0; j < m; j++, c += ldc, sums += ld_sums)
        for (int64_t v = 0; v < columns; v += W) {
            const int lanes = lanes_at(columns, v);
            const V sum = load(sums + v);
            store(c + v, add_up ? add(load(c + v, lanes), sum) : sum, lanes);
        }
}

template <class Column, class Row>
bool multiply_transposed(const Transposed &p, int64_t first, Column column, Row row) {
    const bool matrix = on_matrix_unit(p.precision);
    const int64_t deep = matrix ? 2 * BLOCK : BLOCK;
    Pack b = plan_product(p.precision, p.n, least_of(p.k, deep));
    const int width = b.vectors;
    const int64_t most = height(p.precision, width, p.m), strip = matrix ? 256 : 32 * most;
    const int64_t tile_units = most * units_of(p.precision, least_of(p.k, deep));
    Rows turned_room = {};    // columns of a as rows, for the matrix unit
    uint32_t *a = nullptr;    // columns of a, for other tiles
    float *scratch = nullptr, *block = nullptr;
    const Scratch memory([&](Arena &arena) {
        b.data = arena.bytes(bytes_of(b));
        if (matrix)
            turned_room = carve_rows(arena, p.precision, strip, least_of(p.k, deep));
        else
            a = arena.array<uint32_t>(strip / most * tile_units + 16);
        scratch = arena.floats(TILE_FLOATS);
        block = arena.floats(strip + W);
    });
    if (memory.failed()) return false;
    const MatrixUnit unit(p.precision);
    if (p.sums) memset(p.sums, 0, static_cast<size_t>(p.m) * 4);
    if (!p.k && !p.accumulate && p.n)
        for (int64_t i = 0; i < p.m; i++) memset(p.c + i * p.ldc, 0, static_cast<size_t>(p.n) * 4);
    for (int64_t k0 = 0; k0 < p.k; k0 += deep) {
        const int64_t depth = least_of(deep, p.k - k0);
        const bool add_up = k0 > 0 || p.accumulate;
        if (depth != b.k) {
            char *data = b.data;
            b = plan_product(p.precision, p.n, depth);
            b.data = data;
        }
        fill_across(b, 0, b.panels, [&](int64_t k) { return row(k0 + k); });
        const auto from = [&](int64_t k) { return column(k0 + k) + first; };
        for (int64_t i0 = 0; i0 < p.m; i0 += strip) {
            const int64_t strip_rows = least_of(strip, p.m - i0), units = units_of(p.precision, depth);
            const Rows turned = narrowed(turned_room, depth);
            const auto strip_at = [&](int64_t k) { return from(k) + i0; };
            float *sums = p.sums ? block : nullptr; // of this block of k, from zero
            if (sums) memset(sums, 0, static_cast<size_t>(strip_rows) * 4);
            if (matrix)
                turn_columns(turned, strip_rows, depth, sums, strip_at);
            else
                put_columns(p.precision, a, strip_rows, most, tile_units, depth, sums, strip_at);
            if (sums) add_sums(p.sums + i0, 0, 1, strip_rows, sums, 0, true);
            for (int64_t q = 0; q < b.panels; q++) {
                const int w = static_cast<int>(width_of(b, q));
                const char *panel = b.data + q * b.panel_bytes;
                const int64_t tall = matrix ? most_rows(p.precision, w) : most;
                for (int64_t i = 0; i < strip_rows; i += tall) {
                    const int m = static_cast<int>(least_of(tall, strip_rows - i));
                    const TileWork work = {
                        .units = units,
                        .a = matrix ? turned.data + i * turned.ld : a + i / most * tile_units,
                        .lda = matrix ? turned.ld : m,
                        .panel = panel,
                        .out = scratch,
                        .more = false,
                        .row_scales = nullptr,
                        .next = panel,
                        .next_step = 0};
                    float *to = p.c + (i0 + i) * p.ldc + q * width * W;
                    const int64_t columns = least_of(w * W, p.n - q * width * W);
                    for (int j = 0; j < m; j++)
                        for (int64_t v = 0; v < columns; v += W)
                            __builtin_prefetch(to + j * p.ldc + v, 1, 3);
                    (matrix ? tile_along(p.precision, w, m) : tile_across(p.precision, w, m))(work);
                    add_sums(to, p.ldc, m, columns, scratch, w * W, add_up);
                }
            }
        }
    }
    return true;
}

// ---- unrolled_matmul ---------------------------------------------------------------------------

struct MatmulWork {
    const Matmul *m;
    Pack b;
    int64_t tasks, rows; // rows of c for each task
    int32_t failed;
};

inline void matmul_fill(void *data, int64_t panel) {
    const MatmulWork &w = *static_cast<MatmulWork *>(data);
    const Matmul &m = *w.m;
    if (m.b_trans)
        fill_panel(w.b, m.b, m.ldb, panel);
    else
        fill_across(w.b, panel, 1, [&](int64_t k) { return m.b + k * m.ldb; });
}

inline void matmul_rows(void *data, int64_t task) {
    MatmulWork &w = *static_cast<MatmulWork *>(data);
    const Matmul &m = *w.m;
    const int64_t first = task * w.rows, rows = least_of(w.rows, m.m - first);
    if (rows <= 0) return;
    const int64_t step = least_of(chunk_rows(m.precision), rows);
    Rows a = {};
    float *scratch = nullptr;
    const Scratch memory([&](Arena &arena) {
        a = carve_rows(arena, m.precision, step, m.k);
        scratch = arena.floats(sums_size(w.b, step));
    });
    if (memory.failed()) return fail(w.failed);
    const MatrixUnit unit(m.precision);
    clear_ends(a, step);
    for (int64_t i0 = 0; i0 < rows; i0 += step) {
        const int64_t n = least_of(step, rows - i0);
        for (int64_t i = 0; i < n; i++) put_row(a, i, m.a + (first + i0 + i) * m.lda);
        const auto target = [&](int64_t i, int64_t at) {
            return m.c + (first + i0 + i) * m.ldc + at;
        };
        multiply(w.b, all_panels(w.b), a, n, scratch, target,
                 [&](int64_t i, int64_t at, int lanes, const float *sums) {
            float *to = target(i, at);
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
    const Transposed p = {.precision = m.precision,
                          .m = rows,
                          .n = m.n,
                          .k = m.k,
                          .c = m.c + first * m.ldc,
                          .ldc = m.ldc,
                          .accumulate = m.accumulate,
                          .sums = nullptr};
    if (!multiply_transposed(
            p, first, [&](int64_t k) { return m.a + k * m.lda; },
            [&](int64_t k) { return m.b + k * m.ldb; }))
        fail(w.failed);
    if (!m.bias || failed(w.failed)) return;
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < m.n; j++) m.c[(first + i) * m.ldc + j] += m.bias[j];
}

// rows for each of some tasks: whole tiles, as many for each thread
inline int64_t rows_of_task(int64_t rows, int64_t tasks) {
    return ((rows + tasks - 1) / tasks + 7) / 8 * 8;
}

inline Error matmul(const Matmul &m) {
    if (m.a_trans && m.b_trans) return "a product of two transposed matrices is not offered";
    MatmulWork w = {.m = &m, .b = {}, .tasks = 1, .rows = m.m, .failed = 0};
    const int64_t worth = m.m * m.n * m.k / 200000 + 1;
    w.tasks = least_of(m.threads < 1 ? 1 : m.threads, worth);
    w.rows = rows_of_task(m.m, w.tasks);
    if (m.a_trans) {
        parallel(m.threads, w.tasks, matmul_columns, &w);
        return failed(w.failed) ? OUT_OF_MEMORY : nullptr;
    }
    w.b = m.m <= 4 && !in_blocks(m.precision) ? plan(m.precision, m.m, 1, m.n, m.k) : plan_product(m.precision, m.n, m.k);
    const Scratch weights([&](Arena &arena) { w.b.data = arena.bytes(bytes_of(w.b)); });
    if (weights.failed()) return OUT_OF_MEMORY;
    parallel(w.tasks > 1 ? m.threads : 1, w.b.panels, matmul_fill, &w);
    parallel(m.threads, w.tasks, matmul_rows, &w);
    return failed(w.failed) ? OUT_OF_MEMORY : nullptr;
}

} // namespace
