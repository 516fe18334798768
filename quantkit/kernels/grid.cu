// The formats whose groups of weights are points of a grid, with importances and without, 32 threads per block of weights.
//
// A thread looks a group up for a trial of the search: threads of a warp have scales that lie close together, and so
// mostly the same neighbours. Between the steps are barriers of the warp; what they tell each other is in GridWork.
//
// The table of a grid, which quantkit.kernels.grids writes: an entry for each lattice point, which says how many words
// of neighbours there are and where, then the words, in fours. A point on the grid has no neighbours, but its own word
// there.

// Neighbours that are read at once; after the last of a list it is repeated.
struct alignas(16) Four {
    unsigned int word[4];
};

struct GridWork {
    float value[32], weight[32], root[32];  // of a block: magnitudes, the weights of errors and their square roots
    bool nothing;                           // all are zeros, or so small
    float span, start;                      // what the highest level would be, and the scale without a trial
    u8 level[32];                           // of each weight, if the search begins with a unit
    float sum_qx[32], sum_q2[32];           // of each trial
    unsigned int tried[256];                // of each group in each trial: what was found
    float error[32];                        // of what each thread found of a group, and its place in the list
    int place[32];
    unsigned int word[8];                   // of each group: what was found
    bool on_grid[8];
    float found;                            // the scale of the best trial
    float scale[16];                        // of each block of the super-block
    bool empty[16];
    u16 code[64];
    u8 sign[32];
};

template <class F>
struct GridSearch {
    static const int BYTES = F::BYTES, BLOCK = F::BLOCK, GROUP = F::GROUP, LEVELS = F::LEVELS;
    static const int GROUPS = BLOCK / GROUP, BITS = 16 / GROUP, TRIALS = 2 * F::STEPS + 1, HIGHEST = 2 * LEVELS - 1;
    static const int TEAM = 32 / GROUPS;            // threads for a group
    // Look-ups are tasks of a thread each, but several threads share each of the last, for which a warp is too wide.
    static const int TASKS = GROUPS * TRIALS, LAST = TASKS % 32, SHARE = LAST > 0 && LAST <= 16 ? 32 / LAST : 1;
    static const int WHOLE = SHARE > 1 ? TASKS - LAST : TASKS;
    static const unsigned int ON_GRID = 1u << 31;  // in GridWork::tried: the levels were on the grid
    static const int UNITS = 9, MOST = LEVELS + 1;  // trials of a unit, and the highest multiple of it

    // The value of weight i of a group, an odd number: converting an integer takes four times as long.
    __device__ static inline float value_in(unsigned int word, int i) {
        const int doubled = (i ? word >> (BITS * i - 1) : word << 1) & (2 << BITS) - 2;
        return of_bits(0x4b000001 | doubled) - 8388608.0f;
    }

    __device__ static inline float inverse_of_trial(int trial, const GridWork &work) {
        return (HIGHEST + (trial - F::STEPS) * F::APART) / work.span;
    }

    __device__ static inline float largest_of(const GridWork &work) {
        float largest = work.value[0];
        UNROLL
        for (int i = 1; i < BLOCK; ++i) largest = larger(largest, work.value[i]);
        return largest;
    }

    // The entry of a group's lattice point: how many neighbours it has; *words* is where they are.
    __device__ static inline int find(const unsigned int *table, const float *x, float inverse,
                                      const unsigned int *&words) {
        int point = 0, count = 1;
        UNROLL
        for (int i = 0; i < GROUP; ++i) {
            point += count * clamp(nearest_any(0.5f * (inverse * x[i] - 1)), 0, LEVELS - 1);
            count *= LEVELS;
        }
        const unsigned int entry = table[point];
        words = table + count + (entry & 0xfffff);
        return entry >> 20;
    }

    __device__ static inline float error_of(float scale, float value, float x, float w) {
        const float difference = scale * value - x;
        return w * difference * difference;
    }

