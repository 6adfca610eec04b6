/* Streaming: the same bits as reading all steps at once, and no allocation. */
#include <atomic>
#include <cstdlib>
#include <memory>
#include <new>

#include "layer.h"

static std::atomic<int64_t> allocations{0};

#if !defined(__SANITIZE_ADDRESS__)  // which counts on its own operators
void *operator new(size_t size) {
    allocations++;
    if (void *room = std::malloc(size ? size : 1)) return room;
    throw std::bad_alloc();
}
void operator delete(void *room) noexcept { std::free(room); }
void operator delete(void *room, size_t) noexcept { std::free(room); }
#endif

namespace {

struct Free {
    void operator()(unrolled_stream *stream) const { unrolled_stream_free(stream); }
};
using Stream = std::unique_ptr<unrolled_stream, Free>;

const int32_t CELLS[] = {UNROLLED_RNN_TANH, UNROLLED_RNN_RELU, UNROLLED_GRU, UNROLLED_LSTM};
const int32_t PRECISIONS[] = {UNROLLED_FP32, UNROLLED_BF16, UNROLLED_INT8};

bool same_bits(const float *a, const float *b, int64_t size) {
    return size == 0 || std::memcmp(a, b, static_cast<size_t>(size) * sizeof(float)) == 0;
}

Case time_first(int32_t cell, int64_t batch, int64_t input, int64_t hidden) {
    Case c{cell, 5, batch, input, hidden};
    c.layout = TIME_FIRST;
    c.h0 = c.c0 = false;
    c.seed = static_cast<uint64_t>(batch * 31 + hidden + cell);
    return c;
}

/* Read all steps at once and return y (T, B, H). */
Array unrolled_y(const Inputs &in, int32_t precision) {
    unrolled_run run = in.run();
    run.precision = precision;
    Array y(in.x_rows * in.c.hidden);
    run.y = y.data();
    CHECK(!unrolled_forward(&run), "forward: refused");
    return y;
}

void check_layer(const Case &c, int32_t precision) {
    const std::string outside = context;
    context = outside + " " + describe(c) + " precision " + std::to_string(precision);
    const Inputs in(c);
    const int64_t states = c.rows * c.hidden;
    at_every_level([&] {
        const Array expected = unrolled_y(in, precision);
        Array h(states), cell(states), y(states);
        for (int64_t i = 0; i < states; i++) h[i] = cell[i] = 0;
        const Stream s(unrolled_stream_new(c.rows, precision));
        CHECK(!unrolled_stream_layer(s.get(), c.cell, c.input, c.hidden, h.data(),
                                     c.cell == UNROLLED_LSTM ? cell.data() : nullptr, 0),
              "layer: refused");
        CHECK(!unrolled_stream_output(s.get(), y.data()), "output: refused");
        CHECK(!unrolled_stream_load(s.get(), 0, in.w_ih.data(), in.w_hh.data(), in.b_ih.data(),
                                    in.b_hh.data()),
              "load: refused");
        for (int64_t t = 0; t < c.steps; t++) {
            const char *message =
                unrolled_stream_step(s.get(), in.x.data() + t * c.rows * c.input);
            CHECK(!message, std::string(message ? message : ""));
            CHECK(same_bits(y.data(), expected.data() + t * states, states),
                  "step " + std::to_string(t) + ": other bits than all steps at once");
            CHECK(same(y, h), "y is not h");
        }
        CHECK(y.guards_hold() && h.guards_hold() && cell.guards_hold(),
              "a number beside an array was written");
    });
    context = outside;
}

/* A chain as a language model is: a table, a layer, a layer with a residual, a linear output. */
struct Chain {
    static constexpr int64_t BATCH = 3, WORDS = 11, WIDTH = 20, STEPS = 4;
    Inputs first{time_first(UNROLLED_LSTM, BATCH, WIDTH, WIDTH)};
    Inputs second{time_first(UNROLLED_GRU, BATCH, WIDTH, WIDTH)};
    Random random{6};
    Array table{WORDS * WIDTH, random, 1}, w{WORDS * WIDTH, random, 0.3f}, b{WORDS, random, 1};
    Array h1{BATCH * WIDTH}, c1{BATCH * WIDTH}, h2{BATCH * WIDTH}, y{BATCH * WORDS};
    const int64_t ids[STEPS][BATCH] = {{0, 10, 3}, {3, 3, 3}, {10, 0, 7}, {1, 2, 9}};

