#include "cli/config.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <sstream>

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/yaml.h>

#include "cli/settings.h"
#include "core/names.h"
#include "platform/validate.h"

namespace cluster::cli {
namespace {

constexpr std::size_t kLargestFile = 1 << 20;
constexpr const char* kDefaultServer = "nats://127.0.0.1:4222";

std::string in_quotes(const std::string& text) { return "\"" + text + "\""; }

// Where documents begin. YAML::LoadAll() can't be used: on a stray "]" yaml-cpp 0.7 stays where it
// is, and gives empty documents for ever.
class DocumentStarts : public YAML::EventHandler {
 public:
  std::vector<YAML::Mark> marks{};

  void OnDocumentStart(const YAML::Mark& mark) override { marks.push_back(mark); }
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark&, YAML::anchor_t) override {}
  void OnAlias(const YAML::Mark&, YAML::anchor_t) override {}
  void OnScalar(const YAML::Mark&, const std::string&, YAML::anchor_t,
                const std::string&) override {}
  void OnSequenceStart(const YAML::Mark&, const std::string&, YAML::anchor_t,
                       YAML::EmitterStyle::value) override {}
  void OnSequenceEnd() override {}
  void OnMapStart(const YAML::Mark&, const std::string&, YAML::anchor_t,
                  YAML::EmitterStyle::value) override {}
  void OnMapEnd() override {}
};

std::optional<YAML::Mark> second_document(const std::string& text) {
  std::istringstream stream(text);
  YAML::Parser parser(stream);
  DocumentStarts starts;
  for (int i = 0; i < 2; ++i)
    if (!parser.HandleNextDocument(starts)) break;
  if (starts.marks.size() < 2) return std::nullopt;
  return starts.marks[1];
}

std::string joined(const std::string& prefix, const std::string& key) {
  return prefix.empty() ? key : prefix + "." + key;
}

std::string parent_of(const std::string& path) {
  const auto dot = path.rfind('.');
  return dot == std::string::npos ? std::string() : path.substr(0, dot);
}

std::string last_of(const std::string& path) {
  const auto dot = path.rfind('.');
  return dot == std::string::npos ? path : path.substr(dot + 1);
}

std::string read_file(const std::string& file) {
  std::ifstream in(file, std::ios::binary);
  std::error_code failure;
  if (!in || std::filesystem::is_directory(file, failure))
    throw ConfigError({file + ": can't be read: is it there, and may this user read it?"});
  std::string text(kLargestFile + 1, '\0');
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<std::size_t>(in.gcount()));
  if (text.size() > kLargestFile) throw ConfigError({file + ": is larger than 1 MiB"});
  return text;
}

// What faults_of() calls by the names of C++ members, in the words of the file.
std::string in_file_words(std::string line) {
  if (line.rfind("name: ", 0) == 0) return "platform: " + line.substr(6);
  if (line.rfind("nats", 0) != 0) return line;
  const std::vector<std::pair<std::string, std::string>> words{{"creds_file", "creds"},
                                                               {"nkey_seed_file", "nkey"},
                                                               {"cert_file", "cert"},
                                                               {"key_file", "key"},
                                                               {"ca_file", "ca"}};
  for (const auto& [from, to] : words)
    for (auto at = line.find(from); at != std::string::npos; at = line.find(from, at + to.size()))
      line.replace(at, from.size(), to);
  return line;
}

// Builds a Config from its layers and gathers what is wrong on the way.
class Loader {
 public:
  explicit Loader(const ConfigRequest& request) : request_(request) {}

  Config load();

 private:
  void read_document(const std::string& file);
  void read_map(const YAML::Node& map, const std::string& prefix, const std::string& shown,
                const Settings& settings);
  void read_apps(const YAML::Node& apps);
  void read_value(const YAML::Node& node, const Setting& setting, const std::string& path);
  bool read_text(const YAML::Node& node, const std::string& path, std::string& text);
  void check_siblings(const std::string& shown, const std::string& prefix);
  void unknown_key(const std::string& place, const std::string& key, const std::string& prefix,
                   const std::string& shown, const Settings& settings);
  void apply_layer(const std::vector<Override>& layer);
  const Setting* setting_for(const std::string& path, std::string& app);
  void validate();

