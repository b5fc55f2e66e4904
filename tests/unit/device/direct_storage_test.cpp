// SPDX-License-Identifier: Apache-2.0
#include "kvbm/device/direct_storage.hpp"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "device/storage/cufile_library.hpp"
#include "kvbm/core/error.hpp"
#include "kvbm/device/device.hpp"
#include "kvbm/testing/failure.hpp"
#include "kvbm/testing/temp_folder.hpp"
#include "support/test_program.hpp"

namespace kvbm::device {
namespace {

std::string const kFakeCuFile = kvbm::testing::test_program(KVBM_FAKE_CUFILE_LIBRARY);

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr char const* kNowhere = "libkvbm_test_absent.so";

void touch(fs::path const& path) {
  fs::create_directories(path.parent_path());
  std::ofstream(path) << "x";
}

/// How the fake behaves while this lives.
class Told {
 public:
  explicit Told(char const* words) { setenv("KVBM_FAKE_CUFILE", words, 1); }
  ~Told() { unsetenv("KVBM_FAKE_CUFILE"); }
  Told(Told const&) = delete;
  Told& operator=(Told const&) = delete;
};

class DirectStorageTest : public ::testing::Test {
 protected:
  DirectStorageTest() { touch(options_.modules); }

  [[nodiscard]] std::shared_ptr<DirectStorage> open() const {
    return DirectStorage::open(options_);
  }
  [[nodiscard]] std::string refusal() const {
    auto const storage = open();
    EXPECT_EQ(storage->info().mode, DirectStorageMode::Refused);
    auto const failure =
        testing::failure_of_call([&] { return storage->register_file(0, "a file"); });
    EXPECT_EQ(failure.code, ErrorCode::Unsupported);
    EXPECT_TRUE(failure.names(storage->info().reason)) << failure.message;
    return storage->info().reason;
  }

