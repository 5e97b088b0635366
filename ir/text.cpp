// .mir text: print() and parse(). One op a line; types are always written and always checked.
// docs/ir.md has the grammar. Tested by tests/ir/mir_test.cpp and by every .mir case.
#include <fmt/format.h>

#include <map>

#include "ir/attrs_text.h"
#include "ir/error.h"
#include "ir/module.h"

namespace shunt::ir {

// ---- print ----

std::string print_attrs(const Attrs& attrs) {
  return std::visit(
      [](const auto& a) {
        using A = std::decay_t<decltype(a)>;
        const A defaults{};
        std::string out;
        std::apply(
            [&](auto... field) {
              [[maybe_unused]] const auto one = [&](auto f) {
                if (a.*(f.member) == defaults.*(f.member)) return;
                out += fmt::format("{}{} = {}", out.empty() ? "" : ", ", f.name,
                                   print_attr(a.*(f.member)));
              };
              (one(field), ...);
            },
            A::fields());
        return out.empty() ? out : "{" + out + "}";
      },
      attrs);
}

namespace {

std::string ref(const Value* value) {
  if (value == nullptr) return "none";
  return (value->is_param() || value->is_state() ? "@" : "%") + value->name;
}

std::string print_dim(const DimDecl& d) {
  return fmt::format("{} in [{}, {}]", d.name, d.min, d.max);
}

}  // namespace

std::string print(const Op& op) {
  std::string line;
  for (const auto& r : op.results) line += (line.empty() ? "%" : ", %") + r->name;
  line += fmt::format("{}{}", line.empty() ? "" : " = ", op.info().name);
  for (size_t i = 0; i < op.operands.size(); ++i)
    line += (i == 0 ? " " : ", ") + ref(op.operands[i]);
  const std::string attrs = print_attrs(op.attrs);
  if (!attrs.empty()) line += " " + attrs;
  for (size_t i = 0; i < op.results.size(); ++i) {
    line += (i == 0 ? " : " : ", ") + op.results[i]->type.to_string();
  }
  return line;
}

std::string print(const Module& module) {
  constexpr std::string_view kStages[] = {"logical", "placed", "lowered"};
  std::string out =
      fmt::format("module @{} stage({})\n", module.name, kStages[static_cast<int>(module.stage)]);
  out += fmt::format("page_size {}\n", module.page_size);
  if (const Mesh& m = module.mesh; m.size() > 1)
    out += fmt::format("mesh dp {} tp {} ep {} etp {}\n", m.dp, m.tp, m.ep, m.etp);
  for (const DimDecl& d : module.dims) out += "dim " + print_dim(d) + "\n";
  for (const Param& p : module.params) {
    out += fmt::format("param @{} : {}\n", p.value->name, p.value->type.to_string());
  }
  for (const State& s : module.states) {
    out += fmt::format("state @{}{} : {}\n", s.value->name,
                       s.value->state_kind() == StateKind::slot ? " slot" : "",
                       s.value->type.to_string());
  }
  for (const auto& graph : module.graphs) {
    out += fmt::format("graph @{}(", graph->name);
    for (const auto& input : graph->inputs) {
      out += fmt::format("{}%{} : {}", input == graph->inputs.front() ? "" : ", ", input->name,
                         input->type.to_string());
    }
    out += ")";
    for (const DimDecl& d : graph->dims) {
      out += fmt::format("{}{}", &d == &graph->dims.front() ? " dims(" : ", ", print_dim(d));
    }
    out += graph->dims.empty() ? " {\n" : ") {\n";
    std::string loc;
    for (const auto& op : graph->ops) {
      if (op->loc != loc) out += fmt::format("  at {}\n", quoted(op->loc));
      loc = op->loc;
      out += "    " + print(*op) + "\n";
    }
    out += "  return";
    for (size_t i = 0; i < graph->outputs.size(); ++i)
      out += (i == 0 ? " " : ", ") + ref(graph->outputs[i]);
    out += "\n}\n";
  }
  return out;
}

// ---- parse ----

namespace {

Attrs parse_attrs(Lexer& lexer, OpKind kind) {
  Attrs attrs = default_attrs(kind);
  if (!lexer.eat('{')) return attrs;
  bool first = true;
  while (!lexer.eat('}')) {
    if (!first) lexer.expect(',');
    first = false;
    const std::string name = lexer.word();
    lexer.expect('=');
    bool known = false;
    std::visit(
        [&](auto& a) {
          [[maybe_unused]] const auto one = [&](auto f) {
            if (f.name != name) return;
            known = true;
            parse_attr(lexer, a.*(f.member));
          };
          std::apply([&](auto... field) { (one(field), ...); },
                     std::decay_t<decltype(a)>::fields());
        },
        attrs);
    if (!known)
      lexer.fail(fmt::format("an attribute of {} ('{}' is none)", op_info(kind).name, name));
  }
  return attrs;
}

DimDecl parse_dim(Lexer& lexer) {
  DimDecl d;
  d.name = lexer.word();
  if (!lexer.eat("in")) lexer.fail("'in'");
  lexer.expect('[');
  d.min = lexer.integer();
  lexer.expect(',');
  d.max = lexer.integer();
  lexer.expect(']');
  if (d.min < 0 || d.max < d.min) lexer.fail("a range [min, max] with 0 <= min <= max");
  return d;
}

/// Parses one graph's body; values are looked up by name as they get defined.
class GraphParser {
 public:
  GraphParser(Module& module, Graph& graph) : module_(module), graph_(graph), builder_(graph) {}

