// Gradients: a slice of rows back through its steps, then the products that give the gradients of
// the weights.
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

struct BackwardCommon {
    Rows d, d_next; // gradients of a step for the hidden vector's product
    float *d_h, *d_c, *zeros;

    void carve(Arena &arena, const Shared &all, int64_t rows) {
        const unrolled_run &r = *all.run;
        const int64_t width = all.gates * r.hidden;
        d = carve_rows(arena, r.precision, rows, width);
        d_next = carve_rows(arena, r.precision, rows, width);
        d_h = arena.floats(rows * r.hidden);
        d_c = r.cell == UNROLLED_LSTM ? arena.floats(rows * r.hidden) : nullptr;
        zeros = arena.floats(r.hidden);
    }

    void prepare(const unrolled_run &r, int64_t rows) const {
        clear_ends(d, rows);
        clear_ends(d_next, rows);
        memset(zeros, 0, static_cast<size_t>(r.hidden) * 4);
    }
};

struct BackwardOwn {
    int64_t chunk_size; // most (step, row) pairs in a chunk
    Rows dx;            // gradients of a chunk for the input's product, where d_x is requested
    float *scratch;
    float **d_x; // of a chunk: rows of d_x

    void carve(Arena &arena, const Shared &all, int64_t rows) {
        const unrolled_run &r = *all.run;
        chunk_size = most_in_chunk(r, rows);
        const int64_t of_x = r.d_x ? sums_size(all.ih, chunk_size) : 0;
        const int64_t of_h = sums_size(all.hh, rows);
        if (r.d_x) dx = carve_rows(arena, r.precision, chunk_size, all.gates * r.hidden);
        scratch = arena.floats(of_x > of_h ? of_x : of_h);
        d_x = arena.array<float *>(chunk_size);
    }

    void prepare() const {
        if (dx.data) clear_ends(dx, chunk_size);
    }
};

// Rows of a run from their last step to their first.
struct BackwardPass : Slice {
    typedef BackwardCommon Common;
    typedef BackwardOwn Own;
    Common common; // a copy for every member: each exchanges d and d_next for itself
    Own own;

    static void fill_input(const Shared &all, int64_t panel) {
        const unrolled_run &r = *all.run;
        fill_across(all.ih, panel, 1, [&](int64_t k) {
            return r.w_ih + (gate_of(r.cell, k / r.hidden) * r.hidden + k % r.hidden) * r.input;
        });
    }
    static void fill_hidden(const Shared &all, int64_t panel) {
        const unrolled_run &r = *all.run;
        fill_across(all.hh, panel, 1, [&](int64_t k) { return r.w_hh + k * r.hidden; });
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
        return state ? state + state_row(r, first + i) * r.hidden : common.zeros;
    }

    void enter(int64_t i) {
        if (member) return; // the first one does it
        const int64_t at = state_row(r, first + i) * r.hidden, own_at = i * r.hidden;
        const size_t bytes = static_cast<size_t>(r.hidden) * 4;
        memcpy(common.d_h + own_at, r.d_h_final ? r.d_h_final + at : common.zeros, bytes);
        if (common.d_c)
            memcpy(common.d_c + own_at, r.d_c_final ? r.d_c_final + at : common.zeros, bytes);
    }

    void leave(int64_t i) {
        if (member) return;
        const int64_t at = state_row(r, first + i) * r.hidden;
        const size_t bytes = static_cast<size_t>(r.hidden) * 4;
        if (r.d_h0) memcpy(r.d_h0 + at, common.d_h + i * r.hidden, bytes);
        if (r.d_c0 && common.d_c) memcpy(r.d_c0 + at, common.d_c + i * r.hidden, bytes);
    }

    // what row i kept of step t, and where its gradients go
    template <int Cell> Gradients kept_of(int64_t t, int64_t i) const {
        const int64_t size = r.hidden, at = step_row(r, t, first + i) * size;
        const int64_t kept = all.kept_at[t] + first + i, before = earlier(t, i);
        Gradients s = {};
        s.h = r.y + at;
        s.h_before = before < 0 ? initial(r.h0, i) : r.y + step_row(r, before, first + i) * size;
        s.d_y = r.d_y ? r.d_y + at : nullptr;
        s.d_h = common.d_h + i * size;
        s.d = gradients_at(t, i);
        if (Cell == UNROLLED_LSTM || Cell == UNROLLED_GRU)
            s.gates = r.gates + kept * all.gates * size;
        if (Cell == UNROLLED_LSTM) {
            s.cell = r.cells + kept * size;
            s.c_before = before < 0 ? initial(r.c0, i)
                                    : r.cells + (all.kept_at[before] + first + i) * size;
            s.d_c = common.d_c + i * size;
        }
        if (Cell == UNROLLED_GRU) s.inner = r.inner + kept * size;
        return s;
    }

