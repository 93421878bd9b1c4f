// Memory for rows, codes and graphs: cache-line aligned, huge pages where it is large.
//
// AlignedBuffer has a fixed size. ReservedBuffer grows in place: its address never changes, so lock-free readers may
// hold pointers into it while one writer appends.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <new>
#include <span>
#include <string>
#include <type_traits>
#include <utility>

#include "base/error.hpp"

namespace vicinal {

inline constexpr std::size_t kCacheLine = 64;
inline constexpr std::size_t kHugePage = std::size_t{2} << 20;

[[nodiscard]] constexpr std::size_t round_up(std::size_t n, std::size_t multiple) noexcept {
  return (n + multiple - 1) / multiple * multiple;
}

namespace detail {

// Maps `bytes` (a multiple of kHugePage) at an address aligned to kHugePage; throws std::bad_alloc.
inline std::byte* map_aligned(std::size_t bytes, int protection) {
  const std::size_t padded = bytes + kHugePage;
  void* raw = ::mmap(nullptr, padded, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (raw == MAP_FAILED) throw std::bad_alloc();
  auto* base = static_cast<std::byte*>(raw);
  const std::size_t head =
      round_up(reinterpret_cast<std::uintptr_t>(base), kHugePage) - reinterpret_cast<std::uintptr_t>(base);
  if (head != 0) ::munmap(base, head);
  const std::size_t tail = padded - head - bytes;
  if (tail != 0) ::munmap(base + head + bytes, tail);
  return base + head;
}

inline void advise_huge([[maybe_unused]] void* data, [[maybe_unused]] std::size_t bytes) noexcept {
#ifdef MADV_HUGEPAGE
  static_cast<void>(::madvise(data, bytes, MADV_HUGEPAGE));  // advice: a kernel without it is only slower
#endif
}

}  // namespace detail

// n zero-initialised elements at a 64-byte boundary; from 2 MiB on in huge pages. Movable, not copyable.
// Throws std::bad_alloc.
template <class T>
class AlignedBuffer {
  static_assert(std::is_trivially_copyable_v<T> && std::is_trivially_destructible_v<T>);

 public:
  AlignedBuffer() = default;

  explicit AlignedBuffer(std::size_t n) : size_(n) {
    if (n == 0) return;
    if (n > (std::numeric_limits<std::size_t>::max() - 2 * kHugePage) / sizeof(T)) throw std::bad_alloc();
    const std::size_t bytes = n * sizeof(T);
    if (bytes >= kHugePage) {
      mapped_ = round_up(bytes, kHugePage);
      data_ = reinterpret_cast<T*>(detail::map_aligned(mapped_, PROT_READ | PROT_WRITE));
      detail::advise_huge(data_, mapped_);
    } else {
      void* raw = std::aligned_alloc(kCacheLine, round_up(bytes, kCacheLine));
      if (raw == nullptr) throw std::bad_alloc();
      std::memset(raw, 0, round_up(bytes, kCacheLine));
      data_ = static_cast<T*>(raw);
    }
  }

  AlignedBuffer(AlignedBuffer&& other) noexcept { swap(other); }
  AlignedBuffer& operator=(AlignedBuffer&& other) noexcept {
    AlignedBuffer taken(std::move(other));
    swap(taken);
    return *this;
  }
  AlignedBuffer(const AlignedBuffer&) = delete;
  AlignedBuffer& operator=(const AlignedBuffer&) = delete;

  ~AlignedBuffer() {
    if (mapped_ != 0) {
      ::munmap(data_, mapped_);
    } else {
      std::free(data_);
    }
  }

  void swap(AlignedBuffer& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    std::swap(mapped_, other.mapped_);
  }

  [[nodiscard]] T* data() noexcept { return data_; }
  [[nodiscard]] const T* data() const noexcept { return data_; }
  [[nodiscard]] std::size_t size() const noexcept { return size_; }
  [[nodiscard]] bool empty() const noexcept { return size_ == 0; }
  [[nodiscard]] std::size_t memory_bytes() const noexcept { return mapped_ != 0 ? mapped_ : size_ * sizeof(T); }
  [[nodiscard]] T& operator[](std::size_t i) noexcept { return data_[i]; }
  [[nodiscard]] const T& operator[](std::size_t i) const noexcept { return data_[i]; }
  [[nodiscard]] T* begin() noexcept { return data_; }
  [[nodiscard]] T* end() noexcept { return data_ + size_; }
  [[nodiscard]] const T* begin() const noexcept { return data_; }
  [[nodiscard]] const T* end() const noexcept { return data_ + size_; }
  [[nodiscard]] std::span<T> span() noexcept { return {data_, size_}; }
  [[nodiscard]] std::span<const T> span() const noexcept { return {data_, size_}; }

 private:
  T* data_ = nullptr;
  std::size_t size_ = 0;
  std::size_t mapped_ = 0;  // bytes mapped, 0 where the C allocator owns it
};

// A reserved range of addresses of which a growing prefix is readable and writable (new bytes are zero).
// One thread may grow() while others read bytes below a size they learnt by an acquire load. Movable, not copyable.
class ReservedBuffer {
 public:
  ReservedBuffer() = default;

