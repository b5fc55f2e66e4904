# SPDX-License-Identifier: Apache-2.0
#
# Enables CUDA with C++20. CMake 3.25 does not know CUDA_STANDARD 20 for nvcc: it drops the flag
# silently or stops when the standard is required. Naming the option after the language is enabled
# makes the ordinary properties work; newer releases of CMake know it themselves.

# Machine code for every GPU of the data centre since Ampere, and PTX of the newest for later ones.
# CUDA 12.9 and 13 know them all.
if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES "80-real;90-real;100-real;120")
endif()

enable_language(CUDA)

if(NOT DEFINED CMAKE_CUDA20_STANDARD_COMPILE_OPTION)
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
endif()
set(CMAKE_CUDA_STANDARD 20)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)

# The runtime is part of our libraries: nothing of CUDA is needed where they run, and it looks for
# the driver only when it is first called.
set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
find_package(CUDAToolkit REQUIRED)
