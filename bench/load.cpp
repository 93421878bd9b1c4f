// Searches over HTTP/1.1, or gRPC's HTTP/2, in a closed or an open loop; for bench/load.py, which compiles it. A load
// generator in Python takes as much of a core as the server that it means to load.
//
//   load PORT h1|h2 FILE DEADLINE_S STREAMS
//
// FILE holds requests, each after its length (4 bytes, little-endian); those of HTTP/2 are messages, after the two
// header blocks that go with them. STREAMS is how many requests of a connection are under way at the same time, 1 for
// HTTP/1.1. Lines on stdin are phases, each answered by one line of JSON, with latencies in microseconds:
//
//   ask FILE COUNT                               the answers to the first requests, one by one
//   closed FILE CONNECTIONS SECONDS              each call's next request goes when the last is answered
//   open FILE PER_S SECONDS SEED CONNECTIONS     at random times, whether or not earlier ones are done; one that finds
//   no
//                                                connection free makes one, then waits; its latency counts from its
//                                                time
//
// Connections are kept from phase to phase. FILE gets answers, each after the place of its request and its length;
// those of a loop are the first DIFFERENT_MAX that are other than those that `ask` had for the same requests. An open
// loop sleeps between its looks, which adds up to NAP_S to a latency: where the two cores of a machine are threads of
// one, a load that spins takes a third of the server's speed. A closed one sleeps until something comes.

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <fstream>
#include <iostream>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "load_http2.hpp"
#include "load_protocol.hpp"

namespace {

constexpr double NAP_S = 0.0002;
constexpr size_t DIFFERENT_MAX = 1000;
constexpr size_t STRIDE = 1009;  // between the first requests of a closed loop's calls

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

struct Options {
  int port = 0;
  bool http2 = false;
  double deadline_s = 0;
  size_t streams = 1;
  std::string first_head, later_head;
  std::vector<std::string> requests;
};

struct Connection {
  int socket = -1;
  bool connected = false;
  std::unique_ptr<Protocol> protocol;
  std::string in, out;
};

struct Call {
  bool busy = false;
  double due = 0, sent = 0;
  size_t which = 0, turn = 0;
};

struct Tally {
  uint64_t due = 0, good = 0, late = 0, refused = 0, failed = 0, waited = 0;
  double seconds = 0;
  std::vector<std::pair<size_t, std::string>> different;
  std::vector<double> good_s, refused_s;
  std::vector<uint64_t> good_in;  // by the second in which they were answered
  uint64_t answered() const { return good + late + refused + failed; }
};

double percentile(std::vector<double>& values, double share) {
  if (values.empty()) return -1;
  auto place = std::min(values.size() - 1, static_cast<size_t>(share * static_cast<double>(values.size())));
  std::nth_element(values.begin(), values.begin() + static_cast<ptrdiff_t>(place), values.end());
  return values[place] * 1e6;
}

class Load {
 public:
  explicit Load(Options options) : options_(std::move(options)), expected_(options_.requests.size()) {
    poll_ = epoll_create1(0);
  }

  Tally ask(size_t count) {
    begin(1);
    asking_ = true;
    const double began = now();
    for (size_t i = 0; i < std::min(count, options_.requests.size()) && tally_.good == i; ++i) {
      ++tally_.due;
      send(0, now(), i);
      const double end = now() + 60;
      while (calls_[0].busy && now() < end) events(100);
      tally_.different.emplace_back(i, expected_[i]);
    }
    asking_ = false;
    return end(began);
  }

  Tally closed(size_t connections, double seconds) {
    begin(connections);
    for (size_t i = 0; i < calls_.size(); ++i) {
      calls_[i].turn = i * STRIDE;
      send(i, now(), calls_[i].turn);  // connects, and is not counted
    }
    const double ready = now() + 60;
    while (tally_.answered() < calls_.size() && now() < ready) events(100);
    tally_ = Tally();
    const double began = now();
    until_ = began + seconds;
    for (size_t i = 0; i < calls_.size(); ++i) next(i);
    while (now() < until_ || tally_.answered() < tally_.due) {
      if (now() > until_ + 2 * options_.deadline_s) break;
      events(100);
    }
    until_ = 0;
    return end(began);
  }

  Tally open(double per_s, double seconds, uint64_t seed, size_t connections) {
    begin(connections);
    std::mt19937_64 random(seed);
    std::exponential_distribution<double> gap(per_s);
    const double began = now();
    began_ = began;
    double next = began + gap(random);
    while (next < began + seconds) {
      const double time = now();
      while (next <= time && next < began + seconds) {
        ++tally_.due;
        if (idle_.empty()) {
          ++tally_.waited;
          waiting_.push_back(next);
        } else {
          take_idle(next);
        }
        next += gap(random);
      }
      nap();
      events(0);
    }
    const double last = now() + 2 * options_.deadline_s;
    while (tally_.answered() < tally_.due && now() < last) {
      nap();
      events(0);
    }
    return end(began);
  }

