// SPDX-License-Identifier: Apache-2.0
// The seam to the CUDA kernels: each operator's .cpp file checks problem and arguments, then hands a CUDA device over
// to these functions and a CPU to src/mla/cpu. Operators without kernels yet are in absent.cpp; one that gets kernels
// moves its three functions from there to a file of its own name in this folder.
#pragma once

#include "tokamak/mla.h"

namespace tokamak::mla::cuda {

/// The problem is well-formed already.
Support supports(const SparseAttentionProblem& problem, Device device);
Support supports(const MergeStateProblem& problem, Device device);
Support supports(const PagedGatherProblem& problem, Device device);
Support supports(const WriteKvProblem& problem, Device device);
Support supports(const IndexerProblem& problem, Device device);

/// Throws `unsupported` with the reason that `supports` gives.
SparseAttentionPlan make_plan(const SparseAttentionProblem& problem, Device device, const PlanOptions& options);
MergeStatePlan make_plan(const MergeStateProblem& problem, Device device, const PlanOptions& options);
PagedGatherPlan make_plan(const PagedGatherProblem& problem, Device device, const PlanOptions& options);
WriteKvPlan make_plan(const WriteKvProblem& problem, Device device, const PlanOptions& options);
IndexerPlan make_plan(const IndexerProblem& problem, Device device, const PlanOptions& options);

/// Arguments and workspace have been checked against the plan.
void run(const SparseAttentionPlan& plan, const SparseAttentionArgs& args, const Workspace& workspace, Stream stream);
void run(const MergeStatePlan& plan, const MergeStateArgs& args, const Workspace& workspace, Stream stream);
void run(const PagedGatherPlan& plan, const PagedGatherArgs& args, const Workspace& workspace, Stream stream);
void run(const WriteKvPlan& plan, const WriteKvArgs& args, const Workspace& workspace, Stream stream);
void run(const IndexerPlan& plan, const IndexerArgs& args, const Workspace& workspace, Stream stream);

}  // namespace tokamak::mla::cuda
