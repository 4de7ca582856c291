// Codes of five and six bits for one row of activations: as int8, or as planes of 4+1 and 4+2 bits? AVX2.
//
//     g++ -O2 -mavx2 -std=c++20 -o build/split_planes bench/limits/split_planes.cpp && build/split_planes
//
// The inner loop alone, as a layer of one row has it: 32 k by 8 columns at a time into int32, without the scales. What
// is read comes from 64 MB (memory) or from 128 KB (the L2 cache). Sums are compared first. Processor time, the median
// of nine runs; 4 bits stand beside it as what nibbles alone take. Takes about 5 seconds.
//
//     int8     32 bytes are 4 k of 8 columns: two passes over their nibbles, the high ones weighing 16
//     nibbles  32 bytes are 8 k
//     4+1      nibbles, and 4 bytes hold the fifth bits of 32 codes: spread by VPSHUFB, tested, and put on top
//     4+2      nibbles, and 8 bytes hold two more bits of 32 codes
#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <vector>

namespace {

constexpr int kRowK = 1024;  // activations that are used again and again
constexpr int kRuns = 9;

double processor_seconds() {
  timespec t;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

__m256i load(const std::uint8_t* at) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)); }
std::int32_t word(const void* at) {
  std::int32_t v;
  __builtin_memcpy(&v, at, sizeof v);
  return v;
}

// acc + weight * shorts. A pair of products is at most 2 * 128 * 15, 31 or 63, so int16 holds 8 of nibbles, 4 of five
// and 2 of six bits.
__m256i wide(__m256i acc, __m256i shorts, int weight) {
  const __m256i by = _mm256_set1_epi16(static_cast<short>(weight));
  return _mm256_add_epi32(acc, _mm256_madd_epi16(shorts, by));
}

__m256i int8_block(__m256i acc, const std::uint8_t* codes, const std::int8_t* row) {
  const __m256i mask = _mm256_set1_epi8(15);
  __m256i low = _mm256_setzero_si256(), high = low;
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    const __m256i both = load(codes + 32 * i), x = _mm256_set1_epi32(word(row + 4 * i));
    low = _mm256_add_epi16(low, _mm256_maddubs_epi16(_mm256_and_si256(both, mask), x));
    const __m256i upper = _mm256_and_si256(_mm256_srli_epi16(both, 4), mask);
    high = _mm256_add_epi16(high, _mm256_maddubs_epi16(upper, x));
  }
  return wide(wide(acc, low, 1), high, 16);
}

// kExtra bits above the nibbles; 128 bytes of nibbles, then the bits.
template <int kExtra>
__m256i plane_block(__m256i acc, const std::uint8_t* codes, const std::int8_t* row) {
  const __m256i mask = _mm256_set1_epi8(15);
  const __m256i spread = _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3,
                                          3, 3, 3, 3, 3, 3);
  const __m256i each = _mm256_set1_epi64x(static_cast<long long>(0x8040201008040201ull));
  constexpr int kTogether = kExtra == 0 ? 8 : kExtra == 1 ? 4 : 2;
  __m256i shorts = _mm256_setzero_si256();
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    const __m256i both = load(codes + 32 * (i / 2));
    __m256i code = _mm256_and_si256(i % 2 ? _mm256_srli_epi16(both, 4) : both, mask);
    for (int plane = 0; plane < kExtra; ++plane) {
      const __m256i bits = _mm256_set1_epi32(word(codes + 128 + 32 * plane + 4 * i));
      const __m256i set = _mm256_cmpeq_epi8(_mm256_and_si256(_mm256_shuffle_epi8(bits, spread), each), each);
      code = _mm256_or_si256(code, _mm256_and_si256(set, _mm256_set1_epi8(static_cast<char>(16 << plane))));
    }
    shorts = _mm256_add_epi16(shorts, _mm256_maddubs_epi16(code, _mm256_set1_epi32(word(row + 4 * i))));
    if (i % kTogether == kTogether - 1) {
      acc = wide(acc, shorts, 1);
      shorts = _mm256_setzero_si256();
    }
  }
  return acc;
}

using Block = __m256i (*)(__m256i, const std::uint8_t*, const std::int8_t*);