  void fault(const std::string& place, const std::string& path, const std::string& what) {
    faults_.push_back((place.empty() ? "" : place + ": ") + (path.empty() ? "" : path + ": ") +
                      what);
    faulty_.insert(path);
  }
  std::string place_of(const YAML::Node& node) const {
    const YAML::Mark mark = node.Mark();
    return config_.file + ":" + std::to_string(mark.line + 1) + ":" +
           std::to_string(mark.column + 1);
  }
  // Where `path`, or the nearest thing around it, was set.
  std::string origin_of(std::string path) const {
    while (!path.empty()) {
      if (const auto it = origins_.find(path); it != origins_.end()) return it->second;
      path = parent_of(path);
    }
    return config_.file;
  }

  const ConfigRequest& request_;
  Config config_;
  std::vector<std::unique_ptr<AppOptions>>
      apps_;  // in their places, for the settings bound to them
  std::map<std::string, Settings> app_settings_;
  Settings settings_;
  std::map<std::string, std::string> origins_;
  std::set<std::string> faulty_;
  std::vector<std::string> faults_;
};

// A scalar's text with its variables filled in; false: there is none, and a fault says so.
bool Loader::read_text(const YAML::Node& node, const std::string& path, std::string& text) {
  if (node.IsNull()) {
    // The parser places what is not there at whatever follows: the key is what people look for.
    fault(origin_of(path), path, "has no value");
    return false;
  }
  if (!node.IsScalar()) {
    fault(place_of(node), path, "takes a single value, not a list or a map");
    return false;
  }
  std::string why;
  text = expand_variables(node.Scalar(), request_.environment, why);
  if (!why.empty()) fault(place_of(node), path, why);
  return why.empty();
}

void Loader::read_value(const YAML::Node& node, const Setting& setting, const std::string& path) {
  Value value;
  if (node.IsMap() && setting.kind == Setting::Kind::map) {
    for (const auto& entry : node) {
      std::string text;
      if (!entry.first.IsScalar()) {
        fault(place_of(entry.first), path, "a name must be a single value");
      } else if (read_text(entry.second, joined(path, entry.first.Scalar()), text)) {
        if (!value.pairs.emplace(entry.first.Scalar(), text).second)
          fault(place_of(entry.first), joined(path, entry.first.Scalar()), "is given twice");
      }
    }
  } else if (node.IsSequence() && setting.kind == Setting::Kind::list) {
    for (const auto& item : node) {
      std::string text;
      if (read_text(item, path, text)) value.items.push_back(std::move(text));
    }
  } else if (setting.kind == Setting::Kind::map) {
    if (!node.IsNull()) fault(place_of(node), path, "takes a map: one \"name: value\" a line");
    return;
  } else {
    std::string text;
    if (!read_text(node, path, text)) return;
    value.items = {std::move(text)};
    value.scalar = true;
  }
  if (faulty_.count(path) != 0) return;
  if (const auto why = setting.set(value); !why.empty()) fault(place_of(node), path, why);
}

void Loader::unknown_key(const std::string& place, const std::string& key,
                         const std::string& prefix, const std::string& shown,
                         const Settings& settings) {
  std::vector<std::string> here;
  for (const auto& setting : settings)
    if (parent_of(setting.path) == prefix) here.push_back(last_of(setting.path));
  if (shown.empty()) here.push_back("apps");
  std::string hint;
  if (const auto near = nearest_name(key, here); !near.empty()) {
    hint = "; did you mean " + in_quotes(near) + "?";
  } else {
    for (const auto& setting : settings)
      if (hint.empty() && last_of(setting.path) == key)
        hint = "; did you mean " + in_quotes(setting.path) + "?";
    for (std::size_t i = 0; hint.empty() && i < here.size(); ++i)
      hint = i == 0 ? "; known here are " + here[0] : hint;
    if (hint.rfind("; known", 0) == 0)
      for (std::size_t i = 1; i < here.size(); ++i) hint += ", " + here[i];
  }
  fault(place, joined(shown, key), "unknown key" + hint);
}

