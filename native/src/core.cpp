// The C ABI: checks what it is given, counts calls, and hands over to the level in use.

#include <atomic>
#include <chrono>

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__) && defined(__x86_64__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "core.h"
#include "pool.h"

namespace {

// ---- what this processor runs ----------------------------------------------------------------------

#if defined(__x86_64__)
bool has_dots() { return __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni"); }
#endif

#if defined(UNROLLED_LEVEL_AMX)
bool has_matrix_unit() {
#if defined(__linux__)
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
    const unsigned tiles = 1u << 24, bf16 = 1u << 22;
    if ((d & tiles) == 0 || (d & bf16) == 0) return false;
    // the kernel has to be asked for the registers, once a process: ARCH_REQ_XCOMP_PERM, XTILEDATA
    return syscall(SYS_arch_prctl, 0x1023, 18) == 0;
#else
    return false;
#endif
}
#endif

// The levels that this processor and operating system run.
struct Supported {
    const Level *levels[4] = {&level_portable, nullptr, nullptr, nullptr};
    uint32_t features[4] = {0, 0, 0, 0};
    int32_t best = UNROLLED_PORTABLE;

    void add(int32_t at, const Level *level, uint32_t has) {
        levels[at] = level;
        features[at] = has;
        best = at;
    }

    Supported() {
#if defined(__x86_64__)
        __builtin_cpu_init();
#if defined(UNROLLED_LEVEL_AVX2)
        if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
            add(UNROLLED_AVX2, &level_avx2, 0);
#endif
        const bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
        if (!wide) return;
#if defined(UNROLLED_LEVEL_AVX512)
        add(UNROLLED_AVX512, &level_avx512, 0);
#endif
        if (!has_dots()) return;
        const uint32_t dots = UNROLLED_HAS_BF16_DOT | UNROLLED_HAS_VNNI;
#if defined(UNROLLED_LEVEL_AVX512DOT)
        add(UNROLLED_AVX512, &level_avx512dot, dots);
#endif
#if defined(UNROLLED_LEVEL_AMX)
        if (has_matrix_unit()) add(UNROLLED_AMX, &level_amx, dots | UNROLLED_HAS_AMX);
#endif
        (void)dots;
#endif
    }
};

const Supported &supported() {
    static const Supported levels;
    return levels;
}

std::atomic<int32_t> chosen{-1};
std::atomic<int64_t> counters[4];

// ---- checks ------------------------------------------------------------------------------------------

constexpr int32_t MOST_THREADS = 4096;

Error check_steps(const unrolled_run &r) {
    int64_t sum = 0, before = r.rows;
    for (int64_t t = 0; t < r.steps; t++) {
        const int64_t n = r.active ? r.active[t] : r.rows;
        if (n < 0 || n > before) return "active must fall from step to step, from rows at most to 0";
        before = n;
        sum += n;
    }
    return sum == r.count ? nullptr : "count is not the sum of active";
}

Error check_run(const unrolled_run *r) {
    if (!r) return "no run given";
    if (r->cell < UNROLLED_RNN_TANH || r->cell > UNROLLED_LSTM) return "no such cell";
    if (r->precision < UNROLLED_FP32 || r->precision > UNROLLED_INT8) return "no such precision";
    if (r->rows < 0 || r->steps < 0 || r->input < 0 || r->hidden < 1 || r->count < 0)
        return "a size is out of range";
    const int64_t most = int64_t{1} << 31; // so that no product of two sizes overflows
    if (r->rows >= most || r->steps >= most || r->input >= most || r->hidden >= most / 4)
        return "a size is out of range";
    if (!r->w_ih || !r->w_hh) return "no weights given";
    if (r->count && (!r->x || !r->y)) return "no x or no y given";
    if (r->threads > MOST_THREADS) return "so many threads are not offered";
    if (r->precision == UNROLLED_INT8 && (r->gates || r->mask))
        return "int8 is for reading alone: nothing kept, no mask";
    if (r->precision == UNROLLED_INT8 && (r->input > INT8_MOST || r->hidden > INT8_MOST))
        return INT8_TOO_LONG;
    return check_steps(*r);
}

Error check_kept(const unrolled_run &r, bool needed) {
    const bool some = r.gates || r.cells || r.inner;
    if (!some && !needed) return nullptr;
    if (!r.count) return nullptr;
    const bool gated = r.cell == UNROLLED_GRU || r.cell == UNROLLED_LSTM;
    if (gated && !r.gates) return "gates must be kept for the backward pass";
    if (r.cell == UNROLLED_LSTM && !r.cells) return "cells must be kept for the backward pass";
    if (r.cell == UNROLLED_GRU && !r.inner) return "inner must be kept for the backward pass";
    return nullptr;
}

void count(int32_t counter) { counters[counter].fetch_add(1, std::memory_order_relaxed); }

double now() {
    using namespace std::chrono;
    return duration<double>(steady_clock::now().time_since_epoch()).count();
}

// ---- measuring -----------------------------------------------------------------------------------------

struct Measure {
    int32_t precision;
    double seconds;
    const char *memory;
    int64_t bytes;
    std::atomic<double> done{0};

    void more(double amount) {
        double before = done.load();
        while (!done.compare_exchange_weak(before, before + amount)) {
        }
    }
};

void measure_peak(void *data, int64_t) {
    Measure &m = *static_cast<Measure *>(data);
    const double end = now() + m.seconds;
    double total = 0;
    while (now() < end) total += level().peak(m.precision, 20000);
    m.more(total);
}

void measure_reading(void *data, int64_t task) {
    Measure &m = *static_cast<Measure *>(data);
    volatile double sum = 0;
    const double end = now() + m.seconds;
    double total = 0;
    const int64_t rounds = m.bytes > (1 << 20) ? 1 : (1 << 20) / (m.bytes + 1) + 1;
    while (now() < end) {
        for (int64_t i = 0; i < rounds; i++) sum = sum + level().read(m.memory + task * m.bytes, m.bytes);
        total += static_cast<double>(m.bytes * rounds);
    }
    m.more(total);
}

} // namespace

const Level &level() {
    int32_t at = chosen.load(std::memory_order_relaxed);
    if (at < 0) {
        // unless another thread has chosen meanwhile
        if (chosen.compare_exchange_strong(at, supported().best)) at = supported().best;
    }
    return *supported().levels[at];
}

void count_step() { count(UNROLLED_STEP); }

extern "C" {

int32_t unrolled_abi(void) { return UNROLLED_ABI; }

int32_t unrolled_level(void) {
    level();
    return chosen.load();
}

int32_t unrolled_best_level(void) { return supported().best; }

int32_t unrolled_set_level(int32_t level) {
    if (level < 0 || level > UNROLLED_AMX || !supported().levels[level]) return -1;
    chosen.store(level);
    return level;
}

uint32_t unrolled_features(void) { return supported().features[unrolled_level()]; }

int64_t unrolled_count(int32_t counter) {
    return counter < 0 || counter > UNROLLED_MATMUL ? 0 : counters[counter].load();
}

const char *unrolled_matmul(int32_t precision, int32_t threads, int64_t m, int64_t n, int64_t k,
                            const float *a, int64_t lda, int32_t a_trans, const float *b,
                            int64_t ldb, int32_t b_trans, const float *bias, float *c, int64_t ldc,
                            int32_t accumulate) {
    if (m < 0 || n < 0 || k < 0) return "a size is out of range";
    if (!m || !n) return nullptr;
    if (!c || (k && (!a || !b))) return "no matrix given";
    if (ldc < n || lda < (a_trans ? m : k) || ldb < (b_trans ? k : n))
        return "rows of a matrix overlap";
    if (precision < UNROLLED_FP32 || precision > UNROLLED_Q4_0) return "no such precision";
    if (precision >= UNROLLED_INT8 && (a_trans || !b_trans || accumulate))
        return "weights in whole numbers are for a b^T alone";
    if (precision == UNROLLED_INT8 && k > INT8_MOST) return INT8_TOO_LONG;
    if (threads > MOST_THREADS) return "so many threads are not offered";
    const Error error = level().matmul({.precision = precision,
                                        .threads = threads,
                                        .m = m,
                                        .n = n,
                                        .k = k,
                                        .a = a,
                                        .lda = lda,
                                        .a_trans = a_trans != 0,
                                        .b = b,
                                        .ldb = ldb,
                                        .b_trans = b_trans != 0,
                                        .bias = bias,
                                        .c = c,
                                        .ldc = ldc,
                                        .accumulate = accumulate != 0});
    if (!error) count(UNROLLED_MATMUL);
    return error;
}

const char *unrolled_forward(const unrolled_run *run) {
    Error error = check_run(run);
    if (!error) error = check_kept(*run, false);
    if (!error) error = level().forward(*run);
    if (!error) count(UNROLLED_FORWARD);
    return error;
}

const char *unrolled_backward(const unrolled_run *run) {
    Error error = check_run(run);
    if (!error && run->precision == UNROLLED_INT8) error = "int8 has no backward pass";
    if (!error) error = check_kept(*run, true);
    if (!error) error = level().backward(*run);
    if (!error) count(UNROLLED_BACKWARD);
    return error;
}

const char *unrolled_top_log_probabilities(int32_t threads, int64_t rows, int64_t vocabulary,
                                           const float *logits, int64_t ld, int64_t k,
                                           float *values, int64_t *ids) {
    if (rows < 0 || vocabulary < 0 || k < 1 || k > 64 || k > vocabulary) return "a size is out of range";
    if (threads > MOST_THREADS) return "so many threads are not offered";
    if (!rows) return nullptr;
    if (!logits || !values || !ids) return "no logits or no room for the best given";
    if (ld < vocabulary) return "rows of a matrix overlap";
    level().top({.threads = threads,
                 .rows = rows,
                 .vocabulary = vocabulary,
                 .logits = logits,
                 .ld = ld,
                 .k = k,
                 .values = values,
                 .ids = ids});
    return nullptr;
}

double unrolled_peak(int32_t precision, int32_t threads, double seconds) {
    Measure m = {.precision = precision, .seconds = seconds, .memory = nullptr, .bytes = 0};
    if (precision < UNROLLED_FP32 || precision > UNROLLED_INT8) return 0;
    const int32_t n = threads < 1 ? 1 : threads > MOST_THREADS ? MOST_THREADS : threads;
    const double start = now();
    parallel(n, n, measure_peak, &m);
    return m.done.load() / (now() - start);
}

double unrolled_bandwidth(int64_t bytes, int32_t threads, double seconds) {
    const int32_t n = threads < 1 ? 1 : threads > MOST_THREADS ? MOST_THREADS : threads;
    if (bytes < 4096 * n) return 0;
    char *memory = static_cast<char *>(workspace_take(static_cast<size_t>(bytes)));
    if (!memory) return 0;
    for (int64_t i = 0; i < bytes; i++) memory[i] = 0;
    const int64_t of_thread = bytes / n / 4096 * 4096;
    Measure m = {.precision = 0, .seconds = seconds, .memory = memory, .bytes = of_thread};
    const double start = now();
    parallel(n, n, measure_reading, &m);
    const double rate = m.done.load() / (now() - start);
    workspace_give(memory);
    return rate;
}

} // extern "C"
