// Tokens of many rows through the blocks of a transformer: see unrolled_decoder_step.
//
// A thread takes some rows through all blocks without meeting the others, then the threads share the
// columns of the head. Rows that are steps of one sequence meet in every block, once their keys are
// written; of few rows threads share the columns of every product. A row's bits depend neither on the
// other rows nor on the threads.
#pragma once

namespace {

// ---- attention of one row ----------------------------------------------------------------------

// What one head attends to: step s stands at keys + offset_of(s) and values + offset_of(s).
template <class Offset> struct Attended {
    const float *keys, *values;
    int64_t steps, size; // size: E
    Offset offset_of;
};

// scores (steps, filled up to a whole vector) = scale * query . keys; W steps at a time
template <class Offset>
void score(const Attended<Offset> &attended, const float *query, float scale, float *scores) {
    alignas(64) uint32_t dots[W * W], turned[W * W];
    for (int64_t s = 0; s < attended.steps; s += W) {
        const int lanes = lanes_at(attended.steps, s);
        for (int i = 0; i < W; i++) {
            V sum = set1(0);
            if (i < lanes) {
                const float *key = attended.keys + attended.offset_of(s + i);
                for (int64_t e = 0; e < attended.size; e += W) {
                    const int n = lanes_at(attended.size, e);
                    sum = fma(load(query + e, n), load(key + e, n), sum);
                }
            }
            store(dots + i * W, as_bits(sum));
        }
        transpose(dots, W, turned, W);
        V sum = as_float(load(turned));
        for (int i = 1; i < W; i++) sum = add(sum, as_float(load(turned + i * W)));
        store(scores + s, mul(sum, set1(scale)));
    }
}

// Turn scores into e^(score - most), 0 behind the last; returns their sum.
inline float weigh(float *scores, int64_t steps) {
    for (int64_t s = steps; s % W; s++) scores[s] = -__builtin_inff();
    V top = load(scores), sum = set1(0);
    for (int64_t s = W; s < steps; s += W) top = larger(top, load(scores + s));
    const V most = set1(largest(top));
    for (int64_t s = 0; s < steps; s += W) {
        const V weight = exponential(sub(load(scores + s), most));
        store(scores + s, weight);
        sum = add(sum, weight);
    }
    return sum_of(sum);
}

// N vectors of the weighted sum of values, from number e on
template <int N, class Offset>
void mix(const Attended<Offset> &attended, const float *weights, float inverse, int64_t e,
         float *out) {
    V sum[N];
    const int last = lanes_at(attended.size, e + (N - 1) * W); // only the last vector may be cut off
#pragma GCC unroll 4
    for (int j = 0; j < N; j++) sum[j] = set1(0);
    for (int64_t s = 0; s < attended.steps; s++) {
        const V weight = set1(weights[s]);
        const float *value = attended.values + attended.offset_of(s) + e;
#pragma GCC unroll 4
        for (int j = 0; j < N; j++)
            sum[j] = fma(weight, j + 1 < N ? load(value + j * W) : load(value + j * W, last), sum[j]);
    }
#pragma GCC unroll 4
    for (int j = 0; j < N; j++)
        store(out + e + j * W, mul(sum[j], set1(inverse)), j + 1 < N ? W : last);
}

// out (E) = one head's attention
template <class Offset>
void attend(const Attended<Offset> &attended, const float *query, float scale, float *scores,
            float *out) {
    if (!attended.steps) {
        memset(out, 0, static_cast<size_t>(attended.size) * 4);
        return;
    }
    score(attended, query, scale, scores);
    const float inverse = 1.0f / weigh(scores, attended.steps);
    int64_t e = 0;
    for (; e + 3 * W < attended.size; e += 4 * W) mix<4>(attended, scores, inverse, e, out);
    if (e + W < attended.size) {
        mix<2>(attended, scores, inverse, e, out);
        e += 2 * W;
    }
    if (e < attended.size) mix<1>(attended, scores, inverse, e, out);
}

inline void copy(const float *from, float *to, int64_t n) {
    for (int64_t i = 0; i < n; i += W) {
        const int lanes = lanes_at(n, i);
        store(to + i, load(from + i, lanes), lanes);
    }
}

// Turn a head: number e and e + E / 2 are the coordinates that angle e turns.
inline void rotate(float *head, int64_t size, const float *cosines, const float *sines) {
    const int64_t half = size / 2;
    for (int64_t e = 0; e < half; e += W) {
        const int n = lanes_at(half, e);
        const V a = load(head + e, n), b = load(head + half + e, n);
        const V c = load(cosines + e, n), s = load(sines + e, n);
        store(head + e, sub(mul(a, c), mul(b, s)), n);
        store(head + half + e, add(mul(b, c), mul(a, s)), n);
    }
}

// ---- norms -------------------------------------------------------------------------------------

inline float sum_numbers(const float *x, int64_t n) {
    V sum = set1(0);
    for (int64_t i = 0; i < n; i += W) sum = add(sum, load(x + i, lanes_at(n, i)));
    return sum_of(sum);
}

// y = (x - mean) / sqrt(variance + epsilon) * weight + bias of n numbers; rms norm takes no mean. y may
// be x.
inline void normalise(int32_t kind, float epsilon, int64_t n, const Norm &norm, const float *x,
                      float *y) {
    const float mean = kind == UNROLLED_LAYER_NORM ? sum_numbers(x, n) / static_cast<float>(n) : 0;
    float means[W];
    store(means, set1(mean));
    V squares = set1(0);
    for (int64_t i = 0; i < n; i += W) {
        const int lanes = lanes_at(n, i);
        const V off = sub(load(x + i, lanes), load(means, lanes)); // 0 behind the last number
        squares = fma(off, off, squares);
    }
    const float variance = sum_of(squares) / static_cast<float>(n);
    const V inverse = set1(1.0f / __builtin_sqrtf(variance + epsilon));
    for (int64_t i = 0; i < n; i += W) {
        const int lanes = lanes_at(n, i);
        V v = mul(sub(load(x + i, lanes), set1(mean)), inverse);
        v = mul(v, load(norm.weight + i, lanes));
        if (norm.bias) v = add(v, load(norm.bias + i, lanes));
        store(y + i, v, lanes);
    }
}

// ---- some rows through all blocks ----------------------------------------------------------------

inline int64_t largest_of(int64_t a, int64_t b) { return a > b ? a : b; }

inline void normalise(const Decoder &d, const Norm &norm, const float *x, float *y) {
    normalise(d.norm, d.epsilon, d.width, norm, x, y);
}

// Half of GELU's argument by tanh is that of a sigmoid (Hendrycks and Gimpel 2016, section 2).
inline V gelu_tanh(V v) {
    const V cube = mul(mul(v, v), v);
    const V inner = mul(set1(1.5957691216f), fma(set1(0.044715f), cube, v));
    return mul(v, sigmoid(inner));
}

// numbers from one row of floats to the next, so that rows of a power of two fall into other lines
inline int64_t float_stride(int64_t numbers) { return row_stride(UNROLLED_FP32, numbers); }

// steps that a row may have
inline int64_t most_steps(const unrolled_decoding &c) {
    return c.pages ? c.most_pages * c.room : c.room;
}

struct Sizes {
    int64_t query, wide, scores; // of a row: numbers of all queries, keys and values; most at once
    Sizes(const Decoder &d, const unrolled_decoding &c)
        : query(d.heads * d.size), wide(query + 2 * d.kv_heads * d.size),
          scores(largest_of(most_steps(c), d.memory_heads ? c.memory_steps : 0) + W) {
        wide = largest_of(wide, d.inner);
    }
};

// How the threads of a call share it: nothing, the columns of products, or the rows of sequences.
enum class Sharing { ALONE, COLUMNS, STEPS };


inline int64_t most_sums(const Decoder &d, int64_t rows) {
    int64_t most = d.head.w.panels ? sums_size(d.head.w, rows) : 0;
    const DecoderBlock &b = d.blocks[0];
    const Product *all[] = {&b.in, &b.out, &b.cross_in, &b.cross_out, &b.up, &b.down};
    for (const Product *p : all)
        if (p->w.panels) most = largest_of(most, sums_size(p->w, rows));
    return most;
}

// Rows of a call in the hands of one thread, or some of their columns.
struct DecoderRows {
    const Decoder &d;
    const unrolled_decoding &c;
    int64_t first, rows;
    Sharing sharing = Sharing::ALONE;
    int64_t member = 0, members = 1;
    Meeting *meeting = nullptr;
    int64_t ld = 0, ld_mixed = 0, ld_wide = 0; // of x and normed; of mixed; of wide
    float *x = nullptr;           // the sums that all blocks add to
    float *normed = nullptr;      // their norms
    float *mixed = nullptr;       // what heads made
    float *wide = nullptr;        // queries, keys and values, or inner numbers
    Rows converted = {};          // what a product reads
    float *sums = nullptr, *scores = nullptr;