    Stream make(int32_t precision) {
        for (Array *state : {&h1, &c1, &h2})
            for (int64_t i = 0; i < state->size(); i++) (*state)[i] = 0;
        Stream s(unrolled_stream_new(BATCH, precision));
        unrolled_stream *p = s.get();
        CHECK(!unrolled_stream_embedding(p, WORDS, WIDTH, table.data()), "embedding: refused");
        CHECK(!unrolled_stream_layer(p, UNROLLED_LSTM, WIDTH, WIDTH, h1.data(), c1.data(), 0) &&
                  !unrolled_stream_layer(p, UNROLLED_GRU, WIDTH, WIDTH, h2.data(), nullptr, 1) &&
                  !unrolled_stream_linear(p, WIDTH, WORDS) &&
                  !unrolled_stream_output(p, y.data()),
              "a stage: refused");
        load(p, first.w_ih.data());
        return s;
    }

    void load(unrolled_stream *p, const float *first_w_ih) {
        CHECK(!unrolled_stream_load(p, 0, first_w_ih, first.w_hh.data(), first.b_ih.data(),
                                    first.b_hh.data()) &&
                  !unrolled_stream_load(p, 1, second.w_ih.data(), second.w_hh.data(),
                                        second.b_ih.data(), second.b_hh.data()) &&
                  !unrolled_stream_load(p, 2, w.data(), nullptr, b.data(), nullptr),
              "load: refused");
    }

    /* Read one step of `in` from its own state and return y (B, H). */
    static Array step(const Inputs &in, int32_t precision, const Array &x, Array &h, Array &c) {
        unrolled_run run = in.run();
        Array y(h.size()), new_h(h.size()), new_c(h.size());
        run.steps = 1;
        run.count = run.rows;
        run.active = nullptr;
        run.precision = precision;
        run.x = x.data();
        run.h0 = h.data();
        run.c0 = run.cell == UNROLLED_LSTM ? c.data() : nullptr;
        run.y = y.data();
        run.h_final = new_h.data();
        run.c_final = run.cell == UNROLLED_LSTM ? new_c.data() : nullptr;
        CHECK(!unrolled_forward(&run), "forward: refused");
        std::swap(h, new_h);
        std::swap(c, new_c);
        return y;
    }

    /* Return the output (STEPS, B, WORDS) by one call after another. */
    Array expected(int32_t precision) {
        Array out(STEPS * BATCH * WORDS), h(BATCH * WIDTH), c(BATCH * WIDTH), g(BATCH * WIDTH), no;
        for (int64_t i = 0; i < h.size(); i++) h[i] = c[i] = g[i] = 0;
        for (int64_t t = 0; t < STEPS; t++) {
            Array x(BATCH * WIDTH);
            for (int64_t i = 0; i < x.size(); i++)
                x[i] = table[ids[t][i / WIDTH] * WIDTH + i % WIDTH];
            const Array low = step(first, precision, x, h, c);
            Array high = step(second, precision, low, g, no);
            for (int64_t i = 0; i < high.size(); i++) high[i] += low[i];
            CHECK(!unrolled_matmul(precision, 1, BATCH, WORDS, WIDTH, high.data(), WIDTH, 0,
                                   w.data(), WIDTH, 1, b.data(), out.data() + t * BATCH * WORDS,
                                   WORDS, 0),
                  "matmul: refused");
        }
        return out;
    }
};

}  // namespace

TEST(stream, layers_have_the_bits_of_all_steps_at_once) {
    for (const int32_t cell : CELLS)
        for (const int32_t precision : PRECISIONS)
            for (const int64_t batch : {1, 3, 9})
                for (const int64_t hidden : {1, 16, 33, 100})
                    check_layer(time_first(cell, batch, hidden == 33 ? 7 : hidden, hidden),
                                precision);
}

TEST(stream, a_wide_layer) {
    for (const int32_t precision : PRECISIONS)
        for (const int32_t cell : {UNROLLED_GRU, UNROLLED_LSTM})
            check_layer(time_first(cell, 1, 96, 400), precision);
}

TEST(stream, a_chain_is_its_stages_one_after_another) {
    for (const int32_t precision : PRECISIONS)
        at_every_level([&] {
            Chain chain;
            const Array expected = chain.expected(precision);
            const Stream s = chain.make(precision);
            for (int64_t t = 0; t < Chain::STEPS; t++) {
                CHECK(!unrolled_stream_step(s.get(), chain.ids[t]), "step: refused");
                CHECK(same_bits(chain.y.data(), expected.data() + t * chain.y.size(),
                                chain.y.size()),
                      "precision " + std::to_string(precision) + " step " + std::to_string(t) +
                          ": other bits than its stages");
            }
            CHECK(chain.y.guards_hold() && chain.h1.guards_hold() && chain.c1.guards_hold() &&
                      chain.h2.guards_hold(),
                  "a number beside an array was written");
        });
}

TEST(stream, a_step_allocates_nothing) {
    at_every_level([&] {
        Chain chain;
        const Stream s = chain.make(UNROLLED_FP32);
        CHECK(!unrolled_stream_step(s.get(), chain.ids[0]), "step: refused");
        const int64_t before = allocations;
        const char *message = unrolled_stream_step(s.get(), chain.ids[1]);
        const int64_t after = allocations;
        CHECK(!message && after == before, "a step allocated");
    });
}

