// SPDX-License-Identifier: Apache-2.0
// What every operator promises about misuse and memory, as checks that take the call.
#pragma once

#include <gtest/gtest.h>

#include <initializer_list>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "mla/argument.h"
#include "tokamak/error.h"
#include "tokamak/plan.h"

namespace tokamak::test {

/// The call throws with this code, and the message holds every one of the texts.
template <class Call>
void expect_refused(const Call& call, std::initializer_list<std::string> texts,
                    ErrorCode code = ErrorCode::invalid_argument) {
    try {
        call();
        ADD_FAILURE() << "not refused; expected a message with \"" << *texts.begin() << "\"";
    } catch (const Error& error) {
        EXPECT_EQ(error.code(), code) << error.what();
        for (const std::string& text : texts)
            EXPECT_NE(std::string(error.what()).find(text), std::string::npos)
                << "message \"" << error.what() << "\" lacks \"" << text << "\"";
    }
}

/// Contents that a workspace may hold before a run.
inline std::vector<std::vector<std::uint8_t>> workspace_contents(std::size_t bytes) {
    std::mt19937 random(std::random_device{}());
    std::vector<std::vector<std::uint8_t>> contents = {std::vector<std::uint8_t>(bytes, 0x00),
                                                       std::vector<std::uint8_t>(bytes, 0xFF),
                                                       std::vector<std::uint8_t>(bytes)};
    for (std::uint8_t& byte : contents.back()) byte = static_cast<std::uint8_t>(random());
    return contents;
}

/// The size is the end of the last slice, slices do not overlap and lie on multiples of the alignment.
inline void expect_exact_layout(const Plan& plan) {
    std::size_t end = 0;
    for (const auto& entry : plan.layout().entries()) {
        EXPECT_EQ(entry.offset % WorkspaceLayout::alignment, 0U) << entry.name;
        EXPECT_GE(entry.offset, end) << entry.name;
        end = entry.offset + entry.bytes;
    }
    EXPECT_EQ(plan.workspace().bytes, end);
}

/// `size_for(max_tokens)` never shrinks.
template <class SizeFor>
void expect_monotone(const SizeFor& size_for) {
    std::size_t previous = 0;
    for (const std::int64_t tokens : {0, 1, 2, 3, 5, 8, 64, 100, 1000, 4096}) {
        const std::size_t bytes = size_for(tokens);
        EXPECT_GE(bytes, previous) << tokens << " tokens";
        previous = bytes;
    }
}

/// Runs `call(thread)` in several threads at once.
template <class Call>
void in_threads(int threads, const Call& call) {
    std::vector<std::thread> running;
    for (int i = 0; i < threads; ++i) running.emplace_back([&call, i] { call(i); });
    for (std::thread& thread : running) thread.join();
}

}  // namespace tokamak::test