    // The nearest of every *apart*-th four of neighbours from number *first* on, and its error.
    __device__ static inline int nearest_of(const unsigned int *words, int first, int apart, int neighbours,
                                            const float *x, const float *w, float scale, float &best) {
        int place = 4 * first;
        best = 3.402823466e+38f;
        float errors[GROUP][3];  // of each level, if there are so few: a choice takes less than what it chooses from
        UNROLL
        for (int i = 0; i < GROUP; ++i) {
            UNROLL
            for (int level = 0; level < 3; ++level) errors[i][level] = error_of(scale, 2 * level + 1, x[i], w[i]);
        }
        for (int j = first; 4 * j < neighbours; j += apart) {
            const Four four = ((const Four *)words)[j];
            UNROLL
            for (int n = 0; n < 4; ++n) {
                const unsigned int word = four.word[n];
                float error = 0;
                UNROLL
                for (int i = 0; i < GROUP; ++i) {
                    if (LEVELS == 3)
                        error += word & 2 << BITS * i ? errors[i][2] : word & 1 << BITS * i ? errors[i][1] : errors[i][0];
                    else
                        error += error_of(scale, value_in(word, i), x[i], w[i]);
                }
                if (error < best) best = error, place = 4 * j + n;
            }
        }
        return place;
    }

    // Which of *count* threads from *first* on found the nearest, the first of equal ones.
    __device__ static inline int nearest_part(const GridWork &work, int first, int count) {
        int best = first;
        for (int other = first + 1; other < first + count; ++other) {
            const float error = work.error[other], least = work.error[best];
            if (error < least || (error == least && work.place[other] < work.place[best])) best = other;
        }
        return best;
    }

    __device__ static inline void add_up(unsigned int word, const float *x, const float *w, float &sum_qx, float &sum_q2) {
        UNROLL
        for (int i = 0; i < GROUP; ++i) {
            const float q = value_in(word, i);
            sum_qx += w[i] * x[i] * q;
            sum_q2 += w[i] * q * q;
        }
    }

    // How often the mean square of a super-block counts in the weights of errors.
    __device__ static inline float times(bool important) { return important ? F::VARIANCE : F::ALONE; }

    // A weight per thread; *importance*, of this weight, is null without importances.
    __device__ static inline void read(float x, const float *importance, float variance, int lane, GridWork &work) {
        if (lane >= BLOCK) return;
        const float size = variance + x * x, weight = importance ? *importance * root(size) : size;
        work.value[lane] = x, work.weight[lane] = weight, work.root[lane] = root(weight);
    }

    // Eight signs per thread. Where their number must be even and is not, the weight that matters least has the other.
    __device__ static inline void take_signs(int block, int lane, GridWork &work) {
        if (lane >= BLOCK / 8) return;
        float *x = work.value + 8 * lane;
        const float *w = work.weight + 8 * lane;
        int sign = 0, least = 0;
        float size = w[0] * x[0] * x[0];
        bool odd = false;
        for (int i = 0; i < 8; ++i) {
            const float other = w[i] * x[i] * x[i];
            if (other < size) size = other, least = i;
            if (x[i] < 0) x[i] = -x[i], sign |= 1 << i, odd = !odd;
        }
        if (F::EVEN_SIGNS && odd) x[least] = -x[least], sign ^= 1 << least;
        work.sign[BLOCK / 8 * block + lane] = sign;
    }

    // The first unit that is tried makes the largest value its highest multiple, the others are next to it.
    __device__ static inline float inverse_of_unit(int trial, float largest) {
        const int step = trial == 0 ? 0 : trial < 5 ? trial - 5 : trial - 4;
        return (0.1f * step + MOST) / largest;
    }

    __device__ static inline int multiple(float v) {
        const int nearest = nearest_any(v), most = MOST;
        return nearest < most ? nearest : most;
    }

    // A trial of a unit per thread, for formats that begin with one.
    __device__ static inline void try_units(int lane, GridWork &work) {
        if (!F::FROM_UNIT || lane >= UNITS) return;
        const float largest = largest_of(work);
        if (largest < F::NOTHING_BELOW) return;
        const float inverse = inverse_of_unit(lane, largest), unit = 1 / inverse;
        float error = 0;
        for (int i = 0; i < BLOCK; ++i) {
            const float scaled = inverse * work.value[i];
            const int level = lane ? multiple(scaled) : nearest_any(scaled) & 255;  // ggml has a byte for the first
            const float difference = work.value[i] - unit * level;
            error += work.weight[i] * difference * difference;
        }
        work.sum_qx[lane] = error;
    }

