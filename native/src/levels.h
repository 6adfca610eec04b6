// What the parts of the core share: the table of functions that every instruction level fills.
//
// A level's file is compiled for instructions that this processor may lack. So it must not emit
// anything the linker could merge with another file's copy: no containers, no inline functions
// outside its anonymous namespace.
#pragma once

#include <cstddef>
#include <cstdint>

#include "unrolled.h"

typedef const char *Error; // NULL: none

// Numbers in an int8 sum, so that 255 * 127 of them stay below 2^31.
constexpr int64_t INT8_MOST = 65536;
constexpr Error OUT_OF_MEMORY = "out of memory";
constexpr Error INT8_TOO_LONG = "int8 sums hold 65536 numbers at most";

// One product c = a b + bias; see unrolled_matmul.
struct Matmul {
    int32_t precision, threads;
    int64_t m, n, k;
    const float *a;
    int64_t lda;
    bool a_trans;
    const float *b;
    int64_t ldb;
    bool b_trans;
    const float *bias;
    float *c;
    int64_t ldc;
    bool accumulate;
};

// Weights packed for a stream; `data` belongs to the stream.
struct Pack {
    int32_t precision;
    int32_t vectors;     // of a full panel
    int32_t gates;       // a panel holds vectors / gates blocks of units
    int64_t units, k;    // columns of one gate; length of a sum
    int64_t last;        // vectors of the last panel
    int64_t panels, panel_bytes, bytes;
    char *data;
};

// Rows of activations in the format of a precision, each of `ld` units. Some room keeps rows of a
// power of two from falling into the same lines of the cache, and whole tiles from reading outside.
struct Rows {
    int32_t precision;
    int64_t k, units, ld;
    uint32_t *data;
    float *scales; // of each row (int8)
};

// Stages of a stream. Packs are planned first; then carve_layer and carve_linear fill in what
// stands in the stage's memory.
struct StreamLayer {
    int32_t cell, precision;
    bool residual;
    int64_t rows, input, hidden;
    float *h, *c; // the caller's
    Pack ih, hh;
    float *bias, *bias_inner; // (G*H), and for gru (H)
    Rows x_rows, h_rows;
    float *x_sums, *h_sums; // of a tile
    float *output;          // (B, H)
};

struct StreamLinear {
    int32_t precision;
    int64_t rows, input, output_size;
    Pack w;
    float *bias;
    Rows x_rows;
    float *sums;
    float *output; // (B, output_size)
};

// A product with packed weights, and a norm.
struct Product {
    Pack w;
    const float *bias; // NULL: none
};
struct Norm {
    const float *weight, *bias; // weight NULL: no norm
};

struct DecoderBlock {
    Product in, out, cross_in, cross_out, up, down;
    Norm self_norm, cross_norm, feedforward_norm, query_norm, key_norm;
};

// A stack, and its weights.
struct Decoder : unrolled_stack {
    const DecoderBlock *blocks;
    Norm last;
    Product head;
};

// See unrolled_top_log_probabilities.
struct Top {
    int32_t threads;
    int64_t rows, vocabulary;
    const float *logits;
    int64_t ld, k;
    float *values;
    int64_t *ids;
};

struct Level {
    int32_t width; // lanes
    Error (*forward)(const unrolled_run &);
    Error (*backward)(const unrolled_run &);
    Error (*matmul)(const Matmul &);
    // sizes of a pack of w (gates * units, k) for this many rows, and filling it
    Pack (*plan)(int32_t precision, int64_t rows, int64_t gates, int64_t units, int64_t k);
    Pack (*plan_product)(int32_t precision, int64_t units, int64_t k); // for many rows
    void (*fill)(const Pack &pack, const float *w, int64_t ld);
    // carve a stage out of its memory and return how many bytes it takes; NULL: only measure
    size_t (*carve_layer)(StreamLayer &, char *memory, size_t size);
    size_t (*carve_linear)(StreamLinear &, char *memory, size_t size);
    void (*step_layer)(const StreamLayer &, const float *x, float *y);
    void (*step_linear)(const StreamLinear &, const float *x, float *y);
    Error (*decode)(const Decoder &, const unrolled_decoding &);
    void (*top)(const Top &);
    double (*peak)(int32_t precision, int64_t rounds); // operations done in so many rounds
    double (*read)(const char *from, int64_t bytes);   // a sum, so that nothing is left out
};

extern const Level level_portable;
#if defined(UNROLLED_LEVEL_AVX2)
extern const Level level_avx2;
#endif
#if defined(UNROLLED_LEVEL_AVX512)
extern const Level level_avx512;
#endif
#if defined(UNROLLED_LEVEL_AVX512DOT)
extern const Level level_avx512dot;
#endif
#if defined(UNROLLED_LEVEL_AMX)
extern const Level level_amx;
#endif
