/* Layers over time against the plain loops, and the promises about their bits. */
#include <algorithm>
#include <array>

#include "layer.h"

namespace {

const int32_t CELLS[] = {UNROLLED_RNN_TANH, UNROLLED_RNN_RELU, UNROLLED_GRU, UNROLLED_LSTM};

/* T, B, D, H (one hidden unit at least): nothing, one, odd, around every width of a vector or tile,
 * few rows and many columns, and more steps than one block of a weight's gradient. */
const int64_t SIZES[][4] = {
    {0, 3, 4, 5},   {3, 0, 4, 5},    {0, 0, 3, 2},    {1, 1, 1, 1},   {2, 3, 0, 5},
    {3, 2, 1, 17},   {5, 7, 16, 16},  {4, 9, 33, 31}, {6, 5, 15, 48},
    {3, 13, 8, 64}, {2, 1, 70, 65},  {7, 3, 5, 100},  {9, 40, 19, 70}, {90, 16, 3, 7},
    {2, 1, 31, 200}, {3, 25, 64, 96}, {40, 2, 2, 2},
};

/* A sum of k rounded products of numbers of size 1 is off by about sqrt(k) roundings; each step
 * hands its error on, and 8 roundings more go into an activation. */
double tolerance_of(const Case &c, double rounding) {
    const auto sums = static_cast<double>(c.input + c.hidden + 8);
    return 4 * rounding * std::sqrt(sums) * static_cast<double>(std::min<int64_t>(c.steps, 16) + 1);
}

void check_run(const Inputs &in, const Outputs &out, const Plain &right, double tolerance) {
    NEAR("y", out.y, right.y, tolerance);
    NEAR("h_final", out.h_final, right.h_final, tolerance);
    NEAR("d_x", out.d_x, right.d_x, tolerance);
    NEAR("d_w_ih", out.d_w_ih, right.d_w_ih, tolerance);
    NEAR("d_w_hh", out.d_w_hh, right.d_w_hh, tolerance);
    if (in.c.bias_ih) NEAR("d_b_ih", out.d_b_ih, right.d_b_ih, tolerance);
    if (in.c.bias_hh) NEAR("d_b_hh", out.d_b_hh, right.d_b_hh, tolerance);
    if (in.c.h0) NEAR("d_h0", out.d_h0, right.d_h0, tolerance);
    if (in.c.cell != UNROLLED_LSTM) return;
    NEAR("c_final", out.c_final, right.c_final, tolerance);
    if (in.c.c0) NEAR("d_c0", out.d_c0, right.d_c0, tolerance);
}

/* Check a case at every level by one thread, and that other numbers of threads give its bits. */
void check_case(const Case &c, int32_t precision, double rounding,
                const std::vector<int32_t> &threads = {3}) {
    const std::string outside = context;
    context = outside + " " + describe(c);
    const Inputs in(c);
    const Plain right = plain(in.run(), in.x_rows);
    at_every_level([&] {
        Outputs one(in);
        const char *message = read(in, one, precision, 1);
        CHECK(!message, std::string(message ? message : ""));
        if (message) return;
        check_run(in, one, right, tolerance_of(c, rounding));
        CHECK(one.guards_hold(), "a number beside an array was written");
        for (const int32_t some : threads) {
            const std::string name = std::to_string(some) + " threads";
            Outputs several(in);
            CHECK(!read(in, several, precision, some), name + ": refused");
            CHECK(several.guards_hold(), name + ": a number beside an array was written");
            check_same(one, several, name);
        }
    });
    context = outside;
}

/* Read forward in int8, which keeps nothing; return the message, or NULL. */
const char *read_int8(unrolled_run run, Outputs &out, int32_t threads) {
    out.bind(run);
    run.gates = run.cells = run.inner = nullptr;
    run.precision = UNROLLED_INT8;
    run.threads = threads;
    return unrolled_forward(&run);
}

/* Return a run of one row of `in` alone, as it stands among the others. */
unrolled_run one_row(const Inputs &in, int64_t row, int64_t &length, int64_t &base,
                     int64_t &order) {
    unrolled_run run = in.run();
    length = length_of(run, row);
    base = run.base ? run.base[row] : row * run.row_stride;
    order = run.order ? run.order[row] : row;
    run.rows = 1;
    run.steps = run.count = length;
    run.active = nullptr;
    run.base = &base;
    run.order = &order;
    return run;
}

/* Check that every row has the bits alone that it has among all; int8 forward alone. */
void check_rows_alone(const Inputs &in, const Outputs &all, int32_t precision) {
    const int64_t H = in.c.hidden, D = in.c.input;
    const bool int8 = precision == UNROLLED_INT8;
    for (int64_t row = 0; row < in.c.rows; row++) {
        int64_t length, base, order;
        unrolled_run run = one_row(in, row, length, base, order);
        Outputs alone(in);
        alone.bind(run);
        run.precision = precision;
        run.threads = 1;
        if (int8)
            CHECK(!read_int8(run, alone, 1), "one row: refused");
        else
            CHECK(!unrolled_forward(&run) && !unrolled_backward(&run), "one row: refused");
        const auto equal = [](const Array &a, const Array &b, int64_t start, int64_t size) {
            return a.empty() || std::memcmp(a.data() + start, b.data() + start,
                                            static_cast<size_t>(size) * sizeof(float)) == 0;
        };
        for (int64_t t = 0; t < length; t++) {
            const int64_t at = step_row(run, t, 0);
            CHECK(equal(alone.y, all.y, at * H, H), "one row alone: other bits in y");
            CHECK(int8 || equal(alone.d_x, all.d_x, at * D, D),
                  "one row alone: other bits in d_x");
        }
        CHECK(equal(alone.h_final, all.h_final, order * H, H), "one row alone: h_final");
        CHECK(equal(alone.c_final, all.c_final, order * H, H), "one row alone: c_final");
        if (int8) continue;
        CHECK(equal(alone.d_h0, all.d_h0, order * H, H), "one row alone: d_h0");
        CHECK(equal(alone.d_c0, all.d_c0, order * H, H), "one row alone: d_c0");
    }
}

}  // namespace