TEST(stream, weights_follow_when_loaded_again) {
    Chain chain, other;
    const Stream s = chain.make(UNROLLED_FP32);
    CHECK(!unrolled_stream_step(s.get(), chain.ids[0]), "step: refused");
    const Array before(std::move(chain.y));
    chain.y = Array(before.size());
    CHECK(!unrolled_stream_output(s.get(), chain.y.data()), "output: refused");
    for (int64_t i = 0; i < other.first.w_ih.size(); i++) other.first.w_ih[i] *= -0.5f;
    chain.load(s.get(), other.first.w_ih.data());
    for (Array *state : {&chain.h1, &chain.c1, &chain.h2})
        for (int64_t i = 0; i < state->size(); i++) (*state)[i] = 0;
    CHECK(!unrolled_stream_step(s.get(), chain.ids[0]), "step: refused");
    CHECK(!same(before, chain.y), "new weights were loaded and the old ones ran");
}

TEST(stream, bytes_are_those_of_the_weights) {
    Chain chain;
    const int64_t weights = (4 + 3) * 2 * Chain::WIDTH * Chain::WIDTH + Chain::WORDS * Chain::WIDTH;
    at_every_level([&] {
        const int64_t fp32 = unrolled_stream_bytes(chain.make(UNROLLED_FP32).get());
        const int64_t int8 = unrolled_stream_bytes(chain.make(UNROLLED_INT8).get());
        // panels are filled up with zeros to whole vectors, and biases are not weights
        CHECK(fp32 >= 4 * weights && fp32 <= 12 * weights, "fp32: " + std::to_string(fp32));
        CHECK(int8 < fp32, "int8 reads as much as fp32: " + std::to_string(int8));
    });
}

/* Only the last stage writes to the caller: a stage that was the last one before does no more. */
TEST(stream, an_earlier_stage_leaves_the_callers_buffer) {
    const Inputs in(time_first(UNROLLED_GRU, 3, 20, 20));
    Random random(8);
    const Array w(7 * 20, random, 1), b(7, random, 1);
    for (const int32_t precision : PRECISIONS)
        at_every_level([&] {
            Array h(3 * 20), old(3 * 20), y(3 * 7), right(3 * 7);
            for (int64_t i = 0; i < h.size(); i++) h[i] = 0;
            const Stream s(unrolled_stream_new(3, precision));
            unrolled_stream *p = s.get();
            CHECK(!unrolled_stream_layer(p, UNROLLED_GRU, 20, 20, h.data(), nullptr, 0) &&
                      !unrolled_stream_output(p, old.data()) && !unrolled_stream_linear(p, 20, 7) &&
                      !unrolled_stream_load(p, 0, in.w_ih.data(), in.w_hh.data(), in.b_ih.data(),
                                            in.b_hh.data()) &&
                      !unrolled_stream_load(p, 1, w.data(), nullptr, b.data(), nullptr),
                  "a stage: refused");
            CHECK(!unrolled_stream_step(p, in.x.data()), "a step to nobody: refused");
            CHECK(!unrolled_stream_output(p, y.data()), "output: refused");
            CHECK(!unrolled_stream_step(p, in.x.data() + 3 * 20), "step: refused");
            for (int64_t i = 0; i < old.size(); i++)
                CHECK(poisoned(old[i]), "an earlier stage wrote into the caller's buffer");
            CHECK(!unrolled_matmul(precision, 1, 3, 7, 20, h.data(), 20, 0, w.data(), 20, 1,
                                   b.data(), right.data(), 7, 0),
                  "matmul: refused");
            CHECK(same(y, right), "the last stage is not the product of the state before it");
        });
}

/* A residual reads each number of x before it writes there. */
TEST(stream, a_residual_may_write_over_its_input) {
    for (const int32_t cell : CELLS)
        for (const int32_t precision : PRECISIONS)
            for (const int64_t batch : {1, 9})
                for (const int64_t hidden : {33, 100}) {
                    const Inputs in(time_first(cell, batch, hidden, hidden));
                    const int64_t states = batch * hidden;
                    at_every_level([&] {
                        const Array expected = unrolled_y(in, precision);
                        Array h(states), c(states), x(states);
                        for (int64_t i = 0; i < states; i++) h[i] = c[i] = 0;
                        const Stream s(unrolled_stream_new(batch, precision));
                        CHECK(!unrolled_stream_layer(s.get(), cell, hidden, hidden, h.data(),
                                                     c.data(), 1) &&
                                  !unrolled_stream_load(s.get(), 0, in.w_ih.data(), in.w_hh.data(),
                                                        in.b_ih.data(), in.b_hh.data()) &&
                                  !unrolled_stream_output(s.get(), x.data()),
                              "layer: refused");
                        for (int64_t at = 0; at < in.x.size(); at += states) {
                            for (int64_t i = 0; i < states; i++) x[i] = in.x[at + i];
                            CHECK(!unrolled_stream_step(s.get(), x.data()), "step: refused");
                            int64_t wrong = 0;
                            for (int64_t i = 0; i < states; i++)
                                wrong += x[i] != expected[at + i] + in.x[at + i];
                            CHECK(wrong == 0, describe(in.c) + ": h + x is wrong");
                        }
                    });
                }
}