 private:
  static void nap() {
    const timespec time{0, static_cast<long>(NAP_S * 1e9)};
    nanosleep(&time, nullptr);
  }

  // So many connections may be made, and those of the phase before are kept.
  void begin(size_t connections) {
    tally_ = Tally();
    waiting_.clear();
    for (size_t i = connections; i < connections_.size(); ++i) close_connection(i);
    connections_.resize(connections);
    calls_.assign(connections * options_.streams, Call());
    idle_.clear();
    for (size_t i = calls_.size(); i-- > 0;)  // those of connections that are made come first
      if (connections_[i / options_.streams].socket < 0) idle_.push_back(i);
    for (size_t i = calls_.size(); i-- > 0;)
      if (connections_[i / options_.streams].socket >= 0) idle_.push_back(i);
  }

  Tally end(double began) {
    tally_.seconds = now() - began;
    tally_.failed += tally_.due - tally_.answered();  // never answered
    Tally found = std::move(tally_);
    tally_ = Tally();
    waiting_.clear();
    for (size_t i = 0; i < calls_.size(); ++i)
      if (calls_[i].busy) close_connection(i / options_.streams);
    return found;
  }

  void take_idle(double due) {
    const size_t call = idle_.back();
    idle_.pop_back();
    send(call, due, turn_++);
  }

  void next(size_t call) {
    ++tally_.due;
    send(call, now(), ++calls_[call].turn);
  }

  void send(size_t call, double due, size_t turn) {
    Call& c = calls_[call];
    c.busy = true;
    c.due = due;
    c.sent = now();
    c.which = turn % options_.requests.size();
    const size_t which = call / options_.streams;
    if (connections_[which].socket < 0 && !connect_to(which)) {
      done({call, Outcome::FAILED, {}});
      return;
    }
    connections_[which].protocol->ask(call, c.which, connections_[which].out);
    if (connections_[which].connected) write_some(which);
  }

