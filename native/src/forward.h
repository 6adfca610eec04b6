// Reading sequences: one slice of rows from their first step to their last, by one thread.
#pragma once

namespace {

// How many units of a panel are taken at once, so that they stay in the nearest cache while every
// tile of rows uses them. int8 sums are not floats and are never taken in pieces.
inline int64_t piece_of(int32_t precision, int64_t width, int64_t units) {
    if (precision == UNROLLED_INT8) return units;
    const int64_t bytes = 32 * 1024;
    const int64_t piece = bytes / (width * W * 4) / 16 * 16;
    return units < piece + piece / 2 ? units : piece;
}

constexpr int64_t NEAR = 1 << 20; // bytes that stay in the second cache of any processor

// floats of scratch that products of so many rows with a pack need
inline int64_t sums_size(const Pack &p, int64_t rows) {
    const int64_t width = p.vectors > p.last ? p.vectors : p.last;
    return (rows + 32) * width * W;
}

// Products of prepared rows with every panel of a pack; use(i, column, n, sums) takes W sums of one
// row, those of gate g at sums + g * W, and writes to soon(i, column), which is asked for in advance.
template <class Soon, class Use>
void multiply(const Pack &p, const Rows &a, int64_t rows, float *scratch, Soon soon, Use use) {
    for (int64_t panel = 0; panel < p.panels; panel++) {
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
            // weights from far: while this panel is used, all of the next one is asked for
            work.next = data + p.panel_bytes;
            work.next_step = p.panel_bytes / (tiles * a.units) + 1;
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
                            __builtin_prefetch(soon(q, at), 1, 3);
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

constexpr int64_t SCRATCH = 64 * 16; // floats that one tile writes at most: 64 vectors

// y rows = x rows w^T + bias, for rows anywhere
inline void project(const Pack &p, const Rows &a, int64_t rows, const float *bias, float **to,
                    float *scratch) {
    multiply(
        p, a, rows, scratch, [=](int64_t i, int64_t at) { return to[i] + at; },
        [=](int64_t i, int64_t at, int n, const float *sums) {
            V v = load(sums);
            if (bias) v = add(v, load(bias + at, n));
            store(to[i] + at, v, n);
        });
}

// The steps whose input product is taken together: enough rows to fill the tiles, few enough that
// what they write is still near when the recurrence reads it.
inline int64_t chunk_rows(int32_t precision) { return on_matrix_unit(precision) ? 512 : 256; }

struct ForwardSlice {
    const Shared &all;
    const unrolled_run &r;
    int64_t first, rows; // rows of this slice
    int64_t room_rows;   // most (step, row) pairs in a chunk
    Rows x, h, h_next;
    float *scratch, *c, *zeros, *chunk;
    float **to;           // of a chunk: where the input's part of each (step, row) goes
    float **out;          // of a step: rows of y
    const float **before; // of a step: h of the step before

    int64_t width() const { return all.gates * r.hidden; }

    // where the sums of a step's gates stand before and after their activation
    float *gates_at(int64_t t, int64_t i, int64_t in_chunk) const {
        if (all.gates == 1) return r.y + place(r, t, first + i) * r.hidden;
        if (r.gates) return r.gates + (all.kept_at[t] + first + i) * width();
        return chunk + in_chunk * width();
    }

    int64_t here(int64_t t) const { // rows of the slice that read step t
        const int64_t n = active_at(r, t) - first;
        return n < 0 ? 0 : n < rows ? n : rows;
    }

    int64_t step_of(int64_t i) const { return r.reverse ? r.steps - 1 - i : i; }

    void enter(int64_t i) {
        const int64_t at = owner(r, first + i) * r.hidden;
        before[i] = r.h0 ? r.h0 + at : zeros;
        if (c) {
            if (r.c0)
                memcpy(c + i * r.hidden, r.c0 + at, static_cast<size_t>(r.hidden) * 4);
            else
                memset(c + i * r.hidden, 0, static_cast<size_t>(r.hidden) * 4);
        }
        put_hidden(h, i, before[i]);
    }

    const float *mask_of(int64_t i) const {
        return r.mask ? r.mask + owner(r, first + i) * r.hidden : nullptr;
    }

    void put_hidden(const Rows &to_rows, int64_t i, const float *from) {
        const float *mask = mask_of(i);
        if (!mask) return put_row(to_rows, i, from);
        for (int64_t j = 0; j < r.hidden; j += W) {
            const int n = lanes_at(r.hidden, j);
            put_part(to_rows, i, j, mul(load(from + j, n), load(mask + j, n)), n);
        }
    }

    void leave(int64_t i) {
        const int64_t at = owner(r, first + i) * r.hidden;
        const size_t bytes = static_cast<size_t>(r.hidden) * 4;
        if (r.h_final) memcpy(r.h_final + at, before[i], bytes);
        if (r.c_final && c) memcpy(r.c_final + at, c + i * r.hidden, bytes);
    }

    // Take steps from `from` on until the chunk is full; returns the step after.
    int64_t project_chunk(int64_t from) {
        int64_t count = 0, s = from;
        for (; s < r.steps; s++) {
            const int64_t t = step_of(s), n = here(t);
            if (count && count + n > room_rows) break;
            for (int64_t i = 0; i < n; i++, count++) {
                put_row(x, count, r.x + place(r, t, first + i) * r.input);
                to[count] = gates_at(t, i, count);
            }
        }
        project(all.ih, x, count, all.bias, to, scratch);
        return s;
    }

    template <int Cell> void step(int64_t t, int64_t n, float **gates) {
        const bool keep = r.gates != nullptr;
        const int64_t size = r.hidden;
        for (int64_t i = 0; i < n; i++) out[i] = r.y + place(r, t, first + i) * size;
        const auto soon = [&](int64_t i, int64_t at) { return gates[i] + at; };
        multiply(all.hh, h, n, scratch, soon, [&](int64_t i, int64_t at, int lanes, const float *sums) {
            const Unit u = {gates[i] + at, size, sums, lanes};
            const int64_t kept = (keep ? all.kept_at[t] + first + i : 0) * size + at;
            float *save = keep ? gates[i] + at : nullptr;
            V now;
            if (Cell == UNROLLED_LSTM)
                now = lstm_cell(u, c + i * size + at, save, size, r.cells + kept);
            else if (Cell == UNROLLED_GRU)
                now = gru_cell(u, load(before[i] + at, lanes),
                               all.bias_inner ? load(all.bias_inner + at, lanes) : set1(0), save,
                               size, r.inner + kept);
            else
                now = rnn_cell<Cell == UNROLLED_RNN_RELU>(u);
            store(out[i] + at, now, lanes);
            const float *mask = mask_of(i);
            put_part(h_next, i, at, mask ? mul(now, load(mask + at, lanes)) : now, lanes);
        });
        for (int64_t i = 0; i < n; i++) {
            before[i] = out[i];
            if (h_next.precision == UNROLLED_INT8) put_row(h_next, i, out[i]);
        }
        const Rows other = h;
        h = h_next;
        h_next = other;
    }

    template <int Cell> void run() {
        int64_t read = 0, ready = 0, reading = 0; // steps read, projected; rows being read
        float **gates = to;
        if (!r.reverse) {
            for (int64_t i = 0; i < rows; i++) enter(i);
            reading = rows;
        }
        for (; read < r.steps; read++) {
            const int64_t t = step_of(read), n = here(t);
            if (read == ready) {
                ready = project_chunk(read);
                gates = to;
            }
            for (; reading < n; reading++) enter(reading); // only backward in time
            for (; reading > n; reading--) leave(reading - 1);
            if (!n) continue;
            step<Cell>(t, n, gates);
            gates += n;
        }
        for (; r.reverse && reading < rows; reading++) enter(reading); // rows without a step
        for (int64_t i = 0; i < reading; i++) leave(i);
    }
};

inline void forward_slice(void *data, int64_t index) {
    Shared &all = *static_cast<Shared *>(data);
    const unrolled_run &r = *all.run;
    const int64_t first = all.cuts[index], rows = all.cuts[index + 1] - first;
    if (!rows) return;
    const int64_t gates = all.gates;
    const int64_t many = least_of(chunk_rows(r.precision) > rows ? chunk_rows(r.precision) : rows,
                                  rows * (r.steps < 1 ? 1 : r.steps));
    const bool chunked = gates > 1 && !r.gates;
    const size_t x_bytes = rows_bytes(r.precision, many, r.input);
    const size_t h_bytes = rows_bytes(r.precision, rows, r.hidden);
    const int64_t of_x = sums_size(all.ih, many), of_h = sums_size(all.hh, rows);
    const int64_t sums = of_x > of_h ? of_x : of_h;
    Scratch s(x_bytes + 2 * h_bytes + room(sums, 4) + room(rows * r.hidden, 4) +
              room(r.hidden, 4) + (chunked ? room(many * gates * r.hidden, 4) : 0) +
              room(many, 8) + 2 * room(rows, 8) + 1024);
    if (s.failed()) {
        all.failed = true;
        return;
    }
    const MatrixUnit unit;
    ForwardSlice slice = {all, r, first, rows, many, {}, {}, {}, nullptr, nullptr,
                          nullptr, nullptr, nullptr, nullptr, nullptr};
    slice.x = rows_at(s.bytes(x_bytes), r.precision, many, r.input);
    slice.h = rows_at(s.bytes(h_bytes), r.precision, rows, r.hidden);
    slice.h_next = rows_at(s.bytes(h_bytes), r.precision, rows, r.hidden);
    clear_ends(slice.x, many);
    clear_ends(slice.h, rows);
    clear_ends(slice.h_next, rows);
    slice.scratch = s.floats(sums);
    slice.c = r.cell == UNROLLED_LSTM ? s.floats(rows * r.hidden) : nullptr;
    slice.zeros = s.floats(r.hidden);
    memset(slice.zeros, 0, static_cast<size_t>(r.hidden) * 4);
    slice.chunk = chunked ? s.floats(many * gates * r.hidden) : nullptr;
    slice.to = static_cast<float **>(s.bytes(static_cast<size_t>(many) * 8));
    slice.out = static_cast<float **>(s.bytes(static_cast<size_t>(rows) * 8));
    slice.before = static_cast<const float **>(s.bytes(static_cast<size_t>(rows) * 8));
    switch (r.cell) {
    case UNROLLED_LSTM: return slice.run<UNROLLED_LSTM>();
    case UNROLLED_GRU: return slice.run<UNROLLED_GRU>();
    case UNROLLED_RNN_RELU: return slice.run<UNROLLED_RNN_RELU>();
    default: return slice.run<UNROLLED_RNN_TANH>();
    }
}

// Biases as they are added: both at once, but for the GRU's candidate, whose b_hn stays inside.
inline void add_biases(const unrolled_run &r, int64_t gates, float *bias, float *inner) {
    const int64_t together = r.cell == UNROLLED_GRU ? 2 * r.hidden : gates * r.hidden;
    for (int64_t j = 0; j < gates * r.hidden; j++) {
        bias[j] = (r.b_ih ? r.b_ih[j] : 0.0f) + (r.b_hh && j < together ? r.b_hh[j] : 0.0f);
        if (r.cell == UNROLLED_GRU && j >= together) inner[j - together] = r.b_hh ? r.b_hh[j] : 0.0f;
    }
}

struct Filling {
    Shared *all;
    int64_t first_hh; // panels before this one are of w_ih
};

inline void fill_forward(void *data, int64_t panel) {
    const Filling &f = *static_cast<Filling *>(data);
    const unrolled_run &r = *f.all->run;
    if (panel < f.first_hh)
        fill_panel(f.all->ih, r.w_ih, r.input, panel);
    else
        fill_panel(f.all->hh, r.w_hh, r.hidden, panel - f.first_hh);
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

inline int64_t most_in_slice(const Shared &all) {
    int64_t most = 1;
    for (int64_t i = 0; i < all.slices; i++) {
        const int64_t n = all.cuts[i + 1] - all.cuts[i];
        most = n > most ? n : most;
    }
    return most;
}

inline void number_steps(const unrolled_run &r, int64_t *kept_at) {
    int64_t count = 0;
    for (int64_t t = 0; t < r.steps; t++) {
        kept_at[t] = count;
        count += active_at(r, t);
    }
}

inline Error forward(const unrolled_run &r) {
    const int64_t gates = gates_of(r.cell), slices = slices_for(r);
    Scratch small(room(r.steps, 8) + room(slices + 1, 8) + room((gates + 1) * r.hidden, 4) + 256);
    if (small.failed()) return "out of memory";
    Shared all = {};
    all.run = &r;
    all.gates = gates;
    all.slices = slices;
    all.kept_at = small.numbers(r.steps);
    all.cuts = small.numbers(slices + 1);
    float *bias = small.floats((gates + 1) * r.hidden), *inner = bias + gates * r.hidden;
    number_steps(r, all.kept_at);
    cut(r, slices, all.cuts);
    add_biases(r, gates, bias, inner);
    all.bias = bias;
    all.bias_inner = r.cell == UNROLLED_GRU ? inner : nullptr;
    all.ih = plan_product(r.precision, gates * r.hidden, r.input);
    all.hh = plan(r.precision, most_in_slice(all), gates, r.hidden, r.hidden);
    Scratch weights(static_cast<size_t>(all.ih.bytes + all.hh.bytes) + 256);
    if (weights.failed()) return "out of memory";
    all.ih.data = static_cast<char *>(weights.bytes(static_cast<size_t>(all.ih.bytes)));
    all.hh.data = static_cast<char *>(weights.bytes(static_cast<size_t>(all.hh.bytes)));
    Filling filling = {&all, all.ih.panels};
    const int32_t threads = static_cast<int32_t>(slices);
    parallel(threads, all.ih.panels + all.hh.panels, fill_forward, &filling);
    parallel(threads, slices, forward_slice, &all);
    return all.failed ? "out of memory" : nullptr;
}

} // namespace
