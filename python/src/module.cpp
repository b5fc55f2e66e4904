// SPDX-License-Identifier: Apache-2.0
#include "common.hpp"

NB_MODULE(_kvbm_cpp, m) {
  namespace python = kvbm::python;
  m.doc() = "The native part of kvbm_cpp: import kvbm_cpp instead.";
  python::bind_errors(m);
  python::bind_values(m);
  python::bind_format(m);
  python::bind_stream(m);
  python::bind_device(m);
  python::bind_tensor(m);
  python::bind_object(m);
  python::bind_layout(m);
  python::bind_layout_builder(m);
  python::bind_scrub(m);
  python::bind_notification(m);
  python::bind_options(m);
  python::bind_costs(m);
  python::bind_transfer(m);
  python::bind_remote(m);
  python::bind_notices(m);
  python::bind_exchange(m);
  python::bind_metrics(m);
  python::bind_manager(m);
  python::bind_prefix(m);
  python::close_at_exit();
}
