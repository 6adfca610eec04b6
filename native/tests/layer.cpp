#include "layer.h"

#include <algorithm>
#include <numeric>

namespace {

/* Lengths of rows, the longest first; some are 0. */
std::vector<int64_t> lengths_of(const Case &c, Random &random) {
    std::vector<int64_t> lengths(static_cast<size_t>(c.rows), c.steps);
    if (c.ragged)
        for (int64_t &length : lengths) length = random.below(c.steps + 1);
    std::sort(lengths.rbegin(), lengths.rend());
    return lengths;
}

std::vector<int64_t> shuffled(int64_t rows, Random &random) {
    std::vector<int64_t> order(static_cast<size_t>(rows));
    std::iota(order.begin(), order.end(), 0);
    for (int64_t i = rows - 1; i > 0; i--) std::swap(order[i], order[random.below(i + 1)]);
    return order;
}

const int64_t *pointer(const std::vector<int64_t> &numbers) {
    return numbers.empty() ? nullptr : numbers.data();
}

}  // namespace

Case draw(int32_t cell, int64_t steps, int64_t rows, int64_t input, int64_t hidden, uint64_t seed) {
    Random random(seed);
    Case c{cell, steps, rows, input, hidden};
    c.layout = static_cast<Layout>(random.below(4));
    c.ragged = random.coin();
    c.reverse = random.coin();
    for (bool *given : {&c.bias_ih, &c.bias_hh, &c.h0, &c.c0, &c.d_y, &c.d_h_final, &c.d_c_final})
        *given = random.below(3) > 0;
    c.mask = random.coin();
    c.seed = seed;
    return c;
}

std::string describe(const Case &c) {
    const auto word = [](bool truth, const char *name) { return truth ? std::string(name) : ""; };
    return "cell " + std::to_string(c.cell) + " T " + std::to_string(c.steps) + " B " +
           std::to_string(c.rows) + " D " + std::to_string(c.input) + " H " +
           std::to_string(c.hidden) + " layout " + std::to_string(c.layout) +
           word(c.ragged, " ragged") + word(c.reverse, " reverse") + word(c.bias_ih, " b_ih") +
           word(c.bias_hh, " b_hh") + word(c.h0, " h0") + word(c.c0, " c0") +
           word(c.mask, " mask") + word(c.d_y, " d_y") + word(c.d_h_final, " d_h_final") +
           word(c.d_c_final, " d_c_final");
}

Inputs::Inputs(const Case &c) : c(c) {
    Random random(c.seed + 1000);
    const std::vector<int64_t> lengths = lengths_of(c, random);
    count = std::accumulate(lengths.begin(), lengths.end(), int64_t{0});
    x_rows = c.layout == PACKED ? count : c.steps * c.rows;
    if (c.ragged || c.layout == PACKED || random.coin())
        for (int64_t t = 0; t < c.steps; t++)
            active.push_back(std::count_if(lengths.begin(), lengths.end(),
                                           [t](int64_t length) { return length > t; }));
    if (c.layout == PACKED)
        for (int64_t t = 0, sum = 0; t < c.steps; sum += active[t++]) offset.push_back(sum);
    if (c.layout == PADDED) {
        order = shuffled(c.rows, random);
        for (const int64_t row : order) base.push_back(c.steps * row);
    }
    const int64_t H = c.hidden, GH = gates_of(c.cell) * H;
    const float size = 1 / std::sqrt(static_cast<float>(H + 1));
    x = Array(x_rows * c.input);  // padding stays NaN
    d_y = c.d_y ? Array(x_rows * H) : Array();
    for (int64_t r = 0; r < c.rows; r++)
        for (int64_t t = 0; t < lengths[r]; t++) {
            const int64_t at = step_row(run(), t, r);
            for (int64_t j = 0; j < c.input; j++) x[at * c.input + j] = random.number(1);
            for (int64_t j = 0; c.d_y && j < H; j++) d_y[at * H + j] = random.number(1);
        }
    w_ih = Array(GH * c.input, random, size);
    w_hh = Array(GH * H, random, size);
    const auto given = [&](bool truth, int64_t numbers, float scale) {
        return truth ? Array(numbers, random, scale) : Array();
    };
    b_ih = given(c.bias_ih, GH, size);
    b_hh = given(c.bias_hh, GH, size);
    h0 = given(c.h0, c.rows * H, 1);
    c0 = given(c.c0 && c.cell == UNROLLED_LSTM, c.rows * H, 1);
    mask = given(c.mask, c.rows * H, 1);
    for (int64_t i = 0; i < mask.size(); i++) mask[i] = mask[i] < 0 ? 0.0f : 1.5f;
    d_h_final = given(c.d_h_final, c.rows * H, 1);
    d_c_final = given(c.d_c_final && c.cell == UNROLLED_LSTM, c.rows * H, 1);
}

