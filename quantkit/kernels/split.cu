// The formats with three levels (IQ1), one thread per block: its weights are sorted, and every way to split them into
// three is tried in ggml's order, which compares each with the best before it. Groups that are not points of the grid then
// become one of their neighbours; the table of the grid is that of grid.cu.

// What the threads of a super-block tell each other.
struct SplitWork {
    float scale[16];       // of each block
    float sum_qx, sum_q2;  // of the super-block
    unsigned int word[32]; // of each group
    u8 moves[16], step[16];
};

// The best split of a block so far: where the next level begins, and whether the levels of each part are moved down.
struct BestSplit {
    float score, scale;
    int first, second, moves;

    __device__ inline void attempt(float sum_qx, float sum_q2, int a, int b, int moved) {
        if (sum_q2 > 0 && sum_qx * sum_qx > score * sum_q2) {
            scale = sum_qx / sum_q2;
            score = scale * sum_qx;
            first = a, second = b, moves = moved;
        }
    }
};

// One sum for all weights.
template <class F>
struct SplitOne {
    static const int N = F::BLOCK;

    __device__ static inline void search(const u8 *order, const float *x, const float *w, BestSplit &best) {
        float sum_x[N + 1], sum_w[N + 1];
        sum_x[0] = sum_w[0] = 0;
        for (int i = 0; i < N; ++i) {
            sum_x[i + 1] = sum_x[i] + w[order[i]] * x[order[i]];
            sum_w[i + 1] = sum_w[i] + w[order[i]];
        }
        const float up = 1 + LEVEL_MOVE, down = 1 - LEVEL_MOVE;
        for (int a = 0; a <= N; ++a) {
            const float low_x = sum_x[a], low_w = sum_w[a], up_x = low_x * -down, down_x = low_x * -up;
            const float up_w = low_w * -down * -down, down_w = low_w * -up * -up;
            for (int b = a; b <= N; ++b) {
                const float middle_x = (sum_x[b] - low_x) * LEVEL_MOVE, middle_w = (sum_w[b] - low_w) * LEVEL_MOVE * LEVEL_MOVE;
                const float high_x = sum_x[N] - sum_x[b], high_w = sum_w[N] - sum_w[b];
                best.attempt(up_x + middle_x + high_x * up, up_w + middle_w + high_w * up * up, a, b, 0);
                best.attempt(down_x - middle_x + high_x * down, down_w + middle_w + high_w * down * down, a, b, 1);
            }
        }
    }

    __device__ static inline void pack(float unit, int lane, const SplitWork &work, u8 *out) {
        if (lane == 0) put_half(out + F::SCALE_AT, to_half(unit));
        const unsigned int *word = work.word + 4 * lane;
        int high = work.step[lane] << 12 | work.moves[lane] << 15;
        for (int k = 0; k < 4; ++k) {
            out[2 + 4 * lane + k] = word[k] >> 16 & 255;
            high |= word[k] >> 24 << 3 * k;
        }
        out[34 + 2 * lane] = high & 255, out[35 + 2 * lane] = high >> 8;
    }
};

// A sum for each half, whose levels are moved on their own: what the highest level gives for all weights of the half, less
// what is below each of the two places.
template <class F>
struct SplitTwo {
    static const int N = F::BLOCK;