void Loader::check_siblings(const std::string& shown, const std::string& prefix) {
  const auto given = [&](const char* name) { return origins_.count(joined(shown, name)) != 0; };
  if (prefix == "nats" && given("url") && given("servers"))
    fault(origins_[joined(shown, "url")], joined(shown, "url"), "servers is given too: keep one");
  if (prefix == "process.ready" && given("tcp") + given("http") + given("delay") > 1)
    fault(origins_[shown], shown, "has more than one of tcp, http and delay: keep one");
}

void Loader::read_map(const YAML::Node& map, const std::string& prefix, const std::string& shown,
                      const Settings& settings) {
  for (const auto& entry : map) {
    if (!entry.first.IsScalar()) {
      fault(place_of(entry.first), shown, "a key must be a single word");
      continue;
    }
    const std::string key = entry.first.Scalar();
    const std::string path = joined(shown, key);
    const std::string place = place_of(entry.first);
    const Setting* setting = find_setting(settings, joined(prefix, key));
    const bool apps = shown.empty() && key == "apps";
    if (setting == nullptr && !apps) {
      unknown_key(place, key, prefix, shown, settings);
      continue;
    }
    if (!origins_.emplace(path, place).second) {
      fault(place, path, "is given twice");
    } else if (apps) {
      read_apps(entry.second);
    } else if (setting->kind != Setting::Kind::section) {
      read_value(entry.second, *setting, path);
    } else if (entry.second.IsMap() || entry.second.IsNull()) {
      setting->set({});
      read_map(entry.second, setting->path, path, settings);
    } else {
      fault(place_of(entry.second), path, "takes a map of further keys");
    }
  }
  check_siblings(shown, prefix);
}

void Loader::read_apps(const YAML::Node& apps) {
  if (request_.client || apps.IsNull()) return;
  if (!apps.IsMap()) {
    fault(place_of(apps), "apps", "takes a map: each app's name, and below it its keys");
    return;
  }
  for (const auto& entry : apps) {
    const std::string name = entry.first.IsScalar() ? entry.first.Scalar() : "";
    const std::string path = "apps." + name;
    const std::string place = place_of(entry.first);
    if (const auto why = app_name_fault(name); !why.empty()) {
      fault(place, path, "can't be an app's name: " + why);
    } else if (!origins_.emplace(path, place).second) {
      fault(place, path, "is given twice");
    } else if (!entry.second.IsMap() && !entry.second.IsNull()) {
      fault(place_of(entry.second), path, "takes a map of further keys");
    } else {
      apps_.push_back(std::make_unique<AppOptions>(AppOptions{.name = name}));
      const Settings& bound = app_settings_[name] = app_settings(*apps_.back());
      read_map(entry.second, "", path, bound);
    }
  }
}

void Loader::read_document(const std::string& file) {
  config_.file = file;
  try {
    const std::string text = read_file(file);
    const YAML::Node document = YAML::Load(text);
    if (const auto more = second_document(text))
      fault(file + ":" + std::to_string(more->line + 1) + ":" + std::to_string(more->column + 1),
            "",
            "the YAML document has ended before this: there may be one document only, and nothing "
            "after it");
    if (document.IsNull()) return;
    if (!document.IsMap()) {
      fault(place_of(document), "", "must be a map of keys, such as \"platform: myapp\"");
      return;
    }
    read_map(document, "", "", settings_);
  } catch (const YAML::Exception& error) {
    const std::string at = error.mark.is_null() ? ""
                                                : ":" + std::to_string(error.mark.line + 1) + ":" +
                                                      std::to_string(error.mark.column + 1);
    throw ConfigError({file + at + ": is no YAML: " + error.msg});
  }
}