template <Block kBlock, int kBytes>
[[gnu::noinline]] __m256i sums(const std::vector<std::uint8_t>& codes, const std::int8_t* row) {
  __m256i acc[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
  const std::int64_t blocks = static_cast<std::int64_t>(codes.size()) / kBytes;
  for (std::int64_t i = 0; i + 1 < blocks; i += 2) {
    const std::int8_t* at = row + 32 * i % kRowK;
    acc[0] = kBlock(acc[0], codes.data() + i * kBytes, at);
    acc[1] = kBlock(acc[1], codes.data() + (i + 1) * kBytes, at + 32);
  }
  return _mm256_add_epi32(acc[0], acc[1]);
}

struct Form {
  const char* name;
  int bits, bytes;  // of a code; of a block of 256
  __m256i (*run)(const std::vector<std::uint8_t>&, const std::int8_t*);
};

// Block i of the form, of codes that every form holds alike as far as its bits go.
void put_block(const Form& form, std::uint8_t* to, const std::uint8_t* codes) {
  for (int i = 0; i < 8; ++i) {
    for (int j = 0; j < 32; ++j) {
      const int code = codes[32 * i + j];
      if (form.bytes == 256) {
        to[32 * i + j] = static_cast<std::uint8_t>(code);
        continue;
      }
      to[32 * (i / 2) + j] = static_cast<std::uint8_t>(to[32 * (i / 2) + j] | (code & 15) << (i % 2 ? 4 : 0));
      for (int plane = 0; plane + 4 < form.bits; ++plane) {
        std::uint8_t& byte = to[128 + 32 * plane + 4 * i + j / 8];
        byte = static_cast<std::uint8_t>(byte | ((code >> (4 + plane)) & 1) << (j % 8));
      }
    }
  }
}

std::vector<std::uint8_t> held(const Form& form, std::int64_t bytes, int bits) {
  const std::int64_t blocks = bytes / form.bytes / 2 * 2;
  std::vector<std::uint8_t> to(static_cast<std::size_t>(blocks * form.bytes)), codes(256);
  std::uint32_t state = 1;
  for (std::int64_t i = 0; i < blocks; ++i) {
    if (i < 64) {
      for (auto& code : codes) code = static_cast<std::uint8_t>((state = state * 1664525u + 1013904223u) >> (32 - bits));
      put_block(form, to.data() + i * form.bytes, codes.data());
    } else {
      std::copy_n(to.data() + i % 64 * form.bytes, form.bytes, to.data() + i * form.bytes);
    }
  }
  return to;
}

}  // namespace

int main() {
  if (!__builtin_cpu_supports("avx2")) return std::puts("split_planes: this CPU lacks AVX2"), 0;
  const Form forms[] = {{"int8", 8, 256, sums<int8_block, 256>},
                        {"nibbles", 4, 128, sums<plane_block<0>, 128>},
                        {"4+1", 5, 160, sums<plane_block<1>, 160>},
                        {"4+2", 6, 192, sums<plane_block<2>, 192>}};
  std::vector<std::int8_t> row(kRowK + 32);
  for (int i = 0; i < kRowK + 32; ++i) row[static_cast<std::size_t>(i)] = static_cast<std::int8_t>(i * 37 % 255 - 127);
  for (const Form& form : forms) {  // each against int8 of the same codes
    const __m256i a = form.run(held(form, 64 * form.bytes, std::min(form.bits, 6)), row.data());
    const __m256i b = forms[0].run(held(forms[0], 64 * 256, std::min(form.bits, 6)), row.data());
    if (__builtin_memcmp(&a, &b, sizeof a) != 0) return std::printf("split_planes: %s is wrong\n", form.name), 1;
  }
  std::printf("%-8s %-9s %10s %10s\n", "codes", "from", "GB/s", "Gcodes/s");
  for (const std::int64_t codes : {std::int64_t{64} << 20, std::int64_t{128} << 10}) {
    std::vector<std::vector<std::uint8_t>> all;
    for (const Form& form : forms) all.push_back(held(form, codes / 256 * form.bytes, 4));
    std::vector<double> times[4];
    const int calls = codes > (1 << 20) ? 1 : 64;
    for (int run = 0; run <= kRuns; ++run) {
      for (int f = 0; f < 4; ++f) {
        const double start = processor_seconds();
        for (int call = 0; call < calls; ++call) {
          volatile __m256i kept = forms[f].run(all[static_cast<std::size_t>(f)], row.data());
          (void)kept;
        }
        if (run > 0) times[f].push_back((processor_seconds() - start) / calls);
      }
    }
    for (int f = 0; f < 4; ++f) {
      std::sort(times[f].begin(), times[f].end());
      const double median = times[f][kRuns / 2], bytes = static_cast<double>(all[static_cast<std::size_t>(f)].size());
      std::printf("%-8s %-9s %10.1f %10.1f\n", forms[f].name, calls == 1 ? "memory" : "L2", 1e-9 * bytes / median,
                  1e-9 * static_cast<double>(codes) / median);
    }
  }
  return 0;
}
