// gRPC's side of a client, as thin as HTTP/2 allows: header blocks that were made before, one of a connection's first
// request and one of all later ones, which only names what the server has in its table by then, as clients of gRPC do.
// Answers' header blocks are read as far as the status of the call goes; the server is told to index nothing.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <deque>
#include <string>
#include <string_view>
#include <vector>

#include "load_protocol.hpp"

class Http2 : public Protocol {
 public:
  // requests : messages with gRPC's prefix, of no more than STREAM_BYTES_MAX.
  Http2(const std::string& first_head, const std::string& later_head, const std::vector<std::string>& requests)
      : first_head_(first_head), later_head_(later_head), requests_(requests) {}

  static constexpr size_t STREAM_BYTES_MAX = 65535;  // what a stream may send before it hears of more

  void begin(std::string& out) override {
    out += "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    std::string settings;
    for (auto [name, value] : {std::pair{1u, 0u}, {2u, 0u}, {4u, 1u << 24}}) {  // table, push, window of a stream
      number(settings, name, 2);
      number(settings, value, 4);
    }
    frame(out, SETTINGS, 0, 0, settings);
    grant(out, (1u << 30) - 65535);
  }

  void ask(size_t call, size_t which, std::string& out) override {
    unsent_.push_back({call, which});
    send(out);
  }

  bool take(std::string& in, std::string& out, std::vector<Reply>& replies) override {
    size_t at = 0;
    bool whole = true;
    while (whole && in.size() - at >= 9) {
      const auto* head = reinterpret_cast<const uint8_t*>(in.data()) + at;
      const size_t length = head[0] << 16 | head[1] << 8 | head[2];
      if (in.size() - at < 9 + length) break;
      const uint32_t stream = read(head + 5, 4) & 0x7fffffff;
      whole = frame_came(head[3], head[4], stream, std::string_view(in).substr(at + 9, length), out, replies);
      at += 9 + length;
    }
    in.erase(0, at);
    return whole;
  }

 private:
  enum Kind : uint8_t { DATA, HEADERS, PRIORITY, RESET, SETTINGS, PROMISE, PING, GO_AWAY, WINDOW, CONTINUATION };
  static constexpr uint8_t END_STREAM = 1, ACK = 1, END_HEADERS = 4, PADDED = 8, PRIORITISED = 32;
  static constexpr size_t FRAME_BYTES_MAX = 16384;
  static constexpr int RESOURCE_EXHAUSTED = 8, UNAVAILABLE = 14;

  struct Unsent {
    size_t call, which;
  };

  struct Open {
    uint32_t stream;
    size_t call;
    int http = -1, grpc = -1;
    std::string data;
  };

  static uint32_t read(const uint8_t* at, int bytes) {
    uint32_t value = 0;
    while (bytes-- > 0) value = value << 8 | *at++;
    return value;
  }

  static void number(std::string& out, uint32_t value, int bytes) {
    while (bytes-- > 0) out += static_cast<char>(value >> 8 * bytes);
  }

  static void frame(std::string& out, uint8_t kind, uint8_t flags, uint32_t stream, std::string_view body) {
    number(out, static_cast<uint32_t>(body.size()), 3);
    out += static_cast<char>(kind);
    out += static_cast<char>(flags);
    number(out, stream, 4);
    out += body;
  }

  static void grant(std::string& out, uint32_t bytes) {
    std::string body;
    number(body, bytes, 4);
    frame(out, WINDOW, 0, 0, body);
  }

  void send(std::string& out) {
    while (!unsent_.empty()) {
      auto [call, which] = unsent_.front();
      std::string_view message = requests_[which];
      if (window_ < static_cast<int64_t>(message.size())) return;
      unsent_.pop_front();
      window_ -= static_cast<int64_t>(message.size());
      frame(out, HEADERS, END_HEADERS, next_, next_ == 1 ? first_head_ : later_head_);
      do {
        std::string_view part = message.substr(0, FRAME_BYTES_MAX);
        message.remove_prefix(part.size());
        frame(out, DATA, message.empty() ? END_STREAM : 0, next_, part);
      } while (!message.empty());
      open_.push_back({next_, call, -1, -1, {}});
      next_ += 2;
    }
  }

  bool frame_came(uint8_t kind, uint8_t flags, uint32_t stream, std::string_view body, std::string& out,
                  std::vector<Reply>& replies) {
    const auto* bytes = reinterpret_cast<const uint8_t*>(body.data());
    auto place = std::find_if(open_.begin(), open_.end(), [&](const Open& o) { return o.stream == stream; });
    const bool known = place != open_.end();
    switch (kind) {
      case DATA:
      case HEADERS: {
        taken_ += kind == DATA ? body.size() : 0;
        if (taken_ >= 1u << 20) {
          grant(out, static_cast<uint32_t>(taken_));
          taken_ = 0;
        }
        if (flags & PADDED) {
          if (body.empty() || bytes[0] + 1u > body.size()) return false;
          body = body.substr(1, body.size() - 1 - bytes[0]);
        }
        if (kind == HEADERS && flags & PRIORITISED) body.remove_prefix(std::min<size_t>(5, body.size()));
        if (!known) return false;  // nobody asked
        if (kind == DATA)
          place->data += body;
        else if (!(flags & END_HEADERS) || !fields(body, *place))
          return false;
        if (flags & END_STREAM) ended(place, replies);
        return true;
      }
      case RESET:
        if (known) {
          replies.push_back({place->call, Outcome::FAILED, {}});
          open_.erase(place);
        }
        return true;
      case SETTINGS:
        if (!(flags & ACK)) frame(out, SETTINGS, ACK, 0, {});
        return true;
      case PING:
        if (!(flags & ACK)) frame(out, PING, ACK, 0, body);
        return true;
      case WINDOW:
        if (stream == 0 && body.size() == 4) {
          window_ += read(bytes, 4) & 0x7fffffff;
          send(out);
        }
        return true;
      case GO_AWAY:
      case PROMISE:
      case CONTINUATION:
        return false;
      default:
        return true;
    }
  }

