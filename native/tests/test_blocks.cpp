/* Products with weights in blocks of 32 with a scale each, against the same blocks in double. */
#include <cstring>

#include "check.h"

namespace {

constexpr int64_t BLOCK = 32;

struct Sizes {
    int64_t rows, columns, k;
};

const Sizes ALL[] = {{1, 1, 1},    {1, 33, 64},  {2, 3, 5},   {3, 40, 31},  {4, 16, 32},   {5, 17, 33},
                     {7, 50, 96},  {13, 48, 63}, {1, 96, 65}, {33, 20, 100}, {12, 130, 288}, {6, 7, 1000}};

/* fp16 of a number: to nearest, ties to even. */
double to_half(double number) {
    int exponent = 0;
    std::frexp(number, &exponent);
    const double step = std::ldexp(1.0, std::max(exponent, -13) - 11);
    return std::nearbyint(number / step) * step;
}

double at(const Array &numbers, int64_t i, int64_t k, int64_t j) { return j < k ? numbers[i * k + j] : 0.0; }

/* A weight of a block as GGUF's writers round it. */
struct WeightBlock {
    double scale;
    double number[BLOCK];
};

WeightBlock weight_block(const Array &w, int64_t column, int64_t k, int64_t first, bool eight) {
    float most = 0;
    for (int64_t i = 0; i < BLOCK; i++) {
        const float v = static_cast<float>(at(w, column, k, first + i));
        if (std::fabs(v) > std::fabs(most)) most = v;
    }
    const float scale = eight ? std::fabs(most) / 127 : most / -8;
    const float inverse = scale != 0 ? 1 / scale : 0;
    WeightBlock made = {};
    made.scale = to_half(scale);
    for (int64_t i = 0; i < BLOCK; i++) {
        const float v = static_cast<float>(at(w, column, k, first + i)) * inverse;
        made.number[i] = eight ? std::round(v) : std::fmin(15, std::floor(v + 8.5f)) - 8;
    }
    return made;
}

/* The products of all rows with all columns, by blocks. */
Array right_of(const Array &a, const Array &w, const Sizes &s, bool eight, Array &sizes) {
    Array right(s.rows * s.columns);
    for (int64_t i = 0; i < s.rows; i++)
        for (int64_t j = 0; j < s.columns; j++) {
            double sum = 0, size = 0;
            for (int64_t first = 0; first < s.k; first += BLOCK) {
                const WeightBlock block = weight_block(w, j, s.k, first, eight);
                float most = 0;
                for (int64_t q = 0; q < BLOCK; q++)
                    most = std::fmax(most, std::fabs(static_cast<float>(at(a, i, s.k, first + q))));
                const float scale = most / 127, inverse = most > 0 ? 127 / most : 0;
                double whole = 0;
                for (int64_t q = 0; q < BLOCK; q++)
                    whole += block.number[q] *
                             std::round(static_cast<float>(at(a, i, s.k, first + q)) * inverse);
                sum += whole * block.scale * scale;
                size += std::fabs(whole * block.scale * scale);
            }
            right[i * s.columns + j] = static_cast<float>(sum);
            sizes[i * s.columns + j] = static_cast<float>(size);
        }
    return right;
}

const char *multiply(int32_t precision, int32_t threads, const Sizes &s, const float *a, const Array &w,
                     Array &to) {
    return unrolled_matmul(precision, threads, s.rows, s.columns, s.k, a, s.k, 0, w.data(), s.k, 1,
                           nullptr, to.data(), s.columns, 0);
}

void check_sizes(const Sizes &s, int32_t precision, uint64_t seed) {
    Random random(seed);
    const Array a(s.rows * s.k, random, 2), w(s.columns * s.k, random, 0.3f);
    Array sizes(s.rows * s.columns);
    const Array right = right_of(a, w, s, precision == UNROLLED_Q8_0, sizes);
    at_every_level([&] {
        Array got(right.size()), several(right.size());
        CHECK(!multiply(precision, 1, s, a.data(), w, got), "refused");
        CHECK(!multiply(precision, 3, s, a.data(), w, several), "three threads: refused");
        CHECK(same(got, several), "three threads: other bits");
        CHECK(got.guards_hold(), "a number beside c was written");
        int64_t wrong = 0;
        // a rounding for each block's scales and sum
        for (int64_t i = 0; i < got.size(); i++)
            wrong += !(std::fabs(got[i] - right[i]) <= 1e-6f * (sizes[i] + 1e-3f) * (1 + static_cast<float>(s.k) / BLOCK));
        CHECK(wrong == 0, std::to_string(wrong) + " of " + std::to_string(got.size()) + " are wrong");
        for (int64_t i = 0; i < s.rows; i += 3) {
            const Sizes alone = {1, s.columns, s.k};
            Array row(s.columns);
            CHECK(!multiply(precision, 1, alone, a.data() + i * s.k, w, row), "one row: refused");
            CHECK(std::memcmp(row.data(), got.data() + i * s.columns,
                              static_cast<size_t>(s.columns) * sizeof(float)) == 0,
                  "one row alone: other bits");
        }
    });
}

}  // namespace

