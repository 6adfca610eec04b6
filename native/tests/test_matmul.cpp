/* Matrix products against plain loops. */
#include <array>

#include "check.h"

namespace {

struct Product {
    int64_t m, n, k;
    bool a_trans, b_trans, bias, accumulate;
    int64_t gap;  // numbers between stored rows that belong to nobody
};

struct Operands {
    Product p;
    int64_t lda, ldb, ldc;
    Array a, b, bias, c;

    explicit Operands(const Product &p, uint64_t seed) : p(p) {
        Random random(seed);
        lda = (p.a_trans ? p.m : p.k) + p.gap;
        ldb = (p.b_trans ? p.k : p.n) + p.gap;
        ldc = p.n + p.gap;
        a = stored(p.a_trans ? p.k : p.m, p.a_trans ? p.m : p.k, lda, random);
        b = stored(p.b_trans ? p.n : p.k, p.b_trans ? p.k : p.n, ldb, random);
        bias = p.bias ? Array(p.n, random, 1) : Array();
        c = p.accumulate ? stored(p.m, p.n, ldc, random) : Array(p.m * ldc);
    }

    static Array stored(int64_t rows, int64_t width, int64_t stride, Random &random) {
        Array numbers(rows * stride);  // the gaps stay NaN
        for (int64_t i = 0; i < rows; i++)
            for (int64_t j = 0; j < width; j++) numbers[i * stride + j] = random.number(1);
        return numbers;
    }

    const char *multiply(int32_t precision, int32_t threads, Array &to, int64_t rows) const {
        return unrolled_matmul(precision, threads, rows, p.n, p.k, a.data(), lda, p.a_trans,
                               b.data(), ldb, p.b_trans, bias.data(), to.data(), ldc, p.accumulate);
    }

    float left(int64_t i, int64_t k) const { return p.a_trans ? a[k * lda + i] : a[i * lda + k]; }
    float right(int64_t k, int64_t j) const { return p.b_trans ? b[j * ldb + k] : b[k * ldb + j]; }
};

std::string describe(const Product &p) {
    return "m " + std::to_string(p.m) + " n " + std::to_string(p.n) + " k " + std::to_string(p.k) +
           (p.a_trans ? " a_trans" : "") + (p.b_trans ? " b_trans" : "") + (p.bias ? " bias" : "") +
           (p.accumulate ? " accumulate" : "") + " gap " + std::to_string(p.gap);
}

/* Return another array of the same bits. */
Array copy_of(const Array &other) {
    Array copy(other.size());
    for (int64_t i = 0; i < other.size(); i++) copy[i] = other[i];
    return copy;
}

/* Round to bf16, to nearest and ties to even. */
float narrow(float number) {
    uint32_t pattern = bits(number);
    pattern = (pattern + 0x7fff + (pattern >> 16 & 1)) & 0xffff0000u;
    std::memcpy(&number, &pattern, sizeof number);
    return number;
}

/* How far an element may be off: a rounding for each of its k sums; with int8 its operands' too. */
double allowed(const Operands &o, int32_t precision, int64_t i, int64_t j) {
    double sizes = 0, largest_a = 0, largest_b = 0, sum_a = 0, sum_b = 0;
    for (int64_t k = 0; k < o.p.k; k++) {
        const double a = std::fabs(o.left(i, k)), b = std::fabs(o.right(k, j));
        sizes += a * b;
        sum_a += a;
        sum_b += b;
        largest_a = std::fmax(largest_a, a);
        largest_b = std::fmax(largest_b, b);
    }
    const double sums = 1.2e-7 * (static_cast<double>(o.p.k) + 2) * (sizes + 2);
    if (precision != UNROLLED_INT8) return sums;
    // weights lose half a step of largest / 127, activations a step where they have a zero point
    const double a = largest_a / 127, b = largest_b / 127 / 2;
    return sums + sum_a * b + sum_b * a + static_cast<double>(o.p.k) * a * b;
}

void check_values(const Operands &o, const Array &got, int32_t precision) {
    CHECK(got.guards_hold(), "a number beside c was written");
    int64_t wrong = 0;
    for (int64_t i = 0; i < o.p.m; i++) {
        for (int64_t j = 0; j < o.p.n; j++) {
            double right = o.p.bias ? o.bias[j] : 0.0;
            if (o.p.accumulate) right += o.c[i * o.ldc + j];
            for (int64_t k = 0; k < o.p.k; k++) {
                const float a = o.left(i, k), b = o.right(k, j);
                const bool narrowed = precision == UNROLLED_BF16;
                right += static_cast<double>(narrowed ? narrow(a) : a) * (narrowed ? narrow(b) : b);
            }
            if (!(std::fabs(got[i * o.ldc + j] - right) <= allowed(o, precision, i, j))) wrong++;
        }
        for (int64_t j = o.p.n; j < o.ldc; j++) wrong += !poisoned(got[i * o.ldc + j]);
    }
    CHECK(wrong == 0, std::to_string(wrong) + " elements are wrong");
}

void check_product(const Product &p, int32_t precision, uint64_t seed) {
    const std::string outside = context;
    context = outside + " " + describe(p);
    const Operands o(p, seed);
    at_every_level([&] {
        Array one = copy_of(o.c), three = copy_of(o.c), row = copy_of(o.c);
        const char *message = o.multiply(precision, 1, one, p.m);
        if (p.a_trans && p.b_trans && p.m && p.n) {  // nobody needs it
            CHECK(message && same(one, o.c), "both transposed: expected to be refused");
            return;
        }
        CHECK(!message, std::string(message ? message : ""));
        if (message) return;
        check_values(o, one, precision);
        CHECK(!o.multiply(precision, 3, three, p.m), "three threads: refused");
        CHECK(same(one, three), "three threads: other bits");
        if (p.m == 0) return;
        CHECK(!o.multiply(precision, 1, row, 1), "one row: refused");
        CHECK(p.n == 0 || std::memcmp(one.data(), row.data(), p.n * sizeof(float)) == 0,
              "one row alone: other bits");
        CHECK(row.guards_hold(), "one row: a number beside c was written");
    });
    context = outside;
}

const int64_t SIZES[][3] = {
    {0, 3, 4}, {3, 0, 4},  {3, 4, 0},   {1, 1, 1},   {2, 3, 5},    {7, 17, 16},  {16, 16, 16},
    {5, 1, 9}, {1, 33, 8}, {13, 48, 3}, {33, 65, 31}, {9, 130, 70}, {40, 20, 700}, {3, 5, 1500},
};

}  // namespace