    DecoderRows(const Decoder &d, const unrolled_decoding &c, int64_t first, int64_t rows)
        : d(d), c(c), first(first), rows(rows) {}

    void measure() {
        const Sizes sizes(d, c);
        ld = float_stride(d.width);
        ld_mixed = float_stride(sizes.query);
        ld_wide = float_stride(sizes.wide);
    }

    // what threads that share columns have in common
    void carve_common(Arena &arena) {
        measure();
        x = arena.floats(rows * ld);
        mixed = arena.floats(rows * ld_mixed);
        wide = arena.floats(rows * ld_wide);
    }

    void carve_own(Arena &arena) {
        const Sizes sizes(d, c);
        const int64_t longest = largest_of(largest_of(d.width, sizes.query), d.inner);
        measure();
        normed = arena.floats(rows * ld);
        converted = carve_rows(arena, d.precision, rows, longest);
        sums = arena.floats(most_sums(d, rows));
        scores = arena.floats(sizes.scores);
    }

    void carve(Arena &arena) {
        carve_common(arena);
        carve_own(arena);
    }

    bool shares_columns() const { return sharing == Sharing::COLUMNS; }
    // wait until what the others were to write is there
    void meet_columns() const {
        if (shares_columns()) meet(*meeting);
    }
    // this thread's of some things that the threads of shared columns share
    Range own(int64_t count) const {
        return shares_columns() ? range_of(count, member, members) : Range{0, count};
    }