  // Reserves addresses only: no memory is used before grow(). Throws std::bad_alloc.
  explicit ReservedBuffer(std::size_t capacity_bytes)
      : capacity_(round_up(std::max<std::size_t>(capacity_bytes, 1), kHugePage)) {
    data_ = detail::map_aligned(capacity_ + kHugePage, PROT_NONE);
  }

  ReservedBuffer(ReservedBuffer&& other) noexcept { swap(other); }
  ReservedBuffer& operator=(ReservedBuffer&& other) noexcept {
    ReservedBuffer taken(std::move(other));
    swap(taken);
    return *this;
  }
  ReservedBuffer(const ReservedBuffer&) = delete;
  ReservedBuffer& operator=(const ReservedBuffer&) = delete;

  ~ReservedBuffer() {
    if (data_ != nullptr) ::munmap(data_ - shift_, capacity_ + kHugePage);
  }

  void swap(ReservedBuffer& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(capacity_, other.capacity_);
    std::swap(shift_, other.shift_);
    std::swap(committed_, other.committed_);
    std::swap(advised_, other.advised_);
    std::swap(from_file_, other.from_file_);
  }

  // Makes at least the first `bytes` usable; never shrinks. Throws Error{capacity} past the reservation and
  // std::bad_alloc where the system refuses memory; either way the buffer is unchanged.
  void grow(std::size_t bytes) {
    if (bytes <= committed_) return;
    if (bytes > capacity_) {
      throw Error(ErrorCode::capacity, "buffer of " + std::to_string(bytes) + " bytes asked, " +
                                           std::to_string(capacity_) +
                                           " reserved; split the rows over several indexes");
    }
    const std::size_t target = std::min(capacity_, round_up(bytes, bytes < kHugePage ? kSmallStep : kHugePage));
    if (::mprotect(data_ + committed_, target - committed_, PROT_READ | PROT_WRITE) != 0) throw std::bad_alloc();
    committed_ = target;
    // A small index must not cost a whole huge page for each of its buffers.
    if (committed_ >= 2 * kHugePage) {
      if (committed_ > advised_) detail::advise_huge(data_ + advised_, committed_ - advised_);
      advised_ = std::max(advised_, committed_);
    }
  }

  // Puts `bytes` of a file at the start of an empty buffer, without reading them: a private copy, so that later writes
  // stay in memory, and growing past them works as ever. `offset` is a multiple of the page size, and the file may not
  // shrink while the buffer lives. The buffer's address changes, this once. Throws as grow() does.
  void map_file(int descriptor, std::uint64_t offset, std::size_t bytes) {
    if (bytes == 0) return;
    if (committed_ != 0) throw Error(ErrorCode::internal, "map_file on a buffer in use");
    const std::size_t target = round_up(bytes, kSmallStep);
    if (target > capacity_) {
      throw Error(ErrorCode::capacity, "a file of " + std::to_string(bytes) + " bytes, " + std::to_string(capacity_) +
                                           " reserved; this machine has too little memory for it");
    }
    // The file's huge pages are ours only where they begin at a multiple of their size in memory too.
    shift_ = static_cast<std::size_t>(offset % kHugePage);
    data_ += shift_;
    void* at = ::mmap(data_, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, descriptor,
                      static_cast<off_t>(offset));
    if (at == MAP_FAILED) {
      data_ -= std::exchange(shift_, 0);
      throw std::bad_alloc();
    }
    // What is not in the system's cache yet is read into huge pages.
    detail::advise_huge(data_, bytes);
    // The last page is the file's up to its end; what rounds up to the step is fresh memory.
    const std::size_t mapped = round_up(bytes, static_cast<std::size_t>(::sysconf(_SC_PAGESIZE)));
    if (mapped < target && ::mprotect(data_ + mapped, target - mapped, PROT_READ | PROT_WRITE) != 0) {
      throw std::bad_alloc();
    }
    committed_ = target;
    advised_ = round_up(target, kHugePage);
    from_file_ = bytes;
  }

  [[nodiscard]] std::byte* data() noexcept { return data_; }
  [[nodiscard]] const std::byte* data() const noexcept { return data_; }
  template <class T>
  [[nodiscard]] T* as() noexcept {
    return reinterpret_cast<T*>(data_);
  }
  template <class T>
  [[nodiscard]] const T* as() const noexcept {
    return reinterpret_cast<const T*>(data_);
  }
  [[nodiscard]] std::size_t capacity() const noexcept { return capacity_; }    // bytes reserved
  [[nodiscard]] std::size_t committed() const noexcept { return committed_; }  // bytes usable
  [[nodiscard]] std::size_t from_file() const noexcept { return from_file_; }  // bytes of them that a file backs

 private:
  static constexpr std::size_t kSmallStep = std::size_t{64} << 10;

  std::byte* data_ = nullptr;
  std::size_t capacity_ = 0;
  std::size_t shift_ = 0;  // of data_ behind a multiple of kHugePage; so much of one more huge page is reserved
  std::size_t committed_ = 0;
  std::size_t advised_ = 0;
  std::size_t from_file_ = 0;
};

}  // namespace vicinal