/* The plain loops themselves: their gradients are those of their outputs, by central differences. */
TEST(plain, gradients_are_differences) {
    for (const int32_t cell : CELLS) {
        Case c{cell, 3, 3, 2, 3};
        c.ragged = c.mask = true;
        c.layout = PADDED;
        c.reverse = cell % 2;
        c.seed = 5;
        Inputs in(c);
        const auto loss = [&] {
            const Plain out = plain(in.run(), in.x_rows);
            double sum = 0;
            for (size_t i = 0; i < out.y.size(); i++)
                if (!std::isnan(out.y[i])) sum += out.y[i] * in.d_y[i];
            for (size_t i = 0; i < out.h_final.size(); i++) sum += out.h_final[i] * in.d_h_final[i];
            for (int64_t i = 0; i < in.d_c_final.size(); i++)
                sum += out.c_final[i] * in.d_c_final[i];
            return sum;
        };
        const auto check = [&](const char *name, Array &numbers, const Doubles &gradients) {
            for (int64_t i = 0; i < numbers.size(); i++) {
                if (poisoned(numbers[i])) continue;
                const float before = numbers[i];
                numbers[i] = before + 0.0009765625f;
                const double above = loss(), up = numbers[i];
                numbers[i] = before - 0.0009765625f;
                const double below = loss(), down = numbers[i];
                numbers[i] = before;
                // a relu bends at 0: a difference across it is off by up to half a step's share
                CHECK(std::fabs((above - below) / (up - down) - gradients[i]) < 1e-4,
                      std::string("gradient of ") + name + " of cell " + std::to_string(cell));
            }
        };
        const Plain out = plain(in.run(), in.x_rows);
        check("x", in.x, out.d_x);
        check("w_ih", in.w_ih, out.d_w_ih);
        check("w_hh", in.w_hh, out.d_w_hh);
        check("b_ih", in.b_ih, out.d_b_ih);
        check("b_hh", in.b_hh, out.d_b_hh);
        check("h0", in.h0, out.d_h0);
        check("c0", in.c0, out.d_c0);
    }
}

TEST(layers, fp32_is_the_plain_loops) {
    uint64_t seed = 1;
    for (const int32_t cell : CELLS)
        for (const auto &[steps, rows, input, hidden] : SIZES)
            check_case(draw(cell, steps, rows, input, hidden, seed++), UNROLLED_FP32, 6e-8);
}

