// The table of cases, and the functions that Python calls.
#include <cstring>

#include "../guarded.h"
#include "rules.h"

std::map<std::string, Case>& cases() {
  static auto* table = new std::map<std::string, Case>;
  return *table;
}

// Runs a case with 64 threads; writes the exception's text, or nothing, to `text`. Returns 0 for an unknown name.
FASTCONV_EXPORT int rules_run(const char* name, int broken, char* text, size_t text_bytes) {
  const auto found = cases().find(name);
  if (found == cases().end()) return 0;
  text[0] = 0;
  Buffers buffers;
  memset(buffers.in.as<char>(), 0, 64 * sizeof(float));
  LaunchConfig config;
  config.grid = dim3(1);
  config.block = dim3(64);
  config.footprint.reads("in", buffers.in.as<float>(), 64 * sizeof(float));
  config.footprint.writes("out", buffers.out.as<float>(), 64 * sizeof(float));
  try {
    found->second.run(broken != 0, buffers, config);
  } catch (const std::exception& error) {
    snprintf(text, text_bytes, "%s", error.what());
  }
  if (!buffers.in.intact() || !buffers.out.intact()) snprintf(text, text_bytes, "red zone overwritten");
  return 1;
}

// "name rule", one case a line.
FASTCONV_EXPORT const char* rules_names() {
  static const std::string names = [] {
    std::string text;
    for (const auto& [name, entry] : cases()) text += name + " " + entry.rule + "\n";
    return text;
  }();
  return names.c_str();
}
