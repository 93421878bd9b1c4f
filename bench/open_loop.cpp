// Searches over HTTP/1.1 that come at random times, whether or not earlier ones are done; for bench/overload.py, which
// compiles it. A load generator in Python takes as much of a core as the server that it means to overload.
//
//   open_loop PORT FILE DEADLINE_S CONNECTIONS_MAX
//
// FILE holds requests, each after its length (4 bytes, little-endian). Lines "PER_S SECONDS SEED" on stdin are phases;
// each is answered by one line of JSON, with latencies in microseconds. Connections are kept from phase to phase.
//
// It sleeps between its looks, which adds up to NAP_S to a latency: where the two cores of a machine are threads of one,
// a load that spins takes a third of the server's speed.

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
#include <fstream>
#include <random>
#include <string>
#include <vector>

namespace {

constexpr double NAP_S = 0.0002;

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

struct Connection {
    int socket = -1;
    bool connected = false, busy = false;
    double due = 0, sent = 0;
    const std::string* request = nullptr;
    size_t written = 0;
    std::string got;
};

struct Tally {
    uint64_t due = 0, good = 0, late = 0, refused = 0, failed = 0, not_sent = 0;
    std::vector<double> good_s, refused_s;
    uint64_t answered() const { return good + late + refused + failed + not_sent; }
};

double percentile(std::vector<double>& values, double share) {
    if (values.empty()) return -1;
    auto place = std::min(values.size() - 1, static_cast<size_t>(share * static_cast<double>(values.size())));
    std::nth_element(values.begin(), values.begin() + static_cast<ptrdiff_t>(place), values.end());
    return values[place] * 1e6;
}

class Load {
  public:
    Load(int port, std::vector<std::string> requests, double deadline_s, size_t connections_max)
        : port_(port), requests_(std::move(requests)), deadline_s_(deadline_s), connections_(connections_max) {
        poll_ = epoll_create1(0);
        for (size_t i = connections_max; i-- > 0;) closed_.push_back(i);
    }

    Tally phase(double per_s, double seconds, uint64_t seed) {
        tally_ = Tally();
        std::mt19937_64 random(seed);
        std::exponential_distribution<double> gap(per_s);
        const double began = now();
        double next = began + gap(random);
        while (next < began + seconds) {
            const double time = now();
            while (next <= time && next < began + seconds) {
                ++tally_.due;
                send(next);
                next += gap(random);
            }
            events();
        }
        const double end = now() + 2 * deadline_s_;
        while (tally_.answered() < tally_.due && now() < end) events();
        tally_.failed += tally_.due - tally_.answered();  // never answered
        for (size_t i = 0; i < connections_.size(); ++i)
            if (connections_[i].busy) close_connection(i);
        return tally_;
    }

  private:
    void send(double due) {
        size_t which;
        if (!idle_.empty()) {
            which = idle_.back();
            idle_.pop_back();
        } else if (!closed_.empty()) {
            which = closed_.back();
            closed_.pop_back();
            if (!connect_to(which)) {
                ++tally_.failed;
                return;
            }
        } else {
            ++tally_.not_sent;
            return;
        }
        Connection& c = connections_[which];
        c.busy = true;
        c.due = due;
        c.sent = now();
        c.request = &requests_[turn_++ % requests_.size()];
        c.written = 0;
        c.got.clear();
        if (c.connected) write_some(which);
    }