TEST(layers, fp32_in_every_layout) {
    uint64_t seed = 1000;
    for (const int32_t cell : CELLS)
        for (int32_t layout = TIME_FIRST; layout <= PACKED; layout++)
            for (const bool ragged : {false, true})
                for (const bool reverse : {false, true}) {
                    Case c = draw(cell, 5, 6, 9, 18, seed++);
                    c.layout = static_cast<Layout>(layout);
                    c.ragged = ragged;
                    c.reverse = reverse;
                    check_case(c, UNROLLED_FP32, 6e-8);
                }
}

/* bf16 rounds each operand to 8 bits: 2^-9 of its size */
TEST(layers, bf16_is_near_the_plain_loops) {
    uint64_t seed = 2000;
    for (const int32_t cell : {UNROLLED_RNN_TANH, UNROLLED_GRU, UNROLLED_LSTM})
        for (const auto &[steps, rows, input, hidden] : SIZES)
            if (steps <= 9)
                check_case(draw(cell, steps, rows, input, hidden, seed++), UNROLLED_BF16, 2e-3);
}

/* int8 keeps steps of 1/127 of the largest number, so rounds by half of that; forward alone */
TEST(layers, int8_is_near_the_plain_loops) {
    uint64_t seed = 3000;
    for (const int32_t cell : CELLS)
        for (const auto &[steps, rows, input, hidden] : SIZES) {
            if (steps > 9) continue;
            Case c = draw(cell, steps, rows, input, hidden, seed++);
            c.mask = false;
            const std::string outside = context;
            context = outside + " " + describe(c);
            const Inputs in(c);
            const Plain right = plain(in.run(), in.x_rows);
            at_every_level([&] {
                Outputs first(in), out(in);
                for (const int32_t threads : {1, 3}) {
                    Outputs &to = threads == 1 ? first : out;
                    const char *message = read_int8(in.run(), to, threads);
                    CHECK(!message, std::string(message ? message : ""));
                    NEAR("y", to.y, right.y, tolerance_of(c, 4e-3));
                    NEAR("h_final", to.h_final, right.h_final, tolerance_of(c, 4e-3));
                }
                CHECK(out.guards_hold(), "a number beside an array was written");
                check_same(first, out, "three threads");
            });
            context = outside;
        }
}

TEST(layers, a_row_has_the_same_bits_alone) {
    uint64_t seed = 4000;
    for (const int32_t cell : CELLS)
        for (const auto &[steps, rows, input, hidden] :
             {std::array<int64_t, 4>{4, 11, 7, 20},
              {2, 37, 16, 33},
              {3, 4, 5, 150},
              {3, 2, 9, 340}})
            for (const int32_t precision : {UNROLLED_FP32, UNROLLED_BF16, UNROLLED_INT8}) {
                Case c = draw(cell, steps, rows, input, hidden, seed++);
                c.mask = c.mask && precision != UNROLLED_INT8;
                const std::string outside = context;
                context = outside + " " + describe(c);
                const Inputs in(c);
                at_every_level([&] {
                    Outputs all(in);
                    CHECK(!(precision == UNROLLED_INT8 ? read_int8(in.run(), all, 3)
                                                       : read(in, all, precision, 1)),
                          "refused");
                    check_rows_alone(in, all, precision);
                });
                context = outside;
            }
}

TEST(layers, nothing_is_kept_and_nothing_wanted) {
    for (const int32_t cell : CELLS) {
        const Inputs in(draw(cell, 5, 7, 9, 21, 77));
        at_every_level([&] {
            Outputs all(in), bare(in), part(in);
            CHECK(!read(in, all, UNROLLED_FP32, 1), "refused");
            unrolled_run run = in.run();
            run.y = bare.y.data();
            CHECK(!unrolled_forward(&run), "with y alone: refused");
            CHECK(same(all.y, bare.y), "with y alone: other bits in y");
            all.bind(run);
            run.d_x = run.d_w_ih = run.d_b_ih = run.d_b_hh = run.d_h0 = run.d_c0 = nullptr;
            run.d_w_hh = part.d_w_hh.data();
            CHECK(!unrolled_backward(&run), "d_w_hh alone: refused");
            CHECK(same(all.d_w_hh, part.d_w_hh), "d_w_hh alone: other bits");
            run.d_w_hh = nullptr;
            run.d_x = part.d_x.data();
            CHECK(!unrolled_backward(&run), "d_x alone: refused");
            CHECK(same(all.d_x, part.d_x), "d_x alone: other bits");
            CHECK(part.guards_hold(), "a number beside an array was written");
        });
    }
}