    __device__ static inline void search(const u8 *order, const float *x, const float *w, BestSplit &best) {
        float sum_x[2][N + 1], sum_w[2][N + 1];
        sum_x[0][0] = sum_x[1][0] = sum_w[0][0] = sum_w[1][0] = 0;
        for (int i = 0; i < N; ++i) {
            const int half = order[i] < N / 2 ? 0 : 1;
            sum_x[half][i + 1] = sum_x[half][i] + w[order[i]] * x[order[i]];
            sum_w[half][i + 1] = sum_w[half][i] + w[order[i]];
            sum_x[1 - half][i + 1] = sum_x[1 - half][i];
            sum_w[1 - half][i + 1] = sum_w[1 - half][i];
        }
        const float up = 1 + LEVEL_MOVE, down = 1 - LEVEL_MOVE, high = up * up - LEVEL_MOVE * LEVEL_MOVE, low = down * down - LEVEL_MOVE * LEVEL_MOVE;
        float all_x[2][2], all_w[2][2];  // by half, moved up and down
        UNROLL
        for (int h = 0; h < 2; ++h) {
            all_x[h][0] = sum_x[h][N] * up, all_x[h][1] = sum_x[h][N] * down;
            all_w[h][0] = sum_w[h][N] * up * up, all_w[h][1] = sum_w[h][N] * down * down;
        }
        for (int a = 0; a <= N; ++a) {
            float first_w[2][2];
            UNROLL
            for (int h = 0; h < 2; ++h) {
                first_w[h][0] = all_w[h][0] + sum_w[h][a] * low;
                first_w[h][1] = all_w[h][1] + sum_w[h][a] * high;
            }
            const float first_x[2] = {sum_x[0][a], sum_x[1][a]};
            for (int b = a; b <= N; ++b) {
                float qx[2][2], q2[2][2];
                UNROLL
                for (int h = 0; h < 2; ++h) {
                    const float below = first_x[h] + sum_x[h][b];
                    qx[h][0] = all_x[h][0] - below, qx[h][1] = all_x[h][1] - below;
                    q2[h][0] = first_w[h][0] + sum_w[h][b] * -high, q2[h][1] = first_w[h][1] + sum_w[h][b] * -low;
                }
                UNROLL
                for (int moves = 0; moves < 4; ++moves)
                    best.attempt(qx[0][moves >> 1] + qx[1][moves & 1], q2[0][moves >> 1] + q2[1][moves & 1], a, b, moves);
            }
        }
    }

    // Four blocks share a word of scales, in which is a nibble of the unit too.
    __device__ static inline void pack(float unit, int lane, const SplitWork &work, u8 *out) {
        const unsigned int moves = work.moves[lane], a = work.word[2 * lane], b = work.word[2 * lane + 1];
        out[2 * lane] = a >> 16 & 255, out[2 * lane + 1] = b >> 16 & 255;
        out[32 + lane] = a >> 24 | (moves >> 1) << 3 | b >> 24 << 4 | (moves & 1) << 7;
        if (lane >= 4) return;
        int word = (to_half(unit) >> 4 * lane & 15) << 12;
        for (int i = 0; i < 4; ++i) word |= work.step[4 * lane + i] << 3 * i;
        out[48 + 2 * lane] = word & 255, out[49 + 2 * lane] = word >> 8;
    }
};

template <class F, template <class> class Search>
struct SplitBlocks {
    static const int BYTES = F::BYTES, N = F::BLOCK, GROUPS = F::BLOCK / 8;
    static const bool FITS_UNIT = F::FITS_UNIT;

    // The weight of an error; *importance* is null without importances.
    __device__ static inline float weight_of(float x, const float *importance, float variance) {
        return importance ? *importance * root(variance + x * x) : x * x;
    }

    // How far the levels of a group are moved.
    __device__ static inline float move_of(int moves, int k) {
        return moves >> (F::PARTS - 1 - k / (GROUPS / F::PARTS)) & 1 ? -LEVEL_MOVE : LEVEL_MOVE;
    }