    // The rows as a product reads them: as they stand in fp32, else in the precision's format.
    Rows as_rows(float *from, int64_t stride, int64_t k) const {
        Rows r = narrowed(converted, k);
        if (d.precision == UNROLLED_FP32) {
            r.data = reinterpret_cast<uint32_t *>(from);
            r.ld = stride;
            return r;
        }
        clear_ends(r, rows);
        for (int64_t i = 0; i < rows; i++) put_row(r, i, from + i * stride);
        return r;
    }

    // use(row, column, lanes, sums + bias)
    template <class Use>
    void product(const Product &p, float *from, int64_t stride, float *to, int64_t ld_to, Use use) const {
        const auto target = [&](int64_t i, int64_t at) { return to + i * ld_to + at; };
        multiply(p.w, own(p.w.panels), as_rows(from, stride, p.w.k), rows, sums, target,
                 [&](int64_t i, int64_t at, int n, const float *sum) {
                     V v = load(sum);
                     if (p.bias) v = add(v, load(p.bias + at, n));
                     use(target(i, at), n, v, sum, at);
                 });
    }

    void set(const Product &p, float *from, int64_t stride) const {
        product(p, from, stride, wide, ld_wide,
                [](float *to, int n, V v, const float *, int64_t) { store(to, v, n); });
    }

    void add_to_x(const Product &p, float *from, int64_t stride) const {
        product(p, from, stride, x, ld, [](float *to, int n, V v, const float *, int64_t) {
            store(to, add(load(to, n), v), n);
        });
    }

    // what a part reads, and what becomes of the sum after it
    float *before(const Norm &norm) const {
        if (!d.norm_first) return x;
        for (int64_t i = 0; i < rows; i++) normalise(d, norm, x + i * ld, normed + i * ld);
        return normed;
    }
    void after(const Norm &norm) const {
        meet_columns();
        if (d.norm_first) return;
        const Range mine = own(rows);
        for (int64_t i = mine.first; i < mine.past; i++) normalise(d, norm, x + i * ld, x + i * ld);
        meet_columns();
    }

    float scale() const { return 1.0f / __builtin_sqrtf(static_cast<float>(d.size)); }

    // Attend with all heads; keys and values of key-value heads stand `stride` numbers apart.
    template <class Offset>
    void attend_heads(const Attended<Offset> &first_head, int64_t kv_heads, int64_t stride,
                      int64_t i) const {
        const int64_t group = d.heads / kv_heads; // query heads of a key-value head
        const Range mine = own(kv_heads);
        for (int64_t head = mine.first * group; head < mine.past * group; head++) {
            Attended<Offset> attended = first_head;
            attended.keys += head / group * stride;
            attended.values += head / group * stride;
            const float *query = wide + i * ld_wide + head * d.size;
            attend(attended, query, scale(), scores, mixed + i * ld_mixed + head * d.size);
        }
    }