TEST(matmul, fp32_in_every_arrangement) {
    uint64_t seed = 1;
    for (const auto &[m, n, k] : SIZES)
        for (int32_t choice = 0; choice < 16; choice++)
            check_product({m, n, k, (choice & 1) != 0, (choice & 2) != 0, (choice & 4) != 0,
                           (choice & 8) != 0, choice % 3},
                          UNROLLED_FP32, seed++);
}

TEST(matmul, bf16_in_every_arrangement) {
    uint64_t seed = 1000;
    for (const auto &[m, n, k] : SIZES)
        for (int32_t choice = 0; choice < 16; choice++)
            check_product({m, n, k, (choice & 1) != 0, (choice & 2) != 0, (choice & 4) != 0,
                           (choice & 8) != 0, choice % 3},
                          UNROLLED_BF16, seed++);
}

TEST(matmul, int8_as_a_linear_layer) {
    uint64_t seed = 2000;
    for (const auto &[m, n, k] : SIZES)
        for (const bool bias : {false, true})
            check_product({m, n, k, false, true, bias, false, bias ? 3 : 0}, UNROLLED_INT8, seed++);
}

/* Rounding to bf16 is to nearest, ties to even: products with 1 show it. */
TEST(matmul, bf16_rounds_to_nearest_even) {
    const float one = 1.0f;
    const std::array<std::pair<float, float>, 6> pairs = {{{1.00390625f, 1.0f},
                                                           {1.01171875f, 1.015625f},
                                                           {1.005f, 1.0078125f},
                                                           {-1.00390625f, -1.0f},
                                                           {3.3e38f, 3.2964854e38f},
                                                           {0.0f, 0.0f}}};
    at_every_level([&] {
        for (const auto &[number, right] : pairs) {
            float got = 0;
            CHECK(!unrolled_matmul(UNROLLED_BF16, 1, 1, 1, 1, &number, 1, 0, &one, 1, 1, nullptr,
                                   &got, 1, 0),
                  "refused");
            CHECK(std::fabs(got - right) <= 1e-6f * std::fabs(right),
                  std::to_string(number) + ": expected " + std::to_string(right) + ", got " +
                      std::to_string(got));
        }
    });
}

