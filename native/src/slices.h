// How a run is shared out among threads, forward and backward alike: each takes a slice of the
// rows, or all take the same rows and some of the columns.
#pragma once

namespace {

// What every slice of rows reads: packed weights, biases, and the order in which things are kept.
struct Shared {
    const unrolled_run *run;
    int64_t gates, slices;
    int64_t *kept_at; // (T): step t of row r is kept at kept_at[t] + r
    int64_t *cuts;    // (slices + 1): the first row of every slice
    Pack ih, hh;
    const float *bias, *bias_inner;
    float *d;       // backward: gradients of the gates' sums, (N, 4 H or H)
    int32_t failed; // set by any thread, with fail()
};

inline void fail(int32_t &flag) { __atomic_store_n(&flag, 1, __ATOMIC_RELAXED); }
inline bool failed(int32_t &flag) { return __atomic_load_n(&flag, __ATOMIC_RELAXED) != 0; }

// ---- how many threads are worth their while --------------------------------------------------------

// Whether rows are so few, and the weights so large, that threads had better share the columns of
// a step and meet after it. (int8 rows have one scale, which takes the whole row.)
inline bool columns_are_shared(const unrolled_run &r) {
    return r.threads > 1 && r.rows < 4 * r.threads && r.precision != UNROLLED_INT8 &&
           gates_of(r.cell) * r.hidden * r.hidden >= 100000;
}

// how many slices of rows are worth their threads
inline int64_t slices_for(const unrolled_run &r) {
    const int64_t work = r.count * gates_of(r.cell) * r.hidden * (r.input + r.hidden);
    if (work < 400000 || columns_are_shared(r)) return 1;
    return least_of(r.threads < 1 ? 1 : r.threads, r.rows < 1 ? 1 : r.rows);
}

// how many threads share the columns of a step
inline int64_t members_for(const unrolled_run &r, int64_t panels) {
    return columns_are_shared(r) && r.count ? least_of(r.threads, panels) : 1;
}

// Share rows out so that every slice has about as many steps to read.
inline void cut(const unrolled_run &r, int64_t slices, int64_t *cuts) {
    int64_t total = 0, done = 0, row = 0;
    for (int64_t t = 0; t < r.steps; t++) total += active_at(r, t);
    int64_t last = r.steps; // steps of `row`: active never grows, so this only falls
    cuts[0] = 0;
    for (int64_t s = 1; s < slices; s++) {
        while (row < r.rows && done < total * s / slices) {
            while (last > 0 && active_at(r, last - 1) <= row) last--;
            done += last;
            row++;
        }
        cuts[s] = row;
    }
    cuts[slices] = r.rows;
}

inline int64_t most_in_slice(const Shared &all) {
    int64_t most = 1;
    for (int64_t i = 0; i < all.slices; i++) {
        const int64_t n = all.cuts[i + 1] - all.cuts[i];
        most = n > most ? n : most;
    }
    return most;
}

// What is known of a run before memory is carved for it.
inline Shared shared_of(const unrolled_run &r) {
    Shared all = {};
    all.run = &r;
    all.gates = gates_of(r.cell);
    all.slices = slices_for(r);
    return all;
}

inline void carve_order(Arena &arena, Shared &all) {
    all.kept_at = arena.array<int64_t>(all.run->steps);
    all.cuts = arena.array<int64_t>(all.slices + 1);
}

inline void fill_order(const Shared &all) {
    number_steps(*all.run, all.kept_at);
    cut(*all.run, all.slices, all.cuts);
}

inline void carve_weights(Arena &arena, Shared &all) {
    all.ih.data = arena.bytes(bytes_of(all.ih));
    all.hh.data = arena.bytes(bytes_of(all.hh));
}

// ---- the work of one thread --------------------------------------------------------------------------

// The steps whose input product is taken together: enough rows to fill the tiles, few enough that
// what they write is still near when the recurrence reads it.
inline int64_t chunk_rows(int32_t precision) { return on_matrix_unit(precision) ? 512 : 256; }

// most (step, row) pairs in a chunk
inline int64_t most_in_chunk(const unrolled_run &r, int64_t rows) {
    const int64_t usual = chunk_rows(r.precision);
    return least_of(usual > rows ? usual : rows, rows * (r.steps < 1 ? 1 : r.steps));
}

// Rows of a run, and the columns of them, that one thread works on. Usually it has all columns;
// where rows are too few for that, several members take the same rows, each some of the columns,
// and meet at every step.
struct Slice {
    const Shared &all;
    const unrolled_run &r;
    int64_t first, rows;
    int64_t member, members;
    Meeting *meeting; // NULL: alone