    template <int Cell> void row_gradients(int64_t t, int64_t i) {
        const int64_t size = r.hidden;
        const Gradients s = kept_of<Cell>(t, i);
        // the columns that this member multiplies afterwards
        const Range panels = panels_of(all.hh);
        const int64_t panel = all.hh.vectors * W, past = least_of(panels.past * panel, size);
        for (int64_t j = panels.first * panel; j < past; j += W) {
            const int n = lanes_at(size, j);
            V total = load(s.d_h + j, n), out[4];
            if (s.d_y) total = add(total, load(s.d_y + j, n));
            if (Cell == UNROLLED_LSTM)
                lstm_gradients(s, size, j, n, total, out);
            else if (Cell == UNROLLED_GRU)
                gru_gradients(s, size, j, n, total, out);
            else
                rnn_gradients<Cell == UNROLLED_RNN_RELU>(s, j, n, total, out);
            for (int64_t g = 0; g < gates_of(Cell); g++)
                put_part(common.d_next, i, g * size + j, out[g], n);
        }
    }

    // d_h += d W_hh, through the mask
    void through_hidden(int64_t n) {
        const int64_t size = r.hidden;
        float *const d_h = common.d_h;
        const auto target = [&](int64_t i, int64_t at) { return d_h + i * size + at; };
        multiply(all.hh, panels_of(all.hh), common.d, n, own.scratch, target,
                 [&](int64_t i, int64_t at, int lanes, const float *sums) {
            V v = load(sums);
            if (r.mask)
                v = mul(v, load(r.mask + state_row(r, first + i) * size + at, lanes));
            float *to_h = d_h + i * size + at;
            store(to_h, add(load(to_h, lanes), v), lanes);
        });
    }

    // d_x of the steps from `from` to `until`, in the order they were taken
    void through_input(int64_t from, int64_t until) {
        int64_t count = 0;
        for (int64_t s = from; s < until; s++) {
            const int64_t t = step_of(s), n = active(t);
            for (int64_t i = 0; i < n; i++, count++) {
                put_row(own.dx, count, gradients_at(t, i));
                own.d_x[count] = r.d_x + step_row(r, t, first + i) * r.input;
            }
        }
        project(all.ih, panels_of(all.ih), own.dx, count, nullptr, own.d_x, own.scratch);
    }

    template <int Cell> void run() {
        int64_t reading = 0;  // rows that read
        int64_t chunk = 0;    // the first step of a chunk
        int64_t in_chunk = 0; // its (step, row) pairs so far
        if (r.reverse) {
            for (; reading < rows; reading++) enter(reading);
            meet_members();
        }
        for (int64_t s = 0; s < r.steps; s++) {
            const int64_t t = step_of(s), n = active(t);
            if (reading != n) {
                meet_members(); // for all columns of what leaves
                for (; reading < n; reading++) enter(reading);
                for (; reading > n; reading--) leave(reading - 1);
                meet_members();
            }
            if (r.d_x && in_chunk && in_chunk + n > own.chunk_size) {
                through_input(chunk, s);
                chunk = s;
                in_chunk = 0;
            }
            in_chunk += n;
            for (int64_t i = 0; i < n; i++) row_gradients<Cell>(t, i);
            meet_members();
            const Rows multiplied = common.d_next;
            common.d_next = common.d;
            common.d = multiplied;
            if (n && (s + 1 < r.steps || r.d_h0)) through_hidden(n);
        }
        if (r.d_x && in_chunk) through_input(chunk, r.steps);
        meet_members();
        for (; !r.reverse && reading < rows; reading++) enter(reading);
        for (int64_t i = 0; i < reading; i++) leave(i);
    }
};

// ---- gradients of the weights -----------------------------------------------------------------------

struct WeightWork {
    Shared &all;
    const float **x, **h; // (N): what each kept step read, and the hidden vector before it
    int64_t splits;       // of each gate
};

