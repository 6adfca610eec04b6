/* One layer's inputs and outputs, drawn at random between guards. */
#ifndef UNROLLED_LAYER_H
#define UNROLLED_LAYER_H

#include "check.h"
#include "plain.h"

enum Layout { TIME_FIRST, BATCH_FIRST, PADDED, PACKED };

struct Case {
    int32_t cell;
    int64_t steps, rows, input, hidden;
    Layout layout = BATCH_FIRST;
    bool ragged = false, reverse = false;
    /* whether each input that may be missing is given */
    bool bias_ih = true, bias_hh = true, h0 = true, c0 = true, mask = false;
    bool d_y = true, d_h_final = true, d_c_final = true;
    uint64_t seed = 1;
};

/* Draw the layout and what is missing from a seed. */
Case draw(int32_t cell, int64_t steps, int64_t rows, int64_t input, int64_t hidden, uint64_t seed);
std::string describe(const Case &c);

/* Inputs are never written: any number of threads may share them. */
struct Inputs {
    explicit Inputs(const Case &c);
    Case c;
    std::vector<int64_t> active, offset, base, order;
    int64_t x_rows, count;  // rows of x, and how many of them are steps
    Array x, w_ih, w_hh, b_ih, b_hh, h0, c0, mask, d_y, d_h_final, d_c_final;

    /* Return a run of these inputs with no outputs. */
    unrolled_run run() const;
};

struct Outputs {
    explicit Outputs(const Inputs &in);
    Array y, h_final, c_final, gates, cells, inner;
    Array d_x, d_w_ih, d_w_hh, d_b_ih, d_b_hh, d_h0, d_c0;

    /* Let a run write here, and keep what backward needs. */
    void bind(unrolled_run &run) const;
    /* What a caller sees, each with its name; c only of an LSTM. */
    std::vector<std::pair<std::string, const Array *>> seen() const;
    bool guards_hold() const;
};

/* Read forward and backward; return the first message, or NULL. */
const char *read(const Inputs &in, Outputs &out, int32_t precision, int32_t threads);
void check_same(const Outputs &a, const Outputs &b, const std::string &what);

#endif
