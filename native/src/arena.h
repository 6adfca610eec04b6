// Scratch memory. One routine says which parts a piece of work needs, and it runs twice: once to
// measure, once to carve. So a size and the pointers into that memory cannot drift apart.
#pragma once

#include <cassert>
#include <cstddef>
#include <cstdint>

#include "pool.h"

namespace {

// Every part begins at a line of the cache: no two threads write to one, and vectors are aligned.
constexpr size_t CACHE_LINE = 64;

inline size_t whole_lines(size_t bytes) {
    return (bytes + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;
}

// Carves parts out of a piece of memory. Without memory it measures: all parts are NULL then, and
// `used` says how many bytes they take.
struct Arena {
    char *memory = nullptr;
    size_t size = 0; // of the memory
    size_t used = 0;

    char *bytes(size_t count) {
        char *part = memory ? memory + used : nullptr;
        used += whole_lines(count);
        // builds without NDEBUG check it, the sanitized ones among them
        assert(!memory || used <= size);
        return part;
    }

    template <class Number> Number *array(int64_t count) {
        return reinterpret_cast<Number *>(bytes(static_cast<size_t>(count) * sizeof(Number)));
    }

    float *floats(int64_t count) { return array<float>(count); }
};

// Return how many bytes `carve(arena)` takes.
template <class Carve> size_t measured(Carve &&carve) {
    Arena arena;
    carve(arena);
    return arena.used;
}

// Memory of the workspace, carved by `carve(arena)` and given back at the end. All parts are NULL
// where there was no memory.
class Scratch {
  public:
    template <class Carve> explicit Scratch(Carve &&carve) {
        const size_t size = measured(carve);
        memory_ = static_cast<char *>(workspace_take(size));
        if (!memory_) return;
        Arena arena = {.memory = memory_, .size = size};
        carve(arena);
        assert(arena.used == size);
    }
    ~Scratch() { workspace_give(memory_); }
    Scratch(const Scratch &) = delete;
    Scratch &operator=(const Scratch &) = delete;

    bool failed() const { return !memory_; }

    // Give a large piece back to the system now, so that what needs much memory next finds it.
    void drop() {
        workspace_drop(memory_);
        memory_ = nullptr;
    }

  private:
    char *memory_ = nullptr;
};

} // namespace
