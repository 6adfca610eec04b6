/* The best log probabilities of rows against plain loops. */
#include <algorithm>
#include <limits>
#include <numeric>

#include "check.h"

namespace {

constexpr float INF = std::numeric_limits<float>::infinity();

struct Chosen {
    Array values;
    std::vector<int64_t> ids;
};

Chosen choose(const Array &logits, int64_t rows, int64_t n, int64_t ld, int64_t k, int32_t threads) {
    Chosen c{Array(rows * k), std::vector<int64_t>(static_cast<size_t>(rows * k + 2), -7)};
    const char *message = unrolled_top_log_probabilities(threads, rows, n, logits.data(), ld, k,
                                                         c.values.data(), c.ids.data() + 1);
    CHECK(!message, std::string(message ? message : ""));
    CHECK(c.ids.front() == -7 && c.ids.back() == -7, "an id beside the array was written");
    return c;
}

/* The best k of a row by a stable sort, and what is to be taken from each logit. */
void check_row(const float *row, int64_t n, int64_t k, const float *values, const int64_t *ids) {
    std::vector<int64_t> order(static_cast<size_t>(n));
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return row[a] > row[b]; });
    double sum = 0;
    const double most = row[order[0]];
    for (int64_t i = 0; i < n; i++) sum += std::exp(row[i] - most);
    for (int64_t i = 0; i < k; i++) {
        const int64_t id = order[static_cast<size_t>(i)];
        const double right = row[id] - most - std::log(sum);
        CHECK(ids[i] == id, "index " + std::to_string(i) + ": expected id " + std::to_string(id) +
                                ", got " + std::to_string(ids[i]));
        // a rounding for each of the sum's numbers in a lane, and of what is subtracted
        const double allowed = 1e-6 * (4 + std::fabs(right));
        CHECK(std::isinf(right) ? values[i] == right : std::fabs(values[i] - right) <= allowed,
              "value " + std::to_string(i) + ": expected " + std::to_string(right) + ", got " +
                  std::to_string(values[i]));
    }
}

}  // namespace

TEST(top, equals_sorting) {
    for (const auto &[n, k] : {std::pair<int64_t, int64_t>{1, 1}, {2, 2}, {3, 1}, {7, 7}, {16, 5},
                               {17, 17}, {63, 10}, {64, 64}, {65, 64}, {1000, 10}, {9001, 10}}) {
        for (const int64_t gap : {0, 5}) {
            Random random(static_cast<uint64_t>(n * 100 + k));
            const int64_t rows = 9, ld = n + gap;
            Array logits(rows * ld);  // the gaps stay NaN
            for (int64_t r = 0; r < rows; r++)
                for (int64_t i = 0; i < n; i++)
                    // rows of few different numbers are full of ties
                    logits[r * ld + i] = r % 3 == 2 ? static_cast<float>(random.below(4))
                                                    : random.number(r % 3 == 1 ? 90.0f : 8.0f);
            context = "n " + std::to_string(n) + " k " + std::to_string(k);
            at_every_level([&] {
                const Chosen one = choose(logits, rows, n, ld, k, 1);
                for (int64_t r = 0; r < rows; r++)
                    check_row(logits.data() + r * ld, n, k, one.values.data() + r * k,
                              one.ids.data() + 1 + r * k);
                CHECK(one.values.guards_hold(), "a number beside values was written");
                const Chosen three = choose(logits, rows, n, ld, k, 3);
                CHECK(same(one.values, three.values) && one.ids == three.ids,
                      "three threads: another answer");
            });
        }
    }
}

TEST(top, numbers_that_rise_and_fall) {
    const int64_t n = 777, k = 33;
    Array logits(2 * n);
    for (int64_t i = 0; i < n; i++) {
        logits[i] = static_cast<float>(i) / 64;
        logits[n + i] = -static_cast<float>(i) / 64;
    }
    at_every_level([&] {
        const Chosen got = choose(logits, 2, n, n, k, 1);
        for (int64_t r = 0; r < 2; r++)
            check_row(logits.data() + r * n, n, k, got.values.data() + r * k,
                      got.ids.data() + 1 + r * k);
    });
}

TEST(top, numbers_that_cannot_be_chosen) {
    const int64_t n = 83, k = 6;
    Array logits(n);
    for (const int64_t only : {0, 4, 40, 82}) {  // fewer that can be chosen than are asked for
        for (int64_t i = 0; i < n; i++) logits[i] = -INF;
        logits[only] = 3;
        at_every_level([&] {
            const Chosen got = choose(logits, 1, n, n, k, 1);
            CHECK(got.values[0] == 0 && got.ids[1] == only, "the only one is not the best");
            for (int64_t i = 1; i < k; i++) {
                CHECK(got.values[i] == -INF, "expected -inf");
                CHECK(got.ids[static_cast<size_t>(i + 1)] == i - (i <= only), "not the lowest ids");
            }
        });
    }
}

/* A row without probabilities says so, wherever what spoils it stands, and no other row does. */
TEST(top, rows_without_probabilities) {
    const int64_t n = 150, k = 4;
    for (const float bad : {NAN, INF})
        for (const int64_t index : {0, 3, 4, 64, 127, 128, 149}) {
            Random random(5);
            Array logits(3 * n, random, 2);
            logits[n + index] = bad;
            at_every_level([&] {
                const Chosen got = choose(logits, 3, n, n, k, 1);
                for (int64_t r : {0, 2})
                    check_row(logits.data() + r * n, n, k, got.values.data() + r * k,
                              got.ids.data() + 1 + r * k);
                for (int64_t i = 0; i < k; i++)
                    CHECK(std::isnan(got.values[k + i]) &&
                              got.ids[static_cast<size_t>(1 + k + i)] == i,
                          "expected NaN and the first ids");
            });
        }
    Array none(n);
    for (int64_t i = 0; i < n; i++) none[i] = -INF;
    at_every_level([&] {
        const Chosen got = choose(none, 1, n, n, k, 1);
        CHECK(std::isnan(got.values[0]) && got.ids[1] == 0, "all -inf: expected NaN");
    });
}

TEST(top, what_does_not_fit_is_refused) {
    Array logits(10), values(10);
    int64_t ids[10];
    const auto call = [&](int64_t rows, int64_t n, int64_t ld, int64_t k, const float *from) {
        return unrolled_top_log_probabilities(1, rows, n, from, ld, k, values.data(), ids);
    };
    CHECK(call(-1, 5, 5, 1, logits.data()), "rows -1");
    CHECK(call(1, 5, 5, 0, logits.data()), "k 0");
    CHECK(call(1, 5, 5, 6, logits.data()), "k above the vocabulary");
    CHECK(call(1, 100, 100, 65, logits.data()), "k 65");
    CHECK(call(2, 5, 4, 1, logits.data()), "rows that overlap");
    CHECK(call(1, 5, 5, 1, nullptr), "no logits");
    CHECK(poisoned(values[0]), "something was written");
    CHECK(!call(0, 5, 5, 1, nullptr), "no rows: refused");
}
