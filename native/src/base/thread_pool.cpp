// Jobs live on their caller's stack; workers join open jobs oldest first and take chunks by an atomic counter.
#include "base/thread_pool.hpp"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "base/cpu_features.hpp"

namespace vicinal {
namespace {

constexpr unsigned kThreadsMax = 256;

thread_local bool inside_job = false;

class InsideJob {
 public:
  InsideJob() noexcept { inside_job = true; }
  ~InsideJob() { inside_job = false; }
  InsideJob(const InsideJob&) = delete;
  InsideJob& operator=(const InsideJob&) = delete;
};

std::atomic<ThreadPool*> shared_pool{nullptr};

// The child has only the forking thread: the parent's workers, and whatever locks they held, are gone. The old pool
// is leaked on purpose, since destroying it would wait for threads that do not exist.
void forget_pool() noexcept { shared_pool.store(nullptr, std::memory_order_release); }

unsigned configured_threads() noexcept {
  if (const char* text = std::getenv("VICINAL_THREADS"); text != nullptr) {
    char* end = nullptr;
    const unsigned long value = std::strtoul(text, &end, 10);
    if (end != text && *end == '\0' && value >= 1 && value <= kThreadsMax) return static_cast<unsigned>(value);
  }
  return std::min(hardware_threads(), kThreadsMax);
}

struct Job {
  using Call = void (*)(void*, std::size_t, std::size_t, unsigned);

  Job(void* fn, Call trampoline, std::size_t items, std::size_t chunk, unsigned workers) noexcept
      : body(fn), call(trampoline), n(items), grain(chunk), workers_max(workers) {}

  void* body;
  Call call;
  std::size_t n;
  std::size_t grain;
  unsigned workers_max;
  std::atomic<std::size_t> next{0};
  // Below: guarded by the pool's mutex.
  unsigned joined = 1;  // the caller is worker 0
  unsigned active = 0;  // helpers inside work()
  std::exception_ptr error = nullptr;
  std::condition_variable idle;

  void work(unsigned worker, std::mutex& mutex) noexcept {
    const InsideJob mark;
    try {
      for (;;) {
        const std::size_t begin = next.fetch_add(grain, std::memory_order_relaxed);
        if (begin >= n) return;
        call(body, begin, std::min(n, begin + grain), worker);
      }
    } catch (...) {
      next.store(n, std::memory_order_relaxed);
      const std::lock_guard lock(mutex);
      if (error == nullptr) error = std::current_exception();
    }
  }
};

}  // namespace

struct ThreadPool::State {
  std::mutex mutex;
  std::condition_variable wake;
  std::vector<Job*> open;  // jobs that still take helpers, oldest first
  std::vector<std::thread> threads;
  bool stopping = false;

  void serve() {
    std::unique_lock lock(mutex);
    for (;;) {
      wake.wait(lock, [this] { return stopping || !open.empty(); });
      if (stopping) return;
      Job& job = *open.front();
      const unsigned worker = job.joined++;
      if (job.joined == job.workers_max) open.erase(open.begin());
      ++job.active;
      lock.unlock();
      job.work(worker, mutex);
      lock.lock();
      // A job without chunks left must not be joined again, or idle workers would spin on it.
      std::erase(open, &job);
      if (--job.active == 0) job.idle.notify_one();
    }
  }

  void stop() {
    {
      const std::lock_guard lock(mutex);
      stopping = true;
    }
    wake.notify_all();
    for (std::thread& thread : threads) thread.join();
  }
};

ThreadPool& ThreadPool::instance() {
  ThreadPool* pool = shared_pool.load(std::memory_order_acquire);
  if (pool != nullptr) return *pool;
  static const int registered = ::pthread_atfork(nullptr, nullptr, forget_pool);
  static_cast<void>(registered);
  auto fresh = std::make_unique<ThreadPool>(configured_threads());
  if (shared_pool.compare_exchange_strong(pool, fresh.get(), std::memory_order_acq_rel)) {
    return *fresh.release();  // lives as long as the process: joining at exit could wait for ever
  }
  return *pool;
}

ThreadPool::ThreadPool(unsigned concurrency)
    : concurrency_(std::clamp(concurrency, 1U, kThreadsMax)), state_(std::make_unique<State>()) {
  state_->threads.reserve(concurrency_ - 1);
  try {
    for (unsigned i = 1; i < concurrency_; ++i) state_->threads.emplace_back([this] { state_->serve(); });
  } catch (...) {
    state_->stop();
    throw;
  }
}

ThreadPool::~ThreadPool() { state_->stop(); }

void ThreadPool::run(std::size_t n, unsigned threads, std::size_t grain, void* body, Call call) {
  if (n == 0) return;
  unsigned workers = inside_job ? 1 : workers_for(threads);
  if (grain == 0) grain = std::max<std::size_t>(1, n / (std::size_t{workers} * 8));
  workers = static_cast<unsigned>(std::min<std::size_t>(workers, (n - 1) / grain + 1));
  if (workers == 1) {
    for (std::size_t begin = 0; begin < n; begin += std::min(grain, n - begin)) {
      call(body, begin, begin + std::min(grain, n - begin), 0);
    }
    return;
  }

  Job job(body, call, n, grain, workers);
  {
    const std::lock_guard lock(state_->mutex);
    state_->open.push_back(&job);
  }
  for (unsigned i = 1; i < workers; ++i) state_->wake.notify_one();
  job.work(0, state_->mutex);
  std::unique_lock lock(state_->mutex);
  std::erase(state_->open, &job);
  job.idle.wait(lock, [&job] { return job.active == 0; });
  if (job.error != nullptr) std::rethrow_exception(job.error);
}

}  // namespace vicinal
