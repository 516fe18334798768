// The CUDA side of encoders.cu: arithmetic, and how a thread block loads, encodes and stores.

#define UNROLL _Pragma("unroll")
typedef unsigned char u8;
typedef unsigned short u16;

__device__ inline int bits_of(float v) { return __float_as_int(v); }
__device__ inline float smaller(float a, float b) { return b < a ? b : a; }
__device__ inline float larger(float a, float b) { return b > a ? b : a; }
// One instruction, but of two zeros it may return either.
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

struct F16 {
    typedef u16 Stored;
    __device__ static inline float read(u16 v) { return from_half(v); }
};
struct BF16 {
    typedef u16 Stored;
    __device__ static inline float read(u16 v) { return __uint_as_float((unsigned int)v << 16); }
};
struct F32 {
    typedef float Stored;
    __device__ static inline float read(float v) { return v; }
};

// N values, sixteen bytes at a time.
template <int N, class In>
__device__ inline void load(const typename In::Stored *from, float *x) {
    const int each = 16 / sizeof(typename In::Stored);
    UNROLL
    for (int i = 0; i < N; i += each) {
        const uint4 raw = *(const uint4 *)(from + i);
        const typename In::Stored *values = (const typename In::Stored *)&raw;
        UNROLL
        for (int j = 0; j < each; ++j) x[i + j] = In::read(values[j]);
    }
}

#define THREADS 128

// Copy what the thread block has encoded to its place; neighbouring threads write neighbouring bytes.
__device__ inline void store(const u8 *bytes, int count, u8 *out) {
    __syncthreads();
    for (int i = threadIdx.x; i < count / 2; i += THREADS) ((u16 *)out)[i] = ((const u16 *)bytes)[i];
}

template <class Format, class In>
__device__ inline void encode_super_blocks(const typename In::Stored *x, u8 *out, long long count) {
    const int group = THREADS / Format::LANES, block = SUPER / Format::LANES;
    const int lane = threadIdx.x % Format::LANES, slot = threadIdx.x / Format::LANES;
    __shared__ Work works[group];
    __shared__ __align__(16) u8 bytes[group * Format::BYTES];
    const long long first = (long long)blockIdx.x * group;
    const int mine = count - first < group ? (int)(count - first) : group;
    Work &work = works[slot];
    u8 *encoded = bytes + slot * Format::BYTES;
    float values[block];
    // The threads of a super-block are in one warp.
    if (slot < mine) {
        load<block, In>(x + (first + slot) * SUPER + lane * block, values);
        Format::search(values, lane, work);
    }
    __syncwarp();
    if (slot < mine) Format::levels(values, lane, work, encoded);
    __syncwarp();
    if (slot < mine) Format::pack(lane, work, encoded);
    store(bytes, mine * Format::BYTES, out + first * Format::BYTES);
}

template <class Format, class In>
__device__ inline void encode_blocks(const typename In::Stored *x, u8 *out, long long count) {
    __shared__ __align__(16) u8 bytes[THREADS * Format::BYTES];
    const long long first = (long long)blockIdx.x * THREADS;
    const int mine = count - first < THREADS ? (int)(count - first) : THREADS;
    if (threadIdx.x < mine) {
        float values[32];
        load<32, In>(x + (first + threadIdx.x) * 32, values);
        Format::pack(values, bytes + threadIdx.x * Format::BYTES);
    }
    store(bytes, mine * Format::BYTES, out + first * Format::BYTES);
}

// quantkit.kernels.cuda_source adds one such line per kernel that is needed: compiling all of them would take seconds.
#define KERNEL(NAME, ENCODE, FORMAT, IN)                                                                        \
    extern "C" __global__ void __launch_bounds__(THREADS) NAME(const IN::Stored *x, u8 *out, long long count) { \
        ENCODE<FORMAT, IN>(x, out, count);                                                                      \
    }
