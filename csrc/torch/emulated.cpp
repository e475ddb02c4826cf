#include "emulated.h"

#include <dlfcn.h>

#include "errors.h"

namespace fastconv::ops {

namespace {

// It lies beside this extension.
std::string library_path() {
  Dl_info info;
  if (!dladdr(reinterpret_cast<void*>(&library_path), &info)) return "_emulated.so";
  const std::string self = info.dli_fname;
  const size_t slash = self.find_last_of('/');
  return (slash == std::string::npos ? std::string() : self.substr(0, slash + 1)) + "_emulated.so";
}

const cuda::Backend* open_backend() {
  const std::string path = library_path();
  // Never closed: its kernels keep thread-local state.
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) throw NotServed(concat("cuda_emulated: cannot open the emulated kernels: ", dlerror()));
  using Entry = const cuda::Backend* (*)();
  const auto entry = reinterpret_cast<Entry>(dlsym(library, "fastconv_cuda_backend"));
  if (!entry || entry()->abi != cuda::kBackendAbi) {
    throw NotServed(concat("cuda_emulated: ", path, " is from another build; build fastconv again"));
  }
  return entry();
}

}  // namespace

const cuda::Backend& emulated_backend() {
  static const cuda::Backend* backend = open_backend();
  return *backend;
}

}  // namespace fastconv::ops
