// SPDX-License-Identifier: Apache-2.0
#include "gil.hpp"

#include <condition_variable>
#include <memory>
#include <mutex>
#include <unordered_set>
#include <utility>
#include <vector>

namespace kvbm::python {

namespace {

// Counts the foreign threads inside the interpreter, knows the callbacks that wait for their call,
// and keeps what threads outside could not drop. One per process, like the interpreter itself.
class Door {
 public:
  static Door& instance() {
    // Never destroyed: threads of a manager that nobody closed may come by until the very end.
    static Door& door = *std::make_unique<Door>().release();
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

  void add(PyObject** callback) {
    std::lock_guard const lock(mutex_);
    callbacks_.insert(callback);
  }

  PyObject* remove(PyObject** callback) {
    std::lock_guard const lock(mutex_);
    callbacks_.erase(callback);
    return std::exchange(*callback, nullptr);
  }

  // With the interpreter lock held.
  void drop_deferred() {
    std::vector<PyObject*> objects;
    {
      std::lock_guard const lock(mutex_);
      objects.swap(deferred_);
    }
    drop(objects);
  }

  // With the interpreter lock held, after close(): nobody will call them any more, and what they
  // refer to (a module's globals for one) should not wait for a transfer that never ends.
  void drop_callbacks() {
    std::vector<PyObject*> objects;
    {
      std::lock_guard const lock(mutex_);
      for (PyObject** const callback : callbacks_) {
        objects.push_back(std::exchange(*callback, nullptr));
      }
      callbacks_.clear();
    }
    drop(objects);
  }

 private:
  static void drop(std::vector<PyObject*> const& objects) {
    for (PyObject* const object : objects) {
      Py_XDECREF(object);
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::unordered_set<PyObject**> callbacks_;
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
    Door::instance().drop_deferred();
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

namespace {

void drop_from_any_thread(PyObject* object) {
  GilEntry const python;
  if (python) {
    Py_XDECREF(object);
  } else if (object != nullptr) {
    Door::instance().defer(object);
  }
}

}  // namespace

void close_at_exit() {
  nb::module_::import_("atexit").attr("register")(nb::cpp_function([] {
    {
      GilRelease const unlocked;
      Door::instance().close();
    }
    Door::instance().drop_callbacks();
    Door::instance().drop_deferred();
  }));
}

SharedObject share(nb::object object) { return {object.release().ptr(), drop_from_any_thread}; }

SharedObject share_lazily(nb::object object) {
  return {object.release().ptr(), [](PyObject* last) {
            if (PyGILState_Check() != 0) {
              Py_XDECREF(last);
            } else if (last != nullptr) {
              Door::instance().defer(last);
            }
          }};
}

Callback::Callback(nb::object function) : function_(function.release().ptr()) {
  Door::instance().add(&function_);
}

Callback::~Callback() { drop_from_any_thread(Door::instance().remove(&function_)); }

}  // namespace kvbm::python
