// The head of a decoder, and the whole call: rows through all blocks, then scores or the best of them.
#pragma once

namespace {

// Columns of the head whose scores, of some hundred rows, stay in the second cache. They are cut
// alike for any number of threads, so that sums have the same bits.
struct Chunks {
    int64_t panels, columns, count;
    explicit Chunks(const Pack &w) {
        const int64_t panel_columns = w.vectors * W;
        panels = largest_of(1, 512 / largest_of(1, panel_columns));
        columns = panels * panel_columns;
        count = (w.panels + panels - 1) / panels;
    }
};

// What is known of every row after some chunks.
struct BestScores {
    float *most, *sums; // (chunks, B): the largest score, and the sum of e^(score - most)
    float *values;      // (groups, B, k), each group's best
    int64_t *ids;

    void carve(Arena &arena, int64_t chunk_rows, int64_t best) {
        most = arena.floats(chunk_rows);
        sums = arena.floats(chunk_rows);
        values = arena.floats(best);
        ids = arena.array<int64_t>(best);
    }
};

inline int64_t scored_rows(const unrolled_decoding &c) { return c.score_at ? c.scored : c.rows; }

struct DecodeWork {
    const Decoder &d;
    const unrolled_decoding &c;
    int64_t scored;        // rows that the head reads
    int64_t tasks, groups; // slices of rows, and of the head's panels or chunks
    Rows last;             // what the head reads
    bool streams;          // logits pass the caches
    Chunks chunks;
    BestScores scores;
    int32_t failed;
};

// ---- scores ----------------------------------------------------------------------------------------

inline void decode_rows(void *data, int64_t task) {
    DecodeWork &w = *static_cast<DecodeWork *>(data);
    const Range range = range_of(w.c.rows, task, w.tasks);
    DecoderRows rows(w.d, w.c, range.first, range.past - range.first);
    const Scratch memory([&](Arena &arena) { rows.carve(arena); });
    if (memory.failed()) return fail(w.failed);
    const MatrixUnit unit(w.d.precision);
    rows.run(w.last);
}

inline void decode_head(void *data, int64_t task) {
    DecodeWork &w = *static_cast<DecodeWork *>(data);
    const Product &head = w.d.head;
    float *sums = nullptr;
    const Scratch memory([&](Arena &arena) { sums = arena.floats(sums_size(head.w, w.scored)); });
    if (memory.failed()) return fail(w.failed);
    const MatrixUnit unit(w.d.precision);
    float *logits = w.c.logits;
    const int64_t ld = w.c.ld_logits;
    const Range panels = range_of(head.w.panels, task, w.groups);
    const auto put = [&](auto &&target, auto &&write) {
        multiply(head.w, panels, w.last, w.scored, sums, target,
                 [&](int64_t i, int64_t at, int n, const float *sum) {
                     V v = load(sum);
                     if (head.bias) v = add(v, load(head.bias + at, n));
                     write(logits + i * ld + at, v, n);
                 });
    };
    if (!w.streams)
        return put([&](int64_t i, int64_t at) { return logits + i * ld + at; },
                   [](float *to, V v, int n) { store(to, v, n); });
    // nothing to ask for: whole lines are written without being read; those cut off are few
    put([&](int64_t, int64_t) { return logits; },
        [](float *to, V v, int n) { n == W ? stream(to, v) : store(to, v, n); });
    streamed();
}

// Whether logits had better pass the caches: more than stay there, and all rows begin with a line.
inline bool passes_caches(const Decoder &d, const unrolled_decoding &c) {
    return scored_rows(c) * d.vocabulary * 4 > NEAR && c.ld_logits % 16 == 0 &&
           reinterpret_cast<uintptr_t>(c.logits) % 64 == 0;
}

// ---- the best scores -------------------------------------------------------------------------------

inline float largest_number(const float *row, int64_t n) {
    V top = set1(-__builtin_inff());
    int64_t i = 0;
    for (; i + W <= n; i += W) top = larger(top, load(row + i));
    float most = largest(top);
    for (; i < n; i++) most = row[i] > most ? row[i] : most;
    return most;
}

// The best of one group's columns for a row, of which `offered` were offered already.
inline Best best_of(const DecodeWork &w, int64_t group, int64_t row, int64_t offered) {
    const int64_t k = w.c.k, at = (group * w.scored + row) * k;
    return {least_of(k, offered), k, w.scores.values + at, w.scores.ids + at};
}

// Take the scores of a chunk (B, columns from `from` on) into what is known; they are changed.
inline void note_chunk(const DecodeWork &w, int64_t group, int64_t chunk, int64_t offered,
                       float *scores, int64_t ld) {
    const int64_t from = chunk * w.chunks.columns, rows = w.scored;
    const int64_t n = least_of(w.chunks.columns, w.d.vocabulary - from);
    for (int64_t i = 0; i < rows; i++) {
        float *row = scores + i * ld;
        const float most = largest_number(row, n);
        w.scores.most[chunk * rows + i] = most;
        // nothing but -inf adds nothing, and not the NaN that it would give off itself
        const float off = most > -__builtin_inff() ? most : 0;
        w.scores.sums[chunk * rows + i] = sum_exponentials(row, n, off);
        for (int64_t j = 0; j < w.c.banned_count; j++) {
            const int64_t id = w.c.banned[j] - from;
            if (id >= 0 && id < n) row[id] = -__builtin_inff();
        }
        Best best = best_of(w, group, i, offered);
        choose_best(row, n, from, best);
    }
}

inline void decode_best(void *data, int64_t task) {
    DecodeWork &w = *static_cast<DecodeWork *>(data);
    const Product &head = w.d.head;
    const int64_t rows = w.scored, ld = w.chunks.columns + 16; // not a power of two
    float *sums = nullptr, *scores = nullptr;
    const Scratch memory([&](Arena &arena) {
        sums = arena.floats(sums_size(head.w, rows));
        scores = arena.floats(rows * ld);
    });
    if (memory.failed()) return fail(w.failed);
    const MatrixUnit unit(w.d.precision);
    const Range chunks = range_of(w.chunks.count, task, w.groups);
    for (int64_t chunk = chunks.first; chunk < chunks.past; chunk++) {
        const int64_t first = chunk * w.chunks.panels, from = chunk * w.chunks.columns;
        const Range panels = {first, least_of(first + w.chunks.panels, head.w.panels)};
        multiply(head.w, panels, w.last, rows, sums,
                 [&](int64_t i, int64_t at) { return scores + i * ld + at - from; },
                 [&](int64_t i, int64_t at, int n, const float *sum) {
                     V v = load(sum);
                     if (head.bias) v = add(v, load(head.bias + at, n));
                     store(scores + i * ld + at - from, v, n);
                 });
        note_chunk(w, task, chunk, (chunk - chunks.first) * w.chunks.columns, scores, ld);
    }
}

// The best of all groups, and the sum of all chunks, in order.
inline void settle_best(const DecodeWork &w) {
    const int64_t rows = w.scored, k = w.c.k;
    for (int64_t i = 0; i < rows; i++) {
        float most = -__builtin_inff(), sum = 0;
        for (int64_t chunk = 0; chunk < w.chunks.count; chunk++) {
            const float of_chunk = w.scores.most[chunk * rows + i];
            most = of_chunk > most ? of_chunk : most;
        }
        for (int64_t chunk = 0; chunk < w.chunks.count; chunk++) {
            const float off = w.scores.most[chunk * rows + i] - most;
            sum += w.scores.sums[chunk * rows + i] * (off < 0 ? __builtin_expf(off) : 1.0f);
        }
        Best best = {0, k, w.c.best + i * k, w.c.best_ids + i * k};
        for (int64_t group = 0; group < w.groups; group++) {
            const Range chunks = range_of(w.chunks.count, group, w.groups);
            const int64_t from = chunks.first * w.chunks.columns;
            const int64_t past = least_of(chunks.past * w.chunks.columns, w.d.vocabulary);
            const Best part = best_of(w, group, i, past - from);
            for (int64_t j = 0; j < part.size; j++)
                if (best.size < k || part.values[j] > best.least()) best.put(part.values[j], part.ids[j]);
        }
        finish_best(best, most, sum);
    }
}

// ---- the call ------------------------------------------------------------------------------------

inline Error decode_rest(DecodeWork &w) {
    const Decoder &d = w.d;
    const unrolled_decoding &c = w.c;
    const bool alone = w.scored * d.vocabulary * d.width < 400000;
    const int32_t threads = alone ? 1 : static_cast<int32_t>(largest_of(1, c.threads));
    w.groups = least_of(threads > 1 ? 8 * threads : 1, c.k ? w.chunks.count : d.head.w.panels);
    if (!c.k) {
        parallel(threads, w.groups, decode_head, &w);
        return failed(w.failed) ? OUT_OF_MEMORY : nullptr;
    }
    const Scratch memory([&](Arena &arena) {
        w.scores.carve(arena, w.chunks.count * w.scored, w.groups * w.scored * c.k);
    });
    if (memory.failed()) return OUT_OF_MEMORY;
    parallel(threads, w.groups, decode_best, &w);
    if (failed(w.failed)) return OUT_OF_MEMORY;
    settle_best(w);
    return nullptr;
}

// Threads that take all rows through the blocks together: what they share, and what each has.
struct DecodeTeam {
    DecodeWork &w;
    Sharing sharing;
    DecoderRows common;
    char *own; // `own_bytes` for each member
    size_t own_bytes;
};

inline void decode_member(void *data, int64_t member, int64_t members, Meeting &meeting) {
    const DecodeTeam &team = *static_cast<DecodeTeam *>(data);
    DecoderRows rows = team.common;
    rows.sharing = team.sharing;
    rows.member = member;
    rows.members = members;
    rows.meeting = &meeting;
    Arena arena = {.memory = team.own + static_cast<size_t>(member) * team.own_bytes,
                   .size = team.own_bytes};
    if (team.sharing == Sharing::STEPS) {
        const Range mine = range_of(team.w.c.rows, member, members);
        rows.first = mine.first;
        rows.rows = mine.past - mine.first;
        // in all rows at once: members may be fewer than were asked for
        rows.x += mine.first * rows.ld;
        rows.mixed += mine.first * rows.ld_mixed;
        rows.wide += mine.first * rows.ld_wide;
    }
    rows.carve_own(arena);
    const MatrixUnit unit(team.w.d.precision);
    rows.run(team.w.last);
}

inline Error decode_together(DecodeWork &w, Sharing sharing, int64_t threads) {
    DecodeTeam team = {.w = w,
                       .sharing = sharing,
                       .common = DecoderRows(w.d, w.c, 0, w.c.rows),
                       .own = nullptr,
                       .own_bytes = 0};
    team.own_bytes = measured([&](Arena &arena) { team.common.carve_own(arena); });
    const Scratch memory([&](Arena &arena) {
        team.common.carve_common(arena);
        team.own = arena.bytes(static_cast<size_t>(threads) * team.own_bytes);
    });
    if (memory.failed()) return OUT_OF_MEMORY;
    together(static_cast<int32_t>(threads), decode_member, &team);
    return nullptr;
}

// How threads share a call. Meeting takes half a microsecond, some times a block; a thread that has
// rows to itself reads all weights.
inline Sharing sharing_of(const Decoder &d, const unrolled_decoding &c, int64_t weights,
                          int64_t threads) {
    if (threads < 2) return Sharing::ALONE;
    if (c.own && c.rows >= 16 * threads) return Sharing::STEPS;
    const bool large = weights / d.layers >= 150000;
    if (c.rows < 4 * threads && large) return Sharing::COLUMNS;
    return Sharing::ALONE;
}

inline Error decode(const Decoder &d, const unrolled_decoding &c) {
    const int64_t gates = d.feedforward == UNROLLED_SWIGLU ? 3 : 2;
    const int64_t queries = 2 * (d.heads + d.kv_heads) * d.size;
    const int64_t weights = d.layers * d.width * (queries + gates * d.inner);
    const int64_t threads = c.rows * weights < 400000 ? 1 : largest_of(1, c.threads);
    // as many slices for each thread, none so large that its rows leave the second cache
    const int64_t most = 96, per_thread = (c.rows + threads - 1) / threads;
    DecodeWork w = {.d = d,
                    .c = c,
                    .scored = scored_rows(c),
                    .tasks = 1,
                    .groups = 1,
                    .last = {},
                    .streams = passes_caches(d, c),
                    .chunks = Chunks(d.head.w),
                    .scores = {},
                    .failed = 0};
    w.tasks = least_of(threads * ((per_thread + most - 1) / most), c.rows);
    const Scratch memory([&](Arena &arena) {
        w.last = carve_rows(arena, d.precision, w.scored, d.width);
    });
    if (memory.failed()) return OUT_OF_MEMORY;
    clear_ends(w.last, w.scored);
    const Sharing sharing = sharing_of(d, c, weights, threads);
    if (sharing != Sharing::ALONE) {
        if (const Error error = decode_together(w, sharing, threads)) return error;
    } else {
        // steps of a sequence see those before them: one thread takes them all, in order
        if (c.own) w.tasks = 1;
        parallel(static_cast<int32_t>(threads), w.tasks, decode_rows, &w);
    }
    if (failed(w.failed)) return OUT_OF_MEMORY;
    return d.vocabulary && w.scored ? decode_rest(w) : nullptr;
}

} // namespace
