// The public face of an app and its election.
#include "cluster/app.h"

#include "platform/app_core.h"
#include "platform/snapshots_core.h"

namespace cluster {

App::App(std::unique_ptr<Core> core) : core_(std::move(core)) {}
App::~App() = default;

void App::on_start(Hook hook) { core_->start_hooks.push_back(std::move(hook)); }
void App::on_active(Hook hook) { core_->active_hooks.push_back(std::move(hook)); }
void App::on_passive(Hook hook) { core_->passive_hooks.push_back(std::move(hook)); }
void App::on_stop(Hook hook) { core_->stop_hooks.push_back(std::move(hook)); }
void App::on_leader_change(std::function<void(const LeaderChange&)> hook) {
  core_->leader_hooks.push_back(std::move(hook));
}
void App::on_member_join(std::function<void(const Member&)> hook) {
  core_->join_hooks.push_back(std::move(hook));
}
void App::on_member_leave(std::function<void(const Member&)> hook) {
  core_->leave_hooks.push_back(std::move(hook));
}

void App::handle(const std::string& method, std::function<std::string(const CallRequest&)> handler,
                 MethodOptions options) {
  CallHandler async;
  if (handler)
    async = [handler = std::move(handler)](const CallRequest& request,
                                           const CallResponder& responder) {
      responder.reply(handler(request));
    };
  core_->methods->handle(method, std::move(async), options);
}
void App::handle_async(const std::string& method, CallHandler handler, MethodOptions options) {
  core_->methods->handle(method, std::move(handler), options);
}
void App::use(CallMiddleware middleware) { core_->methods->use(std::move(middleware)); }
CallReply App::call(const std::string& app, const std::string& method, std::string payload,
                    CallOptions options) {
  return core_->host.calls()->call(name(), app, method, std::move(payload), std::move(options));
}
std::vector<CallAnswer> App::call_all(const std::string& app, const std::string& method,
                                      std::string payload, const CallOptions& options) {
  return core_->host.calls()->call_all(name(), app, method, std::move(payload), options);
}

const std::string& App::name() const noexcept { return core_->options.name; }
Role App::role() const { return core_->role.load(); }
std::uint64_t App::epoch() const { return core_->epoch.load(); }

Election& App::election() {
  if (!core_->singleton())
    throw Error(Errc::invalid_argument,
                "app \"" + name() + "\" is active on every node: it has no election");
  return *core_->election;
}

Database& App::database() {
  if (core_->options.sqlite.path.empty())
    throw Error(Errc::invalid_argument,
                "app \"" + name() + "\" has no database: set its sqlite.path");
  return *core_->database;
}

Snapshots& App::snapshots() {
  database();  // throws when there is none
  return *core_->snapshots;
}

Events App::events() { return {core_->host.events_bus(), name()}; }

Audit App::audit() { return {core_->host.audit_trail(), name()}; }

Kv App::kv() { return Kv(core_->kv); }

Lock App::lock(const std::string& lock) {
  return {core_->host.locks(), lock_key(name(), lock), lock};
}
Semaphore App::semaphore(const std::string& semaphore, int limit) {
  return {core_->host.locks(), lock_key(name(), semaphore), semaphore,
          checked_limit(semaphore, limit)};
}
Barrier App::barrier(const std::string& barrier) {
  return {core_->host.locks(), lock_key(name(), barrier), barrier};
}

bool Election::is_leader() const { return core_.app.is_leader(); }
std::optional<Leader> Election::leader() const { return core_.app.leader(); }
std::uint64_t Election::epoch() const { return core_.app.epoch.load(); }
bool Election::wait_for_leadership(std::chrono::milliseconds timeout) {
  return core_.app.wait_for_leadership(timeout);
}
void Election::step_down(const StepDown& how) { core_.app.step_down_and_wait(how); }
void Election::on_leader_change(std::function<void(const LeaderChange&)> fn) {
  core_.app.leader_hooks.push_back(std::move(fn));
}

}  // namespace cluster
