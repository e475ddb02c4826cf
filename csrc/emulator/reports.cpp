// Findings of the checker: collected while fibers run, put into words on the host's stack when the launch is over.
#include <algorithm>
#include <cstring>

#include "machine.h"

namespace fastconv::emulator {
namespace {

constexpr size_t kMaxReports = 20;  // a broken kernel breaks in every thread; the first few tell the story

struct Finding {
  const char* rule;
  Site site, other;
  std::string message, thread;
};

std::vector<Finding>& findings() {
  static auto* list = new std::vector<Finding>;
  return *list;
}

void replace(std::string& text, const char* mark, const std::string& value) {
  const size_t at = text.find(mark);
  if (at != std::string::npos) text.replace(at, strlen(mark), value);
}

}  // namespace

std::string position(Caller caller) {
  if (!caller.file) return "?";
  const char* slash = strrchr(caller.file, '/');
  return std::string(slash ? slash + 1 : caller.file) + ":" + std::to_string(caller.line);
}

std::string position(const Site& site) {
  return site.code ? machine().image.source_line(site.code) : site.caller.file ? position(site.caller) : "";
}

std::string describe(const Fiber& fiber) {
  const ThreadContext& c = *fiber.context;
  return "block (" + std::to_string(c.block_index.x) + "," + std::to_string(c.block_index.y) + "," +
         std::to_string(c.block_index.z) + ") thread " + std::to_string(c.thread) + " (warp " + std::to_string(c.warp) +
         " lane " + std::to_string(c.lane) + ")";
}

std::string describe_thread(int thread) {
  return "thread " + std::to_string(thread) + " (warp " + std::to_string(thread / 32) + " lane " +
         std::to_string(thread % 32) + ")";
}

std::string describe_agent(int agent) {
  const Machine& m = machine();
  const bool thread = m.clocks.is_thread(agent);
  const int number = thread ? agent : agent - m.clocks.engine(0), each = thread ? m.threads : kEngines;
  const int engine = number % each;
  const std::string name = thread                       ? describe_thread(number % each)
                           : engine < kWarpgroupEngines ? "wgmma of warpgroup " + std::to_string(engine)
                           : engine < kFirstStoreEngine ? "an asynchronous load"
                           : engine < kFirstArrivalEngine
                               ? "an asynchronous store"
                               : "an arrival by warp " + std::to_string(engine - kFirstArrivalEngine);
  if (m.cluster_blocks == 1) return name;
  const uint3& block = m.blocks[number / each].index;
  return name + " of block (" + std::to_string(block.x) + "," + std::to_string(block.y) + "," +
         std::to_string(block.z) + ")";
}

namespace {

constexpr uint32_t kCallerSite = 0x80000000u;  // else an offset in the image

std::vector<Caller>& callers() {
  static auto* list = new std::vector<Caller>;
  return *list;
}

}  // namespace

uint32_t pack(const Site& site) {
  if (site.code || !site.caller.file) return site.code;
  std::vector<Caller>& list = callers();
  for (size_t i = 0; i < list.size(); ++i) {
    if (list[i].line == site.caller.line && list[i].file == site.caller.file) {
      return kCallerSite | static_cast<uint32_t>(i);
    }
  }
  list.push_back(site.caller);
  return kCallerSite | static_cast<uint32_t>(list.size() - 1);
}

Site unpack(uint32_t site) {
  return site & kCallerSite ? Site{0, callers()[site & ~kCallerSite]} : Site{site, {nullptr, 0}};
}

void report(const char* rule, const Site& site, const std::string& message, const Site& other) {
  std::vector<Finding>& list = findings();
  if (list.size() >= kMaxReports) return;
  for (const Finding& f : list) {
    if (strcmp(f.rule, rule) == 0 && f.site == site && f.other == other) return;
  }
  const Fiber* fiber = machine().current;
  list.push_back({rule, site, other, message, fiber ? describe(*fiber) : ""});
}

void report_and_abandon(const char* rule, const Site& site, const std::string& message) {
  report(rule, site, message);
  machine().abandon();
}

void report_runaway() {
  report_and_abandon("runaway", Site{},
                     "more than FASTCONV_EMULATOR_LIMIT accesses and switches: a loop without an end?");
}

void clear_reports() { findings().clear(); }

std::vector<Report> take_reports() {
  std::vector<Report> reports;
  for (const Finding& finding : findings()) {
    Report r{finding.rule, machine().kernel, finding.message, position(finding.site), finding.thread};
    replace(r.message, "{0}", r.position);
    replace(r.message, "{1}", position(finding.other));
    if (!r.thread.empty()) r.message += ", by " + r.thread;
    reports.push_back(r);
  }
  findings().clear();
  return reports;
}

std::string join(const std::vector<Report>& reports) {
  std::string text;
  for (const Report& r : reports) text += (text.empty() ? "" : "\n") + r.text();
  return text;
}

}  // namespace fastconv::emulator
