#include "plain.h"

#include <cmath>

namespace {

double sigmoid(double a) { return 1 / (1 + std::exp(-a)); }

double at(const float *numbers, int64_t i) { return numbers ? numbers[i] : 0.0; }

/* One step of one row: what backward needs of it. */
struct Step {
    int64_t x_row;
    Doubles h, c;        // before the step, h unmasked
    Doubles from_h;      // W_hh (h * mask) + b_hh
    Doubles gates;       // after their activation
    Doubles new_h, new_c;
};

struct Row {
    const unrolled_run &run;
    int64_t row, own;  // own: its row of h0, c0, mask
    int64_t gates, D, H;
    std::vector<Step> steps;

    double masked(int64_t j) const { return run.mask ? run.mask[own * H + j] : 1.0; }
};

Doubles product(const float *w, const float *b, int64_t rows, const Doubles &x) {
    const int64_t width = static_cast<int64_t>(x.size());
    Doubles y(static_cast<size_t>(rows));
    for (int64_t i = 0; i < rows; i++) {
        double sum = at(b, i);
        for (int64_t j = 0; j < width; j++) sum += static_cast<double>(w[i * width + j]) * x[j];
        y[i] = sum;
    }
    return y;
}

void activate(const unrolled_run &run, Step &s, const Doubles &from_x) {
    const int64_t H = run.hidden;
    s.gates.resize(from_x.size());
    s.new_h.resize(H);
    s.new_c.resize(H);
    for (int64_t j = 0; j < H; j++) {
        const auto sum = [&](int64_t g) { return from_x[g * H + j] + s.from_h[g * H + j]; };
        double *gate = &s.gates[j];
        if (run.cell == UNROLLED_LSTM) {
            for (const int64_t g : {0, 1, 3}) gate[g * H] = sigmoid(sum(g));
            gate[2 * H] = std::tanh(sum(2));
            s.new_c[j] = gate[H] * s.c[j] + gate[0] * gate[2 * H];
            s.new_h[j] = gate[3 * H] * std::tanh(s.new_c[j]);
        } else if (run.cell == UNROLLED_GRU) {
            gate[0] = sigmoid(sum(0));
            gate[H] = sigmoid(sum(1));
            gate[2 * H] = std::tanh(from_x[2 * H + j] + gate[0] * s.from_h[2 * H + j]);
            s.new_h[j] = (1 - gate[H]) * gate[2 * H] + gate[H] * s.h[j];
        } else {
            s.new_h[j] = run.cell == UNROLLED_RNN_TANH ? std::tanh(sum(0)) : std::fmax(sum(0), 0);
        }
    }
}

void read_forward(Row &row, Plain &out) {
    const unrolled_run &run = row.run;
    Doubles h(row.H), c(row.H);
    for (int64_t j = 0; j < row.H; j++) {
        h[j] = at(run.h0, row.own * row.H + j);
        c[j] = at(run.c0, row.own * row.H + j);
    }
    const int64_t length = length_of(run, row.row);
    for (int64_t s = 0; s < length; s++) {
        Step step;
        step.x_row = step_row(run, run.reverse ? length - 1 - s : s, row.row);
        step.h = h;
        step.c = c;
        Doubles masked = h;
        for (int64_t j = 0; j < row.H; j++) masked[j] *= row.masked(j);
        const float *start = run.x + step.x_row * row.D;
        const Doubles x(start, start + row.D);
        step.from_h = product(run.w_hh, run.b_hh, row.gates * row.H, masked);
        activate(run, step, product(run.w_ih, run.b_ih, row.gates * row.H, x));
        h = step.new_h;
        c = step.new_c;
        for (int64_t j = 0; j < row.H; j++) out.y[step.x_row * row.H + j] = h[j];
        row.steps.push_back(step);
    }
    for (int64_t j = 0; j < row.H; j++) {
        out.h_final[row.own * row.H + j] = h[j];
        out.c_final[row.own * row.H + j] = c[j];
    }
}

/* Turn the gradients of a step's new h and c into those of its sums, and of the old h and c beside
 * the products: in place. */
void deactivate(const unrolled_run &run, const Step &s, Doubles &d_h, Doubles &d_c, Doubles &d_x,
                Doubles &d_hidden) {
    const int64_t H = run.hidden;
    for (int64_t j = 0; j < H; j++) {
        const double *gate = &s.gates[j];
        const double gradient = d_h[j];
        if (run.cell == UNROLLED_LSTM) {
            const double i = gate[0], f = gate[H], g = gate[2 * H], o = gate[3 * H];
            const double shown = std::tanh(s.new_c[j]);
            const double d = d_c[j] + gradient * o * (1 - shown * shown);
            d_x[j] = d * g * i * (1 - i);
            d_x[H + j] = d * s.c[j] * f * (1 - f);
            d_x[2 * H + j] = d * i * (1 - g * g);
            d_x[3 * H + j] = gradient * shown * o * (1 - o);
            d_c[j] = d * f;
            d_h[j] = 0;
            for (int64_t k = 0; k < 4; k++) d_hidden[k * H + j] = d_x[k * H + j];
        } else if (run.cell == UNROLLED_GRU) {
            const double r = gate[0], z = gate[H], n = gate[2 * H];
            const double d_n = gradient * (1 - z) * (1 - n * n);
            d_x[j] = d_n * s.from_h[2 * H + j] * r * (1 - r);
            d_x[H + j] = gradient * (s.h[j] - n) * z * (1 - z);
            d_x[2 * H + j] = d_n;
            d_hidden[j] = d_x[j];
            d_hidden[H + j] = d_x[H + j];
            d_hidden[2 * H + j] = d_n * r;
            d_h[j] = gradient * z;
        } else {
            const double y = s.new_h[j];
            const double by = run.cell == UNROLLED_RNN_TANH ? 1 - y * y : (y > 0 ? 1.0 : 0.0);
            d_x[j] = d_hidden[j] = gradient * by;
            d_h[j] = 0;
        }
    }
}

void add_gradients(const Row &row, const Step &s, const Doubles &d_x, const Doubles &d_hidden,
            Doubles &d_h, Plain &out) {
    const unrolled_run &run = row.run;
    for (int64_t i = 0; i < row.gates * row.H; i++) {
        out.d_b_ih[i] += d_x[i];
        out.d_b_hh[i] += d_hidden[i];
        for (int64_t j = 0; j < row.D; j++) {
            const int64_t w = i * row.D + j, x = s.x_row * row.D + j;
            out.d_w_ih[w] += d_x[i] * run.x[x];
            out.d_x[x] += d_x[i] * run.w_ih[w];
        }
        for (int64_t j = 0; j < row.H; j++) {
            const int64_t w = i * row.H + j;
            out.d_w_hh[w] += d_hidden[i] * s.h[j] * row.masked(j);
            d_h[j] += d_hidden[i] * run.w_hh[w] * row.masked(j);
        }
    }
}

void read_backward(const Row &row, Plain &out) {
    const unrolled_run &run = row.run;
    Doubles d_h(row.H), d_c(row.H);
    for (int64_t j = 0; j < row.H; j++) {
        d_h[j] = at(run.d_h_final, row.own * row.H + j);
        d_c[j] = at(run.d_c_final, row.own * row.H + j);
    }
    Doubles d_x(row.gates * row.H), d_hidden(row.gates * row.H);
    for (size_t k = row.steps.size(); k-- > 0;) {
        const Step &s = row.steps[k];
        for (int64_t j = 0; j < row.H; j++) d_h[j] += at(run.d_y, s.x_row * row.H + j);
        for (int64_t j = 0; j < row.D; j++) out.d_x[s.x_row * row.D + j] = 0;
        deactivate(run, s, d_h, d_c, d_x, d_hidden);
        add_gradients(row, s, d_x, d_hidden, d_h, out);
    }
    for (int64_t j = 0; j < row.H; j++) {
        out.d_h0[row.own * row.H + j] = d_h[j];
        out.d_c0[row.own * row.H + j] = d_c[j];
    }
}

}  // namespace

