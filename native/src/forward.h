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

// What one of several members does of `count` things.
struct Share {
    int64_t first, past;
};

inline Share share(int64_t count, int64_t member, int64_t members) {
    return {count * member / members, count * (member + 1) / members};
}

// Products of prepared rows with some panels of a pack; use(i, column, n, sums) takes W sums of one
// row, those of gate g at sums + g * W, and writes to soon(i, column), which is asked for in advance.
template <class Soon, class Use>
void multiply(const Pack &p, Share panels, const Rows &a, int64_t rows, float *scratch, Soon soon,
              Use use) {
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
inline void project(const Pack &p, Share panels, const Rows &a, int64_t rows, const float *bias,
                    float **to, float *scratch) {
    multiply(
        p, panels, a, rows, scratch, [=](int64_t i, int64_t at) { return to[i] + at; },
        [=](int64_t i, int64_t at, int n, const float *sums) {
            V v = load(sums);
            if (bias) v = add(v, load(bias + at, n));
            store(to[i] + at, v, n);
        });
}

// The steps whose input product is taken together: enough rows to fill the tiles, few enough that
// what they write is still near when the recurrence reads it.
inline int64_t chunk_rows(int32_t precision) { return on_matrix_unit(precision) ? 512 : 256; }

// What the members of a slice share.
struct ForwardMemory {
    int64_t many; // most (step, row) pairs in a chunk
    Rows h, h_next;
    float *c, *zeros, *chunk;
};

// Rows of a run from their first step to their last. Usually one thread's; where rows are too few
// for that, several members take the same rows, each some of the columns, and meet at every step.
struct ForwardSlice {
    const Shared &all;
    const unrolled_run &r;
    int64_t first, rows; // rows of this slice
    int64_t member, members;
    Meeting *meeting;
    ForwardMemory memory;
    Rows x, h, h_next;
    float *scratch, *c, *zeros, *chunk;
    float **to;           // of a chunk: where the input's part of each (step, row) goes
    float **out;          // of a step: rows of y
    const float **before; // of a step: h of the step before

    void wait() {
        if (meeting) meet(*meeting);
    }

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
        if (member) return; // the first one does it
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
        if (member) return;
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
            if (count && count + n > memory.many) break;
            for (int64_t i = 0; i < n; i++, count++) {
                put_row(x, count, r.x + place(r, t, first + i) * r.input);
                to[count] = gates_at(t, i, count);
            }
        }
        project(all.ih, share(all.ih.panels, member, members), x, count, all.bias, to, scratch);
        return s;
    }

    template <int Cell> void step(int64_t t, int64_t n, float **gates) {
        const bool keep = r.gates != nullptr;
        const int64_t size = r.hidden;
        for (int64_t i = 0; i < n; i++) out[i] = r.y + place(r, t, first + i) * size;
        const auto soon = [&](int64_t i, int64_t at) { return gates[i] + at; };
        const Share mine = share(all.hh.panels, member, members);
        multiply(all.hh, mine, h, n, scratch, soon, [&](int64_t i, int64_t at, int lanes,
                                                        const float *sums) {
            const Unit u = {gates[i] + at, size, sums, lanes};
            const int64_t kept = (all.kept_at[t] + first + i) * size + at;
            float *save = keep ? gates[i] + at : nullptr;
            V now;
            if (Cell == UNROLLED_LSTM)
                now = lstm_cell(u, c + i * size + at, save, size, keep ? r.cells + kept : nullptr);
            else if (Cell == UNROLLED_GRU)
                now = gru_cell(u, load(before[i] + at, lanes),
                               all.bias_inner ? load(all.bias_inner + at, lanes) : set1(0), save,
                               size, keep ? r.inner + kept : nullptr);
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
        wait();
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
            const bool entering = reading < n || read == 0;
            for (; reading < n; reading++) enter(reading); // only backward in time
            if (read == ready) {
                ready = project_chunk(read);
                gates = to;
                wait();
            } else if (entering) {
                wait();
            }
            for (; reading > n; reading--) leave(reading - 1);
            if (!n) continue;
            step<Cell>(t, n, gates);
            gates += n;
        }
        for (; r.reverse && reading < rows; reading++) enter(reading); // rows without a step
        for (int64_t i = 0; i < reading; i++) leave(i);
    }
};

inline bool chunked(const Shared &all) { return all.gates > 1 && !all.run->gates; }

inline int64_t most_together(const unrolled_run &r, int64_t rows) {
    const int64_t wanted = chunk_rows(r.precision) > rows ? chunk_rows(r.precision) : rows;
    return least_of(wanted, rows * (r.steps < 1 ? 1 : r.steps));
}

inline size_t forward_memory_bytes(const Shared &all, int64_t rows) {
    const unrolled_run &r = *all.run;
    const int64_t wide = all.gates * r.hidden;
    return 2 * rows_bytes(r.precision, rows, r.hidden) + room(rows * r.hidden, 4) +
           room(r.hidden, 4) + (chunked(all) ? room(most_together(r, rows) * wide, 4) : 0) + 512;
}

