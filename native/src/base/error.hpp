// The one error type that native code throws; bindings/errors.cpp alone maps it to vicinal.model.errors.
#pragma once

#include <stdexcept>
#include <string>

namespace vicinal {

enum class ErrorCode {
  invalid_argument,  // a value the caller gave is outside its documented range
  dimension,         // a vector has another dimension than the index
  vector_value,      // a vector holds NaN or infinity, or is zero under cosine
  corrupt,           // a file fails its magic, version, size or checksum
  format_version,    // a file was written by a newer version
  io,                // the operating system refused; the message carries errno
  capacity,          // a documented limit of the structure is reached
  cancelled,         // the caller's progress callback asked to stop
  internal,          // our own bug
};

class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  [[nodiscard]] ErrorCode code() const noexcept { return code_; }

 private:
  ErrorCode code_;
};

}  // namespace vicinal
