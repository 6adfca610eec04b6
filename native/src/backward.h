// Gradients: one slice of rows back through its steps, then the products that give the weights' gradients.
#pragma once

namespace {

// how many hidden sizes wide the gradients of a step are
constexpr int64_t gradients_of(int32_t cell) {
    return cell == UNROLLED_GRU || cell == UNROLLED_LSTM ? 4 : 1;
}

// Where torch's gate stands that column block `b` of the input's part belongs to.
inline int64_t gate_of(int32_t cell, int64_t b) {
    return cell == UNROLLED_GRU ? (b == 0 ? 2 : b - 1) : b;
}

// What the members of a slice share.
struct BackwardMemory {
    int64_t many;
    Rows d, d_next; // gradients of a step for the hidden vector's product
    float *d_h, *d_c, *zeros;
};

// Rows of a run from their last step to their first; members as in ForwardSlice.
struct BackwardSlice {
    const Shared &all;
    const unrolled_run &r;
    int64_t first, rows;
    int64_t member, members;
    Meeting *meeting;
    int64_t many;
    Rows d, d_next, dx; // dx: gradients of a chunk for the input's product
    float *scratch, *d_h, *d_c, *zeros;
    float **to; // of a chunk: rows of d_x

    void wait() {
        if (meeting) meet(*meeting);
    }
    Share panels() const { return share(all.hh.panels, member, members); }

    int64_t here(int64_t t) const {
        const int64_t n = active_at(r, t) - first;
        return n < 0 ? 0 : n < rows ? n : rows;
    }
    int64_t step_of(int64_t s) const { return r.reverse ? s : r.steps - 1 - s; }

    float *gradients_at(int64_t t, int64_t i) const {
        return all.d + (all.kept_at[t] + first + i) * gradients_of(r.cell) * r.hidden;
    }

    // the step that row i read before step t, or -1 when there was none
    int64_t earlier(int64_t t, int64_t i) const {
        if (!r.reverse) return t - 1;
        return t + 1 < r.steps && active_at(r, t + 1) > first + i ? t + 1 : -1;
    }

    const float *initial(const float *state, int64_t i) const {
        return state ? state + owner(r, first + i) * r.hidden : zeros;
    }

    void enter(int64_t i) {
        if (member) return; // the first one does it
        const int64_t at = owner(r, first + i) * r.hidden;
        const size_t bytes = static_cast<size_t>(r.hidden) * 4;
        memcpy(d_h + i * r.hidden, r.d_h_final ? r.d_h_final + at : zeros, bytes);
        if (d_c) memcpy(d_c + i * r.hidden, r.d_c_final ? r.d_c_final + at : zeros, bytes);
    }

    void leave(int64_t i) {
        if (member) return;
        const int64_t at = owner(r, first + i) * r.hidden;
        const size_t bytes = static_cast<size_t>(r.hidden) * 4;
        if (r.d_h0) memcpy(r.d_h0 + at, d_h + i * r.hidden, bytes);
        if (r.d_c0 && d_c) memcpy(r.d_c0 + at, d_c + i * r.hidden, bytes);
    }

    template <int Cell> void row_gradients(int64_t t, int64_t i) {
        const int64_t size = r.hidden, at = place(r, t, first + i) * size;
        const int64_t kept = all.kept_at[t] + first + i, before = earlier(t, i);
        Gradients s = {};
        s.h = r.y + at;
        s.h_before = before < 0 ? initial(r.h0, i) : r.y + place(r, before, first + i) * size;
        s.d_y = r.d_y ? r.d_y + at : nullptr;
        s.d_h = d_h + i * size;
        s.d = gradients_at(t, i);
        if (Cell == UNROLLED_LSTM || Cell == UNROLLED_GRU)
            s.gates = r.gates + kept * all.gates * size;
        if (Cell == UNROLLED_LSTM) {
            s.cell = r.cells + kept * size;
            s.c_before = before < 0 ? initial(r.c0, i)
                                    : r.cells + (all.kept_at[before] + first + i) * size;
            s.d_c = d_c + i * size;
        }
        if (Cell == UNROLLED_GRU) s.inner = r.inner + kept * size;
        // the columns that this member multiplies afterwards
        const int64_t panel = all.hh.vectors * W, past = least_of(panels().past * panel, size);
        for (int64_t j = panels().first * panel; j < past; j += W) {
            const int n = lanes_at(size, j);
            V total = load(s.d_h + j, n), out[4];
            if (s.d_y) total = add(total, load(s.d_y + j, n));
            if (Cell == UNROLLED_LSTM)
                lstm_gradients(s, size, j, n, total, out);
            else if (Cell == UNROLLED_GRU)
                gru_gradients(s, size, j, n, total, out);
            else
                rnn_gradients<Cell == UNROLLED_RNN_RELU>(s, j, n, total, out);
            for (int64_t g = 0; g < gates_of(Cell); g++) put_part(d_next, i, g * size + j, out[g], n);
        }
    }

