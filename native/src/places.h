// Where the steps of a run stand, and how its rows are shared out.
#pragma once

namespace {

inline int64_t place(const unrolled_run &r, int64_t t, int64_t row) {
    return (r.offset ? r.offset[t] : t * r.step_stride) +
           (r.base ? r.base[row] : row * r.row_stride);
}

inline int64_t active_at(const unrolled_run &r, int64_t t) { return r.active ? r.active[t] : r.rows; }

inline int64_t owner(const unrolled_run &r, int64_t row) { return r.order ? r.order[row] : row; }

// A piece of scratch memory that finds its way back.
struct Scratch {
    char *memory, *next;
    explicit Scratch(size_t bytes)
        : memory(static_cast<char *>(workspace_take(bytes + 64))), next(memory) {}
    // a part of another's
    explicit Scratch(char *part) : memory(nullptr), next(part) {}
    ~Scratch() { workspace_give(memory); }
    // what needs much memory next should find it
    void drop() {
        workspace_drop(memory);
        memory = nullptr;
    }
    Scratch(const Scratch &) = delete;
    Scratch &operator=(const Scratch &) = delete;
    bool failed() const { return !memory; }
    void *bytes(size_t n) {
        void *found = next;
        next += (n + 63) / 64 * 64;
        return found;
    }
    float *floats(int64_t n) { return static_cast<float *>(bytes(static_cast<size_t>(n) * 4)); }
    int64_t *numbers(int64_t n) { return static_cast<int64_t *>(bytes(static_cast<size_t>(n) * 8)); }
};

inline size_t room(int64_t numbers, size_t each) {
    return (static_cast<size_t>(numbers) * each + 63) / 64 * 64;
}

// What every slice of rows reads: packed weights, biases, and the order in which things are kept.
struct Shared {
    const unrolled_run *run;
    int64_t gates, slices;
    int64_t *kept_at; // (T): step t of row r is kept at kept_at[t] + r
    int64_t *cuts;    // (slices + 1): rows of each slice
    Pack ih, hh;
    const float *bias, *bias_inner;
    float *d; // backward: gradients of the gates' sums, (N, 4 H or H)
    int32_t failed; // set by any thread, with fail()
};

inline void fail(int32_t &flag) { __atomic_store_n(&flag, 1, __ATOMIC_RELAXED); }
inline bool failed(int32_t &flag) { return __atomic_load_n(&flag, __ATOMIC_RELAXED) != 0; }

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

} // namespace