/* Saturated gates are exact, and what one row holds no other row sees. */
TEST(layers, extremes_stay_in_their_row) {
    const float extremes[] = {1e30f, -1e30f, INFINITY, -INFINITY, NAN, 1e-42f};
    for (const int32_t precision : {UNROLLED_FP32, UNROLLED_BF16, UNROLLED_INT8})
        for (const int32_t cell : CELLS) {
            Case c{cell, 3, 6, 5, 19};
            const Inputs calm(c);
            Inputs wild(c);
            for (int64_t row = 0; row < 5; row += 2)
                for (int64_t j = 0; j < c.input; j++)
                    wild.x[(row * c.steps + 1) * c.input + j] = extremes[row + j % 2];
            at_every_level([&] {
                Outputs a(calm), b(wild);
                for (const Inputs *in : {&calm, static_cast<const Inputs *>(&wild)}) {
                    unrolled_run run = in->run();
                    run.precision = precision;
                    run.y = (in == &calm ? a : b).y.data();
                    CHECK(!unrolled_forward(&run), "refused");
                }
                const int64_t row = c.steps * c.hidden;
                for (int64_t i = 0; i < a.y.size(); i++) {
                    if (i / row % 2)
                        CHECK(bits(a.y[i]) == bits(b.y[i]), "another row's bits changed");
                    // the first row is finite and huge: its bounded outputs are numbers
                    if (i / row == 0 && cell != UNROLLED_RNN_RELU)
                        CHECK(std::fabs(b.y[i]) <= 1.0f, "a huge input: expected |y| <= 1");
                    if (i / row == 4 && i % row >= c.hidden)
                        CHECK(std::isnan(b.y[i]), "NaN was read and did not reach y");
                }
            });
        }
}

/* Few rows and large weights: threads share the columns of a step and meet after it. */
TEST(layers, few_rows_on_several_threads) {
    const std::vector<int64_t> hidden[] = {{320, 331}, {320, 331}, {192, 187}, {160, 163, 331}};
    uint64_t seed = 5000;
    for (const int32_t cell : CELLS)
        for (const int64_t size : hidden[cell])
            for (const int64_t rows : {1, 2, 7})
                for (const int32_t precision : {UNROLLED_FP32, UNROLLED_BF16}) {
                    Case c = draw(cell, 4, rows, size % 2 ? 37 : 3, size, seed);
                    // every choice comes with every other one, whatever was drawn
                    c.ragged = (seed & 2) != 0;
                    c.reverse = (seed & 4) != 0;
                    c.mask = (seed++ & 8) != 0;
                    const bool narrowed = precision == UNROLLED_BF16;
                    check_case(c, precision, narrowed ? 2e-3 : 6e-8, {2, 3, 4});
                }
}

/* More steps than are projected at once, and rows that come and go in the middle of them. */
TEST(layers, few_rows_of_many_steps_on_several_threads) {
    for (const int32_t cell : {UNROLLED_GRU, UNROLLED_LSTM})
        for (const bool reverse : {false, true})
            for (const int32_t precision : {UNROLLED_FP32, UNROLLED_BF16}) {
                Case c{cell, 130, 5, 6, 187};
                c.layout = PADDED;
                c.ragged = c.mask = true;
                c.reverse = reverse;
                const std::string outside = context;
                context = outside + " " + describe(c);
                const Inputs in(c);
                Outputs one(in);
                CHECK(!read(in, one, precision, 1), "refused");
                for (const int32_t threads : {2, 3}) {
                    Outputs several(in);
                    CHECK(!read(in, several, precision, threads), "refused");
                    check_same(one, several, std::to_string(threads) + " threads");
                }
                context = outside;
            }
}

