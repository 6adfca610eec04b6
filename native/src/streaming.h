// A stream's stages: what they keep, and one step of them.
#pragma once

namespace {

inline size_t carve_layer(StreamLayer &s, char *memory, size_t size) {
    Arena arena = {.memory = memory, .size = size};
    const int64_t gate_sums = s.hh.gates * s.hidden;
    s.ih.data = arena.bytes(bytes_of(s.ih));
    s.hh.data = arena.bytes(bytes_of(s.hh));
    s.x_rows = carve_rows(arena, s.precision, s.rows, s.input);
    s.h_rows = carve_rows(arena, s.precision, s.rows, s.hidden);
    s.x_sums = arena.floats(TILE_FLOATS);
    s.h_sums = arena.floats(TILE_FLOATS);
    s.bias = arena.floats(gate_sums);
    s.bias_inner = arena.floats(s.hidden);
    s.output = arena.floats(s.rows * s.hidden);
    return arena.used;
}

inline size_t carve_linear(StreamLinear &s, char *memory, size_t size) {
    Arena arena = {.memory = memory, .size = size};
    s.w.data = arena.bytes(bytes_of(s.w));
    s.x_rows = carve_rows(arena, s.precision, s.rows, s.input);
    s.sums = arena.floats(sums_size(s.w, s.rows));
    s.bias = arena.floats(s.output_size);
    s.output = arena.floats(s.rows * s.output_size);
    return arena.used;
}

inline void step_linear(const StreamLinear &s, const float *x, float *y) {
    const MatrixUnit unit(s.precision);
    for (int64_t i = 0; i < s.rows; i++) put_row(s.x_rows, i, x + i * s.input);
    const auto target = [&](int64_t i, int64_t at) { return y + i * s.output_size + at; };
    multiply(s.w, all_panels(s.w), s.x_rows, s.rows, s.sums, target,
             [&](int64_t i, int64_t at, int n, const float *sums) {
        const V v = add(load(sums), load(s.bias + at, n));
        store(target(i, at), v, n);
    });
}

// The work of one tile: whole sums of rows from `first` on with a panel.
inline TileWork work_of_tile(const Rows &rows, int64_t first, const char *panel, float *sums) {
    return {.units = rows.units,
            .a = rows.data + first * rows.ld,
            .lda = rows.ld,
            .panel = panel,
            .out = sums,
            .more = false,
            .row_scales = rows.scales + first,
            .next = panel,
            .next_step = 0};
}

// Both products of a panel one after the other, so that its gates can close at once. The order of
// every sum is that of forward.h.
template <int Cell> void step_cells(const StreamLayer &s, const float *x_in, float *y) {
    const int64_t size = s.hidden;
    const Rows x = s.x_rows, h = s.h_rows;
    float *from_x = s.x_sums, *from_h = s.h_sums;
    float before[4 * W];
    for (int64_t panel = 0; panel < s.hh.panels; panel++) {
        const int width = static_cast<int>(width_of(s.hh, panel)), gates = s.hh.gates;
        const char *w_x = s.ih.data + panel * s.ih.panel_bytes;
        const char *w_h = s.hh.data + panel * s.hh.panel_bytes;
        const int64_t most = height(s.precision, width, s.rows);
        for (int64_t i0 = 0; i0 < s.rows; i0 += most) {
            const int m = static_cast<int>(least_of(most, s.rows - i0));
            const Tile tile = tile_along(s.precision, width, m);
            tile(work_of_tile(x, i0, w_x, from_x));
            tile(work_of_tile(h, i0, w_h, from_h));
            for (int64_t q = 0; q < m; q++)
                for (int64_t b = 0; b < width / gates; b++) {
                    const int64_t at = (panel * (s.hh.vectors / gates) + b) * W;
                    if (at >= size) break;
                    const int n = lanes_at(size, at);
                    const int64_t row = (i0 + q) * size + at, sums = (q * width + b * gates) * W;
                    for (int g = 0; g < gates; g++)
                        store(before + g * W, add(load(from_x + sums + g * W),
                                                  load(s.bias + g * size + at, n)));
                    const Unit u = {before, W, from_h + sums, n};
                    V now;
                    if (Cell == UNROLLED_LSTM)
                        now = lstm_cell(u, s.c + row, nullptr, 0, nullptr);
                    else if (Cell == UNROLLED_GRU)
                        now = gru_cell(u, load(s.h + row, n), load(s.bias_inner + at, n), nullptr, 0,
                                       nullptr);
                    else
                        now = rnn_cell<Cell == UNROLLED_RNN_RELU>(u);
                    store(s.h + row, now, n);
                    // x of these units was put into its row before
                    store(y + row, s.residual ? add(now, load(x_in + row, n)) : now, n);
                }
        }
    }
}

inline void step_layer(const StreamLayer &s, const float *x, float *y) {
    const MatrixUnit unit(s.precision);
    for (int64_t i = 0; i < s.rows; i++) {
        put_row(s.x_rows, i, x + i * s.input);
        put_row(s.h_rows, i, s.h + i * s.hidden);
    }
    switch (s.cell) {
    case UNROLLED_LSTM: step_cells<UNROLLED_LSTM>(s, x, y); break;
    case UNROLLED_GRU: step_cells<UNROLLED_GRU>(s, x, y); break;
    case UNROLLED_RNN_RELU: step_cells<UNROLLED_RNN_RELU>(s, x, y); break;
    default: step_cells<UNROLLED_RNN_TANH>(s, x, y);
    }
}

} // namespace
