// What a module and everything in it looked like at one moment.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_set>
#include <vector>

#include "bindings/interpreter/gil.h"

namespace torchpool {

// In order of weight: of several changes, the heaviest one counts.
enum class ChangeKind : std::uint8_t {
  kNone,
  kAttribute,  // a plain attribute of a module, of an object or dict that it keeps (model.config), or of its class
  kWeights,    // a parameter or buffer is another tensor now; what tensors hold is the WeightWatch's business
  kTraining,   // train() or eval()
  kStructure,  // submodules, parameters or hooks came, went or were replaced; a module's class or forward changed
};
const char* to_string(ChangeKind kind) noexcept;

struct Difference {
  ChangeKind kind;
  std::string subject;  // "attribute 'temp' of module 'encoder'"
  std::string what;     // "changed from 1.0 to 2.0"
  std::string name;     // what code would write: "temp"; of hooks the dict that keeps them
  bool items = false;   // a dict among the attributes has other entries
};

// Note [What a module watch sees]
// CPython up to 3.11 gives a dict a new stamp at every change. The state remembers where the stamps lie of all dicts
// that matter, and compares values only where a stamp moved. Watched are
//  - of each module: its attributes, class, submodules, parameters, buffers, forward hooks and forward pre-hooks
//  - one level deep, the attributes of objects and the entries of small dicts among its attributes: model.config.temp
//  - what the modules' classes define, up to nn.Module, which tracing patches for a while
//  - torch's hooks for all modules
// Numbers, strings, None, devices, and tuples, lists and dicts of these are compared by value, all else by identity.
// Not seen: what changes inside a list, in a large dict or deeper than one level; globals and closures; slots of
// objects without a dict; modules that no module has registered.
//
// Every method requires the interpreter's lock, as does destroying it. None runs code of the module's own.
class ModuleState {
 public:
  // Modules inside those given are found by the state itself. Script modules keep theirs elsewhere: ignored.
  // `ignored` holds subjects of differences.
  ModuleState(const py::list& modules, const std::unordered_set<std::string>& ignored);

  // False when nothing can have changed.
  bool moved() const noexcept {
    std::uint64_t any = always_moved_ ? 1 : 0;
    for (const Slot& slot : slots_) any |= *slot.at ^ slot.seen;
    return any != 0;
  }
  // Empty when what moved is as it was; that is then not looked at again.
  // `first_only`: one will do.
  std::vector<Difference> differences(const std::unordered_set<std::string>& ignored, bool first_only = false);
  // Whether submodules or hooks have been changed since they were looked at, even if they are now what they were.
  bool structure_moved() const noexcept;
  std::size_t stamps() const noexcept { return slots_.size(); }
  // What it keeps, for the cycle collector.
  int traverse(visitproc visit, void* arg) const;

 private:
  enum class PartKind : std::uint8_t {
    kAttributes,
    kModules,
    kParameters,
    kBuffers,
    kHooks,
    kPreHooks,
    kObject,
    kDict,
    kClass,
    kAllHooks,
    kAllPreHooks
  };
  struct Entry {
    py::object key;
    py::object value;  // kept, so that no other object takes its address; null: ignored
  };
  // One dict that is watched.
  struct Part {
    PartKind kind;
    std::string path;  // of the module
    std::string name;  // kObject, kDict: of the attribute that keeps it; kClass: of the class
    py::object dict;
    std::vector<Entry> entries;
  };
  // A module, or an object that one keeps: what is watched of it beside the entries of its dict.
  struct Owner {
    py::object object;
    py::object dict;
    py::object type;
    std::string subject;
    ChangeKind kind;
  };
  // A word in memory that tells of changes, and its value when last seen.
  struct Slot {
    const std::uint64_t* at;
    std::uint64_t seen;
  };
  enum class SlotKind : std::uint8_t { kStamp, kDict, kType, kTensor };
  struct SlotMeaning {
    SlotKind kind;
    std::size_t index;  // kStamp, kTensor: of a part; kDict, kType: of an owner
    std::size_t entry = 0;
  };
  using Ignored = std::unordered_set<std::string>;
  class Recorder;

  void compare(const Part& part, const Ignored& ignored, std::vector<Difference>& found) const;
  void compare(const Owner& owner, SlotKind slot, std::vector<Difference>& found) const;
  void compare(const Part& part, const Entry& entry, PyObject* now, std::vector<Difference>& found) const;
  ChangeKind kind_of(const Part& part, PyObject* key) const;
  bool is_watched(const Part& part, PyObject* key) const;
  bool same_entries(const Part& part) const;
  static bool reordered(const Part& part);
  static bool has_key(const Part& part, PyObject* key);
  static std::string subject_of(const Part& part, PyObject* key);
  static std::string name_of(const Part& part, PyObject* key);

  std::vector<Slot> slots_;  // flat, apart from their meanings: all that an uneventful look reads
  std::vector<SlotMeaning> meanings_;
  std::vector<Part> parts_;
  std::vector<Owner> owners_;
  py::object module_keys_;   // what every nn.Module has in its dict
  py::object watched_keys_;  // of these
  bool always_moved_ = false;
};

}  // namespace torchpool