    // The best of these units, after each weight has moved to a better multiple: one thread.
    __device__ static inline float fit_unit(float largest, GridWork &work) {
        int chosen = 0;
        for (int trial = 1; trial < UNITS; ++trial)
            if (work.sum_qx[trial] < work.sum_qx[chosen]) chosen = trial;
        const float inverse = inverse_of_unit(chosen, largest), *x = work.value, *w = work.weight;
        u8 *level = work.level;
        float sum_lx = 0, sum_l2 = 0;
        for (int i = 0; i < BLOCK; ++i) {
            const int found = multiple(inverse * x[i]);
            level[i] = found;
            sum_lx += w[i] * x[i] * found, sum_l2 += w[i] * found * found;
        }
        bool moved = true;
        for (int round = 0; round < 5 && moved; ++round) {
            moved = false;
            for (int i = 0; i < BLOCK; ++i) {
                float lx = sum_lx - w[i] * x[i] * level[i], l2 = sum_l2 - w[i] * level[i] * level[i];
                if (!(lx > 0 && l2 > 0)) continue;
                const int found = multiple(x[i] * l2 / lx);
                if (found == level[i]) continue;
                lx += w[i] * x[i] * found, l2 += w[i] * found * found;
                if (lx * lx * sum_l2 > sum_lx * sum_lx * l2) level[i] = found, sum_lx = lx, sum_l2 = l2, moved = true;
            }
        }
        return sum_l2 > 0 ? sum_lx / sum_l2 : 0;
    }

    // Where the search begins: one thread.
    __device__ static inline void begin(int lane, GridWork &work) {
        if (lane) return;
        const float largest = largest_of(work);
        work.nothing = largest < F::NOTHING_BELOW;
        work.span = largest, work.start = largest / HIGHEST;
        if (!F::FROM_UNIT || work.nothing) return;
        work.start = fit_unit(largest, work), work.span = work.start * LEVELS;
        work.nothing = work.span <= 0;
    }

    // The neighbours of a group in a trial, which is the number of a task, and the nearest of a part of them.
    __device__ static inline int nearest_in(const unsigned int *table, int task, int first, int apart,
                                            const GridWork &work, const unsigned int *&words, int &place, float &error) {
        const int k = task / TRIALS;
        const float *x = work.value + GROUP * k, inverse = inverse_of_trial(task % TRIALS, work);
        const int neighbours = find(table, x, inverse, words);
        place = nearest_of(words, first, apart, neighbours, x, work.root + GROUP * k, 1 / inverse, error);
        return neighbours;
    }

    // A group in a trial per thread, and another until all are done.
    __device__ static inline void look_up(const unsigned int *table, int lane, GridWork &work) {
        if (work.nothing) return;
        const unsigned int *words;
        float error;
        int place;
        for (int task = lane; task < WHOLE; task += 32) {
            const int neighbours = nearest_in(table, task, 0, 1, work, words, place, error);
            work.tried[task] = words[place] | (neighbours ? 0 : ON_GRID);
        }
        if (lane < (TASKS - WHOLE) * SHARE) {
            nearest_in(table, WHOLE + lane / SHARE, lane % SHARE, SHARE, work, words, place, error);
            work.error[lane] = error, work.place[lane] = place;
        }
    }

    // What several threads looked up together: a task per thread.
    __device__ static inline void join(const unsigned int *table, int lane, GridWork &work) {
        if (work.nothing || lane >= TASKS - WHOLE) return;
        const int task = WHOLE + lane, place = work.place[nearest_part(work, lane * SHARE, SHARE)];
        const unsigned int *words;
        const int neighbours =
            find(table, work.value + GROUP * (task / TRIALS), inverse_of_trial(task % TRIALS, work), words);
        work.tried[task] = words[place] | (neighbours ? 0 : ON_GRID);
    }

    // A trial per thread.
    __device__ static inline void attempt(int lane, GridWork &work) {
        if (lane >= TRIALS || work.nothing) return;
        float sum_qx = 0, sum_q2 = 0;
        for (int k = 0; k < GROUPS; ++k)
            add_up(work.tried[TRIALS * k + lane], work.value + GROUP * k, work.weight + GROUP * k, sum_qx, sum_q2);
        work.sum_qx[lane] = sum_qx, work.sum_q2[lane] = sum_q2;
    }

