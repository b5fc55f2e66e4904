# SPDX-License-Identifier: Apache-2.0
#
# Run by ctest: SOURCE must compile; or, where CASE is given, the compiler must refuse it with
# -D<CASE> and a message that matches EXPECT.

set(command ${COMPILER} -std=c++20 -fsyntax-only -I${INCLUDE_DIR} ${SOURCE})
if(DEFINED CASE)
  list(APPEND command -D${CASE})
endif()

execute_process(COMMAND ${command} RESULT_VARIABLE status ERROR_VARIABLE output)

if(NOT DEFINED CASE)
  if(NOT status EQUAL 0)
    message(FATAL_ERROR "${SOURCE} should compile:\n${output}")
  endif()
elseif(status EQUAL 0)
  message(FATAL_ERROR "${SOURCE} compiles with -D${CASE}, but it must not")
elseif(NOT output MATCHES "${EXPECT}")
  message(FATAL_ERROR "${SOURCE} with -D${CASE}: the message should match '${EXPECT}':\n${output}")
endif()