const Setting* Loader::setting_for(const std::string& path, std::string& app) {
  if (path.rfind("apps.", 0) != 0) return find_setting(settings_, path);
  const auto dot = path.find('.', 5);
  app = path.substr(5, dot == std::string::npos ? dot : dot - 5);
  const auto it = app_settings_.find(app);
  if (it == app_settings_.end() || dot == std::string::npos) return nullptr;
  return find_setting(it->second, path.substr(dot + 1));
}

// Environment or flags: later entries beat earlier ones.
void Loader::apply_layer(const std::vector<Override>& layer) {
  const auto names = [&](std::initializer_list<const char*> paths) {
    return std::any_of(layer.begin(), layer.end(), [&](const Override& o) {
      return std::find(paths.begin(), paths.end(), o.path) != paths.end();
    });
  };
  Nats& nats = config_.platform.nats;
  // A layer that says how to log in replaces what those below said, whatever way that was. But a
  // user's password may come from below: flags show.
  if (names({"nats.creds", "nats.nkey", "nats.user", "nats.token"})) {
    nats.creds_file = nats.nkey_seed_file = nats.user = nats.token = "";
    if (!names({"nats.user"})) nats.password = "";
  }
  std::set<std::string> entered;
  for (const auto& entry : layer) {
    std::string app;
    const Setting* setting = setting_for(entry.path, app);
    if (request_.client && entry.path.rfind("apps.", 0) == 0) continue;
    if (setting == nullptr || setting->kind == Setting::Kind::section) {
      fault(entry.origin, entry.path,
            app.empty() || app_settings_.count(app) != 0 ? "no key of that name takes a value"
                                                         : "there is no app of that name");
      continue;
    }
    const Settings& settings = app.empty() ? settings_ : app_settings_[app];
    const Setting* around = find_setting(settings, parent_of(setting->path));
    if (around != nullptr && entered.insert(parent_of(entry.path)).second) around->set({});
  }
  for (const auto& entry : layer) {
    std::string app;
    const Setting* setting = setting_for(entry.path, app);
    if (setting == nullptr || setting->kind == Setting::Kind::section) continue;
    const auto why = setting->set({.items = {entry.value}, .pairs = {}, .scalar = true});
    origins_[entry.path] = entry.origin;
    if (entry.path == "nats.url") origins_["nats.servers"] = entry.origin;
    if (!why.empty()) fault(entry.origin, entry.path, why);
  }
}

void Loader::validate() {
  std::vector<std::string> lines = faults_of(config_.platform);
  for (const auto& app : apps_)
    for (auto& line : faults_of(*app)) lines.push_back(std::move(line));
  for (const auto& raw : lines) {
    const std::string line = in_file_words(raw);
    const auto colon = line.find(": ");
    const std::string path = line.substr(0, colon);
    if (faulty_.count(path) != 0) continue;
    if (request_.client && path == "platform" && config_.platform.name.empty()) continue;
    const bool missing = path == "platform" && config_.platform.name.empty();
    const std::string what = missing ? "is missing: name the platform that this node belongs to"
                                     : line.substr(colon + 2);
    const std::string place = origin_of(path);
    faults_.push_back((place.empty() ? "" : place + ": ") + path + ": " + what);
  }
}

std::string first_of(const std::vector<std::string>& places) {
  std::error_code failure;
  for (const auto& place : places)
    if (std::filesystem::exists(place, failure)) return place;
  return {};
}