  testing::TempFolder folder_;
  DirectStorageOptions options_{
      kFakeCuFile, {}, folder_ / "modules", std::chrono::milliseconds(60'000)};
};

TEST_F(DirectStorageTest, P3_SaysInWhichModeItWorks) {
  EXPECT_EQ(open()->info().mode, DirectStorageMode::Compatible);
  EXPECT_THAT(open()->info().reason, HasSubstr("compatibility mode"));
  EXPECT_EQ(open()->info().version, 1130);
  EXPECT_EQ(open()->info().library, fs::path(kFakeCuFile));
  for (auto const& [word, reason] :
       {std::pair("direct", "nvidia_fs 2.25"), std::pair("peer", "peer-to-peer"),
        std::pair("open,direct", "cuFile 1.13")}) {
    Told const told(word);
    EXPECT_EQ(open()->info().mode, DirectStorageMode::Direct) << word;
    EXPECT_THAT(open()->info().reason, HasSubstr(reason));
  }
}

TEST_F(DirectStorageTest, P3_IsNotEvenLoadedWhereCuFileWouldSpin) {
  Told const told("hang");
  options_.modules = folder_ / "absent";
  options_.library = folder_ / "not_a_library";
  touch(options_.library);
  EXPECT_THAT(refusal(), AllOf(HasSubstr((folder_ / "absent").string()), HasSubstr("spin")));
}

TEST_F(DirectStorageTest, P3_AStartThatHangsIsLeftAlone) {
  Told const told("hang");
  options_.open_timeout = std::chrono::milliseconds(20);
  EXPECT_THAT(refusal(), HasSubstr("20 ms"));
}

TEST_F(DirectStorageTest, P3_NamesWhyItDoesNotStart) {
  Told const told("refuse");
  EXPECT_THAT(refusal(), AllOf(HasSubstr("5001"), HasSubstr("nvidia_fs")));
}

TEST_F(DirectStorageTest, NamesALibraryThatIsNone) {
  options_.library = folder_ / "absent.so";
  EXPECT_THAT(refusal(), HasSubstr("absent.so"));
  touch(options_.library);
  EXPECT_THAT(refusal(), HasSubstr("does not load"));
}

TEST_F(DirectStorageTest, IsRefusedWithoutACudaDevice) {
  if (cuda_unavailable_reason().empty()) { GTEST_SKIP() << "there is a CUDA device"; }
  EXPECT_EQ(direct_storage()->info().mode, DirectStorageMode::Refused);
  EXPECT_THAT(direct_storage()->info().reason, HasSubstr(cuda_unavailable_reason()));
}

TEST(CuFileLibrary, FindsTheWheelsOfAnEnvironment) {
  for (char const* const wheel : {"cu13", "cufile"}) {
    testing::TempFolder const folder;
    fs::path const library =
        folder / "lib/python3.12/site-packages/nvidia" / wheel / "lib/libcufile.so.0";
    touch(library);
    EXPECT_EQ(cufile::find_library({{}, {folder.path()}}, {{}, {}, {}, {}, kNowhere}), library);
    EXPECT_EQ(cufile::find_library({}, {{}, folder.path().string(), {}, {}, kNowhere}), library);
    EXPECT_EQ(cufile::find_library({}, {{}, {}, {folder / "bin/kvbm"}, {}, kNowhere}), library);
  }
}

TEST(CuFileLibrary, TakesWhatIsNamedThenToolkitsThenTheLinker) {
  testing::TempFolder const folder;
  touch(folder / "named.so");
  touch(folder / "cuda/lib64/libcufile.so.0");
  cufile::Places places{(folder / "named.so").string(), {}, {}, {folder / "cuda"}, kFakeCuFile};
  EXPECT_EQ(cufile::find_library({}, places), folder / "named.so");
  places.named.clear();
  EXPECT_EQ(cufile::find_library({}, places), folder / "cuda/lib64/libcufile.so.0");
  places.toolkits.clear();
  EXPECT_EQ(cufile::find_library({}, places), fs::path(kFakeCuFile));
  places.named = "/no/such/cufile.so";
  auto const failure = testing::failure_of_call([&] { return cufile::find_library({}, places); });
  EXPECT_TRUE(failure.names("KVBM_CUFILE_LIBRARY") && failure.names("/no/such/cufile.so"));
}

TEST(CuFileLibrary, ListsWhereItLooked) {
  auto const failure = testing::failure_of_call(
      [] { return cufile::find_library({}, {{}, {}, {}, {"/no/cuda"}, kNowhere}); });
  EXPECT_EQ(failure.code, ErrorCode::Unsupported);
  EXPECT_THAT(failure.message,
              AllOf(HasSubstr("pip install nvidia-cufile"), HasSubstr("KVBM_CUFILE_LIBRARY"),
                    HasSubstr("VIRTUAL_ENV"), HasSubstr("/no/cuda"), HasSubstr(kNowhere)));
}

TEST(CuFileLibrary, NamesTheFunctionsThatALibraryLacks) {
  auto const failure = testing::failure_of_call([] { return cufile::load("libm.so.6"); });
  EXPECT_EQ(failure.code, ErrorCode::Unsupported);
  EXPECT_TRUE(failure.names("cuFileDriverOpen") && failure.names("cuFileWrite")) << failure.message;
}

class StorageFileTest : public DirectStorageTest {
 protected:
  StorageFileTest()
      : storage_(open()), fd_(::open((folder_ / "data").c_str(), O_RDWR | O_CREAT, 0600)) {
    std::iota(bytes_.begin(), bytes_.end(), std::uint8_t{3});
  }
  void TearDown() override { ::close(fd_); }

  [[nodiscard]] std::shared_ptr<StorageFile> file() const {
    return storage_->register_file(fd_, "the data");
  }
  template <typename Call>
  [[nodiscard]] testing::Failure failure_told(char const* words, Call const& call) const {
    auto const registered = file();
    Told const told(words);
    return testing::failure_of_call([&] {
      call(*registered);
      return 0;
    });
  }

  std::shared_ptr<DirectStorage> storage_;
  int fd_;
  std::vector<std::uint8_t> bytes_ = std::vector<std::uint8_t>(10'000);
};

TEST_F(StorageFileTest, P3_ReadsBackWhatItWrote) {
  for (char const* const words : {"", "short"}) {
    Told const told(words);
    auto const registered = file();
    registered->write(4096, bytes_.data(), bytes_.size());
    std::vector<std::uint8_t> back(bytes_.size());
    registered->read(4096, back.data(), back.size());
    EXPECT_EQ(back, bytes_) << words;
  }
}

TEST_F(StorageFileTest, ReachesRegisteredMemoryByItsFirstByte) {
  std::vector<std::uint8_t> back(bytes_.size());
  auto const buffer = storage_->register_buffer(back.data(), back.size());
  auto const registered = file();
  registered->write(0, bytes_.data(), bytes_.size());
  registered->read(5000, back.data() + 5000, 5000);
  EXPECT_TRUE(std::equal(back.begin() + 5000, back.end(), bytes_.begin() + 5000));
  EXPECT_EQ(back[4999], 0);
}

TEST_F(StorageFileTest, SharesADescriptorAmongItsUsers) {
  auto first = file();
  auto const second = file();
  first.reset();
  second->write(0, bytes_.data(), bytes_.size());
}

TEST_F(StorageFileTest, RegistersADescriptorAnewWhenNobodyUsesItAnyMore) {
  for (int i = 0; i < 3; ++i) {
    file()->write(0, bytes_.data(), bytes_.size());
  }
}

TEST_F(StorageFileTest, P3_NamesWhatCannotBeRegistered) {
  {
    Told const told("closed");
    auto const failure = testing::failure_of_call([&] { return file(); });
    EXPECT_EQ(failure.code, ErrorCode::Unsupported);
    EXPECT_TRUE(failure.names("the data") && failure.names("5027")) << failure.message;
  }
  EXPECT_EQ(testing::failure_of_call([&] { return storage_->register_file(-1, "none"); }).code,
            ErrorCode::Device);
  Told const told("memory");
  EXPECT_EQ(
      testing::failure_of_call([&] { return storage_->register_buffer(bytes_.data(), 10); }).code,
      ErrorCode::Unsupported);
}

TEST_F(StorageFileTest, P3_NamesWhatFailed) {
  auto const write = [this](StorageFile const& target) {
    target.write(0, bytes_.data(), bytes_.size());
  };
  auto const read = [this](StorageFile const& target) {
    target.read(0, bytes_.data(), bytes_.size());
  };
  for (auto const& failure : {failure_told("eio", write), failure_told("eio", read)}) {
    EXPECT_EQ(failure.code, ErrorCode::Io);
    EXPECT_EQ(failure.native_code, EIO);
    EXPECT_TRUE(failure.names("the data") && failure.names("10000 bytes")) << failure.message;
  }
  for (auto const& failure : {failure_told("broken", write), failure_told("broken", read)}) {
    EXPECT_EQ(failure.code, ErrorCode::Io);
    EXPECT_EQ(failure.native_code, 5011);
    EXPECT_TRUE(failure.names("CUDA")) << failure.message;
  }
  auto const ended = failure_told("eof", read);
  EXPECT_EQ(ended.native_code, ENODATA);
  EXPECT_TRUE(ended.names("ends after 0")) << ended.message;
}

}  // namespace
}  // namespace kvbm::device
