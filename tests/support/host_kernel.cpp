// cuda.cu on a processor: threads for threads, barriers for barriers, one thread block after the other.
// host_device.py puts the arithmetic of host_encoders.cpp before this, and the kernels of cuda.cu after it.
#include <atomic>
#include <pthread.h>
#include <thread>
#include <vector>

#define __global__
#define __shared__ static
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __launch_bounds__(threads)

struct Index {
    unsigned int x;
};
struct uint4 {
    unsigned int x, y, z, w;
};
struct float4 {
    float x, y, z, w;
};

static thread_local Index threadIdx, blockIdx;
static Index blockDim;
static pthread_barrier_t all_threads, warps[4];

static void __syncthreads() { pthread_barrier_wait(&all_threads); }
static void __syncwarp() { pthread_barrier_wait(&warps[threadIdx.x / 32]); }

static inline unsigned int __float_as_uint(float v) { return bits_of(v); }
static inline float __uint_as_float(unsigned int bits) { return of_bits(bits); }

static void atomicMax(unsigned int *at, unsigned int v) {
    unsigned int seen = __atomic_load_n(at, __ATOMIC_RELAXED);
    while (seen < v && !__atomic_compare_exchange_n(at, &seen, v, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {}
}
static void atomicMin(unsigned int *at, unsigned int v) {
    unsigned int seen = __atomic_load_n(at, __ATOMIC_RELAXED);
    while (seen > v && !__atomic_compare_exchange_n(at, &seen, v, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {}
}

struct Job;

static void run_blocks(void (*kernel)(const Job *), int blocks, int threads, const Job *job) {
    blockDim.x = threads;
    pthread_barrier_init(&all_threads, nullptr, threads);
    for (int warp = 0; warp < threads / 32; ++warp) pthread_barrier_init(&warps[warp], nullptr, 32);
    std::vector<std::thread> running;
    for (int thread = 0; thread < threads; ++thread)
        running.emplace_back([=] {
            threadIdx.x = thread;
            for (int block = 0; block < blocks; ++block) {
                blockIdx.x = block;
                kernel(job);
                __syncthreads();
            }
        });
    for (std::thread &thread : running) thread.join();
    for (int warp = 0; warp < threads / 32; ++warp) pthread_barrier_destroy(&warps[warp]);
    pthread_barrier_destroy(&all_threads);
}

// host_device.py adds such a line for each kernel.
#define KERNEL(NAME) \
    extern "C" void run_##NAME(int blocks, int threads, const Job *job) { run_blocks(NAME, blocks, threads, job); }
