// Products of prepared rows with packed weights.
#pragma once

namespace {

// How many units of a panel are taken at once, so that they stay in the nearest cache while every
// tile of rows uses them. Sums of whole numbers are never taken in pieces.
inline int64_t piece_of(int32_t precision, int64_t width, int64_t units) {
    if (precision == UNROLLED_INT8 || in_blocks(precision)) return units;
    const int64_t bytes = 32 * 1024;
    const int64_t piece = bytes / (width * W * 4) / 16 * 16;
    return units < piece + piece / 2 ? units : piece;
}

constexpr int64_t NEAR = 1 << 20; // bytes that stay in the second cache of any processor

constexpr int64_t TILE_FLOATS = 64 * 16; // that one tile writes at most: 64 vectors

// floats that the sums of so many rows with a pack need
inline int64_t sums_size(const Pack &p, int64_t rows) {
    const int64_t width = p.vectors > p.last ? p.vectors : p.last;
    return (rows + 32) * width * W;
}

// Things first to past - 1 of some.
struct Range {
    int64_t first, past;
};

// What one of several members does of `count` things.
inline Range range_of(int64_t count, int64_t member, int64_t members) {
    return {count * member / members, count * (member + 1) / members};
}

inline Range all_panels(const Pack &p) { return {0, p.panels}; }

// Products of prepared rows with some panels of a pack; use(i, column, n, sums) takes W sums of one
// row, those of gate g at sums + g * W, and writes to target(i, column), which is asked for in
// advance.
template <class Target, class Use>
void multiply(const Pack &p, Range panels, const Rows &a, int64_t rows, float *scratch,
              Target target, Use use) {
    if (!rows) return;
    for (int64_t panel = panels.first; panel < panels.past; panel++) {
        const int width = static_cast<int>(width_of(p, panel));
        const char *data = p.data + panel * p.panel_bytes;
        const int64_t most = height(p.precision, width, rows);
        // one tile uses a panel once: no need to keep it near
        const int64_t whole = a.units ? a.units : 1;
        const int64_t piece = rows > most ? piece_of(p.precision, width, whole) : whole;
        const int64_t tiles = (rows + most - 1) / most;
        const int64_t first = panel * (p.vectors / p.gates) * W; // column of this panel
        const int64_t past = least_of(first + width / p.gates * W, p.units);
        TileWork work = {};
        work.lda = a.ld;
        work.next = data;
        if (p.bytes > NEAR && panel + 1 < p.panels && a.units) {
            // weights from far: while this panel is used, the next one is asked for, or of a wide
            // one as much as a line for every unit and tile comes to
            work.next = data + p.panel_bytes;
            work.next_step = least_of(p.panel_bytes / (tiles * a.units) + 1, 64);
        }
        for (int64_t k = 0; k < a.units || k == 0; k += piece) {
            work.units = least_of(piece, a.units - k);
            work.panel = data + k * width * W * 4;
            work.more = k > 0;
            const bool done = k + piece >= a.units;
            for (int64_t i = 0; i < rows; i += most) {
                const int64_t m = least_of(most, rows - i);
                work.a = a.data + i * a.ld + k;
                work.out = scratch + i * width * W;
                work.row_scales = a.scales + i;
                if (done)
                    for (int64_t q = i; q < i + m; q++)
                        for (int64_t at = first; at < past; at += W)
                            __builtin_prefetch(target(q, at), 1, 3);
                tile_along(p.precision, width, static_cast<int>(m))(work);
                work.next += work.units * work.next_step;
                if (!done) continue;
                const float *sums = work.out;
                for (int64_t q = i; q < i + m; q++, sums += width * W)
                    for (int64_t at = first, b = 0; at < past; at += W, b += p.gates * W)
                        use(q, at, lanes_at(p.units, at), sums + b);
            }
        }
    }
}

// y rows = x rows w^T + bias, for rows of y anywhere
inline void project(const Pack &p, Range panels, const Rows &a, int64_t rows, const float *bias,
                    float **y_rows, float *scratch) {
    multiply(
        p, panels, a, rows, scratch, [=](int64_t i, int64_t at) { return y_rows[i] + at; },
        [=](int64_t i, int64_t at, int n, const float *sums) {
            V v = load(sums);
            if (bias) v = add(v, load(bias + at, n));
            store(y_rows[i] + at, v, n);
        });
}

} // namespace
