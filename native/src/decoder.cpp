// A transformer decoder: packed weights, and the checks of a step.

#include <cstring>
#include <vector>

#include "core.h"
#include "memory.h"

namespace {

constexpr int32_t PARTS = 13;

// Weights and bias of a part, and whether they were given.
struct Slot {
    Memory weights, bias;
    bool loaded = false;
};

bool of_heads(int32_t part) { return part == UNROLLED_QUERY_NORM || part == UNROLLED_KEY_NORM; }

bool is_norm(int32_t part) {
    return (part >= UNROLLED_SELF_NORM && part <= UNROLLED_LAST_NORM) || of_heads(part);
}

// whether it belongs to the whole stack
bool of_stack(int32_t part) { return part == UNROLLED_LAST_NORM || part == UNROLLED_HEAD; }

float *floats(Memory &memory) { return reinterpret_cast<float *>(memory.data); }

// A copy of n numbers; no memory for none.
Memory copied(const float *from, int64_t n) {
    if (!from) return Memory();
    Memory to(static_cast<size_t>(n) * 4);
    memcpy(to.data, from, static_cast<size_t>(n) * 4);
    return to;
}

} // namespace

struct unrolled_decoder {
    Decoder d = {};
    const Level *at = nullptr;
    std::vector<DecoderBlock> blocks;
    std::vector<Slot> slots; // PARTS of every block; LAST_NORM and HEAD are those of the first

    Slot &slot(int64_t layer, int32_t part) {
        return slots[static_cast<size_t>((of_stack(part) ? 0 : layer) * PARTS + part)];
    }

    bool needed(int32_t part) const {
        if (part == UNROLLED_CROSS_IN || part == UNROLLED_CROSS_OUT || part == UNROLLED_CROSS_NORM)
            return d.memory_heads > 0;
        if (part == UNROLLED_HEAD) return d.vocabulary > 0;
        return part != UNROLLED_LAST_NORM && !of_heads(part);
    }

    Product *product(int64_t layer, int32_t part) {
        DecoderBlock &b = blocks[static_cast<size_t>(layer)];
        switch (part) {
        case UNROLLED_SELF_IN: return &b.in;
        case UNROLLED_SELF_OUT: return &b.out;
        case UNROLLED_CROSS_IN: return &b.cross_in;
        case UNROLLED_CROSS_OUT: return &b.cross_out;
        case UNROLLED_UP: return &b.up;
        case UNROLLED_DOWN: return &b.down;
        default: return &d.head;
        }
    }

    Norm *norm(int64_t layer, int32_t part) {
        DecoderBlock &b = blocks[static_cast<size_t>(layer)];
        switch (part) {
        case UNROLLED_SELF_NORM: return &b.self_norm;
        case UNROLLED_CROSS_NORM: return &b.cross_norm;
        case UNROLLED_FEEDFORWARD_NORM: return &b.feedforward_norm;
        case UNROLLED_QUERY_NORM: return &b.query_norm;
        case UNROLLED_KEY_NORM: return &b.key_norm;
        default: return &d.last;
        }
    }

    void plan(int64_t layer, int32_t part) {
        const int64_t w = d.width, queries = d.heads * d.size;
        if (!needed(part) || is_norm(part)) return;
        Pack p;
        if (part == UNROLLED_UP && d.feedforward == UNROLLED_SWIGLU)
            p = at->plan(d.precision, INT32_MAX, 2, d.inner, w);
        else if (part == UNROLLED_DOWN)
            p = at->plan_product(d.precision, w, d.inner);
        else
            p = at->plan_product(d.precision,
                                 part == UNROLLED_SELF_IN    ? queries + 2 * d.kv_heads * d.size
                                 : part == UNROLLED_CROSS_IN ? queries
                                 : part == UNROLLED_UP       ? d.inner
                                 : part == UNROLLED_HEAD     ? d.vocabulary
                                                             : w,
                                 part == UNROLLED_SELF_OUT || part == UNROLLED_CROSS_OUT ? queries : w);
        Slot &slot = this->slot(layer, part);
        slot.weights = Memory(static_cast<size_t>(p.bytes));
        p.data = slot.weights.data;
        product(layer, part)->w = p;
    }

    bool ready() {
        for (int64_t layer = 0; layer < d.layers; layer++)
            for (int32_t part = 0; part < PARTS; part++)
                if (needed(part) && !slot(layer, part).loaded) return false;
        return true;
    }
};