/* One number more would not fit into an int8 sum; the other precisions take it. */
TEST(stream, int8_sums_are_bounded) {
    Array h(1), y(1), x(65536), w(65536);
    for (int64_t i = 0; i < x.size(); i++) x[i] = w[i] = 1;
    h[0] = 0;
    const float none = 0;
    at_every_level([&] {
        const Stream layer(unrolled_stream_new(1, UNROLLED_INT8));
        const Stream linear(unrolled_stream_new(1, UNROLLED_INT8));
        const auto add_layer = [&](int64_t input, int64_t hidden) {
            return unrolled_stream_layer(layer.get(), UNROLLED_RNN_RELU, input, hidden, h.data(),
                                         nullptr, 0);
        };
        CHECK(add_layer(65537, 1), "a layer with an input of 65537 was taken");
        CHECK(add_layer(1, 65537), "a layer of 65537 units was taken");
        CHECK(unrolled_stream_linear(linear.get(), 65537, 1), "a linear stage of 65537 was taken");
        CHECK(!add_layer(65536, 1) && !unrolled_stream_linear(linear.get(), 65536, 1),
              "65536 numbers were refused");
        CHECK(!unrolled_stream_load(layer.get(), 0, w.data(), &none, nullptr, nullptr) &&
                  !unrolled_stream_load(linear.get(), 0, w.data(), nullptr, nullptr, nullptr),
              "load: refused");
        for (const Stream *s : {&layer, &linear}) {
            CHECK(!unrolled_stream_output(s->get(), y.data()) &&
                      !unrolled_stream_step(s->get(), x.data()),
                  "step: refused");
            CHECK(std::fabs(y[0] - 65536.0f) <= 0.7f, "65536 ones: got " + std::to_string(y[0]));
        }
        const Stream wide(unrolled_stream_new(1, UNROLLED_BF16));
        CHECK(!unrolled_stream_linear(wide.get(), 65537, 1), "bf16: 65537 numbers were refused");
    });
}

TEST(stream, what_cannot_be_is_refused) {
    Chain chain;
    Array h(6), y(6);
    CHECK(!Stream(unrolled_stream_new(-1, UNROLLED_FP32)), "a batch of -1 was taken");
    CHECK(!Stream(unrolled_stream_new(1, 9)), "an unknown precision was taken");
    const Stream s(unrolled_stream_new(2, UNROLLED_FP32));
    CHECK(unrolled_stream_layer(s.get(), 9, 3, 3, h.data(), nullptr, 0), "an unknown cell");
    CHECK(unrolled_stream_layer(s.get(), UNROLLED_LSTM, 3, 3, h.data(), nullptr, 0),
          "an lstm without c was taken");
    CHECK(!unrolled_stream_layer(s.get(), UNROLLED_GRU, 3, 3, h.data(), nullptr, 0), "refused");
    CHECK(unrolled_stream_embedding(s.get(), 5, 3, chain.table.data()), "a table as second stage");
    CHECK(unrolled_stream_linear(s.get(), 4, 2), "a stage of another width was taken");
    CHECK(unrolled_stream_layer(s.get(), UNROLLED_GRU, 4, 3, h.data(), nullptr, 0),
          "a layer of another width was taken");
    CHECK(!unrolled_stream_output(s.get(), y.data()), "refused");
    const float x[6] = {};
    CHECK(unrolled_stream_step(s.get(), x), "a step without weights was taken");
    CHECK(unrolled_stream_load(s.get(), 1, x, x, nullptr, nullptr), "stage 1 of one was loaded");
    CHECK(unrolled_stream_load(s.get(), -1, x, x, nullptr, nullptr), "stage -1 was loaded");

    const Stream whole = chain.make(UNROLLED_FP32);
    for (const int64_t wrong : {int64_t{-1}, Chain::WORDS, INT64_MAX}) {
        const int64_t ids[3] = {0, wrong, 1};
        chain.y.spoil();
        CHECK(unrolled_stream_step(whole.get(), ids), "an id outside the table was taken");
        CHECK(poisoned(chain.y[0]) && chain.h1[0] == 0, "a refused step wrote");
    }
}
