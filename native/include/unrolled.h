/* The native core of unrolled: recurrent layers and matrix products on a CPU, behind a plain C ABI.
 *
 * Nothing here knows Python or torch. Every pointer is to fp32 numbers in row-major order unless
 * said otherwise. Functions that can fail return NULL when all went well and a constant message
 * otherwise; nothing is written then, unless memory was out. Every function may be called from
 * several threads at once, but one stream by one thread at a time.
 *
 * Shapes: B rows, T steps, D input, H hidden, G gates of a cell (1, 3 or 4), N steps of all rows.
 */
#ifndef UNROLLED_H
#define UNROLLED_H

#include <stdint.h>

#if defined(_WIN32)
#define UNROLLED_API __declspec(dllexport)
#else
#define UNROLLED_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Changes whenever a struct or signature below does; whoever loads the library compares it. */
#define UNROLLED_ABI 5

UNROLLED_API int32_t unrolled_abi(void);

/* ---- instruction levels ---------------------------------------------------------------------- */

enum unrolled_level {
    UNROLLED_PORTABLE = 0, /* what the compiler may assume of any such processor */
    UNROLLED_AVX2 = 1,     /* AVX2 and FMA */
    UNROLLED_AVX512 = 2,   /* AVX-512 F, BW, DQ, VL; its bf16 and VNNI dot products where present */
    UNROLLED_AMX = 3       /* the same, and bf16 products on AMX tiles */
};

/* What unrolled_features() may contain. */
enum unrolled_feature { UNROLLED_HAS_BF16_DOT = 1, UNROLLED_HAS_VNNI = 2, UNROLLED_HAS_AMX = 4 };

/* Return the level in use: at first the best that this processor and operating system run. */
UNROLLED_API int32_t unrolled_level(void);
/* Return the best level that runs here. */
UNROLLED_API int32_t unrolled_best_level(void);
/* Choose a level for all later calls; return it, or -1 (and change nothing) if it cannot run here. */
UNROLLED_API int32_t unrolled_set_level(int32_t level);
/* Return the features used at the level in use. */
UNROLLED_API uint32_t unrolled_features(void);

/* ---- threads --------------------------------------------------------------------------------- */

/* The entry point of an OpenMP runtime (GOMP_parallel) that the process already uses. Two runtimes
 * would fight for the cores, since the threads of each spin for a while after their work. */
typedef void (*unrolled_team)(void (*work)(void *), void *data, unsigned threads, unsigned flags);
/* Borrow that runtime's threads; NULL: the library's own pool. A forked child uses its own pool. */
UNROLLED_API void unrolled_use_team(unrolled_team team);

/* ---- counters: what really ran ----------------------------------------------------------------- */

enum unrolled_counter {
    UNROLLED_FORWARD = 0,
    UNROLLED_BACKWARD = 1,
    UNROLLED_STEP = 2,
    UNROLLED_MATMUL = 3
};
/* Return how many calls of a kind have run in this process. */
UNROLLED_API int64_t unrolled_count(int32_t counter);

/* ---- matrix products ----------------------------------------------------------------------------- */

enum unrolled_precision {
    UNROLLED_FP32 = 0,
    UNROLLED_BF16 = 1, /* operands are rounded to bf16, sums are fp32 */
    UNROLLED_INT8 = 2, /* weights: 8 bits and a scale a column; activations: 8 bits, a scale a row;
                        * sums of 65536 numbers at most */
    /* of unrolled_matmul and decoders alone; activations: 8 bits and a scale for 32 of them. Weights:
     * an fp16 scale for 32 of a column, and 8 or 4 bits, as GGUF's blocks of these names, which are
     * found again in the fp32 numbers that they stand for; weights are finite */
    UNROLLED_Q8_0 = 3,
    UNROLLED_Q4_0 = 4
};

/* c (m, n) = a (m, k) b (k, n) + bias (n); with accumulate, c += a b.
 *
 * a_trans: a is stored (k, m). b_trans: b is stored (n, k), as the weight of a linear layer is.
 * lda, ldb and ldc count numbers from one stored row to the next. bias may be NULL.
 * With a_trans the sum over k is taken in blocks of a fixed size (k is long there: it counts the
 * steps of a whole batch); otherwise every element is one chain over k in ascending order. Either
 * way the bits of a row of c depend on neither m nor threads. a_trans and b_trans together are
 * refused, and so are int8, Q8_0 and Q4_0 but for b_trans alone without accumulate. */
