/* What the tests are written in: named tests, checks that go on after a failure, random numbers,
 * and arrays between guards. */
#ifndef UNROLLED_CHECK_H
#define UNROLLED_CHECK_H

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "unrolled.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#define FORBID(start, bytes) ASAN_POISON_MEMORY_REGION(start, bytes)
#define ALLOW(start, bytes) ASAN_UNPOISON_MEMORY_REGION(start, bytes)
#else
#define FORBID(start, bytes) ((void)0)
#define ALLOW(start, bytes) ((void)0)
#endif

struct Test {
    const char *group, *name;
    void (*body)();
    Test(const char *group, const char *name, void (*body)());
};

#define TEST(group, name)                                       \
    static void group##_##name();                               \
    static const Test test_##group##_##name(#group, #name, group##_##name); \
    static void group##_##name()

/* What a failure names beside its line: the case being checked. */
extern std::string context;
void failed(const char *file, int line, const std::string &what);

#define CHECK(truth, what)                              \
    do {                                                \
        if (!(truth)) failed(__FILE__, __LINE__, what); \
    } while (0)

/* Run the body at every level that runs here, and put the first level back. */
template <class Body>
void at_every_level(Body body) {
    const int32_t before = unrolled_level();
    const std::string outside = context;
    for (int32_t level = UNROLLED_PORTABLE; level <= UNROLLED_AMX; level++) {
        if (unrolled_set_level(level) != level) continue;
        context = outside + " level " + std::to_string(level);
        body();
    }
    context = outside;
    unrolled_set_level(before);
}

class Random {
public:
    explicit Random(uint64_t seed) : state_(seed * 2654435761u + 1) {}
    /* Return a whole number in [0, below). */
    int64_t below(int64_t end) {
        return static_cast<int64_t>(next() % static_cast<uint64_t>(end));
    }
    bool coin() { return below(2) == 1; }
    /* Return a number in [-size, size). */
    float number(float size) {
        return size * (static_cast<float>(next() & 0xffff) / 32768.0f - 1.0f);
    }

private:
    uint64_t next() {  // Marsaglia 2003, xorshift; the low bits are the weak ones
        state_ ^= state_ << 13;
        state_ ^= state_ >> 7;
        state_ ^= state_ << 17;
        return state_ >> 16;
    }
    uint64_t state_;
};

/* Numbers between two guards, all NaN until they are filled. A stray write changes a guard, a stray
 * read brings NaN into a result, and AddressSanitizer reports both where they happen. */
class Array {
public:
    Array() = default;
    explicit Array(int64_t size);
    Array(int64_t size, Random &random, float scale);
    Array(const Array &other) = delete;
    Array &operator=(const Array &other) = delete;
    Array(Array &&other) = default;
    Array &operator=(Array &&other) = default;
    ~Array();

    /* NULL if the array was never made. */
    float *data() const { return room_.empty() ? nullptr : const_cast<float *>(&room_[GUARD]); }
    int64_t size() const { return size_; }
    bool empty() const { return size_ == 0; }
    float &operator[](int64_t i) { return data()[i]; }
    float operator[](int64_t i) const { return data()[i]; }
    void spoil();
    bool guards_hold() const;

    /* The bits of the NaN that everything is filled with. */
    static constexpr uint32_t POISON = 0x7fc0dead;

private:
    /* odd, so that no array starts where a vector would like it to */
    static constexpr int64_t GUARD = 67;
    std::vector<float> room_;
    int64_t size_ = 0;
};

inline uint32_t bits(float number) {
    uint32_t pattern;
    std::memcpy(&pattern, &number, sizeof pattern);
    return pattern;
}

inline bool poisoned(float number) { return bits(number) == Array::POISON; }

/* Whether two arrays are the same bits. */
bool same(const Array &a, const Array &b);
/* The largest size of any number, at least 1. */
double scale_of(const std::vector<double> &numbers);
/* Check that numbers are as near as tolerance times their scale; where `expected` is NaN nothing
 * may have been written. */
void check_near(const char *file, int line, const std::string &what, const Array &got,
                const std::vector<double> &expected, double tolerance);
#define NEAR(what, got, expected, tolerance) \
    check_near(__FILE__, __LINE__, what, got, expected, tolerance)

#endif
