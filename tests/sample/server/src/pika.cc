#include <errno.h>
#include <fcntl.h>
#include <glog/logging.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <fstream>
#include <iostream>
#include <memory>

#include "pika_conf.h"
#include "pika_server.h"
#include "pika_util.h"
#include "pika_version.h"

namespace {

// Descriptors for everything that is not a client: segments, logs, replicas.
const int64_t kReservedFiles = 5000;

void PrintVersion() {
  std::cout << "pika_version: " << kPikaVersion << "\n"
            << "pika_git_sha: " << kPikaGitSha << "\n"
            << "pika_build_compile_date: " << kPikaCompileDate << std::endl;
}

void PrintUsage() {
  std::cerr << "usage: pika -c conf/pika.conf   run the server with this configuration\n"
            << "       pika -v                  print the version\n"
            << "       pika -h                  print this\n";
}

// The path in *conf_path, or the exit status if there is nothing to run.
bool ParseArguments(int argc, char** argv, std::string* conf_path, int* status) {
  *status = 255;
  int option;
  while ((option = getopt(argc, argv, "c:hv")) != -1) {
    if (option == 'c') {
      *conf_path = optarg;
    } else if (option == 'v') {
      PrintVersion();
      *status = 0;
      return false;
    } else {
      PrintUsage();
      *status = option == 'h' ? 0 : 255;
      return false;
    }
  }
  if (conf_path->empty()) PrintUsage();
  return !conf_path->empty();
}

bool RaiseFileLimit(int64_t maxclients, std::string* error) {
  const rlim_t needed = static_cast<rlim_t>(maxclients + kReservedFiles);
  rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) {
    *error = std::string("getrlimit: ") + strerror(errno);
    return false;
  }
  if (limit.rlim_cur >= needed) return true;
  const rlim_t had = limit.rlim_cur;
  limit.rlim_cur = needed;
  if (limit.rlim_max < needed) limit.rlim_max = needed;  // root may
  if (setrlimit(RLIMIT_NOFILE, &limit) == 0) return true;
  *error = "the limit of open files is " + std::to_string(had) + ", but maxclients " +
           std::to_string(maxclients) + " needs " + std::to_string(needed) +
           ": raise it (ulimit -n, LimitNOFILE) or lower maxclients";
  return false;
}

void Daemonize() {
  const pid_t child = fork();
  if (child < 0) {
    perror("fork");
    exit(1);
  }
  if (child > 0) _exit(0);
  setsid();
  const int null = open("/dev/null", O_RDWR);
  if (null < 0) return;
  dup2(null, STDIN_FILENO);
  dup2(null, STDOUT_FILENO);
  dup2(null, STDERR_FILENO);
  if (null > STDERR_FILENO) close(null);
}

void StartLogging(const char* program, const PikaConf& conf) {
  FLAGS_log_dir = conf.GetFolder("log-path");
  FLAGS_alsologtostderr = !conf.GetBool("daemonize");
  FLAGS_logbufsecs = 0;
  FLAGS_max_log_size = 1800;
  google::InitGoogleLogging(program);
}

bool MakeConfiguredFolders(const PikaConf& conf) {
  for (const char* key : {"log-path", "db-path", "dump-path", "db-sync-path"}) {
    const std::string folder = conf.GetFolder(key);
    if (MakeFolders(folder)) continue;
    std::cerr << "pika: cannot make " << folder << " (" << key << "): " << strerror(errno)
              << std::endl;
    return false;
  }
  return true;
}

// Blocks the signals that end the server in every thread to come, so that only
// sigwait() takes them.
sigset_t BlockStopSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGQUIT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);
  return signals;
}

// Serves until told to stop. The exit status of the program.
int RunServer(PikaConf* conf) {
  std::string error;
  if (!RaiseFileLimit(conf->GetInt("maxclients"), &error)) {
    LOG(ERROR) << error;
    return 1;
  }
  const sigset_t stop_signals = BlockStopSignals();
  const bool daemonize = conf->GetBool("daemonize");
  const std::string pidfile = conf->Get("pidfile");

  std::unique_ptr<PikaServer> server(new PikaServer(conf));
  if (!server->Start(&error)) {
    LOG(ERROR) << error;
    server->Stop();
    return 1;
  }
  if (daemonize) std::ofstream(pidfile) << getpid() << std::endl;
  LOG(INFO) << "pika " << kPikaVersion << " serves port " << conf->GetInt("port");

  int status = 0;
  sigwait(&stop_signals, &status);
  LOG(INFO) << "stopped by signal " << status;
  server->Stop();
  if (daemonize) unlink(pidfile.c_str());
  return status;
}

}  // namespace

int main(int argc, char** argv) {
  std::string conf_path;
  int status = 255;
  if (!ParseArguments(argc, argv, &conf_path, &status)) return status;

  PikaConf conf;
  std::string error;
  if (!conf.Load(conf_path, &error)) {
    std::cerr << "pika: " << error << std::endl;
    return 255;
  }
  if (!MakeConfiguredFolders(conf)) return 255;
  // Before there are threads: a fork keeps only the one that calls it.
  if (conf.GetBool("daemonize")) Daemonize();
  StartLogging(argv[0], conf);

  status = RunServer(&conf);
  google::ShutdownGoogleLogging();
  return status;
}
