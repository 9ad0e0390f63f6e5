// SPDX-License-Identifier: Apache-2.0
// pack_checkpoint: a plan, a temporary file with its journal, layer after layer, and the final name.
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <mutex>

#include "core/throw.h"
#include "formats/pack_journal.h"
#include "formats/pack_layer.h"
#include "formats/pack_plan.h"
#include "tokamak/packed_file.h"

namespace tokamak {
namespace {

using formats::LayerJob;
using formats::OpenFile;
using formats::PackJournal;
using formats::PackPlan;
using formats::PlannedLayer;

/// Counts bytes from all threads and tells the observer.
class Progress {
  public:
    explicit Progress(const PackObserver& observer) : observer_(observer) {}

    void begin(const char* phase, std::size_t total) { now_ = {phase, 0, 0, total}; }
    void layer(int number) { now_.layer = number; }
    void add(std::size_t bytes) {
        const std::lock_guard lock(mutex_);
        now_.bytes += bytes;
        if (observer_) observer_(now_);
    }

  private:
    const PackObserver& observer_;
    std::mutex mutex_;
    PackProgress now_;
};

/// What layers have in common.
struct Run {
    const PackRequest& request;
    const PackPlan& plan;
    const OpenFile& output;
    Progress& progress;
    std::function<void(std::size_t)> done = [this](std::size_t bytes) { progress.add(bytes); };

    [[nodiscard]] LayerJob job(const PlannedLayer& layer) {
        progress.layer(layer.sizes.layer);
        return {plan, layer, output, request.threads, done};
    }
};

/// Whether the partial file is the one that the journal speaks about.
bool has_header(const OpenFile& partial, const PackPlan& plan) {
    if (partial.size() != plan.file_bytes) return false;
    std::string header(plan.header.size(), '\0');
    partial.read_at(0, header.data(), header.size());
    return header == plan.header;
}

void check_journaled(Run& run, PackJournal& journal) {
    std::size_t total = 0;
    for (const PlannedLayer& layer : run.plan.layers)
        if (journal.layers().count(layer.sizes.layer) > 0) total += layer.packed_bytes();
    run.progress.begin("checking", total);
    for (const PlannedLayer& layer : run.plan.layers) {
        const auto found = journal.layers().find(layer.sizes.layer);
        if (found != journal.layers().end() && formats::sum_layer(run.job(layer)) != found->second)
            journal.forget(layer.sizes.layer);
    }
}

void write_missing(Run& run, PackJournal& journal) {
    std::size_t total = 0;
    for (const PlannedLayer& layer : run.plan.layers)
        if (journal.layers().count(layer.sizes.layer) == 0) total += layer.packed_bytes();
    run.progress.begin("packing", total);
    for (const PlannedLayer& layer : run.plan.layers) {
        if (journal.layers().count(layer.sizes.layer) > 0) continue;
        const std::uint64_t sum = formats::write_layer(run.job(layer));
        run.output.sync();  // before the journal says so
        journal.add(layer.sizes.layer, sum);
    }
}

/// A layer that differs is forgotten, so that the next call packs it again.
void verify_all(Run& run, PackJournal* journal) {
    run.progress.begin("verifying", run.plan.packed_bytes());
    for (const PlannedLayer& layer : run.plan.layers) {
        try {
            formats::verify_layer(run.job(layer));
        } catch (const Error&) {
            if (journal != nullptr) journal->forget(layer.sizes.layer);
            throw;
        }
    }
}

/// One process at a time writes an output.
void lock(const OpenFile& partial) {
    if (::flock(partial.descriptor(), LOCK_EX | LOCK_NB) == 0) return;
    if (errno == EWOULDBLOCK) fail(ErrorCode::io, "{}: another process is writing it", partial.path());
    formats::fail_with_errno(partial.path(), "cannot be locked", errno);
}

/// Opens and locks the partial file. Another process may have given it its final name between the two, and then what is
/// locked is that process's output.
OpenFile claim_partial(const std::string& path) {
    OpenFile partial(path, O_RDWR | O_CREAT);
    lock(partial);
    struct stat locked {};
    struct stat named {};
    if (::fstat(partial.descriptor(), &locked) != 0) formats::fail_with_errno(path, "cannot be examined", errno);
    if (::stat(path.c_str(), &named) != 0 || locked.st_ino != named.st_ino || locked.st_dev != named.st_dev)
        fail(ErrorCode::io, "{}: another process has just finished it", path);
    return partial;
}

void take_name(const std::string& partial, const std::string& output) {
    if (std::rename(partial.c_str(), output.c_str()) != 0)
        formats::fail_with_errno(output, "cannot take its name", errno);
    const std::string folder = std::filesystem::path(output).parent_path().string();
    const OpenFile directory(folder.empty() ? "." : folder, O_RDONLY | O_DIRECTORY);
    (void)::fsync(directory.descriptor());  // the name too; a file system that cannot do that has done its best
}

PackReport report_of(const PackPlan& plan) {
    PackReport report;
    for (const PlannedLayer& layer : plan.layers) report.layers.push_back(layer.sizes.layer);
    report.bytes = static_cast<std::size_t>(plan.file_bytes);
    return report;
}

}  // namespace

PackReport pack_checkpoint(const PackRequest& request, const PackObserver& observer) {
    std::error_code ignored;
    if (request.output.empty()) invalid("pack: `output` is empty, expected a path");
    if (!request.overwrite && std::filesystem::exists(request.output, ignored))
        fail(ErrorCode::io, "{}: exists already", request.output);
    if (std::filesystem::is_directory(request.output, ignored))
        fail(ErrorCode::io, "{}: is a directory, expected the path of a file", request.output);
    const PackPlan plan = formats::make_pack_plan(request);
    const std::string partial_path = request.output + ".partial";
    const std::string journal_path = partial_path + ".journal";
    const OpenFile partial = claim_partial(partial_path);
    PackJournal journal(journal_path, plan.identity());
    if (!has_header(partial, plan)) {
        journal.clear();
        partial.resize(0);
        partial.resize(plan.file_bytes);
        partial.write_at(0, plan.header.data(), plan.header.size());
    }
    Progress progress(observer);
    Run run{request, plan, partial, progress};
    check_journaled(run, journal);
    PackReport report = report_of(plan);
    for (const auto& [layer, sum] : journal.layers()) report.kept_layers.push_back(layer);
    write_missing(run, journal);
    if (request.verify) verify_all(run, &journal);
    report.verified = request.verify;
    take_name(partial_path, request.output);
    std::filesystem::remove(journal_path, ignored);
    return report;
}

PackReport verify_packed_file(const PackRequest& request, const PackObserver& observer) {
    const PackPlan plan = formats::make_pack_plan(request);
    const OpenFile output(request.output, O_RDONLY);
    if (!has_header(output, plan))
        fail(ErrorCode::parse, "{}: is not what this request makes of {}: sizes, layers, slices or formats differ",
             request.output, plan.source->path());
    Progress progress(observer);
    Run run{request, plan, output, progress};
    verify_all(run, nullptr);
    PackReport report = report_of(plan);
    report.verified = true;
    return report;
}

}  // namespace tokamak
