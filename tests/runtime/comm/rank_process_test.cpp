// Ranks as real processes: each is killed (-9) or stopped at every phase, and the others must end
// soon, with the exit code of a device error and a message that names it. The processes are this
// program again, running only RankProcess.DISABLED_Rank.
#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <map>
#include <thread>

#include "ir/error.h"
#include "runtime/comm/launcher.h"
#include "runtime/comm/rendezvous.h"
#include "runtime/comm/socket.h"

extern char** environ;

namespace shunt {
namespace {

#define EXPECT_HAS(text, part) EXPECT_NE((text).find(part), std::string::npos) << (text)

// ---- inside a rank ----

void say(const std::string& line) {
  const std::string text = line + "\n";
  [[maybe_unused]] const ssize_t n = ::write(STDOUT_FILENO, text.data(), text.size());
}

/// The rank that a test is about to kill waits here.
void phase(const char* name, int rank) {
  const char* victim = std::getenv("COMM_TEST_VICTIM");
  if (victim == nullptr || fmt::format("{}@{}", rank, name) != victim) return;
  say(fmt::format("at {}", name));
  while (true) ::pause();
}

/// A step stands for what ranks do on GPUs: all meet, and nobody can go on alone.
void run_rank() {
  const ProcessRank launch = detect_launch({});
  RendezvousOptions options{.rank = launch.rank,
                            .world = launch.world,
                            .address = launch.master_addr,
                            .port = launch.master_port,
                            .timeout = Milliseconds(20'000),
                            .heartbeat = Milliseconds(100),
                            .silence = Milliseconds(5'000)};
  if (const char* timeout = std::getenv("COMM_TEST_TIMEOUT_MS"))
    options.timeout = Milliseconds(std::atoi(timeout));
  if (const char* silence = std::getenv("COMM_TEST_SILENCE_MS"))
    options.silence = Milliseconds(std::atoi(silence));
  phase("start", launch.rank);
  const auto control = rendezvous(options);
  phase("load", launch.rank);
  control->barrier("weights loaded");
  phase("capture", launch.rank);
  control->barrier("graphs captured");
  const char* steps = std::getenv("COMM_TEST_STEPS");
  for (int step = 0; step < (steps == nullptr ? 1'000'000 : std::atoi(steps)); ++step) {
    control->set_progress({step, -1});
    if (step == 20) phase("decode", launch.rank);
    std::vector<std::byte> payload(64);
    if (launch.rank == 0) {
      control->send_step({.flags = step}, payload);
    } else if (!control->receive_step(payload, Milliseconds(20'000))) {
      throw DeviceError("no step came");
    }
    control->barrier("step");
    std::this_thread::sleep_for(Milliseconds(2));
  }
  control->close();
}

TEST(RankProcess, DISABLED_Rank) {
  try {
    run_rank();
    say("done");
    std::_Exit(0);
  } catch (const UserError& e) {
    say(e.what());
    std::_Exit(2);
  } catch (const DeviceError& e) {
    say(e.what());
    std::_Exit(4);
  }
}

// ---- the test's side ----

using Variables = std::map<std::string, std::string>;

class Process {
 public:
  explicit Process(Variables variables) {
    int pipe_ends[2];
    if (::pipe2(pipe_ends, O_CLOEXEC) != 0) throw DeviceError("pipe");
    out_ = Socket(pipe_ends[0]);
    const Socket write_end(pipe_ends[1]);
    std::vector<std::string> environment;
    for (char** e = environ; *e != nullptr; ++e) environment.emplace_back(*e);
    for (const auto& [name, value] : variables) environment.push_back(name + "=" + value);
    std::string program = std::filesystem::read_symlink("/proc/self/exe");
    std::string filter = "--gtest_filter=RankProcess.DISABLED_Rank",
                disabled = "--gtest_also_run_disabled_tests";
    std::string brief = "--gtest_brief=1";
    char* arguments[] = {program.data(), filter.data(), disabled.data(), brief.data(), nullptr};
    std::vector<char*> pointers;
    for (std::string& e : environment) pointers.push_back(e.data());
    pointers.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, write_end.fd(), STDOUT_FILENO);
    if (posix_spawn(&pid_, program.c_str(), &actions, nullptr, arguments, pointers.data()) != 0)
      throw DeviceError("posix_spawn");
    posix_spawn_file_actions_destroy(&actions);
  }
  Process(Process&& other) noexcept
      : out_(std::move(other.out_)), text_(other.text_), pid_(std::exchange(other.pid_, 0)) {}
  ~Process() {
    if (pid_ == 0) return;
    send(SIGKILL);
    finish();
  }
  void send(int signal) { ::kill(pid_, signal); }

  /// Reads until `part` has come; false at the end of the output or after 20 s.
  bool wait_for(const std::string& part) {
    while (text_.find(part) == std::string::npos)
      if (!read()) return false;
    return true;
  }
  /// Waits for the end; the exit code, or 128 + signal.
  int finish() {
    while (read()) {
    }
    int status = 0;
    ::waitpid(pid_, &status, 0);
    pid_ = 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  const std::string& text() const { return text_; }

 private:
  bool read() {
    pollfd ready{out_.fd(), POLLIN, 0};
    if (::poll(&ready, 1, 20'000) <= 0) {
      ADD_FAILURE() << "a rank hangs; so far: " << text_;
      send(SIGKILL);
      return false;
    }
    char buffer[4096];
    const ssize_t n = ::read(out_.fd(), buffer, sizeof buffer);
    if (n <= 0) return false;
    text_.append(buffer, static_cast<size_t>(n));
    return true;
  }

  Socket out_;
  std::string text_;
  pid_t pid_ = 0;
};

/// Ranks as torchrun starts them.
std::vector<Process> start(int world, const Variables& more) {
  const std::string port = std::to_string(free_port());
  std::vector<Process> ranks;
  for (int r = 0; r < world; ++r) {
    Variables variables{{"RANK", std::to_string(r)},
                        {"WORLD_SIZE", std::to_string(world)},
                        {"LOCAL_RANK", std::to_string(r)},
                        {"MASTER_ADDR", "127.0.0.1"},
                        {"MASTER_PORT", port}};
    variables.insert(more.begin(), more.end());
    ranks.emplace_back(variables);
  }
  return ranks;
}

double seconds_since(CommClock::time_point start) {
  return std::chrono::duration<double>(CommClock::now() - start).count();
}

TEST(RankProcess, RunToTheEnd) {
  auto ranks = start(4, {{"COMM_TEST_STEPS", "30"}});
  for (Process& rank : ranks) {
    EXPECT_EQ(rank.finish(), 0);
    EXPECT_HAS(rank.text(), "done");
  }
}

TEST(RankProcess, KilledRankIsNamedByAllOthers) {
  for (const char* at : {"load", "capture", "decode"}) {
    for (const size_t victim : {0u, 1u, 2u}) {
      SCOPED_TRACE(fmt::format("rank {} at {}", victim, at));
      auto ranks = start(3, {{"COMM_TEST_VICTIM", fmt::format("{}@{}", victim, at)}});
      ASSERT_TRUE(ranks[victim].wait_for(fmt::format("at {}", at)));
      std::this_thread::sleep_for(Milliseconds(20));  // the others get to where they wait for it
      const auto killed = CommClock::now();
      ranks[victim].send(SIGKILL);
      for (size_t r = 0; r < 3; ++r) {
        const int code = ranks[r].finish();
        if (r == victim) continue;
        EXPECT_EQ(code, 4);
        EXPECT_HAS(ranks[r].text(), fmt::format("rank {} (", victim));
        EXPECT_HAS(ranks[r].text(), "is gone: its connection closed");
      }
      EXPECT_LT(seconds_since(killed), 4);
    }
  }
}

TEST(RankProcess, RankKilledBeforeTheRendezvousIsMissing) {
  auto ranks = start(3, {{"COMM_TEST_VICTIM", "1@start"}, {"COMM_TEST_TIMEOUT_MS", "1500"}});
  ASSERT_TRUE(ranks[1].wait_for("at start"));
  ranks[1].send(SIGKILL);
  for (const size_t r : {0u, 2u}) {
    EXPECT_EQ(ranks[r].finish(), 4);
    EXPECT_HAS(ranks[r].text(), "rank 1 did not arrive at the rendezvous");
  }
}

TEST(RankProcess, RankKilledDuringTheRendezvous) {
  // Rank 2 waits, so that rank 1's hello is pending at rank 0 when it dies.
  auto ranks = start(3, {{"COMM_TEST_VICTIM", "2@start"}});
  ASSERT_TRUE(ranks[2].wait_for("at start"));
  std::this_thread::sleep_for(Milliseconds(500));
  const auto killed = CommClock::now();
  ranks[1].send(SIGKILL);
  EXPECT_EQ(ranks[0].finish(), 4);
  EXPECT_HAS(ranks[0].text(), "rank 1 (");
  EXPECT_HAS(ranks[0].text(), "died during the rendezvous");
  EXPECT_LT(seconds_since(killed), 4);
}

TEST(RankProcess, RankZeroKilledDuringTheRendezvous) {
  auto ranks = start(3, {{"COMM_TEST_VICTIM", "2@start"}});
  ASSERT_TRUE(ranks[2].wait_for("at start"));
  std::this_thread::sleep_for(Milliseconds(500));
  ranks[0].send(SIGKILL);
  EXPECT_EQ(ranks[1].finish(), 4);
  EXPECT_HAS(ranks[1].text(), "rank 0 at 127.0.0.1:");
  EXPECT_HAS(ranks[1].text(), "died during the rendezvous");
}

TEST(RankProcess, FrozenRankIsNoticedBySilence) {
  for (const size_t victim : {0u, 1u}) {
    auto ranks = start(3, {{"COMM_TEST_VICTIM", fmt::format("{}@decode", victim)},
                           {"COMM_TEST_SILENCE_MS", "1000"}});
    ASSERT_TRUE(ranks[victim].wait_for("at decode"));
    std::this_thread::sleep_for(Milliseconds(300));
    const auto stopped = CommClock::now();
    ranks[victim].send(SIGSTOP);
    for (size_t r = 0; r < 3; ++r) {
      if (r == victim) continue;
      EXPECT_EQ(ranks[r].finish(), 4);
      EXPECT_HAS(ranks[r].text(), fmt::format("rank {} (", victim));
      EXPECT_HAS(ranks[r].text(), "no sign of it for 1 s; it was at step 20");
    }
    EXPECT_LT(seconds_since(stopped), 4);
  }
}

TEST(RankProcess, TwoLaunchersThatDisagree) {
  const auto start_time = CommClock::now();
  auto ranks = start(2, {{"OMPI_COMM_WORLD_RANK", "3"}, {"OMPI_COMM_WORLD_SIZE", "4"}});
  for (Process& rank : ranks) {
    EXPECT_EQ(rank.finish(), 2);
    EXPECT_HAS(rank.text(), "two launchers disagree: torchrun says rank");
    EXPECT_HAS(rank.text(), "Open MPI says rank 3 of 4");
  }
  EXPECT_LT(seconds_since(start_time), 5);
}

}  // namespace
}  // namespace shunt
