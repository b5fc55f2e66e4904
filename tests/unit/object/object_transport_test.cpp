// SPDX-License-Identifier: Apache-2.0
//
// What a store says of NIXL where its plugin does not load: this program lacks the library that the
// plugin of the wheel 1.5.1 wants.

#include "nixl/nixl_library.hpp"
#include "unit/object/object_fixture.hpp"

namespace kvbm::object::test {
namespace {

class ObjectTransportTest : public StoreTest {};

TEST_F(ObjectTransportTest, AutoTakesLibcurlWhereThereIsNoNixl) {
  auto with = options();
  with.transport = ObjectTransport::Auto;
  with.nixl_library = "/nowhere/libnixl_capi.so";
  auto const store = ObjectBlockStore::open(with, geometry(), "");
  EXPECT_EQ(store->transport(), ObjectTransport::Curl);
  EXPECT_EQ(store->backend_reason().find("libcurl "), 0U) << store->backend_reason();
  EXPECT_NE(store->backend_reason().find("/nowhere/libnixl_capi.so"), std::string::npos)
      << store->backend_reason();
  EXPECT_EQ(server_.requests().size(), 2U) << "the manifest: nothing is measured";
}

TEST_F(ObjectTransportTest, NixlIsRefusedWhereItIsNotAndNothingIsSent) {
  auto with = options();
  with.transport = ObjectTransport::Nixl;
  with.nixl_library = "/nowhere/libnixl_capi.so";
  auto const failure = failure_of_call([&] { ObjectBlockStore::open(with, geometry(), ""); });
  EXPECT_EQ(failure.code, ErrorCode::Unsupported);
  EXPECT_NE(failure.message.find("/nowhere/libnixl_capi.so"), std::string::npos) << failure.message;
  EXPECT_TRUE(server_.requests().empty());
}

TEST_F(ObjectTransportTest, APluginThatDoesNotLoadIsToldInTheLinkersWords) {
#if defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << nixl_objects_refusal();
#endif
  std::string problem;
  try {
    problem = nixl::NixlLibrary::load()->plugin_problem("OBJ");
  } catch (UnsupportedError const& error) { GTEST_SKIP() << error.what(); }
  if (problem.empty()) { GTEST_SKIP() << "NIXL's plugin OBJ loads here"; }
  auto with = options();
  with.transport = ObjectTransport::Auto;
  auto const store = ObjectBlockStore::open(with, geometry(), "");
  EXPECT_EQ(store->transport(), ObjectTransport::Curl);
  EXPECT_NE(store->backend_reason().find(problem), std::string::npos) << store->backend_reason();
  with.transport = ObjectTransport::Nixl;
  auto const failure = failure_of_call([&] { ObjectBlockStore::open(with, geometry(), ""); });
  EXPECT_EQ(failure.code, ErrorCode::Unsupported);
  EXPECT_NE(failure.message.find(problem), std::string::npos) << failure.message;
}

TEST(ObjectTransportNames, AreWords) {
  EXPECT_EQ(to_string(ObjectTransport::Curl), "Curl");
  EXPECT_EQ(to_string(ObjectTransport::Nixl), "Nixl");
  EXPECT_EQ(to_string(ObjectTransport::Auto), "Auto");
}

}  // namespace
}  // namespace kvbm::object::test