TEST(matmul, what_cannot_be_is_refused) {
    const Operands o({2, 3, 4, false, true, false, false, 0}, 9);
    Array c(6);
    const auto call = [&](int32_t precision, int64_t m, int64_t n, int64_t k, int32_t a_trans,
                          int32_t b_trans, int32_t accumulate) {
        return unrolled_matmul(precision, 1, m, n, k, o.a.data(), 4, a_trans, o.b.data(), 4,
                               b_trans, nullptr, c.data(), 3, accumulate);
    };
    CHECK(call(7, 2, 3, 4, 0, 1, 0), "an unknown precision was taken");
    CHECK(call(UNROLLED_FP32, -1, 3, 4, 0, 1, 0), "a negative size was taken");
    CHECK(call(UNROLLED_INT8, 2, 3, 4, 1, 1, 0), "int8 with a_trans was taken");
    CHECK(call(UNROLLED_INT8, 2, 3, 4, 0, 0, 0), "int8 without b_trans was taken");
    CHECK(call(UNROLLED_INT8, 2, 3, 4, 0, 1, 1), "int8 with accumulate was taken");
    for (int64_t i = 0; i < 6; i++) CHECK(poisoned(c[i]), "a refused call wrote");
    CHECK(!call(UNROLLED_FP32, 2, 3, 4, 0, 1, 0), "the plain call was refused");
}

/* With all numbers at their largest, sums of 65536 still fit into 32 bits; one more is refused. */
TEST(matmul, int8_sums_are_bounded) {
    const int64_t k = 65536, m = 3, n = 17;
    Array a(m * (k + 1)), b(n * (k + 1)), c(m * n);
    for (int64_t i = 0; i < a.size(); i++) a[i] = i / k == 1 ? -1.0f : 1.0f;
    for (int64_t i = 0; i < b.size(); i++) b[i] = i / k % 2 ? -1.0f : 1.0f;
    const auto call = [&](int64_t sum) {
        return unrolled_matmul(UNROLLED_INT8, 2, m, n, sum, a.data(), sum, 0, b.data(), sum, 1,
                               nullptr, c.data(), n, 0);
    };
    at_every_level([&] {
        c.spoil();
        CHECK(call(k + 1) && poisoned(c[0]), "a sum of 65537 numbers was taken");
        CHECK(!call(k), "a sum of 65536 numbers was refused");
        for (int64_t i = 0; i < m * n; i++) {
            const float right = (i / n == 1) == (i % n % 2 == 1) ? 65536.0f : -65536.0f;
            CHECK(std::fabs(c[i] - right) <= 0.7f, "expected " + std::to_string(right) + ", got " +
                                                       std::to_string(c[i]));
        }
    });
}

/* Every row and column of an int8 product has a scale of its own, however large or small, and inf
 * and NaN reach what they touch and nothing else. */
