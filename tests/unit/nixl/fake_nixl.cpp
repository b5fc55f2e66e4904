// SPDX-License-Identifier: Apache-2.0
//
// A library that loads like NIXL's and has one of its functions.

extern "C" __attribute__((visibility("default"))) int nixl_capi_destroy_agent(void* /*agent*/) {
  return 0;
}
