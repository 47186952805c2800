#ifndef PINK_THREAD_POOL_H_
#define PINK_THREAD_POOL_H_

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace pink {

// Threads that sleep until there is a task.
class ThreadPool {
 public:
  explicit ThreadPool(size_t threads);
  ~ThreadPool() { Stop(); }

  // Ignored after Stop().
  void Schedule(std::function<void()> task);
  // Waits for the tasks that run, and drops those that have not begun.
  void Stop();

 private:
  ThreadPool(const ThreadPool&);
  ThreadPool& operator=(const ThreadPool&);
  void Work();

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> tasks_;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace pink

#endif  // PINK_THREAD_POOL_H_
