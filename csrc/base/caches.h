// How large the caches are that a core computes from, as the operating system describes them.
#pragma once

#include <cstddef>
#include <string>

namespace octavo {

// L2 is one core's part of it: where a cluster of cores shares one (Cortex-A72, Gracemont, Apple's cores), its size
// divided by their number. L3 is whole. A level that the system does not describe has a modest default: 32 KiB,
// 256 KiB, 2 MiB.
struct CacheSizes {
  std::size_t l1d_bytes = 32 << 10, l2_bytes = 256 << 10, l3_bytes = 2 << 20;
};

// The data caches of the first CPU, read once, at first use.
const CacheSizes& cache_sizes();

// What Linux says of one CPU, in a folder such as /sys/devices/system/cpu/cpu0.
CacheSizes caches_described_in(const std::string& cpu_folder);

}  // namespace octavo