TEST(matmul, int8_of_extreme_rows_and_columns) {
    enum { CALM, ZERO, TINY, SMALL, HUGE, NAN_ONE, INF_ONE, MINUS_INF, ALL_NAN, KINDS };
    const float sizes[] = {1, 0, 1e-38f, 1e-20f, 1e30f, 1, 1, 1, 1};
    const auto fill = [&](Array &numbers, int64_t k) {
        for (int64_t i = 0; i < numbers.size(); i++) {
            const int64_t kind = i / k % KINDS, at = i % k;
            numbers[i] *= sizes[kind];
            if (kind == NAN_ONE && at == k - 1) numbers[i] = NAN;
            if (kind == INF_ONE && at == 0) numbers[i] = INFINITY;
            if (kind == MINUS_INF && at == k / 2) numbers[i] = -INFINITY;
            if (kind == ALL_NAN) numbers[i] = NAN;
        }
    };
    for (const int64_t k : {1, 5, 64, 203}) {
        Operands o({2 * KINDS, 2 * KINDS, k, false, true, false, false, 0}, 70 + k);
        fill(o.a, k);
        fill(o.b, k);
        at_every_level([&] {
            Array got(o.p.m * o.p.n);
            CHECK(!o.multiply(UNROLLED_INT8, 2, got, o.p.m), "refused");
            for (int64_t i = 0; i < o.p.m; i++)
                for (int64_t j = 0; j < o.p.n; j++) {
                    const std::string name = "k " + std::to_string(k) + " row " +
                                             std::to_string(i) + " column " + std::to_string(j);
                    const float value = got[i * o.p.n + j];
                    if (i % KINDS >= NAN_ONE || j % KINDS >= NAN_ONE) {
                        CHECK(std::isnan(value), name + ": expected NaN");
                        continue;
                    }
                    double right = 0;
                    for (int64_t q = 0; q < k; q++)
                        right += static_cast<double>(o.left(i, q)) * o.right(q, j);
                    if (std::fabs(right) > 1e37) continue;  // no fp32 number either
                    CHECK(std::fabs(value - right) <= allowed(o, UNROLLED_INT8, i, j),
                          name + ": expected " + std::to_string(right) + ", got " +
                              std::to_string(value));
                }
        });
    }
}

/* A row's scale and sums are its own: the same bits alone, anywhere in a batch, on any threads. */
TEST(matmul, int8_rows_have_the_same_bits_alone) {
    const Operands o({37, 150, 130, false, true, true, false, 0}, 90);
    at_every_level([&] {
        Array all(o.p.m * o.p.n);
        CHECK(!o.multiply(UNROLLED_INT8, 1, all, o.p.m), "refused");
        for (const int32_t threads : {2, 3, 4}) {
            Array several(all.size());
            CHECK(!o.multiply(UNROLLED_INT8, threads, several, o.p.m), "refused");
            CHECK(same(all, several), std::to_string(threads) + " threads: other bits");
        }
        for (const int64_t rows : {1, 2, 5, 9})
            for (int64_t first = 0; first + rows <= o.p.m; first += 4) {
                Array part(rows * o.p.n);
                CHECK(!unrolled_matmul(UNROLLED_INT8, 1, rows, o.p.n, o.p.k,
                                       o.a.data() + first * o.lda, o.lda, 0, o.b.data(), o.ldb, 1,
                                       o.bias.data(), part.data(), o.p.n, 0),
                      "refused");
                CHECK(std::memcmp(part.data(), all.data() + first * o.p.n,
                                  static_cast<size_t>(part.size()) * sizeof(float)) == 0,
                      std::to_string(rows) + " rows from " + std::to_string(first) +
                          ": other bits than in the batch");
            }
    });
}

/* A pack nearly as large as all that is kept, before, between and after many small products. */
TEST(matmul, one_large_product_among_small_ones) {
    const int64_t n = 3900, k = 4030;  // 63 MB of weights
    Array a(k), b(n * k), c(n);
    for (int64_t i = 0; i < k; i++) a[i] = static_cast<float>(i % 7);
    for (int64_t i = 0; i < b.size(); i++) b[i] = static_cast<float>(i % 3);
    Random random(3);
    for (int32_t round = 0; round < 3; round++) {
        for (int32_t i = 0; i < 60; i++)  // of more sizes than blocks are kept
            check_product({1 + random.below(9), 1 + random.below(60), 1 + random.below(400), false,
                           i % 2 == 0, false, false, 0},
                          UNROLLED_FP32, 4000 + static_cast<uint64_t>(i));
        CHECK(!unrolled_matmul(UNROLLED_FP32, 2, 1, n, k, a.data(), k, 0, b.data(), k, 1, nullptr,
                               c.data(), n, 0),
              "refused");
        int64_t wrong = 0;
        for (int64_t j = 0; j < n; j++) {
            int64_t right = 0;  // whole numbers below 2^24: exact
            for (int64_t q = 0; q < k; q++) right += q % 7 * ((j * k + q) % 3);
            wrong += c[j] != static_cast<float>(right);
        }
        CHECK(wrong == 0, std::to_string(wrong) + " elements of the large product are wrong");
    }
}
