// SPDX-License-Identifier: Apache-2.0
#include "gil.hpp"

#include <condition_variable>
#include <mutex>
#include <utility>
#include <vector>

namespace kvbm::python {

namespace {

// Counts the foreign threads inside the interpreter, and keeps what those outside could not drop.
// One per process, like the interpreter itself.
class Door {
 public:
  static Door& instance() {
    static Door door;
    return door;
  }

  bool enter() noexcept {
    std::lock_guard const lock(mutex_);
    if (closed_) { return false; }
    ++inside_;
    return true;
  }

  void leave() noexcept {
    std::lock_guard const lock(mutex_);
    --inside_;
    changed_.notify_all();
  }

  void close() {
    std::unique_lock lock(mutex_);
    closed_ = true;
    changed_.wait(lock, [this] { return inside_ == 0; });
  }

  void defer(PyObject* object) {
    std::lock_guard const lock(mutex_);
    deferred_.push_back(object);
  }

  std::vector<PyObject*> take_deferred() noexcept {
    std::lock_guard const lock(mutex_);
    return std::exchange(deferred_, {});
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<PyObject*> deferred_;
  int inside_ = 0;
  bool closed_ = false;
};

// How many GilRelease scopes of this thread are open: such a thread belongs to the interpreter and
// gets the lock back even while the interpreter ends.
thread_local int released_scopes = 0;

}  // namespace

GilRelease::GilRelease() noexcept {
  if (PyGILState_Check() != 0) {
    state_ = PyEval_SaveThread();
    ++released_scopes;
  }
}

GilRelease::~GilRelease() {
  if (state_ != nullptr) {
    --released_scopes;
    PyEval_RestoreThread(state_);
    for (PyObject* const object : Door::instance().take_deferred()) {
      Py_DECREF(object);
    }
  }
}

GilEntry::GilEntry() noexcept {
  if (PyGILState_Check() != 0) {
    entered_ = true;
    return;
  }
  if (released_scopes == 0) {
    if (!Door::instance().enter()) { return; }
    counted_ = true;
  }
  state_ = PyGILState_Ensure();
  acquired_ = true;
  entered_ = true;
}

GilEntry::~GilEntry() {
  if (acquired_) { PyGILState_Release(state_); }
  if (counted_) { Door::instance().leave(); }
}

void close_at_exit() {
  nb::module_::import_("atexit").attr("register")(nb::cpp_function([] {
    GilRelease const unlocked;
    Door::instance().close();
  }));
}

SharedObject share(nb::object object) {
  return {object.release().ptr(), [](PyObject* pointer) {
            GilEntry const python;
            if (python) {
              Py_DECREF(pointer);
            } else {
              Door::instance().defer(pointer);
            }
          }};
}

}  // namespace kvbm::python
