// SPDX-License-Identifier: Apache-2.0
#include "nixl/nixl_library.hpp"

#include <filesystem>
#include <fstream>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kvbm/core/error.hpp"
#include "kvbm/testing/failure.hpp"
#include "kvbm/testing/temp_folder.hpp"
#include "support/test_program.hpp"
#include "unit/nixl/nixl_fixture.hpp"

namespace kvbm::nixl {
namespace {

std::string const kFakeNixl = kvbm::testing::test_program(KVBM_FAKE_NIXL);

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr char const* kNowhere = "libkvbm_test_absent.so";

void touch(fs::path const& path) {
  fs::create_directories(path.parent_path());
  std::ofstream(path) << "x";
}

// The shape of an installed wheel; returns its library.
fs::path install(fs::path const& prefix, std::string const& package, std::string const& version) {
  fs::path const packages = prefix / "lib/python3.11/site-packages";
  fs::path const library = packages / ("." + package + ".mesonpy.libs") / "libnixl_capi.so";
  touch(library);
  touch(library.parent_path() / "plugins/libplugin_UCX.so");
  touch(library.parent_path() / "plugins/libplugin_POSIX.so");
  touch(library.parent_path() / "plugins/libtelemetry_exporter_doca.so");
  touch(packages / (package + "-" + version + ".dist-info") / "METADATA");
  return library;
}

std::string refusal_of(NixlSearch const& search, NixlPlaces const& places) {
  try {
    find_nixl(search, places);
  } catch (UnsupportedError const& error) { return error.what(); }
  ADD_FAILURE() << "found";
  return {};
}

TEST(NixlLibrary, FindsTheWheelOfAnEnvironmentWithVersionAndPlugins) {
  testing::TempFolder const folder;
  fs::path const library = install(folder.path(), "nixl_cu13", "1.5.1");
  for (NixlPlaces const& places :
       {NixlPlaces{{}, folder.path().string(), {}, kNowhere},
        NixlPlaces{{}, {}, {folder.path() / "bin/kvbm"}, kNowhere},
        NixlPlaces{{}, {}, {library.parent_path().parent_path() / "kvbm_cpp/ext.so"}, kNowhere}}) {
    NixlLibraryInfo const info = find_nixl({}, places);
    EXPECT_EQ(info.path, library);
    EXPECT_EQ(info.version, "1.5.1");
    EXPECT_THAT(info.plugins, ElementsAre("POSIX", "UCX"));
  }
  EXPECT_EQ(find_nixl({{}, {folder.path()}}, {{}, {}, {}, kNowhere}).path, library);
}

TEST(NixlLibrary, FindsTheEnvironmentOfABuildTree) {
  testing::TempFolder const folder;
  fs::path const library = install(folder.path() / "build/venv", "nixl_cu12", "1.4.0");
  NixlLibraryInfo const info =
      find_nixl({}, {{}, {}, {folder.path() / "build/release/tests/unit/test"}, kNowhere});
  EXPECT_EQ(info.path, library);
  EXPECT_EQ(info.version, "1.4.0");
}

TEST(NixlLibrary, PrefersTheNewerCudaOfTwoWheels) {
  testing::TempFolder const folder;
  install(folder.path(), "nixl_cu12", "1.5.1");
  fs::path const newer = install(folder.path(), "nixl_cu13", "1.5.1");
  EXPECT_EQ(find_nixl({{}, {folder.path()}}, {{}, {}, {}, kNowhere}).path, newer);
}

TEST(NixlLibrary, TakesWhatIsNamedBeforeItLooks) {
  testing::TempFolder const folder;
  install(folder.path(), "nixl_cu13", "1.5.1");
  fs::path const named = folder / "named.so";
  fs::path const given = folder / "given.so";
  touch(named);
  touch(given);
  NixlPlaces const places{named.string(), folder.path().string(), {}, kNowhere};
  EXPECT_EQ(find_nixl({}, places).path, named);
  EXPECT_EQ(find_nixl({given, {}}, places).path, given);
  EXPECT_EQ(find_nixl({given, {}}, places).version, "");
}

TEST(NixlLibrary, SaysWhenWhatIsNamedIsNoFile) {
  testing::TempFolder const folder;
  install(folder.path(), "nixl_cu13", "1.5.1");
  NixlPlaces const places{"/no/such/nixl.so", folder.path().string(), {}, kNowhere};
  EXPECT_THAT(refusal_of({}, places),
              AllOf(HasSubstr("KVBM_NIXL_LIBRARY"), HasSubstr("/no/such/nixl.so")));
  EXPECT_THAT(refusal_of({folder.path(), {}}, places), HasSubstr(folder.path().string()));
}

TEST(NixlLibrary, ListsWhereItLookedAndHowToGetOne) {
  testing::TempFolder const folder;
  fs::create_directories(folder / "lib/python3.12/site-packages");
  EXPECT_THAT(refusal_of({{}, {folder.path()}}, {{}, {}, {}, kNowhere}),
              AllOf(HasSubstr("pip install --no-deps nixl-cu13"), HasSubstr("KVBM_NIXL_LIBRARY"),
                    HasSubstr("VIRTUAL_ENV"), HasSubstr((folder / "lib/python3.12").string()),
                    HasSubstr(kNowhere)));
}

TEST(NixlLibrary, FallsBackToTheDynamicLinker) {
  NixlLibraryInfo const info = find_nixl({}, {{}, {}, {}, kFakeNixl});
  EXPECT_EQ(info.path, fs::path(kFakeNixl));
}

TEST(NixlLibrary, NamesTheFunctionsThatALibraryLacks) {
  try {
    NixlLibrary::load({kFakeNixl, {}});
    FAIL() << "loaded";
  } catch (UnsupportedError const& error) {
    EXPECT_THAT(error.what(), AllOf(HasSubstr(kFakeNixl), HasSubstr("nixl_capi_create_xfer_req"),
                                    Not(HasSubstr("nixl_capi_destroy_agent"))));
  }
}

TEST(NixlLibrary, SaysWhyAFileDoesNotLoad) {
  testing::TempFolder const folder;
  touch(folder / "text.so");
  try {
    NixlLibrary::load({folder / "text.so", {}});
    FAIL() << "loaded";
  } catch (UnsupportedError const& error) {
    EXPECT_THAT(error.what(), AllOf(HasSubstr("does not load"), HasSubstr("text.so")));
  }
}

TEST(NixlLibrary, LoadsTheRealOne) {
  KVBM_SKIP_WITHOUT_NIXL();
  auto const library = NixlLibrary::load();
  EXPECT_THAT(library->info().plugins, ::testing::Contains("UCX"));
  EXPECT_NE(library->functions().post_xfer_req, nullptr);
  EXPECT_EQ(library->plugin_problem("UCX"), "");
  EXPECT_NE(std::getenv("NIXL_LOG_LEVEL"), nullptr);
}

}  // namespace
}  // namespace kvbm::nixl
