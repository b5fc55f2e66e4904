# SPDX-License-Identifier: Apache-2.0
#
# Run by ctest: compiles SOURCE without and with CASE, the second time expecting the compiler to
# refuse it with a message that matches EXPECT.

set(command ${COMPILER} -std=c++20 -fsyntax-only -I${INCLUDE_DIR} ${SOURCE})

execute_process(COMMAND ${command} RESULT_VARIABLE status ERROR_VARIABLE output)
if(NOT status EQUAL 0)
  message(FATAL_ERROR "${SOURCE} should compile without ${CASE}:\n${output}")
endif()

execute_process(COMMAND ${command} -D${CASE} RESULT_VARIABLE status ERROR_VARIABLE output)
if(status EQUAL 0)
  message(FATAL_ERROR "${SOURCE} compiles with -D${CASE}, but it must not")
endif()
if(NOT output MATCHES "${EXPECT}")
  message(FATAL_ERROR "${SOURCE} with -D${CASE}: the message should match '${EXPECT}':\n${output}")
endif()
