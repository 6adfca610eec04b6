// Where the steps of a run stand.
#pragma once

namespace {

// the row of x and y that holds step t of a row
inline int64_t step_row(const unrolled_run &r, int64_t t, int64_t row) {
    const int64_t of_step = r.offset ? r.offset[t] : t * r.step_stride;
    const int64_t of_row = r.base ? r.base[row] : row * r.row_stride;
    return of_step + of_row;
}

// the row of h0, c0, mask and the final states that belongs to a row
inline int64_t state_row(const unrolled_run &r, int64_t row) {
    return r.order ? r.order[row] : row;
}

// how many rows read step t
inline int64_t active_at(const unrolled_run &r, int64_t t) {
    return r.active ? r.active[t] : r.rows;
}

// Step t of row r is kept at kept_at[t] + r.
inline void number_steps(const unrolled_run &r, int64_t *kept_at) {
    int64_t count = 0;
    for (int64_t t = 0; t < r.steps; t++) {
        kept_at[t] = count;
        count += active_at(r, t);
    }
}

} // namespace