UNROLLED_API const char *unrolled_matmul(int32_t precision, int32_t threads, int64_t m, int64_t n,
                                         int64_t k, const float *a, int64_t lda, int32_t a_trans,
                                         const float *b, int64_t ldb, int32_t b_trans,
                                         const float *bias, float *c, int64_t ldc,
                                         int32_t accumulate);

/* ---- one layer of one direction over time ---------------------------------------------------------- */

enum unrolled_cell {
    UNROLLED_RNN_TANH = 0,
    UNROLLED_RNN_RELU = 1,
    UNROLLED_GRU = 2, /* gates: reset, update, candidate; reset after the product, as in torch */
    UNROLLED_LSTM = 3 /* gates: input, forget, candidate, output */
};

/* A batch of B sequences, the longest first: at step t the first active[t] rows are read, and
 * active never grows with t. Step t of row r stands at row offset[t] + base[r] of x and y (and of
 * d_x and d_y), so that no layout has to be copied into another:
 *   time first (T, B, .): step_stride B, row_stride 1
 *   batch first (B, T, .): step_stride 1, row_stride T
 *   batch first and padded, rows in any order: step_stride 1, base[r] = T * (index of row r)
 *   packed (N, .): offset the running sum of active, row_stride 1
 * offset NULL means t * step_stride, base NULL means r * row_stride, active NULL all rows at every
 * step. Row r is row order[r] of h0, c0, mask and of what stands beside them (NULL: r itself).
 * What no step stands at (padding) is never read nor written. gates, cells and inner are in an
 * order of the library's own: hand them back as they came.
 */
typedef struct unrolled_run {
    int32_t cell, precision, reverse, threads; /* reverse: from each row's last step to its first */
    int64_t rows, steps, input, hidden;        /* B, T, D, H */
    int64_t count;                             /* N, the sum of active */
    int64_t step_stride, row_stride;
    const int64_t *offset, *active; /* (T); may be NULL */
    const int64_t *base, *order;    /* (B); may be NULL */
    /* inputs */
    const float *x;            /* (rows of x, D) */
    const float *w_ih, *w_hh;  /* (G*H, D), (G*H, H) */
    const float *b_ih, *b_hh;  /* (G*H); may be NULL */
    const float *h0, *c0;      /* (B, H); NULL: zeros */
    const float *mask;         /* (B, H): multiplies h on its way to the gates; may be NULL */
    /* outputs */
    float *y;                  /* (rows of x, H) */
    float *h_final, *c_final;  /* (B, H); may be NULL */
    /* kept for the backward pass; all NULL when there is none */
    float *gates; /* (N, G*H) gates after their activation; not for rnn */
    float *cells; /* (N, H), lstm */
    float *inner; /* (N, H), gru: W_hn h + b_hn */
    /* backward: gradients of the outputs (may be NULL: zeros) ... */
    const float *d_y;                   /* (rows of x, H) */
    const float *d_h_final, *d_c_final; /* (B, H) */
    /* ... and of the inputs (NULL: not requested) */
    float *d_x;             /* (rows of x, D) */
    float *d_w_ih, *d_w_hh; /* (G*H, D), (G*H, H) */
    float *d_b_ih, *d_b_hh; /* (G*H) */
    float *d_h0, *d_c0;     /* (B, H) */
} unrolled_run;

/* Read all steps; H is at least 1. int8: only without anything kept and without mask. */
UNROLLED_API const char *unrolled_forward(const unrolled_run *run);
/* Fill the gradients requested, from what forward was given, gave and kept. */
UNROLLED_API const char *unrolled_backward(const unrolled_run *run);

/* ---- streaming: packed weights that stay, one step at a time ----------------------------------------- */

typedef struct unrolled_stream unrolled_stream;

/* A chain of stages for `batch` rows, run on the thread that steps it; NULL when memory is out or a number does not fit. */
UNROLLED_API unrolled_stream *unrolled_stream_new(int64_t batch, int32_t precision);
/* Read token ids instead of vectors: row id of table (vocabulary, width), which is not copied and
 * must stay where it is. Comes before every stage. */
UNROLLED_API const char *unrolled_stream_embedding(unrolled_stream *s, int64_t vocabulary,
                                                   int64_t width, const float *table);
/* Add a recurrent layer. h (B, H) and c (B, H; lstm) are the caller's: read and written by every
 * step. residual: the stage gives h + what it read. */
