// Reading sequences: a slice of rows from its first step to its last.
#pragma once

namespace {

// Whether the input's part of the gates needs memory of its own: an RNN's stands in y, and where
// gates are kept it stands there.
inline bool chunked(const Shared &all) { return all.gates > 1 && !all.run->gates; }

struct ForwardCommon {
    Rows h, h_next;
    float *c, *zeros;
    float *chunk; // the input's part of the gates of a chunk; NULL where it stands elsewhere

    void carve(Arena &arena, const Shared &all, int64_t rows) {
        const unrolled_run &r = *all.run;
        const int64_t width = all.gates * r.hidden;
        h = carve_rows(arena, r.precision, rows, r.hidden);
        h_next = carve_rows(arena, r.precision, rows, r.hidden);
        c = r.cell == UNROLLED_LSTM ? arena.floats(rows * r.hidden) : nullptr;
        zeros = arena.floats(r.hidden);
        chunk = chunked(all) ? arena.floats(most_in_chunk(r, rows) * width) : nullptr;
    }

    void prepare(const unrolled_run &r, int64_t rows) const {
        clear_ends(h, rows);
        clear_ends(h_next, rows);
        memset(zeros, 0, static_cast<size_t>(r.hidden) * 4);
    }
};

struct ForwardOwn {
    int64_t chunk_size; // most (step, row) pairs in a chunk
    Rows x;             // its inputs
    float *scratch;
    float **gate_sums;      // of a chunk: where the input's part of each (step, row) goes
    float **y;              // of a step: rows of y
    const float **h_before; // of a step: h of the step before

    void carve(Arena &arena, const Shared &all, int64_t rows) {
        const unrolled_run &r = *all.run;
        chunk_size = most_in_chunk(r, rows);
        const int64_t of_x = sums_size(all.ih, chunk_size), of_h = sums_size(all.hh, rows);
        x = carve_rows(arena, r.precision, chunk_size, r.input);
        scratch = arena.floats(of_x > of_h ? of_x : of_h);
        gate_sums = arena.array<float *>(chunk_size);
        y = arena.array<float *>(rows);
        h_before = arena.array<const float *>(rows);
    }

    void prepare() const { clear_ends(x, chunk_size); }
};

// Rows of a run from their first step to their last.
struct ForwardPass : Slice {
    typedef ForwardCommon Common;
    typedef ForwardOwn Own;
    Common common; // a copy for every member: each exchanges h and h_next for itself
    Own own;

    static void fill_input(const Shared &all, int64_t panel) {
        fill_panel(all.ih, all.run->w_ih, all.run->input, panel);
    }
    static void fill_hidden(const Shared &all, int64_t panel) {
        fill_panel(all.hh, all.run->w_hh, all.run->hidden, panel);
    }

    int64_t width() const { return all.gates * r.hidden; }

    // where the sums of a step's gates stand before and after their activation
    float *gates_at(int64_t t, int64_t i, int64_t in_chunk) const {
        if (all.gates == 1) return r.y + step_row(r, t, first + i) * r.hidden;
        if (r.gates) return r.gates + (all.kept_at[t] + first + i) * width();
        return common.chunk + in_chunk * width();
    }

    int64_t step_of(int64_t i) const { return r.reverse ? r.steps - 1 - i : i; }

    void enter(int64_t i) {
        const int64_t at = state_row(r, first + i) * r.hidden;
        own.h_before[i] = r.h0 ? r.h0 + at : common.zeros;
        if (member) return; // the first one does it
        if (common.c) {
            float *c = common.c + i * r.hidden;
            if (r.c0)
                memcpy(c, r.c0 + at, static_cast<size_t>(r.hidden) * 4);
            else
                memset(c, 0, static_cast<size_t>(r.hidden) * 4);
        }
        put_hidden(common.h, i, own.h_before[i]);
    }

    const float *mask_of(int64_t i) const {
        return r.mask ? r.mask + state_row(r, first + i) * r.hidden : nullptr;
    }

    void put_hidden(const Rows &rows_of_h, int64_t i, const float *h) {
        const float *mask = mask_of(i);
        if (!mask) return put_row(rows_of_h, i, h);
        for (int64_t j = 0; j < r.hidden; j += W) {
            const int n = lanes_at(r.hidden, j);
            put_part(rows_of_h, i, j, mul(load(h + j, n), load(mask + j, n)), n);
        }
    }

    void leave(int64_t i) {
        if (member) return;
        const int64_t at = state_row(r, first + i) * r.hidden;
        const size_t bytes = static_cast<size_t>(r.hidden) * 4;
        if (r.h_final) memcpy(r.h_final + at, own.h_before[i], bytes);
        if (r.c_final && common.c) memcpy(r.c_final + at, common.c + i * r.hidden, bytes);
    }