    // Ask for what a row will attend to: it comes from far, a piece for each head.
    void fetch(int64_t layer, int64_t i) const {
        if (i >= rows) return;
        const int64_t b = first + i, past = c.lengths[b], *strides = c.cache_strides;
        for (int64_t h = 0; h < d.kv_heads; h++)
            for (int64_t s = seen_from(past); s <= past; s++) {
                const int64_t at = layer * strides[0] + h * strides[2] + place_of(b, s);
                for (int64_t e = 0; e < d.size; e += 16) {
                    __builtin_prefetch(c.keys + at + e);
                    __builtin_prefetch(c.values + at + e);
                }
            }
    }

    int64_t own_row(int64_t b) const { return c.own ? c.own[b] : b; }

    // where step s of a row stands in each layer and head of the cache
    int64_t place_of(int64_t b, int64_t s) const {
        const int64_t *strides = c.cache_strides;
        if (c.pages) {
            const int32_t page = c.pages[own_row(b) * c.most_pages + s / c.room];
            return page * strides[1] + s % c.room * strides[3];
        }
        const bool elsewhere = c.origin && s < c.lengths[b];
        return (elsewhere ? c.origin[b * c.room + s] : own_row(b)) * strides[1] + s * strides[3];
    }

    // the first step that one at `past` sees
    int64_t seen_from(int64_t past) const {
        return d.window ? largest_of(0, past + 1 - d.window) : 0;
    }

    // Norms of queries and keys, rotation, and keys and values into the cache.
    void write_keys(const DecoderBlock &block, int64_t layer, int64_t i) const {
        const int64_t b = first + i, past = c.lengths[b], *strides = c.cache_strides;
        const int64_t group = d.heads / d.kv_heads, place = layer * strides[0] + place_of(b, past);
        const int64_t at = c.positions ? past : b;
        float *query = wide + i * ld_wide, *key = query + d.heads * d.size;
        const auto prepare = [&](float *head, const Norm &norm) {
            if (norm.weight)
                normalise(UNROLLED_RMS_NORM, d.head_epsilon, d.size, norm, head, head);
            if (c.cosines)
                rotate(head, d.size, c.cosines + at * (d.size / 2), c.sines + at * (d.size / 2));
        };
        const Range mine = own(d.kv_heads);
        for (int64_t h = mine.first * group; h < mine.past * group; h++)
            prepare(query + h * d.size, block.query_norm);
        for (int64_t h = mine.first; h < mine.past; h++) {
            const int64_t to = place + h * strides[2];
            prepare(key + h * d.size, block.key_norm);
            copy(key + h * d.size, c.keys + to, d.size);
            copy(key + (d.kv_heads + h) * d.size, c.values + to, d.size);
        }
        if (c.origin && member == 0) c.origin[b * c.room + past] = static_cast<int32_t>(b);
    }

    void self_attention(int64_t layer, int64_t i) const {
        const int64_t b = first + i, past = c.lengths[b], *strides = c.cache_strides;
        const int64_t all = layer * strides[0], row = strides[1], step = strides[3];
        const int64_t from = seen_from(past), steps = past + 1 - from;
        if (c.pages) {
            const int32_t *pages = c.pages + own_row(b) * c.most_pages;
            const int64_t bits = __builtin_ctzll(static_cast<uint64_t>(c.room)), last = c.room - 1;
            const auto offset_of = [=](int64_t s) {
                return pages[(from + s) >> bits] * row + ((from + s) & last) * step;
            };
            const Attended<decltype(offset_of)> in_pages = {c.keys + all, c.values + all, steps, d.size,
                                                            offset_of};
            return attend_heads(in_pages, d.kv_heads, strides[2], i);
        }
        if (!c.origin) {
            const auto offset_of = [=](int64_t s) { return s * step; };
            const int64_t at = all + own_row(b) * row + from * step;
            const Attended<decltype(offset_of)> of_row = {c.keys + at, c.values + at, steps, d.size,
                                                          offset_of};
            return attend_heads(of_row, d.kv_heads, strides[2], i);
        }
        const int32_t *origin = c.origin + b * c.room + from;
        // another thread may write the last one's
        const auto offset_of = [=](int64_t s) {
            return (s + 1 < steps ? origin[s] : b) * row + s * step;
        };
        const int64_t at = all + from * step;
        const Attended<decltype(offset_of)> any = {c.keys + at, c.values + at, steps, d.size,
                                                   offset_of};
        attend_heads(any, d.kv_heads, strides[2], i);
    }