UNROLLED_API const char *unrolled_stream_layer(unrolled_stream *s, int32_t cell, int64_t input,
                                               int64_t hidden, float *h, float *c,
                                               int32_t residual);
/* Add y = x w^T + b. */
UNROLLED_API const char *unrolled_stream_linear(unrolled_stream *s, int64_t input, int64_t output);
/* Pack a stage's weights (stages count from 0, the embedding not among them): shapes as above;
 * a linear stage takes w_ih and b_ih. Call it for every stage before the first step, and again when
 * weights have changed. */
UNROLLED_API const char *unrolled_stream_load(unrolled_stream *s, int64_t stage, const float *w_ih,
                                              const float *w_hh, const float *b_ih,
                                              const float *b_hh);
/* Where the last stage writes: (B, its width), the caller's. */
UNROLLED_API const char *unrolled_stream_output(unrolled_stream *s, float *y);
/* Read one step: x (B, D), or with an embedding int64 ids (B). Allocates nothing. */
UNROLLED_API const char *unrolled_stream_step(unrolled_stream *s, const void *x);
/* Return how many bytes of weights a step reads. */
UNROLLED_API int64_t unrolled_stream_bytes(const unrolled_stream *s);
UNROLLED_API void unrolled_stream_free(unrolled_stream *s);

/* ---- the best of many log probabilities ------------------------------------------------------------- */

/* Give the k best log probabilities of every row of logits (rows, vocabulary), ld numbers apart, and
 * their ids, the best first and of equal ones the lower id: values and ids (rows, k). k is 1 to 64, and
 * vocabulary at most. -inf is what cannot be chosen. A row with NaN or +inf, or of -inf alone, has no
 * probabilities: its values are NaN, its ids 0 to k - 1. */
UNROLLED_API const char *unrolled_top_log_probabilities(int32_t threads, int64_t rows,
                                                        int64_t vocabulary, const float *logits,
                                                        int64_t ld, int64_t k, float *values,
                                                        int64_t *ids);

/* ---- transformers: tokens of many rows through all blocks, with a cache of keys and values -------------- */

enum unrolled_norm { UNROLLED_LAYER_NORM = 0, UNROLLED_RMS_NORM = 1 };
enum unrolled_feedforward {
    UNROLLED_RELU = 0,
    UNROLLED_GELU = 1,     /* x times the normal distribution's integral up to x */
    UNROLLED_SWIGLU = 2,   /* u x sigmoid(u) times v of up = (u; v) */
    UNROLLED_GELU_TANH = 3 /* GELU by tanh, as in GPT-2 */
};

/* B rows of width W, L blocks, N heads of width E, K key-value heads and K' of the memory (both
 * divide N), F inner width, V vocabulary. Weights are those of linear layers, bias NULL: none. */
enum unrolled_part {
    UNROLLED_SELF_IN = 0,   /* query, key, value of self-attention, one below the other ((N + 2 K) E, W) */
    UNROLLED_SELF_OUT = 1,  /* (W, N E) */
    UNROLLED_CROSS_IN = 2,  /* the query of cross-attention (N E, W) */
    UNROLLED_CROSS_OUT = 3, /* (W, N E) */
    UNROLLED_UP = 4,        /* (F, W), for swiglu (2 F, W) */
    UNROLLED_DOWN = 5,      /* (W, F) */
    UNROLLED_SELF_NORM = 6, /* norms: weight (W), and for layer norm bias (W) */
    UNROLLED_CROSS_NORM = 7,
    UNROLLED_FEEDFORWARD_NORM = 8,
    UNROLLED_LAST_NORM = 9, /* of the whole stack, as is the head; used where it was loaded */
    UNROLLED_HEAD = 10,       /* (V, W) */
    UNROLLED_QUERY_NORM = 11, /* of each head before it is turned: weight (E); used where loaded */
    UNROLLED_KEY_NORM = 12
};

typedef struct unrolled_decoder unrolled_decoder;

/* A stack of blocks: self-attention, cross-attention (unless K' is 0), feed-forward; each reads the norm
 * of the sum so far and adds to it (norm_first), or the norm is taken of the new sum. */
typedef struct unrolled_stack {
    int32_t precision, norm, norm_first, feedforward;
    float epsilon, head_epsilon; /* of norms, and of those of queries and keys */
    int64_t layers, width, heads, size, kv_heads, memory_heads, inner; /* L, W, N, E, K, K', F */
    int64_t vocabulary; /* 0: no head */
    int64_t window;     /* a step looks at so many, itself among them; 0: at all */
} unrolled_stack;