Config Loader::load() {
  settings_ = platform_settings(config_);
  const std::string file = request_.file.empty() ? first_of(request_.places) : request_.file;
  if (!file.empty()) read_document(file);
  if (const auto it = origins_.find("nats.url"); it != origins_.end())
    origins_.emplace("nats.servers", it->second);

  std::vector<Override> environment;
  const auto take = [&](const std::string& name, const std::string& path) {
    if (const auto value = request_.environment(name))
      environment.push_back({path, *value, "environment variable " + name});
  };
  take("PLATFORM", "platform");
  take("NODE_ID", "node");
  take("NATS_URL", "nats.url");
  for (const auto& setting : settings_)
    if (setting.kind != Setting::Kind::section) take(environment_name(setting.path), setting.path);
  apply_layer(environment);
  apply_layer(request_.flags);

  if (config_.platform.name.empty()) config_.platform.name = request_.default_platform;
  Nats& nats = config_.platform.nats;
  if (nats.servers.empty() && nats.embedded.empty() && faulty_.count("nats.servers") == 0)
    nats.servers = {kDefaultServer};
  validate();
  if (!faults_.empty()) throw ConfigError(faults_);
  for (auto& app : apps_) config_.apps.push_back(std::move(*app));
  // The loader's settings are bound to its own Config, so what leaves is a copy.
  return config_;
}

std::string escape_variables(const std::string& text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text.compare(i, 2, "${") == 0) out += '$';
    out += text[i];
  }
  return out;
}

bool names_secret(std::string name) {
  std::transform(name.begin(), name.end(), name.begin(),
                 [](char c) { return c >= 'a' && c <= 'z' ? static_cast<char>(c - 32) : c; });
  for (const char* word : {"PASS", "SECRET", "TOKEN", "KEY", "CREDENTIAL"})
    if (name.find(word) != std::string::npos) return true;
  return false;
}

void emit_value(YAML::Emitter& out, const Setting& setting, const Value& value, bool mask) {
  const auto shown = [&](const std::string& text) {
    if (!mask) return escape_variables(text);
    return setting.secret ? (text.empty() ? "" : "***") : escape_variables(mask_url(text));
  };
  if (setting.kind == Setting::Kind::list) {
    out << YAML::BeginSeq;
    for (const auto& item : value.items) out << shown(item);
    out << YAML::EndSeq;
  } else if (setting.kind == Setting::Kind::map) {
    out << YAML::BeginMap;
    for (const auto& [name, text] : value.pairs)
      out << YAML::Key << name << YAML::Value << (mask && names_secret(name) ? "***" : shown(text));
    out << YAML::EndMap;
  } else {
    out << shown(value.items.at(0));
  }
}

bool is_empty(const Value& value) {
  return value.pairs.empty() && (value.items.empty() || (value.scalar && value.items[0].empty()));
}

// `defaults` has the same keys: what is empty there and here says nothing, and is left out.
void emit_level(YAML::Emitter& out, const Settings& settings, const Settings& defaults,
                const std::string& prefix, bool mask) {
  for (std::size_t i = 0; i < settings.size(); ++i) {
    const Setting& setting = settings[i];
    if (parent_of(setting.path) != prefix) continue;
    const auto value = setting.get();
    if (!value) continue;
    if (setting.kind == Setting::Kind::section) {
      out << YAML::Key << last_of(setting.path) << YAML::Value << YAML::BeginMap;
      emit_level(out, settings, defaults, setting.path, mask);
      out << YAML::EndMap;
      continue;
    }
    const auto fallback = defaults[i].get();
    if (is_empty(*value) && (!fallback || is_empty(*fallback))) continue;
    out << YAML::Key << last_of(setting.path) << YAML::Value;
    emit_value(out, setting, *value, mask);
  }
}

}  // namespace

ConfigError::ConfigError(std::vector<std::string> faults)
    : Error(Errc::invalid_argument,
            [&] {
              std::string text;
              for (const auto& line : faults) text += (text.empty() ? "" : "\n") + line;
              return text;
            }()),
      faults_(std::move(faults)) {}

