// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <netinet/in.h>

#include <cstddef>
#include <string>

namespace kvbm::testing {

sockaddr_in loopback(int port);
/// @param port  0: any that is free
int listen_on(int port, int& bound);
/// Closing it will reset the connection.
void reset_connection(int fd);
bool send_all(int fd, char const* data, std::size_t bytes);
std::string lower(std::string text);

}  // namespace kvbm::testing
