// The test macro: CHECK(condition, context...) prints where and what failed; main returns failures().
#pragma once

#include <cstddef>
#include <cstdlib>
#include <iostream>

namespace vicinal::test {

inline int& failure_count() {
  static int count = 0;
  return count;
}

// Prints at most the first twenty failures, so that a broken loop stays readable.
template <class... Context>
void report(const char* file, int line, const char* condition, const Context&... context) {
  if (++failure_count() > 20) return;
  std::cerr << file << ':' << line << ": CHECK(" << condition << ") failed;";
  ((std::cerr << ' ' << context), ...);
  std::cerr << '\n';
}

// The exit code of main.
inline int failures() {
  if (failure_count() != 0) std::cerr << failure_count() << " checks failed\n";
  return failure_count() == 0 ? 0 : 1;
}

// True where every step takes many times as long: under sanitizers and emulation, whose scripts say so.
inline bool slow() { return std::getenv("VICINAL_SANITIZED") != nullptr; }

// Half as many there, because tests compare every row with every other.
inline std::size_t fewer(std::size_t n) { return slow() ? n / 2 : n; }

// True where calling fn throws an E for which accepts(e) holds.
template <class E, class Fn, class Accepts>
bool throws(Fn&& fn, Accepts&& accepts) {
  try {
    fn();
  } catch (const E& error) {
    return accepts(error);
  }
  return false;
}

}  // namespace vicinal::test

#define CHECK(condition, ...)                                                                           \
  do {                                                                                                  \
    if (!(condition)) vicinal::test::report(__FILE__, __LINE__, #condition __VA_OPT__(, ) __VA_ARGS__); \
  } while (false)
