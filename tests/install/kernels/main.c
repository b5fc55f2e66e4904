// SPDX-License-Identifier: Apache-2.0
//
// The C ABI of the kernels from a C program: copies two pairs and compares.

#include <kvbm/kernels/kernels.h>
#include <stdio.h>
#include <string.h>

int main(void) {
  char const first[] = "first block";
  char const other[] = "other block";
  char to_first[sizeof first] = {0};
  char to_other[sizeof other] = {0};
  void const* const sources[] = {first, other};
  void* const destinations[] = {to_first, to_other};

  kvbm_status const status = kvbm_cpu_vectorized_copy(sources, destinations, sizeof first, 2);
  if (status != KVBM_STATUS_OK) {
    printf("kernels alone: copy failed: %s\n", kvbm_status_string(status));
    return 1;
  }
  if (memcmp(first, to_first, sizeof first) != 0 || memcmp(other, to_other, sizeof other) != 0) {
    printf("kernels alone: the copies differ\n");
    return 1;
  }
  printf("kernels alone: copied 2 pairs\n");
  return 0;
}