namespace {

Error check_pages(const unrolled_decoding &c) {
    if (c.room & (c.room - 1)) return "steps of a page are no power of two";
    if (c.sequences < 0 || c.most_pages < 0 || c.most_pages >= INT32_MAX || (!c.own && c.sequences < c.rows))
        return "a size is out of range";
    for (int64_t b = 0; b < c.rows; b++) {
        const int64_t past = c.lengths[b], q = c.own ? c.own[b] : b;
        if (past < 0 || past / c.room >= c.most_pages) return "the cache has no room for the step";
        if (c.positions && past >= c.positions) return "no such position";
        if (q < 0 || q >= c.sequences) return "no such row of the cache";
        for (int64_t i = 0; i <= past / c.room; i++) {
            const int32_t page = c.pages[q * c.most_pages + i];
            if (page < 0 || page >= c.cache_rows) return "no such page of the cache";
        }
    }
    return nullptr;
}

Error check_cache(const Decoder &d, const unrolled_decoding &c) {
    if (!c.keys || !c.values || !c.lengths) return "no cache given";
    if ((!c.own && !c.pages && c.cache_rows < c.rows) || c.room < 1 || c.room >= INT32_MAX)
        return "the cache is too small";
    if (!c.cosines != !c.sines || (c.cosines && d.size % 2)) return "no rotation of such heads";
    if ((c.own || c.pages) && c.origin) return "rows have one place in the cache";
    if (c.pages) return check_pages(c);
    for (int64_t b = 0; b < c.rows; b++) {
        if (c.lengths[b] < 0 || c.lengths[b] >= c.room) return "the cache has no room for the step";
        if (c.positions && c.lengths[b] >= c.positions) return "no such position";
        if (!c.origin) continue;
        for (int64_t s = 0; s < c.lengths[b]; s++) {
            const int32_t row = c.origin[b * c.room + s];
            if (row < 0 || row >= c.cache_rows) return "no such row of the cache";
        }
    }
    return nullptr;
}

Error check_memory(const Decoder &d, const unrolled_decoding &c) {
    if (!d.memory_heads) return nullptr;
    if (!c.memory_keys || !c.memory_values || !c.memory_lengths || !c.memory_rows)
        return "no memory given";
    if (c.sources < 0 || c.memory_steps < 0 || c.memory_steps >= INT32_MAX)
        return "a size is out of range";
    for (int64_t layer = 0; layer < d.layers; layer++)
        if (!c.memory_keys[layer] || !c.memory_values[layer]) return "no memory given";
    for (int64_t s = 0; s < c.sources; s++)
        if (c.memory_lengths[s] < 0 || c.memory_lengths[s] > c.memory_steps)
            return "a source is longer than the memory";
    for (int64_t b = 0; b < c.rows; b++)
        if (c.memory_rows[b] < 0 || c.memory_rows[b] >= c.sources) return "no such source";
    return nullptr;
}

Error check_best(const Decoder &d, const unrolled_decoding &c) {
    if (c.k < 1 || c.k > 64 || c.k > d.vocabulary) return "k is out of range";
    if (!c.best || !c.best_ids) return "no room for the best given";
    if (c.banned_count < 0 || (c.banned_count && !c.banned)) return "no banned ids given";
    for (int64_t i = 0; i < c.banned_count; i++)
        if (c.banned[i] < 0 || c.banned[i] >= d.vocabulary) return "a banned id is none";
    return nullptr;
}

Error check_inputs(const unrolled_decoding &c) {
    if (!c.x && (!c.ids || !c.table)) return "no x given";
    if (!c.x)
        for (int64_t b = 0; b < c.rows; b++)
            if (c.ids[b] < 0 || c.ids[b] >= c.tokens) return "a token is not in the vocabulary";
    if (c.positions < 0) return "a size is out of range";
    if (!c.score_at) return nullptr;
    if (c.scored < 0 || c.scored > c.rows) return "more rows of scores than rows";
    std::vector<char> named(static_cast<size_t>(c.scored), 0);
    int64_t count = 0;
    for (int64_t b = 0; b < c.rows; b++) {
        const int64_t at = c.score_at[b];
        if (at < -1 || at >= c.scored) return "no such row of the scores";
        if (at < 0) continue;
        if (named[static_cast<size_t>(at)]++) return "two rows have their scores in one place";
        count++;
    }
    return count == c.scored ? nullptr : "a row of the scores is nobody's";
}

// Steps of one sequence stand one after the other.
Error check_own(const unrolled_decoding &c) {
    const int64_t sequences = c.pages ? c.sequences : c.cache_rows;
    std::vector<char> seen(static_cast<size_t>(sequences), 0);
    for (int64_t b = 0; b < c.rows; b++) {
        if (c.own[b] < 0 || c.own[b] >= sequences) return "no such row of the cache";
        const bool goes_on = b > 0 && c.own[b] == c.own[b - 1];
        if (goes_on && c.lengths[b] != c.lengths[b - 1] + 1)
            return "steps of a sequence do not follow each other";
        if (!goes_on && seen[static_cast<size_t>(c.own[b])]++)
            return "steps of a sequence do not stand together";
    }
    return nullptr;
}

Error check_step(const Decoder &d, const unrolled_decoding &c) {
    if (c.rows < 0 || c.rows >= INT32_MAX) return "a size is out of range";
    if (c.threads > 4096) return "so many threads are not offered";
    if (!c.rows) return nullptr;
    Error error = check_inputs(c);
    if (!error && c.k) error = check_best(d, c);
    if (!error && !c.k && d.vocabulary && (!c.logits || c.ld_logits < d.vocabulary))
        error = "no room for the logits";
    if (!error) error = check_cache(d, c);
    return error ? error : check_memory(d, c);
}

} // namespace

