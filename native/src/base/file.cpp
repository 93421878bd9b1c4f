// POSIX file access behind file.hpp.
#include "base/file.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <system_error>

#include "base/aligned_buffer.hpp"
#include "base/error.hpp"

namespace vicinal {
namespace {

// Linux moves at most 0x7ffff000 bytes a call.
constexpr std::size_t kTransferMax = std::size_t{1} << 30;

[[noreturn]] void fail(const char* verb, const std::string& path, int code) {
  throw Error(ErrorCode::io, std::string("cannot ") + verb + " '" + path + "': " +
                                 std::generic_category().message(code) + " (errno " + std::to_string(code) + ")");
}

[[noreturn]] void fail_short(const std::string& path, std::uint64_t offset, std::uint64_t n, std::uint64_t size) {
  throw Error(ErrorCode::corrupt, "'" + path + "' ends at byte " + std::to_string(size) + ", but " + std::to_string(n) +
                                      " bytes at offset " + std::to_string(offset) +
                                      " were expected; restore it or rebuild it");
}

std::string directory_of(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

// Of a large write, between multiples of this in the file: a huge page of the cache is made by a write that holds all
// of it.
constexpr std::size_t kPieceBytes = 16 * kHugePage;

// The system moves other memory out of the way where a program asks for huge pages, but not where a file's cache could
// use them: it takes those that are free. So they are asked for and given back.
void set_huge_pages_free(std::size_t bytes) noexcept {
#ifdef MADV_HUGEPAGE
  void* raw =
      ::mmap(nullptr, bytes + kHugePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (raw == MAP_FAILED) return;  // the cache does with what there is
  static_cast<void>(::madvise(raw, bytes + kHugePage, MADV_HUGEPAGE));
  for (std::size_t at = 0; at < bytes; at += kHugePage) static_cast<volatile std::byte*>(raw)[at] = std::byte{1};
  ::munmap(raw, bytes + kHugePage);
#else
  static_cast<void>(bytes);
#endif
}

}  // namespace

File File::open(const std::string& path, int flags, const char* verb) {
  int fd = -1;
  do {
    fd = ::open(path.c_str(), flags | O_CLOEXEC, 0666);
  } while (fd < 0 && errno == EINTR);
  if (fd < 0) fail(verb, path, errno);
  return File(fd, path);
}

File File::open_read(const std::string& path) { return open(path, O_RDONLY, "open"); }
File File::open_write(const std::string& path) { return open(path, O_RDWR, "open"); }
File File::create(const std::string& path) { return open(path, O_RDWR | O_CREAT | O_TRUNC, "create"); }
File File::create_exclusive(const std::string& path) { return open(path, O_RDWR | O_CREAT | O_EXCL, "create"); }

File::~File() {
  if (fd_ >= 0) ::close(fd_);
}

void File::read_at(void* data, std::size_t n, std::uint64_t offset) const {
  auto* p = static_cast<std::byte*>(data);
  std::size_t done = 0;
  while (done < n) {
    const ssize_t got = ::pread(fd_, p + done, std::min(n - done, kTransferMax), static_cast<off_t>(offset + done));
    if (got < 0) {
      if (errno == EINTR) continue;
      fail("read", path_, errno);
    }
    if (got == 0) fail_short(path_, offset, n, offset + done);
    done += static_cast<std::size_t>(got);
  }
}

void File::write_at(const void* data, std::size_t n, std::uint64_t offset) {
  const auto* p = static_cast<const std::byte*>(data);
  std::size_t done = 0;
  while (done < n) {
    const ssize_t put = ::pwrite(fd_, p + done, std::min(n - done, kTransferMax), static_cast<off_t>(offset + done));
    if (put < 0) {
      if (errno == EINTR) continue;
      fail("write", path_, errno);
    }
    done += static_cast<std::size_t>(put);
  }
}

void File::allocate(std::uint64_t bytes) {
  if (bytes == 0) return;
  int code = 0;
  do {
    code = ::posix_fallocate(fd_, 0, static_cast<off_t>(bytes));
  } while (code == EINTR);
  if (code != 0) fail("allocate blocks of", path_, code);
}

void File::truncate(std::uint64_t bytes) {
  while (::ftruncate(fd_, static_cast<off_t>(bytes)) != 0) {
    if (errno != EINTR) fail("truncate", path_, errno);
  }
}

void File::sync() {
  // No retry: after a failed fsync the kernel may have dropped the dirty pages, and a second call would succeed.
  if (::fsync(fd_) != 0) fail("sync", path_, errno);
}

void File::close() {
  if (fd_ < 0) return;
  const int fd = std::exchange(fd_, -1);
  if (::close(fd) != 0 && errno != EINTR) fail("close", path_, errno);
}

std::uint64_t File::size() const {
  struct stat info{};
  if (::fstat(fd_, &info) != 0) fail("inspect", path_, errno);
  return static_cast<std::uint64_t>(info.st_size);
}

void sync_directory(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) fail("open directory", path, errno);
  const int result = ::fsync(fd);
  const int code = errno;
  ::close(fd);
  // Some file systems do not sync directories and say EINVAL; there is nothing more to ask of them.
  if (result != 0 && code != EINVAL) fail("sync directory", path, code);
}

AtomicFile::AtomicFile(std::string path) : path_(std::move(path)) {
  static std::atomic<std::uint64_t> counter{0};
  temporary_ = path_ + ".tmp-" + std::to_string(::getpid()) + "-" + std::to_string(counter.fetch_add(1));
  file_ = File::create(temporary_);
}

AtomicFile::~AtomicFile() {
  if (!committed_) ::unlink(temporary_.c_str());
}

void AtomicFile::append(const void* data, std::size_t n) {
  const auto* from = static_cast<const std::byte*>(data);
  while (n > 0) {
    const std::size_t piece = std::min(n, kPieceBytes - static_cast<std::size_t>(offset_ % kPieceBytes));
    if (piece >= 2 * kHugePage) set_huge_pages_free(piece);
    file_.write_at(from, piece, offset_);
    from += piece;
    n -= piece;
    offset_ += piece;
  }
}

void AtomicFile::commit() {
  file_.sync();
  file_.close();
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) fail("rename to", path_, errno);
  committed_ = true;
  sync_directory(directory_of(path_));
}

MappedFile::MappedFile(const std::string& path, Mode mode) : path_(path) {
  const File file = File::open_read(path);
  const std::uint64_t bytes = file.size();
  if (bytes == 0) return;  // mmap refuses empty ranges
  const int protection = mode == Mode::read_only ? PROT_READ : PROT_READ | PROT_WRITE;
  const int flags = mode == Mode::read_only ? MAP_SHARED : MAP_PRIVATE | MAP_NORESERVE;
  void* raw = ::mmap(nullptr, bytes, protection, flags, file.descriptor(), 0);
  if (raw == MAP_FAILED) fail("map", path, errno);
  data_ = static_cast<std::byte*>(raw);
  size_ = bytes;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(data_, size_);
}

void MappedFile::advise(Advice advice) const noexcept {
  if (data_ == nullptr) return;
  int native = MADV_NORMAL;
  switch (advice) {
    case Advice::normal:
      native = MADV_NORMAL;
      break;
    case Advice::random:
      native = MADV_RANDOM;
      break;
    case Advice::sequential:
      native = MADV_SEQUENTIAL;
      break;
    case Advice::will_need:
      native = MADV_WILLNEED;
      break;
  }
  static_cast<void>(::madvise(data_, size_, native));  // advice only
}

const std::byte* MappedFile::view(std::uint64_t offset, std::uint64_t n) const {
  if (offset > size_ || n > size_ - offset) fail_short(path_, offset, n, size_);
  return data_ + offset;
}

}  // namespace vicinal
