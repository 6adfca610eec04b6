/* The layers as plain loops in double precision: what the library is compared with. */
#ifndef UNROLLED_PLAIN_H
#define UNROLLED_PLAIN_H

#include <vector>

#include "unrolled.h"

using Doubles = std::vector<double>;

/* What a run should have written, in the layout of its arrays. NaN where nothing is written. */
struct Plain {
    Doubles y, h_final, c_final;
    Doubles d_x, d_w_ih, d_w_hh, d_b_ih, d_b_hh, d_h0, d_c0;
};

/* How many gates a cell has. */
int64_t gates_of(int32_t cell);
/* How many steps of a row are read. */
int64_t length_of(const unrolled_run &run, int64_t row);
/* Where step t of a row stands in x and y. */
int64_t step_row(const unrolled_run &run, int64_t t, int64_t row);

/* Read all rows of a run whose x has `x_rows` rows, forward and backward. */
Plain plain(const unrolled_run &run, int64_t x_rows);

#endif
