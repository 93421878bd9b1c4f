// Buffers, thread pool, checksums and files.
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <numeric>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "base/aligned_buffer.hpp"
#include "base/cpu_features.hpp"
#include "base/crc32c.hpp"
#include "base/error.hpp"
#include "base/file.hpp"
#include "base/thread_pool.hpp"
#include "check.hpp"

namespace {

using namespace vicinal;

template <class Fn>
bool fails_with(ErrorCode code, Fn&& fn) {
  return test::throws<Error>(fn, [code](const Error& e) { return e.code() == code; });
}

void buffers_are_aligned_and_zero() {
  for (const std::size_t n : {std::size_t{1}, std::size_t{100}, std::size_t{3} << 20}) {
    AlignedBuffer<std::uint8_t> buffer(n);
    CHECK(reinterpret_cast<std::uintptr_t>(buffer.data()) % kCacheLine == 0, n);
    CHECK(buffer.size() == n && buffer[0] == 0 && buffer[n - 1] == 0, n);
    buffer[n - 1] = 7;
    AlignedBuffer<std::uint8_t> moved = std::move(buffer);
    CHECK(moved[n - 1] == 7, n);
    moved = AlignedBuffer<std::uint8_t>(3);
    CHECK(moved.size() == 3);
  }
  CHECK(test::throws<std::bad_alloc>([] { const AlignedBuffer<double> huge(std::size_t{1} << 62); },
                                     [](const std::bad_alloc&) { return true; }));
}

void reserved_buffer_grows_in_place() {
  ReservedBuffer buffer(std::size_t{64} << 20);
  buffer.grow(10);
  std::byte* const address = buffer.data();
  address[9] = std::byte{42};
  for (std::size_t bytes = 1000; bytes < buffer.capacity(); bytes *= 3) {
    buffer.grow(bytes);
    CHECK(buffer.committed() >= bytes, bytes);
    CHECK(address[bytes - 1] == std::byte{0}, bytes);
    address[bytes - 1] = std::byte{1};
  }
  CHECK(buffer.data() == address && address[9] == std::byte{42});
  CHECK(fails_with(ErrorCode::capacity, [&] { buffer.grow(buffer.capacity() + 1); }));
}

void a_mapped_file_lies_as_its_huge_pages_do_and_grows_on() {
  const std::string path =
      (std::filesystem::temp_directory_path() / ("vicinal-map-" + std::to_string(::getpid()))).string();
  const std::uint64_t offset = 3 * 4096;
  const std::size_t bytes = 2 * kHugePage + 100;
  {
    File file = File::create(path);
    std::vector<std::byte> content(offset + bytes, std::byte{7});
    content[offset] = std::byte{1};
    content.back() = std::byte{2};
    file.write_at(content.data(), content.size(), 0);
  }
  ReservedBuffer buffer(std::size_t{64} << 20);
  {
    const File file = File::open_read(path);
    buffer.map_file(file.descriptor(), offset, bytes);
  }
  std::filesystem::remove(path);
  CHECK(reinterpret_cast<std::uintptr_t>(buffer.data()) % kHugePage == offset % kHugePage);
  CHECK(buffer.data()[0] == std::byte{1} && buffer.data()[bytes - 1] == std::byte{2});
  ReservedBuffer taken = std::move(buffer);
  std::byte* const address = taken.data();
  taken.grow(taken.capacity());
  CHECK(taken.data() == address && address[0] == std::byte{1} && address[bytes - 1] == std::byte{2});
  address[taken.capacity() - 1] = std::byte{3};  // the last byte is ours too
  CHECK(address[taken.capacity() - 1] == std::byte{3} && taken.from_file() == bytes);
}

void readers_see_appended_bytes_without_a_lock() {
  ReservedBuffer buffer(std::size_t{16} << 20);
  constexpr std::size_t kCount = 200'000;
  std::atomic<std::size_t> size{0};
  std::thread reader([&] {
    std::size_t seen = 0;
    while (seen < kCount) {
      seen = size.load(std::memory_order_acquire);
      if (seen != 0 && buffer.as<std::uint32_t>()[seen - 1] != seen) {
        CHECK(false, "row", seen);
        return;
      }
    }
  });
  buffer.grow(4);
  for (std::size_t i = 0; i < kCount; ++i) {
    buffer.grow((i + 1) * 4);
    buffer.as<std::uint32_t>()[i] = static_cast<std::uint32_t>(i + 1);
    size.store(i + 1, std::memory_order_release);
  }
  reader.join();
}

void parallel_for_covers_every_item_once() {
  ThreadPool pool(4);
  for (const std::size_t n : {0UL, 1UL, 7UL, 1000UL, 12'345UL}) {
    for (const std::size_t grain : {0UL, 1UL, 64UL, 100'000UL}) {
      for (const unsigned threads : {0U, 1U, 3U, 9U}) {
        std::vector<int> hits(n, 0);
        std::vector<int> busy(pool.workers_for(threads), 0);
        pool.parallel_for(n, threads, grain, [&](std::size_t begin, std::size_t end, unsigned worker) {
          CHECK(worker < busy.size() && ++busy[worker] == 1, worker);  // a worker number is never shared
          CHECK(begin < end && end <= n && (grain == 0 || end - begin <= grain), begin, end);
          for (std::size_t i = begin; i < end; ++i) ++hits[i];
          --busy[worker];
        });
        CHECK(std::accumulate(hits.begin(), hits.end(), std::size_t{0}) == n, n, grain, threads);
        for (const int h : hits) CHECK(h == 1);
      }
    }
  }
}

void exceptions_reach_the_caller_and_the_pool_survives() {
  ThreadPool pool(3);
  for (int round = 0; round < 50; ++round) {
    const bool thrown = test::throws<std::runtime_error>(
        [&] {
          pool.parallel_for(100, 0, 1, [](std::size_t begin, std::size_t, unsigned) {
            if (begin == 17) throw std::runtime_error("seventeen");
          });
        },
        [](const std::runtime_error& e) { return std::string(e.what()) == "seventeen"; });
    CHECK(thrown, round);
  }
  std::atomic<int> count{0};
  pool.parallel_for(100, 0, 1, [&](std::size_t, std::size_t, unsigned) { ++count; });
  CHECK(count == 100);
}

void nested_and_concurrent_calls_complete() {
  ThreadPool pool(3);
  std::atomic<std::size_t> total{0};
  std::vector<std::thread> callers;
  callers.reserve(4);
  for (int c = 0; c < 4; ++c) {
    callers.emplace_back([&] {
      for (int round = 0; round < 100; ++round) {
        pool.parallel_for(20, 0, 1, [&](std::size_t, std::size_t, unsigned) {
          pool.parallel_for(5, 0, 1, [&](std::size_t begin, std::size_t end, unsigned worker) {
            CHECK(worker == 0, "nested calls run inline");
            total += end - begin;
          });
        });
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  CHECK(total == 4UL * 100 * 20 * 5, total.load());
}

// The thread sanitizer and qemu-user cannot start threads in the child of a process that has some; tools/neon_check.sh
// sets VICINAL_TEST_NO_FORK for the latter.
bool fork_can_be_tested() {
#if defined(__SANITIZE_THREAD__)
  return false;
#else
  return std::getenv("VICINAL_TEST_NO_FORK") == nullptr;
#endif
}

void a_forked_child_has_a_working_pool() {
  if (!fork_can_be_tested()) {
    std::cerr << "skipped: fork with threads does not work in this environment\n";
    return;
  }
  std::atomic<int> before{0};
  ThreadPool::instance().parallel_for(64, 0, 1, [&](std::size_t, std::size_t, unsigned) { ++before; });
  CHECK(before == 64);
  const pid_t child = ::fork();
  if (child == 0) {
    std::atomic<int> count{0};
    ThreadPool::instance().parallel_for(64, 0, 1, [&](std::size_t, std::size_t, unsigned) { ++count; });
    ::_exit(count == 64 ? 0 : 1);
  }
  int status = -1;
  ::waitpid(child, &status, 0);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, status);
}

void checksums_match_the_published_ones() {
  CHECK(crc32c("123456789", 9) == 0xE3069283);
  CHECK(crc32c("", 0) == 0);
  const std::vector<std::uint8_t> zeros(32, 0);
  CHECK(crc32c(zeros.data(), 32) == 0x8A9136AA);  // RFC 3720, B.4
  std::vector<std::uint8_t> bytes(60'000);
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::uint8_t>((i * 2654435761U) >> 13);
  for (std::size_t n = 0; n < bytes.size(); n = n < 2000 ? n + 1 : n + 1237) {
    const std::size_t offset = n % 9;
    if (offset + n > bytes.size()) break;
    const std::uint32_t whole = crc32c_portable(bytes.data() + offset, n);
    CHECK(crc32c(bytes.data() + offset, n) == whole, n);
    const std::size_t cut = n / 3;
    CHECK(crc32c(bytes.data() + offset + cut, n - cut, crc32c(bytes.data() + offset, cut)) == whole, n);
  }
}

void long_writes_arrive_whole() {
  std::string name = (std::filesystem::temp_directory_path() / "vicinal-base-XXXXXX").string();
  CHECK(::mkdtemp(name.data()) != nullptr);
  const std::string path = name + "/data.bin";
  std::vector<std::uint32_t> words(std::size_t{18} << 20);  // more than two of the pieces that it is written in
  for (std::size_t i = 0; i < words.size(); ++i) words[i] = static_cast<std::uint32_t>(i * 2654435761U);
  {
    AtomicFile file(path);
    file.append("head", 4);
    file.append(words.data(), words.size() * 4);
    file.append("tail", 4);
    CHECK(file.offset() == words.size() * 4 + 8);
    file.commit();
  }
  const MappedFile copy(path);
  CHECK(copy.size() == words.size() * 4 + 8);
  CHECK(std::memcmp(copy.view(0, 4), "head", 4) == 0);
  CHECK(std::memcmp(copy.view(4, words.size() * 4), words.data(), words.size() * 4) == 0);
  CHECK(std::memcmp(copy.view(4 + words.size() * 4, 4), "tail", 4) == 0);
  std::filesystem::remove_all(name);
}

void files_are_replaced_whole_or_not_at_all() {
  std::string name = (std::filesystem::temp_directory_path() / "vicinal-base-XXXXXX").string();
  CHECK(::mkdtemp(name.data()) != nullptr);
  const std::string path = name + "/data.bin";
  const auto write = [&](const std::string& text, bool commit) {
    AtomicFile file(path);
    file.append(text.data(), text.size());
    if (commit) file.commit();
  };
  write("first version", true);
  write("lost", false);
  CHECK(File::open_read(path).size() == 13);
  write("second", true);
  std::size_t entries = 0;
  for (const auto& entry : std::filesystem::directory_iterator(name)) entries += entry.is_regular_file() ? 1 : 0;
  CHECK(entries == 1, "temporary files remain");

  const File file = File::open_read(path);
  char text[6] = {};
  file.read_at(text, 6, 0);
  CHECK(std::string(text, 6) == "second");
  CHECK(fails_with(ErrorCode::corrupt, [&] { file.read_at(text, 6, 1); }));
  CHECK(fails_with(ErrorCode::io, [&] { static_cast<void>(File::open_read(path + ".missing")); }));
  CHECK(test::throws<Error>([&] { static_cast<void>(File::open_read(path + ".missing")); },
                            [&](const Error& e) {
                              const std::string what = e.what();
                              return what.find(path) != std::string::npos && what.find("errno 2") != std::string::npos;
                            }));

  MappedFile copy(path, MappedFile::Mode::private_copy);
  copy.mutable_data()[0] = std::byte{'S'};
  const MappedFile shared(path);
  CHECK(shared.size() == 6 && shared.data()[0] == std::byte{'s'}, "private changes stay private");
  CHECK(shared.view(0, 6) == shared.data());
  CHECK(fails_with(ErrorCode::corrupt, [&] { static_cast<void>(shared.view(2, 5)); }));
  CHECK(fails_with(ErrorCode::corrupt, [&] { static_cast<void>(shared.view(~std::uint64_t{0}, 2)); }));
  File::create(name + "/empty").close();
  CHECK(MappedFile(name + "/empty").size() == 0);
  std::filesystem::remove_all(name);
}

}  // namespace

int main() {
  a_forked_child_has_a_working_pool();
  buffers_are_aligned_and_zero();
  reserved_buffer_grows_in_place();
  a_mapped_file_lies_as_its_huge_pages_do_and_grows_on();
  readers_see_appended_bytes_without_a_lock();
  parallel_for_covers_every_item_once();
  exceptions_reach_the_caller_and_the_pool_survives();
  nested_and_concurrent_calls_complete();
  checksums_match_the_published_ones();
  long_writes_arrive_whole();
  files_are_replaced_whole_or_not_at_all();
  CHECK(hardware_threads() >= 1);
  return vicinal::test::failures();
}
