/* Runs the groups named on the command line, or all. */
#include <cstdlib>

#include "check.h"

std::string context;

namespace {

std::vector<Test> &tests() {
    static std::vector<Test> all;
    return all;
}

int failures = 0;

}  // namespace

Test::Test(const char *group, const char *name, void (*body)())
    : group(group), name(name), body(body) {
    tests().push_back(*this);
}

void failed(const char *file, int line, const std::string &what) {
    failures++;
    if (failures <= 30)
        std::printf("%s:%d: %s [%s]\n", file, line, what.c_str(), context.c_str());
}

Array::Array(int64_t size) : room_(static_cast<size_t>(size + 2 * GUARD)), size_(size) {
    spoil();
    FORBID(room_.data(), GUARD * sizeof(float));
    FORBID(data() + size_, GUARD * sizeof(float));
}

Array::Array(int64_t size, Random &random, float scale) : Array(size) {
    for (int64_t i = 0; i < size; i++) data()[i] = random.number(scale);
}

Array::~Array() { ALLOW(room_.data(), room_.size() * sizeof(float)); }

void Array::spoil() {
    ALLOW(room_.data(), room_.size() * sizeof(float));
    const uint32_t poison = POISON;
    for (float &number : room_) std::memcpy(&number, &poison, sizeof poison);
    FORBID(room_.data(), GUARD * sizeof(float));
    FORBID(data() + size_, GUARD * sizeof(float));
}

bool Array::guards_hold() const {
    ALLOW(room_.data(), room_.size() * sizeof(float));
    bool whole = true;
    for (size_t i = 0; i < room_.size(); i++) {
        const int64_t index = static_cast<int64_t>(i) - GUARD;
        if (index < 0 || index >= size_) whole = whole && poisoned(room_[i]);
    }
    if (!room_.empty()) {
        FORBID(room_.data(), GUARD * sizeof(float));
        FORBID(data() + size_, GUARD * sizeof(float));
    }
    return whole;
}

bool same(const Array &a, const Array &b) {
    if (a.size() != b.size()) return false;
    return a.empty() ||
           std::memcmp(a.data(), b.data(), static_cast<size_t>(a.size()) * sizeof(float)) == 0;
}

double scale_of(const std::vector<double> &numbers) {
    double scale = 1;
    for (const double number : numbers)
        if (std::fabs(number) > scale) scale = std::fabs(number);
    return scale;
}

void check_near(const char *file, int line, const std::string &what, const Array &got,
                const std::vector<double> &expected, double tolerance) {
    if (!got.guards_hold()) failed(file, line, what + ": a number beside the array was written");
    if (static_cast<size_t>(got.size()) != expected.size())
        return failed(file, line, what + ": another size than expected");
    const double allowed = tolerance * scale_of(expected);
    for (int64_t i = 0; i < got.size(); i++) {
        const double right = expected[static_cast<size_t>(i)];
        const bool good =
            std::isnan(right) ? poisoned(got[i]) : std::fabs(got[i] - right) <= allowed;
        if (good) continue;
        return failed(file, line,
                      what + "[" + std::to_string(i) + "] of " + std::to_string(got.size()) +
                          ": expected " + std::to_string(right) + ", got " +
                          std::to_string(got[i]) + " (allowed " + std::to_string(allowed) + ")");
    }
}

int main(int argc, char **argv) {
    int ran = 0;
    for (const Test &test : tests()) {
        bool chosen = argc < 2;
        for (int i = 1; i < argc; i++) chosen = chosen || std::strcmp(argv[i], test.group) == 0;
        if (!chosen) continue;
        const int before = failures;
        context = test.name;
        std::printf("%s %s\n", test.group, test.name);
        std::fflush(stdout);  // so that a crash still names its test
        test.body();
        if (failures != before) std::printf("FAILED %s %s\n", test.group, test.name);
        ran++;
    }
    if (ran == 0) std::printf("no test of that name\n");
    if (failures) std::printf("%d checks failed\n", failures);
    return failures || ran == 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
