// What streams and decoders keep: memory that finds its way back, and sizes that fit it.
#pragma once

#include <cstring>
#include <new>
#include <utility>

#include "pool.h"

namespace {

// Memory of the workspace that is given back.
struct Memory {
    char *data = nullptr;
    Memory() = default;
    explicit Memory(size_t bytes) : data(static_cast<char *>(workspace_take(bytes))) {
        if (!data) throw std::bad_alloc();
        memset(data, 0, bytes);
    }
    Memory(Memory &&other) noexcept : data(other.data) { other.data = nullptr; }
    Memory &operator=(Memory &&other) noexcept {
        std::swap(data, other.data);
        return *this;
    }
    Memory(const Memory &) = delete;
    Memory &operator=(const Memory &) = delete;
    ~Memory() { workspace_give(data); }
};

inline bool size_fits(int64_t n) { return n >= 1 && n < (int64_t{1} << 28); }

} // namespace
