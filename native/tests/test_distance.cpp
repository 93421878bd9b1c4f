// Every instruction set that this processor runs against a double-precision oracle: all lengths, unaligned rows,
// extreme values, and rows that end at an unreadable page.
#include <sys/mman.h>
#include <unistd.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "base/error.hpp"
#include "check.hpp"
#include "distance/distance.hpp"
#include "distance/kernels_scalar.hpp"
#include "distance/rows.hpp"

namespace {

using namespace vicinal;

constexpr Isa kIsas[] = {Isa::scalar, Isa::avx2, Isa::avx512, Isa::neon};

std::size_t query_bytes(DType dtype, std::size_t dim) {
  return dtype == DType::f16 ? dim * sizeof(float) : row_bytes(dtype, dim);
}

// Memory whose last byte stands before a page that faults when read.
class Guarded {
 public:
  explicit Guarded(std::size_t bytes) {
    const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
    usable_ = (bytes / page + 1) * page;
    total_ = usable_ + page;
    base_ =
        static_cast<std::byte*>(::mmap(nullptr, total_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    ::mprotect(base_ + usable_, page, PROT_NONE);
  }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;
  ~Guarded() { ::munmap(base_, total_); }
  [[nodiscard]] std::byte* ending(std::size_t bytes) const { return base_ + usable_ - bytes; }

 private:
  std::byte* base_ = nullptr;
  std::size_t usable_ = 0;
  std::size_t total_ = 0;
};

double value(DType dtype, const void* p, std::size_t i) {
  switch (dtype) {
    case DType::f32: {
      float v = 0;
      std::memcpy(&v, static_cast<const char*>(p) + 4 * i, 4);
      return v;
    }
    case DType::f16: {
      std::uint16_t v = 0;
      std::memcpy(&v, static_cast<const char*>(p) + 2 * i, 2);
      return scalar::half_to_float(v);
    }
    case DType::i8:
      return static_cast<const std::int8_t*>(p)[i];
    case DType::u8:
      return static_cast<const std::uint8_t*>(p)[i];
    case DType::bit:
      return (static_cast<const std::uint8_t*>(p)[i / 8] >> (7 - i % 8)) & 1;
  }
  return 0;
}

struct Expected {
  double quantity;
  double scale;  // sum of the terms' magnitudes, what a float sum's error is relative to
};

Expected oracle(DType dtype, Kernel kernel, const void* q, const void* r, std::size_t dim) {
  Expected e{0, 0};
  const DType query = dtype == DType::f16 ? DType::f32 : dtype;
  for (std::size_t i = 0; i < dim; ++i) {
    const double x = value(query, q, i);
    const double y = value(dtype, r, i);
    double term = 0;
    if (kernel == Kernel::dot) {
      term = x * y;
    } else if (kernel == Kernel::l2) {
      term = (x - y) * (x - y);
    } else {
      term = std::abs(x - y);
    }
    e.quantity += term;
    e.scale += std::abs(term);
  }
  return e;
}

bool exact(DType dtype) { return dtype == DType::i8 || dtype == DType::u8 || dtype == DType::bit; }

bool close(DType dtype, float got, const Expected& e) {
  if (exact(dtype)) return got == static_cast<float>(e.quantity);
  return std::abs(static_cast<double>(got) - e.quantity) <= 2e-6 * e.scale + 1e-30;
}

enum class Fill { random, extreme };

void fill(DType dtype, std::byte* p, std::size_t dim, Fill how, std::mt19937& rng) {
  std::uniform_int_distribution<int> byte(0, 255);
  std::normal_distribution<float> normal;
  for (std::size_t i = 0; i < (dtype == DType::bit ? dim / 8 : dim); ++i) {
    if (dtype == DType::f32) {
      const float v = how == Fill::extreme ? (byte(rng) < 128 ? -1e15F : 1e15F) : normal(rng);
      std::memcpy(p + 4 * i, &v, 4);
    } else if (dtype == DType::f16) {
      // Every finite half in turn, or the largest and smallest ones.
      std::uint16_t v = static_cast<std::uint16_t>((byte(rng) << 8) | byte(rng));
      if ((v & 0x7C00) == 0x7C00) v = static_cast<std::uint16_t>(v ^ 0x4000);
      if (how == Fill::extreme) v = byte(rng) < 128 ? 0xFBFF : (byte(rng) < 128 ? 0x7BFF : 0x0001);
      std::memcpy(p + 2 * i, &v, 2);
    } else {
      const int v = how == Fill::extreme ? (byte(rng) < 128 ? 0x80 : (byte(rng) < 128 ? 0x7F : 0xFF)) : byte(rng);
      p[i] = static_cast<std::byte>(v);
    }
  }
}

struct Case {
  DType dtype;
  Kernel kernel;
};

constexpr Case kCases[] = {{DType::f32, Kernel::l2},     {DType::f32, Kernel::dot}, {DType::f32, Kernel::l1},
                           {DType::f16, Kernel::l2},     {DType::f16, Kernel::dot}, {DType::f16, Kernel::l1},
                           {DType::i8, Kernel::l2},      {DType::i8, Kernel::dot},  {DType::i8, Kernel::l1},
                           {DType::u8, Kernel::l2},      {DType::u8, Kernel::dot},  {DType::u8, Kernel::l1},
                           {DType::bit, Kernel::hamming}};

// Query and rows end at a guard page, so each is unaligned wherever its size is odd; an over-read crashes.
void kernels_match_the_oracle_for_every_length(Isa isa, const Case& c) {
  constexpr std::size_t kRows = 11;  // two groups of four and a rest
  std::mt19937 rng(7);
  const Distance d = distance(c.dtype, c.kernel, isa);
  const std::size_t unit = c.dtype == DType::bit ? 8 : 1;
  const Guarded query_memory(4 * 300 * unit);
  const Guarded row_memory(kRows * (4 * 300 * unit + 3));
  for (std::size_t length = 1; length <= 300; ++length) {
    const std::size_t dim = length * unit;
    const std::size_t bytes = row_bytes(c.dtype, dim);
    for (const Fill how : {Fill::random, Fill::extreme}) {
      std::byte* q = query_memory.ending(query_bytes(c.dtype, dim));
      fill(c.dtype == DType::f16 ? DType::f32 : c.dtype, q, dim,
           how == Fill::extreme && c.dtype == DType::f16 ? Fill::random : how, rng);
      const std::size_t stride = bytes + length % 4;  // odd strides: no row is aligned
      std::byte* base = row_memory.ending((kRows - 1) * stride + bytes);
      std::uint32_t order[kRows];
      for (std::uint32_t i = 0; i < kRows; ++i) {
        fill(c.dtype, base + i * stride, dim, how, rng);
        order[i] = static_cast<std::uint32_t>(kRows - 1 - i);
      }
      float in_order[kRows] = {};
      float gathered[kRows] = {};
      d.batch(q, base, stride, nullptr, kRows, dim, in_order);
      d.batch(q, base, stride, order, kRows, dim, gathered);
      for (std::size_t i = 0; i < kRows; ++i) {
        const Expected e = oracle(c.dtype, c.kernel, q, base + i * stride, dim);
        const float one = d.pair(q, base + i * stride, dim);
        const auto context = [&](const char* what) {
          return std::string(what) + " " + isa_name(isa) + " dtype " + std::to_string(static_cast<int>(c.dtype)) +
                 " kernel " + std::to_string(static_cast<int>(c.kernel)) + " dim " + std::to_string(dim);
        };
        CHECK(close(c.dtype, one, e), context("pair"), one, e.quantity);
        CHECK(close(c.dtype, in_order[i], e), context("batch"), in_order[i], e.quantity);
        CHECK(close(c.dtype, gathered[kRows - 1 - i], e), context("gathered"), gathered[kRows - 1 - i], e.quantity);
      }
    }
  }
}

// The largest sums there can be: 65536 differences of 255, products of -128 by -128.
void byte_kernels_are_exact_at_the_largest_dimension(Isa isa) {
  constexpr std::size_t kDim = 65'536;
  std::vector<std::uint8_t> a(kDim, 0xFF), b(kDim, 0);
  std::vector<std::int8_t> lo(kDim, -128), hi(kDim, 127);
  const auto check = [&](DType dtype, Kernel kernel, const void* x, const void* y, double want) {
    const float got = distance(dtype, kernel, isa).pair(x, y, kDim);
    CHECK(got == static_cast<float>(want), isa_name(isa), static_cast<int>(kernel), got, want);
  };
  check(DType::u8, Kernel::l2, a.data(), b.data(), 255.0 * 255.0 * kDim);
  check(DType::u8, Kernel::dot, a.data(), a.data(), 255.0 * 255.0 * kDim);
  check(DType::u8, Kernel::l1, a.data(), b.data(), 255.0 * kDim);
  check(DType::i8, Kernel::l2, lo.data(), hi.data(), 255.0 * 255.0 * kDim);
  check(DType::i8, Kernel::dot, lo.data(), lo.data(), 128.0 * 128.0 * kDim);
  check(DType::i8, Kernel::dot, lo.data(), hi.data(), -128.0 * 127.0 * kDim);
  check(DType::i8, Kernel::l1, hi.data(), lo.data(), 255.0 * kDim);
  check(DType::bit, Kernel::hamming, a.data(), b.data(), double{kDim});
}

// A mean over halves covers each exponent; here each of the 65536 patterns is checked by itself.
void halves_convert_exactly(Isa isa) {
  const Distance d = distance(DType::f16, Kernel::dot, isa);
  for (std::uint32_t h = 0; h < 65'536; ++h) {
    if ((h & 0x7C00) == 0x7C00) continue;
    const auto half = static_cast<std::uint16_t>(h);
    const int exponent = static_cast<int>((h >> 10) & 31);
    const double magnitude = exponent == 0 ? std::ldexp(h & 1023, -24) : std::ldexp(1024 + (h & 1023), exponent - 25);
    const float one = 1.0F;
    const float got = d.pair(&one, &half, 1);
    CHECK(got == static_cast<float>((h & 0x8000) != 0 ? -magnitude : magnitude), isa_name(isa), h);
  }
}

void norms_are_right_at_any_magnitude(Isa isa) {
  for (const float magnitude : {1e-42F, 1e-30F, 1e-10F, 1.0F, 1e18F, 1e30F, 3e38F}) {
    for (const std::size_t dim : {1UL, 3UL, 19UL, 300UL}) {
      std::vector<float> row(dim, magnitude);
      float inverse = 0;
      inverse_norms(reinterpret_cast<const std::byte*>(row.data()), dim * 4, 1, dim, DType::f32, isa, &inverse);
      const double want = std::min(1.0 / (static_cast<double>(magnitude) * std::sqrt(static_cast<double>(dim))),
                                   double{std::numeric_limits<float>::max()});
      CHECK(std::abs(inverse - want) <= 2e-6 * want + 1e-44, isa_name(isa), magnitude, dim, inverse, want);
    }
  }
  const std::uint16_t halves[3] = {0x0001, 0x0001, 0x0001};
  float inverse = 0;
  inverse_norms(reinterpret_cast<const std::byte*>(halves), 6, 1, 3, DType::f16, isa, &inverse);
  CHECK(std::abs(inverse * std::sqrt(3.0) / 0x1p24 - 1) < 1e-6, inverse);
  const std::int8_t bytes[3] = {-128, 0, 96};
  inverse_norms(reinterpret_cast<const std::byte*>(bytes), 3, 1, 3, DType::i8, isa, &inverse);
  CHECK(inverse == 1.0F / 160.0F, inverse);
  const float zeros[5] = {};
  inverse_norms(reinterpret_cast<const std::byte*>(zeros), 20, 1, 5, DType::f32, isa, &inverse);
  CHECK(inverse == 0);
}

void quantised_bytes_agree_with_scalar(Isa isa) {
  std::mt19937 rng(11);
  std::uniform_real_distribution<float> uniform(-3, 3);
  for (std::size_t dim = 1; dim <= 150; ++dim) {
    std::vector<float> row(dim), lo(dim, -2.0F), scale(dim, 63.75F);
    std::vector<std::uint16_t> half(dim);
    std::vector<std::uint8_t> want(dim), got(dim + 1, 0xEE);
    for (std::size_t j = 0; j < dim; ++j) {
      row[j] = j % 7 == 0 ? -2.0F + (static_cast<float>(j) + 0.5F) / 63.75F : uniform(rng);
      half[j] = static_cast<std::uint16_t>(rng() & 0xBFFF);
    }
    for (const DType dtype : {DType::f32, DType::f16}) {
      const void* data = dtype == DType::f32 ? static_cast<const void*>(row.data()) : half.data();
      quantise_u8(dtype, Isa::scalar)(data, dim, lo.data(), scale.data(), want.data());
      quantise_u8(dtype, isa)(data, dim, lo.data(), scale.data(), got.data());
      CHECK(std::memcmp(got.data(), want.data(), dim) == 0, isa_name(isa), dim);
      CHECK(got[dim] == 0xEE, "wrote past the row", dim);
    }
  }
  const float values[4] = {-1e30F, 0.5F, 1.5F, 1e30F};
  const float lo[4] = {}, scale[4] = {1, 1, 1, 1};
  std::uint8_t out[4] = {};
  quantise_u8(DType::f32, isa)(values, 4, lo, scale, out);
  CHECK(out[0] == 0 && out[1] == 0 && out[2] == 2 && out[3] == 255, isa_name(isa), int{out[1]}, int{out[2]});
}

void bad_rows_are_found() {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  for (const std::size_t dim : {1UL, 5UL, 64UL, 129UL}) {
    for (std::size_t at = 0; at < dim; ++at) {
      for (const float bad : {kInfinity, -kInfinity, kNan, -kNan}) {
        std::vector<float> rows(4 * dim, 1.0F);
        CHECK(check_rows(reinterpret_cast<std::byte*>(rows.data()), dim * 4, 4, dim, DType::f32).first_non_finite ==
              -1);
        rows[2 * dim + at] = bad;
        std::fill_n(rows.begin() + static_cast<std::ptrdiff_t>(dim), dim, at % 2 == 0 ? -0.0F : 0.0F);
        const RowCheck found = check_rows(reinterpret_cast<std::byte*>(rows.data()), dim * 4, 4, dim, DType::f32);
        CHECK(found.first_non_finite == 2 && found.first_zero == 1, dim, at);
      }
    }
  }
  std::uint16_t halves[6] = {0x8000, 0x0000, 0x7BFF, 0x0001, 0x7C00, 0x0001};
  RowCheck found = check_rows(reinterpret_cast<std::byte*>(halves), 4, 3, 2, DType::f16);
  CHECK(found.first_non_finite == 2 && found.first_zero == 0);
  std::int8_t bytes[4] = {0, 1, 0, 0};
  found = check_rows(reinterpret_cast<std::byte*>(bytes), 2, 2, 2, DType::i8);
  CHECK(found.first_non_finite == -1 && found.first_zero == 1);
}

void impossible_combinations_are_refused() {
  const auto refused = [](auto&& fn) {
    return test::throws<Error>(fn, [](const Error& e) { return e.code() == ErrorCode::invalid_argument; });
  };
  CHECK(refused([] { static_cast<void>(distance(DType::bit, Kernel::dot, Isa::scalar)); }));
  CHECK(refused([] { static_cast<void>(distance(DType::f32, Kernel::hamming, Isa::scalar)); }));
  CHECK(refused([] { static_cast<void>(squared_norms(DType::bit, Isa::scalar)); }));
  CHECK(refused([] { static_cast<void>(quantise_u8(DType::i8, Isa::scalar)); }));
  for (const Isa isa : kIsas) {
    if (!isa_supported(isa)) CHECK(refused([&] { static_cast<void>(distance(DType::f32, Kernel::l2, isa)); }));
  }
}

}  // namespace

int main() {
  for (const Isa isa : kIsas) {
    if (!isa_supported(isa)) continue;
    std::cerr << "testing " << isa_name(isa) << '\n';
    for (const Case& c : kCases) kernels_match_the_oracle_for_every_length(isa, c);
    byte_kernels_are_exact_at_the_largest_dimension(isa);
    halves_convert_exactly(isa);
    norms_are_right_at_any_magnitude(isa);
    quantised_bytes_agree_with_scalar(isa);
  }
  bad_rows_are_found();
  impossible_combinations_are_refused();
  return vicinal::test::failures();
}
