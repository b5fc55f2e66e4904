// SPDX-License-Identifier: Apache-2.0
//
// NIXL's plugin OBJ is linked with a library for object stores over RDMA that its wheel does not
// bring. Without such a store nothing of it is called: this one is enough for the plugin to load.

// NOLINTBEGIN(readability-identifier-naming): the names are the library's.
struct CUObjIOOps;
enum cuObjProto_enum : int {};

class __attribute__((visibility("default"))) cuObjClient {
 public:
  cuObjClient(CUObjIOOps& operations, cuObjProto_enum protocol);
  ~cuObjClient();
  bool isConnected();
  int cuMemObjGetDescriptor(void* memory, unsigned long bytes);
  int cuMemObjPutDescriptor(void* memory);
  static void* getCtx(void const* handle);
  long cuObjGet(void* context, void* memory, unsigned long bytes, long offset, long memory_offset);
  long cuObjPut(void* context, void* memory, unsigned long bytes, long offset, long memory_offset);
};

cuObjClient::cuObjClient(CUObjIOOps&, cuObjProto_enum) {}
cuObjClient::~cuObjClient() = default;
bool cuObjClient::isConnected() { return false; }
int cuObjClient::cuMemObjGetDescriptor(void*, unsigned long) { return 1; }
int cuObjClient::cuMemObjPutDescriptor(void*) { return 1; }
void* cuObjClient::getCtx(void const*) { return nullptr; }
long cuObjClient::cuObjGet(void*, void*, unsigned long, long, long) { return -1; }
long cuObjClient::cuObjPut(void*, void*, unsigned long, long, long) { return -1; }
// NOLINTEND(readability-identifier-naming)