inline ForwardMemory forward_memory(const Shared &all, int64_t rows, Scratch &s) {
    const unrolled_run &r = *all.run;
    const size_t h_bytes = rows_bytes(r.precision, rows, r.hidden);
    ForwardMemory m = {};
    m.many = most_together(r, rows);
    m.h = rows_at(s.bytes(h_bytes), r.precision, rows, r.hidden);
    m.h_next = rows_at(s.bytes(h_bytes), r.precision, rows, r.hidden);
    clear_ends(m.h, rows);
    clear_ends(m.h_next, rows);
    m.c = r.cell == UNROLLED_LSTM ? s.floats(rows * r.hidden) : nullptr;
    m.zeros = s.floats(r.hidden);
    memset(m.zeros, 0, static_cast<size_t>(r.hidden) * 4);
    m.chunk = chunked(all) ? s.floats(m.many * all.gates * r.hidden) : nullptr;
    return m;
}

inline size_t forward_own_bytes(const Shared &all, int64_t rows) {
    const unrolled_run &r = *all.run;
    const int64_t many = most_together(r, rows);
    const int64_t of_x = sums_size(all.ih, many), of_h = sums_size(all.hh, rows);
    return rows_bytes(r.precision, many, r.input) + room(of_x > of_h ? of_x : of_h, 4) +
           room(many, 8) + 2 * room(rows, 8) + 512;
}

// A member's part of a slice. `s` has room for forward_own_bytes.
inline void forward_member(const Shared &all, int64_t first, int64_t rows, const ForwardMemory &m,
                           int64_t member, int64_t members, Meeting *meeting, Scratch &s) {
    const unrolled_run &r = *all.run;
    const int64_t of_x = sums_size(all.ih, m.many), of_h = sums_size(all.hh, rows);
    const MatrixUnit unit(r.precision);
    ForwardSlice slice = {all, r, first, rows, member, members, meeting, m, {}, m.h, m.h_next,
                          nullptr, m.c, m.zeros, m.chunk, nullptr, nullptr, nullptr};
    const size_t x_bytes = rows_bytes(r.precision, m.many, r.input);
    slice.x = rows_at(s.bytes(x_bytes), r.precision, m.many, r.input);
    clear_ends(slice.x, m.many);
    slice.scratch = s.floats(of_x > of_h ? of_x : of_h);
    slice.to = static_cast<float **>(s.bytes(static_cast<size_t>(m.many) * 8));
    slice.out = static_cast<float **>(s.bytes(static_cast<size_t>(rows) * 8));
    slice.before = static_cast<const float **>(s.bytes(static_cast<size_t>(rows) * 8));
    switch (r.cell) {
    case UNROLLED_LSTM: return slice.run<UNROLLED_LSTM>();
    case UNROLLED_GRU: return slice.run<UNROLLED_GRU>();
    case UNROLLED_RNN_RELU: return slice.run<UNROLLED_RNN_RELU>();
    default: return slice.run<UNROLLED_RNN_TANH>();
    }
}

inline void forward_slice(void *data, int64_t index) {
    Shared &all = *static_cast<Shared *>(data);
    const int64_t first = all.cuts[index], rows = all.cuts[index + 1] - first;
    if (!rows) return;
    Scratch s(forward_memory_bytes(all, rows) + forward_own_bytes(all, rows));
    if (s.failed()) {
        fail(all.failed);
        return;
    }
    const ForwardMemory memory = forward_memory(all, rows, s);
    forward_member(all, first, rows, memory, 0, 1, nullptr, s);
}

// All rows by several members at once: memory for as many as were asked for.
struct ForwardTeam {
    const Shared &all;
    ForwardMemory memory;
    size_t own; // bytes of each member, from `rest` on
    char *rest;
};

inline void forward_together(void *data, int64_t member, int64_t members, Meeting &meeting) {
    const ForwardTeam &team = *static_cast<ForwardTeam *>(data);
    Scratch own(team.rest + static_cast<size_t>(member) * team.own);
    forward_member(team.all, 0, team.all.run->rows, team.memory, member, members, &meeting, own);
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
    Scratch weights(bytes_of(all.ih) + bytes_of(all.hh) + 256);
    if (weights.failed()) return "out of memory";
    all.ih.data = static_cast<char *>(weights.bytes(bytes_of(all.ih)));
    all.hh.data = static_cast<char *>(weights.bytes(bytes_of(all.hh)));
    Filling filling = {&all, all.ih.panels};
    const int64_t members = members_for(r, all.hh.panels);
    const int32_t threads = static_cast<int32_t>(members > slices ? members : slices);
    parallel(threads, all.ih.panels + all.hh.panels, fill_forward, &filling);
    if (members < 2) {
        parallel(threads, slices, forward_slice, &all);
        return failed(all.failed) ? "out of memory" : nullptr;
    }
    const size_t own = (forward_own_bytes(all, r.rows) + 63) / 64 * 64;
    Scratch memory(forward_memory_bytes(all, r.rows) + static_cast<size_t>(members) * own);
    if (memory.failed()) return "out of memory";
    ForwardTeam team = {all, forward_memory(all, r.rows, memory), own, nullptr};
    team.rest = static_cast<char *>(memory.bytes(static_cast<size_t>(members) * own));
    together(threads, forward_together, &team);
    return nullptr;
}

} // namespace
