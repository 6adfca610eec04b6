// One step of a stream's stage, with weights packed before.
#pragma once

namespace {

inline void step_linear(const StreamLinear &s, const float *x, float *y) {
    const Rows a = rows_at(s.rows_x, s.precision, s.rows, s.input);
    const MatrixUnit unit(s.precision);
    for (int64_t i = 0; i < s.rows; i++) put_row(a, i, x + i * s.input);
    const auto soon = [&](int64_t i, int64_t at) { return y + i * s.output + at; };
    multiply(s.w, {0, s.w.panels}, a, s.rows, s.scratch, soon, [&](int64_t i, int64_t at, int n, const float *sums) {
        V v = load(sums);
        if (s.bias) v = add(v, load(s.bias + at, n));
        store(y + i * s.output + at, v, n);
    });
}

// Both products of a panel one after the other, so that its gates can close at once. The order of
// every sum is that of forward.h.
template <int Cell>
void step_cells(const StreamLayer &s, const float *x_in, const Rows &x, const Rows &h, float *y) {
    const int64_t size = s.hidden;
    float *from_x = s.scratch, *from_h = s.scratch + SCRATCH;
    float before[4 * W];
    for (int64_t panel = 0; panel < s.hh.panels; panel++) {
        const int width = static_cast<int>(width_of(s.hh, panel)), gates = s.hh.gates;
        const char *w_x = s.ih.data + panel * s.ih.panel_bytes;
        const char *w_h = s.hh.data + panel * s.hh.panel_bytes;
        const int64_t most = height(s.precision, width, s.rows);
        for (int64_t i0 = 0; i0 < s.rows; i0 += most) {
            const int m = static_cast<int>(least_of(most, s.rows - i0));
            const Tile tile = tile_along(s.precision, width, m);
            tile({x.units, x.data + i0 * x.ld, x.ld, w_x, from_x, false, x.scales + i0, w_x, 0});
            tile({h.units, h.data + i0 * h.ld, h.ld, w_h, from_h, false, h.scales + i0, w_h, 0});
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
                    // x of this place was put into its row before
                    store(y + row, s.residual ? add(now, load(x_in + row, n)) : now, n);
                }
        }
    }
}

inline void step_layer(const StreamLayer &s, const float *x, float *y) {
    const Rows a = rows_at(s.rows_x, s.precision, s.rows, s.input);
    const Rows h = rows_at(s.rows_h, s.precision, s.rows, s.hidden);
    const MatrixUnit unit(s.precision);
    for (int64_t i = 0; i < s.rows; i++) {
        put_row(a, i, x + i * s.input);
        put_row(h, i, s.h + i * s.hidden);
    }
    switch (s.cell) {
    case UNROLLED_LSTM: step_cells<UNROLLED_LSTM>(s, x, a, h, y); break;
    case UNROLLED_GRU: step_cells<UNROLLED_GRU>(s, x, a, h, y); break;
    case UNROLLED_RNN_RELU: step_cells<UNROLLED_RNN_RELU>(s, x, a, h, y); break;
    default: step_cells<UNROLLED_RNN_TANH>(s, x, a, h, y);
    }
}

} // namespace