    // Take steps from `from` on until the chunk is full; returns the step after.
    int64_t project_chunk(int64_t from) {
        int64_t count = 0, s = from;
        for (; s < r.steps; s++) {
            const int64_t t = step_of(s), n = active(t);
            if (count && count + n > own.chunk_size) break;
            for (int64_t i = 0; i < n; i++, count++) {
                put_row(own.x, count, r.x + step_row(r, t, first + i) * r.input);
                own.gate_sums[count] = gates_at(t, i, count);
            }
        }
        project(all.ih, panels_of(all.ih), own.x, count, all.bias, own.gate_sums, own.scratch);
        return s;
    }

    template <int Cell> void step(int64_t t, int64_t n, float **gates) {
        const bool keep = r.gates != nullptr;
        const int64_t size = r.hidden;
        const Rows h_next = common.h_next;
        float *const c = common.c, **const y = own.y;
        const float **const h_before = own.h_before;
        for (int64_t i = 0; i < n; i++) y[i] = r.y + step_row(r, t, first + i) * size;
        const auto target = [&](int64_t i, int64_t at) { return gates[i] + at; };
        multiply(all.hh, panels_of(all.hh), common.h, n, own.scratch, target,
                 [&](int64_t i, int64_t at, int lanes, const float *sums) {
            const Unit u = {gates[i] + at, size, sums, lanes};
            const int64_t kept = (all.kept_at[t] + first + i) * size + at;
            float *save = keep ? gates[i] + at : nullptr;
            V now;
            if (Cell == UNROLLED_LSTM)
                now = lstm_cell(u, c + i * size + at, save, size, keep ? r.cells + kept : nullptr);
            else if (Cell == UNROLLED_GRU)
                now = gru_cell(u, load(h_before[i] + at, lanes),
                               all.bias_inner ? load(all.bias_inner + at, lanes) : set1(0), save,
                               size, keep ? r.inner + kept : nullptr);
            else
                now = rnn_cell<Cell == UNROLLED_RNN_RELU>(u);
            store(y[i] + at, now, lanes);
            const float *mask = mask_of(i);
            put_part(h_next, i, at, mask ? mul(now, load(mask + at, lanes)) : now, lanes);
        });
        for (int64_t i = 0; i < n; i++) {
            h_before[i] = y[i];
            if (h_next.precision == UNROLLED_INT8) put_row(h_next, i, y[i]);
        }
        common.h_next = common.h;
        common.h = h_next;
        meet_members();
    }

    template <int Cell> void run() {
        int64_t projected = 0, reading = 0; // steps whose input's part is there; rows that read
        float **gates = own.gate_sums;
        if (!r.reverse) {
            for (int64_t i = 0; i < rows; i++) enter(i);
            reading = rows;
        }
        for (int64_t s = 0; s < r.steps; s++) {
            const int64_t t = step_of(s), n = active(t);
            const bool entering = reading < n || s == 0;
            for (; reading < n; reading++) enter(reading); // only backward in time
            if (s == projected) {
                projected = project_chunk(s);
                gates = own.gate_sums;
                meet_members();
            } else if (entering) {
                meet_members();
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

// Biases as they are added: both at once, but for the GRU's candidate, whose b_hn stays inside.
inline void add_biases(const unrolled_run &r, int64_t gates, float *bias, float *inner) {
    const int64_t together = r.cell == UNROLLED_GRU ? 2 * r.hidden : gates * r.hidden;
    for (int64_t j = 0; j < gates * r.hidden; j++) {
        bias[j] = (r.b_ih ? r.b_ih[j] : 0.0f) + (r.b_hh && j < together ? r.b_hh[j] : 0.0f);
        if (r.cell == UNROLLED_GRU && j >= together) inner[j - together] = r.b_hh ? r.b_hh[j] : 0.0f;
    }
}

inline Error forward(const unrolled_run &r) {
    Shared all = shared_of(r);
    float *bias = nullptr, *inner = nullptr;
    const Scratch small([&](Arena &arena) {
        carve_order(arena, all);
        bias = arena.floats(all.gates * r.hidden);
        inner = arena.floats(r.hidden);
    });
    if (small.failed()) return OUT_OF_MEMORY;
    fill_order(all);
    add_biases(r, all.gates, bias, inner);
    all.bias = bias;
    all.bias_inner = r.cell == UNROLLED_GRU ? inner : nullptr;
    all.ih = plan_product(r.precision, all.gates * r.hidden, r.input);
    all.hh = plan(r.precision, most_in_slice(all), all.gates, r.hidden, r.hidden);
    const Scratch weights([&](Arena &arena) { carve_weights(arena, all); });
    if (weights.failed()) return OUT_OF_MEMORY;
    return run_pass<ForwardPass>(all);
}

} // namespace