    void meet_members() const {
        if (meeting) meet(*meeting);
    }

    // the member's own
    Range panels_of(const Pack &p) const { return range_of(p.panels, member, members); }

    int64_t active(int64_t t) const { // rows of the slice that read step t
        const int64_t n = active_at(r, t) - first;
        return n < 0 ? 0 : n < rows ? n : rows;
    }
};

// A pass over the steps is ForwardPass or BackwardPass: a Slice, with
// - Common, what the members of a slice share: carve(), and prepare() before any of them works;
// - Own, what each of them has for itself: carve() and prepare() too;
// - run<Cell>(), all steps;
// - fill_input() and fill_hidden(), which pack a panel of the weights as the pass reads them.

template <class Pass>
void run_member(const Slice &slice, const typename Pass::Common &common,
                const typename Pass::Own &own) {
    const MatrixUnit unit(slice.r.precision);
    own.prepare();
    Pass pass = {slice, common, own};
    switch (slice.r.cell) {
    case UNROLLED_LSTM: return pass.template run<UNROLLED_LSTM>();
    case UNROLLED_GRU: return pass.template run<UNROLLED_GRU>();
    case UNROLLED_RNN_RELU: return pass.template run<UNROLLED_RNN_RELU>();
    default: return pass.template run<UNROLLED_RNN_TANH>();
    }
}

template <class Pass> void run_slice(void *data, int64_t index) {
    Shared &all = *static_cast<Shared *>(data);
    const int64_t first = all.cuts[index], rows = all.cuts[index + 1] - first;
    if (!rows) return;
    typename Pass::Common common = {};
    typename Pass::Own own = {};
    const Scratch memory([&](Arena &arena) {
        common.carve(arena, all, rows);
        own.carve(arena, all, rows);
    });
    if (memory.failed()) return fail(all.failed);
    common.prepare(*all.run, rows);
    run_member<Pass>({.all = all,
                      .r = *all.run,
                      .first = first,
                      .rows = rows,
                      .member = 0,
                      .members = 1,
                      .meeting = nullptr},
                     common, own);
}

// All rows by several members at once: memory for as many as there may be.
template <class Pass> struct Team {
    const Shared &all;
    typename Pass::Common common;
    char *own; // `own_bytes` for each member
    size_t own_bytes;
};

template <class Pass>
void run_team_member(void *data, int64_t member, int64_t members, Meeting &meeting) {
    const Team<Pass> &team = *static_cast<Team<Pass> *>(data);
    const unrolled_run &r = *team.all.run;
    Arena arena = {.memory = team.own + static_cast<size_t>(member) * team.own_bytes,
                   .size = team.own_bytes};
    typename Pass::Own own = {};
    own.carve(arena, team.all, r.rows);
    run_member<Pass>({.all = team.all,
                      .r = r,
                      .first = 0,
                      .rows = r.rows,
                      .member = member,
                      .members = members,
                      .meeting = &meeting},
                     team.common, own);
}

template <class Pass> Error run_team(const Shared &all, int32_t threads, int64_t members) {
    const unrolled_run &r = *all.run;
    typename Pass::Own own = {};
    Team<Pass> team = {.all = all, .common = {}, .own = nullptr, .own_bytes = 0};
    team.own_bytes = measured([&](Arena &arena) { own.carve(arena, all, r.rows); });
    const Scratch memory([&](Arena &arena) {
        team.common.carve(arena, all, r.rows);
        team.own = arena.bytes(static_cast<size_t>(members) * team.own_bytes);
    });
    if (memory.failed()) return OUT_OF_MEMORY;
    team.common.prepare(r, r.rows);
    together(threads, run_team_member<Pass>, &team);
    return nullptr;
}

template <class Pass> void fill_weights(void *data, int64_t panel) {
    const Shared &all = *static_cast<Shared *>(data);
    if (panel < all.ih.panels)
        Pass::fill_input(all, panel);
    else
        Pass::fill_hidden(all, panel - all.ih.panels);
}

// Pack the weights and take all rows through all steps.
template <class Pass> Error run_pass(Shared &all) {
    const int64_t members = members_for(*all.run, all.hh.panels);
    const int32_t threads = static_cast<int32_t>(members > all.slices ? members : all.slices);
    parallel(threads, all.ih.panels + all.hh.panels, fill_weights<Pass>, &all);
    if (members > 1) return run_team<Pass>(all, threads, members);
    parallel(threads, all.slices, run_slice<Pass>, &all);
    return failed(all.failed) ? OUT_OF_MEMORY : nullptr;
}

} // namespace
