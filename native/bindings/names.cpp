// Names of dtypes, metrics, kernels and instruction sets, as the Python side spells them.
#include <array>
#include <utility>

#include "arrays.hpp"

namespace vicinal::py {
namespace {

template <class T, std::size_t N>
T parse(const std::array<std::pair<const char*, T>, N>& names, const std::string& name, const char* what) {
  std::string known;
  for (const auto& [text, value] : names) {
    if (name == text) return value;
    known += (known.empty() ? "" : ", ") + std::string(text);
  }
  throw Error(ErrorCode::invalid_argument, std::string("unknown ") + what + " '" + name + "'; known are " + known);
}

template <class T, std::size_t N>
const char* name_of(const std::array<std::pair<const char*, T>, N>& names, T value) noexcept {
  for (const auto& [text, known] : names) {
    if (value == known) return text;
  }
  return "?";
}

constexpr std::array<std::pair<const char*, DType>, 5> kDTypeNames{
    {{"f32", DType::f32}, {"f16", DType::f16}, {"i8", DType::i8}, {"bit", DType::bit}, {"u8", DType::u8}}};

constexpr std::array<std::pair<const char*, Metric>, 5> kMetricNames{{{"l2", Metric::l2},
                                                                      {"ip", Metric::ip},
                                                                      {"cosine", Metric::cosine},
                                                                      {"hamming", Metric::hamming},
                                                                      {"manhattan", Metric::manhattan}}};

}  // namespace

DType parse_dtype(const std::string& name) { return parse(kDTypeNames, name, "dtype"); }

Metric parse_metric(const std::string& name) { return parse(kMetricNames, name, "metric"); }

const char* dtype_name(DType dtype) noexcept { return name_of(kDTypeNames, dtype); }

const char* metric_name(Metric metric) noexcept { return name_of(kMetricNames, metric); }

Kernel parse_kernel(const std::string& name) {
  static constexpr std::array<std::pair<const char*, Kernel>, 4> names{
      {{"l2", Kernel::l2}, {"dot", Kernel::dot}, {"l1", Kernel::l1}, {"hamming", Kernel::hamming}}};
  return parse(names, name, "kernel");
}

Isa parse_isa(const std::string& name) {
  static constexpr std::array<std::pair<const char*, Isa>, 4> names{
      {{"scalar", Isa::scalar}, {"avx2", Isa::avx2}, {"avx512", Isa::avx512}, {"neon", Isa::neon}}};
  return parse(names, name, "instruction set");
}

}  // namespace vicinal::py
