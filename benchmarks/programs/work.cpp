// Sort, hash map, strings, matrix product, bits, memory and floating point, with the standard library.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <iostream>
#include <map>
#include <numeric>
#include <sstream>
#include <string>
#include <unordered_map>
#include <vector>

template <typename T> __attribute__((noinline)) std::vector<T> multiply(const std::vector<T> &a, const std::vector<T> &b, size_t n) {
    std::vector<T> out(n * n);
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < n; k++)
            for (size_t j = 0; j < n; j++)
                out[i * n + j] += a[i * n + k] * b[k * n + j];
    return out;
}

__attribute__((noinline)) uint64_t bits(const std::vector<uint64_t> &words) {
    uint64_t sum = 0;
    for (uint64_t word : words) {
        sum += __builtin_popcountll(word);
        if (word != 0)
            sum += __builtin_ctzll(word) + __builtin_clzll(word);
        sum ^= word & -word;
        sum ^= word << (sum & 63);
    }
    return sum;
}

int main(int argc, char **argv) {
    std::vector<uint64_t> words(4096);
    uint64_t state = argc;
    for (auto &word : words)
        word = state = state * 6364136223846793005u + 1442695040888963407u;
    std::unordered_map<std::string, int> counts;
    std::map<uint64_t, std::string> ordered;
    for (int i = 0; i < argc; i++)
        counts[argv[i]]++;
    for (size_t i = 0; i < 64; i++)
        ordered[words[i]] = std::to_string(words[i]);
    std::sort(words.begin(), words.end());
    std::vector<double> a(64 * 64, 1.5), b(64 * 64, 0.5);
    std::vector<float> f(64 * 64, 1.5f), g(64 * 64, 0.5f);
    auto c = multiply(a, b, 64);
    auto h = multiply(f, g, 64);
    std::vector<int> numbers(1024);
    std::iota(numbers.begin(), numbers.end(), argc);
    std::ostringstream out;
    out << std::accumulate(numbers.begin(), numbers.end(), 0) << ' ' << std::sqrt(c[1]) << ' ' << h[2] << ' '
        << bits(words) << ' ' << counts.size();
    std::string text = out.str();
    std::reverse(text.begin(), text.end());
    std::vector<char> copy(text.size() + 1);
    std::memcpy(copy.data(), text.c_str(), text.size());
    std::cout << copy.data() << ' ' << ordered.begin()->second << ' ' << text.find("12") << '\n';
    return 0;
}