Environment process_environment() {
  return [](const std::string& name) -> std::optional<std::string> {
    const char* value = std::getenv(name.c_str());
    return value == nullptr || *value == '\0' ? std::nullopt : std::optional<std::string>(value);
  };
}

std::vector<std::string> default_places(const Environment& environment) {
  std::vector<std::string> places{"cpp-cluster.yaml"};
  if (const auto config = environment("XDG_CONFIG_HOME"))
    places.push_back(*config + "/cpp-cluster/config.yaml");
  else if (const auto home = environment("HOME"))
    places.push_back(*home + "/.config/cpp-cluster/config.yaml");
  places.push_back("/etc/cpp-cluster/config.yaml");
  return places;
}

Config load_config(const ConfigRequest& request) { return Loader(request).load(); }

std::string to_yaml(const Config& config, bool mask) {
  Config copy = config;
  Config defaults;
  YAML::Emitter out;
  out << YAML::BeginMap;
  emit_level(out, platform_settings(copy), platform_settings(defaults), "", mask);
  if (!copy.apps.empty()) {
    out << YAML::Key << "apps" << YAML::Value << YAML::BeginMap;
    for (auto& app : copy.apps) {
      AppOptions fresh;
      out << YAML::Key << app.name << YAML::Value << YAML::BeginMap;
      emit_level(out, app_settings(app), app_settings(fresh), "", mask);
      out << YAML::EndMap;
    }
    out << YAML::EndMap;
  }
  out << YAML::EndMap;
  return std::string(out.c_str()) + "\n";
}

std::string expand_variables(const std::string& text, const Environment& environment,
                             std::string& fault) {
  std::string out;
  for (std::size_t i = 0; i < text.size();) {
    if (text.compare(i, 3, "$${") == 0) {
      out += "${";
      i += 3;
    } else if (text.compare(i, 2, "${") == 0) {
      const auto end = text.find('}', i);
      const std::string name = end == std::string::npos ? "" : text.substr(i + 2, end - i - 2);
      const bool valid = !name.empty() && (name[0] < '0' || name[0] > '9') &&
                         name.find_first_not_of(
                             "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
                             "0123456789_") == std::string::npos;
      if (!valid) {
        fault = in_quotes(text.substr(i, 20)) +
                " names no environment variable: write ${NAME}, or $${ for ${ itself";
        return {};
      }
      const auto value = environment(name);
      if (!value) {
        fault = "the environment variable " + name + " is not set";
        return {};
      }
      out += *value;
      i = end + 1;
    } else {
      out += text[i++];
    }
  }
  return out;
}

std::vector<std::string> split_words(const std::string& text, std::string& fault) {
  std::vector<std::string> words;
  std::string word;
  bool in_word = false;
  char quote = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    const bool more = i + 1 < text.size();
    if (quote != 0) {
      if (c == quote)
        quote = 0;
      else if (c == '\\' && quote == '"' && more && (text[i + 1] == '"' || text[i + 1] == '\\'))
        word += text[++i];
      else
        word += c;
    } else if (c == '\'' || c == '"') {
      quote = c;
      in_word = true;
    } else if (c == '\\' && more) {
      word += text[++i];
      in_word = true;
    } else if (c == ' ' || c == '\t' || c == '\n') {
      if (in_word) words.push_back(std::move(word));
      word.clear();
      in_word = false;
    } else {
      word += c;
      in_word = true;
    }
  }
  if (quote != 0) {
    fault = "a quote (" + std::string(1, quote) + ") is not closed";
    return {};
  }
  if (in_word) words.push_back(std::move(word));
  return words;
}

std::string mask_url(const std::string& url) {
  const auto scheme = url.find("://");
  const auto at = url.rfind('@');
  if (scheme == std::string::npos || at == std::string::npos || at < scheme) return url;
  return url.substr(0, scheme + 3) + "***" + url.substr(at);
}

}  // namespace cluster::cli
