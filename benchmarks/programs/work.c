// Sort, hash map, strings, matrix product, bits, memory and floating point: what compilers make vector code of.
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N = 64, SLOTS = 1024 };

struct slot {
    uint64_t key;
    uint32_t count;
};

static int by_value(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

__attribute__((noinline)) static void multiply(const double *a, const double *b, double *out) {
    for (int i = 0; i < N; i++)
        for (int k = 0; k < N; k++)
            for (int j = 0; j < N; j++)
                out[i * N + j] += a[i * N + k] * b[k * N + j];
}

__attribute__((noinline)) static uint64_t bits(const uint64_t *words, int count) {
    uint64_t sum = 0;
    for (int i = 0; i < count; i++) {
        sum += (uint64_t)__builtin_popcountll(words[i]);
        if (words[i])
            sum += (uint64_t)__builtin_ctzll(words[i]) + (uint64_t)__builtin_clzll(words[i]);
        sum ^= words[i] & -words[i];
        sum ^= words[i] >> (sum & 63);
    }
    return sum;
}

__attribute__((noinline)) static void insert(struct slot *map, uint64_t key) {
    uint64_t at = (key * 0x9e3779b97f4a7c15u) >> 54;
    while (map[at].count && map[at].key != key)
        at = (at + 1) % SLOTS;
    map[at].key = key;
    map[at].count++;
}

__attribute__((noinline)) static uint32_t mix(const unsigned char *text, size_t length) {
    uint32_t sum = 1;
    for (size_t i = 0; i < length; i++)
        sum += (uint32_t)text[i] * 31u + (sum >> 3);
    uint32_t flat = 0;
    for (size_t i = 0; i < length; i++)
        flat += text[i];
    return sum ^ flat;
}

__attribute__((noinline)) static float norm(const float *values, int count) {
    float sum = 0;
    for (int i = 0; i < count; i++)
        sum += values[i] * values[i] + 0.5f;
    return sqrtf(sum);
}

int main(int argc, char **argv) {
    static double a[N * N], b[N * N], c[N * N];
    static uint64_t words[SLOTS / 2];
    static struct slot map[SLOTS];
    static float values[SLOTS];
    uint64_t state = (uint64_t)argc;
    for (int i = 0; i < SLOTS / 2; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        words[i] = state;
        insert(map, state >> 56);
        values[i] = (float)(state >> 40);
    }
    for (int i = 0; i < N * N; i++)
        a[i] = (double)i, b[i] = (double)(N * N - i);
    multiply(a, b, c);
    qsort(words, SLOTS / 2, sizeof *words, by_value);
    char text[512] = "";
    for (int i = 0; i < argc; i++)
        strncat(text, argv[i], sizeof text - strlen(text) - 1);
    char *copy = malloc(sizeof text);
    if (copy == NULL)
        return 1;
    memcpy(copy, text, sizeof text);
    printf("%g %llu %u %g %d %s\n", c[N], (unsigned long long)bits(words, SLOTS / 2),
           mix((unsigned char *)copy, sizeof text), (double)norm(values, SLOTS), strcmp(copy, text),
           strstr(copy, "x") ? "x" : "-");
    free(copy);
    return 0;
}
