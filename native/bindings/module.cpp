// The extension module vicinal.native._ext; each topic binds itself in its own file.
#include <nanobind/nanobind.h>

namespace nb = nanobind;

void init_errors(nb::module_& m);
void init_arrays(nb::module_& m);
void init_base(nb::module_& m);
void init_distance(nb::module_& m);
void init_graph(nb::module_& m);
void init_flat(nb::module_& m);

NB_MODULE(_ext, m) {
  m.doc() = "Native core of Vicinal. Use it through vicinal.index.";
  // A database that a program left open at its end is no leak.
  nb::set_leak_warnings(false);
  init_errors(m);
  init_arrays(m);
  init_base(m);
  init_distance(m);
  init_graph(m);
  init_flat(m);
}
