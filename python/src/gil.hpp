// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nanobind/nanobind.h>

#include <concepts>
#include <memory>
#include <utility>

/// Who holds the interpreter lock, and what other threads may do with Python objects.
namespace kvbm::python {

namespace nb = nanobind;

/// Releases the interpreter lock for a scope, where the thread holds it at all.
class GilRelease {
 public:
  GilRelease() noexcept;
  ~GilRelease();
  GilRelease(GilRelease const&) = delete;
  GilRelease& operator=(GilRelease const&) = delete;

 private:
  PyThreadState* state_ = nullptr;
};

/// Lets a thread of the library into the interpreter for a scope.
///
/// A thread that asks for the lock of an interpreter that is going away never comes back, so an
/// exit handler closes the door first and waits for those inside; whoever comes later is told no.
/// Threads that hold the lock, or released it in a GilRelease further up, may always enter.
class GilEntry {
 public:
  GilEntry() noexcept;
  ~GilEntry();
  GilEntry(GilEntry const&) = delete;
  GilEntry& operator=(GilEntry const&) = delete;
  /// Whether the lock is held now.
  [[nodiscard]] explicit operator bool() const noexcept { return entered_; }

 private:
  bool entered_ = false;
  bool counted_ = false;
  bool acquired_ = false;
  PyGILState_STATE state_{};
};

/// Registers the exit handler that closes the door.
void close_at_exit();

/// A reference to a Python object that any thread may drop. Where the thread may not enter any
/// more, the next GilRelease that ends drops it.
using SharedObject = std::shared_ptr<PyObject>;
SharedObject share(nb::object object);
/// The same, for what may be dropped inside a device's callback, which must not wait for the
/// interpreter lock: a thread without the lock leaves it to the next GilRelease that ends.
SharedObject share_lazily(nb::object object);

/// A Python function that a thread of the library will call; let go when the interpreter ends.
/// Made with the interpreter lock held, destroyed by any thread.
class Callback {
 public:
  explicit Callback(nb::object function);
  ~Callback();
  Callback(Callback const&) = delete;
  Callback& operator=(Callback const&) = delete;

  /// Calls it unless the interpreter ends; an exception goes to sys.unraisablehook.
  /// @param arguments  makes the arguments, with the lock held
  template <typename Arguments>
  void call(Arguments const& arguments) const noexcept {
    GilEntry const python;
    if (!python || function_ == nullptr) { return; }
    nb::object const function = nb::borrow(function_);
    try {
      function(*arguments());
    } catch (nb::python_error& error) { error.discard_as_unraisable(function); }
  }

 private:
  PyObject* function_;
};

/// Holds something whose destruction may wait for a thread that needs the interpreter lock.
template <typename T>
class Unlocked {
 public:
  Unlocked(T value) : value_(std::move(value)) {}  // NOLINT(google-explicit-constructor)
  ~Unlocked() {
    GilRelease const unlocked;
    T const last = std::move(value_);
  }
  Unlocked(Unlocked const&) = default;
  Unlocked(Unlocked&&) = default;
  Unlocked& operator=(Unlocked const&) = default;
  Unlocked& operator=(Unlocked&&) = default;

  [[nodiscard]] T const& operator*() const noexcept { return value_; }
  [[nodiscard]] T const* operator->() const noexcept { return &value_; }
  [[nodiscard]] T& operator*() noexcept { return value_; }

 private:
  T value_;
};

}  // namespace kvbm::python
