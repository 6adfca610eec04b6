// The best of many log probabilities: see unrolled_top_log_probabilities.
#pragma once

namespace {

// The k best of a row, the best first and of equal ones the one that came first.
struct Best {
    int64_t size, k;
    float *values;
    int64_t *ids;

    float least() const { return values[k - 1]; } // when full

    void put(float value, int64_t id) {
        int64_t at = size < k ? size++ : k - 1;
        for (; at > 0 && values[at - 1] < value; at--) {
            values[at] = values[at - 1];
            ids[at] = ids[at - 1];
        }
        values[at] = value;
        ids[at] = id;
    }
};

// Offer n more numbers, the first of them number `first`.
inline void choose_best(const float *row, int64_t n, int64_t first, Best &best) {
    constexpr int N = 4; // vectors compared together: few of them hold anything better
    int64_t i = 0;
    for (; i < n && best.size < best.k; i++) best.put(row[i], first + i);
    for (; i + N * W <= n; i += N * W) {
        const V a = larger(load(row + i), load(row + i + W));
        const V b = larger(load(row + i + 2 * W), load(row + i + 3 * W));
        if (!any_above(a, best.least()) && !any_above(b, best.least())) continue;
        for (int64_t v = i; v < i + N * W; v += W) {
            if (!any_above(load(row + v), best.least())) continue;
            for (int64_t j = v; j < v + W; j++)
                if (row[j] > best.least()) best.put(row[j], first + j);
        }
    }
    for (; i < n; i++)
        if (row[i] > best.least()) best.put(row[i], first + i);
}

// the sum of e^(number - most), or NaN where one of the numbers has none
inline float sum_exponentials(const float *row, int64_t n, float most) {
    constexpr int N = 4;
    const V off = set1(most);
    V sum[N];
    for (int j = 0; j < N; j++) sum[j] = set1(0);
    int64_t i = 0;
    for (; i + N * W <= n; i += N * W)
#pragma GCC unroll 4
        for (int j = 0; j < N; j++)
            sum[j] = add(sum[j], exponential(sub(load(row + i + j * W), off)));
    alignas(64) float rest[W];
    for (; i < n; i += W) {
        for (int64_t j = 0; j < W; j++) rest[j] = i + j < n ? row[i + j] : -__builtin_inff();
        sum[0] = add(sum[0], exponential(sub(load(rest), off)));
    }
    return sum_of(add(add(sum[0], sum[1]), add(sum[2], sum[3])));
}

// Turn the best scores into log probabilities, where `sum` is that of e^(score - most).
inline void finish_best(Best &best, float most, float sum) {
    const bool sound = sum == sum && most - most == 0;
    const float of_all = sound ? __builtin_logf(sum) : 0;
    for (int64_t i = 0; i < best.k; i++) {
        best.values[i] = sound ? best.values[i] - most - of_all : __builtin_nanf("");
        if (!sound) best.ids[i] = i;
    }
}

inline void top_row(const Top &t, int64_t row) {
    const float *logits = t.logits + row * t.ld;
    Best best = {0, t.k, t.values + row * t.k, t.ids + row * t.k};
    choose_best(logits, t.vocabulary, 0, best);
    const float most = best.values[0];
    finish_best(best, most, sum_exponentials(logits, t.vocabulary, most));
}

struct TopWork {
    const Top &t;
    int64_t rows; // of a task
};

inline void top_rows(void *data, int64_t task) {
    const TopWork &w = *static_cast<const TopWork *>(data);
    const int64_t past = least_of((task + 1) * w.rows, w.t.rows);
    for (int64_t i = task * w.rows; i < past; i++) top_row(w.t, i);
}

inline void top(const Top &t) {
    // tasks of a tenth of a millisecond or so: a thread that is held up leaves the others more
    const int64_t rows = 65536 / t.vocabulary + 1;
    TopWork w = {t, rows};
    parallel(t.threads, (t.rows + rows - 1) / rows, top_rows, &w);
}

} // namespace