    // d_h += d W_hh, through the mask
    void through_hidden(int64_t n) {
        const int64_t size = r.hidden;
        const auto soon = [&](int64_t i, int64_t at) { return d_h + i * size + at; };
        multiply(all.hh, panels(), d, n, scratch, soon, [&](int64_t i, int64_t at, int lanes, const float *sums) {
            V v = load(sums);
            if (r.mask)
                v = mul(v, load(r.mask + owner(r, first + i) * size + at, lanes));
            float *to_h = d_h + i * size + at;
            store(to_h, add(load(to_h, lanes), v), lanes);
        });
    }

    // d_x of the steps from `from` to `until`, in the order they were taken
    void through_input(int64_t from, int64_t until) {
        int64_t count = 0;
        for (int64_t s = from; s < until; s++) {
            const int64_t t = step_of(s), n = here(t);
            for (int64_t i = 0; i < n; i++, count++) {
                put_row(dx, count, gradients_at(t, i));
                to[count] = r.d_x + place(r, t, first + i) * r.input;
            }
        }
        project(all.ih, share(all.ih.panels, member, members), dx, count, nullptr, to, scratch);
    }

    template <int Cell> void run() {
        int64_t reading = 0, chunk = 0, in_chunk = 0;
        if (r.reverse) {
            for (; reading < rows; reading++) enter(reading);
            wait();
        }
        for (int64_t s = 0; s < r.steps; s++) {
            const int64_t t = step_of(s), n = here(t);
            if (reading != n) {
                wait(); // for all columns of what leaves
                for (; reading < n; reading++) enter(reading);
                for (; reading > n; reading--) leave(reading - 1);
                wait();
            }
            if (r.d_x && in_chunk && in_chunk + n > many) {
                through_input(chunk, s);
                chunk = s;
                in_chunk = 0;
            }
            in_chunk += n;
            for (int64_t i = 0; i < n; i++) row_gradients<Cell>(t, i);
            wait();
            const Rows other = d;
            d = d_next;
            d_next = other;
            if (n && (s + 1 < r.steps || r.d_h0)) through_hidden(n);
        }
        if (r.d_x && in_chunk) through_input(chunk, r.steps);
        wait();
        for (; !r.reverse && reading < rows; reading++) enter(reading);
        for (int64_t i = 0; i < reading; i++) leave(i);
    }
};

inline size_t backward_memory_bytes(const Shared &all, int64_t rows) {
    const unrolled_run &r = *all.run;
    return 2 * rows_bytes(r.precision, rows, all.gates * r.hidden) + 2 * room(rows * r.hidden, 4) +
           room(r.hidden, 4) + 512;
}

inline BackwardMemory backward_memory(const Shared &all, int64_t rows, Scratch &s) {
    const unrolled_run &r = *all.run;
    const int64_t wide = all.gates * r.hidden;
    BackwardMemory m = {};
    m.many = most_together(r, rows);
    m.d = rows_at(s.bytes(rows_bytes(r.precision, rows, wide)), r.precision, rows, wide);
    m.d_next = rows_at(s.bytes(rows_bytes(r.precision, rows, wide)), r.precision, rows, wide);
    clear_ends(m.d, rows);
    clear_ends(m.d_next, rows);
    m.d_h = s.floats(rows * r.hidden);
    m.d_c = r.cell == UNROLLED_LSTM ? s.floats(rows * r.hidden) : nullptr;
    m.zeros = s.floats(r.hidden);
    memset(m.zeros, 0, static_cast<size_t>(r.hidden) * 4);
    return m;
}

inline int64_t backward_sums(const Shared &all, int64_t rows, int64_t many) {
    const int64_t of_x = all.run->d_x ? sums_size(all.ih, many) : 0;
    const int64_t of_h = sums_size(all.hh, rows);
    return of_x > of_h ? of_x : of_h;
}

inline size_t backward_own_bytes(const Shared &all, int64_t rows) {
    const unrolled_run &r = *all.run;
    const int64_t many = most_together(r, rows);
    return (r.d_x ? rows_bytes(r.precision, many, all.gates * r.hidden) : 0) +
           room(backward_sums(all, rows, many), 4) + room(many, 8) + 512;
}

inline void backward_member(const Shared &all, int64_t first, int64_t rows, const BackwardMemory &m,
                            int64_t member, int64_t members, Meeting *meeting, Scratch &s) {
    const unrolled_run &r = *all.run;
    const int64_t wide = all.gates * r.hidden;
    const MatrixUnit unit(r.precision);
    BackwardSlice slice = {all, r, first, rows, member, members, meeting, m.many, m.d, m.d_next, {},
                           nullptr, m.d_h, m.d_c, m.zeros, nullptr};
    if (r.d_x) {
        slice.dx = rows_at(s.bytes(rows_bytes(r.precision, m.many, wide)), r.precision, m.many, wide);
        clear_ends(slice.dx, m.many);
    }
    slice.scratch = s.floats(backward_sums(all, rows, m.many));
    slice.to = static_cast<float **>(s.bytes(static_cast<size_t>(m.many) * 8));
    switch (r.cell) {
    case UNROLLED_LSTM: return slice.run<UNROLLED_LSTM>();
    case UNROLLED_GRU: return slice.run<UNROLLED_GRU>();
    case UNROLLED_RNN_RELU: return slice.run<UNROLLED_RNN_RELU>();
    default: return slice.run<UNROLLED_RNN_TANH>();
    }
}

inline void backward_slice(void *data, int64_t index) {
    Shared &all = *static_cast<Shared *>(data);
    const int64_t first = all.cuts[index], rows = all.cuts[index + 1] - first;
    if (!rows) return;
    Scratch s(backward_memory_bytes(all, rows) + backward_own_bytes(all, rows));
    if (s.failed()) {
        fail(all.failed);
        return;
    }
    const BackwardMemory memory = backward_memory(all, rows, s);
    backward_member(all, first, rows, memory, 0, 1, nullptr, s);
}

struct BackwardTeam {
    const Shared &all;
    BackwardMemory memory;
    size_t own; // bytes of each member, from `rest` on
    char *rest;
};

inline void backward_together(void *data, int64_t member, int64_t members, Meeting &meeting) {
    const BackwardTeam &team = *static_cast<BackwardTeam *>(data);
    Scratch own(team.rest + static_cast<size_t>(member) * team.own);
    backward_member(team.all, 0, team.all.run->rows, team.memory, member, members, &meeting, own);
}

inline void fill_backward(void *data, int64_t panel) {
    const Filling &f = *static_cast<Filling *>(data);
    const unrolled_run &r = *f.all->run;
    if (panel >= f.first_hh)
        return fill_across(f.all->hh, panel - f.first_hh, 1,
                           [&](int64_t k) { return r.w_hh + k * r.hidden; });
    fill_across(f.all->ih, panel, 1, [&](int64_t k) {
        return r.w_ih + (gate_of(r.cell, k / r.hidden) * r.hidden + k % r.hidden) * r.input;
    });
}

// ---- gradients of the weights -----------------------------------------------------------------------

struct WeightWork {
    Shared *all;
    const float **x, **h; // (N): what each kept step read, and the hidden vector before it
    float *sums;          // columns of d
    int64_t splits;       // of each gate
};

// One gate's rows, or some of them, of d_w_ih or d_w_hh.
inline void weight_gradients(void *data, int64_t task) {
    WeightWork &w = *static_cast<WeightWork *>(data);
    const unrolled_run &r = *w.all->run;
    const int64_t size = r.hidden, wide = gradients_of(r.cell) * size;
    const int64_t split = task % w.splits, block = task / w.splits % w.all->gates;
    const bool hidden = task / w.splits / w.all->gates == 1;
    const int64_t share = share_of(size, w.splits), at = split * share;
    const int64_t m = least_of(share, size - at);
    if (m <= 0) return;
    // the hidden vector's part of a GRU's gradients begins one block later
    const int64_t column = (block + (hidden && r.cell == UNROLLED_GRU ? 1 : 0)) * size + at;
    const int64_t gate = (hidden ? block : gate_of(r.cell, block)) * size + at;
    float *weights = hidden ? r.d_w_hh : r.d_w_ih, *bias = hidden ? r.d_b_hh : r.d_b_ih;
    const int64_t n = hidden ? size : r.input;
    const float **rows = hidden ? w.h : w.x;
    if (!weights && !bias) return;
    const auto from = [&](int64_t k) { return w.all->d + k * wide; };
    const Transposed p = {r.precision,
                          m,
                          weights ? n : 0,
                          r.count,
                          weights ? weights + gate * n : nullptr,
                          n,
                          false,
                          bias ? bias + gate : nullptr};
    if (!multiply_transposed(p, column, from, [&](int64_t k) { return rows[k]; }))
        fail(w.all->failed);
}

// What every kept step read. A masked hidden vector is made anew into `masked`.
inline void find_rows(const Shared &all, const float **x, const float **h, float *masked,
                      const float *zeros) {
    const unrolled_run &r = *all.run;
    const int64_t size = r.hidden;
    for (int64_t t = 0; t < r.steps; t++) {
        const int64_t n = active_at(r, t);
        for (int64_t i = 0; i < n; i++) {
            const int64_t kept = all.kept_at[t] + i;
            const int64_t before = !r.reverse ? t - 1 : t + 1 < r.steps && active_at(r, t + 1) > i ? t + 1 : -1;
            x[kept] = r.x + place(r, t, i) * r.input;
            h[kept] = before >= 0 ? r.y + place(r, before, i) * size
                      : r.h0      ? r.h0 + owner(r, i) * size
                                  : zeros;
            if (!masked) continue;
            const float *mask = r.mask + owner(r, i) * size;
            float *to = masked + kept * size;
            for (int64_t j = 0; j < size; j += W) {
                const int lanes = lanes_at(size, j);
                store(to + j, mul(load(h[kept] + j, lanes), load(mask + j, lanes)), lanes);
            }
            h[kept] = to;
        }
    }
}

inline Error gradients_of_weights(Shared &all) {
    const unrolled_run &r = *all.run;
    if (!r.d_w_ih && !r.d_w_hh && !r.d_b_ih && !r.d_b_hh) return nullptr;
    Scratch s(2 * room(r.count, 8) + room(r.hidden, 4) +
              (r.mask ? room(r.count * r.hidden, 4) : 0) + 512);
    if (s.failed()) return "out of memory";
    WeightWork w = {&all, nullptr, nullptr, nullptr, 1};
    w.x = static_cast<const float **>(s.bytes(static_cast<size_t>(r.count) * 8));
    w.h = static_cast<const float **>(s.bytes(static_cast<size_t>(r.count) * 8));
    float *zeros = s.floats(r.hidden);
    memset(zeros, 0, static_cast<size_t>(r.hidden) * 4);
    find_rows(all, w.x, w.h, r.mask ? s.floats(r.count * r.hidden) : nullptr, zeros);
    const int32_t threads = r.threads < 1 ? 1 : r.threads;
    const bool alone = r.count * all.gates * r.hidden * (r.input + r.hidden) < 400000;
    // an even number of tasks of one size for every thread
    w.splits = alone || 2 * all.gates % threads == 0 ? 1 : threads;
    parallel(alone ? 1 : threads, 2 * all.gates * w.splits, weight_gradients, &w);
    return failed(all.failed) ? "out of memory" : nullptr;
}

// Back through all steps: the gradients of every step's gates, of x and of the initial states.
inline Error gradients_of_states(Shared &all) {
    const unrolled_run &r = *all.run;
    Scratch weights(bytes_of(all.ih) + bytes_of(all.hh) + 256);
    if (weights.failed()) return "out of memory";
    all.ih.data = static_cast<char *>(weights.bytes(bytes_of(all.ih)));
    all.hh.data = static_cast<char *>(weights.bytes(bytes_of(all.hh)));
    Filling filling = {&all, all.ih.panels};
    const int64_t members = members_for(r, all.hh.panels);
    const int32_t threads = static_cast<int32_t>(members > all.slices ? members : all.slices);
    parallel(threads, all.ih.panels + all.hh.panels, fill_backward, &filling);
    if (members < 2) {
        parallel(threads, all.slices, backward_slice, &all);
        weights.drop();
        return failed(all.failed) ? "out of memory" : nullptr;
    }
    const size_t own = (backward_own_bytes(all, r.rows) + 63) / 64 * 64;
    Scratch memory(backward_memory_bytes(all, r.rows) + static_cast<size_t>(members) * own);
    if (memory.failed()) return "out of memory";
    BackwardTeam team = {all, backward_memory(all, r.rows, memory), own, nullptr};
    team.rest = static_cast<char *>(memory.bytes(static_cast<size_t>(members) * own));
    together(threads, backward_together, &team);
    weights.drop();
    return nullptr;
}

inline Error backward(const unrolled_run &r) {
    const int64_t gates = gates_of(r.cell), slices = slices_for(r);
    Scratch small(room(r.steps, 8) + room(slices + 1, 8) +
                  room(r.count * gradients_of(r.cell) * r.hidden, 4) + 256);
    if (small.failed()) return "out of memory";
    Shared all = {};
    all.run = &r;
    all.gates = gates;
    all.slices = slices;
    all.kept_at = small.numbers(r.steps);
    all.cuts = small.numbers(slices + 1);
    all.d = small.floats(r.count * gradients_of(r.cell) * r.hidden);
    number_steps(r, all.kept_at);
    cut(r, slices, all.cuts);
    if (r.d_x) all.ih = plan_product(r.precision, r.input, gates * r.hidden);
    all.hh = plan_product(r.precision, r.hidden, gates * r.hidden);
    if (Error error = gradients_of_states(all)) return error;
    return gradients_of_weights(all);
}

} // namespace
