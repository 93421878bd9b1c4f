// Objects that are costly to make, lent to one thread at a time and kept for the next.
#pragma once

#include <memory>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

namespace vicinal {

// Thread-safe. T is made by its default constructor when none is free.
template <class T>
class Pool {
 public:
  // Gives its object back when it ends.
  class Lease {
   public:
    Lease(Pool& pool, std::unique_ptr<T> held) noexcept : pool_(pool), held_(std::move(held)) {}
    ~Lease() { pool_.give_back(std::move(held_)); }
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    [[nodiscard]] T& operator*() const noexcept { return *held_; }
    [[nodiscard]] T* operator->() const noexcept { return held_.get(); }

   private:
    Pool& pool_;
    std::unique_ptr<T> held_;
  };

  [[nodiscard]] Lease lease() {
    std::unique_ptr<T> held;
    {
      const std::lock_guard lock(mutex_);
      if (!free_.empty()) {
        held = std::move(free_.back());
        free_.pop_back();
      }
    }
    if (!held) held = std::make_unique<T>();
    return {*this, std::move(held)};
  }

 private:
  void give_back(std::unique_ptr<T> held) noexcept {
    const std::lock_guard lock(mutex_);
    try {
      free_.push_back(std::move(held));
    } catch (const std::bad_alloc&) {
      held.reset();  // no room to remember it: it is only freed
    }
  }

  std::mutex mutex_;
  std::vector<std::unique_ptr<T>> free_;
};

}  // namespace vicinal