    // What the best trial found, a group per thread.
    __device__ static inline void choose(const unsigned int *table, int lane, GridWork &work) {
        if (lane >= GROUPS || work.nothing) return;
        float scale = work.start, best = 0;
        int chosen = -1;
        for (int trial = 0; trial < TRIALS; ++trial) {
            const float sum_qx = work.sum_qx[trial], sum_q2 = work.sum_q2[trial];
            if (sum_q2 > 0 && sum_qx * sum_qx > best * sum_q2) {
                scale = sum_qx / sum_q2;
                best = scale * sum_qx;
                chosen = trial;
            }
        }
        // Without a trial all levels are zero. That point is on the grid, and with an inverse of zero it is found.
        if (chosen < 0) {
            const unsigned int *words;
            find(table, work.value, 0, words);
            work.word[lane] = words[0], work.on_grid[lane] = !F::FITS_ALL;
        } else {
            const unsigned int word = work.tried[TRIALS * lane + chosen];
            work.word[lane] = word & ~ON_GRID, work.on_grid[lane] = (word & ON_GRID) != 0;
        }
        if (lane == 0) work.found = scale;
    }

    // With the scale that was found, groups may have better points: a part of a group's neighbours per thread.
    __device__ static inline void compare(const unsigned int *table, int lane, GridWork &work) {
        const int k = lane / TEAM;
        if (work.nothing || !again(work) || (!F::FITS_ALL && work.on_grid[k])) return;
        const float *x = work.value + GROUP * k;
        const unsigned int *words;
        const int neighbours = find(table, x, 1 / work.found, words);
        work.place[lane] =
            nearest_of(words, lane % TEAM, TEAM, neighbours, x, work.root + GROUP * k, work.found, work.error[lane]);
    }

    // The nearest of all parts, the first of equal ones: a group per thread.
    __device__ static inline void fit(const unsigned int *table, int lane, GridWork &work) {
        if (lane >= GROUPS || work.nothing || !again(work) || (!F::FITS_ALL && work.on_grid[lane])) return;
        const unsigned int *words;
        find(table, work.value + GROUP * lane, 1 / work.found, words);
        work.word[lane] = words[work.place[nearest_part(work, TEAM * lane, TEAM)]];
    }

    __device__ static inline bool again(const GridWork &work) {
        bool all = !F::FROM_UNIT;
        for (int k = 0; k < GROUPS; ++k) all = all && work.on_grid[k];
        return !all && work.found > 0;
    }

    // The scale that fits these points, and the codes: one thread.
    __device__ static inline void finish(int block, int lane, GridWork &work) {
        if (lane) return;
        u16 *code = work.code + GROUPS * block;
        u8 *sign = work.sign + BLOCK / 8 * block;
        work.empty[block] = work.nothing;
        if (work.empty[block]) {
            work.scale[block] = 0;
            for (int k = 0; k < GROUPS; ++k) code[k] = 0;
            for (int i = 0; i < BLOCK / 8; ++i) sign[i] = 0;
            return;
        }
        float scale = work.found;
        if (again(work)) {
            float sum_qx = 0, sum_q2 = 0;
            for (int k = 0; k < GROUPS; ++k)
                add_up(work.word[k], work.value + GROUP * k, work.weight + GROUP * k, sum_qx, sum_q2);
            if (sum_q2 > 0) scale = sum_qx / sum_q2;
        }
        if (scale < 0) {
            scale = -scale;
            for (int i = 0; i < BLOCK / 8; ++i) sign[i] = ~sign[i];
        }
        work.scale[block] = scale;
        for (int k = 0; k < GROUPS; ++k) code[k] = work.word[k] >> 16;
    }

    __device__ static inline float unit_of(const GridWork &work) {
        float most = 0;
        for (int block = 0; block < SUPER / BLOCK; ++block) most = larger(most, work.scale[block]);
        return most / 31;
    }

    __device__ static inline int step_of(float unit, float scale) {
        return unit != 0 ? clamp(nearest_any(0.5f * (1 / unit * scale - 1)), 0, 15) : 0;
    }

    // Stores the unit, and returns it.
    __device__ static inline float put_unit(int lane, const GridWork &work, u8 *out) {
        const float unit = unit_of(work);
        if (lane == 0) put_half(out + F::SCALE_AT, to_half(unit * F::FACTOR));
        return unit;
    }

    // The steps of a block and the next one in a byte.
    __device__ static inline u8 two_steps(float unit, int block, const GridWork &work) {
        return step_of(unit, work.scale[block]) | step_of(unit, work.scale[block + 1]) << 4;
    }

