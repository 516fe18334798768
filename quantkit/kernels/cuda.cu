// One step for a range of rows: merge, round, check and encode for every output, while the weights are on the chip.
//
// A thread block has a tile of 4096 weights. Each thread merges and rounds 32 of them, all in one row, and leaves them in
// shared memory; from there the encoders of encoders.cu take them, one format after the other.

#define UNROLL _Pragma("unroll")
typedef unsigned char u8;
typedef unsigned short u16;

__device__ inline int bits_of(float v) { return __float_as_int(v); }
__device__ inline float of_bits(int bits) { return __int_as_float(bits); }
__device__ inline float smaller(float a, float b) { return b < a ? b : a; }
__device__ inline float larger(float a, float b) { return b > a ? b : a; }
// One instruction, but which zero it gives of two is its own choice.
__device__ inline float fast_min(float a, float b) { return fminf(a, b); }
__device__ inline float fast_max(float a, float b) { return fmaxf(a, b); }
__device__ inline float magnitude(float v) { return fabsf(v); }
__device__ inline float root(float v) { return __fsqrt_rn(v); }
__device__ inline float away_from_zero(float v) { return roundf(v); }

// Spelled out, because CUDA's headers for half precision are not everywhere.
__device__ inline u16 to_half(float v) {
    u16 half;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half) : "f"(v));
    return half;
}
__device__ inline float from_half(u16 half) {
    float v;
    asm("cvt.f32.f16 %0, %1;" : "=f"(v) : "h"(half));
    return v;
}

#include "encoders.cu"
#include "weighted.cu"
#include "table.cu"
#include "small.cu"
#include "grid.cu"
#include "split.cu"

// The types of weights in the checkpoint and after rounding.
struct F16 {
    typedef u16 Stored;
    __device__ static inline float read(u16 v) { return from_half(v); }
    __device__ static inline u16 write(float v) { return to_half(v); }
};
struct BF16 {
    typedef u16 Stored;
    __device__ static inline float read(u16 v) { return __uint_as_float((unsigned int)v << 16); }
    __device__ static inline u16 write(float v) {
        const unsigned int bits = __float_as_uint(v);
        return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    }
};
struct F32 {
    typedef float Stored;
    __device__ static inline float read(float v) { return v; }
    __device__ static inline float write(float v) { return v; }
};

#define THREADS 128
#define TILE (32 * THREADS)
#define PAIRS 4
#define SCRATCH (16 * sizeof(Work) + 16 * 210)  // of super-blocks; 128 blocks of 34 bytes need less

// What the host says of a range, as it lies in memory: quantkit.kernels.cuda writes it.
struct Job {
    const void *stored;
    long long count, columns, pairs;
    struct {
        const float *left, *right;
        long long rank;
    } pair[PAIRS];
    void *rounded;        // null if nobody asks for the rounded weights
    unsigned int *flags;  // the largest magnitude after rounding, and the smallest that is not zero, as bits
    u8 *out[8];
    const float *importance[8];   // of each column, for the outputs that are encoded with importances
    const unsigned int *grid[8];  // the tables of outputs that have one, see grid.cu
    float *squares;               // of each row the sum of its squares, for their formats with blocks of 32
};

// 33 floats for 32 weights: threads that read or write their 32 side by side meet in no bank.
__device__ inline int at(int i) { return i + i / 32; }

// ``x = w; for k: x = x + left[k] * right[k]``: the order of quantkit.kernels.low_rank.
__device__ inline void add_pairs(const Job &job, long long row, long long column, float *x) {
    for (int p = 0; p < job.pairs; ++p) {
        const int rank = job.pair[p].rank;
        const float *left = job.pair[p].left + row * rank, *right = job.pair[p].right + column;
        for (int k = 0; k < rank; ++k, right += job.columns) {
            const float factor = left[k];
            UNROLL
            for (int i = 0; i < 32; i += 4) {
                const float4 four = *(const float4 *)(right + i);
                x[i] += factor * four.x, x[i + 1] += factor * four.y;
                x[i + 2] += factor * four.z, x[i + 3] += factor * four.w;
            }
        }
    }
}