/* Rows of no step at all may be the whole share of a thread, and weights too large to stay near. */
TEST(layers, a_slice_without_steps) {
    for (const int64_t rows : {2, 8})
        for (const int64_t reading : {0, 1})
            for (const bool reverse : {false, true}) {
                Case c{UNROLLED_LSTM, 2, rows, 512, 256};
                c.reverse = reverse;
                const std::string outside = context;
                context = outside + " " + describe(c) + " active " + std::to_string(reading);
                Inputs in(c);
                in.active = {reading, reading};
                in.count = 2 * reading;
                const Plain right = plain(in.run(), in.x_rows);
                for (int64_t i = in.count * c.input; i < in.x.size(); i++) in.x[i] = NAN;
                at_every_level([&] {
                    Outputs one(in), two(in), int8(in), int8_two(in);
                    CHECK(!read(in, one, UNROLLED_FP32, 1), "refused");
                    check_run(in, one, right, tolerance_of(c, 6e-8));
                    CHECK(!read(in, two, UNROLLED_FP32, 2), "refused");
                    check_same(one, two, "two threads");
                    CHECK(!read_int8(in.run(), int8, 1), "int8: refused");
                    NEAR("int8 y", int8.y, right.y, tolerance_of(c, 4e-3));
                    CHECK(!read_int8(in.run(), int8_two, 2), "int8: refused");
                    check_same(int8, int8_two, "int8 on two threads");
                });
                context = outside;
            }
}

/* A sum over 300,000 steps keeps its digits: one chain of roundings would be off by about 2e-5. */
TEST(layers, gradients_over_very_many_steps) {
    Case c{UNROLLED_RNN_RELU, 3000, 100, 2, 3};
    c.h0 = c.d_h_final = false;
    Inputs in(c);
    // every unit is open and no step leads to the next, so that gradients are sums of d_y
    for (Array *numbers : {&in.x, &in.w_ih, &in.b_ih, &in.b_hh, &in.d_y})
        for (int64_t i = 0; i < numbers->size(); i++)
            (*numbers)[i] = std::fabs((*numbers)[i]) * 1.1f + 0.1f;
    for (int64_t i = 0; i < in.w_hh.size(); i++) in.w_hh[i] = 0;
    Doubles bias(c.hidden), weights(c.hidden * c.input);
    for (int64_t row = 0; row < in.x_rows; row++)
        for (int64_t j = 0; j < c.hidden; j++) {
            const double gradient = in.d_y[row * c.hidden + j];
            bias[j] += gradient;
            for (int64_t k = 0; k < c.input; k++)
                weights[j * c.input + k] += gradient * in.x[row * c.input + k];
        }
    at_every_level([&] {
        for (const int32_t precision : {UNROLLED_FP32, UNROLLED_BF16}) {
            Outputs one(in), three(in);
            CHECK(!read(in, one, precision, 1), "refused");
            NEAR("d_b_ih", one.d_b_ih, bias, 2e-6);
            NEAR("d_b_hh", one.d_b_hh, bias, 2e-6);
            NEAR("d_w_ih", one.d_w_ih, weights, precision == UNROLLED_FP32 ? 2e-6 : 4e-3);
            CHECK(!read(in, three, precision, 3), "refused");
            check_same(one, three, "three threads");
        }
    });
}

/* Sums of 65536 numbers fit into 32 bits with all of them at their largest; one more is refused. */
TEST(layers, int8_sums_are_bounded) {
    Case c{UNROLLED_RNN_RELU, 1, 1, 65536, 2};
    c.bias_ih = c.bias_hh = c.h0 = false;
    Inputs in(c);
    for (int64_t i = 0; i < in.x.size(); i++) in.x[i] = 1;
    for (int64_t i = 0; i < in.w_ih.size(); i++) in.w_ih[i] = 1;
    at_every_level([&] {
        Outputs out(in), none(in);
        CHECK(!read_int8(in.run(), out, 1), "an input of 65536 was refused");
        NEAR("y", out.y, Doubles({65536, 65536}), 1e-5);
        unrolled_run run = in.run();
        run.input = 65537;
        CHECK(read_int8(run, none, 1), "an input of 65537 was taken");
        run = in.run();
        run.hidden = 65537;
        CHECK(read_int8(run, none, 1), "a hidden size of 65537 was taken");
        CHECK(poisoned(none.y[0]), "a refused call wrote");
    });
}
