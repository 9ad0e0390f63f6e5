# Builds the example against Tokamak in one of two ways and runs it on a checkpoint.
function(step)
  execute_process(COMMAND ${ARGV} RESULT_VARIABLE failed)
  if(failed)
    message(FATAL_ERROR "failed: ${ARGV}")
  endif()
endfunction()

file(REMOVE_RECURSE ${WORK})
set(common -G ${GENERATOR} -DCMAKE_CXX_COMPILER=${COMPILER} -DCMAKE_BUILD_TYPE=Release)
if(WAY STREQUAL "find_package")
  step(${CMAKE_COMMAND} --install ${BUILD} --prefix ${WORK}/staging)
  file(RENAME ${WORK}/staging ${WORK}/prefix)  # a package may be moved after its installation
  step(${CMAKE_COMMAND} -S ${SOURCE}/examples -B ${WORK}/build ${common} -DCMAKE_PREFIX_PATH=${WORK}/prefix)
  step(${CMAKE_COMMAND} --build ${WORK}/build)
  step(${WORK}/build/moe_layer ${CHECKPOINT} 0)
else()
  file(WRITE ${WORK}/source/CMakeLists.txt "cmake_minimum_required(VERSION 3.25)\nproject(consumer LANGUAGES CXX)\n"
    "set(TOKAMAK_CUDA OFF)\nadd_subdirectory(${SOURCE} tokamak)\nadd_subdirectory(${SOURCE}/examples examples)\n")
  step(${CMAKE_COMMAND} -S ${WORK}/source -B ${WORK}/build ${common})
  # The example compiles against the subproject; building the whole library once more would show nothing new.
  step(${CMAKE_COMMAND} --build ${WORK}/build --target examples/CMakeFiles/moe_layer.dir/moe_layer.cpp.o)
endif()
