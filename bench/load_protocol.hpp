// What load.cpp wants of a protocol: requests as bytes, and what became of them. HTTP/1.1 is here, HTTP/2 beside it.

#pragma once

#include <strings.h>

#include <cstdlib>
#include <string>
#include <vector>

enum class Outcome { GOOD, REFUSED, FAILED };

struct Reply {
  size_t call;
  Outcome outcome;
  std::string body;
};

// The client's side of one connection. A call is a place of its owner's, which has one request at a time.
class Protocol {
 public:
  virtual ~Protocol() = default;
  virtual void begin(std::string& out) = 0;
  virtual void ask(size_t call, size_t which, std::string& out) = 0;
  // Takes what is whole out of `in`. False where the connection is of no more use.
  virtual bool take(std::string& in, std::string& out, std::vector<Reply>& replies) = 0;
};

class Http1 : public Protocol {
 public:
  explicit Http1(const std::vector<std::string>& requests) : requests_(requests) {}

  void begin(std::string&) override {}

  void ask(size_t call, size_t which, std::string& out) override {
    call_ = call;
    asked_ = true;
    out += requests_[which];
  }

  bool take(std::string& in, std::string&, std::vector<Reply>& replies) override {
    const size_t end = in.find("\r\n\r\n");
    if (end == std::string::npos) return true;
    const char* length = strcasestr(in.c_str(), "\r\ncontent-length:");
    if (!asked_ || length == nullptr || length > in.c_str() + end) return false;
    const size_t bytes = std::strtoul(length + 17, nullptr, 10);
    if (in.size() < end + 4 + bytes) return true;
    const int status = std::atoi(in.c_str() + 9);
    const Outcome outcome = status == 200                    ? Outcome::GOOD
                            : status == 429 || status == 503 ? Outcome::REFUSED
                                                             : Outcome::FAILED;
    asked_ = false;
    replies.push_back({call_, outcome, in.substr(end + 4, bytes)});
    in.erase(0, end + 4 + bytes);
    return true;
  }

 private:
  const std::vector<std::string>& requests_;
  size_t call_ = 0;
  bool asked_ = false;
};
