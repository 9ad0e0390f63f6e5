// SPDX-License-Identifier: Apache-2.0
// What several threads may do at once. Also built with the core under ThreadSanitizer (TOKAMAK_TSAN).
#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "core/choose.h"
#include "core/config_store.h"
#include "core/plan_state.h"
#include "support/scoped.h"
#include "support/temporary_folder.h"
#include "tokamak/plan.h"
#include "tokamak/tensor.h"

namespace tokamak {
namespace {

constexpr int kThreads = 4;

template <class Work>
void in_threads(int count, const Work& work) {
    std::vector<std::thread> threads;
    for (int index = 0; index < count; ++index) threads.emplace_back([&work, index] { work(index); });
    for (std::thread& thread : threads) thread.join();
}

struct ToyProblem {
    int width = 3;
};

PlanOf<ToyProblem> toy_plan(std::int64_t max_tokens) {
    auto state = std::make_shared<detail::TypedState<ToyProblem>>();
    choose_cpu(*state, "toy", Device::cpu(), max_tokens, {});
    state->layout.add<float>("rows", static_cast<std::size_t>(max_tokens));
    return detail::to_plan<ToyProblem, detail::TypedState<ToyProblem>>(std::move(state));
}

TEST(Concurrency, OnePlanServesManyThreads) {
    std::atomic<int> wrong = 0;
    auto plan = std::make_unique<PlanOf<ToyProblem>>(toy_plan(5000));
    in_threads(kThreads, [&](int index) {
        const PlanOf<ToyProblem> mine = *plan;
        for (std::int64_t tokens = index; tokens <= 5000; tokens += kThreads)
            if (mine.row_for(tokens).tokens < tokens || mine.workspace().bytes != 20000 || mine.problem().width != 3)
                ++wrong;
        if (mine.explain().find("tokens <= 4096") == std::string::npos) ++wrong;
    });
    EXPECT_EQ(wrong, 0);
}

TEST(Concurrency, PlansAreMadeAndDroppedByManyThreads) {
    std::atomic<int> wrong = 0;
    in_threads(kThreads, [&](int index) {
        for (int i = 0; i < 50; ++i)
            if (toy_plan(100 + index).max_tokens() != 100 + index) ++wrong;
    });
    EXPECT_EQ(wrong, 0);
}

TEST(Concurrency, WarningsAreSerialisedAndNoneIsLost) {
    const test::CapturedLog log;  // a vector without a lock of its own
    in_threads(kThreads, [](int index) {
        for (int i = 0; i < 200; ++i) warn("thread " + std::to_string(index));
    });
    EXPECT_EQ(log.messages().size(), std::size_t{kThreads} * 200);
}

TEST(Concurrency, AReplacedSinkIsNotRunningAnyMore) {
    const test::CapturedLog outer;
    std::atomic<bool> stop = false;
    std::thread writer([&] {
        while (!stop) warn("w");
    });
    for (int i = 0; i < 200; ++i) {
        auto state = std::make_unique<std::string>("alive");
        LogSink previous = set_log_sink([&text = *state](const std::string&) { text += "."; });
        std::this_thread::yield();
        set_log_sink(std::move(previous));
    }
    stop = true;
    writer.join();
}

TEST(Concurrency, UserStoreIsReadWhileItIsReplaced) {
    const test::TemporaryFolder folder;
    const std::string path = folder.file("store.json");
    const auto save = [&](int version) {
        ConfigStore store;
        for (int entry = 0; entry < 20; ++entry)
            store.set("gpu", "p" + std::to_string(entry), {{1, "v" + std::to_string(version)}});
        store.save(path);
    };
    save(0);
    const test::ScopedVariable set(environment::kConfigStore, path);
    const test::CapturedLog log;
    std::atomic<bool> done = false;
    std::atomic<int> wrong = 0;
    std::vector<std::thread> readers;
    for (int index = 0; index < kThreads; ++index)
        readers.emplace_back([&] {
            while (!done) {
                const auto store = ConfigStore::user();
                // Never empty, never half of one version and half of another.
                const TunedTable* first = store->find("gpu", "p0");
                for (int entry = 0; entry < 20; ++entry) {
                    const TunedTable* table = store->find("gpu", "p" + std::to_string(entry));
                    if (first == nullptr || table == nullptr || *table != *first) ++wrong;
                }
            }
        });
    in_threads(2, [&](int writer) {
        for (int version = 1; version <= 50; ++version) save(writer * 1000 + version);
    });
    save(9999);
    EXPECT_EQ(ConfigStore::user()->find("gpu", "p7")->at(0).variant, "v9999");
    done = true;
    for (std::thread& reader : readers) reader.join();
    EXPECT_EQ(wrong, 0);
    EXPECT_TRUE(log.messages().empty()) << log.messages()[0];
}

TEST(Concurrency, DeviceFactsAndSharedTensors) {
    const OwnedTensor shared = OwnedTensor::allocate(DType::i32, {kThreads, 64});
    in_threads(kThreads, [&](int index) {
        const Tensor row = shared.view().at(index);
        for (int i = 0; i < 64; ++i) row.as<std::int32_t>()[i] = index;
        EXPECT_EQ(device_info(Device::cpu()).name, "cpu");
        EXPECT_EQ(list_devices().front().device, Device::cpu());
    });
    for (int index = 0; index < kThreads; ++index) EXPECT_EQ(shared.as<std::int32_t>()[index * 64 + 63], index);
}

}  // namespace
}  // namespace tokamak
