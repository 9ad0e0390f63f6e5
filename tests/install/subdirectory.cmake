# Builds the library as a part of another project (without optimisation, to be quick) and runs the example there.
include(${CMAKE_CURRENT_LIST_DIR}/run_step.cmake)

run_step(${CMAKE_COMMAND} -S ${CMAKE_CURRENT_LIST_DIR}/subdirectory -B ${FOLDER} -G ${GENERATOR}
  -DCMAKE_CXX_COMPILER=${COMPILER} -DTOKAMAK_SOURCE=${SOURCE} -DTOKAMAK_CUDA=OFF)
run_step(${CMAKE_COMMAND} --build ${FOLDER} -j 2)
file(GLOB_RECURSE programs ${FOLDER}/moe_layer)
run_step(${programs})
message(STATUS "${output}")
