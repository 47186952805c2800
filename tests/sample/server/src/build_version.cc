#include "pika_version.h"

const char kPikaVersion[] = "3.4.0";
const char kPikaGitSha[] = PIKA_GIT_SHA;
// The compiler's own clock, which follows SOURCE_DATE_EPOCH where it is set.
const char kPikaCompileDate[] = __DATE__ " " __TIME__;