    void cross_attention(int64_t layer, int64_t i) const {
        const int64_t source = c.memory_rows[first + i], *strides = c.memory_strides;
        const int64_t step = strides[2];
        const auto offset_of = [=](int64_t s) { return s * step; };
        const float *keys = c.memory_keys[layer] + source * strides[0];
        const float *values = c.memory_values[layer] + source * strides[0];
        const int64_t steps = c.memory_lengths[source];
        const Attended<decltype(offset_of)> memory = {keys, values, steps, d.size, offset_of};
        attend_heads(memory, d.memory_heads, strides[1], i);
    }

    void feed_forward(const DecoderBlock &block) const {
        const Product &up = block.up;
        const int64_t inner = d.inner;
        float *from = before(block.feedforward_norm);
        if (d.feedforward == UNROLLED_RELU)
            product(up, from, ld, wide, ld_wide, [](float *to, int n, V v, const float *, int64_t) {
                store(to, at_least(v, 0.0f), n);
            });
        else if (d.feedforward == UNROLLED_GELU)
            product(up, from, ld, wide, ld_wide, [](float *to, int n, V v, const float *, int64_t) {
                store(to, gelu(v), n);
            });
        else if (d.feedforward == UNROLLED_GELU_TANH)
            product(up, from, ld, wide, ld_wide, [](float *to, int n, V v, const float *, int64_t) {
                store(to, gelu_tanh(v), n);
            });
        else
            product(up, from, ld, wide, ld_wide, [&](float *to, int n, V u, const float *sum, int64_t at) {
                V v = load(sum + W);
                if (up.bias) v = add(v, load(up.bias + inner + at, n));
                store(to, mul(mul(u, sigmoid(u)), v), n);
            });
        meet_columns();
        add_to_x(block.down, wide, ld_wide);
        after(block.feedforward_norm);
    }

    void embed(int64_t i) const {
        const int64_t b = first + i;
        const float *from = c.x ? c.x + b * d.width : c.table + c.ids[b] * d.width;
        float *to = x + i * ld;
        memcpy(to, from, static_cast<size_t>(d.width) * 4);
        if (!c.places) return;
        const float *place = c.places + (c.positions ? c.lengths[b] : b) * d.width;
        for (int64_t e = 0; e < d.width; e += W) {
            const int n = lanes_at(d.width, e);
            store(to + e, add(load(to + e, n), load(place + e, n)), n);
        }
    }

    void attention(const DecoderBlock &block, int64_t layer) const {
        set(block.in, before(block.self_norm), ld);
        meet_columns();
        if (c.own) { // rows see each other's keys
            for (int64_t i = 0; i < rows; i++) write_keys(block, layer, i);
            if (sharing == Sharing::STEPS) meet(*meeting);
            for (int64_t i = 0; i < rows; i++) self_attention(layer, i);
        } else {
            for (int64_t i = 0; i < rows; i++) {
                if (!shares_columns()) fetch(layer, i + 1);
                write_keys(block, layer, i);
                self_attention(layer, i);
            }
        }
        meet_columns();
        add_to_x(block.out, mixed, ld_mixed);
        after(block.self_norm);
    }

    void run(const Rows &to) const {
        const Range mine = own(rows);
        for (int64_t i = mine.first; i < mine.past; i++) embed(i);
        meet_columns();
        for (int64_t layer = 0; layer < d.layers; layer++) {
            const DecoderBlock &block = d.blocks[layer];
            attention(block, layer);
            if (d.memory_heads) {
                set(block.cross_in, before(block.cross_norm), ld);
                meet_columns();
                for (int64_t i = 0; i < rows; i++) cross_attention(layer, i);
                meet_columns();
                add_to_x(block.cross_out, mixed, ld_mixed);
                after(block.cross_norm);
            }
            feed_forward(block);
        }
        for (int64_t i = mine.first; i < mine.past; i++) {
            const int64_t b = first + i;
            float *y = x + i * ld;
            if (d.last.weight) normalise(d, d.last, y, y);
            if (c.y) memcpy(c.y + b * d.width, y, static_cast<size_t>(d.width) * 4);
            const int64_t at = c.score_at ? c.score_at[b] : b;
            if (d.vocabulary && at >= 0) put_row(to, at, y);
        }
    }
};

} // namespace
