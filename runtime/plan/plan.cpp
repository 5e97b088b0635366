// Small questions about a plan, and reading one from its folder: load_plan(). Tested by
// tests/runtime/plan/.
#include "runtime/plan/plan.h"

#include <fstream>
#include <sstream>

#include "ir/error.h"

namespace shunt {

int64_t Plan::page_bytes() const {
  int64_t bytes = 0;
  for (const StateDecl& state : states) {
    if (state.kind == StateKind::paged) bytes += state.row.bytes().constant() * limits.page_size;
  }
  return bytes;
}

int64_t Plan::slot_bytes() const {
  int64_t bytes = 0;
  for (const StateDecl& state : states) {
    if (state.kind == StateKind::slot) bytes += state.row.bytes().constant();
  }
  return bytes;
}

int Plan::find_port(const std::string& role) const {
  for (size_t i = 0; i < ports.size(); ++i) {
    if (ports[i].role == role) return static_cast<int>(i);
  }
  return -1;
}

Plan load_plan(const std::filesystem::path& directory) {
  const std::filesystem::path path = directory / "plan.json";
  std::ifstream in(path, std::ios::binary);
  if (!in) {
    user_error(
        "{} is not a plan: it has no readable plan.json (make one with `shunt compile MODEL_DIR -o "
        "PLAN`)",
        directory.string());
  }
  std::ostringstream text;
  text << in.rdbuf();
  if (in.bad() || text.bad()) user_error("{}: reading failed", path.string());
  try {
    Plan plan = plan_from_json(text.str());
    validate(plan);
    return plan;
  } catch (const UserError& e) {  // "plan.json: ..." becomes "DIRECTORY/plan.json: ..."
    throw UserError((directory / e.what()).string(), e.kind());
  }
}

}  // namespace shunt
