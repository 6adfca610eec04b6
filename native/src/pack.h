// Putting weights into panels and activations into rows, in the format of a precision.
#pragma once

namespace {

inline int64_t least_of(int64_t a, int64_t b) { return a < b ? a : b; }

inline int lanes_at(int64_t size, int64_t at) {
    return size - at < W ? static_cast<int>(size - at) : W;
}

constexpr int64_t per_unit(int32_t precision) {
    return precision == UNROLLED_INT8 ? 4 : precision == UNROLLED_BF16 ? 2 : 1;
}

// units in a row of k numbers; the matrix unit takes 16 at a time
inline int64_t units_of(int32_t precision, int64_t k) {
    if (in_blocks(precision)) return pairs_of(k) * PAIR_UNITS;
    const int64_t units = (k + per_unit(precision) - 1) / per_unit(precision);
    return on_matrix_unit(precision) ? (units + 15) / 16 * 16 : units;
}

// ---- activations -------------------------------------------------------------------------------

inline int64_t row_stride(int32_t precision, int64_t k) {
    return (units_of(precision, k) + 15) / 16 * 16 + 16;
}

inline int64_t tiled_rows(int32_t precision, int64_t rows) {
    return on_matrix_unit(precision) ? rows + 32 : rows;
}

// The same memory for rows of k numbers, which are no more than before.
inline Rows narrowed(const Rows &r, int64_t k) {
    Rows narrow = r;
    narrow.k = k;
    narrow.units = units_of(r.precision, k);
    narrow.ld = row_stride(r.precision, k);
    return narrow;
}

inline Rows carve_rows(Arena &arena, int32_t precision, int64_t rows, int64_t k) {
    const int64_t ld = row_stride(precision, k);
    return {.precision = precision,
            .k = k,
            .units = units_of(precision, k),
            .ld = ld,
            .data = arena.array<uint32_t>(tiled_rows(precision, rows) * ld),
            .scales = arena.floats(rows + 32)};
}

// The last units of a row may have room behind its last number, which is zero from here on. (Rows
// of a tile past the last one may hold anything: nobody reads their sums.)
inline void clear_ends(const Rows &r, int64_t rows) {
    if (r.precision == UNROLLED_FP32 || in_blocks(r.precision)) return; // the last are always written
    const int64_t full = r.k / per_unit(r.precision);
    for (int64_t i = 0; i < rows; i++)
        memset(r.data + i * r.ld + full, 0, static_cast<size_t>(r.units - full) * 4);
}

// The largest of k numbers by size; NaN when one of them is inf or NaN.
inline float largest_size(const float *from, int64_t k) {
    V most = set1(0), strange = set1(0);
    for (int64_t i = 0; i < k; i += W) {
        const V v = magnitude(load(from + i, lanes_at(k, i)));
        strange = add(strange, mul(v, set1(0))); // 0, or NaN of inf and NaN
        most = larger(most, v);
    }
    return largest(most) + sum_of(strange);
}

inline void put_row_int8(const Rows &r, int64_t row, const float *from) {
    const float top = largest_size(from, r.k);
    // a row with inf or NaN has no scale: everything it touches is NaN, as in the equations
    const bool usable = top >= LEAST, sound = top == top;
    const float inverse = usable ? 127.0f / top : 0.0f;
    r.scales[row] = usable ? top / 127.0f : sound ? 0.0f : top;
    uint8_t *to = reinterpret_cast<uint8_t *>(r.data + row * r.ld);
    for (int64_t i = 0; i < r.k; i += W) {
        const int n = lanes_at(r.k, i);
        const V v = usable ? mul(load(from + i, n), set1(inverse)) : set1(0);
        store_bytes(to + i, add(v, set1(128.5f)), n);
    }
}

// Put k numbers into a row; what lies behind the last one in its unit stays as it is.
inline void put_row(const Rows &r, int64_t row, const float *from) {
    if (r.precision == UNROLLED_INT8) return put_row_int8(r, row, from);
    if (in_blocks(r.precision))
        return put_row_blocks(r.data + row * r.ld, r.k, shift_of(r.precision), from);
    if (r.precision == UNROLLED_FP32) {
        memcpy(r.data + row * r.ld, from, static_cast<size_t>(r.k) * 4);
        return;
    }
    uint16_t *to = reinterpret_cast<uint16_t *>(r.data + row * r.ld);
    for (int64_t i = 0; i < r.k; i += W) {
        const int n = r.k - i < W ? static_cast<int>(r.k - i) : W;
        store_bf16(to + i, load(from + i, n), n);
    }
}

// Put some numbers of a row, from column `at` on (not where a scale needs more of them).
inline void put_part(const Rows &r, int64_t row, int64_t at, V v, int n) {
    if (r.precision == UNROLLED_FP32)
        store(reinterpret_cast<float *>(r.data + row * r.ld) + at, v, n);
    else if (r.precision == UNROLLED_BF16)
        store_bf16(reinterpret_cast<uint16_t *>(r.data + row * r.ld) + at, v, n);
}

// ---- weights -----------------------------------------------------------------------------------

// The columns of one vector: rows first .. first + lanes - 1 of the stored weights.
struct Columns {
    int64_t first;
    int lanes;
};

inline Columns columns_of(const Pack &p, int64_t panel, int64_t vector) {
    const int64_t block = panel * (p.vectors / p.gates) + vector / p.gates, gate = vector % p.gates;
    const int64_t left = p.units - block * W;
    const int lanes = left <= 0 ? 0 : left < W ? static_cast<int>(left) : W;
    return {gate * p.units + block * W, lanes};
}

// widths that tiles exist for
inline int64_t wider(int32_t precision, int64_t vectors) {
    if (on_matrix_unit(precision)) return vectors < 2 ? 2 : vectors;
    const int64_t widths[] = {2, 3, 4, 6, 8, 12, 16};
    for (int64_t w : widths)
        if (w >= vectors) return w;
    return 16;
}

// How many vectors a panel has: the widest tile whose height still takes all rows, so that few rows
// bring as many sums at once as many rows do.
inline int64_t panel_width(int32_t precision, int64_t rows, int64_t gates, int64_t units) {
    if (on_matrix_unit(precision)) return gates == 1 ? 2 : gates;
    const int64_t blocks = (units + W - 1) / W;
    const int64_t widths[] = {REGISTERS == 32 ? 16 : 12, 12, 8, 6, 4, 3, 2};
    const int64_t least = gates == 1 ? 2 : gates;
    for (int64_t w : widths)
        if (w % gates == 0 && w >= least && tallest(static_cast<int>(w)) >= rows &&
            w <= wider(precision, blocks * gates))
            return w;
    return least;
}

inline Pack plan_width(int32_t precision, int64_t width, int64_t gates, int64_t units, int64_t k) {
    Pack p;
    p.precision = precision;
    p.vectors = static_cast<int32_t>(width);
    p.gates = static_cast<int32_t>(gates);
    p.units = units;
    p.k = k;
    const int64_t vectors = (units + W - 1) / W * gates;
    p.panels = (vectors + width - 1) / width;
    p.last = p.panels ? wider(precision, vectors - (p.panels - 1) * width) : 0;
    const int64_t unit = in_blocks(precision) ? block_units(precision, k) : units_of(precision, k);
    p.panel_bytes = width * W * 4 * unit + panel_head(precision, width);
    p.bytes = p.panels
                  ? (p.panels - 1) * p.panel_bytes + p.last * W * 4 * unit + panel_head(precision, p.last)
                  : 0;
    p.data = nullptr;
    return p;
}

inline size_t bytes_of(const Pack &p) { return static_cast<size_t>(p.bytes); }

inline Pack plan(int32_t precision, int64_t rows, int64_t gates, int64_t units, int64_t k) {
    return plan_width(precision, panel_width(precision, rows, gates, units), gates, units, k);
}

// wide enough tiles for many rows, without a vector to spare
inline int64_t product_width(int64_t columns) {
    const int64_t vectors = (columns + W - 1) / W;
    return vectors % 2 == 0 || vectors < 3 ? 2 : 3;
}

inline Pack plan_product(int32_t precision, int64_t columns, int64_t k) {
    const int64_t width = on_matrix_unit(precision) ? 2 : product_width(columns);
    return plan_width(precision, width, 1, columns, k);
}

inline int64_t width_of(const Pack &p, int64_t panel) {
    return panel + 1 == p.panels ? p.last : p.vectors;
}

// to the nearest of -127 to 127; 0 where there is no scale
inline int32_t to_int8(float weight, float inverse) {
    if (inverse == 0.0f) return 0;
    return nearest(weight * inverse);
}

// W rows of up to W units each, from row `first` and column k0 on, in the pack's format
inline void gather_units(const Pack &p, const float *w, int64_t ld, Columns c, int64_t k0,
                         const float *inverse, uint32_t *to) {
    const int64_t whole = W * per_unit(p.precision), left = p.k - k0;
    const int64_t numbers = least_of(left, whole);
    for (int i = 0; i < W; i++) {
        uint32_t *row = to + i * W;
        if (i >= c.lanes || numbers < whole) memset(row, 0, W * 4);
        if (i >= c.lanes) continue;
        const float *from = w + (c.first + i) * ld + k0;
        if (p.precision == UNROLLED_FP32) {
            memcpy(row, from, static_cast<size_t>(numbers) * 4);
        } else if (p.precision == UNROLLED_BF16) {
            for (int64_t j = 0; j < numbers; j += W) {
                const int n = numbers - j < W ? static_cast<int>(numbers - j) : W;
                store_bf16(reinterpret_cast<uint16_t *>(row) + j, load(from + j, n), n);
            }
        } else {
            int8_t *bytes = reinterpret_cast<int8_t *>(row);
            for (int64_t j = 0; j < numbers; j++)
                bytes[j] = static_cast<int8_t>(to_int8(from[j], inverse[i]));
        }
    }
}

// the scale of every column, 127 for its largest weight, and what 128 a number adds to its sum
inline void scale_columns(const Pack &p, const float *w, int64_t ld, Columns c, float *scales,
                          float *offsets, float *inverse) {
    for (int i = 0; i < W; i++) {
        scales[i] = offsets[i] = inverse[i] = 0;
        if (i >= c.lanes) continue;
        const float *from = w + (c.first + i) * ld;
        const float top = largest_size(from, p.k);
        const bool usable = top >= LEAST;
        scales[i] = usable ? top / 127.0f : top == top ? 0.0f : top;
        inverse[i] = usable ? 127.0f / top : 0.0f;
        int64_t sum = 0;
        for (int64_t j = 0; j < p.k; j++) sum += to_int8(from[j], inverse[i]);
        offsets[i] = static_cast<float>(128 * sum);
    }
}

inline void fill_blocks(const Pack &p, const float *w, int64_t ld, int64_t panel, uint32_t *to) {
    const int64_t width = width_of(p, panel);
    for (int64_t v = 0; v < width; v++) {
        const Columns c = columns_of(p, panel, v);
        for (int i = 0; i < W; i++) {
            const bool real = i < c.lanes;
            put_column(p.precision, w + (real ? c.first + i : 0) * ld, real ? p.k : 0,
                       block_units(p.precision, p.k), to + v * W + i, width * W);
        }
    }
}

// Pack one panel of weights stored a column a row (gates * units, k), ld apart.
inline void fill_panel(const Pack &p, const float *w, int64_t ld, int64_t panel) {
    const int64_t width = width_of(p, panel), units = units_of(p.precision, p.k);
    uint32_t *to = reinterpret_cast<uint32_t *>(p.data + panel * p.panel_bytes);
    if (in_blocks(p.precision)) return fill_blocks(p, w, ld, panel, to);
    float *head = reinterpret_cast<float *>(to);
    uint32_t *body = to + panel_head(p.precision, width) / 4;
    alignas(64) uint32_t block[W * W], turned[W * W];
    float inverse[W];
    for (int64_t v = 0; v < width; v++) {
        const Columns c = columns_of(p, panel, v);
        if (p.precision == UNROLLED_INT8)
            scale_columns(p, w, ld, c, head + v * W, head + (width + v) * W, inverse);
        for (int64_t u = 0; u < units; u += W) {
            gather_units(p, w, ld, c, u * per_unit(p.precision), inverse, block);
            transpose(block, W, turned, W);
            const int64_t n = units - u < W ? units - u : W;
            for (int64_t j = 0; j < n; j++)
                store(body + ((u + j) * width + v) * W, load(turned + j * W));
        }
    }
}

inline void fill(const Pack &p, const float *w, int64_t ld) {
    for (int64_t i = 0; i < p.panels; i++) fill_panel(p, w, ld, i);
}

// Pack some panels of a matrix stored a k a row: row(k) points at its p.units columns. fp32 or bf16,
// one gate. Every row is read from end to end, and asked for some rows before.
template <class Row>
void fill_across(const Pack &p, int64_t first, int64_t panels, Row row) {
    const int64_t unit_size = per_unit(p.precision), units = units_of(p.precision, p.k);
    const int64_t from = first * p.vectors * W;
    const int64_t until = first + panels < p.panels ? (first + panels) * p.vectors * W : p.units;
    for (int64_t u = 0; u < units; u++) {
        const int64_t k = u * unit_size;
        const float *even = k < p.k ? row(k) : nullptr;
        const float *odd = unit_size == 2 && k + 1 < p.k ? row(k + 1) : nullptr;
        for (int64_t next = k + 8; next < k + 8 + unit_size && next < p.k; next++)
            for (int64_t at = from; at < until; at += 16) __builtin_prefetch(row(next) + at);
        for (int64_t q = first; q < first + panels; q++) {
            const int64_t width = width_of(p, q);
            uint32_t *to = reinterpret_cast<uint32_t *>(p.data + q * p.panel_bytes) + u * width * W;
            for (int64_t v = 0, at = q * p.vectors * W; v < width; v++, at += W, to += W) {
                const int64_t left = p.units - at;
                const int lanes = left >= W ? W : left > 0 ? static_cast<int>(left) : 0;
                const V low = even && lanes ? load(even + at, lanes) : set1(0);
                if (unit_size == 1) {
                    store(reinterpret_cast<float *>(to), low);
                    continue;
                }
                VU pair = to_bf16(low);
                if (odd && lanes) pair = either(pair, shift_left16(to_bf16(load(odd + at, lanes))));
                store(to, pair);
            }
        }
    }
}

} // namespace