// 32 weights of this thread: into the tile, and to where the rounded ones are wanted.
template <class In, class Out>
__device__ inline void merge(const Job &job, long long first, float *tile) {
    float x[32];
    const int each = 16 / sizeof(typename In::Stored);
    const typename In::Stored *from = (const typename In::Stored *)job.stored + first;
    UNROLL
    for (int i = 0; i < 32; i += each) {
        const uint4 raw = *(const uint4 *)(from + i);
        const typename In::Stored *values = (const typename In::Stored *)&raw;
        UNROLL
        for (int j = 0; j < each; ++j) x[i + j] = In::read(values[j]);
    }
    if (job.pairs) add_pairs(job, first / job.columns, first % job.columns, x);
    unsigned int largest = 0, smallest = 0xffffffff;
    __align__(16) typename Out::Stored rounded[32];
    UNROLL
    for (int i = 0; i < 32; ++i) {
        rounded[i] = Out::write(x[i]);
        const float v = Out::read(rounded[i]);
        tile[at(32 * threadIdx.x + i)] = v;
        const unsigned int size = __float_as_uint(v) & 0x7fffffff;
        largest = size > largest ? size : largest;
        smallest = size && size < smallest ? size : smallest;
    }
    if (job.rounded) {
        uint4 *to = (uint4 *)((typename Out::Stored *)job.rounded + first);
        UNROLL
        for (int i = 0; i < 32 * (int)sizeof(typename Out::Stored) / 16; ++i) to[i] = ((const uint4 *)rounded)[i];
    }
    if (largest > job.flags[0]) atomicMax(job.flags, largest);
    if (smallest < job.flags[1]) atomicMin(job.flags + 1, smallest);
}

// What the thread block has encoded, to where it belongs: neighbours write neighbouring bytes.
__device__ inline void store(const u8 *bytes, int count, u8 *out) {
    __syncthreads();
    for (int i = threadIdx.x; i < count / 2; i += THREADS) ((u16 *)out)[i] = ((const u16 *)bytes)[i];
    if (count % 2 && threadIdx.x == 0) out[count - 1] = bytes[count - 1];
    __syncthreads();  // the next encoder writes there
}

// The threads of a super-block are in one warp.
template <class Format>
__device__ inline void encode_super_blocks(const float *tile, int count, long long first, u8 *out, u8 *scratch) {
    const int group = THREADS / Format::LANES, block = SUPER / Format::LANES;
    const int lane = threadIdx.x % Format::LANES, slot = threadIdx.x / Format::LANES;
    Work &work = ((Work *)scratch)[slot];
    u8 *bytes = scratch + group * sizeof(Work), *encoded = bytes + slot * Format::BYTES;
    for (int begin = 0; begin < count / SUPER; begin += group) {
        const int left = count / SUPER - begin, mine = left < group ? left : group;
        float values[block];
        if (slot < mine) {
            UNROLL
            for (int i = 0; i < block; ++i) values[i] = tile[at((begin + slot) * SUPER + lane * block + i)];
            Format::search(values, lane, work);
        }
        __syncwarp();
        if (slot < mine) Format::levels(values, lane, work, encoded);
        __syncwarp();
        if (slot < mine) Format::pack(lane, work, encoded);
        store(bytes, mine * Format::BYTES, out + (first / SUPER + begin) * Format::BYTES);
    }
}

template <class Format>
__device__ inline void encode_blocks(const float *tile, int count, long long first, u8 *out, u8 *scratch) {
    if (32 * threadIdx.x < count) {
        float values[32];
        UNROLL
        for (int i = 0; i < 32; ++i) values[i] = tile[at(32 * threadIdx.x + i)];
        Format::pack(values, scratch + threadIdx.x * Format::BYTES);
    }
    store(scratch, count / 32 * Format::BYTES, out + first / 32 * Format::BYTES);
}