  void header(Lexer& lexer) {
    lexer.expect('(');
    while (!lexer.eat(')')) {
      if (!graph_.inputs.empty()) lexer.expect(',');
      std::string name = lexer.name('%');
      lexer.expect(':');
      if (values_.contains(name)) lexer.fail(fmt::format("a new name (%{} exists)", name));
      values_[name] = builder_.input(name, lexer.type());
    }
    if (lexer.eat("dims")) {
      lexer.expect('(');
      do {
        graph_.dims.push_back(parse_dim(lexer));
      } while (lexer.eat(','));
      lexer.expect(')');
    }
    lexer.expect('{');
  }

  /// Returns false after the closing brace.
  bool line(Lexer& lexer) {
    if (lexer.eat('}')) return false;
    if (lexer.eat("at")) {
      builder_.set_loc(lexer.string());
    } else if (lexer.eat("return")) {
      while (!lexer.at_end()) {
        if (!graph_.outputs.empty()) lexer.expect(',');
        graph_.outputs.push_back(reference(lexer));
      }
    } else {
      op(lexer);
    }
    if (!lexer.at_end()) lexer.fail("the end of the line");
    return true;
  }

 private:
  Value* reference(Lexer& lexer) {
    if (lexer.eat("none")) return nullptr;
    if (lexer.peek() == '@') {
      const std::string name = lexer.name('@');
      Value* value = module_.find_param(name);
      if (value == nullptr) value = module_.find_state(name);
      if (value == nullptr)
        lexer.fail(fmt::format("a declared parameter or state (@{} is not)", name));
      return value;
    }
    const std::string name = lexer.name('%');
    const auto it = values_.find(name);
    if (it == values_.end()) lexer.fail(fmt::format("a value defined above (%{} is not)", name));
    return it->second;
  }