    bool connect_to(size_t which) {
        Connection& c = connections_[which];
        c = Connection();
        c.socket = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        int one = 1;
        setsockopt(c.socket, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        sockaddr_in to{};
        to.sin_family = AF_INET;
        to.sin_port = htons(static_cast<uint16_t>(port_));
        to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        if (connect(c.socket, reinterpret_cast<sockaddr*>(&to), sizeof to) != 0 && errno != EINPROGRESS) {
            close(c.socket);
            c.socket = -1;
            closed_.push_back(which);
            return false;
        }
        epoll_event event{};
        event.events = EPOLLIN | EPOLLOUT | EPOLLET;
        event.data.u64 = which;
        epoll_ctl(poll_, EPOLL_CTL_ADD, c.socket, &event);
        return true;
    }

    void write_some(size_t which) {
        Connection& c = connections_[which];
        while (c.written < c.request->size()) {
            ssize_t n = ::send(c.socket, c.request->data() + c.written, c.request->size() - c.written, MSG_NOSIGNAL);
            if (n < 0) {
                if (errno != EAGAIN) lost(which);
                return;
            }
            c.written += static_cast<size_t>(n);
        }
    }

    void events() {
        const timespec nap{0, static_cast<long>(NAP_S * 1e9)};
        nanosleep(&nap, nullptr);
        epoll_event found[1024];
        const int n = epoll_wait(poll_, found, 1024, 0);
        for (int i = 0; i < n; ++i) {
            size_t which = found[i].data.u64;
            Connection& c = connections_[which];
            if (c.socket < 0) continue;
            if (found[i].events & EPOLLOUT) {
                c.connected = true;
                if (c.busy) write_some(which);
            }
            if (c.socket >= 0 && (found[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))) read_some(which);
        }
    }

    void read_some(size_t which) {
        Connection& c = connections_[which];
        char buffer[65536];
        for (;;) {
            ssize_t n = recv(c.socket, buffer, sizeof buffer, 0);
            if (n > 0) {
                c.got.append(buffer, static_cast<size_t>(n));
            } else if (n < 0 && errno == EAGAIN) {
                break;
            } else {
                lost(which);
                return;
            }
        }
        size_t end = c.got.find("\r\n\r\n");
        if (!c.busy || end == std::string::npos) return;
        size_t at = c.got.find("content-length: ");
        if (at == std::string::npos || at > end) return lost(which);
        if (c.got.size() < end + 4 + std::strtoul(c.got.c_str() + at + 16, nullptr, 10)) return;
        const int status = std::atoi(c.got.c_str() + 9);
        const double time = now();
        c.busy = false;
        if (status == 200) {
            if (time - c.due <= deadline_s_) {
                ++tally_.good;
                tally_.good_s.push_back(time - c.due);
            } else {
                ++tally_.late;
            }
        } else if (status == 429 || status == 503) {
            ++tally_.refused;
            tally_.refused_s.push_back(time - c.sent);
        } else {
            ++tally_.failed;
        }
        idle_.push_back(which);
    }

    void lost(size_t which) {
        if (connections_[which].busy) ++tally_.failed;
        close_connection(which);
    }

    void close_connection(size_t which) {
        Connection& c = connections_[which];
        if (!c.busy) idle_.erase(std::remove(idle_.begin(), idle_.end(), which), idle_.end());
        close(c.socket);
        c.socket = -1;
        c.busy = false;
        closed_.push_back(which);
    }

    int port_, poll_ = -1;
    std::vector<std::string> requests_;
    double deadline_s_;
    std::vector<Connection> connections_;
    std::vector<size_t> idle_, closed_;
    size_t turn_ = 0;
    Tally tally_;
};

}  // namespace

int main(int argc, char** argv) {
    if (argc != 5) return 2;
    std::ifstream file(argv[2], std::ios::binary);
    std::vector<std::string> requests;
    uint32_t length = 0;
    while (file.read(reinterpret_cast<char*>(&length), 4)) {
        std::string request(length, '\0');
        file.read(request.data(), length);
        requests.push_back(std::move(request));
    }
    if (requests.empty()) return 2;
    Load load(std::atoi(argv[1]), std::move(requests), std::atof(argv[3]), std::strtoul(argv[4], nullptr, 10));
    double per_s, seconds;
    unsigned long seed;
    while (std::scanf("%lf %lf %lu", &per_s, &seconds, &seed) == 3) {
        Tally t = load.phase(per_s, seconds, seed);
        std::printf("{\"due\": %lu, \"good\": %lu, \"late\": %lu, \"refused\": %lu, \"failed\": %lu, \"not_sent\": %lu, "
                    "\"good_p50_us\": %.0f, \"good_p99_us\": %.0f, \"refused_p50_us\": %.0f, \"refused_p99_us\": %.0f}\n",
                    t.due, t.good, t.late, t.refused, t.failed, t.not_sent, percentile(t.good_s, 0.5),
                    percentile(t.good_s, 0.99), percentile(t.refused_s, 0.5), percentile(t.refused_s, 0.99));
        std::fflush(stdout);
    }
    return 0;
}
