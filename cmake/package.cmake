# SPDX-License-Identifier: Apache-2.0
#
# The umbrella target kvbm::kvbm and what an installed kvbm consists of: libraries, headers, a CMake
# package with one component per room, and a pkg-config file.

include(CMakePackageConfigHelpers)

get_property(_kvbm_built_rooms GLOBAL PROPERTY KVBM_BUILT_ROOMS)

add_library(kvbm INTERFACE)
add_library(kvbm::kvbm ALIAS kvbm)
foreach(room IN LISTS _kvbm_built_rooms)
  target_link_libraries(kvbm INTERFACE kvbm::${room})
endforeach()
file(GLOB _kvbm_umbrella_headers CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/include/kvbm/*.hpp")
target_sources(
  kvbm INTERFACE FILE_SET HEADERS BASE_DIRS "${PROJECT_SOURCE_DIR}/include"
                 FILES ${_kvbm_umbrella_headers}
)
set_target_properties(kvbm PROPERTIES VERIFY_INTERFACE_HEADER_SETS ON)

set(_kvbm_config_dir "${CMAKE_INSTALL_LIBDIR}/cmake/kvbm")

install(
  TARGETS kvbm
  EXPORT kvbm-kvbm-targets
  FILE_SET HEADERS DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}
)

# One export set per room, so that find_package(kvbm COMPONENTS kernels) loads only what it needs.
set(KVBM_CONFIG_ROOMS)
set(_pc_libs)
set(_pc_requires)
foreach(room IN LISTS _kvbm_built_rooms)
  get_property(depends GLOBAL PROPERTY KVBM_ROOM_${room}_DEPENDS)
  get_property(externals GLOBAL PROPERTY KVBM_ROOM_${room}_EXTERNALS)
  string(APPEND KVBM_CONFIG_ROOMS "set(_kvbm_${room}_depends ${depends})\n"
         "set(_kvbm_${room}_externals ${externals})\n"
  )
  list(PREPEND _pc_libs -lkvbm_${room})
  list(APPEND _pc_requires ${externals})
  install(
    EXPORT kvbm-${room}-targets
    NAMESPACE kvbm::
    DESTINATION ${_kvbm_config_dir}
  )
endforeach()
install(
  EXPORT kvbm-kvbm-targets
  NAMESPACE kvbm::
  DESTINATION ${_kvbm_config_dir}
)

# Whoever links the static libraries needs the CUDA runtime that they were built with, or a later one
# of the same major version; the folder is a hint for find_package.
set(KVBM_CONFIG_CUDA_ROOT)
set(KVBM_CONFIG_STATIC ON)
if(BUILD_SHARED_LIBS)
  set(KVBM_CONFIG_STATIC OFF)
endif()
if(KVBM_WITH_CUDA)
  get_filename_component(KVBM_CONFIG_CUDA_ROOT "${CUDAToolkit_BIN_DIR}" DIRECTORY)
endif()
configure_package_config_file(
  "${PROJECT_SOURCE_DIR}/cmake/kvbm-config.cmake.in" "${PROJECT_BINARY_DIR}/kvbm-config.cmake"
  INSTALL_DESTINATION ${_kvbm_config_dir}
)
write_basic_package_version_file(
  "${PROJECT_BINARY_DIR}/kvbm-config-version.cmake" COMPATIBILITY SameMinorVersion
)
install(
  FILES "${PROJECT_BINARY_DIR}/kvbm-config.cmake" "${PROJECT_BINARY_DIR}/kvbm-config-version.cmake"
  DESTINATION ${_kvbm_config_dir}
)

list(REMOVE_DUPLICATES _pc_requires)
list(TRANSFORM _pc_requires REPLACE "^(package|pkgconfig):" "")
list(REMOVE_ITEM _pc_requires Threads)
# One CMake package, one pkg-config module for each of its libraries.
list(TRANSFORM _pc_requires REPLACE "^prometheus-cpp$" "prometheus-cpp-pull;prometheus-cpp-core")
if("cuda:cudart_static" IN_LIST _pc_requires)
  list(REMOVE_ITEM _pc_requires "cuda:cudart_static")
  if(NOT BUILD_SHARED_LIBS)
    get_target_property(_cudart CUDA::cudart_static IMPORTED_LOCATION)
    get_filename_component(_cudart_dir "${_cudart}" DIRECTORY)
    list(APPEND _pc_libs "-L${_cudart_dir}" -lcudart_static -ldl -lrt)
  endif()
endif()
list(JOIN _pc_requires " " KVBM_PC_REQUIRES)
list(JOIN _pc_libs " " KVBM_PC_LIBS)
# Relative to the file itself, so that the installed tree can be moved.
file(RELATIVE_PATH KVBM_PC_PREFIX "/${CMAKE_INSTALL_LIBDIR}/pkgconfig" "/")
configure_file("${PROJECT_SOURCE_DIR}/cmake/kvbm.pc.in" "${PROJECT_BINARY_DIR}/kvbm.pc" @ONLY)
install(FILES "${PROJECT_BINARY_DIR}/kvbm.pc" DESTINATION "${CMAKE_INSTALL_LIBDIR}/pkgconfig")