// One gate's rows, or some of them, of d_w_ih or d_w_hh.
inline void weight_gradients(void *data, int64_t task) {
    const WeightWork &w = *static_cast<WeightWork *>(data);
    const unrolled_run &r = *w.all.run;
    const int64_t size = r.hidden, width = gradients_of(r.cell) * size;
    const int64_t split = task % w.splits, block = task / w.splits % w.all.gates;
    const bool hidden = task / w.splits / w.all.gates == 1;
    const int64_t most = rows_of_task(size, w.splits), at = split * most;
    const int64_t m = least_of(most, size - at);
    if (m <= 0) return;
    // the hidden vector's part of a GRU's gradients begins one block later
    const int64_t column = (block + (hidden && r.cell == UNROLLED_GRU ? 1 : 0)) * size + at;
    const int64_t gate = (hidden ? block : gate_of(r.cell, block)) * size + at;
    float *weights = hidden ? r.d_w_hh : r.d_w_ih, *bias = hidden ? r.d_b_hh : r.d_b_ih;
    const int64_t n = hidden ? size : r.input;
    const float **rows = hidden ? w.h : w.x;
    if (!weights && !bias) return;
    const auto gradients = [&](int64_t k) { return w.all.d + k * width; };
    const Transposed p = {.precision = r.precision,
                          .m = m,
                          .n = weights ? n : 0,
                          .k = r.count,
                          .c = weights ? weights + gate * n : nullptr,
                          .ldc = n,
                          .accumulate = false,
                          .sums = bias ? bias + gate : nullptr};
    if (!multiply_transposed(p, column, gradients, [&](int64_t k) { return rows[k]; }))
        fail(w.all.failed);
}

// What every kept step read. A masked hidden vector is made anew into `masked`.
inline void list_rows(const Shared &all, const float **x, const float **h, float *masked,
                      const float *zeros) {
    const unrolled_run &r = *all.run;
    const int64_t size = r.hidden;
    for (int64_t t = 0; t < r.steps; t++) {
        const int64_t n = active_at(r, t), after = t + 1 < r.steps ? active_at(r, t + 1) : 0;
        for (int64_t i = 0; i < n; i++) {
            const int64_t kept = all.kept_at[t] + i;
            const int64_t before = !r.reverse ? t - 1 : after > i ? t + 1 : -1;
            x[kept] = r.x + step_row(r, t, i) * r.input;
            h[kept] = before >= 0 ? r.y + step_row(r, before, i) * size
                      : r.h0      ? r.h0 + state_row(r, i) * size
                                  : zeros;
            if (!masked) continue;
            const float *mask = r.mask + state_row(r, i) * size;
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
    WeightWork w = {.all = all, .x = nullptr, .h = nullptr, .splits = 1};
    float *zeros = nullptr, *masked = nullptr;
    const Scratch scratch([&](Arena &arena) {
        w.x = arena.array<const float *>(r.count);
        w.h = arena.array<const float *>(r.count);
        zeros = arena.floats(r.hidden);
        masked = r.mask ? arena.floats(r.count * r.hidden) : nullptr;
    });
    if (scratch.failed()) return OUT_OF_MEMORY;
    memset(zeros, 0, static_cast<size_t>(r.hidden) * 4);
    list_rows(all, w.x, w.h, masked, zeros);
    const int32_t threads = r.threads < 1 ? 1 : r.threads;
    const bool alone = r.count * all.gates * r.hidden * (r.input + r.hidden) < 400000;
    // an even number of tasks of one size for every thread
    w.splits = alone || 2 * all.gates % threads == 0 ? 1 : threads;
    parallel(alone ? 1 : threads, 2 * all.gates * w.splits, weight_gradients, &w);
    return failed(all.failed) ? OUT_OF_MEMORY : nullptr;
}

// Back through all steps: the gradients of every step's gates, of x and of the initial states.
inline Error gradients_of_states(Shared &all) {
    Scratch weights([&](Arena &arena) { carve_weights(arena, all); });
    if (weights.failed()) return OUT_OF_MEMORY;
    const Error error = run_pass<BackwardPass>(all);
    weights.drop();
    return error;
}

inline Error backward(const unrolled_run &r) {
    Shared all = shared_of(r);
    const Scratch small([&](Arena &arena) {
        carve_order(arena, all);
        all.d = arena.floats(r.count * gradients_of(r.cell) * r.hidden);
    });
    if (small.failed()) return OUT_OF_MEMORY;
    fill_order(all);
    if (r.d_x) all.ih = plan_product(r.precision, r.input, all.gates * r.hidden);
    all.hh = plan_product(r.precision, r.hidden, all.gates * r.hidden);
    if (const Error error = gradients_of_states(all)) return error;
    return gradients_of_weights(all);
}

} // namespace