extern "C" {

unrolled_decoder *unrolled_decoder_new(const unrolled_stack *stack) {
    if (!stack) return nullptr;
    const unrolled_stack &k = *stack;
    if (k.precision < UNROLLED_FP32 || k.precision > UNROLLED_Q4_0) return nullptr;
    if (k.norm < UNROLLED_LAYER_NORM || k.norm > UNROLLED_RMS_NORM) return nullptr;
    if (k.feedforward < UNROLLED_RELU || k.feedforward > UNROLLED_GELU_TANH) return nullptr;
    for (const int64_t size : {k.layers, k.width, k.heads, k.size, k.kv_heads, k.inner})
        if (!size_fits(size)) return nullptr;
    if (!size_fits(k.heads * k.size) || k.heads % k.kv_heads || k.window < 0) return nullptr;
    if (k.vocabulary && !size_fits(k.vocabulary)) return nullptr;
    if (k.memory_heads && (!size_fits(k.memory_heads) || k.heads % k.memory_heads)) return nullptr;
    if (k.precision == UNROLLED_INT8)
        for (const int64_t size : {k.width, k.inner, k.heads * k.size})
            if (size > INT8_MOST) return nullptr;
    unrolled_decoder *made = nullptr;
    try {
        made = new unrolled_decoder;
        made->at = &level();
        made->blocks.resize(static_cast<size_t>(k.layers));
        made->slots.resize(static_cast<size_t>(k.layers * PARTS));
        static_cast<unrolled_stack &>(made->d) = k;
        made->d.blocks = made->blocks.data();
        for (int64_t layer = 0; layer < k.layers; layer++)
            for (int32_t part = 0; part < PARTS; part++)
                if (layer == 0 || !of_stack(part)) made->plan(layer, part);
    } catch (...) {
        delete made;
        return nullptr;
    }
    return made;
}

const char *unrolled_decoder_load(unrolled_decoder *d, int64_t layer, int32_t part,
                                  const float *weight, const float *bias) {
    if (!d || layer < 0 || layer >= d->d.layers || part < 0 || part >= PARTS) return "no such part";
    if (!d->needed(part) && !is_norm(part)) return "this decoder has no such part";
    if (part == UNROLLED_CROSS_NORM && !d->needed(part)) return "this decoder has no such part";
    if (!weight) return "no weights given";
    Slot &slot = d->slot(layer, part);
    try {
        if (is_norm(part)) {
            const int64_t n = of_heads(part) ? d->d.size : d->d.width;
            Memory kept = copied(weight, n);
            slot.bias = copied(bias, n);
            slot.weights = std::move(kept);
            *d->norm(layer, part) = {floats(slot.weights), floats(slot.bias)};
        } else {
            Product &product = *d->product(layer, part);
            slot.bias = copied(bias, product.w.units * product.w.gates);
            product.bias = floats(slot.bias);
            d->at->fill(product.w, weight, product.w.k);
        }
    } catch (...) {
        return OUT_OF_MEMORY;
    }
    slot.loaded = true;
    return nullptr;
}

const char *unrolled_decoder_step(unrolled_decoder *d, const unrolled_decoding *call) {
    if (!d || !call) return "no decoder or no call given";
    if (!d->ready()) return "a part has no weights yet";
    Error error = nullptr;
    try {
        error = check_step(d->d, *call);
        if (!error && call->rows && call->own) error = check_own(*call);
    } catch (...) {
        return OUT_OF_MEMORY;
    }
    if (!error) error = d->at->decode(d->d, *call);
    if (!error) count_step();
    return error;
}

int64_t unrolled_decoder_bytes(const unrolled_decoder *d) {
    if (!d) return 0;
    int64_t bytes = d->d.head.w.bytes;
    for (const DecoderBlock &b : d->blocks)
        for (const Product *p : {&b.in, &b.out, &b.cross_in, &b.cross_out, &b.up, &b.down})
            bytes += p->w.bytes;
    return bytes;
}

void unrolled_decoder_free(unrolled_decoder *d) { delete d; }

} // extern "C"
