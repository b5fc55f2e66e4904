# SPDX-License-Identifier: Apache-2.0
#
# The functions with which every folder declares what it builds. A room is a folder of src/, a
# namespace and a library target; the order of KVBM_ROOMS is the direction of the includes.

include(GNUInstallDirs)

set(KVBM_ROOMS core nixl memory device kernels object layout transfer remote manager prefix metrics)

if(BUILD_SHARED_LIBS)
  # Installed libraries find each other, and the programs of bin/ find them, wherever the tree lies.
  set(CMAKE_INSTALL_RPATH "$ORIGIN;$ORIGIN/../${CMAKE_INSTALL_LIBDIR}")
endif()

# Header-only libraries that stay inside our object files: an installed kvbm does not need them.
set(_kvbm_build_only_libraries nlohmann_json::nlohmann_json CLI11::CLI11 CUDA::nvtx3)

# What find_package or pkg-config has to find again for a consumer who links the static libraries.
set(_kvbm_external_fmt::fmt "package:fmt")
set(_kvbm_external_spdlog::spdlog "package:spdlog")
set(_kvbm_external_Threads::Threads "package:Threads")
set(_kvbm_external_PkgConfig::liburing "pkgconfig:liburing")
set(_kvbm_external_PkgConfig::libcurl "pkgconfig:libcurl")
set(_kvbm_external_PkgConfig::libcrypto "pkgconfig:libcrypto")
set(_kvbm_external_PkgConfig::libxxhash "pkgconfig:libxxhash")
set(_kvbm_external_PkgConfig::numa "pkgconfig:numa")
set(_kvbm_external_prometheus-cpp::core "package:prometheus-cpp")
set(_kvbm_external_prometheus-cpp::pull "package:prometheus-cpp")
set(_kvbm_external_CUDA::cudart_static "cuda:cudart_static")

# Applies warnings and the language level that every target of ours has.
function(kvbm_target_defaults target)
  target_compile_features(${target} PUBLIC cxx_std_20)
  set_target_properties(
    ${target} PROPERTIES CXX_EXTENSIONS OFF CXX_STANDARD_REQUIRED ON POSITION_INDEPENDENT_CODE ON
  )
  if(NOT BUILD_SHARED_LIBS)
    # Static archives end up inside somebody's shared object (the Python extension for one), which
    # should not export our symbols again.
    set_target_properties(
      ${target} PROPERTIES CXX_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON
    )
  endif()
  target_compile_options(
    ${target}
    PRIVATE
      $<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra;-Wpedantic;-Wconversion;-Wsign-conversion;-Wshadow>
      # At -O3 gcc 12 reports overlapping copies in std::string's operator+
      # (https://gcc.gnu.org/bugzilla/show_bug.cgi?id=105651) and out-of-bounds accesses in
      # std::sort over small arrays that cannot happen; AddressSanitizer looks for the real ones.
      $<$<COMPILE_LANG_AND_ID:CXX,GNU>:-Wno-restrict;-Wno-array-bounds;-Wno-stringop-overflow>
      # What nvcc hands to the host compiler is its own rewriting of our source, which -Wpedantic,
      # -Wconversion and -Wsign-conversion find faults in that are not ours.
      $<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall,-Wextra,-Wshadow;-Xfatbin=-compress-all>
  )
  if(KVBM_WITH_CUDA)
    set_target_properties(
      ${target} PROPERTIES CUDA_STANDARD 20 CUDA_STANDARD_REQUIRED ON CUDA_EXTENSIONS OFF
                           CUDA_RUNTIME_LIBRARY Static
    )
    if(NOT BUILD_SHARED_LIBS)
      set_target_properties(${target} PROPERTIES CUDA_VISIBILITY_PRESET hidden)
    endif()
  endif()
endfunction()

# Splits LINKS: drops what an option switched off, keeps header-only libraries out of the export.
function(_kvbm_resolve_links out_links)
  set(links)
  foreach(library IN LISTS ARGN)
    if(library STREQUAL "PkgConfig::liburing" AND NOT KVBM_WITH_URING)
      continue()
    endif()
    if(library STREQUAL "PkgConfig::libcurl" AND NOT KVBM_WITH_CURL)
      continue()
    endif()
    if(library STREQUAL "PkgConfig::libcrypto" AND NOT KVBM_WITH_CRYPTO)
      continue()
    endif()
    if(library MATCHES "^prometheus-cpp::" AND NOT KVBM_WITH_PROMETHEUS)
      continue()
    endif()
    if(library MATCHES "^CUDA::" AND NOT KVBM_WITH_CUDA)
      continue()
    endif()
    if(library IN_LIST _kvbm_build_only_libraries)
      list(APPEND links $<BUILD_INTERFACE:${library}>)
    else()
      list(APPEND links ${library})
    endif()
  endforeach()
  set(${out_links} ${links} PARENT_SCOPE)
