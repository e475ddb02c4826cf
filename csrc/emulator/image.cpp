#include "image.h"

#include <cxxabi.h>
#include <elf.h>
#include <link.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <unordered_map>
#include <utility>

namespace fastconv::emulator {
namespace {

// The loader allocates a thread's copy of the segment when it is first touched. Touching this variable does that, and
// its address gives the segment's without asking the loader at each launch.
thread_local volatile char thread_segment_anchor = 0;

struct Found {
  uintptr_t base = 0, low = 0, high = 0;
  char* segment = nullptr;
  size_t segment_bytes = 0;
  std::string path;
};

int visit_image(dl_phdr_info* info, size_t, void* data) {
  const uintptr_t here = reinterpret_cast<uintptr_t>(&visit_image);
  uintptr_t low = UINTPTR_MAX, high = 0;
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const auto& header = info->dlpi_phdr[i];
    if (header.p_type != PT_LOAD) continue;
    low = std::min<uintptr_t>(low, info->dlpi_addr + header.p_vaddr);
    high = std::max<uintptr_t>(high, info->dlpi_addr + header.p_vaddr + header.p_memsz);
  }
  if (here < low || here >= high) return 0;
  Found& found = *static_cast<Found*>(data);
  found.base = info->dlpi_addr;
  found.low = low;
  found.high = high;
  found.path = info->dlpi_name && *info->dlpi_name ? info->dlpi_name : "/proc/self/exe";
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    if (info->dlpi_phdr[i].p_type != PT_TLS) continue;
    found.segment = static_cast<char*>(info->dlpi_tls_data);
    found.segment_bytes = info->dlpi_phdr[i].p_memsz;
  }
  return 1;
}

std::string demangled_tail(const char* symbol) {
  int status = 0;
  char* text = abi::__cxa_demangle(symbol, nullptr, nullptr, &status);
  std::string name = text ? text : symbol;
  free(text);
  const size_t colons = name.rfind("::");
  return colons == std::string::npos ? name : name.substr(colons + 2);
}

// A variable of function _Z<encoding> is called _ZZ<encoding>E<name>.
uint32_t declaring_function(const std::string& variable, const std::unordered_map<std::string, uint32_t>& functions) {
  if (variable.rfind("_ZZ", 0) != 0) return 0;
  for (size_t end = variable.rfind('E'); end != std::string::npos && end > 3; end = variable.rfind('E', end - 1)) {
    const auto found = functions.find("_Z" + variable.substr(3, end - 3));
    if (found != functions.end()) return found->second;
  }
  return 0;
}

std::string base_name(const std::string& path) { return path.substr(path.rfind('/') + 1); }

}  // namespace

void Image::load() {
  if (loaded_) return;
  loaded_ = true;
  thread_segment_anchor = 0;
  Found found;
  dl_iterate_phdr(visit_image, &found);
  base_ = found.base;
  low_ = found.low;
  high_ = found.high;
  path_ = found.path;
  segment_bytes_ = found.segment_bytes;
  anchor_offset_ = static_cast<size_t>(const_cast<char*>(&thread_segment_anchor) - found.segment);
  read_symbols();
  variable_of_byte_.assign(segment_bytes_, -1);
  for (size_t v = 0; v < variables_.size(); ++v) {
    for (size_t i = 0; i < variables_[v].bytes; ++i) variable_of_byte_[variables_[v].offset + i] = static_cast<int>(v);
  }
}

char* Image::thread_segment() const {
  thread_segment_anchor = 0;
  return const_cast<char*>(&thread_segment_anchor) - anchor_offset_;
}

bool Image::contains(const void* address) const {
  const uintptr_t a = reinterpret_cast<uintptr_t>(address);
  return a >= low_ && a < high_;
}

// Every thread_local variable with its size, from the symbol table of the file. A stripped file has none: then the
// whole segment counts as one variable, and overruns from one __shared__ array into the next go unseen.
void Image::read_symbols() {
  std::ifstream file(path_, std::ios::binary);
  const std::string bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  std::unordered_map<std::string, uint32_t> functions;
  std::vector<std::pair<const char*, const ElfW(Sym)*>> variables;
  if (bytes.size() >= sizeof(ElfW(Ehdr))) {
    const auto* header = reinterpret_cast<const ElfW(Ehdr)*>(bytes.data());
    const auto* sections = reinterpret_cast<const ElfW(Shdr)*>(bytes.data() + header->e_shoff);
    for (int s = 0; s < header->e_shnum; ++s) {
      if (sections[s].sh_type != SHT_SYMTAB) continue;
      const auto* symbols = reinterpret_cast<const ElfW(Sym)*>(bytes.data() + sections[s].sh_offset);
      const char* names = bytes.data() + sections[sections[s].sh_link].sh_offset;
      for (size_t i = 0; i < sections[s].sh_size / sizeof *symbols; ++i) {
        const auto& symbol = symbols[i];
        const char* name = names + symbol.st_name;
        if (symbol.st_shndx == SHN_UNDEF) continue;
        if (ELF64_ST_TYPE(symbol.st_info) == STT_FUNC) functions[name] = static_cast<uint32_t>(symbol.st_value);
        if (ELF64_ST_TYPE(symbol.st_info) != STT_TLS || symbol.st_size == 0) continue;
        if (symbol.st_value + symbol.st_size > segment_bytes_ || symbol.st_value == anchor_offset_) continue;
        // g++ guards the construction of a __shared__ array of class type; the guard is no shared memory.
        if (strncmp(name, "_ZGV", 4) != 0) variables.push_back({name, &symbol});
      }
    }
  }
  for (const auto& [name, symbol] : variables) {
    variables_.push_back(
        {symbol->st_value, symbol->st_size, demangled_tail(name), declaring_function(name, functions)});
  }
  if (variables_.empty() && segment_bytes_ > 1) {
    if (anchor_offset_ > 0) variables_.push_back({0, anchor_offset_, "static shared memory", 0});
    if (anchor_offset_ + 1 < segment_bytes_) {
      variables_.push_back({anchor_offset_ + 1, segment_bytes_ - anchor_offset_ - 1, "static shared memory", 0});
    }
  }
}

std::string Image::source_line(uint32_t code_offset) {
  std::string& text = lines_[code_offset];
  if (!text.empty()) return text;
  char command[4200];
  const std::string file = path_ == "/proc/self/exe" ? "/proc/" + std::to_string(getpid()) + "/exe" : path_;
  // The recorded address is the return address of the callback; the access is the instruction before it.
  snprintf(command, sizeof command, "addr2line -i -e '%s' 0x%x 2>/dev/null", file.c_str(), code_offset - 1);
  if (file.find('\'') == std::string::npos) {
    if (FILE* pipe = popen(command, "r")) {
      char line[4096];
      while (fgets(line, sizeof line, pipe)) {
        std::string entry = line;
        entry = entry.substr(0, entry.find_first_of("\n ("));  // drops "(discriminator 2)"
        const std::string name = base_name(entry);
        // Accesses inside the shim (atomics, shuffles' operands) are told by their callers.
        if (name.rfind("??", 0) == 0 || entry.find("csrc/emulator/") != std::string::npos) continue;
        text += text.empty() ? name : " (inlined at " + name + ")";
      }
      pclose(pipe);
    }
  }
  if (text.empty()) {
    snprintf(command, sizeof command, "%s+0x%x", base_name(path_).c_str(), code_offset - 1);
    text = command;
  }
  return text;
}

}  // namespace fastconv::emulator