TEST(blocks, of_eight_bits) {
    uint64_t seed = 1;
    for (const Sizes &s : ALL) check_sizes(s, UNROLLED_Q8_0, seed++);
}

TEST(blocks, of_four_bits) {
    uint64_t seed = 100;
    for (const Sizes &s : ALL) check_sizes(s, UNROLLED_Q4_0, seed++);
}

/* What was read from blocks becomes the same blocks again: no rounding is added. */
TEST(blocks, are_found_again) {
    const Sizes s = {1, 19, 160};
    /* the number of the largest: a writer that weighs its errors does not always take the extreme */
    for (const int64_t most : {-127, 127, 100, 77, -8, 7, -7, 5}) {
        const bool eight = most < -8 || most > 7;
        const int64_t others = std::abs(most) - 1;
        Random random(7);
        Array w(s.columns * s.k);
        for (int64_t first = 0; first < w.size(); first += BLOCK) {
            // powers of two down to the smallest that fp16 has
            const double scale = to_half((0.3 + random.number(0.2f)) * std::ldexp(1.0, -(first / BLOCK % 22)));
            const int64_t top = random.below(BLOCK);
            for (int64_t i = 0; i < BLOCK; i++) {
                const int64_t number = i == top ? most : random.below(2 * others + 1) - others;
                w[first + i] = static_cast<float>(scale * static_cast<double>(number));
            }
        }
        // a row of one number each shows the weights themselves
        for (int64_t q = 0; q < s.k; q += 7) {
            Array one(s.k);
            for (int64_t i = 0; i < s.k; i++) one[i] = i == q ? 127.0f : 0.0f;
            at_every_level([&] {
                Array got(s.columns);
                CHECK(!multiply(eight ? UNROLLED_Q8_0 : UNROLLED_Q4_0, 1, s, one.data(), w, got), "refused");
                for (int64_t j = 0; j < s.columns; j++) {
                    const float right = 127.0f * w[j * s.k + q];
                    CHECK(std::fabs(got[j] - right) <= 1e-6f * std::fabs(right),
                          "expected " + std::to_string(right) + ", got " + std::to_string(got[j]));
                }
            });
        }
    }
}

TEST(blocks, inf_and_nan_reach_what_they_touch) {
    const Sizes s = {4, 20, 100};
    Random random(3);
    Array a(s.rows * s.k, random, 1);
    const Array w(s.columns * s.k, random, 1);
    a[1 * s.k + 40] = NAN;
    a[2 * s.k + 99] = -INFINITY;
    for (const int32_t precision : {UNROLLED_Q8_0, UNROLLED_Q4_0})
        at_every_level([&] {
            Array got(s.rows * s.columns);
            CHECK(!multiply(precision, 1, s, a.data(), w, got), "refused");
            for (int64_t i = 0; i < got.size(); i++) {
                const int64_t row = i / s.columns;
                CHECK(std::isnan(got[i]) == (row == 1 || row == 2),
                      "row " + std::to_string(row) + ": got " + std::to_string(got[i]));
            }
        });
}

TEST(blocks, what_has_no_blocks_is_refused) {
    const float number = 1;
    float to = 0;
    for (const int32_t precision : {UNROLLED_Q8_0, UNROLLED_Q4_0}) {
        CHECK(unrolled_matmul(precision, 1, 1, 1, 1, &number, 1, 1, &number, 1, 1, nullptr, &to, 1, 0),
              "a_trans was taken");
        CHECK(unrolled_matmul(precision, 1, 1, 1, 1, &number, 1, 0, &number, 1, 0, nullptr, &to, 1, 0),
              "without b_trans was taken");
        CHECK(unrolled_matmul(precision, 1, 1, 1, 1, &number, 1, 0, &number, 1, 1, nullptr, &to, 1, 1),
              "accumulate was taken");
        CHECK(!unrolled_stream_new(1, precision), "a stream was made");
        CHECK(unrolled_peak(precision, 1, 0.001) == 0, "a peak was measured");
    }
}
