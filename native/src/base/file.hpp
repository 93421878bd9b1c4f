// Files: descriptors that close themselves, whole reads and writes, atomic replacement, memory maps.
//
// Failures of the operating system throw Error{io} with the path and errno; a file shorter than what its reader was
// promised throws Error{corrupt}.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

namespace vicinal {

class File {
 public:
  File() = default;
  [[nodiscard]] static File open_read(const std::string& path);
  [[nodiscard]] static File open_write(const std::string& path);        // existing file, read and write
  [[nodiscard]] static File create(const std::string& path);            // read and write, truncated
  [[nodiscard]] static File create_exclusive(const std::string& path);  // fails where the path exists

  File(File&& other) noexcept { swap(other); }
  File& operator=(File&& other) noexcept {
    File taken(std::move(other));
    swap(taken);
    return *this;
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  ~File();

  void swap(File& other) noexcept {
    std::swap(fd_, other.fd_);
    path_.swap(other.path_);
  }

  // Reads exactly n bytes at offset; Error{corrupt} where the file ends before.
  void read_at(void* data, std::size_t n, std::uint64_t offset) const;
  // Writes exactly n bytes at offset.
  void write_at(const void* data, std::size_t n, std::uint64_t offset);
  // Allocates the blocks of [0, bytes), so that a later write or map cannot meet a full disk.
  void allocate(std::uint64_t bytes);
  void truncate(std::uint64_t bytes);
  void sync();   // data and metadata to the device
  void close();  // reports the error that the destructor would swallow

  [[nodiscard]] std::uint64_t size() const;
  [[nodiscard]] bool is_open() const noexcept { return fd_ >= 0; }
  [[nodiscard]] int descriptor() const noexcept { return fd_; }
  [[nodiscard]] const std::string& path() const noexcept { return path_; }

 private:
  File(int fd, std::string path) : fd_(fd), path_(std::move(path)) {}
  static File open(const std::string& path, int flags, const char* verb);

  int fd_ = -1;
  std::string path_;
};

// Flushes a directory, so that creations and renames in it survive a power cut.
void sync_directory(const std::string& path);

// Writes a file under a temporary name beside its final one; commit() makes it durable and visible in one step, and
// destruction without commit() removes it. A reader sees the old file or the new one, never a part.
class AtomicFile {
 public:
  explicit AtomicFile(std::string path);
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  ~AtomicFile();

  void append(const void* data, std::size_t n);
  void write_at(const void* data, std::size_t n, std::uint64_t offset) { file_.write_at(data, n, offset); }
  [[nodiscard]] std::uint64_t offset() const noexcept { return offset_; }  // bytes appended so far
  void commit();                                                           // fsync, rename, fsync of the directory

 private:
  std::string path_;
  std::string temporary_;
  File file_;
  std::uint64_t offset_ = 0;
  bool committed_ = false;
};

// A file's bytes in memory. The file may be deleted or replaced meanwhile; it must not be truncated.
class MappedFile {
 public:
  enum class Mode {
    read_only,     // writes fault
    private_copy,  // writable; changes stay in this process
  };
  enum class Advice { normal, random, sequential, will_need };

  MappedFile() = default;
  explicit MappedFile(const std::string& path, Mode mode = Mode::read_only);

  MappedFile(MappedFile&& other) noexcept { swap(other); }
  MappedFile& operator=(MappedFile&& other) noexcept {
    MappedFile taken(std::move(other));
    swap(taken);
    return *this;
  }
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile();

  void swap(MappedFile& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    path_.swap(other.path_);
  }

  void advise(Advice advice) const noexcept;
  // The bytes [offset, offset + n); Error{corrupt} where the file is shorter.
  [[nodiscard]] const std::byte* view(std::uint64_t offset, std::uint64_t n) const;

  [[nodiscard]] const std::byte* data() const noexcept { return data_; }
  [[nodiscard]] std::byte* mutable_data() noexcept { return data_; }  // private_copy only
  [[nodiscard]] std::size_t size() const noexcept { return size_; }
  [[nodiscard]] const std::string& path() const noexcept { return path_; }

 private:
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
  std::string path_;
};

}  // namespace vicinal