  void op(Lexer& lexer) {
    std::vector<std::string> names;
    if (lexer.peek() == '%') {
      do {
        names.push_back(lexer.name('%'));
        if (values_.contains(names.back()))
          lexer.fail(fmt::format("a new name (%{} exists)", names.back()));
      } while (lexer.eat(','));
      lexer.expect('=');
    }
    const std::string token = lexer.word();
    const OpInfo* info = find_op(token);
    if (info == nullptr) lexer.fail(fmt::format("an op ('{}' is none)", token));
    std::vector<Value*> operands;
    while (lexer.peek() == '%' || lexer.peek() == '@' || lexer.peek() == 'n') {
      operands.push_back(reference(lexer));
      if (!lexer.eat(',')) break;
    }
    Attrs attrs = parse_attrs(lexer, info->kind);
    std::vector<Type> types;
    if (lexer.eat(':')) {
      do {
        types.push_back(lexer.type());
      } while (lexer.eat(','));
    }
    Op* made = nullptr;
    try {
      made = builder_.op(info->kind, std::move(operands), std::move(attrs), names);
    } catch (const UserError& e) {
      user_error("line {}: {}", lexer.line(), e.what());
    }
    if (made->results.size() != names.size() || types.size() != names.size()) {
      lexer.fail(fmt::format("{} results, each with its type", made->results.size()));
    }
    for (size_t i = 0; i < names.size(); ++i) {
      if (made->result(i)->type != types[i]) {
        user_error("line {}: %{} is written as {}, but {} gives {}", lexer.line(), names[i],
                   types[i].to_string(), token, made->result(i)->type.to_string());
      }
      values_[names[i]] = made->result(i);
    }
  }

  Module& module_;
  Graph& graph_;
  GraphBuilder builder_;
  std::map<std::string, Value*> values_;
};

void parse_header(Lexer& lexer, Module& module) {
  module.name = lexer.name('@');
  if (!lexer.eat("stage")) lexer.fail("stage(...)");
  lexer.expect('(');
  const std::string stage = lexer.word();
  if (stage == "placed") {
    module.stage = Stage::placed;
  } else if (stage == "lowered") {
    module.stage = Stage::lowered;
  } else if (stage != "logical") {
    lexer.fail("logical, placed or lowered");
  }
  lexer.expect(')');
}

/// "dp 2 tp 1 ep 2 etp 1"
void parse_mesh(Lexer& lexer, Mesh& mesh) {
  const auto axis = [&](const char* name, int& size) {
    if (!lexer.eat(name)) lexer.fail(name);
    const int64_t n = lexer.integer();
    if (n < 1 || n > 1 << 16) lexer.fail("a number of ranks");
    size = static_cast<int>(n);
  };
  axis("dp", mesh.dp);
  axis("tp", mesh.tp);
  axis("ep", mesh.ep);
  axis("etp", mesh.etp);
  validate(mesh);
}

}  // namespace

std::unique_ptr<Module> parse(std::string_view text) {
  auto module = std::make_unique<Module>();
  std::unique_ptr<GraphParser> graph;
  int number = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    Lexer lexer(text.substr(at, end - at), ++number);
    at = end + 1;
    if (lexer.at_end()) continue;
    if (graph != nullptr) {
      if (!graph->line(lexer)) graph = nullptr;
      continue;
    }
    if (lexer.eat("module")) {
      parse_header(lexer, *module);
    } else if (lexer.eat("page_size")) {
      module->page_size = lexer.integer();
    } else if (lexer.eat("mesh")) {
      parse_mesh(lexer, module->mesh);
    } else if (lexer.eat("dim")) {
      module->dims.push_back(parse_dim(lexer));
    } else if (lexer.eat("param") || lexer.peek() == 's') {
      const bool state = lexer.eat("state");
      const std::string name = lexer.name('@');
      const StateKind kind = state && lexer.eat("slot") ? StateKind::slot : StateKind::paged;
      lexer.expect(':');
      if (module->find_param(name) != nullptr || module->find_state(name) != nullptr) {
        lexer.fail(fmt::format("a new name (@{} exists)", name));
      }
      state ? module->add_state(name, lexer.type(), kind) : module->add_param(name, lexer.type());
    } else if (lexer.eat("graph")) {
      graph = std::make_unique<GraphParser>(*module, module->add_graph(lexer.name('@')));
      graph->header(lexer);
      continue;
    } else {
      lexer.fail("module, page_size, mesh, dim, param, state or graph");
    }
    if (!lexer.at_end()) lexer.fail("the end of the line");
  }
  if (graph != nullptr) user_error("line {}: the last graph lacks its '}}'", number);
  return module;
}

}  // namespace shunt::ir