    // The scale, the codes and the moves of a block.
    __device__ static inline void find(const unsigned int *table, const float *x, const float *w, int lane, SplitWork &work) {
        unsigned int *words = work.word + GROUPS * lane;
        bool off = false;
        work.scale[lane] = 0, work.moves[lane] = 0;
        // Zeros have the code 0, which is that of the lowest levels.
        for (int k = 0; k < GROUPS; ++k) words[k] = look_up(table, 0, x, w, 0, 0, off);
        float largest = 0;
        for (int i = 0; i < N; ++i) largest = larger(largest, magnitude(x[i]));
        if (largest < F::NOTHING_BELOW) return;
        u8 order[N], place[N];
        for (int i = 0; i < N; ++i) {
            int before = 0;  // of equal weights the first
            for (int k = 0; k < N; ++k) before += k < i ? x[k] <= x[i] : x[k] < x[i];
            order[before] = i, place[i] = before;
        }
        BestSplit best = {-3.402823466e+38f, 0, -1, -1, 0};
        Search<F>::search(order, x, w, best);
        if (best.first < 0) return;
        const bool below = best.scale < 0;
        const float scale = below ? -best.scale : best.scale;
        const int moves = below ? (1 << F::PARTS) - 1 - best.moves : best.moves;
        float sum_qx = 0, sum_q2 = 0;
        for (int k = 0; k < GROUPS; ++k) {
            int point = 0;
            for (int i = 7; i >= 0; --i) {
                const int level = (place[8 * k + i] >= best.first) + (place[8 * k + i] >= best.second);
                point = 3 * point + (below ? 2 - level : level);
            }
            const float move = move_of(moves, k);
            const unsigned int word = look_up(table, point, x + 8 * k, w + 8 * k, scale, move, off);
            words[k] = word;
            for (int i = 0; i < 8; ++i) {
                const float q = value_in(word, i, move);
                sum_qx += w[8 * k + i] * q * x[8 * k + i];
                sum_q2 += w[8 * k + i] * q * q;
            }
        }
        work.moves[lane] = moves;
        work.scale[lane] = off && sum_qx > 0 && sum_q2 > 0 ? sum_qx / sum_q2 : scale;
    }

    __device__ static inline float value_in(unsigned int word, int i, float move) {
        return (int)(word >> 2 * i & 3) - 1 + move;
    }

    // The word of a lattice point on the grid, or of its nearest neighbour.
    __device__ static inline unsigned int look_up(const unsigned int *table, int point, const float *x, const float *w,
                                                  float scale, float move, bool &off) {
        const unsigned int entry = table[point], *words = table + 6561 + (entry & 0xfffff);
        const int neighbours = entry >> 20;
        unsigned int nearest_word = words[0];
        float least = 3.402823466e+38f;
        for (int j = 0; j < neighbours; ++j) {
            const unsigned int word = words[j];
            float error = 0;
            UNROLL
            for (int i = 0; i < 8; ++i) {
                const float difference = scale * value_in(word, i, move) - x[i];
                error += w[i] * difference * difference;
            }
            if (error < least) least = error, nearest_word = word;
        }
        if (neighbours) off = true;
        return nearest_word;
    }

    __device__ static inline float most_of(const SplitWork &work) {
        float most = 0;
        for (int block = 0; block < SUPER / N; ++block) most = larger(most, work.scale[block]);
        return most;
    }

    __device__ static inline void choose_step(int lane, SplitWork &work) {
        const float unit = most_of(work) / 15;
        work.step[lane] = unit != 0 ? clamp(nearest_any(0.5f * (1 / unit * work.scale[lane] - 1)), 0, 7) : 0;
        if (lane == 0) work.sum_qx = work.sum_q2 = 0;
    }

    // What a block adds to the sums of its super-block: one block after the other.
    __device__ static inline void add_up(const float *x, const float *w, int lane, SplitWork &work) {
        for (int k = 0; k < GROUPS; ++k) {
            const float move = move_of(work.moves[lane], k);
            const unsigned int word = work.word[GROUPS * lane + k];
            for (int i = 0; i < 8; ++i) {
                const float q = value_in(word, i, move) * (2 * work.step[lane] + 1);
                work.sum_qx += w[8 * k + i] * q * x[8 * k + i];
                work.sum_q2 += w[8 * k + i] * q * q;
            }
        }
    }

    __device__ static inline void pack(int lane, SplitWork &work, u8 *out) {
        const float most = most_of(work);
        float unit = most / 15;
        if (FITS_UNIT && work.sum_q2 > 0) unit = work.sum_qx / work.sum_q2;
        if (most == 0) unit = 0, work.moves[lane] = 0;
        Search<F>::pack(unit * F::FACTOR, lane, work, out);
    }
};

template <class F>
using SplitBlocksOfOne = SplitBlocks<F, SplitOne>;
template <class F>
using SplitBlocksOfTwo = SplitBlocks<F, SplitTwo>;
