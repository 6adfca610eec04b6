// The products everything is made of: a few rows of activations times one panel of packed weights.
//
// A panel holds `vectors` vectors of columns for every unit of k (4 bytes: one fp32, two bf16 or
// four int8 numbers). A tile keeps all its sums in registers and adds the products of ascending k,
// whatever its height: that is why a row's bits do not depend on the rows beside it.
#pragma once

namespace {

// What a tile works on. It writes M rows of N vectors to `out`, one behind the other, and goes on
// from the sums that stand there when `more` is set: a long sum taken in pieces has the same bits.
struct TileWork {
    int64_t units;
    const uint32_t *a;
    int64_t lda;
    const char *panel;
    float *out;
    bool more;
    const float *row_scales; // int8
    const char *next;        // memory to ask for meanwhile, one line for each unit ...
    int64_t next_step;       // ... or the same line again and again, if 0
};

typedef void (*Tile)(const TileWork &work);

// columns of int8 panels begin with a scale and an offset for each column
inline int64_t panel_head(int32_t precision, int64_t vectors) {
    return precision == UNROLLED_INT8 ? vectors * W * 2 * 4 : 0;
}

// Along: rows of a are contiguous in k, lda units apart. Otherwise the M numbers of one k are.
template <class Dot, int M, int N, bool Along> void tile(const TileWork &work) {
    const uint32_t *a = work.a, *b = reinterpret_cast<const uint32_t *>(work.panel);
    const int64_t units = work.units, lda = work.lda, next_step = work.next_step;
    const char *next = work.next;
    float *out = work.out;
    V scale[N], offset[N];
    const bool scaled = Dot::per_unit == 4;
    if (scaled) {
#pragma GCC unroll 16
        for (int j = 0; j < N; j++) {
            scale[j] = load(reinterpret_cast<const float *>(b) + j * W);
            offset[j] = load(reinterpret_cast<const float *>(b) + (N + j) * W);
        }
        b += 2 * N * W;
    }
    typename Dot::Sum sum[M][N];
#pragma GCC unroll 16
    for (int i = 0; i < M; i++)
#pragma GCC unroll 16
        for (int j = 0; j < N; j++) sum[i][j] = Dot::start(out + (i * N + j) * W, work.more);
    // One pointer for three rows, which an address can reach with a step of one or two strides: a
    // pointer a row would not fit into the registers. The compiler must not undo this.
    constexpr int POINTERS = Along ? (M + 2) / 3 : 1;
    const uint32_t *at[POINTERS];
#pragma GCC unroll 16
    for (int g = 0; g < POINTERS; g++) at[g] = a + 3 * g * lda;
    for (int64_t k = 0; k < units; k++) {
        typename Dot::Value w[N];
#pragma GCC unroll 16
        for (int j = 0; j < N; j++) w[j] = Dot::weights(b + j * W);
        b += N * W;
        if (M > 2) {
            ahead(next);
            next += next_step;
        }
#pragma GCC unroll 16
        for (int g = 0; g < POINTERS; g++) __asm__("" : "+r"(at[g]));
#pragma GCC unroll 16
        for (int i = 0; i < M; i++) {
            const typename Dot::Value x =
                Dot::broadcast(Along ? at[i / 3] + i % 3 * lda : at[0] + i);
#pragma GCC unroll 16
            for (int j = 0; j < N; j++) sum[i][j] = Dot::add_product(sum[i][j], x, w[j]);
        }
#pragma GCC unroll 16
        for (int g = 0; g < POINTERS; g++) at[g] += Along ? 1 : lda;
    }
#pragma GCC unroll 16
    for (int i = 0; i < M; i++)
#pragma GCC unroll 16
        for (int j = 0; j < N; j++)
            store(out + (i * N + j) * W,
                  Dot::finish(sum[i][j], scaled ? scale[j] : set1(0), scaled ? offset[j] : set1(0),
                              scaled ? work.row_scales[i] : 0.0f));
}

// Heights up to the registers' limit for each width. 16 and 12 wide ones are for a row or two, where
// many sums at once hide the latency of one.
constexpr int tallest(int n) {
    if (REGISTERS == 32)
        return n == 16 ? 1 : n == 12 ? 2 : n == 8 ? 3 : n == 6 ? 4 : n == 4 ? 6 : n == 3 ? 8 : 12;
    return n >= 6 ? 1 : n == 4 ? 2 : n == 3 ? 4 : 6;
}

template <class Dot, int N, bool Along> Tile tile_of(int m) {
    constexpr int most = tallest(N);
#define UNROLLED_TILE(M)                                                                           \
    case M:                                                                                        \
        return tile<Dot, (M <= most ? M : most), N, Along>;
    switch (m) {
        UNROLLED_TILE(1)
        UNROLLED_TILE(2)
        UNROLLED_TILE(3)
        UNROLLED_TILE(4)
        UNROLLED_TILE(5)
        UNROLLED_TILE(6)
        UNROLLED_TILE(7)
        UNROLLED_TILE(8)
        UNROLLED_TILE(9)
        UNROLLED_TILE(10)
        UNROLLED_TILE(11)
        UNROLLED_TILE(12)
    }
#undef UNROLLED_TILE
    return nullptr;
}

template <class Dot> Tile along(int vectors, int m) {
    switch (vectors) {
    case 2: return tile_of<Dot, 2, true>(m);
    case 3: return tile_of<Dot, 3, true>(m);
    case 4: return tile_of<Dot, 4, true>(m);
    case 6: return tile_of<Dot, 6, true>(m);
    case 8: return tile_of<Dot, 8, true>(m);
    case 12: return tile_of<Dot, 12, true>(m);
#if defined(__AVX512F__)
    case 16: return tile_of<Dot, 16, true>(m);
#endif
    }
    return nullptr;
}

#if defined(__AMX_BF16__)
// Tiles of 16 rows by 16 columns on the matrix unit: 1 x 4 of them, or 2 x 2. `units` is a multiple
// of 16 and rows of a stand in buffers of whole tiles, so that nothing outside is read.
constexpr int AMX_ROWS = 16;

struct alignas(64) TileConfig {
    uint8_t palette = 1, start = 0, reserved[14] = {};
    uint16_t bytes[16] = {};
    uint8_t rows[16] = {};
};

// Every thread sets its tiles up before a product and lets them go at the end of its work.
struct MatrixUnit {
    const bool used;
    explicit MatrixUnit(int32_t precision) : used(precision == UNROLLED_BF16) {
        if (!used) return;
        TileConfig config;
        for (int i = 0; i < 8; i++) {
            config.bytes[i] = 64;
            config.rows[i] = AMX_ROWS;
        }
        // the compiler does not see that the instruction reads what is behind the pointer
        __asm__ volatile("" : : "r"(&config) : "memory");
        _tile_loadconfig(&config);
    }
    ~MatrixUnit() {
        if (used) _tile_release();
    }
};

#define UNROLLED_AMX_START(J, N)                                                                   \
    if (J < N) {                                                                                   \
        if (work.more)                                                                             \
            _tile_loadd(J, work.out + J * 16, N * 64);                                             \
        else                                                                                       \
            _tile_zero(J);                                                                         \
    }
#define UNROLLED_AMX_COLUMN(J, N)                                                                  \
    if (J < N) {                                                                                   \
        _tile_loadd(5, b + J * 16, N * 64);                                                        \
        _tile_dpbf16ps(J, 4, 5);                                                                   \
    }

template <int N> void amx_one(const TileWork &work) {
    const uint32_t *b = reinterpret_cast<const uint32_t *>(work.panel);
    const char *next = work.next;
    __asm__ volatile("" : : : "memory"); // nor that the tiles read what was stored before
    UNROLLED_AMX_START(0, N)
    UNROLLED_AMX_START(1, N)
    UNROLLED_AMX_START(2, N)
    UNROLLED_AMX_START(3, N)
    for (int64_t k = 0; k < work.units; k += 16) {
        for (int i = 0; i < 16; i++) ahead(next + i * work.next_step);
        next += 16 * work.next_step;
        _tile_loadd(4, work.a + k, work.lda * 4);
        UNROLLED_AMX_COLUMN(0, N)
        UNROLLED_AMX_COLUMN(1, N)
        UNROLLED_AMX_COLUMN(2, N)
        UNROLLED_AMX_COLUMN(3, N)
        b += N * 16 * 16;
    }
    _tile_stored(0, work.out, N * 64);
    _tile_stored(1, work.out + 16, N * 64);
    if (N > 2) _tile_stored(2, work.out + 32, N * 64);
    if (N > 3) _tile_stored(3, work.out + 48, N * 64);
}
#undef UNROLLED_AMX_COLUMN
#undef UNROLLED_AMX_START

// 32 rows, two vectors of columns
inline void amx_two(const TileWork &work) {
    const uint32_t *b = reinterpret_cast<const uint32_t *>(work.panel), *a = work.a;
    const int64_t lda = work.lda;
    float *out = work.out;
    __asm__ volatile("" : : : "memory");
    if (work.more) {
        _tile_loadd(0, out, 128);
        _tile_loadd(1, out + 16, 128);
        _tile_loadd(2, out + 32 * 16, 128);
        _tile_loadd(3, out + 32 * 16 + 16, 128);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (int64_t k = 0; k < work.units; k += 16) {
        _tile_loadd(4, a + k, lda * 4);
        _tile_loadd(5, a + 16 * lda + k, lda * 4);
        _tile_loadd(6, b, 128);
        _tile_loadd(7, b + 16, 128);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
        b += 2 * 16 * 16;
    }
    _tile_stored(0, out, 128);
    _tile_stored(1, out + 16, 128);
    _tile_stored(2, out + 32 * 16, 128);
    _tile_stored(3, out + 32 * 16 + 16, 128);
}

inline Tile amx_tile(int vectors, int m) {
    if (vectors == 2 && m > AMX_ROWS) return amx_two;
    return vectors == 2 ? amx_one<2> : vectors == 3 ? amx_one<3> : amx_one<4>;
}
#else
struct MatrixUnit {
    explicit MatrixUnit(int32_t) {} // nothing to set up
};
#endif

// Whether bf16 products go to the matrix unit.
constexpr bool on_matrix_unit(int32_t precision) {
#if defined(__AMX_BF16__)
    return precision == UNROLLED_BF16;
#else
    return precision == UNROLLED_BF16 && false;
#endif
}

// Whether weights are in blocks with a scale each; see blocks.h.
constexpr bool in_blocks(int32_t precision) {
    return precision == UNROLLED_Q8_0 || precision == UNROLLED_Q4_0;
}

// Their sums of whole numbers and of floats share the registers.
constexpr int block_rows(int vectors) {
    if (REGISTERS == 32) return vectors == 2 ? 6 : 4;
    return vectors == 2 ? 3 : 2;
}

inline Tile block_tile(int32_t precision, int vectors, int m);

inline int most_rows(int32_t precision, int vectors) {
    if (in_blocks(precision)) return block_rows(vectors);
    if (on_matrix_unit(precision)) return vectors <= 2 ? 32 : 16;
    return tallest(vectors);
}

inline Tile tile_along(int32_t precision, int vectors, int m) {
#if defined(__AMX_BF16__)
    if (on_matrix_unit(precision)) return amx_tile(vectors, m);
#endif
    if (precision == UNROLLED_BF16) return along<Bf16>(vectors, m);
    if (precision == UNROLLED_INT8) return along<Int8>(vectors, m);
    if (in_blocks(precision)) return block_tile(precision, vectors, m);
    return along<Fp32>(vectors, m);
}

// for products whose left side is transposed
inline Tile tile_across(int32_t precision, int vectors, int m) {
    if (precision == UNROLLED_BF16)
        return vectors == 3 ? tile_of<Bf16, 3, false>(m) : tile_of<Bf16, 2, false>(m);
    return vectors == 3 ? tile_of<Fp32, 3, false>(m) : tile_of<Fp32, 2, false>(m);
}

// how many rows each tile takes: as even as can be, but the matrix unit works in whole tiles
inline int64_t height(int32_t precision, int vectors, int64_t rows) {
    const int64_t most = most_rows(precision, vectors);
    if (on_matrix_unit(precision)) return most;
    const int64_t tiles = (rows + most - 1) / most;
    return tiles ? (rows + tiles - 1) / tiles : 1;
}

} // namespace