/* NULL when memory is out or a number does not fit. */
UNROLLED_API unrolled_decoder *unrolled_decoder_new(const unrolled_stack *stack);
/* Pack a part's weights. Call it for every part of every block before the first step, and again when
 * weights have changed. */
UNROLLED_API const char *unrolled_decoder_load(unrolled_decoder *d, int64_t layer, int32_t part,
                                               const float *weight, const float *bias);

/* One token of B rows. Keys and values are (L, ., K, ., E): E numbers side by side, the strides of the
 * other four count numbers and are those of keys and values alike. Row b has read lengths[b] steps; its
 * new key and value are written at that step of its own row of the cache. Step s < lengths[b] of row b
 * stands in row origin[b * room + s] of the cache (NULL: in its own), and origin[b * room + lengths[b]]
 * becomes b; nothing that is read may stand where another row writes. Without origin, own may say which
 * row of the cache is a row's own, so that steps of one sequence are rows of one call: they stand one
 * after the other, each a step longer than the one before.
 * With pages the rows of the cache are pages of C steps, a power of two: step s of a row stands at step
 * s % C of page pages[q * most_pages + s / C], where q is own[b], or b. Sequences may have pages in
 * common, but for those that one of them writes. */
typedef struct unrolled_decoding {
    int64_t threads, rows, sources; /* sources: S */
    int64_t cache_rows, room;       /* of the cache; room is C, its steps */
    int64_t cache_strides[4];       /* of layer, row, head and step */
    int64_t memory_steps, memory_strides[3]; /* M; of source, head and step */
    const float *x;                            /* (B, W), the embedded token; NULL: see ids */
    const int64_t *ids;                        /* (B), rows of table (tokens, W) */
    const float *table;
    int64_t tokens;
    const float *places;                       /* added to x: (positions, W), or NULL */
    const float *cosines, *sines;              /* rotary: (positions, E / 2); NULL: not rotary */
    int64_t positions;                         /* row lengths[b] of these is row b's; 0: row b is */
    float *keys, *values;                      /* (L, cache_rows, K, C, E) */
    const int64_t *lengths;                    /* (B) */
    int32_t *origin;                           /* (B, C); may be NULL */
    const int64_t *own;                        /* (B); NULL: b; not beside origin */
    const float *const *memory_keys;           /* (L) of (S, K', M, E); NULL where K' is 0 */
    const float *const *memory_values;
    const int64_t *memory_lengths;             /* (S); nothing is seen in a source of no step */
    const int64_t *memory_rows;                /* (B), which source a row reads */
    float *y;                                  /* (B, W), what the head reads; may be NULL */
    float *logits;                             /* (scored, V), rows ld_logits apart; NULL without a head */
    int64_t ld_logits, scored;                 /* how many rows have scores */
    const int64_t *score_at;                   /* (B), which row of them, -1: none; NULL: row b, of B */
    int64_t k;                                 /* 0, or how many of the best are requested: no logits then */
    float *best;                               /* (scored, k), as unrolled_top_log_probabilities gives them */
    int64_t *best_ids;                         /* (scored, k) */
    const int64_t *banned;                     /* ids that are passed over; the others are no likelier */
    int64_t banned_count;
    const int32_t *pages;                      /* (sequences, most_pages); NULL: none; not beside origin */
    int64_t sequences, most_pages;
} unrolled_decoding;

/* Read one token of every row. What is refused has changed nothing. Rows that are steps of sequences
 * (own) need room for keys in all of them. */
UNROLLED_API const char *unrolled_decoder_step(unrolled_decoder *d, const unrolled_decoding *call);
/* Return how many bytes of weights a step reads. */
UNROLLED_API int64_t unrolled_decoder_bytes(const unrolled_decoder *d);
UNROLLED_API void unrolled_decoder_free(unrolled_decoder *d);

/* ---- what the processor can do, measured -------------------------------------------------------------- */

/* Return operations per second (two a multiply-add) of the level in use with all operands in
 * registers, over about `seconds`. */
UNROLLED_API double unrolled_peak(int32_t precision, int32_t threads, double seconds);
/* Return bytes per second of reading a buffer of that size again and again. */
UNROLLED_API double unrolled_bandwidth(int64_t bytes, int32_t threads, double seconds);

#ifdef __cplusplus
}
#endif
#endif
