# Installs the build into a folder, moves the folder, and builds and runs the example against it with nothing but
# find_package(tokamak).
include(${CMAKE_CURRENT_LIST_DIR}/run_step.cmake)

file(REMOVE_RECURSE ${FOLDER})
run_step(${CMAKE_COMMAND} --install ${BUILD} --prefix ${FOLDER}/first)
file(RENAME ${FOLDER}/first ${FOLDER}/moved)

# Nothing of the build machine or of the private dependencies is in the package.
file(GLOB_RECURSE package ${FOLDER}/moved/*.cmake)
if(NOT package)
  message(FATAL_ERROR "no package files were installed")
endif()
foreach(file IN LISTS package)
  file(READ ${file} text)
  foreach(word IN ITEMS ${SOURCE} ${BUILD} ${FOLDER} fmt nlohmann OpenMP Threads cudart find_dependency)
    string(FIND "${text}" "${word}" position)
    if(NOT position EQUAL -1)
      message(FATAL_ERROR "${file} mentions ${word}")
    endif()
  endforeach()
endforeach()
file(GLOB_RECURSE libraries ${FOLDER}/moved/libtokamak.so)
file(READ_ELF ${libraries} RPATH rpath RUNPATH runpath CAPTURE_ERROR error)
if(error OR rpath OR runpath)
  message(FATAL_ERROR "${libraries}: '${error}', expected no path in it, got '${rpath}' '${runpath}'")
endif()

set(hidden "")
foreach(dependency IN ITEMS fmt nlohmann_json OpenMP Threads CUDAToolkit GTest CLI11)
  list(APPEND hidden -DCMAKE_DISABLE_FIND_PACKAGE_${dependency}=ON)
endforeach()
run_step(${CMAKE_COMMAND} -S ${SOURCE}/examples -B ${FOLDER}/build -G ${GENERATOR} -DCMAKE_CXX_COMPILER=${COMPILER}
  -DCMAKE_PREFIX_PATH=${FOLDER}/moved ${hidden})
run_step(${CMAKE_COMMAND} --build ${FOLDER}/build)
run_step(${FOLDER}/build/moe_layer)
message(STATUS "${output}")

if(EXISTS ${FOLDER}/moved/bin/tokamak)
  run_step(${FOLDER}/moved/bin/tokamak --version)
  message(STATUS "${output}")
endif()