unrolled_run Inputs::run() const {
    unrolled_run run{};
    run.cell = c.cell;
    run.reverse = c.reverse;
    run.threads = 1;
    run.rows = c.rows;
    run.steps = c.steps;
    run.input = c.input;
    run.hidden = c.hidden;
    run.count = count;
    run.step_stride = c.layout == TIME_FIRST ? c.rows : 1;
    run.row_stride = c.layout == BATCH_FIRST ? c.steps : 1;
    run.offset = pointer(offset);
    run.active = pointer(active);
    run.base = pointer(base);
    run.order = pointer(order);
    run.x = x.data();
    run.w_ih = w_ih.data();
    run.w_hh = w_hh.data();
    run.b_ih = b_ih.data();
    run.b_hh = b_hh.data();
    run.h0 = h0.data();
    run.c0 = c0.data();
    run.mask = mask.data();
    run.d_y = d_y.data();
    run.d_h_final = d_h_final.data();
    run.d_c_final = d_c_final.data();
    return run;
}

Outputs::Outputs(const Inputs &in) {
    const int64_t H = in.c.hidden, D = in.c.input, GH = gates_of(in.c.cell) * H;
    const int64_t states = in.c.rows * H;
    const bool lstm = in.c.cell == UNROLLED_LSTM, gru = in.c.cell == UNROLLED_GRU;
    y = Array(in.x_rows * H);
    h_final = Array(states);
    c_final = lstm ? Array(states) : Array();
    gates = lstm || gru ? Array(in.count * GH) : Array();
    cells = lstm ? Array(in.count * H) : Array();
    inner = gru ? Array(in.count * H) : Array();
    d_x = Array(in.x_rows * D);
    d_w_ih = Array(GH * D);
    d_w_hh = Array(GH * H);
    d_b_ih = in.c.bias_ih ? Array(GH) : Array();
    d_b_hh = in.c.bias_hh ? Array(GH) : Array();
    d_h0 = in.c.h0 ? Array(states) : Array();
    d_c0 = lstm && in.c.c0 ? Array(states) : Array();
}

void Outputs::bind(unrolled_run &run) const {
    run.y = y.data();
    run.h_final = h_final.data();
    run.c_final = c_final.data();
    run.gates = gates.data();
    run.cells = cells.data();
    run.inner = inner.data();
    run.d_x = d_x.data();
    run.d_w_ih = d_w_ih.data();
    run.d_w_hh = d_w_hh.data();
    run.d_b_ih = d_b_ih.data();
    run.d_b_hh = d_b_hh.data();
    run.d_h0 = d_h0.data();
    run.d_c0 = d_c0.data();
}

std::vector<std::pair<std::string, const Array *>> Outputs::seen() const {
    return {{"y", &y},           {"h_final", &h_final}, {"c_final", &c_final}, {"d_x", &d_x},
            {"d_w_ih", &d_w_ih}, {"d_w_hh", &d_w_hh},   {"d_b_ih", &d_b_ih},   {"d_b_hh", &d_b_hh},
            {"d_h0", &d_h0},     {"d_c0", &d_c0}};
}

bool Outputs::guards_hold() const {
    bool whole = gates.guards_hold() && cells.guards_hold() && inner.guards_hold();
    for (const auto &[name, array] : seen()) whole = whole && array->guards_hold();
    return whole;
}

const char *read(const Inputs &in, Outputs &out, int32_t precision, int32_t threads) {
    unrolled_run run = in.run();
    run.precision = precision;
    run.threads = threads;
    out.bind(run);
    const char *message = unrolled_forward(&run);
    return message ? message : unrolled_backward(&run);
}

void check_same(const Outputs &a, const Outputs &b, const std::string &what) {
    const auto left = a.seen(), right = b.seen();
    for (size_t i = 0; i < left.size(); i++)
        CHECK(same(*left[i].second, *right[i].second), what + ": other bits in " + left[i].first);
}
