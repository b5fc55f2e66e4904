# SPDX-License-Identifier: Apache-2.0
#
# _kvbm_find_cuda(<available> <reason>): looks for an nvcc that compiles here and is neither too old
# nor unknown to us. An nvcc named by CMAKE_CUDA_COMPILER or CUDACXX is the only one tried; else the
# first of PATH, /usr/local/cuda and build/cuda, which `./dev setup --cuda` fills.

include(CheckLanguage)

set(KVBM_CUDA_OLDEST 12.9)
set(KVBM_CUDA_TOO_NEW 14)

function(_kvbm_find_cuda out_available out_reason)
  set(${out_available} OFF PARENT_SCOPE)

  if(CMAKE_CUDA_COMPILER)
    set(nvcc "${CMAKE_CUDA_COMPILER}")
  elseif(DEFINED ENV{CUDACXX})
    set(nvcc "$ENV{CUDACXX}")
  else()
    find_program(
      nvcc nvcc
      HINTS "${PROJECT_SOURCE_DIR}/build/cuda/bin"
      PATHS /usr/local/cuda/bin
      NO_CACHE
    )
  endif()
  if(NOT nvcc)
    set(${out_reason}
        "no nvcc in build/cuda, PATH or /usr/local/cuda; ./dev setup --cuda gets one" PARENT_SCOPE
    )
    return()
  endif()

  execute_process(
    COMMAND "${nvcc}" --version
    OUTPUT_VARIABLE text
    ERROR_QUIET
    RESULT_VARIABLE status
  )
  if(NOT status EQUAL 0 OR NOT text MATCHES "release ([0-9]+\\.[0-9]+)")
    set(${out_reason} "${nvcc} --version does not answer like nvcc" PARENT_SCOPE)
    return()
  endif()
  set(version ${CMAKE_MATCH_1})
  if(version VERSION_LESS KVBM_CUDA_OLDEST OR version VERSION_GREATER_EQUAL KVBM_CUDA_TOO_NEW)
    set(${out_reason}
        "${nvcc} is CUDA ${version}, and kvbm needs ${KVBM_CUDA_OLDEST} or a 13.x; ./dev setup --cuda \
gets one, CUDACXX=<nvcc> chooses another"
        PARENT_SCOPE
    )
    return()
  endif()

  # check_language looks only where the caller did not choose, and takes ours from here.
  set(ENV{CUDACXX} "${nvcc}")
  if(NOT CMAKE_CUDA_COMPILER)
    check_language(CUDA)
  endif()
  if(NOT CMAKE_CUDA_COMPILER)
    unset(CMAKE_CUDA_COMPILER CACHE)
    set(${out_reason}
        "${nvcc} (CUDA ${version}) cannot compile here, most likely because of the C++ compiler behind \
it; CUDAHOSTCXX chooses another"
        PARENT_SCOPE
    )
    return()
  endif()
  set(${out_available} ON PARENT_SCOPE)
  set(${out_reason} "CUDA ${version}, ${nvcc}" PARENT_SCOPE)
endfunction()