  bool connect_to(size_t which) {
    Connection& c = connections_[which];
    c = Connection();
    c.socket = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    int one = 1;
    setsockopt(c.socket, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port = htons(static_cast<uint16_t>(options_.port));
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (connect(c.socket, reinterpret_cast<sockaddr*>(&to), sizeof to) != 0 && errno != EINPROGRESS) {
      close(c.socket);
      c.socket = -1;
      return false;
    }
    if (options_.http2)
      c.protocol = std::make_unique<Http2>(options_.first_head, options_.later_head, options_.requests);
    else
      c.protocol = std::make_unique<Http1>(options_.requests);
    c.protocol->begin(c.out);
    epoll_event event{};
    event.events = EPOLLIN | EPOLLOUT | EPOLLET;
    event.data.u64 = which;
    epoll_ctl(poll_, EPOLL_CTL_ADD, c.socket, &event);
    return true;
  }

  void write_some(size_t which) {
    Connection& c = connections_[which];
    size_t written = 0;
    while (written < c.out.size()) {
      const ssize_t n = ::send(c.socket, c.out.data() + written, c.out.size() - written, MSG_NOSIGNAL);
      if (n < 0) {
        if (errno != EAGAIN) return lost(which);
        break;
      }
      written += static_cast<size_t>(n);
    }
    c.out.erase(0, written);
  }

  void events(int wait_ms) {
    epoll_event found[1024];
    const int n = epoll_wait(poll_, found, 1024, wait_ms);
    for (int i = 0; i < n; ++i) {
      const size_t which = found[i].data.u64;
      if (which >= connections_.size() || connections_[which].socket < 0) continue;
      if (found[i].events & EPOLLOUT) {
        connections_[which].connected = true;
        write_some(which);
      }
      if (connections_[which].socket >= 0 && (found[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))) read_some(which);
    }
  }

  void read_some(size_t which) {
    Connection& c = connections_[which];
    char buffer[65536];
    bool ended = false;
    for (;;) {
      const ssize_t n = recv(c.socket, buffer, sizeof buffer, 0);
      if (n > 0) {
        c.in.append(buffer, static_cast<size_t>(n));
        if (static_cast<size_t>(n) < sizeof buffer) break;  // the next bytes are an event of their own
      } else {
        ended = n == 0 || errno != EAGAIN;
        break;
      }
    }
    std::vector<Reply> replies;
    const bool whole = c.protocol->take(c.in, c.out, replies);
    for (Reply& reply : replies) done(std::move(reply));
    if (c.socket < 0) return;
    if (ended || !whole) return lost(which);
    if (!c.out.empty()) write_some(which);
  }

  void done(Reply reply) {
    Call& c = calls_[reply.call];
    if (!c.busy) return;
    const double time = now();
    c.busy = false;
    if (reply.outcome == Outcome::GOOD) {
      (time - c.due <= options_.deadline_s ? tally_.good : tally_.late)++;
      if (time - c.due <= options_.deadline_s) {
        tally_.good_s.push_back(time - c.due);
        const auto second = static_cast<size_t>(std::max(0.0, time - began_));
        if (until_ == 0 && !asking_) {
          tally_.good_in.resize(std::max(tally_.good_in.size(), second + 1));
          ++tally_.good_in[second];
        }
      }
      if (asking_)
        expected_[c.which] = std::move(reply.body);
      else if (!expected_[c.which].empty() && expected_[c.which] != reply.body &&
               tally_.different.size() < DIFFERENT_MAX)
        tally_.different.emplace_back(c.which, std::move(reply.body));
    } else if (reply.outcome == Outcome::REFUSED) {
      ++tally_.refused;
      tally_.refused_s.push_back(time - c.sent);
    } else {
      ++tally_.failed;
    }
    if (until_ > 0) {
      if (time < until_ && reply.outcome != Outcome::FAILED) next(reply.call);
      return;
    }
    idle_.push_back(reply.call);
    if (!waiting_.empty()) {
      const double due = waiting_.front();
      waiting_.pop_front();
      take_idle(due);
    }
  }

  void lost(size_t which) {
    close_connection(which);
    for (size_t i = which * options_.streams; i < (which + 1) * options_.streams; ++i) done({i, Outcome::FAILED, {}});
  }

  void close_connection(size_t which) {
    Connection& c = connections_[which];
    if (c.socket >= 0) close(c.socket);
    c.socket = -1;
  }

  Options options_;
  int poll_ = -1;
  double until_ = 0;  // of a closed loop
  double began_ = 0;  // of an open one
  bool asking_ = false;
  std::vector<Connection> connections_;
  std::vector<Call> calls_;
  std::vector<size_t> idle_;
  std::deque<double> waiting_;  // when they were due
  std::vector<std::string> expected_;
  size_t turn_ = 0;
  Tally tally_;
};

void print(Tally& t, const std::string& path) {
  std::ofstream file(path, std::ios::binary);
  for (const auto& [which, body] : t.different) {
    const uint32_t head[] = {static_cast<uint32_t>(which), static_cast<uint32_t>(body.size())};
    file.write(reinterpret_cast<const char*>(head), sizeof head);
    file.write(body.data(), static_cast<std::streamsize>(body.size()));
  }
  file.close();
  std::printf(
      "{\"due\": %lu, \"good\": %lu, \"late\": %lu, \"refused\": %lu, \"failed\": %lu, \"waited\": %lu, "
      "\"seconds\": %.3f, \"good_p50_us\": %.0f, \"good_p99_us\": %.0f, \"refused_p50_us\": %.0f, "
      "\"refused_p99_us\": %.0f, \"good_in\": [",
      t.due, t.good, t.late, t.refused, t.failed, t.waited, t.seconds, percentile(t.good_s, 0.5),
      percentile(t.good_s, 0.99), percentile(t.refused_s, 0.5), percentile(t.refused_s, 0.99));
  for (size_t i = 0; i < t.good_in.size(); ++i) std::printf(i == 0 ? "%lu" : ", %lu", t.good_in[i]);
  std::printf("]}\n");
  std::fflush(stdout);
}

bool read_options(char** words, Options& options) {
  options.port = std::atoi(words[1]);
  options.http2 = std::strcmp(words[2], "h2") == 0;
  options.deadline_s = std::atof(words[4]);
  options.streams = std::strtoul(words[5], nullptr, 10);
  std::ifstream file(words[3], std::ios::binary);
  uint32_t length = 0;
  while (file.read(reinterpret_cast<char*>(&length), 4)) {
    std::string request(length, '\0');
    file.read(request.data(), length);
    options.requests.push_back(std::move(request));
  }
  if (options.http2 && options.requests.size() > 2) {
    options.first_head = options.requests[0];
    options.later_head = options.requests[1];
    options.requests.erase(options.requests.begin(), options.requests.begin() + 2);
    for (const std::string& request : options.requests)
      if (request.size() > Http2::STREAM_BYTES_MAX) return false;
  }
  return !options.requests.empty() && (options.http2 ? options.streams >= 1 : options.streams == 1);
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  if (argc != 6 || !read_options(argv, options)) {
    std::fprintf(stderr,
                 "load: PORT h1|h2 FILE DEADLINE_S STREAMS; of HTTP/1.1 one stream, messages of HTTP/2 of "
                 "up to 65535 bytes\n");
    return 2;
  }
  Load load(std::move(options));
  std::string phase, path;
  while (std::cin >> phase >> path) {
    double per_s = 0, seconds = 0;
    size_t count = 0, seed = 0;
    Tally found;
    if (phase == "ask" && std::cin >> count)
      found = load.ask(count);
    else if (phase == "closed" && std::cin >> count >> seconds)
      found = load.closed(count, seconds);
    else if (phase == "open" && std::cin >> per_s >> seconds >> seed >> count)
      found = load.open(per_s, seconds, seed, count);
    else
      return 2;
    print(found, path);
  }
  return 0;
}
