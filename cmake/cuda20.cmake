# SPDX-License-Identifier: Apache-2.0
#
# Enables CUDA with C++20. CMake 3.25 does not know CUDA_STANDARD 20 for nvcc: it drops the flag
# silently or stops when the standard is required. Naming the option after the language is enabled
# makes the ordinary properties work; newer releases of CMake know it themselves.

if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES "90;100")
endif()

enable_language(CUDA)

if(NOT DEFINED CMAKE_CUDA20_STANDARD_COMPILE_OPTION)
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
endif()
set(CMAKE_CUDA_STANDARD 20)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