  void ended(std::vector<Open>::iterator place, std::vector<Reply>& replies) {
    Open& o = *place;
    Reply reply{o.call, Outcome::FAILED, {}};
    const auto* bytes = reinterpret_cast<const uint8_t*>(o.data.data());
    if (o.http == 200 && o.grpc == 0 && o.data.size() >= 5 && bytes[0] == 0 && read(bytes + 1, 4) == o.data.size() - 5)
      reply = {o.call, Outcome::GOOD, o.data.substr(5)};
    else if (o.http == 200 && (o.grpc == RESOURCE_EXHAUSTED || o.grpc == UNAVAILABLE))
      reply.outcome = Outcome::REFUSED;
    replies.push_back(std::move(reply));
    open_.erase(place);
  }

  // A header block (RFC 7541) of one who was told to have no dynamic table. False where it is none.
  static bool fields(std::string_view block, Open& open) {
    while (!block.empty()) {
      const auto first = static_cast<uint8_t>(block[0]);
      uint32_t index = 0;
      if (first & 0x80) {  // a pair of the static table
        if (!integer(block, 7, index) || index == 0 || index > 61) return false;
        static constexpr int STATUSES[] = {200, 204, 206, 304, 400, 404, 500};
        if (index >= 8 && index <= 14) open.http = STATUSES[index - 8];
        continue;
      }
      if ((first & 0xe0) == 0x20) {  // the size of the table
        if (!integer(block, 5, index)) return false;
        continue;
      }
      std::string_view name, value;
      bool name_packed = false, value_packed = false;
      if (!integer(block, first & 0x40 ? 6 : 4, index) || index > 61) return false;
      if (index == 0 && !text(block, name, name_packed)) return false;
      if (!text(block, value, value_packed)) return false;
      if ((index >= 8 && index <= 14) || name == ":status")
        open.http = value_packed ? packed_digits(value) : digits(value);
      else if (name == (name_packed ? PACKED_STATUS : std::string_view("grpc-status")))
        open.grpc = value_packed ? packed_digits(value) : digits(value);
    }
    return true;
  }

  static constexpr std::string_view PACKED_STATUS = "\x9a\xca\xc8\xb2\x12\x34\xda\x8f";  // "grpc-status" by Huffman

  static bool integer(std::string_view& from, int bits, uint32_t& value) {
    if (from.empty()) return false;
    const uint32_t most = (1u << bits) - 1;
    value = static_cast<uint8_t>(from[0]) & most;
    from.remove_prefix(1);
    if (value < most) return true;
    for (int shift = 0; shift <= 21 && !from.empty(); shift += 7) {
      const auto byte = static_cast<uint8_t>(from[0]);
      from.remove_prefix(1);
      value += (byte & 0x7fu) << shift;
      if (!(byte & 0x80)) return true;
    }
    return false;
  }

  static bool text(std::string_view& from, std::string_view& found, bool& packed) {
    packed = !from.empty() && from[0] & 0x80;
    uint32_t length = 0;
    if (!integer(from, 7, length) || length > from.size()) return false;
    found = from.substr(0, length);
    from.remove_prefix(length);
    return true;
  }

  static int digits(std::string_view text) {
    int value = text.empty() ? -1 : 0;
    for (char c : text) {
      if (c < '0' || c > '9') return -1;
      value = value * 10 + (c - '0');
    }
    return value;
  }

  // Digits by Huffman's code of RFC 7541: 0, 1 and 2 have five bits, the others six, and ones fill the last byte.
  static int packed_digits(std::string_view text) {
    uint32_t bits = 0;
    int left = 0, value = -1;
    for (char c : text) {
      bits = bits << 8 | static_cast<uint8_t>(c);
      left += 8;
      while (left >= 5) {
        const uint32_t five = bits >> (left - 5) & 31;
        int digit = -1;
        if (five <= 2) {
          digit = static_cast<int>(five);
          left -= 5;
        } else if (left >= 6 && (bits >> (left - 6) & 63) >= 25 && (bits >> (left - 6) & 63) <= 31) {
          digit = static_cast<int>(bits >> (left - 6) & 63) - 22;
          left -= 6;
        } else {
          break;
        }
        value = std::max(value, 0) * 10 + digit;
      }
    }
    return value;
  }

  const std::string &first_head_, &later_head_;
  const std::vector<std::string>& requests_;
  uint32_t next_ = 1;
  int64_t window_ = 65535;
  size_t taken_ = 0;
  std::deque<Unsent> unsent_;
  std::vector<Open> open_;
};
