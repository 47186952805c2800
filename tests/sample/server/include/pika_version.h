#ifndef PIKA_VERSION_H_
#define PIKA_VERSION_H_

extern const char kPikaVersion[];
// Empty for a build outside of a git repository.
extern const char kPikaGitSha[];
extern const char kPikaCompileDate[];

#endif  // PIKA_VERSION_H_
