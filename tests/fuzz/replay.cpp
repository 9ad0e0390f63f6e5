// SPDX-License-Identifier: Apache-2.0
// Runs a fuzz target on every file of a folder: what is done where libFuzzer is missing. Each file is also cut short at
// every length and changed at every byte, so that little is better than nothing.
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "fuzz/fuzz_target.h"

namespace {

void run(const std::string& bytes) {
    // A copy without spare capacity, so that AddressSanitizer sees a byte too far.
    const std::vector<std::uint8_t> copy(bytes.begin(), bytes.end());
    (void)LLVMFuzzerTestOneInput(copy.data(), copy.size());
}

void run_around(const std::string& bytes) {
    run(bytes);
    for (std::size_t i = 0; i < std::min<std::size_t>(bytes.size(), 2000); ++i) {
        run(bytes.substr(0, i));
        for (const char with : {'\0', '"', '{', '9', static_cast<char>(bytes[i] ^ 1)}) {
            std::string changed = bytes;
            changed[i] = with;
            run(changed);
        }
    }
}

}  // namespace

int main(int argc, char** argv) {
    int files = 0;
    for (int i = 1; i < argc; ++i)
        for (const auto& entry : std::filesystem::directory_iterator(argv[i])) {
            std::ifstream file(entry.path(), std::ios::binary);
            run_around({std::istreambuf_iterator<char>(file), {}});
            ++files;
        }
    std::printf("%d files\n", files);
    return files == 0 ? 1 : 0;
}