template <class Format>
__device__ inline void encode_weighted_super_blocks(const float *tile, int count, long long first, u8 *out, u8 *scratch,
                                                    const float *importance, const Job &job) {
    const int group = THREADS / Format::LANES, block = SUPER / Format::LANES;
    const int lane = threadIdx.x % Format::LANES, slot = threadIdx.x / Format::LANES;
    Work &work = ((Work *)scratch)[slot];
    u8 *bytes = scratch + group * sizeof(Work), *encoded = bytes + slot * Format::BYTES;
    for (int begin = 0; begin < count / SUPER; begin += group) {
        const int left = count / SUPER - begin, mine = left < group ? left : group;
        float values[block];
        if (slot < mine) {
            const int start = (begin + slot) * SUPER;
            float squares = 0;
            for (int i = 0; i < SUPER; ++i) squares += tile[at(start + i)] * tile[at(start + i)];
            UNROLL
            for (int i = 0; i < block; ++i) values[i] = tile[at(start + lane * block + i)];
            Format::search(values, importance + (first + start) % job.columns + lane * block, squares, lane, work);
        }
        __syncwarp();
        if (slot < mine) Format::fit_scales(lane, work);
        __syncwarp();
        if (slot < mine) Format::levels(values, lane, work, encoded);
        __syncwarp();
        if (slot < mine) Format::pack(lane, work, encoded);
        store(bytes, mine * Format::BYTES, out + (first / SUPER + begin) * Format::BYTES);
    }
}

template <class Format>
__device__ inline void encode_weighted_blocks(const float *tile, int count, long long first, u8 *out, u8 *scratch,
                                              const float *importance, const Job &job) {
    if (32 * threadIdx.x < count) {
        const long long start = first + 32 * threadIdx.x;
        float values[32];
        UNROLL
        for (int i = 0; i < 32; ++i) values[i] = tile[at(32 * threadIdx.x + i)];
        const float variance = job.squares ? job.squares[start / job.columns] / job.columns : 0;  // not of every format
        Format::pack(values, importance + start % job.columns, variance, scratch + threadIdx.x * Format::BYTES);
    }
    store(scratch, count / 32 * Format::BYTES, out + first / 32 * Format::BYTES);
}

// A warp has a super-block, one block after the other.
template <class Format>
__device__ inline void encode_grid_super_blocks(const float *tile, int count, long long first, u8 *out, u8 *scratch,
                                                const float *importance, const unsigned int *table, const Job &job) {
    const int group = THREADS / 32, lane = threadIdx.x % 32, slot = threadIdx.x / 32;
    static_assert(group * (sizeof(GridWork) + Format::BYTES) <= SCRATCH, "scratch is too small");
    GridWork &work = ((GridWork *)scratch)[slot];
    u8 *bytes = scratch + group * sizeof(GridWork), *encoded = bytes + slot * Format::BYTES;
    for (int begin = 0; begin < count / SUPER; begin += group) {
        const int left = count / SUPER - begin, mine = left < group ? left : group, start = (begin + slot) * SUPER;
        if (slot < mine) {
            float squares = 0;
            if (Format::times(importance) > 0)
                for (int i = 0; i < SUPER; ++i) squares += tile[at(start + i)] * tile[at(start + i)];
            const float variance = Format::times(importance) / SUPER * squares;
            for (int block = 0; block < SUPER / Format::BLOCK; ++block) {
                const int weight = start + block * Format::BLOCK + lane % Format::BLOCK;
                const float *given = importance ? importance + (first + weight) % job.columns : importance;
                Format::read(tile[at(weight)], given, variance, lane, work);
                __syncwarp();
                Format::take_signs(block, lane, work);
                __syncwarp();
                Format::try_units(lane, work);
                __syncwarp();
                Format::begin(lane, work);
                __syncwarp();
                Format::look_up(table, lane, work);
                __syncwarp();
                Format::join(table, lane, work);
                __syncwarp();
                Format::attempt(lane, work);
                __syncwarp();
                Format::choose(table, lane, work);
                __syncwarp();
                Format::compare(table, lane, work);
                __syncwarp();
                Format::fit(table, lane, work);
                __syncwarp();
                Format::finish(block, lane, work);
                __syncwarp();
            }
            Format::pack(lane, work, encoded);
        }
        store(bytes, mine * Format::BYTES, out + (first / SUPER + begin) * Format::BYTES);
    }
}

