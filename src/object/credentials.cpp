// SPDX-License-Identifier: Apache-2.0
#include "kvbm/object/credentials.hpp"

#include <algorithm>

#include "object/credential_chain.hpp"
#include "object/text.hpp"

namespace kvbm::object {

Credentials Credentials::from_chain() { return find_credentials(ChainWorld::real()); }

std::string to_string(Credentials const& credentials) {
  std::string const id = printable(credentials.access_key_id, 128);
  // Of a short id, which is no AWS one, less is shown.
  std::size_t const shown = std::min<std::size_t>(4, id.size() / 4);
  std::string text = id.substr(0, shown) + "..." + id.substr(id.size() - shown);
  if (!credentials.session_token.empty()) { text += " with a session token"; }
  if (!credentials.source.empty()) { text += " from " + credentials.source; }
  return text;
}

}  // namespace kvbm::object