    __device__ static inline bool some(const GridWork &work) {
        bool any = false;
        for (int block = 0; block < SUPER / BLOCK; ++block) any = any || work.scale[block] != 0;
        return any;
    }

    // Of 32 weights: seven signs of each eight, and the step.
    __device__ static inline unsigned int sign_word(int block, float unit, const GridWork &work) {
        unsigned int word = (unsigned int)step_of(unit, work.scale[block]) << 28;
        for (int i = 0; i < 4; ++i) word |= (unsigned int)(work.sign[4 * block + i] & 127) << 7 * i;
        return word;
    }
};

// Codes of nine bits, and all signs.
template <class F>
struct GridPlain : GridSearch<F> {
    __device__ static inline void pack(int lane, const GridWork &work, u8 *out) {
        const float unit = GridSearch<F>::put_unit(lane, work, out);
        if (lane >= 8) return;
        // ggml leaves no place for an empty block where it stores low bits and signs: the blocks after it move forward.
        int place = 0;
        for (int block = 0; block < 8; ++block)
            place += work.empty[lane] ? !work.empty[block] || block < lane : !work.empty[block] && block < lane;
        const u16 *code = work.code + 8 * lane;
        u8 high = 0;
        for (int k = 0; k < 8; ++k) {
            out[2 + 8 * place + k] = code[k] & 255;
            high |= code[k] >> 8 << k;
        }
        out[66 + lane] = high;
        for (int i = 0; i < 4; ++i) out[74 + 4 * place + i] = work.sign[4 * lane + i];
        if (lane < 4) out[106 + lane] = GridSearch<F>::two_steps(unit, 2 * lane, work);
    }
};

// Codes of eight bits; seven signs of eight, and with them the step. Without any scale all is zero.
template <class F>
struct GridEven : GridSearch<F> {
    __device__ static inline void pack(int lane, const GridWork &work, u8 *out) {
        const float unit = GridSearch<F>::put_unit(lane, work, out);
        if (lane >= 8) return;
        const bool some = GridSearch<F>::some(work);
        const unsigned int signs = some ? GridSearch<F>::sign_word(lane, unit, work) : 0;
        for (int k = 0; k < 8; ++k) out[2 + 8 * lane + k] = some ? work.code[8 * lane + k] : 0;
        for (int i = 0; i < 4; ++i) out[66 + 4 * lane + i] = signs >> 8 * i & 255;
    }
};

// Codes of ten bits, in two places, and all signs.
template <class F>
struct GridTen : GridSearch<F> {
    __device__ static inline void pack(int lane, const GridWork &work, u8 *out) {
        const float unit = GridSearch<F>::put_unit(lane, work, out);
        out[2 + lane] = work.code[lane] & 255;
        out[34 + lane] = work.sign[lane];
        if (lane >= 8) return;
        u8 high = 0;
        for (int k = 0; k < 4; ++k) high |= work.code[4 * lane + k] >> 8 << 2 * k;
        out[66 + lane] = high;
        out[74 + lane] = GridSearch<F>::two_steps(unit, 2 * lane, work);
    }
};

// Codes of nine bits, each with seven signs of eight. Without any scale all is zero.
template <class F>
struct GridNine : GridSearch<F> {
    __device__ static inline void pack(int lane, const GridWork &work, u8 *out) {
        const float unit = GridSearch<F>::put_unit(lane, work, out);
        const int both = GridSearch<F>::some(work) ? work.code[lane] | (work.sign[lane] & 127) << 9 : 0;
        out[2 + 2 * lane] = both & 255, out[3 + 2 * lane] = both >> 8;
        if (lane >= 8) return;
        out[66 + lane] = GridSearch<F>::two_steps(unit, 2 * lane, work);
    }
};

// The same as GridEven, but the codes of 32 weights are next to their signs.
template <class F>
struct GridEight : GridSearch<F> {
    __device__ static inline void pack(int lane, const GridWork &work, u8 *out) {
        const float unit = GridSearch<F>::put_unit(lane, work, out);
        if (lane >= 8) return;
        const bool some = GridSearch<F>::some(work);
        const unsigned int signs = some ? GridSearch<F>::sign_word(lane, unit, work) : 0;
        for (int k = 0; k < 4; ++k) {
            out[2 + 8 * lane + k] = some ? work.code[4 * lane + k] : 0;
            out[6 + 8 * lane + k] = signs >> 8 * k & 255;
        }
    }
};