endfunction()

# Appends those of the sources that this build has: CUDA_SOURCES with CUDA, NO_CUDA_SOURCES without.
function(_kvbm_resolve_sources out cuda no_cuda)
  if(KVBM_WITH_CUDA)
    set(${out} ${cuda} PARENT_SCOPE)
  else()
    set(${out} ${no_cuda} PARENT_SCOPE)
  endif()
endfunction()

# kvbm_add_room(<room> SOURCES a.cpp ... [CUDA_SOURCES b.cu c.cpp ...] [NO_CUDA_SOURCES d.cpp ...]
#               [DEPENDS rooms...] [LINKS third-party targets...])
#
# Defines kvbm_<room> with the alias kvbm::<room>. Every header in include/kvbm/<room> is public,
# installed, and checked to compile alone (target all_verify_interface_header_sets).
# Sources see KVBM_HAVE_URING and KVBM_HAVE_CUDA as 0 or 1. In LINKS, PkgConfig::liburing, libcurl,
# libcrypto, prometheus-cpp::* and CUDA::* may be named always; they count where the build has them.
function(kvbm_add_room room)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "SOURCES;CUDA_SOURCES;NO_CUDA_SOURCES;DEPENDS;LINKS"
  )
  if(arg_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "kvbm_add_room(${room}): unknown arguments: ${arg_UNPARSED_ARGUMENTS}")
  endif()
  if(NOT room IN_LIST KVBM_ROOMS)
    message(FATAL_ERROR "kvbm_add_room(${room}): not one of the rooms: ${KVBM_ROOMS}")
  endif()

  set(depends ${arg_DEPENDS})
  list(TRANSFORM depends PREPEND kvbm::)

  set(target kvbm_${room})
  _kvbm_resolve_sources(cuda_sources "${arg_CUDA_SOURCES}" "${arg_NO_CUDA_SOURCES}")
  add_library(${target} ${arg_SOURCES} ${cuda_sources})
  add_library(kvbm::${room} ALIAS ${target})
  kvbm_target_defaults(${target})

  file(GLOB headers CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/include/kvbm/${room}/*.hpp"
       "${PROJECT_SOURCE_DIR}/include/kvbm/${room}/*.h"
  )
  target_sources(
    ${target} PUBLIC FILE_SET HEADERS BASE_DIRS "${PROJECT_SOURCE_DIR}/include" FILES ${headers}
  )
  target_include_directories(${target} PRIVATE "${PROJECT_SOURCE_DIR}/src")
  target_compile_definitions(
    ${target} PRIVATE KVBM_HAVE_URING=$<BOOL:${KVBM_WITH_URING}>
                      KVBM_HAVE_CUDA=$<BOOL:${KVBM_WITH_CUDA}>
  )

  _kvbm_resolve_links(links ${arg_LINKS})
  target_link_libraries(${target} PUBLIC ${depends} PRIVATE ${links})

  set_target_properties(
    ${target}
    PROPERTIES EXPORT_NAME ${room}
               VERSION ${PROJECT_VERSION}
               SOVERSION ${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR}
               VERIFY_INTERFACE_HEADER_SETS ON
  )

  install(
    TARGETS ${target}
    EXPORT kvbm-${room}-targets
    ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR}
    LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
    FILE_SET HEADERS DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}
  )

  set(externals)
  foreach(library IN LISTS arg_LINKS)
    if(DEFINED _kvbm_external_${library} AND TARGET ${library})
      list(APPEND externals ${_kvbm_external_${library}})
    endif()
  endforeach()
  set_property(GLOBAL PROPERTY KVBM_ROOM_${room}_DEPENDS ${arg_DEPENDS})
  set_property(GLOBAL PROPERTY KVBM_ROOM_${room}_EXTERNALS ${externals})
  set_property(GLOBAL APPEND PROPERTY KVBM_BUILT_ROOMS ${room})
endfunction()

# Environment of every test: results as XML beside the build, and what the sanitizers should do.
function(_kvbm_test_environment out name)
  set(suppressions "${PROJECT_SOURCE_DIR}/tests/suppressions")
  set(${out}
      "GTEST_OUTPUT=xml:${PROJECT_BINARY_DIR}/test-results/${name}.xml"
      "GTEST_COLOR=no"
      "KVBM_TEST_SOURCE_DIR=${PROJECT_SOURCE_DIR}"
      "KVBM_TEST_BINARY_DIR=${PROJECT_BINARY_DIR}"
      "ASAN_OPTIONS=detect_stack_use_after_return=1:strict_string_checks=1"
      "UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1"
      "LSAN_OPTIONS=suppressions=${suppressions}/lsan.supp:print_suppressions=0"
      "TSAN_OPTIONS=suppressions=${suppressions}/tsan.supp:halt_on_error=1:second_deadlock_stack=1"
      PARENT_SCOPE
  )
endfunction()

# Seconds after which a test counts as hanging. Slow machines and sanitizers do not reach it.
set(KVBM_TEST_TIMEOUT 1800)

# kvbm_add_test(<kind>.<room>[.<subject>] SOURCES x_test.cpp ... [CUDA_SOURCES y.cu ...]
#               [NO_CUDA_SOURCES z.cpp ...] LINKS targets... [LABELS labels...] [COST seconds]
#               [SERIAL] [CUDA_TOO] [ENVIRONMENT VAR=value ...])
#
# One GoogleTest executable and one ctest entry kvbm.<name>. Sources may include private headers of
# src/ and helpers of tests/, and see KVBM_HAVE_URING and KVBM_HAVE_CUDA. SERIAL keeps other tests
# from running beside it. COST starts what takes long before the rest. The label gpu is for tests
# that use a GPU where there is one; where there is none, their cases skip with "no CUDA device:
# <reason>". CUDA_TOO makes a second ctest entry of the same program, kvbm.<name>.cuda, whose device
# is a GPU.
function(kvbm_add_test name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "SERIAL;CUDA_TOO" "COST"
                        "SOURCES;CUDA_SOURCES;NO_CUDA_SOURCES;LINKS;LABELS;ENVIRONMENT"
  )
  if(arg_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "kvbm_add_test(${name}): unknown arguments: ${arg_UNPARSED_ARGUMENTS}")
  endif()
  if(NOT KVBM_BUILD_TESTS)
    return()
  endif()
  if(NOT arg_COST)
    set(arg_COST 0)
  endif()

  string(REPLACE "." "_" target "test_${name}")
  _kvbm_resolve_sources(cuda_sources "${arg_CUDA_SOURCES}" "${arg_NO_CUDA_SOURCES}")
  add_executable(${target} ${arg_SOURCES} ${cuda_sources})
  set_target_properties(${target} PROPERTIES OUTPUT_NAME "kvbm.${name}")
  kvbm_target_defaults(${target})
  target_include_directories(
    ${target} PRIVATE "${PROJECT_SOURCE_DIR}/src" "${PROJECT_SOURCE_DIR}/tests"
  )
  target_compile_definitions(
    ${target} PRIVATE KVBM_HAVE_URING=$<BOOL:${KVBM_WITH_URING}>
                      KVBM_HAVE_CUDA=$<BOOL:${KVBM_WITH_CUDA}>
  )
  _kvbm_resolve_links(links ${arg_LINKS})
  target_link_libraries(${target} PRIVATE ${links} GTest::gtest_main GTest::gmock)

  set(where cpu)
  if("gpu" IN_LIST arg_LABELS)
    set(where)
  endif()
  add_test(NAME kvbm.${name} COMMAND ${target})
  _kvbm_test_environment(environment kvbm.${name})
  set_tests_properties(
    kvbm.${name}
    PROPERTIES ENVIRONMENT "${environment};${arg_ENVIRONMENT}"
               LABELS "${where};${arg_LABELS}"
               TIMEOUT ${KVBM_TEST_TIMEOUT}
               COST ${arg_COST}
               RUN_SERIAL ${arg_SERIAL}
  )
  if(arg_CUDA_TOO AND KVBM_WITH_CUDA)
    add_test(NAME kvbm.${name}.cuda COMMAND ${target})
    _kvbm_test_environment(environment kvbm.${name}.cuda)
    # As many hardware queues as there can be: with fewer, a stream that a test holds can hold up
    # another one.
    list(APPEND environment KVBM_TEST_DEVICE=cuda CUDA_DEVICE_MAX_CONNECTIONS=32)
    set_tests_properties(
      kvbm.${name}.cuda
      PROPERTIES ENVIRONMENT "${environment};${arg_ENVIRONMENT}"
                 LABELS "gpu;${arg_LABELS}"
                 TIMEOUT ${KVBM_TEST_TIMEOUT}
                 COST ${arg_COST}
                 RUN_SERIAL ${arg_SERIAL}
    )
  endif()
endfunction()

# kvbm_add_compile_fail_test(<name> SOURCE x.cpp CASE <MACRO> EXPECT <regex>)
#
# Passes when x.cpp with -D<MACRO> is refused with a message that matches. That x.cpp compiles
# without any macro is one more test per file, kvbm.compile_fail.<x>.compiles.
function(kvbm_add_compile_fail_test name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "SOURCE;CASE;EXPECT" "")
  if(NOT KVBM_BUILD_TESTS)
    return()
  endif()
  get_filename_component(source "${arg_SOURCE}" ABSOLUTE)
  get_filename_component(stem "${arg_SOURCE}" NAME_WE)
  set(compile ${CMAKE_COMMAND} "-DCOMPILER=${CMAKE_CXX_COMPILER}"
              "-DINCLUDE_DIR=${PROJECT_SOURCE_DIR}/include" "-DSOURCE=${source}"
  )
  set(script -P "${PROJECT_SOURCE_DIR}/cmake/compile_fail.cmake")
  set(plain kvbm.compile_fail.${stem}.compiles)
  set(tests kvbm.compile_fail.${name})
  add_test(NAME kvbm.compile_fail.${name}
           COMMAND ${compile} "-DCASE=${arg_CASE}" "-DEXPECT=${arg_EXPECT}" ${script}
  )
  if(NOT TEST ${plain})
    add_test(NAME ${plain} COMMAND ${compile} ${script})
    list(APPEND tests ${plain})
  endif()
  set_tests_properties(${tests} PROPERTIES LABELS "cpu;compile_fail" TIMEOUT ${KVBM_TEST_TIMEOUT})
endfunction()

# kvbm_add_fuzzer(<name> SOURCES x_fuzz.cpp LINKS targets... [CORPUS folder])
#
# A libFuzzer executable and a ctest entry kvbm.fuzz.<name> that runs it for KVBM_FUZZ_SECONDS.
# Needs clang (preset `fuzz`).
function(kvbm_add_fuzzer name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "CORPUS" "SOURCES;LINKS")
  if(NOT KVBM_BUILD_FUZZERS)
    return()
  endif()
  string(REPLACE "." "_" target "fuzz_${name}")
  add_executable(${target} ${arg_SOURCES})
  set_target_properties(${target} PROPERTIES OUTPUT_NAME "kvbm.fuzz.${name}")
  kvbm_target_defaults(${target})
  target_include_directories(
    ${target} PRIVATE "${PROJECT_SOURCE_DIR}/src" "${PROJECT_SOURCE_DIR}/tests"
  )
  _kvbm_resolve_links(links ${arg_LINKS})
  target_link_libraries(${target} PRIVATE ${links})
  target_link_options(${target} PRIVATE -fsanitize=fuzzer)

  set(corpus "${PROJECT_BINARY_DIR}/corpus/${name}")
  file(MAKE_DIRECTORY "${corpus}")
  set(seeds)
  if(arg_CORPUS)
    get_filename_component(seeds "${arg_CORPUS}" ABSOLUTE)
  endif()
  add_test(
    NAME kvbm.fuzz.${name}
    COMMAND ${target} -max_total_time=${KVBM_FUZZ_SECONDS} -timeout=60 -rss_limit_mb=2048
            "-artifact_prefix=${PROJECT_BINARY_DIR}/" "${corpus}" ${seeds}
  )
  _kvbm_test_environment(environment kvbm.fuzz.${name})
  math(EXPR limit "${KVBM_FUZZ_SECONDS} + ${KVBM_TEST_TIMEOUT}")
  set_tests_properties(
    kvbm.fuzz.${name} PROPERTIES ENVIRONMENT "${environment}" LABELS "fuzz" TIMEOUT ${limit}
  )
endfunction()