int64_t gates_of(int32_t cell) {
    return cell == UNROLLED_LSTM ? 4 : cell == UNROLLED_GRU ? 3 : 1;
}

int64_t length_of(const unrolled_run &run, int64_t row) {
    int64_t length = 0;
    while (length < run.steps && row < (run.active ? run.active[length] : run.rows)) length++;
    return length;
}

int64_t step_row(const unrolled_run &run, int64_t t, int64_t row) {
    return (run.offset ? run.offset[t] : t * run.step_stride) +
           (run.base ? run.base[row] : row * run.row_stride);
}

Plain plain(const unrolled_run &run, int64_t x_rows) {
    const int64_t D = run.input, H = run.hidden, gates = gates_of(run.cell);
    Plain out;
    out.y.assign(x_rows * H, NAN);
    out.d_x.assign(x_rows * D, NAN);
    for (Doubles *state : {&out.h_final, &out.c_final, &out.d_h0, &out.d_c0})
        state->assign(run.rows * H, 0);
    out.d_w_ih.assign(gates * H * D, 0);
    out.d_w_hh.assign(gates * H * H, 0);
    out.d_b_ih.assign(gates * H, 0);
    out.d_b_hh.assign(gates * H, 0);
    for (int64_t r = 0; r < run.rows; r++) {
        Row row{run, r, run.order ? run.order[r] : r, gates, D, H, {}};
        read_forward(row, out);
        read_backward(row, out);
    }
    return out;
}