// A thread has a block; the threads of a super-block are in one warp.
template <class Format>
__device__ inline void encode_split_super_blocks(const float *tile, int count, long long first, u8 *out, u8 *scratch,
                                                 const float *importance, const unsigned int *table, const Job &job) {
    const int block = Format::N, lanes = SUPER / block, group = THREADS / lanes;
    const int lane = threadIdx.x % lanes, slot = threadIdx.x / lanes;
    static_assert(group * (sizeof(SplitWork) + Format::BYTES) <= SCRATCH, "scratch is too small");
    SplitWork &work = ((SplitWork *)scratch)[slot];
    u8 *bytes = scratch + group * sizeof(SplitWork), *encoded = bytes + slot * Format::BYTES;
    for (int begin = 0; begin < count / SUPER; begin += group) {
        const int left = count / SUPER - begin, mine = left < group ? left : group, start = (begin + slot) * SUPER;
        float x[block], w[block];
        if (slot < mine) {
            float squares = 0;
            if (importance)
                for (int i = 0; i < SUPER; ++i) squares += tile[at(start + i)] * tile[at(start + i)];
            const float *given = importance ? importance + (first + start) % job.columns + lane * block : importance;
            for (int i = 0; i < block; ++i) {
                x[i] = tile[at(start + lane * block + i)];
                w[i] = Format::weight_of(x[i], given ? given + i : given, 2 * squares / SUPER);
            }
            Format::find(table, x, w, lane, work);
        }
        __syncwarp();
        if (slot < mine) Format::choose_step(lane, work);
        __syncwarp();
        for (int turn = 0; Format::FITS_UNIT && turn < lanes; ++turn) {
            if (slot < mine && lane == turn) Format::add_up(x, w, lane, work);
            __syncwarp();
        }
        if (slot < mine) Format::pack(lane, work, encoded);
        store(bytes, mine * Format::BYTES, out + (first / SUPER + begin) * Format::BYTES);
    }
}

// The sum of squares of a row in the order of its columns, one thread per row. Rows are not merged here.
template <class In, class Out>
__device__ inline void add_squares(const Job &job) {
    const long long row = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= job.count / job.columns) return;
    const int each = 16 / sizeof(typename In::Stored);
    const uint4 *from = (const uint4 *)((const typename In::Stored *)job.stored + row * job.columns);
    float sum = 0;
    _Pragma("unroll 16") for (long long i = 0; i < job.columns / each; ++i) {
        const uint4 raw = from[i];
        const typename In::Stored *values = (const typename In::Stored *)&raw;
        UNROLL
        for (int j = 0; j < each; ++j) {
            const float v = Out::read(Out::write(In::read(values[j])));
            sum += v * v;
        }
    }
    job.squares[row] = sum;
}

// quantkit.kernels.cuda writes a kernel of this for the types and formats of a tensor: compiling all would take minutes.
#define BEGIN(IN, OUT)                                                                             \
    extern "C" __global__ void __launch_bounds__(THREADS) carry(const Job *given) {                \
        __shared__ float tile[TILE + THREADS];                                                     \
        __shared__ __align__(16) u8 scratch[SCRATCH];                                              \
        const Job &job = *given;                                                                   \
        const long long first = (long long)blockIdx.x * TILE, left = job.count - first;            \
        const int count = left < TILE ? (int)left : TILE;                                          \
        if (32 * threadIdx.x < count) merge<IN, OUT>(job, first + 32 * threadIdx.x, tile);         \
        __syncthreads();
#define ENCODE(NUMBER, LOOP, FORMAT) LOOP<FORMAT>(tile, count, first, job.out[NUMBER], scratch);
#define ENCODE_WEIGHTED(NUMBER, LOOP, FORMAT) \
    LOOP<FORMAT>(tile, count, first, job.out[NUMBER], scratch, job.importance[NUMBER], job);
#define ENCODE_GRID(NUMBER, LOOP, FORMAT) \
    LOOP<FORMAT>(tile, count, first, job.out[NUMBER], scratch, job.importance[NUMBER], job.grid[NUMBER], job);
#define END }
#define SQUARES(IN, OUT) \
    extern "C" __global__ void squares(const Job *given) { add_squares<IN, OUT>(*given); }
