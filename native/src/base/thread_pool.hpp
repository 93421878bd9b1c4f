// The one thread pool: fixed size, no OpenMP, safe after fork, callable from several threads at once.
#pragma once

#include <cstddef>
#include <memory>
#include <type_traits>

namespace vicinal {

class ThreadPool {
 public:
  // The process-wide pool, started at first use with hardware_threads() threads (VICINAL_THREADS=1..256 overrides).
  // After fork() the child gets a new one at its first use.
  [[nodiscard]] static ThreadPool& instance();

  // `concurrency` threads including the caller, so concurrency - 1 are started.
  explicit ThreadPool(unsigned concurrency);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  // Threads that can work on one job, the caller included.
  [[nodiscard]] unsigned concurrency() const noexcept { return concurrency_; }

  // How many threads a job asking for `threads` (0: all) gets at most; worker numbers are below it.
  [[nodiscard]] unsigned workers_for(unsigned threads) const noexcept {
    return threads == 0 || threads > concurrency_ ? concurrency_ : threads;
  }

  // Calls fn(begin, end, worker) on chunks of at most `grain` (0: chosen) items that cover [0, n) once each.
  // worker < workers_for(threads) is unique among concurrent calls of fn within this job: index scratch memory by it.
  // The calling thread takes part (as worker 0) and returns when all is done; the first exception thrown by fn stops
  // the handing out of chunks and is rethrown here. A call from inside fn runs inline as worker 0 of its own job.
  template <class Fn>
  void parallel_for(std::size_t n, unsigned threads, std::size_t grain, Fn&& fn) {
    using Body = std::remove_reference_t<Fn>;
    run(n, threads, grain, const_cast<void*>(static_cast<const void*>(std::addressof(fn))),
        [](void* body, std::size_t begin, std::size_t end, unsigned worker) {
          (*static_cast<Body*>(body))(begin, end, worker);
        });
  }

 private:
  struct State;
  using Call = void (*)(void* body, std::size_t begin, std::size_t end, unsigned worker);

  void run(std::size_t n, unsigned threads, std::size_t grain, void* body, Call call);

  unsigned concurrency_;
  std::unique_ptr<State> state_;
};

}  // namespace vicinal
